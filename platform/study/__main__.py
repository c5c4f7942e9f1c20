"""``python -m platform.study``: list, show, export and delete studies."""

from datasets.command_line import run_command
from platform.study.tables import main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
