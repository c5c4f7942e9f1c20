"""What a researcher sees: MLflow's own pages in a real browser, sorted by score, champion, figures, report."""

from pathlib import Path

import mlflow
import pytest
from browsing import OF_MLFLOW, browser, is_drawn
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import MlflowServer
from searching import QUICK, finish_search, start_search
from small_study import write_small_study
from test_tracking import CHANNELS, COMPLETE, NUM_FOLDS, SAMPLES, Study, made_ledger, send_winner, small_model

from deploy.stack.ports import free_ports
from platform.data.products import DataSettings, StudyData
from platform.report import report_page
from platform.tracking.packaging import Package
from platform.training.fold_models import exported

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

PRIMARY = "mlflow.experiment.primaryMetric.name"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = MlflowServer(folder=tmp_path_factory.mktemp("mlflow"), port=free_ports(1)[0])
    try:
        started.start()
        yield started.url
    finally:
        started.kill()


def made(folder: Path, uri: str) -> str:
    """Send a study that was made up, and its report; return its experiment."""
    study = Study(ledger=made_ledger(folder, "made"), uri=uri, experiment="made")
    for fold in range(NUM_FOLDS):
        study.ledger.commit_baselines(fold, {"zero": (0.0, 0.0), "events": (0.01 * fold, 0.02 * fold)})
    study.ledger.close()
    shards = write_small_study(folder / "shards", subjects=1, runs=1)
    data = StudyData(DataSettings(shards=str(shards), cache_folder=str(folder / "cache")))
    tracker = study.tracker()
    tracker.send_missing(study.ledger.trials)
    package = Package(
        program=exported(small_model(), CHANNELS, SAMPLES), configuration={}, trained_on=("sub-01",),
        origin={"architecture": "small", "trial": COMPLETE},
    )  # fmt: skip
    send_winner(study, tracker, {"": package}, data)
    tracker.send_report(report_page(study.ledger))
    assert tracker.finish("FINISHED")
    return study.experiment


def searched(folder: Path, uri: str) -> str:
    """Run a real search that is tracked by the server; return its experiment."""
    shards = write_small_study(folder / "shards", volumes=40, coupling=2.0)
    trials = ("--trials", "3", "--commit-lag", "1", "--finalists", "0", "--racing", "none", "--null-flips", "9")
    process = start_search(
        folder / "home", "band_power", "--shards", str(shards), *trials, *QUICK, "--tracking", uri, "--experiment",
        "searched",
    )  # fmt: skip
    printed = finish_search(process, minutes=15.0)
    assert process.returncode == 0, printed[-3000:]
    return "searched"


@pytest.fixture(
    scope="module", params=[made, pytest.param(searched, marks=pytest.mark.slow)], ids=lambda each: each.__name__
)
def sent(request, server, tmp_path_factory) -> tuple[str, str]:
    """A study in MLflow, made up or really searched: the server's URL and the experiment's id."""
    before = mlflow.get_tracking_uri()
    name = request.param(tmp_path_factory.mktemp("study"), server)
    mlflow.set_tracking_uri(before)
    experiment = MlflowClient(server).get_experiment_by_name(name)
    assert experiment is not None
    return server, str(experiment.experiment_id)


def runs_of(url: str, experiment: str) -> list[Run]:
    """Return the trials' runs, the best first."""
    found = MlflowClient(url).search_runs([experiment], order_by=["metrics.`cv/validation_mean` DESC"])
    return [run for run in found if run.info.run_name.startswith("trial-")]


def study_run(url: str, experiment: str) -> Run:
    (found,) = [run for run in MlflowClient(url).search_runs([experiment]) if "verdict" in run.data.tags]
    return found


def top_down(links: list) -> list[str]:
    """Return what links say in the order in which they are seen: a table's rows lie in the page in any order."""
    return [link.inner_text().strip() for link in sorted(links, key=lambda each: each.bounding_box()["y"])]


def test_trials_are_sorted_by_the_primary_metric(sent):
    url, experiment = sent
    metric = MlflowClient(url).get_experiment(experiment).tags[PRIMARY]
    expected = [run.info.run_name for run in runs_of(url, experiment) if metric in run.data.metrics]
    with browser(forgiven=OF_MLFLOW) as (page, complaints):
        page.goto(f"{url}/#/experiments/{experiment}/runs")
        page.get_by_text("Sort: Created").click()
        page.get_by_text(metric, exact=True).first.click()
        page.get_by_text(f"Sort: {metric}").wait_for()
        page.get_by_role("link", name=expected[-1]).wait_for()
        shown = top_down(page.get_by_role("link", name="trial-").all())
    assert [name for name in shown if name in expected] == expected
    assert complaints == []


def test_from_the_champion_one_comes_to_the_studys_figures_and_its_report(sent):
    url, experiment = sent
    run = study_run(url, experiment)
    (version,) = [
        each
        for each in MlflowClient(url).search_model_versions(f"run_id = '{run.info.run_id}'")
        if each.name.startswith("eeg2fmri-")
    ]
    with browser(forgiven=OF_MLFLOW) as (page, complaints):
        page.goto(f"{url}/#/models/{version.name}")
        page.get_by_text("champion").first.wait_for()
        page.get_by_role("link", name=f"Version {version.version}").first.click()
        page.get_by_text("a prediction, not a measurement").first.wait_for()
        page.get_by_role("link", name=run.info.run_name, exact=True).first.click()
        page.get_by_text(run.data.tags["verdict"], exact=True).first.wait_for()
        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("target_and_prediction.png", exact=True).first.click()
        figure = page.locator("img[src*='blob:'], img[src*='get-artifact'], img[src*='data:image/png']").first
        figure.wait_for()
        page.wait_for_function("each => each.naturalWidth > 100", arg=figure.element_handle())
        assert is_drawn(figure)
        page.get_by_text("report.html", exact=True).first.click()
        report = page.frame_locator("iframe").first
        report.get_by_role("heading", name="Verdict").wait_for()
        report.locator("#figure-beside .main-svg").first.wait_for()
    assert complaints == []
