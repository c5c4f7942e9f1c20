"""Let the tests run in a bare checkout: the project's folders are importable, ``platform`` among them.

pytest has imported the standard ``platform`` before this file; ``_platform_first`` makes a package of it.
"""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import _platform_first  # noqa: E402, F401 - only importable once the checkout is on sys.path
