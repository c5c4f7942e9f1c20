"""Raw recordings that are written in a moment: ds000116's legacy layout on coarse images that lie in MNI space.

Takes numbers of subjects, runs and volumes; gives a folder for ``python -m datasets.prepare --registration header``.
The brain is an ellipsoid, the EEG pink noise with a heartbeat; nothing couples the two.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

RATE_HZ, REPETITION_TIME_S = 1000, 2.0
SHAPE, ZOOMS_MM = (18, 22, 18), (9.0, 9.0, 9.0)
SLICES = SHAPE[2]
CHANNELS = 34
QUICK = ("--registration", "header", "--no-motion", "--fwhm", "0")
"""Options with which such a run is prepared in about a second."""

Rows = NDArray[np.float32]


def write_small_recordings(folder: Path, *, subjects: int = 1, runs: Sequence[str] = ("task001_run001",)) -> Path:
    """Write a study of runs of 40 volumes and return its folder."""
    for subject in range(1, subjects + 1):
        for number, run in enumerate(runs):
            write_run(folder, subject, run, np.random.default_rng([subject, number]))
    (folder / "slice_order.txt").write_text("".join(f"{number}\n" for number in range(1, SLICES + 1)))
    return folder


def write_run(folder: Path, subject: int, run: str, rng: np.random.Generator, num_volumes: int = 40) -> None:
    """Write a run's EEG, BOLD and events."""
    onsets_s = np.arange(5.0, num_volumes * REPETITION_TIME_S - 4, 2.5)
    write_eeg(eeg_path(folder, subject, run), eeg_rows(num_volumes, onsets_s, rng))
    write_bold(bold_path(folder, subject, run), bold_volumes(num_volumes, rng))
    conditions = folder / f"sub{subject:03d}" / "model" / "model001" / "onsets" / run
    conditions.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("cond001", onsets_s[2::5]), ("cond002", np.delete(onsets_s, np.s_[2::5]))):
        (conditions / f"{name}.txt").write_text("".join(f"{onset:.3f}\t0.200\t1\n" for onset in chosen))


def eeg_path(folder: Path, subject: int, run: str) -> Path:
    """Return where a run's EEG lies."""
    return folder / f"sub{subject:03d}" / "EEG" / run / "EEG_rereferenced.mat"


def bold_path(folder: Path, subject: int, run: str) -> Path:
    """Return where a run's BOLD lies."""
    return folder / f"sub{subject:03d}" / "BOLD" / run / "bold.nii.gz"


def eeg_rows(num_volumes: int, onsets_s: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """Return the 37 rows of EEG_rereferenced.mat: EEG in uV, ECG, stimulus markers, responses."""
    num_samples = round(num_volumes * REPETITION_TIME_S * RATE_HZ)
    rows = np.zeros((CHANNELS + 3, num_samples), dtype=np.float32)
    shared = _pink(4, num_samples, rng)
    rows[:CHANNELS] = 20 * (rng.normal(size=(CHANNELS, 4)) @ shared) / 2 + 6 * _pink(CHANNELS, num_samples, rng)
    rows[CHANNELS] = _ecg(num_samples, rng)
    for onset in onsets_s:
        first = round(onset * RATE_HZ)
        rows[CHANNELS + 1, first : first + 20] = 125
    return rows


def bold_volumes(num_volumes: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """Return volumes of an ellipsoid of about 1 000, with noise."""
    centre, radii = np.array([0.0, -18.0, 8.0]), np.array([68.0, 86.0, 68.0])
    points_mm = nibabel.affines.apply_affine(affine(), np.indices(SHAPE).reshape(3, -1).T)
    is_brain = ((((points_mm - centre) / radii) ** 2).sum(axis=1) < 1).reshape(SHAPE)
    mean = np.where(is_brain, 900 + 200 * rng.random(SHAPE), 5.0)
    noise = rng.normal(0, 10, (*SHAPE, num_volumes)) * is_brain[..., None]
    return np.asarray(np.rint(mean[..., None] + noise), dtype=np.int16)


def affine() -> NDArray[np.float64]:
    """Return the images' voxel-to-mm matrix; the first axis goes to the left, and edges miss those of the grid."""
    matrix = np.diag([-ZOOMS_MM[0], ZOOMS_MM[1], ZOOMS_MM[2], 1.0])
    matrix[:3, 3] = [79.3, -113.4, -71.1]
    return matrix


def write_eeg(path: Path, rows: Rows) -> None:
    """Write a MATLAB 5 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"data_reref": rows})


def write_bold(
    path: Path,
    volumes: NDArray[np.int16],
    *,
    placed: NDArray[np.float64] | None = None,
    repetition_time_s: float = REPETITION_TIME_S,
) -> None:
    """Write a NIfTI series, or a single volume; ``placed`` is its voxel-to-mm matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volumes, affine() if placed is None else placed)
    image.header.set_xyzt_units("mm", "sec")
    if volumes.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time_s))
    nibabel.save(image, path)


def _pink(num_rows: int, num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.normal(size=(num_rows, num_samples)), axis=1)
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.shape[1]), 20))
    noise = np.fft.irfft(spectrum, num_samples, axis=1)
    return np.asarray(noise / noise.std(axis=1, keepdims=True))


def _ecg(num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    beats = np.cumsum(rng.normal(0.9, 0.03, num_samples // 600) * RATE_HZ).astype(int)
    pulses = np.zeros(num_samples)
    pulses[beats[beats < num_samples]] = 300
    shape = np.exp(-0.5 * (np.arange(-40, 41) / 10) ** 2)
    return np.asarray(np.convolve(pulses, shape, mode="same") + rng.normal(0, 5, num_samples))
