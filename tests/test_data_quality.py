"""Figures of quality by subject: what the tables beside the shards say, worked out anew."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_study import NUM_VOXELS, write_small_study

from platform.data.products import DataSettings, StudyData
from platform.data.quality import FIGURES, data_quality


def opened(folder, **settings) -> StudyData:
    shards = write_small_study(folder / "shards", subjects=2, volumes=20, **settings)
    return StudyData(DataSettings(shards=str(shards), cache_folder=str(folder / "cache")))


def test_figures_are_those_of_the_tables_beside_the_shards(tmp_path):
    found = data_quality(opened(tmp_path, pulse=0.1))
    assert list(found) == ["sub-01", "sub-02"]
    for subject, figures in found.items():
        folder = tmp_path / "shards" / subject
        maps = pq.read_table(folder / f"{subject}_maps.parquet").to_pydict()
        runs = [pq.read_table(path).to_pydict() for path in sorted(folder.glob("*_confounds.parquet"))]
        assert len(runs) == 2
        ratios = [maps["mean"][at] / maps["standard_deviation"][at] for at in range(NUM_VOXELS)]
        expected = {
            "displacement_mm": np.mean([np.mean(run["framewise_displacement"]) for run in runs]),
            "coverage": 1.0,
            "tsnr": np.median(ratios),
        }
        assert figures == pytest.approx(expected)
        assert set(figures) <= set(FIGURES)


def test_shards_without_tables_beside_them_have_no_figures(tmp_path):
    assert data_quality(opened(tmp_path)) == {"sub-01": {}, "sub-02": {}}
