"""What the commands do, in Python: a study's findings, its best trials, its report.

python docs/example.py STORAGE STUDY PAGE.html

STORAGE is the ledger's database, as sqlite:////folder/studies.db; STUDY a study whose search is over.
"""

import sys
from pathlib import Path

from platform.evidence.findings import findings
from platform.ledger.studies import read_ledger
from platform.report import report_page
from platform.study.tables import trial_rows


def main(storage: str, study: str, page: str) -> None:
    """Print what a study found, and write its report."""
    ledger = read_ledger(storage, study)
    found = findings(ledger)
    print(f"verdict: {found.verdict.word}")
    print(f"a new subject: r {found.corrected.mean:+.3f} ({found.corrected.low:+.3f} to {found.corrected.high:+.3f})")
    for rival in found.comparisons:
        print(f"against {rival.rival}: {rival.difference:+.3f}, above on {rival.num_above} of {rival.num_subjects}")
    for row in trial_rows(ledger)[:3]:
        print(f"trial {row['trial']}: validation r {row['validation_mean']:+.3f} in {row['seconds']:.0f} s")
    Path(page).write_text(report_page(ledger, found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
