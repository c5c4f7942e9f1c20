"""More demand than slots: worker groups never wait for each other's processors."""

import pytest
from searching import search, table
from small_study import write_small_study

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.slow
def test_more_jobs_of_worker_groups_than_fit_end_all_the_same(tmp_path):
    shards = str(write_small_study(tmp_path / "shards", volumes=40))
    printed = search(
        tmp_path / "home", "transformer", "--shards", shards, "--trials", "2", "--commit-lag", "1", "--cpus", "2",
        "--max-epochs", "1", "--concurrency", "8", "--workers-per-trial", "2", "--racing", "none", "--finalists", "0",
        "--no-finalist-scores",
    )  # fmt: skip
    assert "2 trials (2 on all folds)" in printed
    records = [key for key in table(tmp_path / "home")["records"] if "/COMPLETE/fold/" in key]
    assert len(records) == 2 * 5
