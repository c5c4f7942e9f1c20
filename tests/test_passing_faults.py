"""A disk or a network drive that fails for a moment: the run is left out for now, and the same command tries it again.

The fault is the kernel's own: reading ``/proc/self/mem`` at its start answers EIO.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_recordings import bold_path, eeg_path, write_small_recordings
from test_bad_recordings import NAME, OTHER_NAME, OTHER_RUN, RUN, Prepare, without_ray

from datasets import derivatives
from datasets.bids import files as bids_files
from datasets.derivatives import FMRIPREP_SPACES, use_fmriprep
from datasets.eeg import EegSettings
from datasets.errors import BadInput, may_pass
from datasets.oddball import find_recordings
from datasets.reading import read_run
from datasets.shards import read_manifest
from datasets.storage import open_storage

FAULTY = Path("/proc/self/mem")

pytestmark = pytest.mark.skipif(not FAULTY.exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_small_recordings(tmp_path_factory.mktemp("sound") / "raw", runs=(RUN, OTHER_RUN))


@pytest.fixture
def raw(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "raw"))


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepare]:
    with without_ray() as run:
        yield run


@pytest.fixture(scope="module")
def undisturbed(sound, prepared, tmp_path_factory) -> dict[str, bytes]:
    shards = tmp_path_factory.mktemp("undisturbed") / "shards"
    assert prepared(sound, shards)[0] == 0
    return contents(shards)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def take_away(path: Path) -> Callable[[], object]:
    """Make reading a file fail; return what gives it back."""
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(FAULTY)
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EIO
    return lambda: shutil.move(aside, path)


@pytest.mark.parametrize("path_of", [eeg_path, bold_path])
def test_a_run_that_could_not_be_read_is_tried_again_by_the_same_command(raw, prepared, undisturbed, tmp_path, path_of):
    give_back = take_away(path_of(raw, 1, RUN))
    shards = tmp_path / "shards"
    status, printed, _ = prepared(raw, shards)
    assert status == 1
    (skipped,) = read_manifest(open_storage(shards)).skipped
    assert skipped.recording == NAME
    assert "Input/output error; this may pass: the same command tries it again" in skipped.reason
    assert "download" not in skipped.reason
    assert f"skipped {NAME}: {skipped.reason}" in printed
    give_back()
    status, printed, logged = prepared(raw, shards)
    assert (status, "prepared: 2 shards of 1 subjects" in printed) == (0, True), logged
    assert f"sub-01: {NAME} could not be read; trying again" in logged
    assert contents(shards) == undisturbed


def test_while_it_fails_it_is_tried_each_time_and_the_rest_stays(raw, prepared, tmp_path):
    take_away(eeg_path(raw, 1, OTHER_RUN))
    shards = tmp_path / "shards"
    assert prepared(raw, shards)[0] == 1
    before = contents(shards)
    status, printed, _ = prepared(raw, shards)
    assert status == 1 and "nothing was done" not in printed
    assert contents(shards) == before
    assert json.loads(before["sub-01/subject.json"])["try_again"] == [OTHER_NAME]


def test_a_damaged_file_is_not_tried_again(raw, prepared, tmp_path):
    path = eeg_path(raw, 1, RUN)
    path.write_bytes(path.read_bytes()[:1000])
    shards = tmp_path / "shards"
    assert prepared(raw, shards)[0] == 1
    assert "try_again" not in json.loads((shards / "sub-01" / "subject.json").read_text())
    assert "nothing was done" in prepared(raw, shards)[1]


def test_where_no_run_can_be_read_it_is_said_in_one_line_and_tried_again(raw, prepared, tmp_path):
    give_back = [take_away(bold_path(raw, 1, run)) for run in (RUN, OTHER_RUN)]
    status, printed, errors = prepared(raw, tmp_path / "shards")
    assert (status, printed) == (2, "")
    assert "error: no recording could be prepared" in errors and "the same command tries it again" in errors
    for give in give_back:
        give()
    assert prepared(raw, tmp_path / "shards")[0] == 0


def test_a_fault_that_was_seen_while_runs_were_looked_for_may_pass_too(raw, tmp_path, monkeypatch):
    (recording, _) = find_recordings(raw)
    name = f"sub-01_task-auditoryoddball_run-01_space-{FMRIPREP_SPACES[0]}_desc-preproc_bold.nii.gz"
    place = tmp_path / "out" / "sub-01" / "func"
    place.mkdir(parents=True)
    for run in ("01", "02"):
        shutil.copy(bold_path(raw, 1, RUN), place / name.replace("run-01", f"run-{run}"))
    monkeypatch.setattr(derivatives, "_replaced", lambda recordings, outputs, _: [
        derivatives._with(each, outputs.get(each.name), "") for each in recordings
    ])  # fmt: skip
    take_away(place / name)
    (used,) = use_fmriprep([recording], tmp_path / "out")
    assert used.fault_may_pass and "Input/output error" in used.fault
    with pytest.raises(BadInput) as caught:
        read_run(used, EegSettings())
    assert may_pass(caught.value)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_errors_that_may_pass_are_told_from_those_that_will_not(number, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bids_files.Path, "read_text", refuse)
    with pytest.raises(BadInput) as caught:
        bids_files.read_json(tmp_path / "a.json")
    assert may_pass(caught.value)
    assert not may_pass(FileNotFoundError(errno.ENOENT, "gone"))
    assert not may_pass(BadInput("it has no EEG"))
