"""The arena: tables with their truth, ours and the peers under one clock, ranks."""

import dataclasses

import numpy as np
import pytest

from benchmarks.arena import __main__ as arena
from benchmarks.arena import sampler_quality
from benchmarks.arena.clock import Play, play
from benchmarks.arena.peers import PEERS, missing
from benchmarks.arena.ranks import critical_difference, friedman_p, mean_ranks
from benchmarks.arena.recorded import FILE, recorded_table, write_table
from benchmarks.arena.results import common_seeds, read_plays, write_play
from benchmarks.arena.rules import Ours, most_scored
from benchmarks.arena.tables import NUM_FOLDS, NUM_ROWS, TABLES, Rows, TableSettings, generate
from platform.racing.next_job import RACINGS

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
    assert [jobs for jobs, *_ in played.steps] == sorted({jobs for jobs, *_ in played.steps})
    assert [moment_s for _, moment_s, _ in played.steps] == sorted(moment_s for _, moment_s, _ in played.steps)


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_plays_a_whole_study(name):
    if missing(name):
        pytest.skip(f"{name} needs the dependency group arena")
    table = generate(TABLES[0], 1)
    played = play(table, PEERS[name][1](table, 1, NUM_TRIALS))
    assert NUM_TRIALS <= played.num_jobs <= NUM_TRIALS * NUM_FOLDS
    assert played.regret < played.after_jobs(0)


def test_without_noise_every_rule_on_all_folds_finds_the_best_row_that_it_tried():
    table = generate(TABLES[0], 2)
    table = dataclasses.replace(table, scores_TF=np.repeat(table.effects_T[:, None], NUM_FOLDS, axis=1))
    rule = Ours(table, 2, "none", "random", NUM_TRIALS)
    played = play(table, rule)
    assert played.regret == min(table.regret(rule.row(trial)) for trial in range(NUM_TRIALS))


def test_more_slots_take_less_time_for_the_same_jobs():
    table = generate(TABLES[0], 1)
    one, four = (play(table, PEERS["random, all folds"][1](table, 1, NUM_TRIALS), slots) for slots in (1, 4))
    assert one.num_jobs == four.num_jobs
    assert four.seconds < one.seconds / 2


def test_ranks_share_ties_and_differ_where_one_rule_always_wins():
    values_NR = np.array([[0.0, 1.0, 1.0], [0.1, 0.5, 0.7], [0.2, 0.9, 0.8], [0.0, 0.3, 0.3]])
    assert mean_ranks(values_NR).tolist() == [1.0, 2.5, 2.5]
    assert friedman_p(values_NR) < 0.05
    assert friedman_p(np.zeros((4, 3))) == 1.0
    assert np.isnan(friedman_p(values_NR[:, :2]))
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)  # Demsar 2006, section 3.2.2's 4 and 14


def test_what_was_not_played_is_listed(monkeypatch):
    monkeypatch.setitem(PEERS, "Nobody's rule", (("no_such_module",), PEERS["random, all folds"][1]))
    wanted = ("ours, none", "ours, paired", arena.FULL)
    making = {name: make for name, make in arena.rules(with_slow=False).items() if name in wanted}
    rows = arena.table_rows(arena.play_all(making, range(2), 2))
    found = {row.what: row.value for row in rows}
    assert found["Nobody's rule"] == "not installed (no_such_module)"
    assert "noise 3: ours, none" in found


PLAYED = Play(num_jobs=9, seconds=70.0, steps=((0, 0.0, 2.5), (1, 10.0, 1.0), (4, 40.0, 0.25)))


def test_a_regret_holds_until_the_next_change_by_jobs_and_by_the_clock():
    assert [PLAYED.after_jobs(jobs) for jobs in (0, 1, 3, 4, 99)] == [2.5, 1.0, 1.0, 0.25, 0.25]
    assert [PLAYED.after_seconds(seconds) for seconds in (9.9, 10.0, 39.0, 1e9)] == [2.5, 1.0, 1.0, 0.25]
    assert PLAYED.regret == 0.25


def test_plays_come_back_from_their_file_but_for_a_line_that_was_cut_off(tmp_path):
    file = tmp_path / "plays.jsonl"
    for rule, seed in (("one", 0), ("one", 1), ("other", 1)):
        write_play(file, "noise 1", rule, seed, PLAYED)
    file.write_text(file.read_text() + '{"table": "noise 1", "ru')
    plays = read_plays(file)
    assert plays == {"noise 1": {"one": {0: PLAYED, 1: PLAYED}, "other": {1: PLAYED}}}
    assert common_seeds(plays["noise 1"], ["one", "other"]) == [1]


def test_what_is_in_the_results_is_not_played_again(tmp_path):
    making = {arena.FULL: PEERS[arena.FULL][1]}
    first = arena.play_all(making, [3], 4, tmp_path / "plays.jsonl")
    assert arena.play_all({arena.FULL: None}, [3], 4, tmp_path / "plays.jsonl") == first


def test_the_recorded_table_is_a_study_whose_full_scoring_has_no_regret():
    table = recorded_table(0)
    assert len(table.scores_TF) >= 100
    assert FILE.stat().st_size < 300_000
    assert table.regret(int(table.scores_TF.mean(axis=1).argmax())) == 0
    assert not np.array_equal(table.scores_TF, recorded_table(1).scores_TF)
    assert np.array_equal(np.sort(table.scores_TF, axis=0), np.sort(recorded_table(1).scores_TF, axis=0))


def test_jobs_become_a_table_in_which_choices_are_columns(tmp_path):
    jobs = [
        [{"score": 0.5 * fold + trial, "seconds": 2.0, "curve": [0.1] * (2 - trial)} for fold in range(3)]
        for trial in range(2)
    ]
    parameters = [{"norm": "batch", "width": 8}, {"norm": "layer"}]
    write_table(tmp_path / "table.npz", jobs, parameters)
    with np.load(tmp_path / "table.npz") as found:
        assert found["scores_TF"].tolist() == [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0]]
        assert found["features_TD"].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        assert np.isnan(found["curves_TFE"]).sum() == 3


def two_parameters(seed_of_lookups: list[int] | None = None) -> sampler_quality.Problem:
    choices = {"width": list(range(0, 100, 5)), "kind": ["worse", "better"]}

    def truth(parameters: dict[str, object]) -> float:
        return -abs(parameters["width"] - 40) + 10 * (parameters["kind"] == "better")

    means = [truth({"width": width, "kind": kind}) for width in choices["width"] for kind in choices["kind"]]
    reseed = ([] if seed_of_lookups is None else seed_of_lookups).append
    return sampler_quality.Problem(
        name="two", choices=choices, look_up=truth, truth=truth, reseed=reseed, all_means=np.array(means)
    )


def test_the_best_configuration_has_none_above_it():
    problem = two_parameters()
    assert problem.better_share({"width": 40, "kind": "better"}) == 0.0
    assert problem.better_share({"width": 40, "kind": "worse"}) == pytest.approx(3 / 40)


@pytest.mark.parametrize("name", ["ours, tpe", "ours, cma-es", "ours, qmc", "ours, random", "Optuna TPE"])
def test_a_sampler_is_asked_and_told_and_never_worse_after_more_trials(name, monkeypatch):
    monkeypatch.setattr(sampler_quality, "NUM_TRIALS", 14)
    monkeypatch.setattr(sampler_quality, "LOOKS", (2, 6, 14))
    reseeded = []
    found = sampler_quality.shares(two_parameters(reseeded), name, 3)
    assert reseeded == [3]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5
    assert found == sampler_quality.shares(two_parameters(), name, 3)


def test_runs_are_ranked_only_where_all_samplers_ran():
    runs = {("two", seed): {"Optuna TPE": [0.3, 0.2, 0.1], "ours, tpe": [0.1, 0.1, 0.1]} for seed in range(3)}
    runs["two", 0]["Syne Tune CQR"] = [0.0, 0.0, 0.0]
    runs["two", 1]["Syne Tune CQR"] = [0.5, 0.0, 0.0]
    found = {(row.what, row.ratio.split(",")[0]): row.value for row in sampler_quality.rows(runs)}
    assert found["after 16 trials: ours, tpe", "3 runs"].startswith("mean rank 1.00")
    assert found["after 16 trials: Syne Tune CQR", "2 runs"].startswith("mean rank 2.00")
