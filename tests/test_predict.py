"""A packaged model on EEG that it never saw: from shards, from arrays, from files of three formats."""

import functools
import json
from pathlib import Path

import mlflow
import mne
import nibabel
import numpy as np
import pytest
from scipy.signal import resample_poly
from small_study import NUM_CHANNELS, NUM_VOXELS, RATE_HZ, write_small_study

from datasets.command_line import run_command
from datasets.eeg import EegSettings, clean_eeg, fit_normaliser
from datasets.errors import BadInput
from datasets.recording import EegSignal
from datasets.shards import read_shard
from platform import predict as predict_module
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings
from platform.evidence.finalists import Finalist, mean_square_error
from platform.predict import checked_output, main, predict_file
from platform.prediction import new_eeg as new_eeg_module
from platform.prediction.new_eeg import rows_of, stretches_of
from platform.prediction.portable import PortableModel
from platform.scores.metrics import temporal_r
from platform.tracking.logged_model import Standing, alias_of
from platform.tracking.packaging import Package, filter_kernel, half_width, write_package
from platform.training.config import Epochs
from platform.training.fold_job import TrainedFold, train_fold, whole_model
from platform.training.fold_models import exported
from platform.training.job import Job
from platform.training.loop import Worker

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 5)]
FOLD = leave_one_subject_out(SUBJECTS, 0)[0]
SECONDS = 100
CONFIGURATIONS = [
    ("band_power", {"num_members": 2}),
    ("transformer", {"alignment": "euclidean"}),
    ("convolutional", {"norm": "subject"}),
    ("fully_connected", {"output_rank": 0, "alignment": "monge"}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSettings:
    folder = tmp_path_factory.mktemp("data")
    study = write_small_study(folder / "shards", subjects=4, volumes=70, coupling=2.0)
    return DataSettings(shards=str(study), cache_folder=str(folder / "cache"))


def packaged(
    data: DataSettings, folder: Path, architecture: str, configuration: dict[str, object]
) -> tuple[TrainedFold, PortableModel]:
    """Train a fold for an epoch, and package it as a fold's model."""
    whole = {"output_rank": 4, **configuration}
    epochs = Epochs(maximum=1, patience=1)
    job = Job(data=data, architecture=architecture, configuration=whole, epochs=epochs, seed=3, trial=0, fold=FOLD)
    trained = train_fold(job, Worker())
    shape = trained.data.model_shape(None)
    program = exported(whole_model(job, trained), shape.num_channels, shape.num_samples, subject=FOLD.test)
    width = np.full(NUM_VOXELS, 1.5, np.float32)
    package = Package(program=program, configuration=whole, trained_on=FOLD.training, half_width_V=width)
    write_package(folder, package, trained.data)
    return trained, PortableModel(folder)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory) -> PortableModel:
    return packaged(data, tmp_path_factory.mktemp("model") / "model", "band_power", {})[1]


@pytest.mark.parametrize(("architecture", "configuration"), CONFIGURATIONS, ids=lambda each: str(each))
def test_a_fold_model_scores_its_test_subject_exactly_as_the_fold_did(data, tmp_path, architecture, configuration):
    trained, model = packaged(data, tmp_path / "model", architecture, configuration)
    layout, weights_V = trained.data.manifest.layout, trained.products.weights_V
    shards = [read_shard(trained.data.storage, each, layout) for each in trained.data.manifest.of_subject(FOLD.test)]
    seen = [
        model.seen(each.eeg_RCS.transpose(1, 0, 2).reshape(NUM_CHANNELS, -1) * np.float32(layout.eeg_scale))
        for each in shards
    ]
    alignment_CC = model.alignment(seen)
    voxels = np.flatnonzero(weights_V)
    predictions = [np.concatenate(list(model.volumes(each, alignment_CC)))[:, voxels] for each in seen]
    runs = trained.data.runs(FOLD.test)
    targets = [trained.data.high_passed(run.targets[:, voxels].astype(np.float32)) for run in runs]
    score = temporal_r(predictions, targets, weights_V[voxels], layout.repetition_time_s)
    assert score == pytest.approx(trained.history.scores[-1][2], abs=1e-7)


def test_a_95_percent_interval_holds_about_95_percent_of_a_subject_that_was_never_seen(data):
    job = Job(
        data=data, architecture="band_power", configuration={"output_rank": 4}, epochs=Epochs(maximum=1, patience=1),
        seed=3, trial=0, fold=FOLD,
    )  # fmt: skip
    finalist = Finalist(trained=train_fold(job, Worker()))
    half_V = half_width([mean_square_error(finalist, FOLD.validation)])
    runs = finalist.data.runs(FOLD.test)
    inside = [np.abs(finalist.prediction(run) - run.targets.astype(np.float32)) <= half_V for run in runs]
    assert 0.90 < np.concatenate(inside).mean() < 0.97


def new_eeg(seconds: int = SECONDS, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Return EEG in microvolts whose channels share much, as on a head."""
    rng = np.random.default_rng(5)
    shared = rng.standard_normal(seconds * rate_hz)
    return (20 * shared + 10 * rng.standard_normal((NUM_CHANNELS, len(shared)))).astype(np.float32)


def raw_of(eeg_CN: np.ndarray, rate_hz: int = RATE_HZ, names: list[str] | None = None) -> mne.io.RawArray:
    names = names or [f"C{number}" for number in range(NUM_CHANNELS)]
    info = mne.create_info(names, float(rate_hz), "eeg")
    return mne.io.RawArray(eeg_CN.astype(np.float64) * 1e-6, info, verbose="error")


def written(folder: Path, ending: str, eeg_CN: np.ndarray | None = None) -> Path:
    """Write EEG in the format of an ending."""
    path = folder / f"new_eeg{ending}"
    eeg_CN = new_eeg() if eeg_CN is None else eeg_CN
    {".fif": write_fif, ".edf": write_edf, ".vhdr": write_brainvision}[ending](path, eeg_CN)
    return path


def write_fif(path: Path, eeg_CN: np.ndarray) -> None:
    raw_of(eeg_CN).save(path, overwrite=True, verbose="error")


def write_edf(path: Path, eeg_CN: np.ndarray) -> None:
    """Write plain EDF: a header of text, then one record a second, int16."""
    count, seconds = len(eeg_CN), eeg_CN.shape[1] // RATE_HZ
    limits = [[f"{value:<8}"] * count for value in ("uV", -200, 200, -32768, 32767)]
    names, rates = [f"{f'C{number}':<16}" for number in range(count)], [f"{RATE_HZ:<8}"] * count
    columns = [names, [" " * 80] * count, *limits, [" " * 80] * count, rates, [" " * 32] * count]
    size = 256 * (count + 1)
    head = f"{'0':<8}{'X X X X':<80}{'Startdate X X X X':<80}01.01.0100.00.00{size:<8}{'':<44}"
    head += f"{seconds:<8}{1:<8}{count:<4}"
    steps = np.round((eeg_CN + 200) / 400 * 65535 - 32768).astype("<i2").reshape(count, seconds, RATE_HZ)
    text = head + "".join("".join(column) for column in columns)
    path.write_bytes(text.encode() + steps.transpose(1, 0, 2).tobytes())


def write_brainvision(path: Path, eeg_CN: np.ndarray) -> None:
    """Write BrainVision: a header, no markers, and float32 in microvolts, channel by channel for each sample."""
    channels = "\n".join(f"Ch{number + 1}=C{number},,1,uV" for number in range(len(eeg_CN)))
    first = "Brain Vision Data Exchange"
    path.write_text(
        f"{first} Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile={path.stem}.eeg\n"
        f"MarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(eeg_CN)}\nSamplingInterval={1_000_000 // RATE_HZ}\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{channels}\n"
    )
    path.with_suffix(".vmrk").write_text(
        f"{first} Marker File, Version 1.0\n[Common Infos]\nDataFile={path.stem}.eeg\n[Marker Infos]\n"
    )
    path.with_suffix(".eeg").write_bytes(eeg_CN.T.astype("<f4").tobytes())


def test_an_array_is_treated_as_preparation_treats_it(model):
    eeg_CN = new_eeg()
    names = tuple(model.channel_names)
    signal = EegSignal(eeg_uv=eeg_CN, channel_names=names, locations_m=(None,) * len(names), rate_hz=RATE_HZ)
    settings = EegSettings()
    clean = clean_eeg(signal, settings)
    expected = fit_normaliser([clean.eeg], settings, RATE_HZ)(clean.eeg)
    np.testing.assert_allclose(model.prepared(eeg_CN, RATE_HZ), expected, atol=2e-4)


def test_a_kernel_has_the_gain_of_its_filter():
    kernel = filter_kernel(EegSettings(high_pass_hz=1.0, notch_hz=50.0), RATE_HZ)
    gain = np.abs(np.fft.rfft(kernel, RATE_HZ * 10))
    assert kernel == pytest.approx(kernel[::-1], abs=1e-6)
    assert gain[[0, 500]] == pytest.approx(0, abs=0.01)
    assert gain[[100, 400]] == pytest.approx(1, abs=0.01)


def test_the_image_holds_what_the_model_predicts_where_its_voxels_lie(model, tmp_path):
    eeg, output = written(tmp_path, ".fif"), tmp_path / "bold.nii.gz"
    paths = predict_file(model, eeg, output, name="models:/m/1")
    assert [path.name for path in paths] == ["bold.nii.gz", "bold.json", "bold_interval.nii.gz"]
    image = nibabel.load(output)
    assert image.shape == (*model.description["grid_shape"], SECONDS // 2 - 15)
    assert image.header.get_zooms()[3] == 2.0
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_array_equal(image.affine, np.array(model.description["grid_affine"]))
    volumes = np.asarray(image.dataobj)
    x, y, z = model.voxel_indices.T
    np.testing.assert_allclose(volumes[x, y, z].T, model.predict(new_eeg()), atol=2e-3)
    interval = np.asarray(nibabel.load(paths[2]).dataobj)
    assert set(interval[x, y, z].tolist()) == {1.5}
    told = json.loads(paths[1].read_text())
    assert (told["RepetitionTime"], told["FirstVolumeSeconds"], told["RawSources"]) == (2.0, 31.0, ["new_eeg.fif"])
    assert "not a measurement" in told["Description"]


def test_three_formats_of_the_same_eeg_give_the_same_volumes(model, tmp_path):
    found = []
    for ending in (".fif", ".edf", ".vhdr"):
        output = tmp_path / f"{ending[1:]}.nii.gz"
        predict_file(model, written(tmp_path, ending), output, name="")
        found.append(np.asarray(nibabel.load(output).dataobj))
    assert np.abs(found[0]).max() > 0.01
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-3)


def nan_stretch() -> np.ndarray:
    eeg_CN = new_eeg()
    eeg_CN[1, 1000:1250] = np.nan
    return eeg_CN


@pytest.mark.parametrize(
    ("eeg_CN", "message"),
    [
        (nan_stretch(), r"channels C1 .*4.000 s and 5.000 s are NaN"),
        (new_eeg(seconds=31), "must last 32 s or more to predict a volume, but lasts 31 s"),
    ],
    ids=["a NaN stretch", "too short"],
)
def test_eeg_that_cannot_be_used_is_refused_and_nothing_is_written(model, tmp_path, eeg_CN, message):
    eeg = written(tmp_path, ".fif", eeg_CN)
    with pytest.raises(BadInput, match=message):
        predict_file(model, eeg, tmp_path / "bold.nii.gz", name="")
    assert [path.name for path in tmp_path.iterdir()] == [eeg.name]


def test_another_rate_gives_the_same_volumes_down_to_the_one_that_the_model_sees(model, tmp_path):
    seen_hz = round(model.description["rate_hz"])
    slow_CN = new_eeg(rate_hz=seen_hz)
    found = []
    for rate_hz in (seen_hz, RATE_HZ, 2 * RATE_HZ):
        eeg, output = tmp_path / f"{rate_hz}.fif", tmp_path / f"{rate_hz}.nii.gz"
        raw_of(resample_poly(slow_CN, rate_hz // seen_hz, 1, axis=1), rate_hz).save(eeg, verbose="error")
        predict_file(model, eeg, output, name="")
        found.append(np.asarray(nibabel.load(output).dataobj).ravel())
    for other in found[1:]:
        assert np.corrcoef(found[0], other)[0, 1] > 0.99


def test_a_rate_below_what_the_model_sees_is_refused(model, tmp_path):
    raw_of(new_eeg(rate_hz=100), 100).save(tmp_path / "slow.fif", verbose="error")
    with pytest.raises(BadInput, match="has 100 samples per second, but this model sees 125"):
        predict_file(model, tmp_path / "slow.fif", tmp_path / "bold.nii.gz", name="")


def test_a_file_that_is_no_eeg_is_refused(model, tmp_path):
    broken = tmp_path / "eeg.edf"
    broken.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="mne cannot read"):
        predict_file(model, broken, tmp_path / "bold.nii.gz", name="")


def test_channels_are_found_by_name_and_too_few_are_refused():
    assert rows_of(["EEG fz", "Cz", "ECG"], ["CZ", "Fz"]) == {"CZ": 1, "Fz": 0}
    assert rows_of(["A", "B", "C"], ["A", "B", "C", "D"]) == {"A": 0, "B": 1, "C": 2}
    with pytest.raises(BadInput, match="lacks 2 of the model's 4 channels: C, D"):
        rows_of(["A", "B"], ["A", "B", "C", "D"])


def test_stretches_cover_a_recording_once_and_see_beside_themselves():
    stretches = stretches_of(1500.5, margin_s=8.0, stretch_s=600.0)
    assert [(each.start_s, each.stop_s) for each in stretches] == [(0.0, 600.0), (600.0, 1500.5)]
    assert [(each.read_from_s, each.read_to_s) for each in stretches] == [(0.0, 608.0), (592.0, 1500.5)]


def test_a_recording_treated_in_stretches_is_seen_as_when_treated_whole(model, tmp_path, monkeypatch):
    eeg = written(tmp_path, ".fif", new_eeg(seconds=101))
    with new_eeg_module.seen_eeg(eeg, model) as whole_CS:
        expected = np.array(whole_CS, np.float32)
    monkeypatch.setattr(new_eeg_module, "stretches_of", functools.partial(stretches_of, stretch_s=33.0))
    with new_eeg_module.seen_eeg(eeg, model) as found_CS:
        np.testing.assert_allclose(np.array(found_CS, np.float32), expected, atol=5e-3)


def test_a_champion_gives_way_only_to_a_better_score_on_the_same_data():
    old = Standing(score=0.2, data="a")
    assert alias_of(Standing(score=0.1, data="a"), None) == "champion"
    assert alias_of(Standing(score=0.3, data="a"), old) == "champion"
    assert alias_of(Standing(score=0.2, data="a"), old) == "challenger"
    assert alias_of(Standing(score=0.9, data="b"), old) == "challenger"


def test_half_an_interval_is_two_standard_errors_of_prediction():
    assert half_width([np.full(2, 1.0), np.full(2, 3.0)]) == pytest.approx(1.96 * np.sqrt(2))


@pytest.mark.parametrize("given", ["bold.nii", "/nowhere/at/all/bold.nii.gz"])
def test_an_output_that_cannot_be_is_refused(given):
    with pytest.raises(BadInput, match="--output must"):
        checked_output(given)


def without(eeg_CN: np.ndarray, missing: list[int], folder: Path) -> Path:
    """Write EEG that lacks some channels."""
    left = [row for row in range(NUM_CHANNELS) if row not in missing]
    path = folder / "fewer_eeg.fif"
    raw_of(eeg_CN[left], names=[f"C{row}" for row in left]).save(path, overwrite=True, verbose="error")
    return path


def test_a_missing_channel_is_filled_and_the_volumes_stay_near(model, tmp_path):
    """What is missing is what its neighbours say: the other channels share much of its signal."""
    whole, output = written(tmp_path, ".fif"), tmp_path / "bold.nii.gz"
    predict_file(model, whole, output, name="")
    expected = np.asarray(nibabel.load(output).dataobj)
    predict_file(model, without(new_eeg(), [1], tmp_path), output, name="")
    found = np.asarray(nibabel.load(output).dataobj)
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert np.corrcoef(found[expected != 0], expected[expected != 0])[0, 1] > 0.5


def test_too_many_missing_channels_are_refused_and_nothing_is_written(model, tmp_path):
    eeg = without(new_eeg(), list(range(1, NUM_CHANNELS)), tmp_path)
    with pytest.raises(BadInput, match=f"lacks {NUM_CHANNELS - 1} of the model's {NUM_CHANNELS} channels"):
        predict_file(model, eeg, tmp_path / "bold.nii.gz", name="")
    assert [path.name for path in tmp_path.iterdir()] == [eeg.name]


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["predict", *arguments])
    return run_command(main)


def test_the_command_ends_with_0_where_it_wrote_and_with_2_where_it_refused(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict_module, "fetch", lambda *_: model.folder)
    given = ["--model", "models:/m@champion", "--output", str(tmp_path / "bold.nii.gz"), "--tracking", "sqlite://"]
    assert status_of(monkeypatch, *given, "--eeg", str(written(tmp_path, ".fif"))) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "bold.nii.gz")
    assert status_of(monkeypatch, *given, "--eeg", str(tmp_path / "nothing.fif")) == 2
    refusal = capsys.readouterr().err.splitlines()
    assert len(refusal) == 1
    assert refusal[0].startswith("error: no EEG at")


def test_an_unreachable_server_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    try:
        status = status_of(
            monkeypatch, "--model", "models:/m@champion", "--eeg", "e.fif", "--output", str(tmp_path / "bold.nii.gz"),
            "--tracking", "http://127.0.0.1:9",
        )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(before)
    refusal = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(refusal) == 1
    assert "cannot fetch models:/m@champion from http://127.0.0.1:9" in refusal[0]
    assert list(tmp_path.iterdir()) == []


def test_a_new_score_is_no_champion_where_it_was_not_corrected_or_is_a_controls():
    old = Standing(score=0.2, data="a")
    assert alias_of(Standing(score=None, data="a"), old) == "challenger"
    assert alias_of(Standing(score=0.9, data="a", is_control=True), None) == ""
    assert alias_of(Standing(score=0.1, data="a"), Standing(score=None, data="a")) == "champion"
