"""The project's package ``platform``, which is also the standard library's module of that name.

Takes nothing; gives the standard module itself, with ``platform.search`` and its siblings as submodules.

The name is taken by the standard library, and torch, numpy, ray, mlflow and pip all call it.  So this package runs the
standard module's own code in its own namespace: every function, global and cache is the real one
(``mock.patch("platform.system")`` works).  ``_platform_first.py`` at the repository's root is the other half: it lets
this package be found where the standard library stands first on ``sys.path``, as it does once installed.
"""

import os as _os
from importlib.machinery import PathFinder as _PathFinder

_stdlib = _PathFinder.find_spec("platform", [_os.path.dirname(_os.__file__)])  # noqa: PTH120 - pathlib is slow to import
__file__ = _stdlib.origin  # type: ignore[union-attr, assignment]  # as inspect and coverage expect
exec(_stdlib.loader.get_code("platform"), globals())  # type: ignore[union-attr]
