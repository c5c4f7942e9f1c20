"""The report: its numbers are the ledger's, other trials' test scores stay out of it, and a browser shows it."""

import base64
import csv
import html
import io
import json
import os
import re
import runpy
import statistics
import subprocess
from pathlib import Path

import plotly.graph_objects
import pytest
from browsing import CHROMIUM, QUIET, browser

from datasets.command_line import run_command
from datasets.errors import BadInput
from platform import report
from platform.data.quality import QUALITY
from platform.evidence.findings import findings
from platform.evidence.verdict import WORDS
from platform.ledger.ledger import Ledger
from platform.ledger.records import FoldRecord
from platform.ledger.studies import open_ledger, read_ledger
from platform.proposals.samplers import Proposal
from platform.report import compared_page, report_page
from platform.report_pages.studied import FOLD_SUBJECTS

AXE = os.environ.get("AXE_CORE", "")
NUM_FOLDS = 4
VALIDATION = {0: (0.11, 0.12, 0.16, 0.14), 1: (0.31, 0.33, 0.36, 0.34)}
TEST = {0: (0.7771, 0.7772, 0.7773, 0.7774), 1: (0.21, 0.22, 0.26, 0.24)}
EVENTS = {fold: (0.05 + 0.01 * fold, 0.02 * fold) for fold in range(NUM_FOLDS)}
NULLS = [0.001 * number for number in range(20)]
SUBJECTS = [f"sub-0{fold + 1}" for fold in range(NUM_FOLDS)]
MEASURED = {
    subject: {"displacement_mm": 0.1 * (4 - at), "coverage": 1.0, "tsnr": 50.0 + at**2}
    for at, subject in enumerate(SUBJECTS)
}
TRACE = {"recording": "sub-01_task-<b>", "first_s": 31.0, "step_s": 2.0, "target": [0, 1, 2], "prediction": [0, 2, 1]}
FURTHER = ("temporal_r_grey", "unique_r", "mse_given_own_mean", "temporal_r_responsive_after_0_min_eeg",
           "temporal_r_responsive_after_5_min_eeg")  # fmt: skip


def curves(score: float) -> tuple[tuple[float, ...], ...]:
    """Return both validation subjects' scores by epoch; the second is best for each."""
    return (score - 0.1, score, score - 0.2), (score - 0.2, score, score - 0.1)


def study(folder, trials=(0, 1), *, closed=True, name="small", **terms) -> Ledger:
    terms = {"seed": 7, "data": "<b>digest</b>", "architecture": "band_power", "racing": "none", **terms}
    ledger = open_ledger(f"sqlite:///{folder / 'studies.db'}", name, terms)
    ledger.note(FOLD_SUBJECTS, SUBJECTS)
    ledger.note(QUALITY, MEASURED)
    for number in trials:
        ledger.add(Proposal(params={}, distributions={}, configuration={"width": 8 * (number + 1)}))
        for fold in range(NUM_FOLDS):
            scores = {"score": VALIDATION[number][fold], "test_score": TEST[number][fold], "best_epochs": 2}
            found = {"validation": curves(VALIDATION[number][fold]), "trace": TRACE, "seconds": 2.0}
            ledger.commit(FoldRecord(trial=number, fold=fold, **scores, **found))
        ledger.tell(number, NUM_FOLDS)
    for fold in range(NUM_FOLDS):
        ledger.commit_baselines(fold, {"events": EVENTS[fold]})
    if closed:
        ledger.close()
    return ledger


def with_more(ledger: Ledger) -> Ledger:
    """Add further scores and a null."""
    ledger.note("locked_away", {"subjects": {"sub-08": 0.1, "sub-09": 0.3}})
    ledger.note("nulls", [{"name": "ridge_sign_flip", "observed": 0.1, "values": NULLS, "p": 0.05}])
    for fold in range(NUM_FOLDS):
        scores = {name: 0.001 * (fold + 1) * (at + 1) for at, name in enumerate(FURTHER)}
        ledger.commit_further("trial-0001", fold, {"test": scores, "validation": scores})
        ledger.commit_further("references", fold, {"zero": {"mse_given_own_mean": 0.0005}})
    return ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    return with_more(study(tmp_path_factory.mktemp("closed")))


@pytest.fixture(scope="module")
def page(ledger) -> str:
    return report_page(ledger)


@pytest.fixture(scope="module")
def open_storage_url(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("open")
    study(folder, trials=(), closed=False)
    return f"sqlite:///{folder / 'studies.db'}"


def shown(values) -> str:
    return f"{statistics.fmean(values):+.3f} (SD {statistics.stdev(values):.3f})"


def cells(page: str, heading: str, *, caption: str = "") -> list[str]:
    """Return the cells of the one row with this heading, of the one table with this caption where it is given."""
    tables = re.findall(r"<table><caption>(.*?)</caption>(.*?)</table>", page, re.DOTALL)
    rows = "".join(body for title, body in tables if not caption or caption in title)
    (found,) = re.findall(rf'<tr[^>]*><th scope="row">{re.escape(heading)}</th>(.*?)</tr>', rows)
    return [html.unescape(each) for each in re.findall(r"<td[^>]*>(.*?)</td>", found)]


def figures(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)[1])


def trace(page: str, figure: str, name: str) -> dict:
    (found,) = [each for each in figures(page)[f"figure-{figure}"]["data"] if each.get("name") == name]
    return found


def without_plotly(page: str) -> str:
    """Return the page without Plotly's own text, which is by far the longest."""
    scripts = re.findall(r"<script>.*?</script>", page, re.DOTALL)
    return page.replace(max(scripts, key=len), "")


def test_winner_and_baselines_stand_with_the_ledgers_numbers(page):
    means = "Mean and SD over subjects"
    assert cells(page, "the winner", caption=means) == [shown(VALIDATION[1]), shown(TEST[1])]
    assert cells(page, "events", caption=means) == [shown([0.05, 0.06, 0.07, 0.08]), shown([0, 0.02, 0.04, 0.06])]
    assert cells(page, "0", caption="by validation")[:5] == ["all folds", "4", shown(VALIDATION[0]), "8", "2"]
    assert cells(page, "sub-03", caption="Test r by subject") == ["+0.040", "+0.260"]


def test_figures_hold_the_ledgers_numbers(page):
    assert trace(page, "beside", "the winner")["x"] == list(TEST[1])
    assert trace(page, "beside", "knows no EEG")["x"] == [test for _, test in EVENTS.values()]
    means = trace(page, "beside", "mean")
    assert means["x"] == pytest.approx([statistics.fmean(TEST[1]), 0.03])
    (heat,) = figures(page)["figure-heat-map"]["data"]
    assert heat["z"] == [list(VALIDATION[1]), list(VALIDATION[0])]
    assert (heat["x"], heat["y"]) == (SUBJECTS, ["trial 1", "trial 0"])
    assert trace(page, "subjects", "sub-02")["y"] == [0.02, 0.22]
    assert trace(page, "racing", "trial 0")["y"] == pytest.approx([0.11, 0.115, 0.13, 0.1325])
    assert trace(page, "learning", "mean over folds")["y"] == pytest.approx([0.185, 0.335, 0.185])
    assert trace(page, "course", "target")["y"] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])


def test_the_verdict_comes_first_with_the_corrected_score(ledger, page):
    found = findings(ledger)
    assert found.raw.mean == pytest.approx(statistics.fmean(TEST[1]))
    assert page.index(f'class="word">{found.verdict.word}<') < page.index('id="scores"')
    assert f"Expected on a new subject: r = {found.corrected.mean:+.3f}" in page
    for reason in found.verdict.reasons:
        assert html.escape(reason) in page
    corrected = trace(page, "beside", "corrected, 95 %")
    ends = [
        corrected["x"][0] + corrected["error_x"]["array"][0],
        corrected["x"][0] - corrected["error_x"]["arrayminus"][0],
    ]
    assert ends == pytest.approx([found.corrected.high, found.corrected.low])


def test_the_verdict_is_said_in_a_sentence_and_set_against_ridge(tmp_path):
    ledger = study(tmp_path)
    for fold in range(NUM_FOLDS):
        ledger.commit_baselines(fold, {"events": EVENTS[fold], "ridge_band_power": (0.0, TEST[1][fold] - 0.5)})
    page = report_page(ledger)
    assert html.escape(WORDS[findings(ledger).verdict.word][1:]) in page
    assert re.search(r"More than ridge regression on band power: difference \+0\.\d+, .* higher on 4 of 4\.", page)


def test_quality_stands_against_test_scores_where_it_differs_between_subjects(page):
    drawn = figures(page)["figure-quality"]["data"]
    assert [each["x"] for each in drawn] == [
        pytest.approx([0.4, 0.3, 0.2, 0.1]),
        [50.0, 51.0, 54.0, 59.0],
    ]  # coverage is alike in all
    assert all(each["y"] == list(TEST[1]) and each["text"] == SUBJECTS for each in drawn)
    assert cells(page, "sub-03", caption="Figures of quality") == ["+0.260", "0.2", "54"]
    said = re.search(r'id="figure-quality"[^>]*aria-label="([^"]*)"', page)[1]
    # ranks of the scores: 1, 2, 4, 3
    assert "rank correlation −0.80 over 4 subjects" in said and "rank correlation +0.80 over 4 subjects" in said


def test_every_axis_of_configurations_says_from_what_to_what_it_runs(page):
    axis = figures(page)["figure-configurations"]["layout"]["xaxis"]
    assert (axis["tickvals"], axis["ticktext"]) == (["width"], ["width<br>8 to 16"])
    assert trace(page, "configurations", "trial 1")["y"] == [1.0]


def test_a_second_opinion_and_subjects_that_chose_nothing_stand_beside_the_corrected_score(ledger, page):
    second = findings(ledger).bootstrapped
    assert second is not None
    assert cells(page, "a second opinion on it")[0].startswith(f"{second.mean:+.3f} [")
    score, num_subjects, _ = cells(page, "subjects locked away")
    assert (score[:8], num_subjects) == ("+0.200 [", "2")


def test_no_other_trials_test_scores_stand_on_the_page(page):
    assert "0.777" not in without_plotly(page)


def test_further_scores_fill_profile_calibration_and_published_table(page):
    assert trace(page, "profile", "the winner, mean")["x"] == pytest.approx([0.0025, 0.005])
    assert trace(page, "calibration", "EEG alone, unlabelled")["y"] == pytest.approx([0.01, 0.0125])
    published = "given the subject's own mean image".replace("'", "&#x27;")
    assert cells(page, "zero: always the subject&#x27;s mean image", caption=published)[0] == "5"
    assert cells(page, "published, transformer", caption=published)[0] == "4.976"


def test_nulls_stand_beside_the_winner(page):
    assert trace(page, "beside", "null: ridge sign flip")["x"] == NULLS
    assert cells(page, "null ridge sign flip")[0] == "p = 0.05"


def test_every_figure_is_one_that_plotly_knows_and_has_words_and_a_table(page):
    drawn = figures(page)
    assert len(drawn) >= 9
    for name, figure in drawn.items():
        plotly.graph_objects.Figure(data=figure["data"], layout=figure["layout"])
        start = page.index(f'id="{name}"')
        whole = page[start : page.index("</figure>", start)]
        assert re.search(r'role="img" aria-label="[^"]{15,}"', whole), name
        assert "<figcaption>" in whole and whole.count("<tr") > 1, name


def test_the_files_scores_are_the_ledgers(page):
    content = re.search(r'href="data:text/csv;base64,([^"]*)" download="small.csv"', page)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))
    assert [row["tested"] for row in rows] == SUBJECTS
    assert [float(row["winner_test"]) for row in rows] == list(TEST[1])
    assert [float(row["winner_validation"]) for row in rows] == list(VALIDATION[1])
    assert [float(row["events_test"]) for row in rows] == [test for _, test in EVENTS.values()]
    assert [float(row["winner_unique_r"]) for row in rows] == pytest.approx([0.002, 0.004, 0.006, 0.008])


def test_openings_are_listed_and_text_is_no_markup_and_nothing_is_fetched(ledger, page):
    page = without_plotly(page)
    assert cells(page, ledger.closings[0]["at"]) == ["2"]
    assert "<b>" not in page and "http" not in page and " src=" not in page


def test_methods_name_scores_seed_and_number_of_trials(page):
    text = html.unescape(re.search("<blockquote>(.*?)</blockquote>", page)[1])
    assert "on 4 subjects" in text and "proposed 2 configurations (seed 7" in text
    assert f"test score of {statistics.fmean(TEST[1]):+.3f}" in text
    assert "@article{tsamardinos2018" in page


def test_studies_of_the_same_subjects_are_compared_subject_by_subject(ledger, tmp_path):
    page = compared_page([ledger, study(tmp_path, name="other", architecture="transformer")])
    assert cells(page, "other", caption="what it cost")[0] == "transformer"
    assert cells(page, "sub-04") == ["+0.240", "+0.240"]
    assert "0.777" not in without_plotly(page)


def test_studies_of_other_data_are_not_compared_by_subject(ledger, tmp_path):
    page = compared_page([ledger, study(tmp_path, name="other", data="else", seed=8)])
    assert "differ in shards, seed" in page and "figure-subjects" not in page


def test_a_study_that_is_not_over_is_refused(open_storage_url):
    with pytest.raises(BadInput, match="is not over"):
        report_page(read_ledger(open_storage_url, "small"))


def test_a_study_without_a_complete_trial_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no trial on all folds"):
        report_page(study(tmp_path, trials=()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unknown"], "there is no study unknown"),
        (["small"], "is not over"),
        (["small", "--compare", "small"], "other studies"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(
    open_storage_url, tmp_path, monkeypatch, capsys, arguments, said
):
    page = tmp_path / "pages" / "page.html"
    options = ["--study-storage", open_storage_url, "--output", str(page)]
    monkeypatch.setattr("sys.argv", ["report", *arguments, *options])
    assert run_command(report.main) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1
    assert not page.parent.exists()


def test_the_command_writes_the_page_and_says_where(open_storage_url, ledger, page, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        report, "read_ledger", lambda storage, name: {(open_storage_url, "small"): ledger}[storage, name]
    )
    path = tmp_path / "pages" / "page.html"
    options = ["--study-storage", open_storage_url, "--output", str(path)]
    monkeypatch.setattr("sys.argv", ["report", "small", *options])
    assert run_command(report.main) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_text() == page


def test_the_example_in_python_says_what_was_found_and_writes_the_page(tmp_path, capsys):
    found = findings(study(tmp_path))
    example = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "example.py"))
    example["main"](f"sqlite:///{tmp_path / 'studies.db'}", "small", str(tmp_path / "page.html"))
    told = capsys.readouterr().out
    assert f"verdict: {found.verdict.word}\n" in told and "trial 1: validation r +0.335 in 8 s" in told
    assert "<h1>Study small</h1>" in (tmp_path / "page.html").read_text()


# In a browser

PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
new PerformanceObserver((list) => list.getEntries().forEach((each) => errors.push("fetched " + each.name)))
  .observe({type: "resource", buffered: true});
</script>"""
ASK = """<script>
addEventListener("load", async () => {
  const root = document.documentElement;
  const drawn = [...document.querySelectorAll(".chart")].map((each) => each.querySelector("svg")?.clientWidth ?? 0);
  const serious = typeof axe === "undefined" ? [] : (await axe.run(document)).violations
    .filter((each) => ["serious", "critical"].includes(each.impact)).map((each) => each.id);
  const output = document.createElement("pre");
  output.id = "probe";
  output.textContent = JSON.stringify({wide: root.scrollWidth > root.clientWidth, drawn, errors, serious});
  document.body.append(output);
});
</script></body>"""


WIDTHS_AFTER = """event => {
  if (event !== "load") dispatchEvent(new Event(event));
  return [...document.querySelectorAll(".chart .main-svg:first-child")].map((each) => each.clientWidth);
}"""


def probed(folder, page: str, *, width: int = 1280, script: str = "") -> dict:
    """Return what a browser finds on a page: scripts that only the test adds ask it."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    path = folder / "page.html"
    before, body, after = page.partition("<body>")
    path.write_text((before + body + PROBE + after).replace("</body></html>", f"<script>{script}</script>{ASK}</html>"))
    command = [
        CHROMIUM, "--headless", *QUIET, f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=25000", f"--window-size={width},1000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


@pytest.mark.browser
@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_draws_every_figure_without_an_error_or_a_request(page, tmp_path, width):
    found = probed(tmp_path, page, width=width)
    assert found["errors"] == [] and found["wide"] is False
    assert len(found["drawn"]) == len(figures(page)) and min(found["drawn"]) > width / 3


@pytest.mark.browser
def test_figures_fit_onto_paper_and_fill_the_screen_again(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page)
    with browser(width=1280) as (shown, complaints):
        shown.goto(path.as_uri())
        shown.locator("#figure-course .main-svg").first.wait_for()
        widths = [shown.evaluate(WIDTHS_AFTER, event) for event in ("load", "beforeprint", "afterprint")]
    assert len(widths[0]) == len(figures(page)) and min(widths[0]) > 900
    assert set(widths[1]) == {680}
    assert widths[2] == widths[0]
    assert complaints == []


@pytest.mark.browser
def test_axe_finds_nothing_serious(page, tmp_path):
    if not AXE:
        pytest.skip("AXE_CORE does not name axe.min.js (from the npm package axe-core)")
    assert probed(tmp_path, page, script=Path(AXE).read_text())["serious"] == []
