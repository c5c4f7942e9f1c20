"""Make ``import platform`` find this project's package; why there is one is told in ``platform/__init__.py``.

Takes ``sys.path``; gives a finder that comes before all others.  The standard library stands before site-packages, so
an installed package called ``platform`` is never found by itself.  ``_platform_first.pth``, installed beside this
module, imports it whenever Python starts; the root ``conftest.py`` does so in a bare checkout.  It therefore imports
next to nothing: pathlib alone would add half of what starting Python costs.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

_MARK = os.path.join("platform", "search.py")  # noqa: PTH118 - tells our folder from any other `platform`


class _PlatformFinder:
    """Finds ``platform`` where this project is, in the order of ``sys.path``."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "platform":
            homes = [entry for entry in sys.path if os.path.isfile(os.path.join(entry, _MARK))]  # noqa: PTH113, PTH118
            return PathFinder.find_spec(name, homes) if homes else None
        if name.startswith("platform.") and not path:
            return _find_below_standard_module(name)
        return None


def _find_below_standard_module(name: str) -> ModuleSpec | None:
    """Find a submodule although ``platform`` was imported before this finder, and so is the standard module."""
    package = _PlatformFinder.find_spec("platform")
    if package is None or package.submodule_search_locations is None:
        return None
    sys.modules["platform"].__path__[:] = package.submodule_search_locations
    return PathFinder.find_spec(name, package.submodule_search_locations)


def install() -> None:
    """Put the finder first, and make a package of the standard module where it is imported already."""
    if _PlatformFinder not in sys.meta_path:
        sys.meta_path.insert(0, _PlatformFinder)
    loaded = sys.modules.get("platform")
    if loaded is not None and not hasattr(loaded, "__path__"):
        loaded.__path__ = []  # filled by the finder at the first import of a submodule


install()
