"""The quality report as one HTML page: what looks bad first, then every subject, then settings and versions.

Takes the stored quality of subjects; gives markup that needs no network, no script and no other file.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from datasets.quality.figures import latency_chart, motion_chart, spectrum_chart
from datasets.quality.markup import MINUS, Markup, element, joined, row, table
from datasets.quality.measures import SliceDirection, slice_direction, stated_direction
from datasets.quality.records import FD_MM, THRESHOLDS, RunQuality, SubjectQuality
from datasets.quality.style import STYLE
from datasets.shards import Manifest

UNKNOWN = "\N{EN DASH}"
PACKAGES = ("eeg2fmri-platform", "dipy", "mne", "nibabel", "nilearn", "numpy", "pyarrow", "scipy")
MOST_OPENED = 3
"""Flagged subjects stand open when they are no more than this."""
COLUMNS = {
    "task": "task",
    "run": "run",
    "volumes": "volumes",
    "mean_fd": "mean FD, mm",
    "max_fd": "max FD, mm",
    "moved": f"FD > {FD_MM:g} mm",
    "tsnr": "tSNR",
    "coverage": "coverage",
    "bad_channels": "bad channels",
    "beats": "beats",
    "marker_shift": "marker shift, ms",
    "clipped": "clipped",
}
RECORDING = "_task-"


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectPart:
    """What the page keeps of one subject: rows of the verdict table, the section, and what the study's parts need."""

    subject: str
    rows: tuple[Markup, ...]
    section: Markup
    num_flagged: int
    warnings: tuple[str, ...]
    latencies: tuple[Mapping[str, Any], ...]
    slice_times_s: tuple[tuple[float, ...], ...]
    num_slices: int | None


def subject_part(
    quality: SubjectQuality, figures: Sequence[Markup], manifest: Manifest, *, is_drawn: bool
) -> SubjectPart:
    """Return what the page shows of a subject; ``figures`` are its images, ``is_drawn`` asks for charts as well."""
    latencies = tuple(run.slice_latency for run in quality.runs if run.slice_latency)
    parts = [*_images(figures, quality), *_runs(quality, manifest)] if is_drawn else []
    drawn = latency_chart(latencies, f"{quality.subject}: event-response latency over slices") if is_drawn else None
    if drawn is not None:
        parts += [
            element("h4", "Event-response latency over slices"),
            _figure(drawn, "one dot a run and slice; line: mean"),
        ]
    if not is_drawn:
        parts.append(element("p", "No figures are drawn for this subject; see the note above.", class_="quiet"))
    return SubjectPart(
        subject=quality.subject,
        rows=tuple(_verdict_row(run) for run in quality.runs),
        section=joined(*parts, *_provenance(quality)),
        num_flagged=sum(bool(run.flags) for run in quality.runs),
        warnings=quality.warnings,
        latencies=latencies,
        slice_times_s=tuple({run.slice_times_s for run in quality.runs if run.slice_times_s}),
        num_slices=next((run.num_slices for run in quality.runs if run.num_slices), None),
    )


def page(manifest: Manifest, subjects: Sequence[SubjectPart], outlines: Markup, note: str) -> str:
    """Return the whole page; ``outlines`` are what figures refer to, ``note`` says for whom figures are drawn."""
    direction = _direction(manifest, subjects)
    body = element(
        "body",
        outlines,
        _header(manifest, subjects),
        element(
            "main",
            _verdicts(subjects),
            _skipped(manifest),
            _warnings(subjects),
            _slices(manifest, subjects, direction),
            _subjects(subjects, note),
            _settings(manifest),
            _digests(manifest),
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Quality of the preparation"),
        element("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


# The study


def _header(manifest: Manifest, subjects: Sequence[SubjectPart]) -> Markup:
    num_flagged, num_runs = sum(each.num_flagged for each in subjects), sum(len(each.rows) for each in subjects)
    facts = [
        element(
            "strong",
            f"{num_runs - num_flagged} of {_count(num_runs, 'run')} {'looks' if num_runs == 1 else 'look'} good",
        ),
        element("a", f"{num_flagged} flagged", href="#verdicts"),
        element("a", f"{len(manifest.skipped)} skipped", href="#skipped"),
        element("a", _count(sum(len(each.warnings) for each in subjects), "warning"), href="#warnings"),
        element("a", "slice order", href="#slices"),
        element("a", _count(len(subjects), "subject"), href="#subjects"),
        element("a", "settings", href="#settings"),
    ]
    digest = element("p", "digest ", element("code", manifest.digest), class_="quiet")
    return element(
        "header", element("h1", "Quality of the preparation"), element("nav", *facts, aria_label="Summary"), digest
    )


def _verdicts(subjects: Sequence[SubjectPart]) -> Markup:
    only = element("label", element("input", type="checkbox", id="only-flagged"), " show flagged runs only")
    headings = ["subject", *COLUMNS.values(), "flags"]
    runs = table(
        "One row a run", headings, [each for subject in subjects for each in subject.rows], class_="scroll tall"
    )
    thresholds = element("ul", *(element("li", each) for each in THRESHOLDS))
    what = element("details", element("summary", "What is flagged"), thresholds, open=True)
    return element("section", element("h2", "Verdict"), only, runs, what, id="verdicts")


def _verdict_row(run: RunQuality) -> Markup:
    flagged = {flag.column for flag in run.flags}
    cells = [
        element("td", content, class_=" ".join(_classes(column, flagged)) or None)
        for column, content in zip(COLUMNS, _figures(run), strict=True)
    ]
    text = "; ".join(flag.text for flag in run.flags)
    cells.append(element("td", element("span", "\N{BLACK FLAG} ", aria_hidden="true"), text) if text else element("td"))
    heading = element("th", element("a", run.subject, href=f"#{run.subject}"), scope="row")
    return element("tr", heading, *cells, class_="flagged" if flagged else "good")


def _figures(run: RunQuality) -> list[str]:
    """Return the figures of a run in the order of COLUMNS."""
    beats = UNKNOWN if run.num_beats is None else str(run.num_beats) if run.has_ecg or run.num_beats else "no ECG"
    return [
        run.task,
        str(run.run),
        str(run.volumes),
        _shown(run.mean_fd_mm, ".2f"),
        _shown(run.max_fd_mm, ".2f"),
        _shown(run.moved_share, ".0%"),
        _shown(run.tsnr, ".0f"),
        _shown(run.coverage, ".1%"),
        str(len(run.bad_channels)),
        beats,
        _shown(1000 * run.marker_shift_s, "+.0f"),
        f"{run.clipped:,}",
    ]


def _classes(column: str, flagged: set[str]) -> list[str]:
    return [*([] if column == "task" else ["number"]), *(["bad"] if column in flagged else [])]


def _skipped(manifest: Manifest) -> Markup:
    rows = [row(each.recording, each.reason) for each in manifest.skipped]
    shown = (
        table("Recordings that were not prepared", ["recording", "reason"], rows)
        if rows
        else _none("Nothing was skipped.")
    )
    return element("section", element("h2", "Skipped"), shown, id="skipped")


def _warnings(subjects: Sequence[SubjectPart]) -> Markup:
    """Return the warnings, those of one wording together."""
    named: dict[str, list[str]] = defaultdict(list)
    for each in subjects:
        for line in each.warnings:
            name, separator, rest = line.partition(": ")
            is_named = bool(separator) and RECORDING in name
            named[rest if is_named else line].append(name if is_named else each.subject)
    rows = [row(text, ", ".join(dict.fromkeys(names))) for text, names in named.items()]
    shown = table("What preparation warned of", ["warning", "of"], rows) if rows else _none("Nothing was warned of.")
    return element("section", element("h2", "Warnings"), shown, id="warnings")


def _direction(manifest: Manifest, subjects: Sequence[SubjectPart]) -> SliceDirection:
    return slice_direction({each.subject: each.latencies for each in subjects}, _sweep_s(manifest, subjects))


def _sweep_s(manifest: Manifest, subjects: Sequence[SubjectPart]) -> float | None:
    """Return the seconds from one slice to the next in one sweep; None where the number of slices is not known."""
    num_slices = next((each.num_slices for each in subjects if each.num_slices), None)
    return None if num_slices is None else manifest.layout.repetition_time_s / num_slices


def _slices(manifest: Manifest, subjects: Sequence[SubjectPart], direction: SliceDirection) -> Markup:
    sweep_s = _sweep_s(manifest, subjects)
    latencies = [latency for each in subjects for latency in each.latencies]
    drawn = latency_chart(
        latencies,
        "Event-response latency over slices, all runs",
        slope_s=direction.slope_s,
        sweep_s=math.nan if sweep_s is None else sweep_s,
    )
    explained = (
        "Every slice is read as if it were taken when its volume starts: a slice that is taken later seems to respond "
        "earlier. Slices hold different regions, which respond at different times; that part is in the slope too."
    )
    parts = [element("p", element("strong", f"Slices: {direction.verdict}."), f" {direction_text(direction, sweep_s)}")]
    parts.append(element("p", stated_text(direction, subjects)))
    if drawn is not None:
        parts.append(_figure(drawn, "one dot a run and slice; lines: the mean, the fit, and what one sweep would give"))
    return element(
        "section", element("h2", "Order of the slices"), *parts, element("p", explained, class_="quiet"), id="slices"
    )


def direction_text(direction: SliceDirection, sweep_s: float | None) -> str:
    """Return what was measured of the slices' order, in words."""
    if not math.isfinite(direction.slope_s):
        return f"Not measured: {direction.reason}."
    reach_s = direction.reach_s
    slope, low, high = (
        _shown(1000 * value, "+.0f")
        for value in (direction.slope_s, direction.slope_s - reach_s, direction.slope_s + reach_s)
    )
    expected = "" if sweep_s is None else f" One sweep in a repetition time would be {1000 * sweep_s:.0f} ms."
    return (
        f"Each slice along the image's third axis seems to be taken {slope} ms after the one before it "
        f"(99 % interval {low} to {high} ms): {direction.reason}.{expected}"
    )


def stated_text(direction: SliceDirection, subjects: Sequence[SubjectPart]) -> str:
    """Return what preparation was told of the slices' order, and whether the responses agree."""
    orders = {stated_direction(times_s) for each in subjects for times_s in each.slice_times_s}
    if not orders:
        return "No order of slices was stated with the data, or it was not stored."
    if len(orders) > 1:
        return f"The orders stated differ between runs: {', '.join(sorted(map(str, orders)))}."
    stated = str(orders.pop())
    if stated not in ("ascending", "descending") or direction.verdict == "undecided":
        return f"The order that preparation used is {stated}; the responses neither confirm nor refute it."
    if stated == direction.verdict:
        return f"The order that preparation used is {stated}: the responses agree."
    return f"The order that preparation used is {stated}: the responses contradict it. Look at --slice-order."


def _subjects(subjects: Sequence[SubjectPart], note: str) -> Markup:
    num_flagged = sum(bool(each.num_flagged) for each in subjects)
    sections = [_subject(each, len(subjects), num_flagged) for each in subjects]
    return element("section", element("h2", "Subjects"), element("p", note, class_="quiet"), *sections, id="subjects")


def _subject(part: SubjectPart, num_subjects: int, num_flagged: int) -> Markup:
    is_open = num_subjects == 1 or bool(part.num_flagged and num_flagged <= MOST_OPENED)
    flagged = f", {part.num_flagged} flagged" if part.num_flagged else ""
    summary = element("summary", element("h3", part.subject), f" {_count(len(part.rows), 'run')}{flagged}")
    return element("details", summary, element("div", part.section, id=part.subject), class_="subject", open=is_open)


def _settings(manifest: Manifest) -> Markup:
    settings = {name: value for name, value in manifest.pipeline.items() if name != "alignment"}
    layout = manifest.layout
    settings["template"] = layout.template
    settings["EEG rate, Hz"], settings["repetition time, s"] = layout.eeg_rate_hz, layout.repetition_time_s
    settings["channels"] = f"{len(layout.channel_names)}: {' '.join(layout.channel_names)}"
    rows = [row(name, value) for name, value in _flat(settings)]
    versions = [row(name, _version(name)) for name in PACKAGES]
    return element(
        "section",
        element("h2", "Settings and versions"),
        element(
            "div",
            table("Settings of the preparation", ["setting", "value"], rows),
            table("Versions that wrote this page", ["package", "version"], versions),
            class_="pair",
        ),
        id="settings",
    )


def _digests(manifest: Manifest) -> Markup:
    rows = [row(each.name, f"{each.bytes:,}", element("td", element("code", each.sha256))) for each in manifest.shards]
    shards = table("Shards", ["file", "bytes", "SHA-256"], rows)
    return element("details", element("summary", "Digests of the shards"), shards)


# One subject


def _images(figures: Sequence[Markup], quality: SubjectQuality) -> list[Markup]:
    if not figures:
        return [element("p", "No images are stored.", class_="quiet")]
    captions = ("mean EPI; the subject's left is on the left", "T1")
    key = element(
        "p",
        element("span", "the other of the two images, at half its median", class_="key other"),
        element("span", "template (mask; on the T1, grey matter)", class_="key mask"),
        element("span", "not covered by every run", class_="key missing"),
        class_="keys",
    )
    missing = [] if len(figures) > 1 else [element("p", "There is no T1 to compare with.", class_="quiet")]
    drawn = (_figure(figure, caption) for figure, caption in zip(figures, captions, strict=False))
    return [element("h4", "Outlines"), key, *drawn, *missing]


def _runs(quality: SubjectQuality, manifest: Manifest) -> Iterator[Markup]:
    for run in quality.runs:
        yield element("h4", f"{run.task} run {run.run}")
        if run.flags:
            yield element("p", "; ".join(flag.text for flag in run.flags), class_="bad")
        motion, spectrum = motion_chart(run, manifest.layout.repetition_time_s), spectrum_chart(run)
        bad = "; ".join(f"{name} ({reason})" for name, reason in run.bad_channels.items())
        yield element(
            "div",
            _figure(motion, "head motion, framewise displacement, pulse") if motion else _none("No motion is stored."),
            element(
                "div",
                _figure(spectrum, "EEG spectrum") if spectrum else _none("No spectrum is stored."),
                element("p", f"Bad channels: {bad or 'none'}."),
            ),
            class_="pair",
        )


def _provenance(quality: SubjectQuality) -> list[Markup]:
    """Return how the subject was aligned and of what files it was made."""
    inputs = quality.record.get("inputs", {})
    files = [row(name, recording, size) for recording, kinds in inputs.items() for name, size in _flat(kinds)]
    alignment = [row(name, value) for name, value in _flat(quality.record.get("alignment", {}))]
    tables = [
        *([table("Alignment", ["field", "value"], alignment)] if alignment else []),
        *([table("Input files", ["file", "recording", "bytes or digest"], files)] if files else []),
    ]
    return [element("details", element("summary", "Alignment and input files"), *tables)] if tables else []


# Words


def _figure(drawn: Markup, caption: str) -> Markup:
    return element("figure", drawn, element("figcaption", caption))


def _none(text: str) -> Markup:
    return element("p", text, class_="quiet")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shown(value: float, digits: str) -> str:
    if not math.isfinite(value):
        return UNKNOWN
    text = format(value, digits)
    return text.lstrip("+-") if not float(text.rstrip("%")) else text.replace("-", MINUS)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted names and values of nested settings, without matrices."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not (isinstance(value, list | tuple) and any(isinstance(each, list | tuple) for each in value)):
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
