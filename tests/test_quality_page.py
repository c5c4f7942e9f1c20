"""The quality report: what it shows of stored data, that it needs nothing else, and how a browser shows it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from quality_study import NUM_SLICES, write_quality_study
from small_study import write_small_study

from datasets.errors import BadInput
from datasets.grid import GRID_AFFINE, GRID_SHAPE, tissue_mask
from datasets.quality.images import grey_png, outlines
from datasets.quality.markup import VOID, element, joined
from datasets.quality.records import THRESHOLDS, Anatomy, Template
from datasets.report import main, report_page, write_report
from datasets.shards import REPORT, Skipped, read_manifest, write_manifest
from datasets.storage import open_storage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WORST = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page taken apart: its text, the texts of rows by table, all start tags, and whether tags are balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.rows, self.tags, self.open = "", [], [], []
        self.feed(source)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open[-1:] != ["tr"] and self.rows and "tr" in self.open:
            self.rows[-1][-1] += data

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)


def source_of(folder, **settings):
    storage = open_storage(folder)
    return report_page(storage, read_manifest(storage), **settings)


def page_of(folder, **settings):
    return Page(source_of(folder, **settings))


def report_of(folder, *, figures=60, **study):
    return page_of(write_quality_study(folder, **study), max_figures=figures)


# The verdict table


def test_each_run_has_a_row_of_its_figures(tmp_path):
    page = report_of(tmp_path, subjects=2, runs=3, quality={"tsnr": 61.2, "coverage": 0.9712, "marker_shift_s": -0.012})
    rows = [row for row in page.rows if row[0].startswith("sub-") and row[1] == "auditory"]
    assert [row[:4] for row in rows[:4]] == [
        ["sub-01", "auditory", "1", "40"],
        ["sub-01", "auditory", "2", "40"],
        ["sub-01", "auditory", "3", "40"],
        ["sub-02", "auditory", "1", "40"],
    ]
    assert len(rows) == 6
    assert rows[0][7:] == ["61", "97.1%", "1", "87", "−12", "0", ""]
    assert "6 of 6 runs look good" in page.text


@pytest.mark.parametrize(
    ("quality", "flag"),
    [
        ({"tsnr": 12.3}, "tSNR 12"),
        ({"coverage": 0.75}, "25% of the mask not covered"),
        ({"bad_channels": {f"C{number}": "noisy" for number in range(6)}}, "6 of 34 channels bad"),
        ({"num_beats": 0}, "no heartbeats found in the ECG"),
        ({"num_beats": 20}, "15 heartbeats a minute"),
        ({"marker_shift_s": -0.07}, "markers −70 ms off the events"),
    ],
)
def test_what_looks_bad_is_flagged_in_words(tmp_path, quality, flag):
    page = report_of(tmp_path, subjects=1, runs=1, quality=quality, has_images=False)
    assert flag in page.row("sub-01")[-1]
    assert page.count("td", **{"class": "number bad"}) == 1
    assert "0 of 1 run looks good" in page.text


@pytest.mark.parametrize("quality", [{"tsnr": 30.0}, {"coverage": 0.9}, {"marker_shift_s": 0.05}, {"tsnr": None}])
def test_what_is_just_good_enough_or_unknown_is_not_flagged(tmp_path, quality):
    assert report_of(tmp_path, subjects=1, runs=1, quality=quality, has_images=False).row("sub-01")[-1] == ""


def test_motion_is_flagged_and_the_subject_stands_open(tmp_path):
    page = report_of(tmp_path, subjects=2, runs=1, bad=("sub-02",), has_images=False)
    assert page.row("sub-01")[-1] == ""
    assert re.search(r"mean FD \d\.\d\d mm; .*volumes above 0.5 mm FD", page.row("sub-02")[-1])
    assert [("open" in found) for tag, found in page.tags if found.get("class") == "subject"] == [False, True]


def test_a_run_of_another_length_is_flagged(tmp_path):
    storage = open_storage(write_quality_study(tmp_path, subjects=3, runs=1, has_images=False))
    manifest = read_manifest(storage)
    first, *others = manifest.shards
    write_manifest(storage, replace(manifest, shards=(replace(first, rows=39), *others)))
    assert "39 volumes, most runs have 40" in page_of(tmp_path).row("sub-01")[-1]


def test_every_threshold_stands_on_the_page(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=1, has_images=False)
    assert [threshold for threshold in THRESHOLDS if threshold not in page.text] == []


# What was skipped and warned of


def test_what_was_skipped_is_listed_with_its_reason(tmp_path):
    skipped = (Skipped(recording="sub-02_task-auditory_run-2", reason="169 volumes"),)
    page = report_of(tmp_path, subjects=1, runs=1, skipped=skipped, has_images=False)
    assert page.row("sub-02_task-auditory_run-2") == ["sub-02_task-auditory_run-2", "169 volumes"]
    assert "1 skipped" in page.text


def test_warnings_of_one_wording_stand_together(tmp_path):
    page = report_of(tmp_path, subjects=2, runs=1, warnings=("no T1",), has_images=False)
    assert page.row("no T1") == ["no T1", "sub-01, sub-02"]


def test_a_warning_about_a_run_names_it(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=1, warnings=("sub-01_task-x_run-1: cut: short",), has_images=False)
    assert page.row("cut: short") == ["cut: short", "sub-01_task-x_run-1"]


def test_what_others_wrote_is_text_and_never_a_tag(tmp_path):
    page = report_of(
        tmp_path,
        labels=("sub-<img src=x onerror=alert(1)>",),
        runs=1,
        skipped=(Skipped(recording=WORST, reason=f'"{WORST}'),),
        warnings=(WORST,),
        quality={"bad_channels": {WORST: f"'{WORST}"}},
    )
    assert page.count("script") == page.count("img") == 0
    assert "sub-<img src=x onerror=alert(1)>" in page.text
    assert page.text.count(WORST) >= 4


# Figures


def test_a_subject_has_images_motion_spectra_and_latencies(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=2)
    assert page.count("svg", **{"class": "anatomy"}) == page.count("image") == 2
    assert page.count("svg", **{"class": "chart"}) == 2 * 2 + 2
    for title in (
        "sub-01: mean EPI with the outlines of the T1 and of the template",
        "sub-01: T1 with the outlines of the mean EPI and of the template's grey matter",
        "sub-01 auditory run 2 over time: translation, mm, rotation, °, FD, mm, pulse, 1/min",
        "sub-01 auditory run 2: EEG spectrum before and after cleaning",
        "sub-01: event-response latency over slices",
    ):
        assert title in page.text
    assert "Bad channels: T7 (flat)." in page.text


def test_without_a_t1_the_page_says_so(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=1, has_t1=False)
    assert page.count("image") == 1
    assert "There is no T1 to compare with." in page.text


def test_without_images_the_page_says_so(tmp_path):
    assert "No images are stored." in report_of(tmp_path, subjects=1, runs=1, has_images=False).text


def test_beyond_the_limit_only_flagged_subjects_have_figures(tmp_path):
    page = report_of(tmp_path, subjects=4, runs=1, bad=("sub-02", "sub-04"), figures=1, has_images=False)
    motion = [found for tag, found in page.tags if tag == "svg" and found.get("class") == "chart"]
    assert len(motion) == 3 + 1  # of sub-02: motion, spectrum, latency; and that of the study
    assert "Of 4 subjects, figures are drawn for flagged ones only, for 1 of them at most" in page.text
    assert page.text.count("No figures are drawn for this subject") == 3


def test_a_study_without_records_is_reported_as_far_as_it_is_known(tmp_path):
    page = page_of(write_small_study(tmp_path, subjects=2, runs=1, volumes=40))
    assert page.row("sub-01")[4:10] == ["–", "–", "–", "–", "–", "0"]
    assert "Slices: undecided." in page.text


def test_the_pixels_of_a_png_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5)).astype(np.uint8)
    assert np.array_equal(np.rint(255 * imread(io.BytesIO(grey_png(pixels)))), pixels)


def test_the_left_of_the_brain_is_on_the_left():
    x_mm = GRID_AFFINE[0, 3] + GRID_AFFINE[0, 0] * np.arange(GRID_SHAPE[0])
    left = np.where(x_mm[:, None, None] < 0, 100.0, 1.0) * np.ones(GRID_SHAPE)
    template = Template(mask=tissue_mask(), grey=np.zeros(GRID_SHAPE), affine=GRID_AFFINE)
    (drawn,) = outlines("sub-01", Anatomy(epi=left, t1=None, missing=None), template)
    pixels = imread(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", drawn)[1])))
    axial = pixels[-40, :65]
    assert axial[:30].mean() > 0.6
    assert axial[35:].mean() < 0.1


# The order of the slices


def latency_quality(order):
    """Return what runs that respond in an order store: preparation was told that slices ascend."""
    number = np.arange(NUM_SLICES)
    noise = np.random.default_rng(0).normal(0, 0.05, NUM_SLICES)
    late = -order * 2.0 / NUM_SLICES * number + noise
    return {
        "slice_latency": {"slice": number.tolist(), "latency_s": late.tolist()},
        "slice_times_s": (number * 2.0 / NUM_SLICES).tolist(),
        "num_slices": NUM_SLICES,
    }


def test_an_order_that_agrees_is_said_to_agree(tmp_path):
    page = report_of(tmp_path, subjects=3, runs=1, quality=latency_quality(1), has_images=False)
    assert "Slices: ascending." in page.text
    assert "ascending: the responses agree." in page.text
    assert "One sweep in a repetition time would be 62 ms" in page.text


def test_an_order_that_contradicts_is_said_to_contradict(tmp_path):
    page = report_of(tmp_path, subjects=3, runs=1, quality=latency_quality(-1), has_images=False)
    assert "Slices: descending." in page.text
    assert "The order that preparation used is ascending: the responses contradict it." in page.text


# The page as a file


def test_settings_versions_and_digests_stand_on_the_page(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=1, has_images=False)
    manifest = read_manifest(open_storage(tmp_path))
    assert page.row("eeg.reference") == ["eeg.reference", "average"]
    assert page.row("eeg.notch_hz") == ["eeg.notch_hz", "none"]
    assert page.row("numpy") == ["numpy", np.__version__]
    assert page.row("EEG_rereferenced.mat")[1:] == ["sub-01_task-auditory_run-1", "98000000"]
    assert manifest.digest in page.text
    assert manifest.shards[0].sha256 in page.text


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    source = source_of(write_quality_study(tmp_path, subjects=1, runs=1))
    source = re.sub(r"data:image/png;base64,[\w+/=]+", "", source)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|\bsrc=", source)
    assert str(tmp_path) not in source


def test_the_same_shards_give_the_same_bytes(tmp_path):
    write_quality_study(tmp_path, subjects=1, runs=1)
    assert source_of(tmp_path) == source_of(tmp_path)


def test_a_subject_takes_little_room(tmp_path):
    one, two = (
        len(source_of(write_quality_study(tmp_path / str(number), subjects=number, runs=6, volumes=170)))
        for number in (1, 2)
    )
    assert two - one < 600_000


def test_whoever_cannot_see_is_told_what_is_there(tmp_path):
    page = report_of(tmp_path, subjects=1, runs=1)
    counts = Counter(tag for tag, _ in page.tags)
    assert page.count("html", lang="en") == 1
    assert counts["caption"] == counts["table"] > 3
    assert all(found.get("scope") in ("row", "col") for tag, found in page.tags if tag == "th")
    assert counts["title"] == 1 + page.count("svg", role="img")
    assert page.count("svg") == page.count("svg", role="img") + page.count("svg", **{"aria-hidden": "true"})
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {found["href"][1:] for _, found in page.tags if found.get("href", "").startswith("#")} <= set(ids)


def test_a_table_that_was_changed_is_refused(tmp_path):
    write_quality_study(tmp_path, subjects=1, runs=1)
    path = tmp_path / "sub-01" / "sub-01_task-auditory_run-1_confounds.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BadInput, match="confounds"):
        source_of(tmp_path)


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b", element("b", "c"), title='"', class_="x") == (
        '<p title="&quot;" class="x">a &lt; b<b>c</b></p>'
    )
    assert joined("<", element("br")) == "&lt;<br>"
    assert element("input", type="checkbox", checked=True, disabled=False) == '<input type="checkbox" checked>'


# The command


@pytest.fixture
def report(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
        main()
        return capsys.readouterr().out.strip()

    return run


def test_the_command_writes_beside_the_shards_and_says_where(tmp_path, report):
    write_quality_study(tmp_path, subjects=1, runs=1)
    assert report(tmp_path) == str(tmp_path / REPORT)
    assert Page((tmp_path / REPORT).read_text()).row("sub-01")


def test_the_command_writes_where_it_is_told(tmp_path, report):
    write_quality_study(tmp_path / "shards", subjects=1, runs=1)
    assert report(tmp_path / "shards", "--output", tmp_path / "new" / "mine.html") == str(
        tmp_path / "new" / "mine.html"
    )
    assert (tmp_path / "new" / "mine.html").exists()
    assert not (tmp_path / "shards" / REPORT).exists()


def test_the_command_draws_as_many_subjects_as_it_is_told(tmp_path, report):
    write_quality_study(tmp_path, subjects=2, runs=1, bad=("sub-02",))
    report(tmp_path, "--figures", 0)
    assert "for 0 of them at most" in (tmp_path / REPORT).read_text()


def test_a_folder_without_shards_is_refused_in_one_line(tmp_path):
    command = [sys.executable, "-m", "datasets.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no manifest at")
    assert len(done.stderr.splitlines()) == 1


def test_on_object_storage_the_report_lies_beside_the_shards(object_store):
    uri = object_store.uri("reported")
    write_quality_study(uri, subjects=1, runs=1, has_images=False)
    storage = open_storage(uri)
    where = write_report(storage, read_manifest(storage))
    assert re.match(r"s3://[^?@]*/reported/report.html\?", where)
    assert Page(storage.read(REPORT).decode()).row("sub-01")


# In a browser


@pytest.fixture
def browse(tmp_path):
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")

    def run(path, *options, fragment="", width=1300):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=25000", f"--window-size={width},1000",
            *options, f"{path.as_uri()}{fragment}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


PROBE = """<script>
const visible = (list) => [...list].filter((each) => each.checkVisibility());
const sticksOut = (svg) => [...svg.querySelectorAll("text")].filter((text) => {
  const inner = text.getBoundingClientRect(), outer = svg.getBoundingClientRect();
  return inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
}).map((text) => text.textContent);
const width = (address) => new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image.naturalWidth);
  image.onerror = () => done(0);
  image.src = address;
});
addEventListener("load", async () => {
  const root = document.documentElement, runs = document.querySelectorAll("#verdicts tbody tr");
  const found = {
    wide: root.scrollWidth > root.clientWidth,
    before: visible(runs).length,
    text: document.body.innerText,
    open: [...document.querySelectorAll("details.subject")].map((each) => each.open),
    charts: visible(document.querySelectorAll("svg.chart, svg.anatomy")).map((each) => each.clientWidth),
    outside: visible(document.querySelectorAll("svg.chart")).flatMap(sticksOut),
    images: await Promise.all([...document.querySelectorAll("image")].map((each) => width(each.href.baseVal))),
  };
  document.querySelector("#only-flagged").click();
  found.after = visible(runs).length;
  const output = document.createElement("pre");
  output.id = "probe";
  output.textContent = JSON.stringify(found);
  document.body.append(output);
});
</script></body>"""


def probed(browse, folder, **options):
    """Return what a browser finds on the page: a script that only the test adds asks it."""
    path = folder / "probed.html"
    path.write_text(source_of(folder / "shards").replace("</body>", PROBE))
    dumped = browse(path, "--dump-dom", **options)
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dumped, re.DOTALL)[1]))


@pytest.mark.browser
def test_a_browser_shows_rows_reasons_images_and_charts(tmp_path, browse):
    skipped = (Skipped(recording="sub-03_task-visual_run-1", reason=WORST),)
    write_quality_study(tmp_path / "shards", subjects=2, runs=2, bad=("sub-02",), skipped=skipped)
    found = probed(browse, tmp_path)
    assert (found["before"], found["after"]) == (4, 2)
    assert found["open"] == [False, True]
    assert len(found["images"]) == 4
    assert all(width == 455 for width in found["images"])
    assert len(found["charts"]) == 1 + 2 + 4 + 1  # the study's, and of sub-02 two images, four of runs, one latency
    assert min(found["charts"]) > 400
    assert found["outside"] == []
    for text in (WORST, "Slices: ascending.", "mean FD", "2 of 4 runs look good", "Bad channels: T7 (flat)."):
        assert text in found["text"], text


@pytest.mark.browser
@pytest.mark.parametrize("width", [600, 1300, 2400])
def test_a_browser_of_any_width_never_scrolls_sideways(tmp_path, browse, width):
    write_quality_study(
        tmp_path / "shards", subjects=1, runs=1, skipped=(Skipped(recording="x" * 200, reason="y" * 900),)
    )
    assert probed(browse, tmp_path, width=width)["wide"] is False


@pytest.mark.browser
def test_a_link_to_a_subject_opens_it(tmp_path, browse):
    write_quality_study(tmp_path / "shards", subjects=3, runs=1, has_images=False)
    assert probed(browse, tmp_path, fragment="#sub-02")["open"] == [False, True, False]


@pytest.mark.browser
def test_a_screenshot_holds_brain_and_colours(tmp_path, browse):
    write_quality_study(tmp_path / "shards", subjects=1, runs=1)
    path = tmp_path / "page.html"
    path.write_text(
        source_of(tmp_path / "shards").replace("</style>", "header, main > :not(#subjects) {display:none}</style>")
    )
    browse(path, f"--screenshot={tmp_path / 'page.png'}")
    pixels = imread(tmp_path / "page.png")[..., :3]
    is_coloured = np.ptp(pixels, axis=2) > 0.3
    is_black, is_white = pixels.max(axis=2) < 0.02, pixels.min(axis=2) > 0.9
    assert is_black.mean() > 0.1
    assert is_white.mean() > 0.1
    assert is_coloured.mean() > 0.005
