"""``python -m platform``: the standard module's command line."""

import runpy

import platform

if __name__ == "__main__":
    runpy.run_path(platform.__file__, run_name="__main__")
