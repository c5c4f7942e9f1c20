"""Storage when things go wrong: what may pass is waited for, what will not is one line, nothing is ever half there."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as arrow_fs
import pytest
from faulty_server import FAULTS, FaultyServer, always, every, first, never

from datasets import object_storage
from datasets import storage as storage_module
from datasets.retries import Patience
from datasets.storage import Storage, StorageUnusable, claim, open_storage

SHARD = bytes(range(256)) * (30_000_000 // 256)
LARGE = SHARD[: 11 * 1024**2]
"""Two parts: each fault in each step is tried with this, to be quick."""
QUICK = Patience(seconds=30, first_wait_s=0.01, longest_wait_s=0.2)
NONE = Patience(seconds=0, first_wait_s=0.01, longest_wait_s=0.01)
MULTIPART_STEPS = ("uploads", "partNumber=2", "?uploadId=")
USES = {
    "read": lambda storage: storage.read("file"),
    "write": lambda storage: storage.write("file", b"x"),
    "write large": lambda storage: storage.write("file", LARGE),
    "exists": lambda storage: storage.exists("file"),
    "names": lambda storage: storage.names(),
}


@pytest.fixture(autouse=True)
def quick_requests(monkeypatch):
    """Let pyarrow try each request once and wait one second for a silent server."""
    monkeypatch.setattr(object_storage, "ATTEMPTS", 1)
    monkeypatch.setattr(object_storage, "SILENT_SECONDS", 1.0)


@pytest.fixture
def proxy(object_store) -> Iterator[FaultyServer]:
    with FaultyServer(object_store.endpoint) as server:
        yield server


@pytest.fixture
def through(object_store, proxy, tmp_path):
    """Return a function that opens one and the same folder through the proxy."""

    def open_it(patience: Patience = QUICK) -> Storage:
        return open_storage(object_store.uri(f"faults/{tmp_path.name}", endpoint=proxy.endpoint), patience)

    return open_it


# What may pass


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "hang"])
@pytest.mark.parametrize("use", ["read", "write", "write large", "exists", "names"])
def test_one_fault_of_any_kind_passes_unseen(through, proxy, fault, use):
    storage = through()
    storage.write("file", b"earlier")
    proxy.plan = first(1, fault)
    USES[use](storage)
    proxy.plan = never
    assert storage.names() == ["file"]
    assert storage.read("file") == {"write": b"x", "write large": LARGE}.get(use, b"earlier")


@pytest.mark.parametrize("step", MULTIPART_STEPS)
@pytest.mark.parametrize("fault", ["500", "drop-request", "lost-answer"])
def test_a_fault_in_any_step_of_a_large_upload_passes(through, proxy, step, fault):
    storage = through()
    proxy.plan = first(1, fault, path=step)
    storage.write("file", LARGE)
    assert proxy.faults
    assert storage.read("file") == LARGE


def test_a_shard_travels_both_ways_under_scattered_faults(through, proxy, monkeypatch):
    monkeypatch.setattr(object_storage, "ATTEMPTS", 3)
    storage = through()
    proxy.plan = every(3, "500", "reset", "slow-down", "lost-answer", "drop-request", "503", "drop-answer", "502")
    storage.write("shard", SHARD)
    assert storage.read("shard") == SHARD
    assert storage.names() == ["shard"]
    assert len({fault for _, fault in proxy.faults}) > 2


@pytest.mark.slow
def test_a_shard_travels_both_ways_through_a_storm(through, proxy, monkeypatch):
    monkeypatch.setattr(object_storage, "ATTEMPTS", 3)
    storage = through(Patience(seconds=60, first_wait_s=0.01, longest_wait_s=0.2))
    proxy.plan = every(2, *FAULTS, *(fault for fault in FAULTS if fault != "hang"))
    for number in range(5):
        storage.write(f"shard-{number}", SHARD)
        assert storage.read(f"shard-{number}") == SHARD


def test_what_is_tried_again_is_said_but_not_as_a_warning(through, proxy, caplog):
    proxy.plan = first(1, "503")
    with caplog.at_level(logging.INFO):
        through().exists("file")
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "503" in caplog.text
    assert "trying again in" in caplog.text


# What is stored is compared


def test_the_comparison_costs_one_small_request(through, proxy):
    storage = through()
    storage.write("small", b"x")
    assert [request.method for request in proxy.requests] == ["PUT", "HEAD"]
    proxy.requests.clear()
    storage.write("large", LARGE)
    assert sorted(request.method for request in proxy.requests) == ["HEAD", "POST", "POST", "PUT", "PUT"]


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_where_the_server_tells_no_md5_the_content_is_read_back(through, proxy, monkeypatch, content):
    monkeypatch.setattr(storage_module, "_tags", lambda content: ())
    through().write("file", content)
    assert ("GET" in [request.method for request in proxy.requests]) == bool(content)


def test_another_content_than_was_written_is_one_line(through, monkeypatch):
    storage = through(Patience(seconds=0.1, first_wait_s=0.01, longest_wait_s=0.1))
    put = Storage._put
    monkeypatch.setattr(Storage, "_put", lambda self, name, content: put(self, name, pa.py_buffer(b"other")))
    with pytest.raises(StorageUnusable, match="what is stored as file is not what was written"):
        storage.write("file", b"mine!")


# What does not pass


SLOW_IF_IT_HANGS = [pytest.param(fault, marks=[pytest.mark.slow] * (fault == "hang")) for fault in FAULTS]


@pytest.mark.parametrize("fault", [each for each in SLOW_IF_IT_HANGS if "answer" not in each.values[0]])
@pytest.mark.parametrize("use", ["read", "write", "write large"])
def test_a_fault_that_stays_is_one_line_and_changes_nothing(through, proxy, fault, use):
    if use == "read" and fault == "corrupt":
        pytest.skip("a request to read has no body")
    storage = through(Patience(seconds=0.3, first_wait_s=0.01, longest_wait_s=0.1))
    storage.write("file", b"earlier")
    proxy.plan = always(fault)
    with pytest.raises(StorageUnusable) as refusal:
        USES[use](storage)
    proxy.plan = never
    assert len(str(refusal.value).splitlines()) == 1
    assert "tried for" in str(refusal.value)
    assert "run the same command again" in str(refusal.value)
    assert storage.read("file") == b"earlier"
    assert storage.names() == ["file"]


@pytest.mark.parametrize("use", list(USES))
def test_what_is_not_permitted_is_asked_for_once(through, proxy, use):
    storage = through()
    proxy.plan = always("403")
    with pytest.raises(StorageUnusable, match="check the URI and the credentials"):
        USES[use](storage)
    assert len(proxy.requests) == 1


def test_a_server_that_nobody_started_is_one_line(object_store, through, proxy):
    storage = through(Patience(seconds=0.2, first_wait_s=0.01, longest_wait_s=0.1))
    proxy.server_close()
    with pytest.raises(StorageUnusable, match="see that the server runs"):
        storage.read("file")


# Nothing half written


@pytest.mark.parametrize("earlier", [None, b"earlier"])
@pytest.mark.parametrize("step", MULTIPART_STEPS)
@pytest.mark.parametrize("fault", ["500", "drop-request"])
def test_a_large_upload_that_fails_leaves_what_was_there(through, proxy, fault, step, earlier):
    storage = through(NONE)
    if earlier is not None:
        storage.write("file", earlier)
    proxy.plan = first(9, fault, path=step)
    with pytest.raises(StorageUnusable):
        storage.write("file", LARGE)
    proxy.plan = never
    assert storage.names() == (["file"] if earlier else [])
    if earlier is not None:
        assert storage.read("file") == earlier


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_ctrl_c_during_an_upload_leaves_no_part_of_it(through, proxy, content):
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    storage = through()
    storage.write("file", b"earlier")
    proxy.plan = first(1, "late", method="P")
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        storage.write("file", content)
    interrupt.join()
    signal.signal(signal.SIGINT, usual)
    assert storage.read("file") == content


WRITER = """
import sys
from datasets.storage import open_storage
open_storage(sys.argv[1]).write("file", bytes(range(256)) * (11 * 4096))
"""


@pytest.mark.parametrize(
    "step", [*MULTIPART_STEPS[:1], *(pytest.param(each, marks=pytest.mark.slow) for each in MULTIPART_STEPS[1:])]
)
def test_a_writer_killed_in_the_middle_leaves_nothing_and_the_next_completes(through, proxy, object_store, step):
    storage = through()
    reached = threading.Event()

    def plan(request):
        if step in request.path:
            reached.set()
            return "hang"
        return None

    proxy.plan = plan
    uri = object_store.uri(storage.root.partition("/")[2], endpoint=proxy.endpoint)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, uri], cwd=Path(__file__).parent.parent)
    assert reached.wait(60)
    writer.kill()
    writer.wait()
    proxy.plan = never
    assert storage.names() == []
    storage.write("file", LARGE)
    assert storage.read("file") == LARGE


# A real server that dies


def test_a_server_killed_and_started_again_during_an_upload_loses_nothing(mortal_object_store, tmp_path):
    store, killed, started = mortal_object_store.store, threading.Event(), threading.Event()

    def die(request):
        if "partNumber=2" in request.path and not killed.is_set():
            mortal_object_store.kill()
            killed.set()
        return

    def start_again():
        killed.wait(30)
        mortal_object_store.start()
        started.set()

    with FaultyServer(store.endpoint) as proxy:
        storage = open_storage(store.uri("study", endpoint=proxy.endpoint), QUICK)
        for number in range(3):
            storage.write(f"before-{number}", SHARD)
        proxy.plan = die
        helper = threading.Thread(target=start_again)
        helper.start()
        storage.write("during", SHARD)
        helper.join()
    assert started.is_set()
    after = open_storage(store.uri("study"))
    assert after.names() == ["before-0", "before-1", "before-2", "during"]
    assert all(after.read(name) == SHARD for name in after.names())


def test_a_server_that_stays_dead_is_one_line_and_the_next_call_completes(mortal_object_store):
    storage = open_storage(mortal_object_store.store.uri("study"), Patience(seconds=0.2, first_wait_s=0.1))
    storage.write("before", SHARD)
    mortal_object_store.kill()
    with pytest.raises(StorageUnusable, match="see that the server runs"):
        storage.write("during", SHARD)
    mortal_object_store.start()
    storage = open_storage(mortal_object_store.store.uri("study"), QUICK)
    assert storage.names() == ["before"]
    storage.write("during", SHARD)
    assert storage.read("before") == storage.read("during") == SHARD


def test_a_bucket_that_vanishes_is_one_line(mortal_object_store):
    store = mortal_object_store.store
    storage = open_storage(store.uri("study"), QUICK)
    storage.write("before", SHARD)
    keeper = arrow_fs.S3FileSystem(
        access_key=store.keeper_key, secret_key=store.secret_key, scheme="http", endpoint_override=store.endpoint,
        region="us-east-1", allow_bucket_deletion=True,
    )  # fmt: skip
    keeper.delete_dir(store.bucket)
    for content in (b"small", SHARD):
        with pytest.raises(StorageUnusable, match="bucket"):
            storage.write("during", content)
    with pytest.raises(StorageUnusable, match="there is no bucket"):
        storage.read("before")


# Disks


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("write", ["write", "claim"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system of its own")
def test_a_disk_that_is_full_or_read_only_keeps_what_it_has_and_is_named(small_disk, full, write):
    storage = open_storage(small_disk / "shards")
    storage.write("before", b"x" * 1000)
    if not full:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="No space left" if full else "Read-only") as refusal:
        storage.write("during", bytes(2_000_000)) if write == "write" else claim(storage, "during", bytes(2_000_000))
    assert str(small_disk) in str(refusal.value)
    assert storage.names() == ["before"]
    assert [each.name for each in (small_disk / "shards").iterdir()] == ["before"]


# Patience


def test_waits_double_up_to_the_longest_and_end_in_time(monkeypatch):
    from datasets import retries

    waits, now = [], [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: high)

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(retries.time, "sleep", sleep)

    def fail():
        raise OSError("SLOW_DOWN")

    with pytest.raises(OSError, match="SLOW_DOWN"):
        retries.persist(fail, may_pass=object_storage.may_pass, patience=Patience())
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_impatience_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="waits must be above 0"):
        Patience(first_wait_s=2.0, longest_wait_s=1.0)


# Claims


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "shards")
    return open_storage(request.getfixturevalue("object_store").uri(f"claims/{tmp_path.name}"))


def claims_at_once(storage, contents) -> list[bytes]:
    found, ready = [b""] * len(contents), threading.Barrier(len(contents))

    def run(number):
        own = Storage(**{**vars(storage)})
        ready.wait()
        found[number] = claim(own, "preparation.json", contents[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_first_claim_stays(storage):
    assert claim(storage, "preparation.json", b"first") == b"first"
    assert claim(storage, "preparation.json", b"second") == b"first"
    assert claim(storage, "preparation.json", b"first") == b"first"
    assert storage.read("preparation.json") == b"first"
    assert storage.names() == ["preparation.json"]


def test_a_claim_may_lie_in_a_folder(storage):
    assert claim(storage, "deep/down/claim", b"x") == b"x"
    assert storage.names() == ["deep/down/claim"]


def test_of_claims_made_at_once_all_see_the_same_one(storage):
    for attempt in range(3):
        here = Storage(**{**vars(storage), "root": f"{storage.root}/{attempt}"})
        contents = [f"settings {number % 4}".encode() for number in range(6)]
        found = claims_at_once(here, contents)
        assert len(set(found)) == 1
        assert found[0] in contents
        assert here.read("preparation.json") == found[0]


def test_claims_leave_nothing_behind(storage):
    claims_at_once(storage, [b"a", b"b", b"a"])
    selector = arrow_fs.FileSelector(storage.root, recursive=True)
    files = [item for item in storage.filesystem.get_file_info(selector) if item.type == arrow_fs.FileType.File]
    assert [item.base_name for item in files] == ["preparation.json"]


def test_a_claim_whose_writer_died_blocks_others_in_one_line_but_not_its_like(object_store, tmp_path, monkeypatch):
    storage = open_storage(object_store.uri(f"claims/{tmp_path.name}"))

    def die(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage_module.time, "sleep", die)
        patched.setattr(Storage, "remove", lambda self, name: None)
        claim(storage, "preparation.json", b"theirs")
    with pytest.raises(StorageUnusable, match="delete that file and run the same command again"):
        claim(storage, "preparation.json", b"mine", seconds=0.5)
    assert claim(storage, "preparation.json", b"theirs") == b"theirs"
    assert claim(storage, "preparation.json", b"mine") == b"theirs"


def test_a_disk_without_hard_links_can_be_claimed(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = open_storage(tmp_path)
    assert claims_at_once(storage, [b"same"] * 3) == [b"same"] * 3
    assert claim(storage, "preparation.json", b"other") == b"same"
    assert [each.name for each in tmp_path.iterdir()] == ["preparation.json"]
