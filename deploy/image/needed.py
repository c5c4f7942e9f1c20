"""Print what the image needs besides the project itself, one requirement a line.

Takes pyproject.toml; gives its dependencies, and what MLflow's server and PostgreSQL ask for.
"""

import sys
import tomllib
from pathlib import Path

SERVER = ("boto3", "mlflow[auth]")
"""MLflow's server keeps artifacts on S3, and accounts."""


def needed(pyproject: str) -> list[str]:
    """Return the requirements of the image, from the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["postgresql"], *SERVER]


if __name__ == "__main__":
    print("\n".join(needed(Path(sys.argv[1]).read_text(encoding="utf-8"))))
