"""The list of what the project is made of names every package of the lock file, and the lock file fixes each."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from searching import ROOT

LOCKED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;+]+)")
TOOLS = ROOT / ".audit" / ".installed"


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Return the version of every package in the lock file; each line must fix one."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    matches = [LOCKED.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, matches, strict=True) if match is None] == []
    return {normalised(match[1]): match[2] for match in matches if match is not None}


def test_the_lock_file_fixes_one_version_of_each_package_that_the_project_names():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*told["project"]["dependencies"], *told["dependency-groups"]["dev"]]
    named = {normalised(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in requirements}
    assert named - locked().keys() == set()


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS.exists(), reason="needs the tools that `make sbom` installs once")
def test_the_list_names_every_locked_package_with_its_version_and_is_the_same_each_time(tmp_path):
    first, second = (written(tmp_path / name) for name in ("first.json", "second.json"))
    components = {normalised(each["name"]): each["version"] for each in json.loads(first)["components"]}
    assert components == locked()
    assert json.loads(first)["metadata"]["component"]["name"] == "eeg2fmri-platform"
    assert first == second


def written(path: Path) -> str:
    done = subprocess.run(["make", "sbom", f"SBOM={path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path.read_text()
