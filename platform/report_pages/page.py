"""The page around a report's sections: one file with its style, its figures' numbers and Plotly in it.

Takes a title and sections; gives HTML that asks nothing of any network.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plotly.offline import get_plotlyjs

from datasets.quality.markup import Markup, element
from platform.report_pages.charts import Chart
from platform.report_pages.style import STYLE

# A sheet of A4 or Letter is 680 pixels wide between its margins; a browser tells the page too late to measure it.
DRAW = """
const drawn = JSON.parse(document.getElementById("figures").textContent);
const still = matchMedia("(max-width: 600px)").matches;
for (const [id, figure] of Object.entries(drawn)) {
  const layout = still ? {...figure.layout, dragmode: false} : figure.layout;
  Plotly.newPlot(id, figure.data, layout, {displayModeBar: false, responsive: true, scrollZoom: false});
}
const resize = (width) => Object.keys(drawn).forEach((id) => Plotly.relayout(id, {width, autosize: width === null}));
addEventListener("beforeprint", () => resize(680));
addEventListener("afterprint", () => resize(null));
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report: its heading, what stands there, and the figures among that."""

    name: str
    title: str
    parts: Sequence[Markup | Chart]


def whole_page(title: str, first: Markup, sections: Sequence[Section]) -> str:
    """Return the report as HTML."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    links = [element("li", element("a", each.title, href=f"#{each.name}")) for each in sections]
    header = element("header", element("h1", title), element("nav", element("ul", *links), aria_label="Sections"))
    main = element("main", first, *(_section(each) for each in sections))
    charts = [part for each in sections for part in each.parts if isinstance(part, Chart)]
    body = element("body", header, main, *_drawing(charts))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def paragraph(text: str, *, class_: str | None = None) -> Markup:
    """Return a paragraph."""
    return element("p", text, class_=class_)


def download(text: str, file_name: str, kind: str, content: bytes) -> Markup:
    """Return a link that saves bytes, which the page itself holds."""
    address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return element("a", text, href=address, download=file_name)


def _section(section: Section) -> Markup:
    parts = [_figure(part) if isinstance(part, Chart) else part for part in section.parts]
    return element("section", element("h2", section.title), *parts, id=section.name)


def _figure(chart: Chart) -> Markup:
    drawn = element("div", id=f"figure-{chart.name}", class_="chart", role="img", aria_label=chart.says)
    numbers = element("details", element("summary", f"Numbers: {chart.title}"), chart.table)
    return element("figure", element("h3", chart.title), drawn, element("figcaption", chart.caption), numbers)


def _drawing(charts: Sequence[Chart]) -> list[Markup]:
    figures = {f"figure-{each.name}": {"data": each.data, "layout": each.layout} for each in charts}
    text = json.dumps(_finite(figures), allow_nan=False).replace("<", "\\u003c")
    return [
        element("script", Markup(text), type="application/json", id="figures"),
        element("script", Markup(get_plotlyjs())),
        element("script", Markup(DRAW)),
    ]


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON's kinds only: what is no number becomes null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
