"""Where a study comes from, and what to paste into a paper: terms, openings, versions, methods, references, files.

Takes a study as its report reads it; gives sections.
"""

import sys
from importlib import metadata
from typing import Any

from datasets.quality.markup import Markup, element, row, table
from platform.evidence.statistics import ESTIMATES
from platform.ledger.provenance import code_version
from platform.report_pages.page import Section, download, paragraph
from platform.report_pages.score_sections import number
from platform.report_pages.studied import Studied

PACKAGES = ("mne", "mlflow", "nibabel", "nilearn", "numpy", "optuna", "plotly", "ray", "scipy", "torch")
RACING = {
    "none": "Every configuration ran on all folds.",
    "halving": "Configurations raced: after 4, 8, 16 folds and so on, only the better half went on.",
    "paired": "Configurations raced: those unlikely to be the best by their paired fold scores were stopped.",
}
BIBTEX = """@software{eeg2fmri_platform,
  author  = {{The eeg2fmri-platform authors}},
  title   = {eeg2fmri-platform},
  version = {VERSION}
}
@article{tsamardinos2018,
  author  = {Tsamardinos, Ioannis and Greasidou, Elissavet and Borboudakis, Giorgos},
  title   = {Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation},
  journal = {Machine Learning}, volume = {107}, pages = {1895--1922}, year = {2018}
}
@article{nadeau2003,
  author  = {Nadeau, Claude and Bengio, Yoshua},
  title   = {Inference for the Generalization Error},
  journal = {Machine Learning}, volume = {52}, pages = {239--281}, year = {2003}
}
@inproceedings{akiba2019,
  author    = {Akiba, Takuya and Sano, Shotaro and Yanase, Toshihiko and Ohta, Takeru and Koyama, Masanori},
  title     = {Optuna: A Next-generation Hyperparameter Optimization Framework},
  booktitle = {Proceedings of the 25th ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  year      = {2019}
}
"""


def to_paste(studied: Studied) -> Section:
    """Return a methods paragraph, references, and the files that the page carries."""
    parts = [
        element("h3", "Methods"),
        element("blockquote", methods(studied)),
        element("h3", "References"),
        element("pre", BIBTEX.replace("VERSION", code_version()), tabindex="0"),
        element("h3", "Files"),
        element(
            "p", download("Scores by subject (CSV)", f"{studied.ledger.name}.csv", "text/csv", studied.by_subject_csv())
        ),
    ]
    return Section(name="paste", title="To paste and to keep", parts=parts)


def origin(studied: Studied) -> Section:
    """Return the winner's configuration, the terms, versions, the command, and when test scores were opened."""
    ledger = studied.ledger
    configuration = [row(key, _long(value)) for key, value in sorted(studied.winner.configuration.items())]
    terms = [row(key, _long(value)) for key, value in ledger.terms.items()]
    opened = [row(str(each["at"]), str(each["trials"])) for each in ledger.closings]
    openings = "When test scores were opened: more than one row means that the search went on after they could be seen"
    parts: list[Markup] = [
        table(f"Configuration of the winner (trial {studied.winner.number})", ["choice", "value"], configuration),
        table(openings, ["time", "trials by then"], opened),
        table("Terms: what every score of the study depends on", ["term", "value"], terms),
        *_command(ledger.noted("command")),
        table("Versions that wrote this page", ["package", "version"], [row(*each) for each in versions().items()]),
    ]
    return Section(name="origin", title="Where it comes from", parts=parts)


def methods(studied: Studied) -> str:
    """Return what was done, as a paragraph of a paper."""
    terms, found = studied.ledger.terms, studied.findings
    pairing = "" if terms.get("pairing", "recorded") == "recorded" else f" EEG and BOLD were paired {terms['pairing']}."
    unit = studied.unit
    protocol = (
        "Every pair of subjects was left out in turn (nested)."
        if studied.nested
        else f"Each {unit} was left out in turn; two further {unit}s chose the number of epochs and, "
        "averaged, gave the "
        "validation score, and all others trained."
    )
    if found.leak:
        protocol = f"{protocol} {found.leak[0].upper()}{found.leak[1:]}."
    return (
        f"We searched configurations of the architecture {terms.get('architecture')} that predict fMRI "
        f"volumes from the "
        f"30 s of EEG ({terms.get('rate_hz')} Hz) before them, on {len(studied.tested)} {unit}s. {protocol}{pairing} "
        f"The sampler {terms.get('sampler')} proposed {len(studied.ledger.trials)} configurations "
        f"(seed {terms.get('seed')}, at most {terms.get('max_epochs')} epochs). "
        f"{RACING.get(str(terms.get('racing')), '')} Scores are Pearson r over time per voxel and run, high-passed at "
        "128 s, averaged over voxels that respond to events alike in the training subjects, runs and subjects. Test "
        "scores stayed sealed until the search was over. The configuration with the highest mean validation "
        "score has a "
        f"test score of {number(found.raw.mean)}; corrected for having been chosen "
        f"({ESTIMATES[found.corrected.method]}) "
        f"{number(found.corrected.mean)}, 95 % interval {number(found.corrected.low)} to "
        f"{number(found.corrected.high)}. "
        f"Verdict by rule: {found.verdict.word}. eeg2fmri-platform {code_version()}."
    )


def versions() -> dict[str, str]:
    """Return the versions of what wrote the page."""
    found = {"eeg2fmri-platform": code_version(), "python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: metadata.version(name) for name in PACKAGES}


def _command(command: Any) -> list[Markup]:  # noqa: ANN401 - what the ledger notes
    if not isinstance(command, str) or not command:
        return []
    return [paragraph("The command that repeats the study:"), element("pre", command, tabindex="0")]


def _long(value: Any) -> Markup:  # noqa: ANN401 - JSON
    return element("td", f"{value:.6g}" if isinstance(value, float) else str(value), class_="long")
