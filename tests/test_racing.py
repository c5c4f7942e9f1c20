"""Racing: what runs next, as a pure function; whole studies are played with made-up scores."""

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from platform.racing.next_job import (
    Done,
    FoldJob,
    Propose,
    Race,
    RacingSettings,
    RunFold,
    TrialProgress,
    Wait,
    is_settled,
    mean_score,
    next_job,
    num_folds_wanted,
)

MANY_STEPS = 100_000
NUM_TRIALS = 14


def settings(**changes: object) -> RacingSettings:
    return RacingSettings(**{"num_trials": NUM_TRIALS, "num_folds": 16, **changes})


@dataclass
class Game:
    """A study that is played: a ledger of scores, jobs in flight that end in any order, and what was seen.

    What is proposed depends on all that the sampler is told, so that any difference in the history shows.
    """

    settings: RacingSettings
    failing: frozenset[tuple[int, int]] = frozenset()
    qualities: list[float] = field(default_factory=list)
    scores: list[dict[int, float]] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    late: list[dict[tuple[int, int], float | None]] = field(default_factory=list)
    in_flight: list[FoldJob] = field(default_factory=list)
    started: list[FoldJob] = field(default_factory=list)
    race: Race | None = None

    @property
    def trials(self) -> list[TrialProgress]:
        return [
            TrialProgress(
                number=number, scores=dict(scores), is_failed=number in self.failed, late=dict(self.late[number])
            )
            for number, scores in enumerate(self.scores)
        ]

    def late_table(self) -> list[dict[tuple[int, int], float | None]]:
        return [dict(sorted(late.items())) for late in self.late]

    def table(self) -> list[tuple[float, dict[int, float] | str]]:
        """Return every trial's quality and scores; of a failed trial only that it failed."""
        shown = [
            "failed" if number in self.failed else dict(sorted(scores.items()))
            for number, scores in enumerate(self.scores)
        ]
        return list(zip(self.qualities, shown, strict=True))

    def propose(self, step: Propose) -> None:
        assert step.trial == len(self.scores)
        told = self.trials[: max(0, step.told_up_to + 1)]
        assert all(is_settled(trial, self.trials, self.settings) for trial in told)
        digest = hashlib.sha256(json.dumps([step.trial, self.table()[: len(told)]]).encode()).digest()
        self.qualities.append(int.from_bytes(digest[:4]) / 2**32)
        self.scores.append({})
        self.late.append({})

    def end(self, job: FoldJob) -> None:
        self.in_flight.remove(job)
        trial, fold, repeat = job
        noise = np.random.default_rng([trial, fold, repeat]).standard_normal()
        score = self.qualities[trial] + np.sin(fold) + 0.5 * noise
        assert self.race is not None
        if trial not in self.failed and self.race.is_settled(self.trials[trial], self.trials):
            self.late[trial][fold, repeat] = None if (trial, fold) in self.failing else score
        elif (trial, fold) in self.failing:
            self.failed.add(trial)
        else:
            self.scores[trial][fold] = score

    def play(self, concurrency: int, rng: np.random.Generator, max_steps: int = MANY_STEPS) -> bool:
        """Play up to so many steps; tell whether the study is done."""
        race = self.race = self.race or Race(self.settings)
        for _ in range(max_steps):
            step = race.next_job(self.trials, set(self.in_flight))
            if isinstance(step, Done):
                return True
            if isinstance(step, Propose):
                self.propose(step)
            elif isinstance(step, RunFold) and len(self.in_flight) < concurrency:
                self.in_flight.append((step.trial, step.fold, step.repeat))
                self.started.append((step.trial, step.fold, step.repeat))
            else:
                assert self.in_flight, "nothing runs and nothing can start: the study would wait for ever"
                self.end(self.in_flight[rng.integers(len(self.in_flight))])
        return False

    def interrupt(self) -> None:
        """Lose what is in flight, as a crash does."""
        lost = Counter(self.in_flight)
        self.started = list((Counter(self.started) - lost).elements())
        self.in_flight = []
        self.race = None


def played(
    concurrency: int = 1, seed: int = 0, failing: frozenset[tuple[int, int]] = frozenset(), **changes: object
) -> Game:
    game = Game(settings(**changes), failing)
    assert game.play(concurrency, np.random.default_rng(seed))
    return game


# Rungs and settings


@pytest.mark.parametrize(
    ("num_folds", "rungs"),
    [(16, (4, 8, 16)), (4, (4,)), (5, (4, 5)), (9, (4, 8, 9)), (3, (3,)), (64, (4, 8, 16, 32, 64))],
)
def test_rungs_double_up_to_all_folds(num_folds, rungs):
    assert settings(num_folds=num_folds).rungs == rungs


def test_without_racing_there_is_one_rung_of_all_folds():
    assert settings(racing="none").rungs == (16,)


def test_unknown_racing_is_refused_and_the_choices_are_listed():
    with pytest.raises(ValueError, match=r"'none', 'halving', 'paired'.*but got 'asha'"):
        settings(racing="asha")


@pytest.mark.parametrize(
    "changes", [{"commit_lag": 0}, {"first_folds": 0}, {"keep_share": 0.0}, {"keep_share": 1.01}], ids=str
)
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ValueError, match="must be 1 or more and keep_share in"):
        settings(**changes)


# Single steps


def trial(number: int, *scores: float, **state: bool) -> TrialProgress:
    return TrialProgress(number=number, scores=dict(enumerate(scores)), **state)


def test_a_study_begins_with_a_proposal_that_knows_nothing():
    step = next_job([], (), settings(commit_lag=4))
    assert step == Propose(0, -4)


def test_folds_run_in_the_shared_order_and_those_in_flight_are_not_run_again():
    assert next_job([trial(0)], (), settings()) == RunFold(0, 0)
    assert next_job([trial(0, 0.5)], {(0, 1, 0), (0, 2, 0)}, settings()) == RunFold(0, 3)


def test_the_oldest_trial_that_needs_a_job_comes_first():
    assert next_job([trial(0, 1.0), trial(1, 2.0)], (), settings()) == RunFold(0, 1)


def test_a_trial_without_rivals_is_promoted():
    assert num_folds_wanted(trial(0, *[0.1] * 4), [trial(0, *[0.1] * 4)], settings()) == 8


def test_trials_nearer_than_the_lag_are_no_rivals():
    newer = trial(4, *[0.0] * 4)
    for better, wanted in ((trial(0, *[1.0] * 16), 4), (trial(1, *[1.0] * 16), 8)):
        assert num_folds_wanted(newer, [better, newer], settings(commit_lag=4, keep_share=0.5)) == wanted


def test_a_trial_is_compared_on_the_folds_that_both_have_run():
    early_star = trial(0, 1, 1, 1, 1, *[-9.0] * 12)
    newer = trial(5, *[0.9] * 4)
    assert num_folds_wanted(newer, [early_star, newer], settings()) == 4


def test_a_failed_trial_is_no_rival():
    newer = trial(9, *[0.0] * 4)
    assert num_folds_wanted(newer, [trial(0, *[1.0] * 4, is_failed=True), newer], settings()) == 8


def test_equal_scores_do_not_hold_a_trial_back():
    trials = [trial(number, *[0.3] * 4) for number in range(10)]
    assert all(num_folds_wanted(each, trials, settings()) == 8 for each in trials)


def test_the_better_half_is_promoted():
    rivals = [trial(number, *[number / 10.0] * 4) for number in range(10)]
    newcomers = {score: trial(20, *[score] * 4) for score in (0.35, 0.55)}
    wanted = {score: num_folds_wanted(new, [*rivals, new], settings()) for score, new in newcomers.items()}
    assert wanted == {0.35: 4, 0.55: 8}


def test_a_told_trial_is_settled_whatever_its_folds():
    assert is_settled(trial(0, 0.1, is_told=True), [], settings())
    assert isinstance(next_job([trial(0, 0.1, is_told=True)], (), settings(num_trials=1)), Done)


def test_a_trial_is_settled_only_once_all_folds_that_it_deserves_are_done():
    complete = trial(0, *[0.1] * 16)
    assert is_settled(complete, [complete], settings())
    assert not is_settled(trial(0, *[0.1] * 15), [], settings())


def test_the_study_waits_for_what_is_in_flight():
    assert isinstance(next_job([trial(0, *[0.0] * 15)], {(0, 15, 0)}, settings(num_trials=1)), Wait)


def test_a_mean_counts_the_first_folds_only():
    assert mean_score(trial(0, 1.0, 2.0, 30.0), range(2)) == 1.5


# Whole studies


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_without_racing_every_trial_runs_on_all_folds_once(concurrency):
    game = played(concurrency, racing="none", num_trials=5)
    assert sorted(game.started) == [(number, fold, 0) for number in range(5) for fold in range(16)]


def test_halving_runs_trials_on_whole_rungs_and_spends_far_fewer_jobs():
    game = played(num_trials=48)
    assert set(Counter(len(scores) for scores in game.scores)) == {4, 8, 16}
    assert len(game.started) < 0.65 * 48 * 16
    for number, scores in enumerate(game.scores):
        assert sorted(scores) == sorted(game.settings.order(number)[: len(scores)])


def test_the_order_of_folds_is_rotated_from_bracket_to_bracket():
    chosen = settings(bracket_trials=40)
    assert chosen.order(39) == tuple(range(16))
    assert chosen.order(40) == (*range(4, 16), *range(4))
    assert chosen.order(80)[0] == 8


def test_a_bracket_leaves_rivals_whatever_the_lag():
    assert settings(commit_lag=4).bracket == 32
    assert settings(commit_lag=32).bracket == 256


def test_a_trial_has_no_rivals_in_another_bracket():
    first_of_second = TrialProgress(number=32, scores={fold: 0.0 for fold in range(4, 8)})
    better = [trial(number, *[1.0] * 16) for number in range(20)]
    assert num_folds_wanted(first_of_second, [*better, first_of_second], settings()) == 8


def test_halving_keeps_the_good_trials():
    game = played(num_trials=48)
    complete = [quality for quality, scores in zip(game.qualities, game.scores, strict=True) if len(scores) == 16]
    assert np.mean(complete) > np.mean(game.qualities) + 0.1


VARIANTS = [
    {},
    {"commit_lag": 1},
    {"commit_lag": 8},
    {"num_folds": 5, "commit_lag": 3},
    {"racing": "none", "num_trials": 6},
    {"keep_share": 1.0, "num_trials": 8},
    {"first_folds": 1, "keep_share": 0.3},
    {"bracket_trials": 4, "commit_lag": 1},
    {"finalists": 2, "num_folds": 5},
    {"racing": "none", "num_trials": 4, "finalists": 3},
    {"racing": "paired"},
    {"racing": "paired", "commit_lag": 1, "finalists": 2},
    {"racing": "paired", "first_folds": 1, "commit_lag": 30, "num_trials": 24},
    {"racing": "paired", "num_folds": 4, "risk": 0.9},
    {"racing": "paired", "num_folds": 3, "first_folds": 5},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_any_number_of_jobs_in_flight_in_any_order_gives_the_same_study(changes):
    expected = played(**changes)
    for concurrency in (1, 2, 8):
        for seed in range(3):
            game = played(concurrency, seed, **changes)
            assert game.table() == expected.table()
            assert game.late_table() == expected.late_table()
            assert sorted(game.started) == sorted(expected.started)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_study_that_is_interrupted_again_and_again_is_the_same_study(changes):
    expected = played(**changes)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        game = Game(settings(**changes))
        num_starts = 1
        while not game.play(int(rng.integers(1, 9)), rng, max_steps=int(rng.integers(1, 70))):
            game.interrupt()
            num_starts += 1
        assert num_starts > 1
        assert game.table() == expected.table()
        assert game.late_table() == expected.late_table()
        assert sorted(game.started) == sorted(expected.started)


def test_a_study_that_is_extended_is_what_it_would_have_been_from_the_start():
    game = played(4, num_trials=6)
    game.settings, game.race = settings(num_trials=NUM_TRIALS), None
    assert game.play(4, np.random.default_rng(1))
    assert game.table() == played(num_trials=NUM_TRIALS).table()


def test_with_failing_jobs_the_table_is_the_same_at_any_number_in_flight():
    failing = frozenset({(0, 0), (3, 2), (4, 3), (4, 1), (9, 6), (11, 0)})
    expected = played(failing=failing)
    assert {0, 3, 4, 11} <= expected.failed
    for concurrency in (2, 8):
        for seed in range(3):
            assert played(concurrency, seed, failing).table() == expected.table()


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_no_job_ever_runs_twice(concurrency):
    for seed in range(3):
        failing = frozenset({(1, 1), (5, 3)})
        assert set(Counter(played(concurrency, seed, failing).started).values()) == {1}


def test_a_failed_trial_gets_no_more_jobs():
    game = played(failing=frozenset({(2, 1)}))
    assert [fold for number, fold, _ in game.started if number == 2] == [0, 1]


def test_a_study_of_failures_ends():
    game = played(4, failing=frozenset((number, 0) for number in range(NUM_TRIALS)))
    assert game.failed == set(range(NUM_TRIALS))


@pytest.mark.parametrize("commit_lag", [1, 2, 5, 30])
def test_no_trial_is_proposed_before_the_ones_that_it_must_know_are_settled(commit_lag):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        game = Game(settings(commit_lag=commit_lag))
        proposed = []
        while not isinstance(step := next_job(game.trials, set(game.in_flight), game.settings), Done):
            if isinstance(step, Propose):
                assert step.told_up_to == step.trial - commit_lag
                early = game.trials[: max(0, step.told_up_to + 1)]
                assert all(is_settled(each, game.trials, game.settings) for each in early)
                proposed.append(step.trial)
            game.play(8, rng, max_steps=1)
        assert proposed == list(range(NUM_TRIALS))


def test_the_lag_lets_as_many_trials_run_side_by_side_and_no_more():
    for commit_lag in (1, 3):
        game = Game(settings(commit_lag=commit_lag, racing="none", num_folds=1))
        while not game.play(100, np.random.default_rng(0), max_steps=1):
            assert len({number for number, *_ in game.in_flight}) <= commit_lag


def test_done_comes_only_when_every_trial_is_settled():
    for seed in range(3):
        game = played(8, seed)
        assert len(game.scores) == NUM_TRIALS
        assert all(is_settled(each, game.trials, game.settings) for each in game.trials)
        assert not game.in_flight


def test_the_next_step_depends_on_its_arguments_alone_and_changes_none():
    game = Game(settings())
    game.play(4, np.random.default_rng(0), max_steps=150)
    before = (game.table(), list(game.in_flight))
    steps = {next_job(game.trials, set(game.in_flight), game.settings) for _ in range(5)}
    assert len(steps) == 1
    assert (game.table(), list(game.in_flight)) == before


# Stage 2 and finalists


def test_what_was_concluded_before_changes_no_step():
    for racing in ("halving", "paired"):
        game, rng = Game(settings(racing=racing, num_trials=10, finalists=1)), np.random.default_rng(0)
        is_done = False
        while not is_done:
            in_flight = set(game.in_flight)
            race = game.race or Race(game.settings)
            assert next_job(game.trials, in_flight, game.settings) == race.next_job(game.trials, in_flight)
            is_done = game.play(3, rng, max_steps=3)


def whole(game: Game) -> list[int]:
    """Return the trials that ran on all folds."""
    return [each.number for each in game.trials if all(each.score_of(fold) is not None for fold in range(16))]


def test_paired_racing_keeps_to_its_jobs_and_ends_with_finalists_on_all_folds():
    game = played(racing="paired", num_trials=40, finalists=3)
    searched = [job for job in game.started if job[2] == 0]
    assert len(searched) <= game.settings.most_jobs + 16
    assert len(whole(game)) >= 3


def test_paired_racing_gives_trials_that_were_raced_out_another_chance():
    game = played(racing="paired", num_trials=40)
    assert sum(any(repeat == 0 for _, repeat in late) for late in game.late) > 2


@pytest.mark.parametrize("racing", ["none", "halving", "paired"])
def test_finalists_run_on_all_folds_with_two_more_seeds(racing):
    game = played(2, racing=racing, finalists=2)
    means = {number: np.mean([game.trials[number].score_of(fold) for fold in range(16)]) for number in whole(game)}
    best = sorted(means, key=means.__getitem__)[-2:]
    repeats = [job for job in game.started if job[2]]
    assert sorted(repeats) == sorted((trial, fold, repeat) for trial in best for fold in range(16) for repeat in (1, 2))


def test_without_finalists_no_job_is_repeated():
    assert {repeat for *_, repeat in played(racing="paired").started} == {0}


def test_what_came_late_changes_nothing_of_stage_1_when_a_study_is_extended():
    game = played(4, racing="paired", num_trials=20)
    game.settings, game.race = settings(racing="paired", num_trials=40), None
    assert game.play(4, np.random.default_rng(1))
    assert game.table() == played(racing="paired", num_trials=40).table()
    assert set(Counter(game.started).values()) == {1}


def test_a_trial_whose_late_job_fails_is_given_up_and_the_study_ends():
    usual = played(racing="paired", num_trials=30)
    best = max(whole(usual), key=lambda number: usual.qualities[number])
    failing = frozenset((best, fold) for fold, repeat in usual.late[best] if repeat == 0)
    expected = played(failing=failing, racing="paired", num_trials=30)
    assert failing, "the best trial had no late job"
    assert best not in whole(expected)
    assert played(8, 1, failing, racing="paired", num_trials=30).late_table() == expected.late_table()


def test_a_study_of_failures_ends_with_paired_racing():
    game = played(4, failing=frozenset((number, 0) for number in range(NUM_TRIALS)), racing="paired", finalists=3)
    assert game.failed == set(range(NUM_TRIALS))


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_paired_racing_takes_a_fifth_of_all_jobs_and_seldom_loses_the_best(noise):
    lost, jobs = [], 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        effects = rng.standard_normal(64)
        scores = effects[:, None] + 1.5 * rng.standard_normal(16) + noise * rng.standard_normal((64, 16))
        race = Race(settings(racing="paired", num_trials=64, finalists=3))
        trials: list[TrialProgress] = []
        while not isinstance(step := race.next_job(trials, ()), Done):
            if isinstance(step, Propose):
                trials.append(TrialProgress(number=step.trial))
            elif isinstance(step, RunFold):
                score, at = float(scores[step.trial, step.fold]), trials[step.trial]
                jobs += step.repeat == 0
                late = {**at.late, (step.fold, step.repeat): score}
                if race.is_settled(at, trials):
                    trials[step.trial] = dataclasses.replace(at, late=late)
                else:
                    trials[step.trial] = dataclasses.replace(at, scores={**at.scores, step.fold: score})
        means = {
            number: scores[number].mean()
            for number, each in enumerate(trials)
            if all(each.score_of(fold) is not None for fold in range(16))
        }
        lost.append(effects[np.argmax(scores.mean(axis=1))] - effects[max(means, key=means.__getitem__)])
    assert jobs <= 8 * (64 * 16 / 5 + 16)
    assert np.mean(lost) < {0.5: 0.1, 1.0: 0.25, 3.0: 1.0}[noise]
