"""Several studies side by side: verdicts, corrected scores and cost, and the same subjects under each.

Takes studies as their reports read them; gives a page.
"""

from collections.abc import Sequence

from datasets.quality.markup import Markup, element, row, table
from platform.ledger.records import mean
from platform.report_pages.charts import Chart, interval, layout_of, line
from platform.report_pages.page import Section, paragraph, whole_page
from platform.report_pages.score_sections import ROW_HEIGHT, SCORE, number, within
from platform.report_pages.studied import Studied

SHARED = {"data": "shards", "pairing": "pairing", "seed": "seed", "protocol": "protocol version", "folds": "folds",
          "calibration": "calibration"}  # fmt: skip
"""Terms under which scores of two studies are those of the same subjects in the same folds."""


def comparison_page(studies: Sequence[Studied]) -> str:
    """Return the page that puts studies beside each other."""
    parts: list[Markup | Chart] = [_table(studies), _estimates(studies)]
    if not differences(studies):
        parts.append(_subjects(studies))
    first = element("section", _caution(studies))
    title = "Studies " + ", ".join(each.ledger.name for each in studies)
    return whole_page(title, first, [Section(name="studies", title="Side by side", parts=parts)])


def differences(studies: Sequence[Studied]) -> list[str]:
    """Return which of the terms that must agree for a comparison do not."""
    return [name for key, name in SHARED.items() if len({str(each.ledger.terms.get(key)) for each in studies}) > 1]


def _leaks(studies: Sequence[Studied]) -> str:
    """Return what is to be said of the studies whose split leaks, after a space; "" where none does."""
    leaking = [f" Not of {each.ledger.name}: {each.findings.leak}." for each in studies if each.findings.leak]
    return "".join(leaking)


def _caution(studies: Sequence[Studied]) -> Markup:
    differ = differences(studies)
    if differ:
        return paragraph(
            f"These studies differ in {', '.join(differ)}: their scores are not of the same task.{_leaks(studies)}"
        )
    return paragraph(
        "Same shards, seed and folds: scores compare subject by subject. The winner of each was chosen on "
        "these subjects; "
        "whichever looks best of several studies was chosen once more, by the reader, which nothing corrects."
    )


def _table(studies: Sequence[Studied]) -> Markup:
    rows = [
        row(
            each.ledger.name,
            str(each.ledger.terms.get("architecture", "")),
            each.findings.verdict.word,
            within(each.findings.corrected),
            number(each.findings.raw.mean),
            number(mean(each.winner.scores)),
            str(len(each.ledger.trials)),
            str(sum(trial.num_jobs for trial in each.ledger.trials)),
            f"{sum(trial.seconds for trial in each.ledger.trials) / 60:.1f}",
        )
        for each in studies
    ]
    scores = ["corrected r [95 %]", "test r", "validation r"]
    headings = ["study", "architecture", "verdict", *scores, "trials", "fold jobs", "minutes"]
    return table("The winner of every study, and what it cost", headings, rows)


def _estimates(studies: Sequence[Studied]) -> Chart:
    names = [each.ledger.name for each in studies]
    found = [each.findings.corrected for each in studies]
    trace = interval(
        "corrected",
        [each.mean for each in found],
        names,
        [each.low for each in found],
        [each.high for each in found],
        1,
    )
    rows = [row(name, within(each)) for name, each in zip(names, found, strict=True)]
    return Chart(
        name="estimates",
        title="Corrected scores",
        says="; ".join(f"{name} {number(each.mean)}" for name, each in zip(names, found, strict=True)),
        caption=f"What a new subject may be expected to have, with its 95 % interval.{_leaks(studies)}",
        data=[trace],
        layout=layout_of(SCORE, "", height=140 + ROW_HEIGHT * len(names), showlegend=False,
                         yaxis={"autorange": "reversed", "type": "category"}),
        table=table("Corrected scores", ["study", "r [95 % interval]"], rows),
    )  # fmt: skip


def _subjects(studies: Sequence[Studied]) -> Chart:
    names = [each.ledger.name for each in studies]
    tested = studies[0].tested
    of_fold = {fold: [each.test.get(fold) for each in studies] for fold in tested}
    traces = [
        {**line(tested[fold], names, scores), "mode": "lines+markers", "opacity": 0.75}
        for fold, scores in of_fold.items()
    ]
    rows = [row(tested[fold], *map(number, scores)) for fold, scores in of_fold.items()]
    return Chart(
        name="subjects",
        title="The same test subjects under each winner",
        says=f"{len(tested)} lines, one per subject, over {len(names)} studies.",
        caption="A line is one subject's test score under the winner of each study.",
        data=traces,
        layout=layout_of("", SCORE, showlegend=False, xaxis={"type": "category"}),
        table=table("Test r by subject", ["tested", *names], rows),
    )
