"""The winner's scores of other kinds: beyond confounds, by tissue and target, after calibration, beside published ones.

Takes a study as its report reads it; gives sections, none where no further scores are stored.
"""

import re
from collections.abc import Mapping

from datasets.quality.markup import Markup, element, row, table
from platform.ledger.records import mean
from platform.report_pages.charts import Chart, layout_of, line, markers
from platform.report_pages.page import Section, paragraph
from platform.report_pages.score_sections import ROW_HEIGHT, SCORE, number
from platform.report_pages.studied import Studied

NAMES = {
    "temporal_r_responsive": "r, responsive voxels",
    "temporal_r_grey": "r, grey matter",
    "temporal_r_grey_without_global": "r, grey matter, global signal removed",
    "temporal_r_parcels": "r, 200 parcels of grey matter",
    "temporal_r_white": "r, white matter",
    "temporal_r_beside_fluid": "r, beside fluid",
    "temporal_r_vessels": "r, large vessels",
    "unique_r": "r beyond confounds",
    "unique_r_beyond_events": "r beyond confounds and events",
    "r2_subject_mean": "R2 against the subject's mean",
    "identification": "identification of volumes (chance 0.5)",
}
IN_PROFILE = tuple(name for name in NAMES if name.startswith("temporal") or name.startswith("unique"))
MSE = "mse_given_own_mean"
GIVEN_OWN_MEAN = {
    MSE: ("MSE, 1e-4", 1e4),
    "ssim_given_own_mean": ("SSIM", 1.0),
    "psnr_db_given_own_mean": ("PSNR, dB", 1.0),
}
PUBLISHED_MSE = {"fully connected": 9.527e-4, "convolutional": 7.087e-4, "transformer": 4.976e-4}
"""The published leave-one-subject-out table, in units of (volume / subject's median - 1) squared."""
_AFTER = re.compile(r"temporal_r_responsive_after_([\d.]+)_min_(\w+)")
HOW = {"eeg": "EEG alone, unlabelled", "paired": "EEG with its volumes"}


def further_sections(studied: Studied) -> list[Section]:
    """Return the sections that further scores fill."""
    if not studied.further:
        text = (
            "The winner has no further scores: the search ran with --no-finalist-scores, or could not train it again."
        )
        return [Section(name="further", title="Other scores", parts=[paragraph(text)])]
    parts: list[Markup | Chart] = [_profile(studied), _all_scores(studied)]
    if any(map(_AFTER.fullmatch, studied.further["winner"])):
        parts.append(_calibration(studied))
    found = [Section(name="further", title="Other scores, by tissue and target", parts=parts)]
    return [*found, _published(studied)]


def _profile(studied: Studied) -> Chart:
    scores = {name: by_fold for name, by_fold in studied.further["winner"].items() if name in IN_PROFILE}
    labels = [_broken(NAMES[name]) for name in scores]
    dots = markers(
        "the winner, by subject",
        [value for by_fold in scores.values() for value in by_fold.values()],
        [_broken(NAMES[name]) for name, by_fold in scores.items() for _ in by_fold],
        kind=1,
        size=8,
    )
    means = markers("the winner, mean", [mean(by_fold) for by_fold in scores.values()], labels, kind=1, size=14)
    ridge = {name: studied.further.get("ridge_band_power", {}).get(name) for name in scores}
    of_ridge = markers(
        "ridge on band power, mean", [mean(each) if each else None for each in ridge.values()], labels, kind=2, size=12
    )
    rows = [
        row(subject, *(number(by_fold[fold]) for by_fold in scores.values()))
        for fold, subject in studied.tested.items()
    ]
    return Chart(
        name="profile",
        title="Where the winner's score comes from",
        says="; ".join(f"{NAMES[name]} {number(mean(by_fold))}" for name, by_fold in scores.items()),
        caption="The same predictions over other voxels, and what they add to confounds and events. A score that falls "
        "when the global signal is removed tracked that; one that falls to zero beyond confounds, those.",
        data=[{**dots, "opacity": 0.6}, means, of_ridge],
        layout=layout_of("test score", "", height=150 + ROW_HEIGHT * len(labels), yaxis={"autorange": "reversed"}),
        table=table("Test scores by subject", ["tested", *(NAMES[name] for name in scores)], rows),
    )


def _all_scores(studied: Studied) -> Markup:
    predictors = list(studied.further)
    names = [name for name in NAMES if name in studied.further["winner"]]
    rows = [row(NAMES[name], *(_cell(studied.further[each].get(name)) for each in predictors)) for name in names]
    caption = "Further test scores, mean over subjects; nothing was chosen by them"
    return table(caption, ["score", *map(studied.name_of, predictors)], rows)


def _calibration(studied: Studied) -> Chart:
    curves: dict[str, dict[float, Mapping[int, float]]] = {}
    for name, by_fold in studied.further["winner"].items():
        if match := _AFTER.fullmatch(name):
            curves.setdefault(match[2], {})[float(match[1])] = by_fold
    traces, rows = [], []
    for kind, (how, curve) in enumerate(sorted(curves.items())):
        minutes = sorted(curve)
        traces.append(
            {
                **line(HOW.get(how, how), minutes, [mean(curve[each]) for each in minutes], kind=kind, width=3),
                "mode": "lines+markers",
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1,
                    "array": [max(curve[each].values()) - mean(curve[each]) for each in minutes],
                    "arrayminus": [mean(curve[each]) - min(curve[each].values()) for each in minutes],
                },
            }
        )  # fmt: skip
        rows += [row(f"{HOW.get(how, how)}, {each:g} min", number(mean(curve[each]))) for each in minutes]
    return Chart(
        name="calibration",
        title="What minutes of a new subject's recording add",
        says=f"Mean score after 0 to {max(max(curve) for curve in curves.values()):g} minutes of calibration.",
        caption="Mean over test subjects; the upright lines reach from the lowest to the highest subject. "
        "All points of a "
        "curve are on the windows that the longest calibration leaves.",
        data=traces,
        layout=layout_of("minutes of calibration", SCORE),
        table=table("Score by minutes of calibration", ["calibration", "test r"], rows),
    )


def _published(studied: Studied) -> Section:
    ours = {name: scores for name, scores in studied.further.items() if MSE in scores}
    if not ours:
        text = (
            "The shards hold no mean images, so no error in the units of the published table can be told. It reads: "
            + ", ".join(f"{name} {value * 1e4:.3f}e-4" for name, value in PUBLISHED_MSE.items())
            + "."
        )
        return Section(name="published", title="Beside published scores", parts=[paragraph(text)])
    headings = ["predictor", *(label for label, _ in GIVEN_OWN_MEAN.values())]
    rows = [
        row(
            "zero: always the subject's mean image" if name == "zero" else studied.name_of(name),
            *(_scaled(scores.get(key), factor) for key, (_, factor) in GIVEN_OWN_MEAN.items()),
        )
        for name, scores in ours.items()
    ]
    rows += [row(f"published, {name}", f"{value * 1e4:.3f}", "", "") for name, value in PUBLISHED_MSE.items()]
    caution = element(
        "p",
        "These scores are given the subject's own mean image, which no model predicted. Compare each with "
        "the row of the "
        "mean image: a difference of a few thousandths is what a whole search may be about. The published table fed "
        "its transformer the true neighbouring slices, and gave no row of the mean image.",
    )
    shown = table("Errors of images, given the subject's own mean image; mean over test subjects", headings, rows)
    return Section(name="published", title="Beside published scores", parts=[caution, shown])


def _broken(label: str) -> str:
    """Return a label in two lines where it is long: on a phone the figure needs the space."""
    return (
        label.replace(", global", ",<br>global")
        .replace(" of grey", "<br>of grey")
        .replace(" and events", "<br>and events")
    )


def _cell(by_fold: Mapping[int, float] | None) -> str:
    return number(mean(by_fold)) if by_fold else number(None)


def _scaled(by_fold: Mapping[int, float] | None, factor: float) -> str:
    return f"{factor * mean(by_fold):.4g}" if by_fold else number(None)
