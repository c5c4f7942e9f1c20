"""Signals at another rate keep what it can hold and nothing else."""

import numpy as np
import pytest

from datasets.resampling import resample


def sine(frequency_hz: float, rate_hz: float, seconds: float = 20.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate_hz)) / rate_hz).astype(np.float32)[None]


@pytest.mark.parametrize(
    ("rate_hz", "new_hz"), [(5000.0, 1000.0), (1000.0, 250.0), (512.0, 500.0), (256.0, 250.0), (1000.1, 1000.0)]
)
def test_what_both_rates_hold_stays_where_it_is(rate_hz: float, new_hz: float) -> None:
    resampled = resample(sine(20, rate_hz), rate_hz, new_hz)
    assert resampled.dtype == np.float32
    assert resampled.shape == (1, round(20 * new_hz))
    assert np.abs(resampled - sine(20, new_hz))[:, 50:-50].max() < 0.01


@pytest.mark.parametrize(("rate_hz", "new_hz", "above_hz"), [(5000.0, 1000.0, 600.0), (1000.0, 250.0, 150.0)])
def test_what_the_new_rate_cannot_hold_is_gone(rate_hz: float, new_hz: float, above_hz: float) -> None:
    folded = resample(sine(above_hz, rate_hz), rate_hz, new_hz)
    assert np.sqrt(np.mean(folded[:, 50:-50] ** 2)) < 0.003


def test_the_same_rate_changes_nothing() -> None:
    signals = sine(20, 500.0)
    assert resample(signals, 500.0, 500.0) is signals


def test_an_offset_makes_no_step_at_the_ends() -> None:
    resampled = resample(np.full((1, 10_000), 300, dtype=np.float32), 1000.0, 250.0)
    assert np.abs(resampled - 300).max() < 0.5
