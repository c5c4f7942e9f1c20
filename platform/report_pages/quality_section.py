"""Whether the score of a subject goes with the quality of its recordings: the report's figure of both.

Takes a study as its report reads it; gives a chart, none where the ledger notes no quality.
"""

from collections.abc import Mapping

from scipy.stats import spearmanr

from datasets.quality.markup import row, table
from platform.data.quality import FIGURES, QUALITY
from platform.report_pages.charts import Chart, Trace, layout_of, markers
from platform.report_pages.score_sections import SCORE, number
from platform.report_pages.studied import Studied

FEWEST = 4
"""Subjects below which no correlation over them is told."""
PANEL_HEIGHT, GAP = 250, 0.14


def quality_chart(studied: Studied) -> Chart | None:
    """Return test scores against figures of quality, one panel for each that differs between subjects."""
    values = _known(studied)
    if not values:
        return None
    number_of = len(values)
    traces: list[Trace] = []
    axes: dict[str, object] = {}
    for at, (name, by_fold) in enumerate(values.items()):
        traces.append(_panel(studied, name, by_fold, at))
        axes |= _axes(name, at, number_of)
    folds = [fold for fold in studied.tested if all(fold in by_fold for by_fold in values.values())]
    rows = [
        row(studied.tested[fold], number(studied.test[fold]), *(f"{by_fold[fold]:.3g}" for by_fold in values.values()))
        for fold in folds
    ]
    layout = layout_of("", SCORE, height=70 + PANEL_HEIGHT * number_of, showlegend=False)
    return Chart(
        name="quality",
        title="Quality of the recordings against the winner's test score",
        says=". ".join(_sentence(studied, name, by_fold) for name, by_fold in values.items()) + ".",
        caption="A dot is a test subject. Where scores rise or fall with quality, the winner may follow artefacts, or "
        "fail where recordings are bad. " + ". ".join(_sentence(studied, *each) for each in values.items()) + ".",
        data=traces,
        layout={**layout, "margin": {**layout["margin"], "b": 60}, **axes},
        table=table("Figures of quality by subject", ["tested", "test r", *(FIGURES[name] for name in values)], rows),
    )


def _known(studied: Studied) -> dict[str, dict[int, float]]:
    """Return, by figure, every test subject's value; without figures that are alike in all."""
    noted: Mapping[str, Mapping[str, float]] = studied.ledger.noted(QUALITY) or {}
    found: dict[str, dict[int, float]] = {}
    for name in FIGURES:
        of_folds = {fold: noted.get(subject, {}).get(name) for fold, subject in studied.tested.items()}
        by_fold = {fold: value for fold, value in of_folds.items() if value is not None}
        if len(by_fold) == len(of_folds) and len(set(by_fold.values())) > 1:
            found[name] = by_fold
    return found


def _panel(studied: Studied, name: str, by_fold: Mapping[int, float], at: int) -> Trace:
    folds = list(by_fold)
    dots = markers(
        FIGURES[name], [by_fold[fold] for fold in folds], [studied.test[fold] for fold in folds], kind=1, size=10,
        text=[studied.tested[fold] for fold in folds],
    )  # fmt: skip
    suffix = str(at + 1) if at else ""
    return {**dots, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "hovertemplate": "%{text}: %{x:.3g}, r %{y:.3f}"}


def _axes(name: str, at: int, number_of: int) -> dict[str, object]:
    """Return the axes of a panel; panels lie below each other, so that a phone shows them, too."""
    suffix = str(at + 1) if at else ""
    share = 1 / number_of
    gap = GAP * share if number_of > 1 else 0.0
    shared = layout_of(FIGURES[name], SCORE)
    top = 1 - at * share
    low = top - share + (2 * gap if at < number_of - 1 else 0.0)
    return {
        f"xaxis{suffix}": {**shared["xaxis"], "anchor": f"y{suffix}", "title": {"text": FIGURES[name], "standoff": 4}},
        f"yaxis{suffix}": {**shared["yaxis"], "anchor": f"x{suffix}", "domain": [max(low, 0.0), top]},
    }


def _sentence(studied: Studied, name: str, by_fold: Mapping[int, float]) -> str:
    if len(by_fold) < FEWEST:
        return f"{FIGURES[name][0].upper()}{FIGURES[name][1:]}: too few subjects to correlate"
    found = spearmanr(list(by_fold.values()), [studied.test[fold] for fold in by_fold])
    return (
        f"{FIGURES[name][0].upper()}{FIGURES[name][1:]}: rank correlation {number(float(found.statistic), 2)} over "
        f"{len(by_fold)} subjects (p = {found.pvalue:.2g})"
    )
