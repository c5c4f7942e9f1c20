"""Two Ray Train workers under DistributedDataParallel train the same model as one process does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_study import write_small_study

from datasets.cluster import LOCAL, connected, run_tasks
from platform.data.folds import leave_one_subject_out
from platform.data.products import DataSettings, StudyData
from platform.evidence.finalists import OBJECTIVE, TEST, score_finalist
from platform.ledger.records import FoldRecord
from platform.training.config import Epochs
from platform.training.fold_job import run_fold_job
from platform.training.job import Job, Workers
from platform.training.job_model import open_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # seconds; each group of workers takes half a minute, or more where others work, too
    # Ray Data, which Ray Train opens in this process, sets options that it calls deprecated itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

NUM_EPOCHS = 6
CONFIGURATION = {
    "output_rank": 8, "level": "window",
    "width": 16, "num_heads": 2, "learning_rate": 3e-3, "batch_size": 30, "dropout": 0.0,
}  # fmt: skip
LOSS_TOLERANCE, SCORE_TOLERANCE = 1e-3, 0.02


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[FoldRecord, FoldRecord, dict[str, dict[str, float]]]:
    """One fold job's records, trained in this process and by two Ray Train workers, and its further scores by these."""
    folder = tmp_path_factory.mktemp("workers")
    job = example_job(write_small_study(folder / "shards", subjects=6, volumes=60, coupling=2.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a Ray worker with one CPU has
    try:
        alone = run_fold_job(job, Workers())
    finally:
        torch.set_num_threads(threads)
        open_data.cache_clear()
    two = Workers(count=2, storage=str(folder / "jobs"))
    with connected(LOCAL, 2):
        together = run_fold_job(job, two)
        again = replace(job, stop_after=together.best_epochs)
        ((_, further),) = run_tasks(score_finalist, [(again, two)], cpus=0, at_once=1)
    return alone, together, further


@pytest.fixture(scope="module")
def records(trained) -> tuple[FoldRecord, FoldRecord]:
    """One fold job's records: trained in this process, and by two Ray Train workers."""
    return trained[:2]


def example_job(shards: Path) -> Job:
    data = DataSettings(shards=str(shards), cache_folder=str(shards.parent / "cache"))
    return Job(
        data=data,
        architecture="transformer",
        configuration=CONFIGURATION,
        epochs=Epochs(maximum=NUM_EPOCHS, patience=NUM_EPOCHS),
        seed=1,
        trial=0,
        fold=leave_one_subject_out(StudyData(data).manifest.subjects, 0)[0],
    )


def side_by_side(alone: FoldRecord, together: FoldRecord) -> str:
    """Return both loss curves and validation scores as a Markdown table, one epoch a row."""
    lines = [
        "| epoch | loss, 1 process | loss, 2 workers | relative difference | validation r, 1 process | 2 workers |",
        "|---|---|---|---|---|---|",
    ]
    for epoch, (one, two) in enumerate(zip(alone.loss, together.loss, strict=True)):
        scores = [" ".join(f"{scores[epoch]:+.4f}" for scores in record.validation) for record in (alone, together)]
        lines.append(f"| {epoch + 1} | {one:.6f} | {two:.6f} | {two / one - 1:+.1e} | {scores[0]} | {scores[1]} |")
    return "\n".join(lines)


def test_two_workers_and_one_process_have_the_same_loss_curve(records):
    alone, together = records
    print(f"\n{side_by_side(alone, together)}")
    assert len(alone.loss) == NUM_EPOCHS
    assert together.loss == pytest.approx(alone.loss, rel=LOSS_TOLERANCE)
    assert alone.loss[-1] < alone.loss[0]


def test_two_workers_and_one_process_have_the_same_scores(records):
    alone, together = records
    for one, two in zip(alone.validation, together.validation, strict=True):
        assert two == pytest.approx(one, abs=SCORE_TOLERANCE)
    assert together.score == pytest.approx(alone.score, abs=SCORE_TOLERANCE)
    assert together.test_score == pytest.approx(alone.test_score, abs=SCORE_TOLERANCE)


def test_two_workers_train_a_finalist_again_to_the_score_that_was_sealed(trained):
    _, together, further = trained
    assert further[TEST][OBJECTIVE] == pytest.approx(together.test_score, abs=1e-4)
    assert {"temporal_r_grey", "identification"} <= set(further[TEST])
