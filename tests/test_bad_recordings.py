"""Whatever is wrong with a recording, it is skipped and listed with the reason, and the rest goes on.

Each fault is put into one run of a small study of real files; the other run must come out as without it.
"""

import gzip
import io
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.io import loadmat, savemat
from small_recordings import (
    CHANNELS,
    QUICK,
    SLICES,
    affine,
    bold_path,
    eeg_path,
    write_bold,
    write_eeg,
    write_run,
    write_small_recordings,
)

from datasets import prepare
from datasets.command_line import run_command
from datasets.shards import MANIFEST, check_files, read_manifest, read_shard
from datasets.storage import open_storage

RUN, OTHER_RUN = "task001_run001", "task002_run001"
NAME, OTHER_NAME = "sub-01_task-auditory_run-1", "sub-01_task-visual_run-1"
NOT_ASKED_FOR = 1
Answer = tuple[int, str, str]
Prepare = Callable[..., Answer]


@dataclass(frozen=True)
class Run:
    """The two files of one run, to be broken."""

    eeg: Path
    bold: Path

    @property
    def rows(self) -> np.ndarray:
        return np.array(loadmat(self.eeg)["data_reref"])

    @property
    def volumes(self) -> np.ndarray:
        return np.asarray(nibabel.load(self.bold).dataobj)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_small_recordings(tmp_path_factory.mktemp("sound") / "raw", runs=(RUN, OTHER_RUN))


@pytest.fixture
def raw(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "raw"))


@contextmanager
def without_ray() -> Iterator[Prepare]:
    """Give the command in this process, without Ray: its exit status, what it printed, what it logged."""
    earlier = signal.getsignal(signal.SIGTERM)
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EEG2FMRI_") or name == "RAY_ADDRESS"]:
            patch.delenv(name)
        patch.setattr(prepare.logger, "level", logging.INFO)
        patch.setattr(prepare, "connected", lambda *_: nullcontext())
        patch.setattr(prepare, "check_every_node_sees", lambda _: None)
        patch.setattr(prepare, "cluster_size", lambda: (1, 0.0))
        patch.setattr(prepare, "run_tasks", lambda task, work, **_: (task(*each) for each in work))

        def run(raw: Path, shards: Path, *options: str) -> Answer:
            patch.setattr(sys, "argv", ["prepare", str(raw), str(shards), *QUICK, *options])
            logged.seek(0)
            logged.truncate()
            printed, errors = io.StringIO(), io.StringIO()
            with redirect_stdout(printed), redirect_stderr(errors):
                status = run_command(prepare.main)
            return status, printed.getvalue(), logged.getvalue() + errors.getvalue()

        prepare.logger.addHandler(handler)
        try:
            yield run
        finally:
            prepare.logger.removeHandler(handler)
            signal.signal(signal.SIGTERM, earlier)


@pytest.fixture
def prepared() -> Iterator[Prepare]:
    with without_ray() as run:
        yield run


def volumes_of(shards: Path, name: str) -> np.ndarray:
    storage = open_storage(shards)
    manifest = read_manifest(storage)
    entry = next(each for each in manifest.shards if f"{each.subject}_task-{each.task}_run-{each.run}" == name)
    return read_shard(storage, entry, manifest.layout).bold_RV


def cut_bytes(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def with_matlab_7_3(run: Run) -> None:
    with h5py.File(run.eeg, "w", userblock_size=512) as file:
        file["data_reref"] = np.zeros((CHANNELS + 3, 1000))
    content = run.eeg.read_bytes()
    run.eeg.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + content[512:])


def with_rows(run: Run, number: int) -> None:
    rows = run.rows
    write_eeg(run.eeg, np.resize(rows, (number, rows.shape[1])))


def with_gap(run: Run) -> None:
    rows = run.rows
    rows[5, 20_000:25_000] = np.nan
    write_eeg(run.eeg, rows)


def late_markers(run: Run, samples: int) -> None:
    rows = run.rows
    rows[CHANNELS + 1] = np.roll(rows[CHANNELS + 1], samples)
    write_eeg(run.eeg, rows)


def with_a_slice_more(run: Run) -> None:
    volumes = run.volumes
    write_bold(run.bold, np.concatenate([volumes, volumes[:, :, -1:]], axis=2))


def flat_channel(run: Run) -> None:
    rows = run.rows
    rows[5] = 3.0
    write_eeg(run.eeg, rows)


def eeg_of(run: Run, num_samples: int) -> None:
    rows = run.rows
    write_eeg(run.eeg, np.pad(rows, ((0, 0), (0, max(0, num_samples - rows.shape[1]))))[:, :num_samples])


def bold_of(run: Run, num_volumes: int) -> None:
    volumes = run.volumes
    write_bold(run.bold, np.concatenate([volumes, volumes[..., -1:]], axis=3)[..., :num_volumes])


def two_matrices(run: Run) -> None:
    savemat(run.eeg, {"a": np.ones((37, 99)), "b": np.ones((37, 99))})


def bit_flipped(run: Run) -> None:
    stored = bytearray(gzip.compress(gzip.decompress(run.bold.read_bytes()), 0))
    stored[len(stored) // 2] ^= 64
    run.bold.write_bytes(stored)


def blank_volume(run: Run) -> None:
    volumes = run.volumes
    volumes[..., 20] = 0
    write_bold(run.bold, volumes)


def other_markers(run: Run, onsets_s: np.ndarray) -> None:
    rows = run.rows
    rows[CHANNELS + 1] = 0
    rows[CHANNELS + 1, (onsets_s * 1000).astype(int)] = 125
    write_eeg(run.eeg, rows)


def in_volts(run: Run) -> None:
    rows = run.rows
    rows[: CHANNELS + 1] *= 1e-6
    write_eeg(run.eeg, rows)


def late_event(run: Run) -> None:
    conditions = run.bold.parents[2] / "model" / "model001" / "onsets" / RUN / "cond001.txt"
    conditions.write_text(conditions.read_text() + "9999\t0.2\t1\n")


def infinite_voxel(run: Run) -> None:
    volumes = run.volumes.astype(np.float32)
    volumes[9, 11, 9, 3] = np.inf
    write_bold(run.bold, volumes)


REFUSED: dict[str, tuple[Callable[[Run], object], str]] = {
    "a truncated image": (lambda run: cut_bytes(run.bold, 0.5), "cannot read the BOLD"),
    "an image with a flipped bit": (bit_flipped, "CRC check failed"),
    "a blank volume": (blank_volume, "volumes [20] of the BOLD (from 0) show nothing"),
    "a series of one volume": (
        lambda run: write_bold(run.bold, np.repeat(run.volumes[..., :1], 40, axis=3)),
        "all volumes of the BOLD are the same",
    ),
    "an image that is a folder": (lambda run: (run.bold.unlink(), run.bold.mkdir()), "Is a directory"),
    "an image that links to itself": (lambda run: (run.bold.unlink(), run.bold.symlink_to(run.bold)), "symbolic links"),
    "an empty image": (lambda run: run.bold.write_bytes(b""), "is empty (0 bytes)"),
    "no image": (lambda run: run.bold.write_bytes(gzip.compress(b"text")), "cannot read the BOLD"),
    "one volume": (lambda run: write_bold(run.bold, run.volumes[..., 0]), "must be a NIfTI series of volumes (4-D)"),
    "a repetition time of 2.5 s": (
        lambda run: write_bold(run.bold, run.volumes, repetition_time_s=2.5),
        "its header states a repetition time of 2.5 s, the data set's is 2 s",
    ),
    "a slice too many": (with_a_slice_more, "slice_order.txt"),
    "a truncated MATLAB file": (lambda run: cut_bytes(run.eeg, 0.5), "cannot read"),
    "an empty MATLAB file": (lambda run: run.eeg.write_bytes(b""), "EEG_rereferenced.mat"),
    "a MATLAB 7.3 file": (with_matlab_7_3, "save it in MATLAB with save(..., '-v7')"),
    "33 rows": (lambda run: with_rows(run, 33), "must hold 37 rows"),
    "38 rows": (lambda run: with_rows(run, 38), "must hold 37 rows"),
    "EEG turned on its side": (lambda run: write_eeg(run.eeg, run.rows.T.copy()), "transpose it"),
    "EEG in volts": (in_volts, "EEG must be in uV"),
    "another run's markers": (
        lambda run: other_markers(run, np.random.default_rng(8).uniform(2, 78, 30)),
        "they are not of one run",
    ),
    "a NaN stretch": (with_gap, "20"),
    "markers 1 s late": (lambda run: late_markers(run, 1000), "+1.000 s after the events"),
    "EEG of 10 s": (lambda run: eeg_of(run, 10_000), "EEG"),
    "no EEG": (lambda run: run.eeg.unlink(), "--eeg-root"),
    "two matrices in one file": (two_matrices, "one single numeric matrix"),
}
MENDED: dict[str, tuple[Callable[[Run], object], int, str]] = {
    "a flat channel": (flat_channel, 40, "F3"),
    "EEG 3 s short": (lambda run: eeg_of(run, 77_000), 38, "EEG"),
    "EEG 5 s longer than the scan": (lambda run: eeg_of(run, 85_000), 40, "5.000 s after the scan"),
    "39 volumes": (lambda run: bold_of(run, 39), 39, "2.000 s after the scan"),
    "41 volumes": (lambda run: bold_of(run, 41), 40, "EEG"),
    "no markers": (lambda run: other_markers(run, np.empty(0)), 40, "no stimulus marker"),
    "an infinite voxel": (infinite_voxel, 40, "1 voxels of the BOLD image are not finite"),
    "an event after the scan": (late_event, 40, "1 of 30 events lie outside the scan of 80 s"),
    "markers 0.2 s late": (lambda run: late_markers(run, 200), 40, "+0.200 s after the events"),
}
SUBJECTS = {fault: number for number, fault in enumerate((*REFUSED, *MENDED), start=2)}
"""Each fault has a subject of its own; subject 1 is sound."""


@pytest.fixture(scope="module")
def faulty(sound, tmp_path_factory) -> tuple[Path, Answer]:
    """A study with every fault at once, prepared, and how the command ended."""
    folder = tmp_path_factory.mktemp("faulty")
    raw = Path(shutil.copytree(sound, folder / "raw"))
    for fault, number in SUBJECTS.items():
        write_run(raw, number, RUN, np.random.default_rng(number))
        break_it = REFUSED[fault][0] if fault in REFUSED else MENDED[fault][0]
        break_it(Run(eeg_path(raw, number, RUN), bold_path(raw, number, RUN)))
    with without_ray() as run:
        return folder / "shards", run(raw, folder / "shards")


def name_of(fault: str) -> str:
    return f"sub-{SUBJECTS[fault]:02d}_task-auditory_run-1"


@pytest.mark.parametrize("fault", REFUSED)
def test_a_run_that_cannot_be_used_is_skipped_with_the_reason(faulty, fault):
    shards, (_, output, _) = faulty
    reasons = {skipped.recording: skipped.reason for skipped in read_manifest(open_storage(shards)).skipped}
    reason = reasons[name_of(fault)]
    assert REFUSED[fault][1] in reason
    assert len(reason.splitlines()) == 1
    assert f"skipped {name_of(fault)}: {reason}" in output


@pytest.mark.parametrize("fault", MENDED)
def test_what_can_be_mended_is_mended_and_warned_of(faulty, fault):
    shards, (_, _, log) = faulty
    _, rows, words = MENDED[fault]
    assert volumes_of(shards, name_of(fault)).shape[0] == rows
    assert any(name_of(fault) in line and words in line for line in log.splitlines()), log


def test_the_rest_goes_on_and_the_exit_status_says_that_something_was_skipped(faulty, sound, tmp_path, prepared):
    shards, (status, _, _) = faulty
    manifest = read_manifest(open_storage(shards))
    assert status == NOT_ASKED_FOR
    assert {skipped.recording for skipped in manifest.skipped} == {name_of(fault) for fault in REFUSED}
    assert check_files(open_storage(shards), manifest) == []
    assert prepared(sound, tmp_path / "shards")[0] == 0
    for name in (NAME, OTHER_NAME):
        np.testing.assert_array_equal(volumes_of(shards, name), volumes_of(tmp_path / "shards", name))


def test_the_mean_image_is_finite_where_a_voxel_is_not(faulty):
    subject = f"sub-{SUBJECTS['an infinite voxel']:02d}"
    epi = pq.read_table(faulty[0] / subject / f"{subject}_anatomy.parquet")["epi"].to_numpy()
    assert np.isfinite(epi).all()
    assert epi.max() > 0


def test_the_same_command_again_says_so_again(faulty, prepared):
    shards, _ = faulty
    status, output, _ = prepared(shards.parent / "raw", shards)
    assert status == NOT_ASKED_FOR
    assert "nothing was done" in output
    assert f"skipped {name_of('33 rows')}" in output


def flipped(run: Run) -> None:
    placed = affine()
    volumes = run.volumes[::-1]
    placed[:3, 3] += placed[:3, 0] * (volumes.shape[0] - 1)
    placed[:, 0] *= -1
    write_bold(run.bold, volumes, placed=placed)


def permuted(run: Run) -> None:
    write_bold(run.bold, run.volumes.transpose(1, 0, 2, 3), placed=affine()[:, [1, 0, 2, 3]])


def run_of(raw: Path) -> Run:
    return Run(eeg_path(raw, 1, OTHER_RUN), bold_path(raw, 1, OTHER_RUN))


@pytest.mark.parametrize("turn", [flipped, permuted])
def test_an_image_stored_another_way_round_gives_the_same_series(sound, raw, tmp_path, prepared, turn):
    prepared(sound, tmp_path / "usual")
    turn(run_of(raw))
    status, _, log = prepared(raw, tmp_path / "turned")
    assert status == 0, log
    usual, turned = (volumes_of(tmp_path / which, OTHER_NAME) for which in ("usual", "turned"))
    assert np.abs(usual.astype(int) - turned).max() <= 2


def test_an_image_that_lies_obliquely_is_taken_where_it_lies(sound, raw, tmp_path, prepared):
    angle = np.deg2rad(12)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    write_bold(bold_path(raw, 1, OTHER_RUN), run_of(raw).volumes, placed=turn @ affine())
    status, _, log = prepared(raw, tmp_path / "shards")
    assert status == 0, log
    prepared(sound, tmp_path / "usual")
    usual, oblique = (volumes_of(tmp_path / which, OTHER_NAME) for which in ("usual", "shards"))
    assert (usual != oblique).mean() > 0.5


def test_a_mended_run_is_prepared_by_the_same_command(sound, raw, tmp_path, prepared):
    shards = tmp_path / "shards"
    cut_bytes(bold_path(raw, 1, OTHER_RUN), 0.5)
    assert prepared(raw, shards)[0] == NOT_ASKED_FOR
    shutil.copy(bold_path(sound, 1, OTHER_RUN), bold_path(raw, 1, OTHER_RUN))
    status, _, log = prepared(raw, shards)
    assert status == 0, log
    assert "changed since it was skipped" in log
    assert read_manifest(open_storage(shards)).skipped == ()
    prepared(sound, tmp_path / "usual")
    names = sorted(path.relative_to(shards) for path in shards.rglob("*.parquet"))
    assert names == sorted(path.relative_to(tmp_path / "usual") for path in (tmp_path / "usual").rglob("*.parquet"))
    assert all((shards / name).read_bytes() == (tmp_path / "usual" / name).read_bytes() for name in names)


def test_a_missing_t1_is_warned_of_and_a_damaged_one_costs_its_subject_only(raw, tmp_path, prepared):
    write_run(raw, 2, RUN, np.random.default_rng(9))
    (raw / "sub002" / "anatomy").mkdir()
    (raw / "sub002" / "anatomy" / "highresSPGR001.nii.gz").write_bytes(gzip.compress(b"no image"))
    status, _, log = prepared(raw, tmp_path / "shards", "--registration", "affine")
    manifest = read_manifest(open_storage(tmp_path / "shards"))
    assert status == NOT_ASKED_FOR
    assert [skipped.recording for skipped in manifest.skipped] == ["sub-02_task-auditory_run-1"]
    assert "T1" in manifest.skipped[0].reason
    assert manifest.subjects == ("sub-01",)
    assert "no T1" in log


def test_a_subject_is_aligned_by_its_next_run_where_the_first_shows_no_brain(raw, tmp_path, prepared):
    run = Run(eeg_path(raw, 1, RUN), bold_path(raw, 1, RUN))
    write_bold(run.bold, np.full_like(run.volumes, 7))
    status, _, _ = prepared(raw, tmp_path / "shards")
    manifest = read_manifest(open_storage(tmp_path / "shards"))
    assert status == NOT_ASKED_FOR
    assert [skipped.recording for skipped in manifest.skipped] == [NAME]
    assert "found no brain" in manifest.skipped[0].reason
    assert volumes_of(tmp_path / "shards", OTHER_NAME).std() > 0


def test_a_run_numbered_0_is_prepared(raw, tmp_path, prepared):
    for kind in ("BOLD", "EEG", "model/model001/onsets"):
        (raw / "sub001" / kind / RUN).rename(raw / "sub001" / kind / RUN.replace("run001", "run000"))
    assert prepared(raw, tmp_path / "shards")[0] == 0
    assert len(volumes_of(tmp_path / "shards", "sub-01_task-auditory_run-0")) == 40


def test_every_confound_stands_in_the_table(raw, tmp_path, prepared):
    prepared(raw, tmp_path / "shards")
    shard = read_manifest(open_storage(tmp_path / "shards")).shards[0]
    table = pq.read_table(tmp_path / "shards" / shard.confounds.name)
    assert table.num_rows == shard.rows
    assert np.isfinite(table["pulse_rate_bpm"]).all()
    assert np.nanmedian(table["pulse_rate_bpm"]) == pytest.approx(60 / 0.9, rel=0.05)
    assert np.isnan(table["trans_x"]).all()  # motion was not asked for
    assert table["global_signal"].to_numpy().std() > 0


def test_where_nothing_can_be_used_there_is_no_manifest(raw, tmp_path, prepared):
    for run in (RUN, OTHER_RUN):
        eeg_path(raw, 1, run).unlink()
    status, _, log = prepared(raw, tmp_path / "shards")
    assert status == 2
    assert "no recording could be prepared" in log
    assert not (tmp_path / "shards" / MANIFEST).exists()


def test_a_slice_order_of_the_wrong_length_skips_its_runs(raw, tmp_path, prepared):
    (raw / "slice_order.txt").write_text("".join(f"{number}\n" for number in range(1, SLICES)))
    status, _, log = prepared(raw, tmp_path / "shards")
    assert status == 2
    assert "slice" in log
