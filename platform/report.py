"""``python -m platform.report STUDY``: what a study found, as one HTML page that needs nothing else.

Takes a closed study's ledger; gives a page: the verdict and its reasons, the winner's corrected score beside baselines,
confounds and nulls, trials, subjects, the search, other scores, where all of it comes from, and text to paste.  All
estimates are those of ``platform.evidence.findings``; of all trials only the winner's test scores are shown.
"""

import argparse
from pathlib import Path

from datasets.command_line import CommandParser, run_command
from datasets.errors import BadInput
from datasets.storage import home_folder, write_whole
from platform.evidence.findings import Findings, findings
from platform.ledger.ledger import Ledger
from platform.ledger.studies import read_ledger
from platform.report_pages.brain_section import brain_section
from platform.report_pages.comparison import comparison_page
from platform.report_pages.further_sections import further_sections
from platform.report_pages.origin_sections import origin, to_paste
from platform.report_pages.page import whole_page
from platform.report_pages.quality_section import quality_chart
from platform.report_pages.score_sections import estimates, leaderboard, subjects, verdict_box
from platform.report_pages.search_sections import the_search
from platform.report_pages.studied import Studied


def main() -> None:
    """Write the report of a study and say where it lies."""
    chosen = parse_arguments()
    storage = chosen.study_storage or f"sqlite:///{home_folder() / 'studies.db'}"
    names = [chosen.study, *chosen.compare]
    ledgers = [read_ledger(storage, name) for name in names]
    content = (compared_page(ledgers) if chosen.compare else report_page(ledgers[0])).encode()
    path = (chosen.output or Path("-and-".join(names) + ".html")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    print(path)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(prog="python -m platform.report", description="Write a study's report: one HTML page.")
    parser.add_argument("study", metavar="STUDY", help="the study's name")
    parser.add_option("--study-storage", metavar="URL", help="the ledger's database (else SQLite in EEG2FMRI_HOME)")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="STUDY", help="put these studies beside it, on a page of their own"
    )
    parser.add_option("--output", type=Path, metavar="FILE.html", help="where to write it (else STUDY.html here)")
    chosen = parser.parse_args()
    if len({chosen.study, *chosen.compare}) <= len(chosen.compare):
        raise BadInput(f"--compare needs other studies than {chosen.study}, each once")
    return chosen


def report_page(ledger: Ledger, found: Findings | None = None) -> str:
    """Return the report as HTML; BadInput where the search is not over, or no trial ran on all folds.

    Args:
        ledger: the study's.
        found: its findings, where they are known already.
    """
    studied = Studied(ledger=ledger, findings=found or findings(ledger))
    sections = [
        estimates(studied),
        leaderboard(studied),
        subjects(studied, quality_chart(studied)),
        brain_section(studied),
        *further_sections(studied),
        the_search(studied),
        to_paste(studied),
        origin(studied),
    ]
    return whole_page(f"Study {ledger.name}", verdict_box(studied), sections)


def compared_page(ledgers: list[Ledger]) -> str:
    """Return several studies side by side as HTML; BadInput where one of them has nothing to show."""
    return comparison_page([Studied(ledger=ledger, findings=findings(ledger)) for ledger in ledgers])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
