"""Charts of the quality report: lines over time, frequency or slices, as SVG that takes its colours from the page.

Takes what is stored of a run; gives markup.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.quality.markup import MINUS, Markup, element
from datasets.quality.records import FD_MM, RunQuality

Floats = NDArray[np.floating[Any]]

WIDTH, LEFT, RIGHT, PANEL_HEIGHT, GAP, BOTTOM = 560, 52, 18, 92, 12, 36
TICK_EVERY = 30


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a panel: its name and its values (nan where there is a gap)."""

    name: str
    y: Floats


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines over one axis; ``threshold`` is drawn dashed; ``from_zero`` lets the axis start at 0."""

    label: str
    lines: tuple[Line, ...]
    threshold: float | None = None
    from_zero: bool = False


def motion_chart(run: RunQuality, repetition_time_s: float) -> Markup | None:
    """Draw a run's head motion, framewise displacement and pulse over time; None where none of them is known."""
    known = {name: values for name, values in run.confounds.items() if np.isfinite(values).any()}
    moved = [Line(name=axis, y=known[f"trans_{axis}"]) for axis in "xyz" if f"trans_{axis}" in known]
    turned = [Line(name=axis, y=np.degrees(known[f"rot_{axis}"])) for axis in "xyz" if f"rot_{axis}" in known]
    panels = [
        Panel(label="translation, mm", lines=tuple(moved)),
        Panel(label="rotation, °", lines=tuple(turned)),
        Panel(label="FD, mm", lines=_lines(known, "framewise_displacement"), threshold=FD_MM, from_zero=True),
        Panel(label="pulse, 1/min", lines=_lines(known, "pulse_rate_bpm")),
    ]
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    time_s = np.arange(len(panels[0].lines[0].y)) * repetition_time_s
    shown = ", ".join(panel.label for panel in panels)
    return chart(time_s, panels, x_label="seconds", title=f"{run.subject} {run.task} run {run.run} over time: {shown}")


def spectrum_chart(run: RunQuality) -> Markup | None:
    """Draw the EEG's spectrum before and after cleaning; None where none is stored."""
    if not run.spectrum:
        return None
    frequency_hz = np.array(run.spectrum["frequency_hz"], float)
    lines = (
        Line(name="before", y=np.array(run.spectrum["before_db"], float)),
        Line(name="after", y=np.array(run.spectrum["after_db"], float)),
    )
    if len(frequency_hz) < 2:
        return None
    panel = Panel(label="power, dB", lines=lines)
    title = f"{run.subject} {run.task} run {run.run}: EEG spectrum before and after cleaning"
    return chart(frequency_hz, [panel], x_label="Hz", title=title, panel_height=2 * PANEL_HEIGHT)


def latency_chart(
    latencies: Sequence[Mapping[str, Sequence[float]]], title: str, slope_s: float = math.nan, sweep_s: float = math.nan
) -> Markup | None:
    """Draw each run's event-response latencies over slices, their mean, and the lines that each order would give.

    ``slope_s`` (how much later each slice is taken) draws the fitted line, ``sweep_s`` what one sweep upwards and one
    downwards in a repetition time would look like.
    """
    if not latencies:
        return None
    seen = np.unique(np.concatenate([np.asarray(each["slice"], int) for each in latencies]))
    number = np.arange(seen[0], seen[-1] + 1)
    mean = np.array([_mean_at(latencies, each) if each in seen else math.nan for each in number])
    centred, centre = number - seen.mean(), float(np.nanmean(mean))
    guides = {"ascending": -sweep_s, "descending": sweep_s, "fitted": -slope_s}
    lines = [Line(name=name, y=centre + slope * centred) for name, slope in guides.items() if math.isfinite(slope)]
    dots = [(np.asarray(each["slice"], float), np.asarray(each["latency_s"], float)) for each in latencies]
    panel = Panel(label="latency, s", lines=(*lines, Line(name="mean", y=mean)))
    return chart(
        number.astype(float),
        [panel],
        x_label="slice (third axis)",
        title=title,
        panel_height=2 * PANEL_HEIGHT,
        dots=dots,
    )


def chart(
    x: Floats,
    panels: Sequence[Panel],
    *,
    x_label: str,
    title: str,
    panel_height: float = PANEL_HEIGHT,
    dots: Sequence[tuple[Floats, Floats]] = (),
) -> Markup:
    """Draw panels of lines above each other over one x axis; ``dots`` go into every panel."""
    height = len(panels) * (panel_height + GAP) + BOTTOM
    start, end = float(x.min()), float(x.max())
    parts: list[Markup] = []
    for index, panel in enumerate(panels):
        top = GAP + index * (panel_height + GAP)
        parts += _panel(x, panel, top, panel_height, dots)
    bottom = len(panels) * (panel_height + GAP)
    for tick in _ticks(start, end, 8):
        parts.append(_text(float(_across(tick, start, end)), bottom + 14, _number(tick), anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 30, x_label, anchor="middle"))
    return element(
        "svg", element("title", title), *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", class_="chart"
    )


def _panel(x: Floats, panel: Panel, top: float, height: float, dots: Sequence[tuple[Floats, Floats]]) -> list[Markup]:
    values = np.concatenate([*(line.y for line in panel.lines), *(y for _, y in dots)])
    low, high = _range(values, panel)
    start, end = float(x.min()), float(x.max())

    def place(at: Floats, y: Floats) -> tuple[Floats, Floats]:
        return _across(at, start, end), top + height * (high - y) / (high - low)

    parts = [element("rect", x=LEFT, y=top, width=WIDTH - LEFT - RIGHT, height=height, class_="frame")]
    for tick in _ticks(low, high, int(height // TICK_EVERY)):
        _, y = place(np.array(start), np.array(tick))
        parts.append(element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_="rule"))
        parts.append(_text(LEFT - 5, float(y) + 4, _number(tick), anchor="end"))
    if panel.threshold is not None and low < panel.threshold < high:
        _, y = place(np.array(start), np.array(panel.threshold))
        parts.append(element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_="threshold"))
    parts += [_dots(*place(at, y)) for at, y in dots]
    parts += [element("path", d=_path(*place(x, line.y)), class_=f"line {line.name}") for line in panel.lines]
    middle = top + height / 2
    label = element("text", panel.label, x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle:g})")
    return [*parts, label, *_legend(panel, top)]


def _legend(panel: Panel, top: float) -> list[Markup]:
    """Return the names of a panel's lines, at its upper right; none where there is one line."""
    if len(panel.lines) < 2:
        return []
    names = [element("tspan", f"{line.name}  ", class_=f"name {line.name}") for line in panel.lines]
    return [element("text", *names, x=WIDTH - RIGHT - 4, y=top + 13, text_anchor="end", class_="legend")]


def _lines(known: Mapping[str, Floats], name: str) -> tuple[Line, ...]:
    return (Line(name=name.split("_")[0], y=known[name]),) if name in known else ()


def _mean_at(latencies: Sequence[Mapping[str, Sequence[float]]], number: int) -> float:
    found = [
        late for each in latencies for at, late in zip(each["slice"], each["latency_s"], strict=True) if at == number
    ]
    return float(np.mean(found))


def _range(values: Floats, panel: Panel) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if panel.threshold is not None:
        high = max(high, 1.2 * panel.threshold)
    low = 0.0 if panel.from_zero else low
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    return (low if panel.from_zero else low - margin), high + margin


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers within a range, at most ``most`` + 1 of them."""
    rough = (high - low) / most if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _across(at: Floats | float, start: float, end: float) -> Floats:
    return LEFT + (WIDTH - LEFT - RIGHT) * (np.asarray(at) - start) / ((end - start) or 1.0)


def _path(across: Floats, down: Floats) -> str:
    """Return the path through points; where one is not finite, the line is broken."""
    parts, pen = [], "M"
    for x, y in zip(across, down, strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)


def _dots(across: Floats, down: Floats) -> Markup:
    """Return dots as lines of no length with round ends: one element for all."""
    return element("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(across, down, strict=True)), class_="dots")


def _text(x: float, y: float, content: str, *, anchor: str) -> Markup:
    return element("text", content, x=f"{float(x):.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", MINUS)
