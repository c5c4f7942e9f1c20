"""What the documents say: commands exist with their options, links lead somewhere, quoted messages are the code's."""

import ast
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
FROM_ELSEWHERE = ("No module named platform.search", "InvalidAuthToken")
"""Messages of Python and Ray."""


def commands_in(text: str) -> list[str]:
    """Return each ``python -m ...`` in the code blocks of a Markdown text, up to what a shell would end it with."""
    blocks = "\n".join(re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    found = [
        re.search(r"python3? -m (?:datasets|platform|search_spaces|benchmarks)\b[^|;&#>)`]*", line) for line in lines
    ]
    return sorted({match[0].strip() for match in found if match})


def targets_in(text: str) -> list[str]:
    """Return each target of ``make`` in the code blocks of a Markdown text."""
    blocks = "\n".join(re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL))
    return sorted(set(re.findall(r"^ *make ([a-z-]+)", blocks, flags=re.MULTILINE)))


COMMANDS = {command: path.name for path in DOCUMENTS for command in commands_in(path.read_text(encoding="utf-8"))}
MODULES = sorted({shlex.split(command)[2] for command in COMMANDS} - {"benchmarks"})
WITH_OPTIONS = sorted({shlex.split(command)[2] for command in COMMANDS if " --" in command} - {"benchmarks"})


# One process for all of them: what they import is most of the time.
ALL_HELPS = """
import contextlib, io, json, runpy, sys

helps = {}
for module in sys.argv[1:]:
    sys.argv, said = [module, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        helps[module] = [end.code, said.getvalue()]
print(json.dumps(helps))
"""


@functools.cache
def all_helps() -> dict[str, tuple[int, str]]:
    """Return with which status every command answers ``--help``, and what it says of itself."""
    run = subprocess.run(
        [sys.executable, "-c", ALL_HELPS, *WITH_OPTIONS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def help_of(module: str) -> str:
    """Return what a command says of itself."""
    status, said = all_helps()[module]
    assert status == 0
    return said


def test_commands_are_found_in_code_blocks_only():
    text = "`python -m datasets.x`\n```\nray job submit -- python -m platform.search cnn \\\n  --seed 1  # why\n```\n"
    assert [shlex.split(command) for command in commands_in(text)] == [
        ["python", "-m", "platform.search", "cnn", "--seed", "1"]
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_command_that_a_document_shows_exists_with_its_options(module):
    shown = [command for command in COMMANDS if shlex.split(command)[2] == module]
    assert shown
    for command in shown:
        options = [word.partition("=")[0] for word in shlex.split(command)[3:] if word.startswith("--")]
        unknown = [option for option in options if option not in help_of(module)]
        assert unknown == [], f"{COMMANDS[command]} shows {command}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_target_of_make_that_a_document_shows_exists(document):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(targets_in(document.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_message_under_troubleshooting_is_one_of_the_code():
    rows = re.findall(r"^\| `([^`]+)`", TROUBLESHOOTING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = texts_in_the_code()
    assert len(rows) > 20
    assert [row for row in rows if row not in FROM_ELSEWHERE and not any(row in text for text in texts)] == []


def texts_in_the_code() -> list[str]:
    """Return every text of the program, each place that is filled in as a question mark."""
    sources = [path for room in ("datasets", "platform", "search_spaces") for path in (ROOT / room).rglob("*.py")]
    return [
        text_of(node)
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, (ast.JoinedStr, ast.Constant))
    ]


def text_of(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
