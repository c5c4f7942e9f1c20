"""Images of the quality report: a subject's EPI and T1 in three planes, under each other's outlines and the template's.

Takes images on the grid; gives SVG: grey PNGs of one pixel a voxel under contours, some tens of kilobytes a subject.
"""

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from datasets.quality.markup import Markup, element
from datasets.quality.records import Anatomy, Template

Floats = NDArray[np.floating[Any]]

TILES = 7
TILE_MARGIN = 0.12
"""Share of the mask's extent that is left out at either end: there is little to see."""
CONTOUR_SMOOTHING = 0.7
WINDOW_PERCENTILE = 99.5
PLANES = (("x", 0, "sagittal"), ("y", 1, "coronal"), ("z", 2, "axial"))


def template_outlines(template: Template) -> Markup:
    """Return hidden outlines of the mask and of grey matter, which every subject's figures refer to."""
    paths = [
        element("path", id=f"outline-{name}", d=_mosaic_outline(image, template), class_=name)
        for name, image in (("mask", template.mask.astype(float)), ("grey", template.grey))
    ]
    return element("svg", element("defs", *paths), width="0", height="0", class_="hidden", aria_hidden="true")


def outlines(subject: str, anatomy: Anatomy, template: Template) -> list[Markup]:
    """Draw a subject's mean EPI, and its T1, in three planes under the outlines of each other and of the template."""
    figures = []
    if anatomy.epi is not None:
        over = [_use("mask"), *_other_outline(anatomy.t1, template), *_missing(anatomy, template)]
        title = f"{subject}: mean EPI with the outlines of the T1 and of the template"
        figures.append(_mosaic(anatomy.epi, over, template, title))
    if anatomy.t1 is not None:
        over = [_use("grey"), *_other_outline(anatomy.epi, template)]
        title = f"{subject}: T1 with the outlines of the mean EPI and of the template's grey matter"
        figures.append(_mosaic(anatomy.t1, over, template, title))
    return figures


def grey_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a grey image (rows, columns) as PNG."""
    rows, columns = pixels.shape
    lines = np.hstack([np.zeros((rows, 1), np.uint8), pixels]).tobytes()  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """One slice's place in the mosaic: where its upper left corner lies, and its label."""

    axis: int
    index: int
    x: int
    y: int
    label: str


def _upright(image: Floats, template: Template) -> Floats:
    """Return an image with its axes to the right, to the front and upwards."""
    return np.flip(image, tuple(axis for axis in range(3) if template.affine[axis, axis] < 0))


def _tiles(template: Template) -> tuple[list[_Tile], int, int]:
    """Return the places of all slices, and the width and height of the whole mosaic in voxels."""
    mask = _upright(template.mask.astype(float), template) > 0
    nx, ny, nz = mask.shape
    width, tiles, top = max(nx, ny) + 2, [], 1
    for name, axis, _ in PLANES:
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        shares = np.linspace(TILE_MARGIN, 1 - TILE_MARGIN, TILES)
        for number, index in enumerate(np.rint(np.quantile(inside, shares)).astype(int)):
            label = f"{name} = {_millimetres(int(index), axis, mask.shape, template):.0f}"
            across = number * width + (width - (ny if axis == 0 else nx)) // 2
            tiles.append(_Tile(axis=axis, index=int(index), x=across, y=top, label=label))
        top += (ny if axis == 2 else nz) + 8
    return tiles, TILES * width, top


def _millimetres(index: int, axis: int, shape: tuple[int, ...], template: Template) -> float:
    step, start = template.affine[axis, axis], template.affine[axis, 3]
    return float(start + step * (index if step > 0 else shape[axis] - 1 - index))


def _slice(image: Floats, tile: _Tile) -> Floats:
    """Return a slice as it is looked at: rows from top to bottom."""
    return np.asarray(np.take(image, tile.index, axis=tile.axis).T[::-1])


def _canvas(image: Floats, template: Template) -> Floats:
    """Return an image's slices in their places (rows, columns)."""
    tiles, width, height = _tiles(template)
    canvas, upright = np.zeros((height, width)), _upright(image, template)
    for tile in tiles:
        shown = _slice(upright, tile)
        canvas[tile.y : tile.y + len(shown), tile.x : tile.x + shown.shape[1]] = shown
    return canvas


def _mosaic(image: Floats, over: Sequence[Markup], template: Template, title: str) -> Markup:
    canvas = _canvas(image, template)
    height, width = canvas.shape
    brightest = np.percentile(image[image > 0], WINDOW_PERCENTILE) if (image > 0).any() else 1.0
    pixels = np.clip(255 * canvas / brightest, 0, 255).astype(np.uint8)
    address = "data:image/png;base64," + base64.b64encode(grey_png(pixels)).decode()
    picture = element("image", href=address, width=width, height=height)
    labels = [_label(tile, image.shape) for tile in _tiles(template)[0]]
    return element(
        "svg", element("title", title), picture, *over, *labels, viewBox=f"0 0 {width} {height}", role="img",
        class_="anatomy",
    )  # fmt: skip


def _label(tile: _Tile, shape: tuple[int, ...]) -> Markup:
    across, down = (shape[1], shape[2]) if tile.axis == 0 else (shape[0], shape[1] if tile.axis == 2 else shape[2])
    return element("text", tile.label, x=tile.x + across / 2, y=tile.y + down + 5, text_anchor="middle")


def _mosaic_outline(image: Floats, template: Template) -> str:
    """Return the path of an image's contours at one half, over all slices of the mosaic."""
    canvas = _canvas(image, template)
    if not (canvas > 0.5).any():
        return ""
    segments = Figure().add_subplot().contour(canvas, [0.5]).allsegs[0]
    return "".join(_closed(segment + 0.5) for segment in segments if len(segment) > 3)


def _closed(points: Floats) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{steps}Z"


def _other_outline(image: Floats | None, template: Template) -> list[Markup]:
    """Return an image's own contours, at half of its median: preparation cuts both images to one brain's shape."""
    if image is None:
        return []
    smooth = ndimage.gaussian_filter(image / np.median(image[image > 0]), CONTOUR_SMOOTHING)
    return [element("path", d=_mosaic_outline(smooth, template), class_="other")]


def _missing(anatomy: Anatomy, template: Template) -> list[Markup]:
    if anatomy.missing is None or not anatomy.missing.any():
        return []
    return [element("path", d=_mosaic_outline(anatomy.missing.astype(float), template), class_="missing")]


def _use(name: str) -> Markup:
    return element("use", href=f"#outline-{name}", class_=name)
