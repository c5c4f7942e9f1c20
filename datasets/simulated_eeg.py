"""Turn neural activity into the EEG of one run: oscillations, bursts and evoked potentials through a spherical head.

Takes a subject's traits and the activity of one run; gives 37 rows at 1000 Hz as in EEG_rereferenced.mat.  Later
realism (the pulse artefact, blinks, gradient residue) belongs beside ``_background``: another term of ``simulate_eeg``.
"""

from functools import lru_cache

import mne
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from datasets.oddball import CHANNELS, MARKER_CODES, RATE_HZ, RESPONSE_MARKER, START_MARKER
from datasets.recording import Events
from datasets.simulated_sources import SOURCES, Activity, Floats, SignalLevel, SubjectTraits

Floats32 = NDArray[np.float32]

BANDS_HZ = {"theta": (4.0, 7.0), "beta": (14.0, 24.0), "gamma": (30.0, 44.0)}
ALPHA_HALF_WIDTH_HZ = 1.5
EVOKED_UV = 6.0
LINE_UV, LINE_HZ, SENSOR_UV = 0.8, 60.0, 1.5
MARKER_SAMPLES = 20
_MASTOIDS = ("M1", "M2")
_MONTAGE = "colin27_1005"
"""The electrode positions that mne called standard_1005 before its version 1.13."""
_NUM_BACKGROUND_SOURCES = 120
_BURSTS_PER_S = 0.6
_SLOWEST_HZ = 0.5


def simulate_eeg(
    activity: Activity, task: str, traits: SubjectTraits, level: SignalLevel, num_samples: int, rng: np.random.Generator
) -> Floats32:
    """Return the 37 rows (channels in uV, ECG, stimulus markers, responses) of one run, float32 (37, samples)."""
    gains, background = lead_fields(tuple(traits.electrode_shift_mm.tolist()), traits.orientation.tobytes())
    sources = _oscillations(activity, traits, level, num_samples, rng)
    sources += _evoked_potentials(activity, num_samples)
    eeg = gains.astype(np.float32) @ sources
    eeg += level.background_uv * _background(background, num_samples, rng)
    eeg += _sensor_noise(num_samples, rng)
    rows = np.zeros((len(CHANNELS) + 3, num_samples), dtype=np.float32)
    rows[: len(CHANNELS)] = traits.eeg_scale * eeg
    rows[len(CHANNELS)] = _ecg(num_samples, rng)
    rows[len(CHANNELS) + 1] = stimulus_markers(activity.events, task, num_samples)
    rows[len(CHANNELS) + 2] = response_markers(activity.events, num_samples)
    return rows


@lru_cache(maxsize=4)
def lead_fields(electrode_shift_mm: tuple[float, ...], orientation: bytes) -> tuple[Floats, Floats]:
    """Return what the electrodes see of the sources, (34, sources), and a mixing of background noise, (34, 34).

    A four-shell sphere (mne) around MNI's brain, reference average mastoids; each source's largest electrode is 1
    before its depth is put back as a mild factor, so that the thalamus is faint but not absent.
    """
    positions_mm = np.array([source.position_mm for source in SOURCES])
    orientations = np.frombuffer(orientation).reshape(-1, 3)
    fields = _forward(positions_mm, orientations, electrode_shift_mm)
    largest = np.abs(fields).max(axis=0)
    fields *= np.sqrt(largest / np.median(largest)) / largest
    noise_rng = np.random.default_rng(20)
    directions = noise_rng.normal(size=(_NUM_BACKGROUND_SOURCES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = _forward(np.array([0, -18, 10]) + 62 * directions, directions, electrode_shift_mm)
    covariance = noise @ noise.T
    covariance /= np.trace(covariance) / len(covariance)
    mixing: Floats = np.linalg.cholesky(covariance + 1e-3 * np.eye(len(covariance))).astype(np.float64)
    return fields, mixing


def _forward(positions_mm: Floats, orientations: Floats, electrode_shift_mm: tuple[float, ...]) -> Floats:
    """Return the potential at the 34 channels, average-mastoid reference, of unit dipoles (in MNI mm)."""
    names = [*CHANNELS, *_MASTOIDS]
    info = mne.create_info(names, RATE_HZ, "eeg", verbose="error")
    montage = mne.channels.make_standard_montage(_MONTAGE).get_positions()["ch_pos"]
    with info._unlock():
        for channel, name in zip(info["chs"], names, strict=True):
            channel["loc"][:3] = montage[name] + np.array(electrode_shift_mm) / 1000
            channel["loc"][3:6] = 0
            channel["coord_frame"] = mne.io.constants.FIFF.FIFFV_COORD_HEAD
    sphere = mne.make_sphere_model((0.0, -0.018, 0.01), 0.095, verbose="error")
    places = {"rr": positions_mm / 1000, "nn": orientations}
    space = mne.setup_volume_source_space(pos=places, sphere_units="m", verbose="error")
    forward = mne.make_forward_solution(info, None, space, sphere, meg=False, mindist=0, verbose="error")
    free = forward["sol"]["data"].reshape(len(names), -1, 3)
    fields = np.einsum("csd,sd->cs", free, orientations)
    referenced: Floats = fields[:-2] - fields[-2:].mean(axis=0)
    return referenced


def _oscillations(
    activity: Activity, traits: SubjectTraits, level: SignalLevel, num_samples: int, rng: np.random.Generator
) -> Floats32:
    """Return (sources, samples) in uV: half of the coupling sets a rhythm's amplitude, half its rate of bursts."""
    sample_s = np.arange(num_samples) / RATE_HZ
    rows = np.empty((len(SOURCES), num_samples), dtype=np.float32)
    for index, source in enumerate(SOURCES):
        band = _band(source.band, traits.alpha_hz)
        amplitude = np.exp(level.amplitude_depth * source.coupling * activity.amplitude[index])
        ongoing = np.interp(sample_s, activity.time_s, amplitude).astype(np.float32)
        rows[index] = ongoing * _narrow_noise(band, num_samples, rng)
        bursts = _burst_envelope(level.burst_depth * source.coupling * activity.burst[index], activity.time_s, rng)
        envelope = np.interp(sample_s, activity.time_s, bursts).astype(np.float32)
        rows[index] += envelope * _narrow_noise(band, num_samples, rng)
        rows[index] *= level.oscillation_uv * _BAND_SIZE[source.band]
    return rows


_BAND_SIZE = {"theta": 1.0, "alpha": 1.2, "beta": 0.6, "gamma": 0.35}


def _band(name: str, alpha_hz: float) -> tuple[float, float]:
    if name == "alpha":
        return alpha_hz - ALPHA_HALF_WIDTH_HZ, alpha_hz + ALPHA_HALF_WIDTH_HZ
    return BANDS_HZ[name]


def _narrow_noise(band: tuple[float, float], num_samples: int, rng: np.random.Generator) -> Floats32:
    """Return noise of unit variance between two frequencies."""
    frequencies = fft.rfftfreq(num_samples, 1 / RATE_HZ)
    first, last = np.searchsorted(frequencies, band)
    spectrum = np.zeros(len(frequencies), dtype=np.complex64)
    spectrum[first:last] = rng.standard_normal((2 * (last - first)), dtype=np.float32).view(np.complex64)
    noise: Floats32 = fft.irfft(spectrum, num_samples)
    return noise / noise.std()


def _burst_envelope(log_rate: Floats, time_s: Floats, rng: np.random.Generator) -> Floats:
    """Return the summed envelopes of bursts of about 0.3 s that come at random, at a rate that activity moves."""
    step_s = time_s[1] - time_s[0]
    counts = rng.poisson(_BURSTS_PER_S * step_s * np.exp(log_rate))
    shape = np.exp(-0.5 * (np.arange(-5, 6) * step_s / 0.12) ** 2)
    return 2 * np.convolve(counts, shape, mode="same")


def _evoked_potentials(activity: Activity, num_samples: int) -> Floats32:
    """Return (sources, samples) in uV: each stimulus evokes a wave at the source's latency, its size the response."""
    waves = np.zeros((len(SOURCES), num_samples), dtype=np.float32)
    onsets = np.round(activity.events.onset_s * RATE_HZ).astype(int)
    for index, source in enumerate(SOURCES):
        wave = _wave(source.latency_s)
        for onset, size in zip(onsets, activity.response[index], strict=True):
            stop = min(num_samples, onset + len(wave))
            waves[index, onset:stop] += EVOKED_UV * size * wave[: stop - onset]
    return waves


def _wave(latency_s: float) -> Floats:
    """Return one deflection at 1000 Hz: early ones short and negative (N1), late ones broad and positive (P3)."""
    width_s, sign = (0.025, -1.0) if latency_s < 0.25 else (0.08, 1.5)
    time_s = np.arange(0, latency_s + 4 * width_s, 1 / RATE_HZ)
    return sign * np.exp(-0.5 * ((time_s - latency_s) / width_s) ** 2)


def _background(mixing: Floats, num_samples: int, rng: np.random.Generator) -> Floats32:
    """Return 1/f noise of unit mean variance, (34, samples), correlated over the scalp."""
    frequencies = fft.rfftfreq(num_samples, 1 / RATE_HZ)
    size = 1 / np.maximum(frequencies, _SLOWEST_HZ) * (frequencies > 0.1) * (frequencies < 120)
    size /= np.sqrt((size**2).sum()) * 2 / num_samples
    spectrum = rng.standard_normal((len(mixing), 2 * len(frequencies)), dtype=np.float32).view(np.complex64)
    spectrum *= size.astype(np.float32)
    noise: Floats32 = mixing.astype(np.float32) @ fft.irfft(spectrum, num_samples, axis=1)
    return noise


def _sensor_noise(num_samples: int, rng: np.random.Generator) -> Floats32:
    noise = SENSOR_UV * rng.standard_normal((len(CHANNELS), num_samples), dtype=np.float32)
    line = np.sin(2 * np.pi * LINE_HZ * np.arange(num_samples) / RATE_HZ + rng.uniform(0, 2 * np.pi))
    strength = LINE_UV * rng.uniform(0.5, 1.5, (len(CHANNELS), 1))
    noise += (strength * line).astype(np.float32)
    return noise


def _ecg(num_samples: int, rng: np.random.Generator) -> Floats32:
    """Return an electrocardiogram in uV: one sharp R wave a beat, 0.7-1.1 s apart."""
    beats_s = np.cumsum(np.clip(rng.normal(0.9, 0.05, int(num_samples / RATE_HZ / 0.7) + 2), 0.7, 1.1))
    pulses = np.zeros(num_samples)
    pulses[[int(beat * RATE_HZ) for beat in beats_s if beat * RATE_HZ < num_samples]] = 1
    wave = np.exp(-0.5 * (np.arange(-40, 41) / 10) ** 2)
    ecg = 80 * np.convolve(pulses, wave, mode="same") + 5 * rng.standard_normal(num_samples)
    return ecg.astype(np.float32)


def stimulus_markers(events: Events, task: str, num_samples: int) -> Floats32:
    """Return the row of stimulus markers: 25 when the task starts, then one code a stimulus, 0 between."""
    markers = np.zeros(num_samples, dtype=np.float32)
    markers[10 : 10 + MARKER_SAMPLES] = START_MARKER
    for onset, kind in zip(events.onset_s, events.kind, strict=True):
        sample = round(onset * RATE_HZ)
        markers[sample : sample + MARKER_SAMPLES] = MARKER_CODES[task][kind]
    return markers


def response_markers(events: Events, num_samples: int) -> Floats32:
    """Return the row of responses: 100 while the button is down, 0 otherwise."""
    markers = np.zeros(num_samples, dtype=np.float32)
    answered = np.isfinite(events.response_time_s)
    for pressed_s in (events.onset_s + events.response_time_s)[answered]:
        sample = round(pressed_s * RATE_HZ)
        markers[sample : sample + MARKER_SAMPLES] = RESPONSE_MARKER
    return markers
