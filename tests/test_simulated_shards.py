"""The fast mode writes shards as preparation leaves them: the same bytes every time, with the link asked for."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.command_line import run_command
from datasets.confounds import PHYSIOLOGY_NAMES
from datasets.errors import BadInput
from datasets.grid import mask_points_mm, tissue_mask
from datasets.shards import check_files, read_manifest, read_shard, read_table
from datasets.simulate import main
from datasets.simulator.shards import MOTION_NAMES, TISSUE_NAMES, simulate_shards
from datasets.simulator.study import SimulationSettings, truth_folder
from datasets.simulator.truth import planted_signal
from datasets.storage import open_storage

SMALL = SimulationSettings(subjects=2, runs=2, volumes=40, seed=3)
RATE_HZ = 250


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fast") / "shards"
    simulate_shards(folder, SMALL, 1, RATE_HZ)
    return folder


def test_the_manifest_vouches_for_every_file(shards: Path) -> None:
    storage = open_storage(shards)
    manifest = read_manifest(storage)
    assert check_files(storage, manifest) == []
    assert [(shard.subject, shard.task, shard.run, shard.rows) for shard in manifest.shards] == [
        (f"sub-0{subject}", task, 1, 40) for subject in (1, 2) for task in ("auditory", "visual")
    ]
    assert manifest.pipeline["simulated"]["signal"] == "easy"


def test_shards_are_normalised_as_preparation_normalises(shards: Path) -> None:
    storage = open_storage(shards)
    manifest = read_manifest(storage)
    read = [read_shard(storage, entry, manifest.layout) for entry in manifest.of_subject("sub-01")]
    steps = np.concatenate([shard.eeg_RCS.transpose(1, 0, 2).reshape(34, -1) for shard in read], axis=1)
    np.testing.assert_allclose(steps.std(axis=1) * manifest.layout.eeg_scale, 1, atol=0.01)
    assert read[0].eeg_RCS.shape == (40, 34, 2 * RATE_HZ)
    bold_RV = read[0].bold_RV * manifest.layout.scale
    np.testing.assert_allclose(bold_RV.std(axis=0), 1, atol=0.01)
    np.testing.assert_allclose(bold_RV.mean(axis=0), 0, atol=0.01)


def test_confounds_have_the_columns_of_preparation(shards: Path) -> None:
    storage = open_storage(shards)
    entry = read_manifest(storage).shards[0]
    table = read_table(storage, entry.confounds)
    names = ["volume", *PHYSIOLOGY_NAMES, *MOTION_NAMES, "framewise_displacement", *TISSUE_NAMES]
    assert table.column_names == names
    values = np.array([table[name].to_numpy() for name in names[1:]])
    assert np.isfinite(values).all()
    assert 45 < values[0].mean() < 95, "beats a minute"


def test_the_planted_signal_lies_where_the_truth_says(shards: Path) -> None:
    storage = open_storage(shards)
    manifest = read_manifest(storage)
    points = mask_points_mm(tissue_mask())
    planted = planted_signal(truth_folder(shards) / "sub001", "task002_run001", points, 2.0 * np.arange(40) + 1)
    bold = read_shard(storage, manifest.of_subject("sub-01")[1], manifest.layout).bold_RV
    strong = planted.std(axis=0) > 0.5 * planted.std(axis=0).max()
    found = [np.corrcoef(planted[:, voxel], bold[:, voxel])[0, 1] for voxel in np.flatnonzero(strong)[::10]]
    assert np.mean(found) > 0.5


def test_a_thinned_study_is_the_same_study_at_fewer_places(shards: Path, tmp_path: Path) -> None:
    simulate_shards(tmp_path / "thin", SMALL, 1, RATE_HZ, every=4)
    storage = open_storage(tmp_path / "thin")
    manifest, whole = read_manifest(storage), read_manifest(open_storage(shards))
    voxels = read_table(storage, manifest.files[0])
    indices = np.stack([voxels[axis].to_numpy() for axis in "ijk"], axis=1)
    np.testing.assert_array_equal(indices, [place for place in np.argwhere(tissue_mask()) if not (place % 4).any()])
    thin = read_shard(storage, manifest.of_subject("sub-01")[1], manifest.layout)
    full = read_shard(open_storage(shards), whole.of_subject("sub-01")[1], whole.layout)
    np.testing.assert_array_equal(thin.eeg_RCS, full.eeg_RCS)
    points = np.stack([voxels[f"{axis}_mm"].to_numpy() for axis in "xyz"], axis=1)
    planted = planted_signal(
        truth_folder(tmp_path / "thin") / "sub001", "task002_run001", points, 2.0 * np.arange(40) + 1
    )
    strong = np.flatnonzero(planted.std(axis=0) > 0.5 * planted.std(axis=0).max())
    assert np.mean([np.corrcoef(planted[:, voxel], thin.bold_RV[:, voxel])[0, 1] for voxel in strong]) > 0.5


def test_two_workers_of_one_thread_write_the_same_bytes_and_a_complete_study_is_left_alone(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    simulate_shards(tmp_path / "shards", SMALL, 2, RATE_HZ)
    before = digests(shards)
    assert digests(tmp_path / "shards") == before
    assert digests(truth_folder(tmp_path / "shards")) == digests(truth_folder(shards))
    simulate_shards(shards, SMALL, 1, RATE_HZ)
    assert digests(shards) == before


def test_other_contents_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds other shards"):
        simulate_shards(shards, replace(SMALL, signal="hard"), 1, RATE_HZ)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BadInput, match="new or empty folder"):
        simulate_shards(tmp_path, SMALL, 1, RATE_HZ)
    with pytest.raises(BadInput, match="--eeg-rate must be at least 200"):
        simulate_shards(tmp_path / "new", SMALL, 1, 100)


def global_correlation(folder: Path, signal: str) -> float:
    """Return how EEG's alpha power, delayed by 6 s, goes with the global signal: mean over runs."""
    simulate_shards(folder, SimulationSettings(subjects=2, runs=2, volumes=100, signal=signal), 1, RATE_HZ)
    storage = open_storage(folder)
    manifest, found = read_manifest(storage), []
    for entry in manifest.shards:
        eeg = read_shard(storage, entry, manifest.layout).eeg_RCS.astype(np.float64)
        spectrum = np.abs(np.fft.rfft(eeg * np.hanning(eeg.shape[2]), axis=2)) ** 2
        alpha = np.log(spectrum[:, 22:, 16:25].mean(axis=(1, 2)))
        whole = read_table(storage, entry.confounds)["global_signal"].to_numpy()
        delayed = np.convolve(alpha - alpha.mean(), [0, 0.25, 0.4, 0.25, 0.1])[: len(alpha)]
        found.append(np.corrcoef(delayed[8:], whole[8:])[0, 1])
    return float(np.mean(found))


def test_a_trap_couples_the_global_signal_to_the_eeg_and_none_does_not(tmp_path: Path) -> None:
    assert -0.5 < global_correlation(tmp_path / "trap", "trap") < -0.15
    assert abs(global_correlation(tmp_path / "none", "none")) < 0.12


def test_the_command_names_the_shards(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", str(shards), "--fast", "--subjects=2", "--runs=2", "--volumes=40", "--seed=3"]
    monkeypatch.setattr("sys.argv", words)
    assert run_command(main) == 0
    assert f"shards: {shards}" in capsys.readouterr().out
