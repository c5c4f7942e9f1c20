"""The arena: tables with their truth, ours and the peers under one clock, ranks."""

import dataclasses

import numpy as np
import pytest

from benchmarks.arena import __main__ as arena
from benchmarks.arena.clock import play
from benchmarks.arena.peers import PEERS, missing
from benchmarks.arena.ranks import critical_difference, friedman_p, mean_ranks
from benchmarks.arena.rules import Ours, most_scored
from benchmarks.arena.tables import NUM_FOLDS, NUM_ROWS, TABLES, Rows, TableSettings, generate
from platform.racing import RACINGS

NUM_TRIALS = 10


@pytest.mark.parametrize("settings", TABLES, ids=lambda settings: settings.name)
def test_the_same_seed_gives_the_same_table(settings):
    one, other = generate(settings, 3), generate(settings, 3)
    assert one.scores_TF.shape == (NUM_ROWS, NUM_FOLDS)
    assert np.array_equal(one.scores_TF, other.scores_TF)
    assert not np.array_equal(one.scores_TF, generate(settings, 4).scores_TF)


def test_noise_is_as_large_as_it_is_called():
    for noise in (0.5, 3.0):
        tables = [generate(TableSettings(name="", noise=noise), seed) for seed in range(20)]
        left = [table.scores_TF - table.effects_T[:, None] for table in tables]
        found = np.mean([(each - each.mean(axis=0)).std() for each in left])
        assert found == pytest.approx(noise, rel=0.05)


def test_a_row_is_taken_once():
    table = generate(TABLES[0], 0)
    rows = Rows(table)
    taken = [rows.take([0.5, 0.5, 0.5]) for _ in range(NUM_ROWS)]
    assert sorted(taken) == list(range(NUM_ROWS))


def test_the_best_mean_over_the_most_folds_is_recommended():
    assert most_scored([{0: 9.0}, {0: 1.0, 1: 1.0}, {0: 2.0, 1: 1.0}]) == 2
    assert most_scored([{}]) is None


@pytest.mark.parametrize("racing", RACINGS)
def test_ours_plays_a_whole_study(racing):
    table = generate(TABLES[0], 1)
    played = play(table, Ours(table, 1, racing, "random", NUM_TRIALS))
    assert played.num_jobs <= NUM_TRIALS * NUM_FOLDS
    assert (played.num_jobs == NUM_TRIALS * NUM_FOLDS) == (racing == "none")
    assert played.moments_s == sorted(played.moments_s)


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_plays_a_whole_study(name):
    if missing(name):
        pytest.skip(f"{name} needs the dependency group arena")
    table = generate(TABLES[0], 1)
    played = play(table, PEERS[name][1](table, 1, NUM_TRIALS))
    assert NUM_TRIALS <= played.num_jobs <= NUM_TRIALS * NUM_FOLDS


def test_without_noise_every_rule_on_all_folds_finds_the_best_row_that_it_tried():
    table = generate(TABLES[0], 2)
    table = dataclasses.replace(table, scores_TF=np.repeat(table.effects_T[:, None], NUM_FOLDS, axis=1))
    rule = Ours(table, 2, "none", "random", NUM_TRIALS)
    played = play(table, rule)
    assert played.regrets[-1] == min(table.regret(rule.row(trial)) for trial in range(NUM_TRIALS))


def test_more_slots_take_less_time_for_the_same_jobs():
    table = generate(TABLES[0], 1)
    one, four = (play(table, PEERS["random, all folds"][1](table, 1, NUM_TRIALS), slots) for slots in (1, 4))
    assert one.num_jobs == four.num_jobs
    assert four.moments_s[-1] < one.moments_s[-1] / 2


def test_ranks_share_ties_and_differ_where_one_rule_always_wins():
    values_NR = np.array([[0.0, 1.0, 1.0], [0.1, 0.5, 0.7], [0.2, 0.9, 0.8], [0.0, 0.3, 0.3]])
    assert mean_ranks(values_NR).tolist() == [1.0, 2.5, 2.5]
    assert friedman_p(values_NR) < 0.05
    assert friedman_p(np.zeros((4, 3))) == 1.0
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)  # Demsar 2006, section 3.2.2's 4 and 14


def test_what_was_not_played_is_listed(monkeypatch):
    monkeypatch.setitem(PEERS, "Nobody's rule", (("no_such_module",), PEERS["random, all folds"][1]))
    wanted = ("ours, none", "ours, paired", arena.FULL)
    making = {name: make for name, make in arena.rules(is_quick=True).items() if name in wanted}
    rows = arena.table_rows(arena.play_all(making, 2, 2))
    found = {row.what: row.value for row in rows}
    assert found["Nobody's rule"] == "not installed (no_such_module)"
    assert "noise 3: ours, none" in found
