"""A report's figures as Plotly reads them: plain data, no drawing.

Takes numbers and names; gives a ``Chart``, whose traces and layout the page hands to Plotly in the browser, with one
sentence for those who do not see it and the same numbers as a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets.quality.markup import Markup
from platform.report_pages.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, QUIET, RULE

Trace = dict[str, Any]
HEIGHT = 380
DIVERGING = [[0.0, "#08519c"], [0.5, "#f7f7f7"], [1.0, "#a63603"]]
"""Blue below zero, white at it, brown above: told apart by colour-blind readers."""
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure.

    Attributes:
        name: its id on the page.
        title: what it is.
        says: what it shows, for those who hear the page.
        caption: how to read it.
        data, layout: what Plotly draws.
        table: the same numbers.
    """

    name: str
    title: str
    says: str
    caption: str
    data: Sequence[Trace]
    table: Markup
    layout: Mapping[str, Any] = field(default_factory=dict)


def layout_of(x: str, y: str, *, height: int = HEIGHT, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - Plotly's own
    """Return a layout with named axes; what is given beside replaces what all charts share."""
    axis = {"automargin": True, "gridcolor": RULE, "zerolinecolor": QUIET, "linecolor": QUIET}
    of_x = {**axis, "title": {"text": x}, **more.pop("xaxis", {})}
    of_y = {**axis, "title": {"text": y}, **more.pop("yaxis", {})}
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        "xaxis": of_x,
        "yaxis": of_y,
        **more,
    }


def markers(
    name: str, x: Sequence[Any], y: Sequence[Any], *, kind: int = 0, size: int = 9, text: Sequence[str] = ()
) -> Trace:
    """Return points of one kind: each kind has a colour and a symbol of its own."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "marker": {
            "color": COLOURS[kind],
            "symbol": SYMBOLS[kind],
            "size": size,
            "line": {"width": 1, "color": "#fff"},
        },
        **({"text": list(text)} if text else {}),
    }


def line(name: str, x: Sequence[Any], y: Sequence[Any], *, kind: int = 0, width: float = 2.0, **more: Any) -> Trace:  # noqa: ANN401
    """Return a line of one kind: each kind has a colour and a dash of its own."""
    style = {"color": COLOURS[kind], "width": width, "dash": DASHES[kind]}
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": style, **more}


def band(name: str, x: Sequence[float], low: Sequence[float], high: Sequence[float], *, kind: int = 0) -> Trace:
    """Return the area between two curves."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "opacity": 0.35,
        "line": {"width": 0, "color": COLOURS[kind]},
        "hoverinfo": "skip",
    }


def interval(
    name: str, x: Sequence[float], y: Sequence[str], low: Sequence[float], high: Sequence[float], kind: int
) -> Trace:
    """Return points with their intervals, lying along x."""
    error = {
        "type": "data",
        "symmetric": False,
        "array": [top - at for at, top in zip(x, high, strict=True)],
        "arrayminus": [at - bottom for at, bottom in zip(x, low, strict=True)],
        "color": COLOURS[kind],
        "thickness": 2,
    }
    return {**markers(name, x, y, kind=kind, size=11), "error_x": error}


def heat_map(x: Sequence[str], y: Sequence[str], z: Sequence[Sequence[float | None]], title: str) -> Trace:
    """Return a map of scores, white at zero; what was not scored stays empty."""
    most = max((abs(value) for row in z for value in row if value is not None), default=1.0) or 1.0
    return {
        "type": "heatmap",
        "x": list(x),
        "y": list(y),
        "z": [list(row) for row in z],
        "colorscale": DIVERGING,
        "zmin": -most,
        "zmax": most,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
    }
