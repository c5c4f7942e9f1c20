"""Find the heart beats in an ECG and reduce what they do to the EEG.

Takes an ECG (samples,) or EEG (channels, samples) in uV; gives beats in seconds, or EEG of the same layout without most
of the pulse artefact (ballistocardiogram).

Legend of shapes: B beats, T samples of a beat.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt
from scipy.signal.windows import tukey

from datasets.resampling import resample

Signal = NDArray[np.float32]
Beats = NDArray[np.float64]

SLOWEST_BPM, FASTEST_BPM = 35.0, 130.0
MOST_OUTLIERS = 0.1
FEWEST_BEATS = 10
ARTEFACT_DELAY_S = 0.21
"""By how much the pulse artefact comes after the R peak (Niazy et al. 2005)."""

TEMPLATE_BEATS = 21
OBS_WAVES = 2
_RATE_HZ = 250.0
_QRS_HZ = (8.0, 30.0)
_REFRACTORY = 0.6
_OUTLYING = 0.25
_NEIGHBOURS = 11
_SAME_BEAT_S = 0.1


def find_beats(ecg: Signal, rate_hz: float) -> Beats:
    """Return the seconds of the R peaks in an ECG (samples,); none where what is found cannot be a heart's beats.

    Peaks of the energy of 8 to 30 Hz (a QRS complex; the T wave that a scanner's field lifts is slower), then thrice of
    the likeness with the median of what was found; last, beats that come too soon are dropped and gaps searched again.
    """
    if len(ecg) < FEWEST_BEATS * rate_hz or not np.isfinite(ecg).all() or np.ptp(ecg) == 0:
        return np.empty(0)
    slow = resample(ecg[np.newaxis], rate_hz, _RATE_HZ)[0] if rate_hz > _RATE_HZ else ecg
    slow_hz = min(rate_hz, _RATE_HZ)
    band = butter(2, _QRS_HZ, "bandpass", fs=slow_hz, output="sos")
    qrs = sosfiltfilt(band, slow.astype(np.float64))
    score = uniform_filter1d(qrs**2, round(0.1 * slow_hz))
    peaks = _peaks(score, slow_hz, share=0.2)
    for _ in range(3):
        if len(peaks) < FEWEST_BEATS:
            return np.empty(0)
        score = _likeness(qrs, peaks, round(0.1 * slow_hz))
        peaks = _peaks(score, slow_hz, share=0.4)
    if len(peaks) < FEWEST_BEATS or outlying_intervals(peaks).mean() > 2.5 * MOST_OUTLIERS:
        return np.empty(0)
    beats = _between_samples(score, _repaired(peaks, score)) / slow_hz
    return beats if is_plausible(beats) else np.empty(0)


def is_plausible(beats_s: Beats) -> bool:
    """Tell whether beats come at 35 to 130 a minute, at most a tenth of the intervals far from their neighbours'."""
    if len(beats_s) < FEWEST_BEATS:
        return False
    rate_bpm = 60 / np.median(np.diff(beats_s))
    return bool(SLOWEST_BPM <= rate_bpm <= FASTEST_BPM and outlying_intervals(beats_s).mean() <= MOST_OUTLIERS)


def outlying_intervals(beats: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which intervals between beats differ by more than a quarter from the median of the eleven around them."""
    intervals = np.diff(beats)
    usual = median_filter(intervals.astype(np.float64), _NEIGHBOURS, mode="nearest")
    return np.asarray(np.abs(intervals - usual) > _OUTLYING * usual)


def agreement(beats_s: Beats, others_s: Beats) -> float:
    """Return which share of the longer series of beats has a beat of the other within 100 ms."""
    longer, shorter = sorted((beats_s, others_s), key=len, reverse=True)
    if not len(shorter):
        return 0.0
    nearest = np.abs(longer[:, None] - shorter[None, :]).min(axis=1)
    return float(np.mean(nearest <= _SAME_BEAT_S))


def best_ecg(leads: Signal, rate_hz: float) -> Signal | None:
    """Return the lead (of leads, samples) whose beats are the most regular, the first where none has; None of none."""
    if not len(leads):
        return None
    beats = [find_beats(lead, rate_hz) for lead in leads]
    outlying = [outlying_intervals(each).mean() if len(each) else np.inf for each in beats]
    return leads[int(np.argmin(outlying))]


def reduce_pulse(eeg_uv: Signal, rate_hz: float, beats_s: Beats, method: str) -> Signal:
    """Return EEG (channels, samples) less an estimate of what each beat did to it, by one of PULSE_REDUCTIONS.

    A beat lasts one median interval, centred 0.21 s after its R peak; its estimate is faded at both ends.
    """
    half = round(np.median(np.diff(beats_s)) * rate_hz / 2)
    centres = _whole_windows(beats_s, rate_hz, half, eeg_uv.shape[1])
    windows = centres[:, None] + np.arange(-half, half)
    fade = tukey(2 * half, 0.2)
    overlap = np.bincount(windows.ravel(), np.tile(fade, len(centres)), minlength=eeg_uv.shape[1])
    reduced = np.empty_like(eeg_uv)
    for channel, signal in enumerate(eeg_uv):
        beats_BT = signal[windows].astype(np.float64)
        beats_BT -= beats_BT.mean(axis=1, keepdims=True)
        artefact_BT = PULSE_REDUCTIONS[method](beats_BT) * fade
        artefact = np.bincount(windows.ravel(), artefact_BT.ravel(), minlength=len(signal))
        reduced[channel] = signal - artefact / np.maximum(overlap, 1)
    return reduced


def template_artefact(beats_BT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for one channel's beats (beats, samples), the mean of the 21 around each.

    Source: Allen et al. (1998), https://doi.org/10.1006/nimg.1998.0361; here beats after count as those before.
    """
    return np.asarray(uniform_filter1d(beats_BT, min(TEMPLATE_BEATS, len(beats_BT)), axis=0, mode="nearest"))


def obs_artefact(beats_BT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for one channel's beats (beats, samples), the fit to each of an optimal basis set of two waves.

    The waves are the principal components of the means of 21 beats, not of single beats as in the source and in mne's
    apply_pca_obs: a rhythm that knows no beats does not enter them, so less of it is lost.  Where the artefact is no
    larger than the EEG, the template keeps more of the EEG below 8 Hz.

    Source: Niazy et al. (2005), https://doi.org/10.1016/j.neuroimage.2005.06.067.
    """
    means_MT = template_artefact(beats_BT)[:: TEMPLATE_BEATS // 2]
    waves_WT = np.linalg.svd(means_MT, full_matrices=False)[2][:OBS_WAVES]
    return np.asarray((beats_BT @ waves_WT.T) @ waves_WT)


PULSE_REDUCTIONS = {"template": template_artefact, "obs": obs_artefact}


def _whole_windows(beats_s: Beats, rate_hz: float, half: int, num_samples: int) -> NDArray[np.int64]:
    """Return the samples about which the pulse artefact is centred, of beats whose window lies within the signal."""
    centres = np.round((beats_s + ARTEFACT_DELAY_S) * rate_hz).astype(np.int64)
    return centres[(centres >= half) & (centres < num_samples - half)]


def _peaks(score: NDArray[np.float64], rate_hz: float, *, share: float) -> NDArray[np.int64]:
    """Return the peaks of a score above a share of the usual height of peaks in the quarter minute around them."""
    window = round(60 / SLOWEST_BPM * rate_hz)
    blocks = score[: len(score) // window * window].reshape(-1, window).max(axis=1)
    usual = np.repeat(median_filter(blocks, 9, mode="nearest"), window)
    usual = np.pad(usual, (0, len(score) - len(usual)), mode="edge")
    refractory = _REFRACTORY * _period(score, rate_hz)
    return find_peaks(score, height=np.maximum(share * usual, 1e-12), distance=refractory)[0]


def _period(score: NDArray[np.float64], rate_hz: float) -> int:
    """Return the samples after which a score is most like itself, of those that a heart may take."""
    positive = np.maximum(score, 0)
    spectrum = fft.rfft(positive - positive.mean(), fft.next_fast_len(2 * len(score)))
    likeness = fft.irfft(np.abs(spectrum) ** 2)
    shortest, longest = round(60 / FASTEST_BPM * rate_hz), round(60 / SLOWEST_BPM * rate_hz)
    return shortest + int(np.argmax(likeness[shortest : longest + 1]))


def _likeness(qrs: NDArray[np.float64], peaks: NDArray[np.int64], half: int) -> NDArray[np.float64]:
    """Return how much every part of a signal is like the median of its parts around the peaks; 1 at a usual beat."""
    inside = peaks[(peaks >= half) & (peaks < len(qrs) - half)]
    template = np.median(qrs[inside[:, None] + np.arange(-half, half + 1)], axis=0)
    return np.correlate(qrs, template, mode="same") / max(float(template @ template), 1e-12)


def _repaired(peaks: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Drop beats that come too soon after a better one and search the gaps again for weaker ones."""
    usual = float(np.median(np.diff(peaks)))
    kept = [int(peaks[0])]
    for peak in peaks[1:].tolist():
        if peak - kept[-1] >= 0.6 * usual:
            kept.append(peak)
        elif score[peak] > score[kept[-1]]:
            kept[-1] = peak
    found = list(kept)
    for before, after in zip(kept[:-1], kept[1:], strict=True):
        found += _missed(before, after, usual, score)
    return np.array(sorted(found))


def _missed(before: int, after: int, usual: float, score: NDArray[np.float64]) -> list[int]:
    """Return weaker peaks about where the beats of a gap should be."""
    missing = round((after - before) / usual) - 1
    step = (after - before) / (missing + 1)
    found = []
    for number in range(1, missing + 1):
        start, stop = round(before + (number - 0.25) * step), round(before + (number + 0.25) * step)
        best = start + int(np.argmax(score[start:stop]))
        if score[best] > 0.2 and start < best < stop - 1:
            found.append(best)
    return found


def _between_samples(score: NDArray[np.float64], peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return peaks to a fraction of a sample: the tops of parabolas through each and its two neighbours."""
    inner = np.clip(peaks, 1, len(score) - 2)
    left, top, right = score[inner - 1], score[inner], score[inner + 1]
    bend = np.minimum(left - 2 * top + right, -1e-12)
    return np.asarray(inner + np.clip(0.5 * (left - right) / bend, -0.5, 0.5), dtype=np.float64)
