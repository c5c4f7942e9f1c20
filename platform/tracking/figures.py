"""Figures of a study.

Takes the numbers of a fold record; gives matplotlib figures, drawn without a display.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from platform.ledger.records import trace_times


@contextmanager
def trace_figure(trace: Mapping[str, Any]) -> Iterator[Figure]:
    """Draw target and prediction of one run of a validation subject, each scaled to unit variance."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.add_subplot()
    seconds = np.array(trace_times(trace))
    target, prediction = (_standardised(np.array(trace[name])) for name in ("target", "prediction"))
    correlation = float(np.mean(target * prediction))
    leaks = "at_s" in trace  # only a share of shuffled windows has gaps
    whose = (
        "windows whose neighbours this fold's model was trained on (it leaks)"
        if leaks
        else "a subject that this fold's model was not trained on"
    )
    axes.plot(seconds, target, color="0.45", linewidth=1, label="target (recorded BOLD)")
    axes.plot(seconds, prediction, color="tab:red", linewidth=1.2, label="prediction from EEG")
    axes.set_xlabel("seconds from the start of the run")
    axes.set_ylabel("responsive voxels (SD)")
    axes.set_title(
        f"{trace['recording']}, {whose}: r = {correlation:+.2f}\n"
        "the best epoch was chosen on another subject; the configuration was chosen on this one too",
        fontsize=9,
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    yield figure
    figure.clear()


def _standardised(series: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = series - series.mean()
    scale = deviation.std()
    return deviation / scale if scale > 0 else deviation
