"""A real browser: headless Chromium, and what it complains of while it shows a page.

Takes the Chromium of this machine; gives a page to look at, and a list of what went wrong on it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
HERE = ("http://127.0.0.1:", "file:", "data:", "blob:", "about:")
PATIENCE_MS = 120_000
OF_MLFLOW = ("users/current", "ResizeObserver loop")
"""What MLflow's own pages complain of: a server without accounts is asked who is there; a table is resized twice."""


@contextmanager
def browser(*, width: int = 1500, height: int = 900, forgiven: tuple[str, ...] = ()) -> Iterator[tuple[Any, list[str]]]:
    """Open a browser; gives a page, and a list that fills with its errors and with requests that leave the machine."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=PATIENCE_MS)
        page = started.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        yield page, complaints_of(page, forgiven)
        started.close()


def complaints_of(page: Any, forgiven: tuple[str, ...]) -> list[str]:  # noqa: ANN401 - playwright's
    """Return a list to which whatever goes wrong on a page is added."""
    complaints: list[str] = []

    def complain(said: str) -> None:
        if not any(each in said for each in forgiven):
            complaints.append(said)

    def of_console(message: Any) -> None:  # noqa: ANN401 - playwright's
        if message.type == "error":
            complain(f"{message.text} ({message.location.get('url', '')})")

    page.on("console", of_console)
    page.on("pageerror", lambda error: complain(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(HERE) else complaints.append(f"asks {asked.url}"))
    return complaints


def is_drawn(image: Any) -> bool:  # noqa: ANN401 - playwright's
    """Tell whether an image is there to be seen: loaded, and larger than a dot."""
    return bool(image.evaluate("each => each.complete && each.naturalWidth > 100 && each.clientWidth > 100"))
