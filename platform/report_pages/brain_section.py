"""Where in the brain the winner predicts: glass brains of r, one volume beside its prediction, maps to download.

Takes a study as its report reads it; gives a section.
"""

import base64
import gzip
import io
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from datasets.errors import BadInput
from datasets.quality.markup import Markup, element, row, table
from platform.evidence.brain_maps import BrainMaps, kept_brain_maps
from platform.report_pages.charts import Chart, layout_of, markers
from platform.report_pages.page import Section, download, paragraph
from platform.report_pages.score_sections import ROW_HEIGHT, number
from platform.report_pages.studied import Studied

MAPS = "brain_maps"
"""Under this the ledger notes where the winner's maps lie: its number, their storage, a name by fold."""
PLANES = ((0, 26), (1, 30), (2, 26))
"""The planes of published figures: axis and index on the grid."""
MOST_DOWNLOADS = 32
_DOTS_PER_INCH = 90


def brain_section(studied: Studied) -> Section:
    """Return the maps of the best, the median and the worst test subject, by the winner's test score."""
    maps = _kept(studied)
    if not maps:
        text = "No maps are stored: the search ran with --no-finalist-scores, or its job storage is not within reach."
        return Section(name="brain", title="On the brain", parts=[paragraph(text)])
    order = sorted(maps, key=lambda fold: (-studied.test[fold], fold))
    shown = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    parts: list[Markup | Chart] = [
        paragraph(
            "Pearson r over time of each voxel between prediction and volumes of a test subject, mean over runs. "
            "The colours of all maps have one range."
        )
    ]
    most = max(float(np.nanmax(np.abs(maps[fold].r_V))) for fold in shown.values()) or 1.0
    if any(0 < maps[fold].is_grey_V.mean() < 1 for fold in maps):
        parts.append(_tissues(studied, maps))
    for word, fold in dict.fromkeys((word, fold) for word, fold in shown.items()):
        parts += _of_subject(word, studied.tested[fold], studied.test[fold], maps[fold], most)
    by_name = sorted(maps, key=lambda fold: studied.tested[fold])
    files = [element("li", _nifti(studied.tested[fold], maps[fold])) for fold in by_name[:MOST_DOWNLOADS]]
    return Section(
        name="brain", title="On the brain", parts=[*parts, element("h3", "Maps of r (NIfTI)"), element("ul", *files)]
    )


def _kept(studied: Studied) -> dict[int, BrainMaps]:
    noted: Mapping[str, Any] = studied.ledger.noted(MAPS) or {}
    if noted.get("trial") != studied.winner.number or studied.nested:
        return {}
    try:
        kept = {int(fold): kept_brain_maps(noted["storage"], name) for fold, name in noted["names"].items()}
    except BadInput:
        return {}
    return {fold: maps for fold, maps in kept.items() if maps is not None and fold in studied.test}


def _tissues(studied: Studied, maps: Mapping[int, BrainMaps]) -> Chart:
    """Return the mean r of grey and of white matter, by subject."""
    folds = sorted(maps, key=lambda fold: studied.tested[fold])
    found = {
        "grey matter": [float(maps[fold].r_V[maps[fold].is_grey_V].mean()) for fold in folds],
        "white matter": [float(maps[fold].r_V[~maps[fold].is_grey_V].mean()) for fold in folds],
    }
    names = [studied.tested[fold] for fold in folds]
    rows = [row(name, *(number(values[at]) for values in found.values())) for at, name in enumerate(names)]
    return Chart(
        name="tissue",
        title="By tissue",
        says="; ".join(f"{name}: mean r {number(fmean(values))}" for name, values in found.items()),
        caption="Mean r over all voxels of a tissue, by test subject. Neurons answer in grey matter: a prediction that "
        "is as good in white matter may follow what moves the whole brain, as heart and head do.",
        data=[
            markers(name, values, names, kind=kind, size=11)
            for kind, (name, values) in zip((1, 4), found.items(), strict=True)
        ],
        layout=layout_of("mean r", "", height=120 + ROW_HEIGHT * len(names),
                         yaxis={"autorange": "reversed", "type": "category"}),
        table=table("Mean r by tissue", ["tested", *found], rows),
    )  # fmt: skip


def _of_subject(word: str, subject: str, score: float, maps: BrainMaps, most: float) -> list[Markup]:
    grey_share = float(np.mean(maps.r_V > 0))
    glass = _image(
        _glass_brain(maps, most),
        f"Glass brain of r per voxel of {subject}; {grey_share:.0%} of voxels are above zero, the highest is "
        f"{number(float(np.nanmax(maps.r_V)))}.",
    )
    planes = _image(
        _planes(maps),
        f"Three planes through one volume of {subject} above the same planes of what was predicted.",
    )
    caption = "Target above, prediction below; each has its own range, since only the pattern compares. Planes "
    return [
        element("h3", f"{word.capitalize()}: {subject}, test r {number(score)}"),
        element(
            "figure",
            glass,
            element("figcaption", f"r per voxel, purple below and orange above zero, up to {most:.2f}."),
        ),
        element(
            "figure", planes, element("figcaption", caption + "[26, :, :], [:, 30, :] and [:, :, 26] of the grid.")
        ),
    ]


def _glass_brain(maps: BrainMaps, most: float) -> bytes:
    from matplotlib.figure import Figure
    from nibabel.nifti1 import Nifti1Image
    from nilearn.plotting import plot_glass_brain

    figure = Figure(figsize=(9, 2.6))
    image = Nifti1Image(maps.on_grid(maps.r_V, 0.0), maps.affine)
    plot_glass_brain(
        image, figure=figure, display_mode="lyrz", colorbar=True, cmap="PuOr_r", vmax=most, vmin=-most, plot_abs=False,
        symmetric_cbar=True, threshold=None,
    )  # fmt: skip
    return _png(figure)


def _planes(maps: BrainMaps) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots(2, len(PLANES))
    for of_row, (title, values_V) in zip(
        axes, {"target": maps.target_V, "prediction": maps.prediction_V}.items(), strict=True
    ):
        volume = maps.on_grid(values_V)
        most = float(np.nanpercentile(np.abs(volume), 99)) or 1.0
        for axis, (along, index) in zip(of_row, PLANES, strict=True):
            at = min(index, volume.shape[along] - 1)
            axis.imshow(np.take(volume, at, axis=along).T, origin="lower", cmap="PuOr_r", vmin=-most, vmax=most)
            axis.set_axis_off()
        of_row[0].set_title(title, loc="left", fontsize=10)
    return _png(figure)


def _png(figure: Any) -> bytes:  # noqa: ANN401 - matplotlib's
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DOTS_PER_INCH)
    return content.getvalue()


def _image(content: bytes, says: str) -> Markup:
    return element("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=says, class_="map")


def _nifti(subject: str, maps: BrainMaps) -> Markup:
    from nibabel.nifti1 import Nifti1Image

    image = Nifti1Image(maps.on_grid(maps.r_V, 0.0), maps.affine)
    content = gzip.compress(image.to_bytes(), mtime=0)
    return download(subject, f"{subject}_stat-r_statmap.nii.gz", "application/gzip", content)
