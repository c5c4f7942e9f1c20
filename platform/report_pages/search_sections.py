"""How the search went, as the report's later sections: what mattered, how trials raced, how the winner learned.

Takes a study as its report reads it; gives a section.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from datasets.quality.markup import Markup, row, table
from platform.ledger.records import LedgerTrial, mean, trace_times
from platform.report_pages.charts import COLOURS, HEIGHT, Chart, Trace, band, interval, layout_of, line, markers
from platform.report_pages.page import Section, paragraph
from platform.report_pages.score_sections import MOST_TRIALS, ROW_HEIGHT, number
from platform.report_pages.studied import Studied

MOST_AXES = 9
MOST_TICKS = 10
MOST_CHOICES = 12
FEWEST_TRIALS = 2
SHARES = 100


def the_search(studied: Studied) -> Section:
    """Return how trials raced, what their configurations were, what mattered, and how the winner learned."""
    parts: list[Markup | Chart] = []
    if studied.findings.importance:
        parts.append(_importance(studied))
    else:
        parts.append(paragraph("Too few trials to say which choices mattered.", class_="quiet"))
    if len(studied.ledger.trials) >= FEWEST_TRIALS:
        parts.append(_parallel(studied))
        parts.append(_racing(studied))
    parts.append(_learning(studied))
    if studied.winner.records[studied.folds[0]].trace:
        parts.append(_course(studied))
    return Section(name="search", title="The search", parts=parts)


def _importance(studied: Studied) -> Chart:
    shown = studied.findings.importance[:MOST_CHOICES]
    names = [each.parameter.replace("_", " ") for each in shown]
    rows = [
        row(name, f"{each.share:.0%}", f"{each.low:.0%} to {each.high:.0%}")
        for name, each in zip(names, shown, strict=True)
    ]
    trace = interval(
        "share", [SHARES * each.share for each in shown], names,
        [SHARES * each.low for each in shown], [SHARES * each.high for each in shown], 0,
    )  # fmt: skip
    return Chart(
        name="importance",
        title="Which choices mattered",
        says=f"{names[0]} accounts for {shown[0].share:.0%} of the differences between trials.",
        caption="Share of the differences between trials' validation scores that a choice accounts for, "
        "with its interval; the first 12. "
        "Where intervals overlap, the order says nothing.",
        data=[trace],
        layout=layout_of("share, %", "", height=120 + ROW_HEIGHT * len(names), showlegend=False,
                         yaxis={"autorange": "reversed"}, xaxis={"rangemode": "tozero"}),
        table=table("Importance", ["choice", "share", "interval"], rows),
    )  # fmt: skip


def _parallel(studied: Studied) -> Chart:
    trials = [trial for trial in studied.ledger.trials if trial.scores][:MOST_TRIALS]
    wanted = [each.parameter for each in studied.findings.importance]
    axes = _varied(trials, wanted)[:MOST_AXES]
    places = {key: _places([trial.configuration.get(key) for trial in trials]) for key in axes}
    titles = [key.replace("_", " ") for key in axes]
    ranges = [_range([trial.configuration.get(key) for trial in trials]) for key in axes]
    traces: list[Trace] = []
    for at, trial in enumerate(trials):
        is_winner = trial.number == studied.winner.number
        kind = 1 if is_winner else 0 if trial.state == "COMPLETE" else 4
        shown = [_shown(trial.configuration.get(key)) for key in axes]
        of_trial = line(
            f"trial {trial.number}", titles, [places[key][at] for key in axes], kind=kind, width=4 if is_winner else 1.2
        )
        of_trial |= {
            "text": [f"{key}: {value}" for key, value in zip(titles, shown, strict=True)],
            "hovertemplate": f"trial {trial.number}, r {number(mean(trial.scores))}<br>%{{text}}<extra></extra>",
            "opacity": 1.0 if is_winner else 0.55,
        }
        of_trial["line"]["dash"] = "solid" if is_winner or kind == 0 else "dot"
        traces.append(of_trial)
    rows = [
        row(str(trial.number), number(mean(trial.scores)), *(_shown(trial.configuration.get(key)) for key in axes))
        for trial in trials
    ]
    return Chart(
        name="configurations",
        title="Configurations",
        says=f"One line per trial over {len(axes)} choices; the thick line is the winner's.",
        caption="Each line is a trial; thick: the winner, thin: on all folds, dotted: raced out or failed. "
        "Below an axis stands from what to what it runs, names in the order of the alphabet; a line has a gap where "
        "its configuration lacks the choice.",
        data=sorted(traces, key=lambda trace: trace["line"]["width"]),
        layout=layout_of("", "", showlegend=False, height=HEIGHT + 60,
                         xaxis={"tickvals": titles, "ticktext": _named(titles, ranges), "tickfont": {"size": 11}},
                         yaxis={"tickvals": [0, 1], "ticktext": ["lowest", "highest"], "range": [-0.08, 1.08]}),
        table=table("What was tried", ["trial", "validation r", *titles], rows),
    )  # fmt: skip


def _racing(studied: Studied) -> Chart:
    trials = [trial for trial in studied.ledger.trials if trial.scores]
    traces = []
    for trial in trials:
        running = [statistics.fmean(scores) for scores in _heads(list(trial.scores.values()))]
        is_winner = trial.number == studied.winner.number
        kind = 1 if is_winner else 0 if trial.state == "COMPLETE" else 4
        of_trial = line(
            f"trial {trial.number}", list(range(1, len(running) + 1)), running, kind=kind, width=4 if is_winner else 1.2
        )
        of_trial["line"]["dash"] = "solid"
        of_trial |= {"mode": "lines+markers", "opacity": 1.0 if is_winner else 0.6}
        is_out = kind == 4  # noqa: PLR2004
        of_trial["marker"] = {
            "size": [5] * (len(running) - 1) + [10 if is_out else 5], "color": COLOURS[kind],
            "symbol": ["circle"] * (len(running) - 1) + ["x" if is_out else "circle"],
        }  # fmt: skip
        traces.append(of_trial)
    num_all = sum(trial.state == "COMPLETE" for trial in trials)
    rows = [row(str(trial.number), str(len(trial.scores)), number(mean(trial.scores))) for trial in trials]
    return Chart(
        name="racing",
        title="How trials raced",
        says=f"{num_all} of {len(studied.ledger.trials)} trials ran on all {len(studied.folds)} folds.",
        caption="The mean validation score as folds came in. Crosses: trials that were raced out where "
        "their line ends; "
        "thick: the winner.",
        data=traces,
        layout=layout_of("folds so far", "mean validation r", showlegend=False, xaxis={"dtick": 1}),
        table=table("Folds and score of every trial", ["trial", "folds", "validation r"], rows),
    )


def _learning(studied: Studied) -> Chart:
    records = studied.winner.records
    curves = [[statistics.fmean(pair) for pair in zip(*record.validation, strict=True)] for record in records.values()]
    of_epoch = [values for values in itertools.zip_longest(*curves)]
    known = [[value for value in values if value is not None] for values in of_epoch]
    epochs = list(range(1, len(known) + 1))
    means = [statistics.fmean(values) for values in known]
    chosen = [record.best_epochs for record in records.values()]
    rows = [
        row(str(epoch), number(average), number(min(values)), number(max(values)), str(len(values)))
        for epoch, average, values in zip(epochs, means, known, strict=True)
    ]
    traces = [
        band("lowest to highest fold", epochs, [min(values) for values in known], [max(values) for values in known]),
        line("mean over folds", epochs, means, width=3),
        markers(
            "epoch that a fold chose",
            chosen,
            [curve[min(epoch, len(curve)) - 1] if curve else None for epoch, curve in zip(chosen, curves, strict=True)],
            kind=1,
        ),
    ]
    return Chart(
        name="learning",
        title="How the winner learned",
        says=f"Validation score by epoch, from {number(means[0]) if means else 'none'} to "
        f"{number(means[-1]) if means else 'none'}.",
        caption="Mean of the two validation subjects' scores after each epoch. Folds that stopped early "
        "leave the mean.",
        data=traces,
        layout=layout_of("epoch", "validation r", xaxis={"tick0": 1, "dtick": max(1, len(epochs) // MOST_TICKS)}),
        table=table("Validation r by epoch", ["epoch", "mean", "lowest", "highest", "folds"], rows),
    )


def _course(studied: Studied) -> Chart:
    order = sorted(studied.test, key=lambda fold: studied.test[fold]) if not studied.nested else studied.folds
    fold = order[len(order) // 2]
    trace: Mapping[str, Any] = studied.winner.records[fold].trace
    target, predicted = list(trace["target"]), list(trace["prediction"])
    times = trace_times(trace)
    rows = [
        row(f"{time:g}", f"{truth:.3f}", f"{guess:.3f}")
        for time, truth, guess in zip(times, _standardised(target), _standardised(predicted), strict=True)
    ]
    return Chart(
        name="course",
        title="Target and prediction over one run",
        says=f"Two courses of {len(times)} volumes in {trace['recording']}.",
        caption=f"{trace['recording']}, a validation {studied.unit} of the fold with the middle score: mean over the "
        "voxels that weigh, each course with mean 0 and SD 1, so that only their shapes compare.",
        data=[
            _solid(line("target", times, _standardised(target), kind=4)),
            line("prediction", times, _standardised(predicted), kind=1),
        ],
        layout=layout_of("time in run, s", "standard deviations"),
        table=table("The courses", ["time, s", "target", "prediction"], rows),
    )


def _named(titles: Sequence[str], ranges: Sequence[str]) -> list[str]:
    return [f"{title}<br>{values}" for title, values in zip(titles, ranges, strict=True)]


def _solid(trace: Trace) -> Trace:
    return {**trace, "line": {**trace["line"], "dash": "solid"}}


def _range(values: Sequence[Any]) -> str:
    """Return from where to where an axis runs, in words."""
    known = [value for value in values if value is not None]
    order = _in_order(known)
    return f"{_shown(order[0])} to {_shown(order[-1])}" if order else ""


def _in_order(known: Sequence[Any]) -> list[Any]:
    """Return each value once, from the lowest to the highest: numbers by size, names by the alphabet."""
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return sorted(set(known)) if are_numbers else sorted({str(value) for value in known})


def _varied(trials: Sequence[LedgerTrial], first: Sequence[str]) -> list[str]:
    """Return the choices in which trials differ, those named first before the others."""
    keys = dict.fromkeys([*first, *(key for trial in trials for key in trial.configuration)])
    return [key for key in keys if len({str(trial.configuration.get(key)) for trial in trials}) > 1]


def _places(values: Sequence[Any]) -> list[float | None]:
    """Return where each value lies between the lowest and the highest of its kind: numbers by rank, names in order."""
    order = _in_order([value for value in values if value is not None])
    rank = {value: at / max(len(order) - 1, 1) for at, value in enumerate(order)}
    return [None if value is None else rank[value if value in rank else str(value)] for value in values]


def _heads(values: Sequence[float]) -> list[Sequence[float]]:
    return [values[: end + 1] for end in range(len(values))]


def _shown(value: Any) -> str:  # noqa: ANN401 - a choice of any kind
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _standardised(values: Sequence[float]) -> list[float]:
    spread = statistics.pstdev(values) or 1.0
    centre = statistics.fmean(values)
    return [(value - centre) / spread for value in values]
