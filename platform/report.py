"""``python -m platform.report STUDY``: what a study found, as one HTML page that needs nothing else.

Takes a closed study's ledger; gives a page: the winner beside baselines, best trials, terms, and when test scores were
opened.  Nothing is estimated here; of all trials only the winner's test scores are shown.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from datasets.command_line import CommandParser, run_command
from datasets.errors import BadInput
from datasets.quality.markup import Markup, element, row, table
from datasets.storage import home_folder, write_whole
from platform.ledger import Ledger, LedgerTrial, best_trial, mean, read_ledger
from platform.study_tables import trial_rows

MOST_TRIALS = 50
STYLE = """
body { margin: 0 auto; max-width: 900px; padding: 0 16px 48px; color: #1d2733; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #4f5d6b; }
th, td { text-align: left; padding: 4px 10px; border-top: 1px solid #dfe3e8; font-weight: 400;
  overflow-wrap: anywhere; }
"""


def main() -> None:
    """Write the report of a study and say where it lies."""
    parser = CommandParser(prog="python -m platform.report", description="Write a study's report: one HTML page.")
    parser.add_argument("study", metavar="STUDY", help="the study's name")
    parser.add_option("--study-storage", metavar="URL", help="the ledger's database (else SQLite in EEG2FMRI_HOME)")
    parser.add_option("--output", type=Path, metavar="FILE.html", help="where to write it (else STUDY.html here)")
    chosen = parser.parse_args()
    storage = chosen.study_storage or f"sqlite:///{home_folder() / 'studies.db'}"
    content = report_page(read_ledger(storage, chosen.study)).encode()
    path = (chosen.output or Path(f"{chosen.study}.html")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    print(path)


def report_page(ledger: Ledger) -> str:
    """Return the report as HTML; BadInput where the search is not over, or no trial ran on all folds."""
    if not ledger.is_closed:
        raise BadInput(f"the search of study {ledger.name} is not over; run its command again to its end, then report")
    winner = best_trial(ledger.trials)
    if winner is None:
        raise BadInput(f"study {ledger.name} has no trial on all folds; run its command with more --trials")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"Study {ledger.name}"),
        element("style", Markup(STYLE)),
    )
    parts = (_caution(ledger, winner), _beside_baselines(ledger, winner), _best(ledger), _origin(ledger))
    body = element("body", element("main", element("h1", f"Study {ledger.name}"), *parts))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _caution(ledger: Ledger, winner: LedgerTrial) -> Markup:
    text = (
        f"Trial {winner.number} is the best of {len(ledger.trials)} configurations on these very subjects: its scores "
        "are too high for a new subject by an amount that is not corrected here. This page gives no verdict."
    )
    return element("p", element("strong", text))


def _beside_baselines(ledger: Ledger, winner: LedgerTrial) -> Markup:
    test = ledger.test_scores(winner.number)
    rows = [row(f"best configuration (trial {winner.number})", _shown(winner.scores), _shown(test))]
    rows += [row(name, _shown(each.validation), _shown(each.test)) for name, each in ledger.baselines().items()]
    caption = f"temporal r, responsive voxels: mean and SD over {len(winner.scores)} subjects"
    found = table(caption, ["predictor", "validation", "test"], rows)
    return element("section", element("h2", "Winner and baselines"), found)


def _best(ledger: Ledger) -> Markup:
    trials = {trial.number: trial for trial in ledger.trials}
    rows = [
        row(str(each["trial"]), each["state"].lower(), str(each["folds"]), _shown(trials[each["trial"]].scores),
            f"{each['seconds']:.0f}")
        for each in trial_rows(ledger)[:MOST_TRIALS]
    ]  # fmt: skip
    headings = ["trial", "state", "folds", "validation", "seconds"]
    found = table(f"The best {len(rows)} of {len(trials)} trials", headings, rows)
    return element("section", element("h2", "Trials"), found)


def _origin(ledger: Ledger) -> Markup:
    terms = table("Terms of the study", ["term", "value"], [row(key, str(each)) for key, each in ledger.terms.items()])
    opened = [row(str(each["at"]), str(each["trials"])) for each in ledger.closings]
    openings = table("When test scores were opened", ["time", "trials by then"], opened)
    return element("section", element("h2", "Where it comes from"), terms, openings)


def _shown(scores: Mapping[int, float]) -> str:
    if len(scores) < 2:  # noqa: PLR2004 - no SD of one
        return f"{mean(scores):+.4f}" if scores else ""
    return f"{mean(scores):+.4f} (SD {statistics.stdev(scores.values()):.4f})"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
