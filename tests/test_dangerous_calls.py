"""What nobody may write here: words handed to a shell, code out of text, pickles of whoever wrote a file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from searching import ROOT

MODULES = sorted(
    path
    for room in ("platform", "datasets", "search_spaces", "deploy", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
)
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
FROM_TEXT = {"eval", "exec", "compile", "__import__"}
THE_STANDARD_MODULE_S_OWN_CODE = ROOT / "platform" / "__init__.py"
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def calls_in(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name of each function that is called, and its keyword arguments."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords if each.arg}


def dangers_in(text: str) -> list[str]:
    """Return what a module does that it may not."""
    found = []
    for name, told in calls_in(text):
        if name in SHELLS or told.get("shell", "False") != "False":
            found.append(f"{name}: words reach a shell")
        if name in FROM_TEXT:
            found.append(f"{name}: code out of text")
        if name == "torch.load" and told.get("weights_only") != "True":
            found.append("torch.load: without weights_only=True")
        if name.endswith(".load") and told.get("allow_pickle", "False") != "False":
            found.append(f"{name}: with allow_pickle")
    imported = [
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    ]
    imported += [str(node.module) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return found + [f"imports {name}" for name in imported if name.partition(".")[0] in PICKLES]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_hands_words_to_a_shell_runs_text_or_loads_pickles(path: Path):
    allowed = ["exec: code out of text"] if path == THE_STANDARD_MODULE_S_OWN_CODE else []
    assert dangers_in(path.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("subprocess.run(words, shell=True)", 1),
        ("os.system(words)", 1),
        ("eval(words)", 1),
        ("model.eval(); pattern = re.compile(words)", 0),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("np.load(path, allow_pickle=True)", 1),
        ("np.load(path, allow_pickle=False)", 0),
        ("import pickle", 1),
        ("from joblib import load", 1),
        ("subprocess.run(words)", 0),
    ],
)
def test_what_may_not_be_written_is_seen(text, number):
    assert len(dangers_in(text)) == number
