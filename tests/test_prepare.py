"""``datasets.prepare``: a tiny study becomes shards, once, resumably, and never under two settings."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from datasets import prepare
from datasets.bold import BoldSettings
from datasets.command_line import run_command
from datasets.grid import tissue_mask
from datasets.oddball import CHANNELS, find_recordings, read_events
from datasets.preparation import prepare_subject
from datasets.run_preparation import CONFOUNDS, PreparationSettings
from datasets.shards import MANIFEST, Manifest, check_files, read_manifest, read_shard
from datasets.simulator.study import SimulationSettings, simulate_study
from datasets.storage import Storage, open_storage

ROOT = Path(__file__).resolve().parent.parent
STUDY = SimulationSettings(subjects=3, runs=2, volumes=12, seed=5)
VOXELS = 64_820
SETTINGS = PreparationSettings(bold=BoldSettings(registration="header", motion=False))
PREPARED = ["sub-01_task-auditory_run-1", "sub-01_task-visual_run-1"]
PREPARED += ["sub-02_task-auditory_run-1", "sub-02_task-visual_run-1"]
BOLD = "BOLD/{run}/bold.nii.gz"
EEG = "EEG/{run}/EEG_rereferenced.mat"
T1 = "anatomy/highresSPGR001.nii.gz"
QUICK = ("--registration", "header", "--no-motion")
STORE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    output: str
    errors: str


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EEG2FMRI_") or name == "RAY_ADDRESS"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Three simulated subjects of two runs of 24 s."""
    folder = tmp_path_factory.mktemp("simulated") / "study"
    simulate_study(folder, STUDY, workers=1)
    return folder


@pytest.fixture(scope="module")
def raw(study, tmp_path_factory) -> Path:
    """The first two of them."""
    return linked(study, tmp_path_factory.mktemp("raw") / "raw", ["sub001", "sub002"])


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's sockets: their paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def first(raw, ray_folder, tmp_path_factory) -> tuple[Path, Answer]:
    """The two subjects as the command line prepares them, on a Ray of its own, and what it said."""
    shards = tmp_path_factory.mktemp("prepared") / "shards"
    done = subprocess.run(**command(ray_folder, raw, shards), timeout=200)
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert answer.status == 0, answer.errors
    return shards, answer


@pytest.fixture(scope="module")
def prepared(first) -> Path:
    return first[0]


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    return shutil.copytree(prepared, tmp_path / "shards")


@pytest.fixture
def inline(monkeypatch, capsys) -> Iterator[Callable[..., Answer]]:
    """The same command in this process, one subject after the other and without Ray."""

    def run(raw: Path, shards: Path | str, *options: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["prepare", str(raw), str(shards), *QUICK, *options])
        monkeypatch.setattr(prepare, "connected", lambda *_: nullcontext())
        monkeypatch.setattr(prepare, "check_every_node_sees", lambda _: None)
        monkeypatch.setattr(prepare, "cluster_size", lambda: (1, 0.0))
        monkeypatch.setattr(prepare, "run_tasks", lambda task, work, **_: (task(*each) for each in work))
        capsys.readouterr()
        status = run_command(prepare.main)
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    earlier = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, earlier)


def command(ray_folder: Path, raw: Path, shards: Path, *options: str) -> dict:
    """Return how to start the command line as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EEG2FMRI_", "RAY_ADDR"))}
    return {
        "args": [sys.executable, "-m", "datasets.prepare", str(raw), str(shards), *QUICK, *options],
        "cwd": ROOT,
        "env": {**environment, "RAY_TMPDIR": str(ray_folder), "PREPARED_AT": str(shards)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def linked(study: Path, folder: Path, subjects: list[str]) -> Path:
    """Return a copy of some subjects' recordings that takes no space: to change a file, write it anew."""
    for subject in subjects:
        shutil.copytree(study / subject, folder / subject, copy_function=os.link)
    os.link(study / "slice_order.txt", folder / "slice_order.txt")
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells that a file was touched."""
    return {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in contents(folder)}


def manifest_at(shards: Path) -> Manifest:
    return read_manifest(open_storage(shards))


def names_of(manifest: Manifest) -> list[str]:
    return [f"{shard.subject}_task-{shard.task}_run-{shard.run}" for shard in manifest.shards]


def signals(shards: Path, subject: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a subject's runs in standard deviations: EEG (C, N) and BOLD (R, V)."""
    storage, manifest = open_storage(shards), manifest_at(shards)
    runs = [read_shard(storage, entry, manifest.layout) for entry in manifest.of_subject(subject)]
    layout = manifest.layout
    return [
        (run.eeg_RCS.transpose(1, 0, 2).reshape(34, -1) * layout.eeg_scale, run.bold_RV * layout.scale) for run in runs
    ]


def assert_refused(answer: Answer, *words: str) -> None:
    assert answer.status == 2, answer.errors
    assert answer.output == ""
    assert len(answer.errors.splitlines()) == 1, answer.errors
    for word in words:
        assert word in answer.errors


# What is made


def test_the_manifest_lists_every_recording(first):
    shards, answer = first
    manifest = manifest_at(shards)
    assert names_of(manifest) == PREPARED
    assert [shard.rows for shard in manifest.shards] == [12] * 4
    assert manifest.skipped == ()
    assert check_files(open_storage(shards), manifest) == []
    assert "prepared: 4 shards of 2 subjects" in answer.output
    assert f"next: python -m platform.search transformer --shards {shards}" in answer.output


def test_the_manifest_tells_layout_and_settings(prepared):
    manifest = manifest_at(prepared)
    layout = manifest.layout
    assert layout.channel_names == CHANNELS
    assert (layout.eeg_rate_hz, layout.repetition_time_s, layout.reference_time_s) == (1000.0, 2.0, 1.0)
    assert (layout.grid_shape, layout.num_voxels) == ((53, 63, 52), VOXELS)
    assert manifest.pipeline["bold"] == {
        "registration": "header", "motion": False, "slice_order": None, "fwhm_mm": 6.0, "high_pass_seconds": 128.0,
    }  # fmt: skip
    assert manifest.pipeline["eeg"]["high_pass_hz"] == 0.5
    assert {subject: found["method"] for subject, found in manifest.pipeline["alignment"].items()} == {
        "sub-01": "header",
        "sub-02": "header",
    }


def test_eeg_has_unit_variance_per_channel_over_a_subject_s_runs(prepared):
    for subject in ("sub-01", "sub-02"):
        eeg_CN = np.concatenate([eeg for eeg, _ in signals(prepared, subject)], axis=1)
        assert eeg_CN.shape == (34, 2 * 24_000)
        np.testing.assert_allclose(eeg_CN.std(axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(eeg_CN.mean(axis=1), 0, atol=1e-3)


def test_eeg_is_not_normalised_run_by_run(prepared):
    deviations = [eeg.std(axis=1) for eeg, _ in signals(prepared, "sub-01")]
    assert np.abs(deviations[0] - deviations[1]).max() > 0.005


def test_bold_is_z_scored_per_voxel_and_run_where_it_is_covered(prepared):
    for subject in ("sub-01", "sub-02"):
        maps = pq.read_table(prepared / subject / f"{subject}_maps.parquet")
        varies = maps["coverage"].to_numpy() & (maps["standard_deviation"].to_numpy() > 0)
        assert varies.mean() > 0.5
        for _, bold_RV in signals(prepared, subject):
            assert bold_RV.shape == (12, VOXELS)
            np.testing.assert_allclose(bold_RV[:, varies].std(axis=0), 1, atol=2e-3)
            np.testing.assert_allclose(bold_RV[:, varies].mean(axis=0), 0, atol=1e-3)
            assert not bold_RV[:, ~maps["coverage"].to_numpy()].any()


def test_what_lies_beside_the_shards_belongs_to_their_runs(prepared, raw):
    for recording, entry in zip(find_recordings(raw), manifest_at(prepared).shards, strict=True):
        events, stored = read_events(recording), pq.read_table(prepared / entry.events.name).to_pydict()
        assert stored["onset_s"] == events.onset_s.tolist()
        assert tuple(stored["kind"]) == events.kind
        confounds = pq.read_table(prepared / entry.confounds.name).to_pydict()
        assert confounds["volume"] == list(range(12))
        assert list(confounds) == ["volume", *CONFOUNDS]
        assert np.isfinite(confounds["ecg_power"]).all()
        assert np.std(confounds["global_signal"]) > 0


def test_the_voxel_table_lists_the_mask_in_the_order_of_the_shards(prepared):
    voxels = pq.read_table(prepared / "voxels.parquet")
    np.testing.assert_array_equal(np.stack([voxels[axis] for axis in "ijk"], axis=1), np.argwhere(tissue_mask()))
    assert np.min(voxels["grey"].to_numpy() + voxels["white"].to_numpy()) > 0.5


# The same command again


def test_the_same_settings_again_do_nothing(prepared, raw, inline):
    before = traces(prepared)
    answer = inline(raw, prepared)
    assert answer.status == 0, answer.errors
    assert "already prepared with these settings; nothing was done" in answer.output
    assert traces(prepared) == before


@pytest.mark.parametrize(("options", "words"), [
    (["--fwhm", "4"], ["bold.fwhm_mm 6.0 then, 4.0 now"]),
    (["--high-pass", "100", "--eeg-high-pass", "1"],
     ["bold.high_pass_seconds 128.0 then, 100.0 now", "eeg.high_pass_hz 0.5 then, 1.0 now"]),
    (["--registration", "affine"], ["bold.registration header then, affine now"]),
])  # fmt: skip
def test_other_settings_are_refused_and_named(prepared, raw, inline, options, words):
    before = traces(prepared)
    assert_refused(inline(raw, prepared, *options), *words, "choose another folder")
    assert traces(prepared) == before


def test_the_refusal_of_a_real_command_is_one_line_too(prepared, raw, ray_folder):
    before = traces(prepared)
    done = subprocess.run(**command(ray_folder, raw, prepared, "--fwhm", "4"), timeout=60)
    assert_refused(Answer(done.returncode, done.stdout, done.stderr), "fwhm_mm 6.0 then, 4.0 now")
    assert traces(prepared) == before


def test_a_new_subject_is_added_and_the_others_are_left_alone(study, prepared, copy, inline):
    before, earlier = traces(copy), manifest_at(copy)
    answer = inline(study, copy)
    assert answer.status == 0, answer.errors
    manifest = manifest_at(copy)
    assert names_of(manifest) == [*PREPARED, "sub-03_task-auditory_run-1", "sub-03_task-visual_run-1"]
    assert manifest.shards[:4] == earlier.shards
    assert manifest.digest != earlier.digest
    after = traces(copy)
    rewritten = {name for name in before if after[name] != before[name]}
    assert rewritten == {MANIFEST, "voxels.parquet", "report.html"}
    assert (copy / "voxels.parquet").read_bytes() == (prepared / "voxels.parquet").read_bytes()
    assert check_files(open_storage(copy), manifest) == []


def test_a_subject_that_the_manifest_holds_cannot_be_left_out(prepared, raw, inline):
    before = traces(prepared)
    assert_refused(inline(raw, prepared, "--exclude", "sub-02"), "holds sub-02, which this preparation leaves out")
    assert traces(prepared) == before


def test_a_subject_whose_files_are_there_cannot_be_left_out(copy, raw, inline):
    """A killed preparation left files that no manifest would name, and that verify would call foreign."""
    (copy / MANIFEST).unlink()
    (copy / "sub-02" / "subject.json").unlink()
    before = traces(copy)
    assert_refused(inline(raw, copy, "--exclude", "sub-02"), "holds sub-02, which this preparation leaves out")
    assert traces(copy) == before


def test_a_recording_that_changed_since_is_refused(raw, prepared, tmp_path, inline):
    other = linked(raw, tmp_path / "raw", ["sub001", "sub002"])
    replace(other / "sub002" / EEG.format(run="task001_run001"), b"another recording")
    assert_refused(inline(other, prepared), "sub-02", "was prepared from other files than RAW holds now")


def test_a_damaged_manifest_is_refused_and_left_as_it_is(copy, raw, inline):
    (copy / MANIFEST).write_text("{}")
    assert_refused(inline(raw, copy), "holds no shards of this project")
    assert (copy / MANIFEST).read_text() == "{}"


@pytest.mark.parametrize("content", ["", "{}", "[]", "no JSON", '{"shards": [1]}'])
def test_a_damaged_record_of_a_subject_is_named(copy, raw, inline, content):
    (copy / "sub-02" / "subject.json").write_text(content)
    assert_refused(inline(raw, copy), "sub-02/subject.json", "delete it to prepare sub-02 again")


# What cannot be used


def test_a_recording_that_cannot_be_used_is_skipped_and_listed(study, tmp_path, inline):
    broken = linked(study, tmp_path / "raw", ["sub001", "sub002", "sub003"])
    torn = broken / "sub001" / BOLD.format(run="task002_run001")
    replace(torn, torn.read_bytes()[:100_000])
    for run in ("task001_run001", "task002_run001"):
        (broken / "sub002" / EEG.format(run=run)).unlink()
    short = broken / "sub003" / EEG.format(run="task001_run001")
    replace(short, short.read_bytes()[:50_000])
    answer = inline(broken, tmp_path / "shards")
    assert answer.status == 1, answer.errors
    manifest = manifest_at(tmp_path / "shards")
    assert names_of(manifest) == ["sub-01_task-auditory_run-1", "sub-03_task-visual_run-1"]
    reasons = {skipped.recording: skipped.reason for skipped in manifest.skipped}
    assert list(reasons) == [PREPARED[1], PREPARED[2], PREPARED[3], "sub-03_task-auditory_run-1"]
    assert "cannot read the BOLD" in reasons[PREPARED[1]]
    assert "has no EEG" in reasons[PREPARED[2]]
    assert "cannot read" in reasons["sub-03_task-auditory_run-1"]
    for recording, reason in reasons.items():
        assert f"skipped {recording}: {reason}" in answer.output
    assert check_files(open_storage(tmp_path / "shards"), manifest) == []
    assert "nothing was done" in inline(broken, tmp_path / "shards").output


def test_where_nothing_can_be_used_there_is_no_manifest(study, tmp_path, inline):
    broken = linked(study, tmp_path / "raw", ["sub001"])
    for run in ("task001_run001", "task002_run001"):
        (broken / "sub001" / EEG.format(run=run)).unlink()
    assert_refused(inline(broken, tmp_path / "shards"), "no recording could be prepared", "has no EEG", "--eeg-root")
    assert not (tmp_path / "shards" / MANIFEST).exists()


def test_a_torn_t1_is_named(study, tmp_path, inline):
    broken = linked(study, tmp_path / "raw", ["sub001"])
    replace(broken / "sub001" / T1, (broken / "sub001" / T1).read_bytes()[:50_000])
    answer = inline(broken, tmp_path / "shards", "--registration", "affine")
    assert_refused(answer, f"cannot read the T1 of {broken / 'sub001' / T1}", "download it again")
    assert not (tmp_path / "shards" / MANIFEST).exists()


def test_an_image_that_misses_the_brain_is_named(study, tmp_path, inline):
    broken = linked(study, tmp_path / "raw", ["sub001"])
    path = broken / "sub001" / BOLD.format(run="task002_run001")
    image = nibabel.load(path)
    elsewhere = image.affine.copy()
    elsewhere[:3, 3] += 1000
    moved = nibabel.Nifti1Image(np.asarray(image.dataobj), elsewhere)
    path.unlink()
    nibabel.save(moved, path)
    answer = inline(broken, tmp_path / "shards")
    assert answer.status == 1
    (skipped,) = manifest_at(tmp_path / "shards").skipped
    assert skipped.recording == PREPARED[1]
    assert "the BOLD image covers no voxel of the mask" in skipped.reason


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: None, "there is no such folder"),
    (lambda path: path.mkdir(), "no BOLD of ds000116 in"),
    (lambda path: path.write_text("a file"), "there is no such folder"),
], ids=["missing", "empty", "a file"])  # fmt: skip
def test_a_folder_without_recordings_is_refused(tmp_path, inline, make, words):
    make(tmp_path / "raw")
    assert_refused(inline(tmp_path / "raw", tmp_path / "shards"), str(tmp_path / "raw"), words)
    assert not (tmp_path / "shards").exists()


def test_excluding_a_subject_that_is_not_there_is_refused(raw, tmp_path, inline):
    answer = inline(raw, tmp_path / "shards", "--exclude", "sub-07")
    assert_refused(answer, "--exclude names sub-07, but there are only sub-01, sub-02")


def test_excluding_everyone_is_refused(raw, tmp_path, inline):
    assert_refused(inline(raw, tmp_path / "shards", "--exclude", "sub-01", "sub-02"), "every subject is left out")


# Interrupted, out of space, elsewhere


def processes_with(mark: str) -> list[int]:
    """Return the processes that were started with these words in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
        except OSError:  # it ended, or is another user's
            continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end_with_its_group(process: subprocess.Popen, mark: str) -> None:
    """Kill a command and its group at once; Ray's own processes notice and end, and are waited for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    try:
        wait_until(lambda: not processes_with(mark), 30)
    finally:
        for straggler in processes_with(mark):
            os.kill(straggler, signal.SIGKILL)


def test_killed_in_the_middle_it_goes_on_and_gives_the_same_bytes(prepared, raw, tmp_path, ray_folder, inline):
    shards = tmp_path / "shards"
    process = subprocess.Popen(**command(ray_folder, raw, shards, "--workers", "1"), start_new_session=True)
    try:
        wait_until(lambda: (shards / "sub-01" / "subject.json").exists() or process.poll() is not None, 120)
    finally:
        end_with_its_group(process, f"PREPARED_AT={shards}")
    assert process.returncode == -signal.SIGKILL
    assert not (shards / MANIFEST).exists()
    done = [record.parent for record in shards.glob("*/subject.json")]  # a worker ends a moment after its driver
    before = {folder: traces(folder) for folder in done}
    assert shards / "sub-01" in before
    assert inline(raw, shards).status == 0
    assert {folder: traces(folder) for folder in done} == before
    whole = {name: content for name, content in contents(shards).items() if not Path(name).name.startswith(".")}
    assert whole == contents(prepared)


def test_what_is_written_does_not_depend_on_the_number_of_threads(raw, tmp_path):
    recordings = [recording for recording in find_recordings(raw) if recording.subject == "sub-02"]
    for number in (1, 2):
        with threadpool_limits(limits=number):
            prepare_subject(recordings, str(tmp_path / f"{number}"), SETTINGS)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_object_storage_gets_the_same_shards(prepared, raw, object_store, inline):
    uri = object_store.uri("prepared")
    answer = inline(raw, uri)
    assert answer.status == 0, answer.errors
    assert object_store.secret_key not in answer.output
    storage = open_storage(uri)
    assert storage.names() == sorted(contents(prepared))
    assert {name: storage.read(name) for name in storage.names()} == contents(prepared)
    assert "nothing was done" in inline(raw, uri).output
    verified = subprocess.run(
        [sys.executable, "-m", "datasets.verify", uri], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    assert f"digest {manifest_at(prepared).digest}" in verified.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_object_storage_that_is_away_for_60_s_costs_one_line_at_most_and_no_subject(
    prepared, raw, mortal_object_store, ray_folder, inline
):
    uri = mortal_object_store.store.uri("prepared")
    storage = open_storage(uri)
    process = subprocess.Popen(**command(ray_folder, raw, uri, "--workers", "1"), start_new_session=True)
    try:
        wait_until(lambda: storage.exists("sub-01/subject.json") or process.poll() is not None, 200)
        before = written_at(storage, "sub-01")
        mortal_object_store.kill()
        assert process.poll() is None
        time.sleep(STORE_SECONDS)
        mortal_object_store.start()
        _, told = process.communicate(timeout=200)
    finally:
        end_with_its_group(process, f"PREPARED_AT={uri}")
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    # Given up after 45 s, or the second subject was ready to be written too late for that.
    assert (process.returncode, len(errors)) in ((2, 1), (0, 0)), told
    assert all("run the same command again" in error for error in errors)
    assert inline(raw, uri).status == 0
    assert "Traceback" not in told
    expected = contents(prepared)
    assert storage.names() == sorted(expected)
    assert [name for name in storage.names() if storage.read(name) != expected[name]] == []
    assert written_at(storage, "sub-01") == before


def written_at(storage: Storage, folder: str) -> dict[str, int]:
    """Return when each object of a folder was written."""
    names = storage.names(folder)
    found = storage.filesystem.get_file_info([storage.path(name) for name in names])
    return {name: each.mtime_ns for name, each in zip(names, found, strict=True)}


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


def test_a_write_that_fails_leaves_no_part_of_a_file(raw, tmp_path):
    recordings = [recording for recording in find_recordings(raw) if recording.subject == "sub-01"]
    with files_no_larger_than(1_000_000), pytest.raises(OSError, match="File too large"):
        prepare_subject(recordings, str(tmp_path / "shards"), SETTINGS)
    assert contents(tmp_path / "shards") == {}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk that holds the first subject but not the second."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.root
@pytest.mark.slow
def test_a_full_disk_is_told_and_with_more_space_preparation_goes_on(prepared, raw, small_disk, ray_folder, inline):
    shards = small_disk / "shards"
    done = subprocess.run(**command(ray_folder, raw, shards), timeout=200)
    assert (done.returncode, done.stdout) == (2, "")
    *progress, last = done.stderr.splitlines()
    assert last.startswith("error: the disk is full: ")
    assert all("prepared sub-" in line for line in progress), done.stderr
    whole = contents(prepared)
    left = contents(shards)
    assert MANIFEST not in left
    assert left.items() <= whole.items()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert inline(raw, shards).status == 0
    assert contents(shards) == whole


@pytest.mark.slow
def test_affine_registration_is_recorded_and_covers_more_of_the_mask(study, prepared, tmp_path):
    recordings = [recording for recording in find_recordings(study) if recording.subject == "sub-01"][:1]
    settings = dataclasses.replace(SETTINGS, bold=BoldSettings(registration="affine"))
    record = prepare_subject(recordings, str(tmp_path), settings)
    assert record.alignment["method"] == "affine"
    assert not np.allclose(record.alignment["t1_to_mni"], np.eye(4))
    assert json.loads((tmp_path / "sub-01" / "subject.json").read_text())["alignment"] == record.alignment
    covered = pq.read_table(tmp_path / "sub-01" / "sub-01_maps.parquet")["coverage"].to_numpy().mean()
    assert covered > 0.9
