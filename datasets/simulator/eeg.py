"""Turn neural activity into the EEG of one run: oscillations, bursts and evoked potentials through a spherical head.

Takes a subject's traits and one run's activity, body and head motion; gives signals in uV.  A source's activity shows
in four ways: the size of its ongoing rhythm, the rate of that rhythm's bursts, how strongly a fast rhythm's size
follows a slow one's phase (its mean size stays the same), and its answers to stimuli.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from datasets.oddball import CHANNELS, MARKER_CODES, RATE_HZ, RESPONSE_MARKER, START_MARKER
from datasets.recording import Events
from datasets.simulator.artefacts import draw_artefacts
from datasets.simulator.electrodes import lead_fields
from datasets.simulator.levels import SignalLevel
from datasets.simulator.motion import Motion
from datasets.simulator.physiology import Physiology
from datasets.simulator.same_bytes import product
from datasets.simulator.sources import SOURCES, Activity, Floats, SubjectTraits
from datasets.simulator.waves import Floats32, impulse_response, narrow_noise

BANDS_HZ = {"theta": (4.0, 7.0), "beta": (14.0, 24.0), "gamma": (30.0, 44.0)}
ALPHA_HALF_WIDTH_HZ = 1.5
SLOW_HZ, FAST_HZ = (2.0, 4.0), (65.0, 95.0)
"""The two rhythms of phase-amplitude coupling."""
SLOW_SIZE, FAST_SIZE = 1.0, 0.5
EVOKED_UV = 6.0
SENSOR_UV = 1.5
MARKER_SAMPLES = 20
_BURSTS_PER_S = 0.6
_SLOWEST_HZ = 0.5
_BAND_SIZE = {"theta": 1.0, "alpha": 1.2, "beta": 0.6, "gamma": 0.35}


@dataclass(frozen=True, kw_only=True)
class SimulatedEeg:
    """One run's signals in uV, float32: ``eeg`` (34, samples), ``ecg`` (samples,), ``eog`` (2, samples)."""

    eeg: Floats32
    ecg: Floats32
    eog: Floats32


def simulate_eeg(
    activity: Activity,
    traits: SubjectTraits,
    level: SignalLevel,
    body: Physiology,
    motion: Motion,
    num_samples: int,
    rng: np.random.Generator,
    *,
    rate_hz: float = RATE_HZ,
) -> SimulatedEeg:
    """Return the EEG, ECG and EOG of one run."""
    gains, background = lead_fields(tuple(traits.electrode_shift_mm.tolist()), traits.orientation.tobytes())
    sources = _oscillations(activity, traits, level, num_samples, rate_hz, rng)
    sources += _evoked_potentials(activity, num_samples, rate_hz)
    eeg = _background(level.background_uv * background, num_samples, rate_hz, rng)
    eeg += product(gains.astype(np.float32), sources)
    eeg *= np.float32(traits.eeg_scale)
    artefacts = draw_artefacts(traits, level.nuisance, body, motion, num_samples, rate_hz, rng)
    eeg += product(artefacts.patterns, artefacts.rows)
    eeg += SENSOR_UV * rng.standard_normal(eeg.shape, dtype=np.float32)
    return SimulatedEeg(eeg=eeg, ecg=artefacts.ecg, eog=artefacts.eog)


def _oscillations(
    activity: Activity,
    traits: SubjectTraits,
    level: SignalLevel,
    num_samples: int,
    rate_hz: float,
    rng: np.random.Generator,
) -> Floats32:
    """Return (sources, samples) in uV: each source's rhythm, its bursts, and its phase-amplitude coupling."""
    sample_s = np.arange(num_samples) / rate_hz
    rows = np.empty((len(SOURCES), num_samples), dtype=np.float32)
    for index, source in enumerate(SOURCES):
        band = _band(source.band, traits.alpha_hz)
        amplitude = np.exp(level.amplitude_depth * source.coupling * activity.amplitude[index])
        ongoing = np.interp(sample_s, activity.time_s, amplitude).astype(np.float32)
        rows[index] = ongoing * narrow_noise(band, num_samples, rate_hz, rng)
        bursts = _burst_envelope(level.burst_depth * source.coupling * activity.burst[index], activity.time_s, rng)
        envelope = np.interp(sample_s, activity.time_s, bursts).astype(np.float32)
        rows[index] += envelope * narrow_noise(band, num_samples, rate_hz, rng)
        rows[index] *= _BAND_SIZE[source.band]
        strength = 1 / (1 + np.exp(-level.phase_depth * activity.phase[index]))
        coupled = np.interp(sample_s, activity.time_s, strength).astype(np.float32)
        rows[index] += _coupled_rhythms(coupled, num_samples, rate_hz, rng)
        rows[index] *= level.oscillation_uv
    return rows


def _coupled_rhythms(strength: Floats32, num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    """Return a slow rhythm and a fast one whose size follows the slow one, the more so the greater the strength."""
    slow = narrow_noise(SLOW_HZ, num_samples, rate_hz, rng)
    fast = narrow_noise(FAST_HZ, num_samples, rate_hz, rng)
    size = (1 + strength * slow) / np.sqrt(1 + strength**2)
    result: Floats32 = (SLOW_SIZE * slow + FAST_SIZE * size * fast).astype(np.float32, copy=False)
    return result


def _band(name: str, alpha_hz: float) -> tuple[float, float]:
    if name == "alpha":
        return alpha_hz - ALPHA_HALF_WIDTH_HZ, alpha_hz + ALPHA_HALF_WIDTH_HZ
    return BANDS_HZ[name]


def _burst_envelope(log_rate: Floats, time_s: Floats, rng: np.random.Generator) -> Floats:
    """Return the summed envelopes of bursts of about 0.3 s that come at random, at a rate that activity moves."""
    step_s = time_s[1] - time_s[0]
    counts = rng.poisson(_BURSTS_PER_S * step_s * np.exp(log_rate))
    shape = np.exp(-0.5 * (np.arange(-5, 6) * step_s / 0.12) ** 2)
    return 2 * np.convolve(counts, shape, mode="same")


def _evoked_potentials(activity: Activity, num_samples: int, rate_hz: float) -> Floats32:
    """Return (sources, samples) in uV: each stimulus evokes a wave at the source's latency, its size the response."""
    onsets = np.round(activity.events.onset_s * rate_hz).astype(np.int64)
    rows = [
        EVOKED_UV * impulse_response(onsets, sizes, _wave(source.latency_s, rate_hz), num_samples)
        for source, sizes in zip(SOURCES, activity.response, strict=True)
    ]
    return np.array(rows, dtype=np.float32)


def _wave(latency_s: float, rate_hz: float) -> Floats:
    """Return one deflection: early ones short and negative (N1), late ones broad and positive (P3)."""
    width_s, sign = (0.025, -1.0) if latency_s < 0.25 else (0.08, 1.5)
    time_s = np.arange(0, latency_s + 4 * width_s, 1 / rate_hz)
    return sign * np.exp(-0.5 * ((time_s - latency_s) / width_s) ** 2)


def _background(mixing: Floats, num_samples: int, rate_hz: float, rng: np.random.Generator) -> Floats32:
    """Return 1/f noise of unit mean variance times the mixing, (34, samples), correlated over the scalp."""
    frequencies = fft.rfftfreq(num_samples, 1 / rate_hz)
    size = 1 / np.maximum(frequencies, _SLOWEST_HZ) * (frequencies > 0.1) * (frequencies < 120)
    size /= np.sqrt((size**2).sum()) * 2 / num_samples
    spectrum = rng.standard_normal((len(mixing), 2 * len(frequencies)), dtype=np.float32).view(np.complex64)
    spectrum *= size.astype(np.float32)
    return product(mixing.astype(np.float32), fft.irfft(spectrum, num_samples, axis=1))


def marker_samples(events: Events, rate_hz: float = RATE_HZ) -> list[int]:
    """Return the sample at which each stimulus comes."""
    return [round(onset * rate_hz) for onset in events.onset_s]


def stimulus_markers(events: Events, task: str, num_samples: int) -> Floats32:
    """Return the row of stimulus markers: 25 when the task starts, then one code a stimulus, 0 between."""
    markers = np.zeros(num_samples, dtype=np.float32)
    markers[10 : 10 + MARKER_SAMPLES] = START_MARKER
    for sample, kind in zip(marker_samples(events), events.kind, strict=True):
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


def bipolar_rows(eeg: Floats32) -> Floats32:
    """Return the 43 rows of pairs of EEG_noGA, each channel less the next, and every third less the next but one."""
    return np.array([eeg[one] - eeg[other] for one, other in BIPOLAR_PAIRS], dtype=np.float32)


BIPOLAR_PAIRS = (
    *((channel, channel + 1) for channel in range(len(CHANNELS) - 1)),
    *((channel, channel + 2) for channel in range(0, 30, 3)),
)
