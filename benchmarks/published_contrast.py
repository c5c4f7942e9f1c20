"""The same small model by shuffled windows, which leaks, and by subjects left out, with EEG and with noise.

Takes prepared shards (``--shards``) or makes its own; gives rows: each way of splitting with recorded EEG and with
noise in its place, beside what knows no EEG at all, by r over time and by the published measures.  In a shuffled split
of overlapping windows the volumes before and after a held-out one are trained on: it leaks.

Legend of shapes: N windows, M of them chosen, T windows of a run, V voxels, K patterns, F features, G grey matter.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.table import Row, print_table
from datasets.simulator.shards import simulate_shards
from datasets.simulator.study import SimulationSettings
from platform.data.basis import gram_matrix, principal_components
from platform.data.products import DataSettings, StudyData
from platform.data.training_set import Inputs, TrainingSet, cached_features
from platform.data.windows import CachedRun, window_index
from platform.models import ARCHITECTURES
from platform.scores.image_scores import SubjectImage, image_scores
from platform.scores.metrics import correlation_from_products
from platform.training.config import Epochs, TrainingConfig
from platform.training.loop import train

ARCHITECTURE, SEED = "band_power", 0
TRAINING = TrainingConfig()
HELD_OUT = 0.2
"""Share of each run's windows that is scored; in both splits they are the same ones."""
SHUFFLED, LEFT_OUT, EITHER = "shuffled windows (it leaks)", "subjects left out", "either"
RECORDED, NOISE = "recorded EEG", "noise in place of EEG"
NEIGHBOURS, MEAN = "no EEG: between the neighbouring volumes", "no EEG: always the mean"
ORDER = (
    (SHUFFLED, RECORDED), (SHUFFLED, NOISE), (SHUFFLED, NEIGHBOURS), (LEFT_OUT, RECORDED), (LEFT_OUT, NOISE),
    (EITHER, MEAN),
)  # fmt: skip
PLACES = (0, 1, 2, 4, 5, 7)
"""Where the bars stand."""
MEASURES = {
    "r": ("r over time, grey matter", "{:+.3f}"),
    "mse_given_own_mean": ("MSE given the subject's own mean image", "{:.3e}"),
    "ssim_given_own_mean": ("SSIM given the subject's own mean image", "{:.4f}"),
}

Floats = NDArray[np.float32]
Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenWindows(TrainingSet):
    """Some windows of runs to train on."""

    chosen_N: NDArray[np.bool_]

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """The chosen windows, as (number of run, number of window)."""
        return window_index(self.runs)[self.chosen_N]


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """All runs, which of their windows are scored, and their volumes' inner products."""

    data: StudyData
    runs: Sequence[CachedRun]
    held_out: Sequence[NDArray[np.bool_]]
    gram_NN: Floats

    @cached_property
    def run_of(self) -> NDArray[np.int64]:
        """The number of every window's run, (N,)."""
        return window_index(self.runs)[:, 0]

    @cached_property
    def images(self) -> dict[str, SubjectImage]:
        """Every subject's own mean image; none where the shards came without."""
        found = {subject: self.data.subject_maps(subject) for subject in self.data.manifest.subjects}
        return {
            subject: SubjectImage(
                mean_V=maps["mean"],
                deviation_V=maps["standard_deviation"],
                indices_V3=self.data.voxel_indices,
                grid_shape=self.data.manifest.layout.grid_shape,
            )
            for subject, maps in found.items()
            if maps is not None
        }


def measure(epochs: int = 15) -> list[Row]:
    """Make a small fast study, which has no mean images, and measure r alone on it."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        simulate_shards(shards, SimulationSettings(subjects=5, runs=1, volumes=120), workers=1, eeg_rate_hz=250)
        return rows_of(contrast(shards, Path(folder) / "cache", epochs))


def contrast(shards: Path, cache: Path, epochs: int) -> dict[tuple[str, str], Scores]:
    """Return the scores of every split and input."""
    study = _opened(StudyData(DataSettings(shards=str(shards), cache_folder=str(cache))))
    found: dict[tuple[str, str], Scores] = {}
    for split, parts in (SHUFFLED, _shuffled(study)), (LEFT_OUT, _left_out(study)):
        for name, runs in (RECORDED, study.runs), (NOISE, _with_noise(study.runs)):
            inputs = _features(study.data, runs)
            predictions: dict[int, Floats] = {}
            for training_N, scored in parts:
                predictions |= _predicted(study, runs, inputs, training_N, scored, epochs)
            found[split, name] = _scores(study, predictions)
    found[SHUFFLED, NEIGHBOURS] = _scores(study, {at: _between(study, at) for at in range(len(study.runs))})
    num_voxels = study.data.manifest.layout.num_voxels
    constant = {at: np.zeros((int(held.sum()), num_voxels), np.float32) for at, held in enumerate(study.held_out)}
    found[EITHER, MEAN] = _scores(study, constant)
    return {key: found[key] for key in ORDER}


def rows_of(found: dict[tuple[str, str], Scores]) -> list[Row]:
    """Return the scores as rows of the table of all benchmarks."""
    return [
        Row(benchmark="published_contrast", what=f"{split}; {name}: {MEASURES[measure][0]}", value=form.format(value))
        for (split, name), scores in found.items()
        for measure, value in scores.items()
        for form in [MEASURES[measure][1]]
    ]


def side_by_side(found: dict[tuple[str, str], Scores]) -> str:
    """Return the scores as one Markdown table, a split and an input a row."""
    measures = [measure for measure in MEASURES if measure in next(iter(found.values()))]
    lines = [
        "| split | what the model sees | " + " | ".join(MEASURES[measure][0] for measure in measures) + " |",
        "|---|---|" + "---:|" * len(measures),
    ]
    for (split, name), scores in found.items():
        shown = " | ".join(MEASURES[measure][1].format(scores[measure]) for measure in measures)
        lines.append(f"| {split} | {name} | {shown} |")
    return "\n".join(lines)


def draw(found: dict[tuple[str, str], Scores], path: Path) -> None:
    """Draw every measure as bars, the shuffled split, which leaks, beside subjects left out."""
    matplotlib.use("Agg")
    measures = [measure for measure in MEASURES if measure in next(iter(found.values()))]
    figure = Figure(figsize=(4 * len(measures), 3.6), layout="constrained")
    colours = {RECORDED: "tab:blue", NOISE: "tab:orange", NEIGHBOURS: "tab:green", MEAN: "tab:gray"}
    for number, measure in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), number + 1)
        for place, ((split, name), scores) in zip(PLACES, found.items(), strict=True):
            label = None if number or split == LEFT_OUT else name
            axes.bar(place, scores[measure], color=colours[name], label=label)
        values = [scores[measure] for scores in found.values()]
        if measure != "r":
            margin = 0.15 * (max(values) - min(values))
            axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.set_title(MEASURES[measure][0], fontsize=9)
        axes.set_xticks([1.0, 4.5, 7.0], ["shuffled windows\n(it leaks)", "subjects\nleft out", "either"], fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=80)


def _opened(data: StudyData) -> Study:
    runs = data.runs_of(data.manifest.subjects)
    held_out = [_some(run.num_windows, number) for number, run in enumerate(runs)]
    return Study(data=data, runs=runs, held_out=held_out, gram_NN=gram_matrix([run.targets for run in runs]))


def _some(num_windows: int, number: int) -> NDArray[np.bool_]:
    chosen = np.random.default_rng([SEED, number]).permutation(num_windows)[: round(HELD_OUT * num_windows)]
    return np.isin(np.arange(num_windows), chosen)


def _shuffled(study: Study) -> list[tuple[NDArray[np.bool_], list[int]]]:
    """Return the one part of the shuffled split: which windows are trained on, and which runs are scored."""
    return [(~np.concatenate(study.held_out), list(range(len(study.runs))))]


def _left_out(study: Study) -> list[tuple[NDArray[np.bool_], list[int]]]:
    """Return a part for each subject: all others' windows are trained on, its own runs are scored."""
    subjects = np.array([run.subject for run in study.runs])
    return [
        (subjects[study.run_of] != subject, np.flatnonzero(subjects == subject).tolist())
        for subject in study.data.manifest.subjects
    ]


def _with_noise(runs: Sequence[CachedRun]) -> list[CachedRun]:
    return [
        replace(run, eeg_CS=np.random.default_rng([SEED, 1, at]).standard_normal(run.eeg_CS.shape).astype(np.float16))
        for at, run in enumerate(runs)
    ]


def _features(data: StudyData, runs: Sequence[CachedRun]) -> Inputs:
    make = ARCHITECTURES[ARCHITECTURE].features
    assert make is not None
    features, all_runs = make(data.model_shape(None)), TrainingSet(runs=runs, coefficients_NK=None, weights_K=_ONE)
    with torch.inference_mode():
        parts = [features(all_runs.inputs([run], part)) for run in runs for part in _pieces(window_index([run]))]
    ends = np.cumsum([run.num_windows for run in runs])
    of_runs = np.split(torch.cat(parts).numpy().copy(), ends[:-1])
    return cached_features(zip(runs, of_runs, strict=True))


_ONE = torch.ones(1)


def _pieces(index_N2: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    yield from (index_N2[at : at + 64] for at in range(0, len(index_N2), 64))


def _predicted(
    study: Study,
    runs: Sequence[CachedRun],
    inputs: Inputs,
    training_N: NDArray[np.bool_],
    scored: Sequence[int],
    epochs: int,
) -> dict[int, Floats]:
    """Train on some windows and predict the held-out windows of some runs, (T, V) by number of the run."""
    patterns_KV, coefficients_NK = _basis(study, training_N)
    scale = np.sqrt(np.mean(coefficients_NK**2))
    torch.manual_seed(SEED)
    architecture = ARCHITECTURES[ARCHITECTURE]
    model = architecture.build(architecture.config(), study.data.model_shape(patterns_KV))
    training = ChosenWindows(
        runs=runs,
        coefficients_NK=torch.from_numpy(coefficients_NK / scale),
        weights_K=torch.ones(len(patterns_KV)),
        inputs=inputs,
        chosen_N=training_N,
    )
    train(model, training, TRAINING, Epochs(maximum=epochs), SEED)
    model.eval()
    with torch.inference_mode():
        weights = {at: model(inputs([runs[at]], window_index([runs[at]])[study.held_out[at]])) for at in scored}
    return {at: own_TK.numpy() @ (patterns_KV * scale) for at, own_TK in weights.items()}


def _basis(study: Study, training_N: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    volumes = [run.targets[training_N[study.run_of == at]] for at, run in enumerate(study.runs)]
    gram_MM = study.gram_NN[np.ix_(training_N, training_N)]
    return principal_components(gram_MM, [part for part in volumes if len(part)], TRAINING.output_rank)


def _between(study: Study, at: int) -> Floats:
    """Return, for each held-out volume, the volumes trained on before and after it, by how near they are, (T, V)."""
    held_T = study.held_out[at]
    volumes_TV = study.runs[at].targets.astype(np.float32)
    known, wanted = np.flatnonzero(~held_T), np.flatnonzero(held_T)
    after = np.searchsorted(known, wanted)
    before, after = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    span = np.maximum(after - before, 1)
    share_T1 = np.clip((wanted - before) / span, 0, 1)[:, None].astype(np.float32)
    return np.asarray((1 - share_T1) * volumes_TV[before] + share_T1 * volumes_TV[after])


def _scores(study: Study, predictions: dict[int, Floats]) -> Scores:
    """Return the means over all runs of every score on their held-out volumes."""
    of_runs = [_run_scores(study, at, predicted_TV) for at, predicted_TV in predictions.items()]
    return {name: float(np.mean([scores[name] for scores in of_runs])) for name in of_runs[0]}


def _run_scores(study: Study, at: int, predicted_TV: Floats) -> Scores:
    run = study.runs[at]
    target_TV = run.targets[study.held_out[at]].astype(np.float32)
    grey = study.data.grey_matter
    scores = {"r": _mean_r(predicted_TV[:, grey], target_TV[:, grey])}
    if (image := study.images.get(run.subject)) is not None:
        scores |= image_scores(predicted_TV, target_TV, image)
    return {name: scores[name] for name in MEASURES if name in scores}


def _mean_r(predicted_TG: Floats, target_TG: Floats) -> float:
    """Return r over the held-out volumes of a run, averaged over voxels; 0 for a constant prediction."""
    one, other = (series - series.mean(axis=0, dtype=np.float64) for series in (predicted_TG, target_TG))
    product, power, target_power = ((a * b).sum(axis=0) for a, b in ((one, other), (one, one), (other, other)))
    return float(correlation_from_products(product, power, target_power).mean())


def _prepared(folder: Path) -> Path:
    """Simulate recordings and prepare them, as ``make search`` does, so that every subject has a mean image."""
    raw, shards = str(folder / "raw"), str(folder / "shards")
    for module, *arguments in (
        ("datasets.simulate", raw, "--subjects", "6", "--runs", "2", "--volumes", "150", "--workers", "2"),
        ("datasets.prepare", raw, shards, "--registration", "affine", "--no-motion", "--workers", "2"),
    ):
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)
    return Path(shards)


def main() -> None:
    """Measure on prepared recordings and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=Path, help="prepared shards with mean images (default: simulate and prepare)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--figure", type=Path, help="where to draw the scores (PNG)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = options.shards or _prepared(Path(folder))
        found = contrast(shards, Path(folder) / "cache", options.epochs)
    if options.figure:
        draw(found, options.figure)
    print(side_by_side(found))
    print_table(rows_of(found))


if __name__ == "__main__":
    main()
