"""Samplers: what they are shown of raced-out and failed trials, that they learn, that nothing but history counts."""

import math
import statistics

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from datasets.errors import BadInput
from platform.ledger import studies as ledgers
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger
from platform.proposals.positions import POPULATION, nsga2_positions, position_of, value_at
from platform.proposals.samplers import SAMPLERS, propose
from platform.proposals.seen_trials import COST, as_seen_by, estimates
from platform.study.warm_start import NUM_STARTS, legal_starts, starting_parameters
from search_spaces import SEARCH_SPACES, SearchSpace

NUM_FOLDS = 4
LEARNING = [name for name in SAMPLERS if name not in ("random", "qmc")]


def suggest(trial):
    """Ask for two numbers, a choice, and a number that only one choice has."""
    asked = {name: trial.suggest_float(name, 0.0, 1.0) for name in ("x", "y")}
    asked["kind"] = trial.suggest_categorical("kind", ["plain", "curved", "flat"])
    if asked["kind"] == "curved":
        asked["curve"] = trial.suggest_float("curve", 1e-3, 1.0, log=True)
    return asked


SPACE = SearchSpace(suggest=suggest, default={"x": 0.5, "y": 0.5, "kind": "plain"})


def quality(configuration):
    kinds = {"plain": 0.0, "curved": 0.1, "flat": -0.5}
    return kinds[configuration["kind"]] - (configuration["x"] - 0.2) ** 2 - (configuration["y"] - 0.8) ** 2


def told(proposal, number, scores, *, seconds=1.0, state=None):
    """Return a told trial as the ledger keeps it; ``scores`` by fold, one of None where a fold job failed."""
    scored = {fold: score for fold, score in scores.items() if score is not None}
    is_complete = len(scored) == NUM_FOLDS
    found = TrialState.FAIL if len(scored) < len(scores) else TrialState.COMPLETE if is_complete else TrialState.PRUNED
    mean = statistics.fmean(scored.values()) if scored else 0.0
    trial = create_trial(
        state=state or found,
        value=mean if (state or found) == TrialState.COMPLETE else None,
        params=proposal.params,
        distributions=proposal.distributions,
        user_attrs={f"fold/{fold:04d}": {"score": score, "seconds": seconds} for fold, score in scores.items()},
        intermediate_values={len(scored): mean} if scored else {},
    )
    trial.number = number
    return trial


def study_of(sampler, seed, num_trials, space=SPACE, score=quality, begun=()) -> list[FrozenTrial]:
    """Play a study of all folds that are alike; the last three trials are running whenever one is proposed."""
    history = list(begun)
    for number in range(len(history), num_trials):
        proposal = propose(seen_at(history, number - 3), sampler, space, seed, number)
        value = score(proposal.configuration)
        history.append(told(proposal, number, dict.fromkeys(range(NUM_FOLDS), value)))
    return history


def seen_at(history, told_up_to):
    return [trial if trial.number <= told_up_to else running(trial) for trial in history]


def running(trial):
    found = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
    found.number = trial.number
    return found


def params_of(history):
    return [trial.params for trial in history]


# Nothing but the history counts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_goes_on_from_any_trial_as_if_it_had_never_stopped(sampler):
    num_trials = 13 if sampler == "gp" else 20
    whole = study_of(sampler, 3, num_trials)
    for begun in (1, 7, num_trials - 1):
        assert params_of(study_of(sampler, 3, num_trials, begun=whole[:begun])) == params_of(whole)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("number", [1, 9, 20, 24])
def test_a_proposal_is_the_same_whatever_else_is_known(sampler, number):
    history = study_of("random", 1, 24)
    first = propose(seen_at(history[:number], number - 3), sampler, SPACE, 5, number)
    for trial in history:
        trial.system_attrs["other"] = 1
    np.random.seed(number)  # noqa: NPY002 - what is global must not matter
    assert propose(seen_at(history[:number], number - 3), sampler, SPACE, 5, number) == first


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("architecture", ["transformer", "fully_connected"])
def test_every_sampler_copes_with_the_real_search_spaces(sampler, architecture):
    history = study_of("random", 0, POPULATION + 4, SEARCH_SPACES[architecture], lambda found: found["weight_decay"])
    proposal = propose(history, sampler, SEARCH_SPACES[architecture], 0, len(history))
    for name, distribution in proposal.distributions.items():
        assert distribution._contains(distribution.to_internal_repr(proposal.params[name]))


# They learn


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_sampler_proposes_better_configurations_than_random_ones(sampler):
    num_trials, num_seeds = (20, 1) if sampler == "gp" else (64, 2)

    def late(name: str) -> float:
        studies = [study_of(name, seed, num_trials) for seed in range(num_seeds)]
        return statistics.fmean(trial.value for study in studies for trial in study[-12:])

    assert late(sampler) > late("random") + 0.1


def test_sobol_points_fill_every_parameter_more_evenly_than_random_ones():
    def largest_gap(sampler):
        values = sorted(trial.params["x"] for trial in study_of(sampler, 2, 33)[1:])
        return max(np.diff([0.0, *values, 1.0]))

    assert largest_gap("qmc") < min(0.07, largest_gap("random"))


def test_cma_es_has_a_say_in_numbers_that_all_trials_have_and_in_no_other():
    history = study_of("cma-es", 0, 40)
    late = [trial.params["x"] for trial in history[-10:]]
    assert abs(statistics.fmean(late) - 0.2) < 0.15
    assert {trial.params["kind"] for trial in history[:9]} == {"plain", "curved", "flat"}


def test_nsga2_keeps_what_is_better_by_score_or_by_cost():
    def trial(number, score, cost, x):
        distributions = {"x": FloatDistribution(0.0, 1.0)}
        found = create_trial(value=score, params={"x": x}, distributions=distributions, system_attrs={COST: cost})
        found.number = number
        return found

    good = [trial(number, 1.0 - number, -float(number), 0.1 + number / 100) for number in range(POPULATION)]
    bad = [trial(number, -100.0, 100.0, 0.9) for number in range(POPULATION, 3 * POPULATION)]
    drawn = [nsga2_positions([*bad, *good], seed).get("x") for seed in range(50)]
    assert {x for x in drawn if x is not None} <= {0.1 + number / 100 for number in range(POPULATION)}


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "cma-es"])
def test_a_half_of_the_space_that_fails_is_left(sampler):
    def score(found):
        return None if found["x"] > 0.5 else 0.0

    num_trials = 28 if sampler == "gp" else 48
    histories = [study_of(sampler, seed, num_trials, score=score) for seed in range(2)]
    late = [trial.params["x"] > 0.5 for history in histories for trial in history[num_trials // 2 :]]
    assert statistics.fmean(late) < 0.3


# What they are shown


def proposal_of(x=0.5):
    return propose([], "random", SearchSpace(suggest=suggest, default={"x": x}), 0, 0)


def test_easy_folds_make_no_trial_look_good():
    effects = np.array([3.0, 1.0, -1.0, -3.0])
    qualities = np.array([0.3, 0.1, 0.2, 0.0])
    folds = [(0, 1, 2, 3), (0, 1), (2, 3), (0, 1, 2, 3)]
    scores = [
        {fold: float(quality + effects[fold]) for fold in of_trial}
        for quality, of_trial in zip(qualities, folds, strict=True)
    ]
    assert estimates(scores) == pytest.approx(qualities, abs=1e-6)


def test_the_fewer_folds_the_nearer_an_estimate_is_to_the_mean():
    random = np.random.default_rng(0)
    scores = [{fold: float(random.normal()) + trial / 10 for fold in range(8)} for trial in range(12)]
    scores += [{0: 5.0, 1: 5.0}, dict.fromkeys(range(8), 5.0)]
    found = estimates(scores)
    assert found[:12].mean() < found[12] < found[13] < 5.0


def test_estimates_are_nan_without_scores_and_scores_themselves_without_others():
    assert math.isnan(estimates([{}])[0])
    assert estimates([{0: 0.25}, {}])[0] == 0.25
    assert estimates([{0: 0.2}, {0: 0.2}]) == pytest.approx([0.2, 0.2])
    assert len(estimates([])) == 0


def test_estimates_find_raced_out_trials_among_all_where_plain_means_and_steps_do_not():
    random = np.random.default_rng(4)
    effects, qualities = random.normal(0, 3, 12), random.normal(0, 1, 60)
    scores = []
    for number, own in enumerate(qualities):
        folds = [(fold + 4 * (number % 3)) % 12 for fold in range(12 if number % 4 == 0 else 4)]
        scores.append({fold: float(own + effects[fold] + random.normal(0, 0.5)) for fold in folds})
    plain = [statistics.fmean(of_trial.values()) for of_trial in scores]
    assert np.corrcoef(estimates(scores), qualities)[0, 1] > 0.95
    assert np.corrcoef(plain, qualities)[0, 1] < 0.7


def test_a_raced_out_trial_is_shown_and_a_failed_one_is_the_worst():
    history = [
        told(proposal_of(), 0, dict.fromkeys(range(NUM_FOLDS), 0.1)),
        told(proposal_of(), 1, {0: 0.4, 1: 0.4}),
        told(proposal_of(), 2, {0: 0.9, 1: None}),
        running(told(proposal_of(), 3, {0: 0.9})),
    ]
    seen = as_seen_by("tpe", history)
    assert [trial.state.name for trial in seen] == ["COMPLETE", "COMPLETE", "COMPLETE", "RUNNING"]
    assert seen[1].value > seen[0].value > seen[2].value
    assert [trial.number for trial in seen] == [0, 1, 2, 3]


def test_gp_is_shown_the_best_and_the_latest_of_many():
    history = study_of("random", 0, 150)
    seen = as_seen_by("gp", history)
    shown = {trial.number for trial in seen if trial.state == TrialState.COMPLETE}
    assert len(seen) == 150 and 48 < len(shown) <= 96
    assert set(range(102, 150)) <= shown
    assert max(history, key=lambda trial: trial.value).number in shown


def test_where_all_have_failed_no_trial_is_shown_as_good():
    history = [told(proposal_of(), number, {0: None}) for number in range(3)]
    assert [trial.state.name for trial in as_seen_by("tpe", history)] == ["FAIL"] * 3


def test_a_fixed_configuration_without_parameters_does_not_narrow_what_samplers_see():
    preset = create_trial(value=0.9, params={}, distributions={})
    preset.number = 0
    history = [preset, *study_of("random", 0, 12)[1:]]
    assert as_seen_by("gp", history)[0].state == TrialState.FAIL
    assert as_seen_by("gp", history)[1].state == TrialState.COMPLETE


def test_showing_the_history_leaves_it_as_it_is():
    history = study_of("random", 0, 12)
    before = [(trial.state, trial.value, dict(trial.user_attrs)) for trial in history]
    propose(history, "tpe", SPACE, 0, 12)
    assert [(trial.state, trial.value, dict(trial.user_attrs)) for trial in history] == before


# Positions


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.1, 10.0, log=True),
        FloatDistribution(-1.0, 1.0),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 5),
        IntDistribution(2, 8, step=2),
        IntDistribution(1, 64, log=True),
        CategoricalDistribution(["a", None, 3]),
    ],
)
def test_values_have_positions_and_positions_have_values(distribution):
    for position in np.linspace(0.0, 1.0, 101):
        value = value_at(distribution, float(position))
        assert distribution._contains(distribution.to_internal_repr(value))
        assert value_at(distribution, position_of(distribution, value)) == pytest.approx(value)


def test_steps_and_choices_are_equally_likely():
    drawn = [value_at(IntDistribution(1, 4), (at + 0.5) / 400) for at in range(400)]
    assert [drawn.count(value) for value in (1, 2, 3, 4)] == [100] * 4


# Warm start


def ledger_with(url, name, params):
    """Begin a study in which each trial has these parameters and is the better the later it is."""
    opened = open_ledger(url, name, {})
    for number, given in enumerate(params):
        space = SearchSpace(suggest=suggest, default=given)
        opened.add(propose([], "random", space, 0, 0))
        for fold in range(NUM_FOLDS):
            opened.commit(FoldRecord(trial=number, fold=fold, score=number / 10))
        opened.tell(number, NUM_FOLDS)
    return opened


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


GIVEN = [{"x": x, "y": 0.5, "kind": "plain"} for x in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]


def test_a_study_starts_from_the_best_of_an_earlier_one_after_its_default(url):
    ledger_with(url, "earlier", GIVEN)
    starts = starting_parameters("earlier", url, "new", SPACE)
    assert starts == tuple(GIVEN[at] for at in (5, 3, 2, 1))  # the fifth is the default itself
    assert len(starts) == NUM_STARTS
    space = SearchSpace(suggest=suggest, default=SPACE.default, starts=starts)
    proposed = [propose([], "tpe", space, 0, number).params for number in range(5)]
    assert proposed == [SPACE.default, *starts]


def test_an_earlier_study_may_lie_in_another_storage(url, tmp_path):
    other = f"sqlite:///{tmp_path}/other.db"
    ledger_with(other, "earlier", GIVEN)
    assert starting_parameters(f"{other}#earlier", url, "new", SPACE)


def test_a_study_that_was_begun_keeps_the_starts_that_it_was_begun_with(url):
    ledger_with(url, "earlier", GIVEN[:1])
    starts = starting_parameters("earlier", url, "new", SPACE)
    open_ledger(url, "new", {"start_from": "earlier", "starts": list(starts)})
    ledger_with(url, "earlier-2", GIVEN)
    ledgers.delete_study(url, "earlier")
    assert starting_parameters("earlier", url, "new", SPACE) == starts


def test_what_is_not_legal_in_the_space_is_left_out(url):
    trials = ledger_with(url, "earlier", GIVEN).trials
    narrow = SearchSpace(suggest=lambda trial: {"x": trial.suggest_float("x", 0.0, 0.25)}, default={"x": 0.0})
    assert legal_starts(trials, narrow) == ({"x": 0.2}, {"x": 0.1})


def test_where_nothing_is_legal_one_line_says_so(url):
    ledger_with(url, "earlier", GIVEN)
    other = SearchSpace(suggest=lambda trial: {"z": trial.suggest_float("z", 0.0, 1.0)}, default={"z": 0.0})
    with pytest.raises(BadInput, match="none of its 6 trials on all folds is another configuration that is legal"):
        starting_parameters("earlier", url, "new", other)


def test_a_study_that_is_not_there_cannot_be_started_from(url):
    ledger_with(url, "earlier", GIVEN[:1])
    with pytest.raises(BadInput, match="no study former"):
        starting_parameters("former", url, "new", SPACE)


def test_optuna_says_nothing_of_what_is_proposed(capfd):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for sampler in SAMPLERS:
        propose(study_of("random", 0, 20), sampler, SPACE, 0, 20)
    assert capfd.readouterr().err == ""
