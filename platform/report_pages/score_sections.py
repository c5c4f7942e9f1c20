"""What a study found, as the report's first sections: verdict, estimates, baselines, subjects.

Takes a study as its report reads it; gives sections.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from datasets.quality.markup import MINUS, Markup, element, row, table
from platform.evidence.findings import Findings
from platform.evidence.statistics import ESTIMATES, LOCKED_AWAY, NESTED, Comparison, Estimate
from platform.evidence.verdict import WORDS
from platform.ledger.records import LedgerTrial, mean
from platform.report_pages.charts import Chart, Trace, heat_map, interval, layout_of, line, markers
from platform.report_pages.page import Section, paragraph
from platform.report_pages.studied import KIND_NAMES, KINDS, Studied

MOST_TRIALS = 50
MOST_IN_MAP = 30
ROW_HEIGHT = 30
SCORE = "r over time"
RIDGE = "ridge_band_power"
UNSELECTED = {NESTED: "every subject, by what the others chose", LOCKED_AWAY: "subjects locked away"}


def number(value: float | None, digits: int = 3) -> str:
    """Return a score as a person reads it; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:+.{digits}f}".replace("-", MINUS)


def spread(scores: Mapping[int, float]) -> str:
    """Return a mean and the standard deviation over folds."""
    if len(scores) < 2:  # noqa: PLR2004 - no SD of one
        return number(mean(scores)) if scores else number(None)
    return f"{number(mean(scores))} (SD {statistics.stdev(scores.values()):.3f})"


def within(estimate: Estimate) -> str:
    """Return an estimate with its interval."""
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def verdict_box(studied: Studied) -> Markup:
    """Return what was found in a word, why, and the score that a new subject may be expected to have."""
    found = studied.findings
    reasons = element("ul", *(element("li", reason) for reason in found.verdict.reasons))
    whom = f"another {found.unit} of these subjects, not on a new one" if found.leak else "a new subject"
    expected = (
        f"Expected on {whom}: r = {number(found.corrected.mean)}, 95 % interval "
        f"{number(found.corrected.low)} to "
        f"{number(found.corrected.high)} ({_method(found.corrected)}). The smallest effect that this study could have "
        f"found: {number(found.smallest_effect)}."
    )
    return element(
        "section",
        element("h2", "Verdict"),
        element("p", found.verdict.word, class_="word"),
        element("p", f"{WORDS[found.verdict.word][0].upper()}{WORDS[found.verdict.word][1:]}."),
        reasons,
        element("p", expected),
        *_against_ridge(found),
        class_="verdict",
        id="verdict",
    )


def _against_ridge(found: Findings) -> list[Markup]:
    """Return whether the search found more than a linear model does; nothing where that was not compared."""
    ridge = next((each for each in found.comparisons if each.rival == RIDGE), None)
    if ridge is None:
        return []
    told = "More than" if ridge.low > 0 else "Less than" if ridge.high < 0 else "Not to be told from"
    return [
        paragraph(
            f"{told} ridge regression on band power: difference {number(ridge.difference)}, 95 % interval "
            f"{number(ridge.low)} to {number(ridge.high)}, higher on {ridge.num_above} of {ridge.num_subjects}."
        )
    ]


def estimates(studied: Studied) -> Section:
    """Return the winner's score as it was measured and as it is corrected, beside every baseline and null."""
    parts: list[Markup | Chart] = [_estimate_table(studied), _beside_chart(studied)]
    if studied.findings.comparisons:
        parts.append(_comparison_chart(studied))
    return Section(name="scores", title="The winner beside baselines, confounds and nulls", parts=parts)


def leaderboard(studied: Studied) -> Section:
    """Return the best trials by validation: score, folds, cost; and who leads."""
    found = studied.findings
    ranked = sorted(studied.ledger.trials, key=_best_first)
    rows = [
        element(
            "tr",
            element("th", str(trial.number), scope="row"),
            *(element("td", each) for each in _trial_cells(studied, trial.number)),
            class_="winner" if trial.number == found.winner.number else None,
        )
        for trial in ranked[:MOST_TRIALS]
    ]
    headings = ["trial", "state", "folds", "validation r, mean (SD)", "s, all fold jobs", "s, one fold job", "standing"]
    caption = (
        f"The best {len(rows)} of {len(ranked)} trials, by validation: scores that chose the winner, so the best of "
        "them is too high. Of all trials only the winner's test score is shown on this page."
    )
    leading = ", ".join(map(str, found.leaders))
    text = (
        f"Trials that cannot be told from the best by their scores: {leading}. The cheapest of them is trial "
        f"{found.cheapest}."
    )
    seeds = (
        [] if found.seed_sd is None else [paragraph(f"SD of a trial's mean from seed to seed: {found.seed_sd:.4f}.")]
    )
    parts: list[Markup | Chart] = [paragraph(text), *seeds, table(caption, headings, rows), _heat_map(studied)]
    return Section(name="trials", title="Trials", parts=parts)


def subjects(studied: Studied, quality: Chart | None) -> Section:
    """Return every test subject's scores, those of one subject joined by a line, and beside them its quality."""
    return Section(name="subjects", title="Subjects", parts=[_paired_chart(studied), *([quality] if quality else [])])


def _method(estimate: Estimate) -> str:
    return ESTIMATES.get(estimate.method, estimate.method)


def _estimate_table(studied: Studied) -> Markup:
    found = studied.findings
    named = {
        "the winner, test score as measured": found.raw,
        "the winner, corrected": found.corrected,
        **({"a second opinion on it": found.bootstrapped} if found.bootstrapped else {}),
        **{UNSELECTED[each.method]: each for each in found.unselected},
    }
    rows = [row(name, within(each), str(each.num_subjects), _method(each)) for name, each in named.items()]
    rows += [
        row(f"null {null.name.replace('_', ' ')}", f"p = {null.p:.3g}", "", f"{len(null.values)} repetitions")
        for null in found.nulls
    ]
    return table(
        "The winner's score, and what comes of no coupling",
        ["estimate", "r [95 % interval]", f"{studied.unit}s", "how"],
        rows,
    )


def _what_corrected_is(found: Findings) -> str:
    if found.leak:
        return f"{found.leak[0].upper()}{found.leak[1:]}."
    return "The corrected winner is what a new subject may be expected to have."


def _beside_chart(studied: Studied) -> Chart:
    found = studied.findings
    rows = {"winner": studied.test, **{name: each.test for name, each in studied.baselines.items() if each.test}}
    by_kind: dict[int, tuple[list[float], list[str]]] = {}
    for name, scores in rows.items():
        xs, ys = by_kind.setdefault(1 if name == "winner" else KINDS.get(name, 0), ([], []))
        xs += scores.values()
        ys += [studied.name_of(name)] * len(scores)
    traces: list[Trace] = [
        {**markers(KIND_NAMES[kind], xs, ys, kind=kind, size=8), "opacity": 0.65} for kind, (xs, ys) in by_kind.items()
    ]
    means = {
        "type": "scatter", "mode": "markers", "name": "mean", "hoverinfo": "x",
        "x": [mean(scores) for scores in rows.values()], "y": [studied.name_of(name) for name in rows],
        "marker": {"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": "#1d2733"}},
    }  # fmt: skip
    corrected = interval(
        "corrected, 95 %",
        [found.corrected.mean],
        ["winner, corrected"],
        [found.corrected.low],
        [found.corrected.high],
        1,
    )
    nulls: list[Trace] = [
        {
            "type": "box", "name": f"null: {null.name.replace('_', ' ')}", "x": list(null.values),
            "y": [f"null: {null.name.replace('_', ' ')}"] * len(null.values), "orientation": "h", "boxpoints": "all",
            "pointpos": 0, "marker": {"color": "#5f6b77", "size": 3}, "line": {"color": "#5f6b77"},
        }
        for null in found.nulls
    ]  # fmt: skip
    order = ["winner, corrected", *(studied.name_of(name) for name in rows), *(null["name"] for null in nulls)]
    best = max((name for name in rows if name != "winner"), key=lambda name: mean(rows[name]), default="")
    says = (
        f"Dots of test scores by predictor. Winner {number(mean(studied.test))}, corrected "
        f"{number(found.corrected.mean)}; the highest other predictor is {studied.name_of(best)} with "
        f"{number(mean(rows.get(best, {})))}."
    )
    return Chart(
        name="beside",
        title="Test scores of all predictors",
        says=says,
        caption=f"r over time in responsive voxels. Each dot is one test {studied.unit}, the upright line the mean. "
        f"{_what_corrected_is(found)} Nulls are means over subjects without coupling.",
        data=[corrected, *traces, means, *nulls],
        layout=layout_of(
            SCORE, "", height=140 + ROW_HEIGHT * len(order),
            yaxis={"categoryorder": "array", "categoryarray": order[::-1]},
        ),
        table=table(
            "Mean and SD over subjects", ["predictor", "validation r", "test r"],
            [row(studied.name_of("winner"), spread(studied.winner.scores), spread(studied.test))]
            + [row(studied.name_of(name), spread(each.validation), spread(each.test))
               for name, each in studied.baselines.items()],
        ),
    )  # fmt: skip


def _comparison_chart(studied: Studied) -> Chart:
    shown: Sequence[Comparison] = studied.findings.comparisons
    names = [studied.name_of(each.rival) for each in shown]
    trace = interval(
        "winner less rival", [each.difference for each in shown], names,
        [each.low for each in shown], [each.high for each in shown], 1,
    )  # fmt: skip
    clear = [studied.name_of(each.rival) for each in shown if each.low > 0]
    says = f"The winner is above {', '.join(clear) or 'none'}: the interval of the difference lies above zero."
    rows = [
        row(studied.name_of(each.rival), f"{number(each.difference)} [{number(each.low)}, {number(each.high)}]",
            f"{each.p:.3g}", f"{each.p_corrected:.3g}", f"{each.num_above} of {each.num_subjects}")
        for each in shown
    ]  # fmt: skip
    return Chart(
        name="comparisons",
        title="The winner less each rival, paired over subjects",
        says=says,
        caption="Right of zero: the winner is better. The lines are 95 % intervals; p in the table is "
        "corrected for the "
        "number of rivals (Holm).",
        data=[trace],
        layout=layout_of("difference in r", "", height=120 + ROW_HEIGHT * len(names), showlegend=False,
                         yaxis={"autorange": "reversed"}),
        table=table(
            "Paired differences", ["rival", "difference [95 %]", "p", "p, corrected", "winner higher on"], rows
        ),
    )  # fmt: skip


def _heat_map(studied: Studied) -> Chart:
    ranked = [trial for trial in sorted(studied.ledger.trials, key=_best_first) if trial.scores][:MOST_IN_MAP]
    folds = studied.folds
    labels = [studied.tested.get(fold, f"fold {fold}") if not studied.nested else f"fold {fold}" for fold in folds]
    scores = [[trial.scores.get(fold) for fold in folds] for trial in ranked]
    names = [f"trial {trial.number}" for trial in ranked]
    rows = [row(name, *(number(score) for score in of_trial)) for name, of_trial in zip(names, scores, strict=True)]
    return Chart(
        name="heat-map",
        title="Validation score of every fold and trial",
        says=f"A map of {len(ranked)} trials by {len(folds)} folds; empty cells were raced out.",
        caption="Columns are folds, named by the subject that each leaves out; the score is that of its two validation "
        "subjects. A column of one colour is an easy or a hard fold; a row of one colour is a trial that does "
        "well everywhere.",
        data=[heat_map(labels, names, scores, "validation r")],
        layout=layout_of("fold", "", height=140 + 22 * len(ranked), yaxis={"autorange": "reversed", "type": "category"},
                         xaxis={"type": "category"}),
        table=table("Validation r by trial and fold", ["trial", *labels], rows),
    )  # fmt: skip


def _paired_chart(studied: Studied) -> Chart:
    order = [name for name in ("zero", "events", "confounds", "ridge_band_power") if _is_scored(studied, name)]
    columns = {**{name: studied.baselines[name].test for name in order}, "winner": studied.test}
    names = [studied.name_of(name) for name in columns]
    traces = [
        {
            **line(subject, names, [scores.get(fold) for scores in columns.values()]),
            "mode": "lines+markers", "opacity": 0.75, "marker": {"size": 7, "color": "#0072b2"},
        }
        for fold, subject in studied.tested.items()
    ]  # fmt: skip
    rows = [
        row(subject, *(number(scores.get(fold)) for scores in columns.values()))
        for fold, subject in studied.tested.items()
    ]
    rival = order[-1] if order else ""
    num_above = sum(studied.test[fold] > columns[rival][fold] for fold in studied.test) if rival else 0
    return Chart(
        name="subjects",
        title="Every test subject, by predictor",
        says=f"The winner is above {studied.name_of(rival)} on {num_above} of {len(studied.test)} subjects.",
        caption="A line is one subject. Lines that rise together are an effect in every subject; lines that "
        "cross are not.",
        data=traces,
        layout=layout_of("", SCORE, showlegend=False),
        table=table("Test r by subject", ["tested", *names], rows),
    )


def _is_scored(studied: Studied, name: str) -> bool:
    return name in studied.baselines and set(studied.test) <= set(studied.baselines[name].test)


def _best_first(trial: LedgerTrial) -> tuple[bool, float, int]:
    value = mean(trial.scores)
    return trial.state != "COMPLETE", -value if math.isfinite(value) else math.inf, trial.number


def _trial_cells(studied: Studied, number_of: int) -> list[str]:
    trial = next(each for each in studied.ledger.trials if each.number == number_of)
    cheap = "cheapest of the leaders" if number_of == studied.findings.cheapest else ""
    leads = cheap or ("leads" if number_of in studied.findings.leaders else "")
    state = {"COMPLETE": "all folds", "PRUNED": "raced out", "FAIL": "failed"}.get(trial.state, trial.state.lower())
    return [
        state, str(len(trial.scores)), spread(trial.scores), f"{trial.seconds:.0f}", f"{trial.seconds_per_job:.3g}",
        trial.failure or leads,
    ]  # fmt: skip
