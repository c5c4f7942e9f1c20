"""Maps of the brain: r per voxel as a slow implementation has it, kept and read again, shown and given in a report."""

import base64
import gzip
import json
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from platform.evidence.brain_maps import BrainMaps, brain_maps, keep_brain_maps, kept_brain_maps, maps_name
from platform.report_pages.brain_section import MAPS, brain_section
from platform.report_pages.page import whole_page

SHAPE = (10, 12, 9)
AFFINE = np.array([[12.0, 0, 0, -54], [0, 12, 0, -80], [0, 0, 12, -40], [0, 0, 0, 1]])
NUM_VOXELS, NUM_WINDOWS, REPETITION_TIME_S = 40, 90, 2.0
NUM_GREY = 25
INDICES = np.stack(np.unravel_index(np.arange(200, 200 + NUM_VOXELS), SHAPE), axis=1)


def data_of(runs) -> SimpleNamespace:
    layout = SimpleNamespace(repetition_time_s=REPETITION_TIME_S, grid_shape=SHAPE, grid_affine=AFFINE.tolist())
    return SimpleNamespace(
        runs=lambda _: [SimpleNamespace(targets=run) for run in runs],
        manifest=SimpleNamespace(layout=layout),
        voxel_indices=INDICES,
        grey_matter=np.arange(NUM_VOXELS) < NUM_GREY,
    )


def made_up(seed: int) -> tuple[BrainMaps, list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    runs = [rng.standard_normal((NUM_WINDOWS, NUM_VOXELS)).astype(np.float32) for _ in range(2)]
    predictions = [(run + 2 * rng.standard_normal(run.shape)).astype(np.float32) for run in runs]
    return brain_maps(data_of(runs), "sub-01", iter(predictions)), runs, predictions


def without_slow_parts(series: np.ndarray) -> np.ndarray:
    """Return what is left of a series after least squares on a constant and cosines slower than 128 s."""
    times = np.arange(len(series))
    number = int(2 * len(series) * REPETITION_TIME_S / 128)
    design = np.stack([np.cos(np.pi * k * (times + 0.5) / len(series)) for k in range(number + 1)], axis=1)
    return series - design @ np.linalg.lstsq(design, series, rcond=None)[0]


def test_r_is_that_of_each_voxel_and_run():
    maps, runs, predictions = made_up(1)
    for voxel in (0, 17, NUM_VOXELS - 1):
        each = [
            np.corrcoef(without_slow_parts(run[:, voxel]), without_slow_parts(predicted[:, voxel]))[0, 1]
            for run, predicted in zip(runs, predictions, strict=True)
        ]
        assert maps.r_V[voxel] == pytest.approx(np.mean(each), abs=1e-5)


def test_values_lie_where_their_voxels_do():
    maps, _, predictions = made_up(2)
    volume = maps.on_grid(maps.prediction_V)
    assert volume[tuple(INDICES[7])] == predictions[0][NUM_WINDOWS // 2, 7]
    assert np.isfinite(volume).sum() == NUM_VOXELS


def test_maps_come_back_as_they_were_kept(tmp_path):
    maps, _, _ = made_up(3)
    keep_brain_maps(str(tmp_path), maps_name("digest"), maps)
    again = kept_brain_maps(str(tmp_path), maps_name("digest"))
    assert again is not None and again.grid_shape == SHAPE
    for name in ("r_V", "target_V", "prediction_V", "is_grey_V", "indices_V3", "affine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(maps, name))
    assert kept_brain_maps(str(tmp_path), maps_name("other")) is None


def studied(folder, trial: int = 4) -> SimpleNamespace:
    names = {str(fold): f"{fold}.npz" for fold in range(3)}
    for fold, name in enumerate(names.values()):
        keep_brain_maps(str(folder), name, made_up(fold)[0])
    noted = {MAPS: {"trial": trial, "storage": str(folder), "names": names}}
    return SimpleNamespace(
        ledger=SimpleNamespace(noted=noted.get),
        winner=SimpleNamespace(number=4),
        nested={},
        test={0: 0.1, 1: 0.3, 2: 0.2},
        tested={0: "sub-01", 1: "sub-02", 2: "sub-03"},
    )


def test_a_report_shows_the_best_the_median_and_the_worst_subject_and_carries_all_maps(tmp_path):
    page = whole_page("maps", "", [brain_section(studied(tmp_path))])
    order = [page.index(each) for each in ("Best: sub-02", "Median: sub-03", "Worst: sub-01")]
    assert order == sorted(order)
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]{2000,}" alt="[^"]{20,}"', page)) == 6
    for fold, subject in enumerate(("sub-01", "sub-02", "sub-03")):
        link = re.search(rf'href="data:application/gzip;base64,([^"]*)" download="{subject}_stat-r', page)[1]
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(link)))
        expected = made_up(fold)[0]
        np.testing.assert_array_equal(image.get_fdata()[tuple(INDICES.T)].astype(np.float32), expected.r_V)
        np.testing.assert_allclose(image.affine, AFFINE)


def test_r_is_told_of_grey_and_of_white_matter_by_subject(tmp_path):
    page = whole_page("maps", "", [brain_section(studied(tmp_path))])
    drawn = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])["figure-tissue"]["data"]
    for at, name in enumerate(("grey matter", "white matter")):
        voxels = slice(0, NUM_GREY) if at == 0 else slice(NUM_GREY, None)
        assert (drawn[at]["name"], drawn[at]["y"]) == (name, ["sub-01", "sub-02", "sub-03"])
        assert drawn[at]["x"] == pytest.approx([made_up(fold)[0].r_V[voxels].mean() for fold in range(3)])


def test_maps_that_were_kept_before_tissues_were_are_shown_without_them(tmp_path):
    found = studied(tmp_path)
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as kept:
            fields = {key: kept[key] for key in kept.files if key != "is_grey_V"}
        np.savez(path, **fields)
    page = whole_page("maps", "", [brain_section(found)])
    assert "Best: sub-02" in page and "figure-tissue" not in page


def test_maps_of_an_earlier_winner_are_not_shown(tmp_path):
    page = whole_page("maps", "", [brain_section(studied(tmp_path, trial=3))])
    assert "No maps are stored" in page and "<img" not in page
