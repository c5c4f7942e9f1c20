"""The version of the code that made a score."""

from importlib import metadata

DISTRIBUTION = "eeg2fmri-platform"


def code_version() -> str:
    """Return the installed distribution's version, or "checkout" where the code runs uninstalled."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "checkout"
