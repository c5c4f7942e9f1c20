"""A real search whose real MLflow server is killed in the middle and started anew."""

import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from searching import QUICK, finish_search, start_search
from small_study import write_small_study

from deploy.stack.ports import free_ports
from platform.ledger.ledger import Ledger
from platform.ledger.studies import read_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_TRIALS = 4
NUM_FOLDS = 5


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "mlflow"
    folder.mkdir()
    started = MlflowServer(folder=folder, port=free_ports(1)[0])
    try:
        started.start()
        yield started
    finally:
        started.kill()


def test_after_a_server_was_killed_in_the_middle_of_a_search_it_holds_all_of_it_once(tmp_path, server):
    shards = write_small_study(tmp_path / "shards", volumes=40)
    command = (
        "band_power", "--shards", str(shards), "--trials", str(NUM_TRIALS), *QUICK, "--racing", "none",
        "--finalists", "1", "--commit-lag", "1", "--no-finalist-scores", "--tracking", server.url,
    )  # fmt: skip
    process = start_search(tmp_path / "home", *command)
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "fold job 7:" in line:  # of 5 folds: one trial has been sent, another is on its way
            break
    server.kill()
    time.sleep(5.0)
    starting = threading.Thread(target=server.start)
    starting.start()
    printed.append(finish_search(process))
    starting.join()
    assert process.returncode == 0, "".join(printed)[-3000:]
    if "MLflow could not be reached" in "".join(printed):  # the search was over before the server was up again
        again = start_search(tmp_path / "home", *command)
        printed.append(finish_search(again))
        assert again.returncode == 0, printed[-1][-3000:]
    check_all_is_there_once(
        MlflowClient(server.url), read_ledger(f"sqlite:///{tmp_path}/home/studies.db", "band_power")
    )


def check_all_is_there_once(client: MlflowClient, ledger: Ledger) -> None:
    experiment = client.get_experiment_by_name("eeg2fmri")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = sorted(run.info.run_name for run in runs)
    trials = [f"trial-{number:04d}" for number in range(NUM_TRIALS)]
    assert [name for name in names if name.startswith("fold-")] == [f"fold-{fold:02d}" for fold in range(NUM_FOLDS)]
    assert [name for name in names if not name.startswith("fold-")] == ["band_power", *trials]
    by_name = {run.info.run_name: run for run in runs}
    assert len(ledger.trials) == NUM_TRIALS
    for trial in ledger.trials:
        run = by_name[f"trial-{trial.number:04d}"]
        history = client.get_metric_history(run.info.run_id, "cv/validation")
        assert {point.step: point.value for point in history} == trial.scores
        assert len(history) == len(trial.scores)
        assert run.data.params == {key: str(value) for key, value in trial.configuration.items()}
        assert run.info.status == "FINISHED"
    assert by_name["band_power"].info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'eeg2fmri-band_power'")) == 1
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
