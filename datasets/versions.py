"""Which versions of other packages made shards: a change of them is shown and never refused.

Takes nothing, or what several subjects were made by; gives versions by package.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

COMPUTING = ("dipy", "mne", "nibabel", "nilearn", "numpy", "pyarrow", "scipy")
"""The packages on which the numbers in shards depend."""


def package_versions() -> dict[str, str]:
    """Return the version of each of COMPUTING that this process has."""
    return {name: _version(name) for name in COMPUTING}


def united(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return for each package its version, or all of them in order where they differ, as ``1.0, 2.0``."""
    names = sorted({name for each in versions for name in each})
    found = {name: {each[name] for each in versions if name in each} for name in names}
    return {name: ", ".join(sorted(several)) for name, several in found.items()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
