"""Nobody but this machine reaches what a command opens on it."""

import os
import socket

import pytest
import ray
from ray.train.torch import TorchConfig
from watching import Watched, address_of, is_loopback, look

from datasets.cluster import LOCAL, connected
from platform.training.meeting_point import FileConfig, torch_config

ADDRESSES = {
    "0.0.0.0": False,
    "127.0.0.1": True,
    "::": False,
    "::1": True,
    "::ffff:127.0.0.1": True,
    "192.0.2.1": False,
}


@pytest.mark.cluster
def test_a_local_ray_listens_on_loopback_alone(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    seen = Watched()
    with connected(LOCAL, 1):
        kind = ray.get(ray.remote(lambda: type(torch_config()).__name__).remote())
        look(os.getpid(), seen)
    assert any("gcs_server" in line for _, line in seen.listeners)
    assert any("raylet/raylet" in line for _, line in seen.listeners)
    assert seen.beyond_loopback() == []
    assert kind == FileConfig.__name__


def test_the_setting_does_not_outlast_the_local_ray(monkeypatch):
    def refuses(**_):
        assert os.environ[ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
        assert not ray._private.ray_constants.ENABLE_RAY_CLUSTER

    monkeypatch.setattr(ray, "init", refuses)
    before = dict(os.environ)
    with connected(LOCAL, 1):
        pass
    assert dict(os.environ) == before
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER


def test_workers_on_several_machines_meet_as_ray_train_has_them(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    assert type(torch_config()) is TorchConfig


@pytest.mark.parametrize(("address", "is_ours"), ADDRESSES.items())
def test_what_loopback_is(address, is_ours):
    assert is_loopback(address) is is_ours


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_a_listener_is_found(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family):
        seen = Watched()
        look(os.getpid(), seen)
    assert address in {each for each, _ in seen.listeners}
    assert bool(seen.beyond_loopback()) is (address == "::")


def test_the_kernel_s_words_are_read_as_addresses():
    assert address_of("0100007F") == "127.0.0.1"
    assert is_loopback(address_of("0000000000000000FFFF00000100007F"))
    assert not is_loopback(address_of("00000000000000000000000000000000"))
