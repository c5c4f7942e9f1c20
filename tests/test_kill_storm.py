"""A study whose driver, workers and Ray head are killed again and again ends as if nobody had touched it."""

import random
from pathlib import Path

import pytest
from kill_storm import (
    DRIVER,
    HEAD,
    WORKER,
    Storm,
    lost_after_commit,
    planned,
    run_again_after_commit,
    storm_over,
    undisturbed,
)
from standin_study import table_of

pytestmark = pytest.mark.cluster


def check_nothing_is_lost(storm: Storm, folder: Path, **fields: object) -> None:
    """Compare the study under fire with one that nobody disturbed."""
    assert not lost_after_commit(storm.standin)
    assert not run_again_after_commit(storm.standin)
    assert table_of(storm.standin) == table_of(undisturbed(folder / "undisturbed", **fields))


@pytest.mark.timeout(900)
def test_six_kills_lose_nothing_and_run_nothing_again(tmp_path):
    rng = random.Random(5)
    fields = {"num_trials": 5, "seconds": 0.3}
    storm = storm_over(tmp_path, planned(4, 1, 1, rng), 5, **fields)
    storm.run()
    assert sum(storm.killed.values()) == 6
    assert set(storm.killed) == {WORKER, DRIVER, HEAD}
    check_nothing_is_lost(storm, tmp_path, **fields)


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_two_hundred_kills_lose_nothing_and_run_nothing_again(tmp_path):
    rng = random.Random(200)
    fields = {"num_trials": 220, "seconds": 0.4}
    storm = storm_over(tmp_path, planned(160, 30, 10, rng), 200, **fields)
    storm.run()
    assert sum(storm.killed.values()) == 200
    check_nothing_is_lost(storm, tmp_path, **fields)
