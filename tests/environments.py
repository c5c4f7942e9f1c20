"""Virtual environments that borrow this one's libraries: with the project's wheel installed, or without the project.

Takes a folder; gives a Python.  Nothing is downloaded, and no library is installed twice.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(**changes: str) -> dict[str, str]:
    """Return the environment without anything that changes how Python or Ray starts, with these changes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))}
    return {**kept, **changes}


def run(*words: str | Path, cwd: Path = ROOT, **changes: str) -> str:
    """Run a command that must succeed and return what it printed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def borrowing_python(folder: Path, *, with_wheel: bool) -> Path:
    """Return the Python of a new virtual environment; the project is in it only as its wheel, or not at all."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    if with_wheel:
        run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
        wheel = next(folder.glob("*.whl"))
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    (site / "zz_borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # read after ours
    return python
