"""Slice timing: orders become seconds, and a slice's series is shifted to the reference time."""

import numpy as np
import pytest
from scipy import ndimage

from datasets.errors import BadInput
from datasets.slice_timing import SLICE_ORDERS, correct_slice_times, named_slice_times, parse_slice_order

TR_S = 2.0


def haemodynamic(times_s: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a course as slow as a haemodynamic response: events every few seconds through one of 6 s, at any time."""
    random = np.random.default_rng(seed)
    onsets = np.cumsum(random.uniform(4, 16, 60)) - 40
    delay = np.maximum(times_s[:, np.newaxis] - onsets, 0)
    return np.asarray((delay**5 * np.exp(-delay) / 120).sum(axis=1))


def sliced(slice_times_s: np.ndarray, num_volumes: int = 120) -> np.ndarray:
    """Return volumes (2, 3, slices, volumes) whose slices take the course at their own times."""
    starts = TR_S * np.arange(num_volumes)
    slices = np.stack([1000 + 20 * haemodynamic(starts + slice_s) for slice_s in slice_times_s])
    return np.broadcast_to(slices, (2, 3, *slices.shape)).astype(np.float32)


@pytest.mark.parametrize("name", ["ascending", "descending", "interleaved"])
def test_all_slices_come_to_the_middle_of_the_volume(name: str) -> None:
    times_s = named_slice_times(name, 8, TR_S)
    volumes = sliced(times_s)
    corrected = correct_slice_times(volumes, times_s, TR_S, reference_s=1.0)
    wanted = 1000 + 20 * haemodynamic(TR_S * np.arange(120) + 1.0)
    assert corrected.dtype == np.float32 and corrected.shape == volumes.shape
    before, after = np.abs(volumes - wanted)[..., 3:-3].mean(), np.abs(corrected - wanted)[..., 3:-3].mean()
    assert after < 0.15 * before
    assert np.abs(corrected - wanted).max() < np.abs(volumes - wanted).max()


def test_the_shift_agrees_with_fouriers() -> None:
    series = haemodynamic(TR_S * np.arange(128)) * np.hanning(128)
    volumes = np.broadcast_to(series, (1, 1, 1, 128)).astype(np.float32)
    shifted = correct_slice_times(volumes, np.array([0.3]), TR_S, reference_s=1.0)[0, 0, 0]
    spectrum = np.fft.rfft(series) * np.exp(2j * np.pi * np.fft.rfftfreq(128) * 0.35)
    assert shifted[5:-5] == pytest.approx(np.fft.irfft(spectrum, 128)[5:-5], abs=0.03 * series.max())


def test_a_slice_taken_at_the_reference_time_keeps_its_values() -> None:
    volumes = np.random.default_rng(0).normal(1000, 50, (2, 2, 1, 30)).astype(np.float32)
    corrected = correct_slice_times(volumes, np.array([1.0]), TR_S, reference_s=1.0)
    assert corrected == pytest.approx(volumes, rel=1e-5)


def test_a_constant_stays_constant_and_two_volumes_are_enough() -> None:
    volumes = np.full((2, 2, 4, 2), 1234.5, dtype=np.float32)
    corrected = correct_slice_times(volumes, named_slice_times("ascending", 4, TR_S), TR_S, reference_s=1.0)
    assert corrected == pytest.approx(1234.5, rel=1e-5)


def test_a_voxel_that_is_not_finite_spoils_no_other() -> None:
    volumes = ndimage.gaussian_filter(np.random.default_rng(0).normal(1000, 50, (3, 3, 2, 20)), 1).astype(np.float32)
    broken = volumes.copy()
    broken[1, 1, 1] = np.nan
    times_s = np.array([0.0, 1.0])
    corrected = correct_slice_times(broken, times_s, TR_S, reference_s=1.0)
    whole = correct_slice_times(volumes, times_s, TR_S, reference_s=1.0)
    assert np.isnan(corrected[1, 1, 1]).all()
    assert np.isnan(corrected).sum() == 20
    assert corrected[0] == pytest.approx(whole[0])


def test_fsls_order_tells_on_line_i_which_slice_is_the_ith_taken() -> None:
    assert parse_slice_order("3\n1\n4\n2\n", 4, TR_S).tolist() == [0.5, 1.5, 0.0, 1.0]


def test_named_orders_are_spread_evenly_over_the_repetition_time() -> None:
    assert named_slice_times("ascending", 4, TR_S).tolist() == [0.0, 0.5, 1.0, 1.5]
    assert named_slice_times("descending", 4, TR_S).tolist() == [1.5, 1.0, 0.5, 0.0]
    assert named_slice_times("interleaved", 5, 2.5).tolist() == [0.0, 1.5, 0.5, 2.0, 1.0]
    assert named_slice_times("none", 4, TR_S) is None
    assert len(SLICE_ORDERS) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n3\n", "3 lines, but the image has 4 slices"),
        ("", "0 lines, but the image has 4 slices"),
        ("1\n2\n3\n5\n", "each slice from 1 to 4 once"),
        ("0\n1\n2\n3\n", "each slice from 1 to 4 once"),
        ("1\n2\n2\n3\n", "each slice from 1 to 4 once"),
        ("0.5\n1\n2\n3\n", "one whole number on each line"),
        ("slice\n1\n", "one whole number on each line"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_slice_order(text, 4, TR_S)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="one of ascending, descending, interleaved, none, but got 'odd'"):
        named_slice_times("odd", 4, TR_S)


@pytest.mark.parametrize(
    ("times_s", "message"),
    [
        (np.zeros(3), "2 slices, but 3 slice times"),
        (np.array([0.0, 500.0]), "give seconds"),
        (np.array([-0.1, 0.5]), "give seconds"),
        (np.array([np.nan, 0.5]), "give seconds"),
    ],
)
def test_slice_times_that_do_not_fit_the_volumes_are_refused(times_s: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        correct_slice_times(np.ones((2, 2, 2, 5), dtype=np.float32), times_s, TR_S, reference_s=1.0)
