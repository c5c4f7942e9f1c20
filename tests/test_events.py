"""What the timing of stimuli alone tells: designs, responses, and the voxels that respond."""

import numpy as np
import pytest

from platform.scores.events import (
    ANY_KIND,
    MOST_KINDS,
    NUM_LAGS,
    EventProducts,
    Events,
    event_products,
    fir_design,
    fir_responses,
    kinds_in,
    predicted_r,
    responsive_weights,
    sum_arrays,
)
from platform.scores.metrics import high_passed

TR_S, REFERENCE_S, T, V = 2.0, 1.0, 120, 12
KINDS = ("standard", "target")
RESPONDING = np.arange(V) < V // 2


def events(*stimuli: tuple[float, str]) -> Events:
    onset_s, kind = zip(*stimuli, strict=True) if stimuli else ((), ())
    return Events(onset_s=np.array(onset_s, float), kind=tuple(kind))


def design(*stimuli: tuple[float, str], num_volumes: int = 30) -> np.ndarray:
    """Return the design as (volumes, kinds, lags)."""
    return fir_design(events(*stimuli), KINDS, num_volumes, TR_S, REFERENCE_S).reshape(
        num_volumes, len(KINDS), NUM_LAGS
    )


def random_events(rng: np.random.Generator) -> Events:
    onset_s = np.cumsum(rng.uniform(3, 15, 26))
    return events(*((onset, str(rng.choice(KINDS))) for onset in onset_s if onset < T * TR_S))


def subject(seed: int, strength: float, response_P: np.ndarray | None = None) -> EventProducts:
    """Return two runs' products of one subject whose first voxels respond to stimuli."""
    rng = np.random.default_rng(seed)
    response_P = np.tile(np.hanning(NUM_LAGS), len(KINDS)) if response_P is None else response_P
    designs, volumes = [], []
    for _ in range(2):
        design_TP = fir_design(random_events(rng), KINDS, T, TR_S, REFERENCE_S)
        clean_TV = strength * np.outer(design_TP @ response_P, RESPONDING)
        designs.append(high_passed(design_TP, TR_S))
        volumes.append(high_passed((clean_TV + rng.standard_normal((T, V))).astype(np.float32), TR_S))
    return event_products(designs, volumes)


# Designs


def test_a_stimulus_marks_the_volumes_after_it_lag_by_lag():
    marked = np.argwhere(design((4.0, "target")))
    assert marked.tolist() == [[2 + lag, KINDS.index("target"), lag] for lag in range(NUM_LAGS)]


def test_a_volume_never_knows_of_a_stimulus_after_its_reference_time():
    for onset_s in np.arange(0, 40, 0.25):
        first = np.flatnonzero(design((onset_s, "standard")).any(axis=(1, 2)))[0]
        assert 0 <= first * TR_S + REFERENCE_S - onset_s < TR_S


def test_kinds_have_columns_of_their_own():
    both = design((4.0, "target"), (4.0, "standard"))
    assert both[:, 0].any() and both[:, 1].any()
    np.testing.assert_array_equal(both[:, 0], both[:, 1])


def test_stimuli_within_one_volume_add_up():
    assert design((4.0, "target"), (4.5, "target")).max() == 2


def test_stimuli_near_the_end_or_after_it_are_cut():
    assert design((57.0, "target")).sum() == 2
    assert design((500.0, "target")).sum() == 0


def test_a_run_without_stimuli_has_an_empty_design():
    assert design().shape == (30, len(KINDS), NUM_LAGS)
    assert not design().any()


def test_the_kinds_of_a_study_are_those_of_all_its_runs_sorted():
    assert kinds_in([("target", "standard"), (), ("standard", "novel")]) == ("novel", "standard", "target")
    assert kinds_in([(), ()]) == ()


def test_designs_of_runs_that_lack_a_kind_have_its_columns_too():
    kinds = kinds_in([("faces", "houses", "tools")])
    design_TKL = fir_design(events((4.0, "houses")), kinds, 30, TR_S, REFERENCE_S).reshape(30, 3, NUM_LAGS)
    assert design_TKL.any(axis=(0, 2)).tolist() == [False, True, False]


def test_with_very_many_kinds_all_stimuli_are_one():
    names = [f"picture {number}" for number in range(MOST_KINDS + 1)]
    assert kinds_in([names[:MOST_KINDS]]) == tuple(sorted(names[:MOST_KINDS]))
    assert kinds_in([names]) == (ANY_KIND,)
    both = fir_design(events((4.0, names[0]), (30.0, names[1])), (ANY_KIND,), 30, TR_S, REFERENCE_S)
    assert both.shape == (30, NUM_LAGS)
    assert both.sum() == 2 * NUM_LAGS


def test_a_study_without_events_has_no_columns_and_predicts_nothing():
    volumes_TV = np.random.default_rng(0).standard_normal((T, V)).astype(np.float32)
    none_TP = high_passed(fir_design(events(), (), T, TR_S, REFERENCE_S), TR_S)
    products = event_products([none_TP], [volumes_TV])
    assert none_TP.shape == (T, 0)
    assert fir_responses([products]).shape == (0, V)
    assert not predicted_r(fir_responses([products]), products).any()
    np.testing.assert_array_equal(responsive_weights([products, products], np.ones(V, bool)), np.ones(V, np.float32))


@pytest.mark.parametrize(("tr_s", "reference_s"), [(2.16, 1.08), (1.5, 0.75), (0.8, 0.4)])
def test_lags_are_counted_in_volumes_at_any_repetition_time(tr_s, reference_s):
    design_TL = fir_design(events((5.0, "target")), ("target",), 40, tr_s, reference_s)
    first = int(np.flatnonzero(design_TL.any(axis=1))[0])
    assert 0 <= first * tr_s + reference_s - 5.0 < tr_s
    assert np.argwhere(design_TL).tolist() == [[first + lag, lag] for lag in range(NUM_LAGS)]


# Responses


def test_responses_are_those_of_ridge_regression_over_all_runs():
    rng = np.random.default_rng(0)
    designs = [rng.standard_normal((40, 5)).astype(np.float32) for _ in range(4)]
    volumes = [rng.standard_normal((40, 3)).astype(np.float32) for _ in range(4)]
    subjects = [event_products(designs[at : at + 2], volumes[at : at + 2]) for at in (0, 2)]
    tall, right = np.vstack([*designs, np.eye(5)]), np.vstack([*volumes, np.zeros((5, 3))])
    np.testing.assert_allclose(fir_responses(subjects), np.linalg.lstsq(tall, right)[0], atol=1e-5)


def test_planted_responses_are_found():
    planted_P = np.concatenate([np.hanning(NUM_LAGS), -np.hanning(NUM_LAGS)])
    found_PV = fir_responses([subject(seed, 3.0, planted_P) for seed in range(8)])
    assert np.corrcoef(found_PV[:, 0], planted_P)[0, 1] > 0.95
    assert np.abs(found_PV[:, ~RESPONDING]).max() < 0.5


def test_the_predicted_r_is_pearsons_r_of_the_predicted_series():
    rng = np.random.default_rng(1)
    design_TP = high_passed(rng.standard_normal((60, 6)).astype(np.float32), TR_S)
    volumes_TV = high_passed(rng.standard_normal((60, 4)).astype(np.float32), TR_S)
    responses_PV = rng.standard_normal((6, 4)).astype(np.float32)
    found_V = predicted_r(responses_PV, event_products([design_TP], [volumes_TV]))
    predicted_TV = design_TP @ responses_PV
    expected = [np.corrcoef(predicted_TV[:, voxel], volumes_TV[:, voxel])[0, 1] for voxel in range(4)]
    np.testing.assert_allclose(found_V, expected, atol=1e-5)


def test_runs_without_stimuli_predict_nothing_instead_of_not_a_number():
    empty_TP = np.zeros((T, len(KINDS) * NUM_LAGS), np.float32)
    volumes_TV = np.random.default_rng(0).standard_normal((T, V)).astype(np.float32)
    products = event_products([empty_TP], [volumes_TV])
    assert not fir_responses([products]).any()
    assert not predicted_r(fir_responses([products]), products).any()


# Weights


def test_responding_voxels_get_nearly_all_weight():
    weights_V = responsive_weights([subject(seed, 1.0) for seed in range(6)], np.ones(V, bool))
    assert weights_V.dtype == np.float32
    assert (weights_V[RESPONDING] > 0).all()
    assert weights_V[RESPONDING].sum() > 0.95 * weights_V.sum()


def test_voxels_outside_grey_matter_get_none():
    weights_V = responsive_weights([subject(seed, 1.0) for seed in range(6)], np.arange(V) != 0)
    assert weights_V[0] == 0 and weights_V[1] > 0


def test_responses_that_differ_in_sign_between_subjects_tell_nothing():
    shape_P = np.tile(np.hanning(NUM_LAGS), len(KINDS))
    opposed = [subject(seed, 1.0, shape_P * (-1) ** seed) for seed in range(6)]
    everywhere = np.ones(V, bool)
    np.testing.assert_array_equal(responsive_weights(opposed, everywhere), everywhere.astype(np.float32))


def without_events(seed: int) -> EventProducts:
    volumes_TV = np.random.default_rng(seed).standard_normal((T, V)).astype(np.float32)
    return event_products([np.zeros((T, len(KINDS) * NUM_LAGS), np.float32)], [volumes_TV])


@pytest.mark.parametrize("subjects", [[subject(0, 1.0)], [without_events(seed) for seed in range(4)]])
def test_where_events_tell_nothing_all_grey_matter_weighs_the_same(subjects):
    grey_matter = np.arange(V) % 2 == 0
    np.testing.assert_array_equal(responsive_weights(subjects, grey_matter), grey_matter.astype(np.float32))


def test_a_sum_of_arrays_leaves_its_terms_as_they_were():
    terms = [np.ones(2, np.float32), np.full(2, 2, np.float32)]
    assert sum_arrays(terms).tolist() == [3, 3]
    assert terms[0].tolist() == [1, 1]
