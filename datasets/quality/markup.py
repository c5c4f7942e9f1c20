"""HTML and SVG by function calls; whatever is not markup already is escaped, so a name can never become a tag.

Takes tag names, attributes and children; gives markup.
"""

import html

VOID = ("meta", "input", "br", "img")
MINUS = "\N{MINUS SIGN}"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element; ``class_`` is class, ``stroke_width`` stroke-width; None and False leave an attribute out."""
    start = name + "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{start}>") if name in VOID else Markup(f"<{start}>{joined(*children)}</{name}>")


def joined(*children: str) -> Markup:
    """Return children one after the other, text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def table(caption: str, headings: list[str], rows: list[Markup], *, class_: str = "scroll") -> Markup:
    """Return a table of rows (``tr``) under headings, in a frame of a class, which scrolls where there is no room."""
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *rows))
    return element("div", whole, class_=class_, tabindex="0", role="region", aria_label=caption)


def row(heading: str, *cells: str) -> Markup:
    """Return a table's row: its heading, and its cells, which may be whole ``td`` elements already."""
    return element("tr", element("th", heading, scope="row"), *(cell(each) for each in cells))


def cell(content: str) -> Markup:
    """Return a table's cell."""
    return content if isinstance(content, Markup) and content.startswith("<td") else element("td", content)


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
