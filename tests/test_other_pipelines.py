"""``datasets.prepare`` on what fMRIPrep and SPM leave: the commands themselves, on images of a tiny study."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_recordings import affine, bold_path, write_small_recordings

from datasets.bids.runs import run_key
from datasets.derivatives import FMRIPREP_SPACES, SPM_SPACE
from datasets.motion import MOTION_NAMES
from datasets.quality.measures import temporal_snr
from datasets.shards import MANIFEST, Manifest, check_files, read_manifest, read_shard
from datasets.storage import open_storage

ROOT = Path(__file__).resolve().parent.parent
NEW, OLD = FMRIPREP_SPACES
TASK = "auditoryoddballwithbuttonresponsetotargetstimuli"
RUNS = ("task001_run001", "task001_run002")
SHAPE, ZOOM_MM = (28, 34, 28), 6.0
VOLUMES = 40

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Two subjects of two runs, whose images lie in MNI space."""
    return write_small_recordings(tmp_path_factory.mktemp("raw"), subjects=2, runs=RUNS)


@pytest.fixture(scope="module")
def prepare() -> Iterator[Run]:
    """The command as a process of its own; Ray's sockets need a short path."""
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")

    def run(raw: Path, shards: Path, *options: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "datasets.prepare", raw, shards, "--fwhm", "0", *options]
        environment = {"PATH": "/usr/bin:/bin", "HOME": ray_folder, "RAY_TMPDIR": ray_folder}
        return subprocess.run(
            [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
        )

    yield run
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture(scope="module")
def from_raw(raw, prepare, tmp_path_factory) -> Path:
    """The study's shards of its raw volumes, which need no correction."""
    shards = tmp_path_factory.mktemp("from_raw") / "shards"
    done = prepare(raw, shards, "--registration", "header", "--no-motion", "--slice-order", "none")
    assert done.returncode == 0, done.stderr
    return shards


@pytest.fixture(scope="module")
def fmriprep(raw, tmp_path_factory) -> Path:
    """FMRIPrep's output of both subjects."""
    folder = tmp_path_factory.mktemp("derivatives") / "fmriprep"
    for subject in (1, 2):
        write_fmriprep(folder, raw, subject, NEW)
    return folder


@pytest.fixture(scope="module")
def from_fmriprep(raw, fmriprep, prepare, tmp_path_factory) -> Path:
    shards = tmp_path_factory.mktemp("from_fmriprep") / "shards"
    done = prepare(raw, shards, "--bold", "fmriprep", "--derivatives", fmriprep)
    assert (done.returncode, "prepared: 4 shards of 2 subjects" in done.stdout) == (0, True), done.stderr
    return shards


def resampled(path: Path) -> nibabel.Nifti1Image:
    """Return a series at another resolution, first axis to the right: on a grid that other pipelines might choose."""
    placed = np.diag([ZOOM_MM, ZOOM_MM, ZOOM_MM, 1.0])
    placed[:3, 3] = [-81.0, -117.0, -74.0]
    way = np.linalg.inv(affine()) @ placed
    volumes = np.moveaxis(nibabel.load(path).get_fdata(dtype=np.float32), 3, 0)
    moved = [ndimage.affine_transform(one, way, output_shape=SHAPE, order=1) for one in volumes]
    image = nibabel.Nifti1Image(np.stack(moved, axis=3), placed)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((ZOOM_MM, ZOOM_MM, ZOOM_MM, 2.0))
    return image


def write_fmriprep(folder: Path, raw: Path, subject: int, space: str) -> None:
    """Write what fMRIPrep leaves of a subject's runs: series, brain mask, table of confounds."""
    place = folder / f"sub-{subject:02d}" / "func"
    place.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(RUNS, start=1):
        stem = place / f"sub-{subject:02d}_task-{TASK}_run-{number:02d}"
        assert run_key(Path(f"{stem}_bold.nii.gz")) is not None
        image = resampled(bold_path(raw, subject, run))
        nibabel.save(image, f"{stem}_space-{space}_res-2_desc-preproc_bold.nii.gz")
        mean = image.get_fdata().mean(axis=3)
        mask = nibabel.Nifti1Image((mean > 100).astype(np.uint8), image.affine)
        nibabel.save(mask, f"{stem}_space-{space}_res-2_desc-brain_mask.nii.gz")
        rows = [f"{'n/a' if not row else row / 100}\t{row}\t{row / 50}\t5" for row in range(VOLUMES)]
        table = "\n".join(["framewise_displacement\tcsf\ttrans_y\ta_comp_cor_00", *rows])
        Path(f"{stem}_desc-confounds_timeseries.tsv").write_text(f"{table}\n")


def write_spm(folder: Path, raw: Path, subject: int) -> None:
    """Write what SPM leaves of a subject's runs: the first as 3-D images, the second as one series."""
    for number, run in enumerate(RUNS):
        place = folder / f"sub{subject:03d}" / "BOLD" / run
        place.mkdir(parents=True)
        image = resampled(bold_path(raw, subject, run))
        np.savetxt(place / "rp_abold.txt", np.outer(np.arange(VOLUMES), [1, 2, 3, 0.01, 0.02, 0.03]) / 100)
        volumes = np.moveaxis(image.get_fdata(dtype=np.float32), 3, 0)
        if number:
            nibabel.save(image, place / "swarbold.nii")
            continue
        for volume, values in enumerate(volumes, start=1):
            nibabel.save(nibabel.Nifti1Image(values, image.affine), place / f"swarbold_{volume}.nii")


def manifest_at(shards: Path) -> Manifest:
    return read_manifest(open_storage(shards))


def bold_of(shards: Path) -> list[NDArray[np.float64]]:
    storage, manifest = open_storage(shards), manifest_at(shards)
    read = [read_shard(storage, entry, manifest.layout).bold_RV for entry in manifest.shards]
    return [bold_RV * manifest.layout.scale for bold_RV in read]


def correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation over time of each voxel that varies in both, of series (volumes, voxels)."""
    varies = (first.std(axis=0) > 0.5) & (second.std(axis=0) > 0.5)
    assert varies.mean() > 0.5
    return np.asarray((first[:, varies] * second[:, varies]).mean(axis=0))


def assert_same_signals(shards: Path, from_raw: Path) -> None:
    """The pipeline's volumes are the raw ones on another grid: voxels must agree, and shifted by a volume must not."""
    for other, own in zip(bold_of(shards), bold_of(from_raw), strict=True):
        assert np.median(correlations(other, own)) > 0.7
        assert abs(np.median(correlations(np.roll(other, 1, axis=0), own))) < 0.1


def assert_refused(done: "subprocess.CompletedProcess[str]", words: Sequence[str]) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines()[-1] == line
    assert all(word in line for word in words), line


def confounds(shards: Path, number: int) -> dict[str, NDArray[np.float64]]:
    table = pq.read_table(shards / manifest_at(shards).shards[number].confounds.name)
    return {name: table[name].to_numpy() for name in table.column_names}


# fMRIPrep


def test_fmripreps_volumes_become_shards_in_its_template(from_fmriprep, from_raw):
    manifest = manifest_at(from_fmriprep)
    assert manifest.layout.template == NEW != manifest_at(from_raw).layout.template
    assert manifest.pipeline["bold_source"] == "fmriprep"
    assert [shard.rows for shard in manifest.shards] == [VOLUMES] * 4
    assert check_files(open_storage(from_fmriprep), manifest) == []
    assert_same_signals(from_fmriprep, from_raw)


def test_fmripreps_brain_mask_says_where_the_brain_is(from_fmriprep, fmriprep):
    stem = f"sub-01_task-{TASK}_run-01_space-{NEW}_res-2_desc"
    series = nibabel.load(fmriprep / "sub-01" / "func" / f"{stem}-preproc_bold.nii.gz").get_fdata()
    brain = nibabel.load(fmriprep / "sub-01" / "func" / f"{stem}-brain_mask.nii.gz").get_fdata() > 0
    record = json.loads((from_fmriprep / "sub-01" / "subject.json").read_text())
    expected = temporal_snr(series.astype(np.float32), brain)
    assert record["quality"]["sub-01_task-auditory_run-1"]["tsnr"] == pytest.approx(expected, rel=1e-4)


def test_fmripreps_confounds_travel_with_the_shards(from_fmriprep):
    found = confounds(from_fmriprep, 1)
    np.testing.assert_allclose(found["framewise_displacement"], [np.nan, *np.arange(1, VOLUMES) / 100])
    np.testing.assert_allclose(found["trans_y"], np.arange(VOLUMES) / 50)
    assert np.isnan(found["rot_z"]).all()
    assert np.isfinite(found["ecg_power"]).all()


def test_another_template_is_refused_where_shards_of_one_lie(raw, fmriprep, from_fmriprep, prepare, tmp_path):
    before = (from_fmriprep / MANIFEST).read_bytes()
    for subject in (1, 2):
        write_fmriprep(tmp_path / "other", raw, subject, OLD)
    refused = prepare(raw, from_fmriprep, "--bold", "fmriprep", "--derivatives", tmp_path / "other")
    assert_refused(refused, ["choose another folder"])
    assert_refused(prepare(raw, from_fmriprep), ["bold_source fmriprep then, raw now", "choose another folder"])
    assert (from_fmriprep / MANIFEST).read_bytes() == before


def test_a_subject_in_another_template_is_skipped_and_listed(raw, prepare, tmp_path):
    write_fmriprep(tmp_path / "mixed", raw, 1, NEW)
    write_fmriprep(tmp_path / "mixed", raw, 2, OLD)
    done = prepare(raw, tmp_path / "shards", "--bold", "fmriprep", "--derivatives", tmp_path / "mixed")
    assert done.returncode == 1, done.stderr
    manifest = manifest_at(tmp_path / "shards")
    assert (manifest.layout.template, manifest.subjects) == (NEW, ("sub-01",))
    assert [skipped.recording.split("_")[0] for skipped in manifest.skipped] == ["sub-02"] * 2
    assert all(f"there is no *_space-{NEW}_" in skipped.reason for skipped in manifest.skipped)


# SPM


def test_spms_volumes_become_shards_in_its_template(raw, from_raw, fmriprep, prepare, tmp_path):
    spm, shards = tmp_path / "spm", tmp_path / "shards"
    for subject in (1, 2):
        write_spm(spm, raw, subject)
    done = prepare(raw, shards, "--bold", "spm", "--derivatives", spm)
    assert (done.returncode, "prepared: 4 shards of 2 subjects" in done.stdout) == (0, True), done.stderr
    manifest = manifest_at(shards)
    assert (manifest.layout.template, manifest.pipeline["bold_source"]) == (SPM_SPACE, "spm")
    assert_same_signals(shards, from_raw)
    motion = np.stack([confounds(shards, 0)[name] for name in MOTION_NAMES], axis=1)
    np.testing.assert_allclose(motion, np.outer(np.arange(VOLUMES), [1, 2, 3, 0.01, 0.02, 0.03]) / 100)
    refused = prepare(raw, shards, "--bold", "fmriprep", "--derivatives", fmriprep)
    assert_refused(refused, ["bold_source spm then, fmriprep now", "choose another folder"])
