"""A small EEG whose parts are known: pink noise, alpha, heart beats and what they do to it; for the tests of EEG."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float64]

NAMES = (
    "Fp1",
    "Fp2",
    "F7",
    "F3",
    "Fz",
    "F4",
    "F8",
    "T7",
    "C3",
    "Cz",
    "C4",
    "T8",
    "P7",
    "P3",
    "Pz",
    "P4",
    "P8",
    "O1",
    "O2",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SmallEeg:
    """Parts in uV, (channels, samples), at ``rate_hz``; beats in seconds."""

    rate_hz: float
    background: Array
    alpha: Array
    pulse_artefact: Array
    ecg: Array
    beats_s: Array

    @property
    def total(self) -> NDArray[np.float32]:
        """All parts together."""
        return (self.background + self.alpha + self.pulse_artefact).astype(np.float32)


def small_eeg(
    seed: int = 0, seconds: float = 120.0, rate_hz: float = 250.0, names: tuple[str, ...] = NAMES
) -> SmallEeg:
    """Return EEG of SD about 15 uV that neighbours share, alpha of 10 uV, and a pulse artefact of 40 uV at its peak."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * rate_hz)
    mixing = _shared_by_neighbours(len(names), rng)
    background = 15 * mixing @ np.stack([pink_noise(num_samples, rate_hz, rng) for _ in range(mixing.shape[1])])
    background += rng.normal(0, 1.5, background.shape)
    beats_s = heart_beats(seconds, rng)
    return SmallEeg(
        rate_hz=rate_hz,
        background=background,
        alpha=np.outer(rng.uniform(0.3, 1, len(names)), alpha_rhythm(num_samples, rate_hz, rng)),
        pulse_artefact=pulse_artefact(beats_s, num_samples, rate_hz, len(names), rng),
        ecg=ecg_with(beats_s, num_samples, rate_hz, rng),
        beats_s=beats_s,
    )


def heart_beats(seconds: float, rng: np.random.Generator, rate_bpm: float = 68.0) -> Array:
    """Return R peaks: intervals that breathing and a slow wave move by some 5 % each, and 1 % at random."""
    beats, time_s = [], float(rng.uniform(0.1, 0.8))
    while time_s < seconds:
        beats.append(time_s)
        sway = 0.05 * np.sin(2 * np.pi * 0.25 * time_s) + 0.05 * np.sin(2 * np.pi * 0.08 * time_s)
        time_s += 60 / rate_bpm * (1 + sway + 0.01 * rng.standard_normal())
    return np.array(beats)


def ecg_with(
    beats_s: Array,
    num_samples: int,
    rate_hz: float,
    rng: np.random.Generator,
    *,
    t_wave: float = 1.0,
    noise_uv: float = 40.0,
) -> Array:
    """Return an ECG in uV: R of 500, a T wave ``t_wave`` times as high as the R (a scanner's field lifts it), noise."""
    time_s = np.arange(num_samples) / rate_hz
    ecg = noise_uv * pink_noise(num_samples, rate_hz, rng) + 60 * np.sin(2 * np.pi * 16 * time_s)
    waves = ((0.0, 0.010, 500.0), (-0.03, 0.010, -80.0), (0.03, 0.012, -150.0), (-0.16, 0.03, 60.0))
    for delay, width, size in (*waves, (0.28, 0.05, 500.0 * t_wave)):
        for beat in beats_s:
            add_wave(ecg, beat, rate_hz, lambda t, d=delay, w=width, u=size: u * np.exp(-0.5 * ((t - d) / w) ** 2))
    return ecg


def pulse_artefact(
    beats_s: Array, num_samples: int, rate_hz: float, num_channels: int, rng: np.random.Generator
) -> Array:
    """Return what beats do to the EEG, 40 uV at its peak: a wave from 0.1 to 0.6 s that sways slowly."""
    artefact = np.zeros((num_channels, num_samples))
    for channel, (gain, shift) in enumerate(
        zip(rng.uniform(-40, 40, num_channels), rng.uniform(-0.03, 0.03, num_channels), strict=True)
    ):
        for index, beat in enumerate(beats_s):
            sway = 1 + 0.15 * np.sin(2 * np.pi * index / 60) + 0.1 * rng.standard_normal()
            stretch = 1 + 0.08 * np.sin(2 * np.pi * index / 45)

            def wave(t, sway=sway, stretch=stretch, gain=gain, shift=shift):
                t = (t - shift) / stretch
                first = np.exp(-0.5 * ((t - 0.2) / 0.045) ** 2) - 0.7 * np.exp(-0.5 * ((t - 0.33) / 0.06) ** 2)
                return gain * sway * (first + 0.3 * np.exp(-0.5 * ((t - 0.48) / 0.05) ** 2))

            add_wave(artefact[channel], beat, rate_hz, wave)
    return artefact


def add_wave(row, time_s, rate_hz, wave, reach_s=0.9):
    """Add ``wave(t)`` to a row, t in seconds from ``time_s``."""
    start = max(0, int((time_s - reach_s) * rate_hz))
    stop = min(len(row), int((time_s + reach_s) * rate_hz) + 1)
    row[start:stop] += wave(np.arange(start, stop) / rate_hz - time_s)


def alpha_rhythm(num_samples: int, rate_hz: float, rng: np.random.Generator, *, rms_uv: float = 10.0) -> Array:
    """Return 9 to 11 Hz noise that knows no beats."""
    return rms_uv * _noise(num_samples, rate_hz, rng, lambda f: ((f > 9) & (f < 11)).astype(float))


def pink_noise(num_samples: int, rate_hz: float, rng: np.random.Generator) -> Array:
    """Return noise of power 1 / f above 0.5 Hz, SD 1."""
    return _noise(num_samples, rate_hz, rng, lambda f: np.where(f > 0.5, 1 / np.sqrt(np.maximum(f, 0.5)), 0))


def _noise(num_samples, rate_hz, rng, amplitude) -> Array:
    frequencies = fft.rfftfreq(num_samples, 1 / rate_hz)
    spectrum = amplitude(frequencies) * (rng.normal(size=len(frequencies)) + 1j * rng.normal(size=len(frequencies)))
    noise = fft.irfft(spectrum, num_samples)
    return noise / noise.std()


def _shared_by_neighbours(num_channels: int, rng: np.random.Generator) -> Array:
    """Return a mixing (channels, sources) of unit rows in which channels next to each other see much the same."""
    places = np.arange(num_channels)[:, None]
    mixing = np.exp(-0.5 * ((places - np.linspace(-2, num_channels + 1, 3 * num_channels)) / 2.5) ** 2)
    return mixing / np.linalg.norm(mixing, axis=1, keepdims=True)
