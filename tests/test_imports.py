"""The rooms and who may import whom, read from the syntax trees; nothing happens on import."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("datasets", "search_spaces", "platform")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FOREIGN_TO_STANDARD = {"platform", "datasets", "search_spaces"}  # ours, though one bears a standard name
SHARED_WITH_PLATFORM = {
    "datasets.cluster",
    "datasets.shards",
    "datasets.errors",
    "datasets.command_line",
    "datasets.storage",
    "datasets.redaction",
    "datasets.retries",
    "datasets.quality.markup",
}
ALSO = {
    "platform.prediction.new_eeg": {"datasets.eeg", "datasets.bad_channels", "datasets.bids.eeg", "datasets.recording"},
    "platform.tracking.packaging": {"datasets.eeg"},
    "platform.selftest": {"datasets.simulator.shards", "datasets.simulator.study"},
}
"""New EEG must be treated as preparation did, and a model says how; a selftest simulates."""
MLFLOW = {"platform.tracking.runs", "platform.tracking.logged_model"}
PORTABLE = "platform.prediction.portable"
"""A logged model carries it under another package's name."""
ADAPTED = {"platform.models.shallow_convnet": ("braindecode",)}
"""Models of optional libraries, each behind a module of its own."""
# The rooms of platform from top to bottom: each may import those behind it, none those before it or beside it.
LAYERS = (
    {"study"},
    {"report_pages", "tracking"},
    {"evidence"},
    {"training"},
    {"ledger"},
    {"racing", "proposals"},
    {"data"},
    {"scores", "models", "prediction"},
    {"choices"},
)
# What may be called while a module is imported: it makes a constant, and touches nothing outside.
HARMLESS_CALLS = {
    "cast", "dict", "field", "float", "frozenset",
    "int", "len", "list", "max", "min", "partial", "range", "replace", "round", "set", "sorted", "str", "sum",
    "enumerate", "tuple", "zip",
    "logging.getLogger", "os.path.join", "re.compile", "struct.Struct",
    "math.exp", "math.log", "math.log2", "math.pi", "math.sqrt",
    "np.arange", "np.array", "np.asarray", "np.diag", "np.dtype", "np.eye", "np.finfo", "np.float32", "np.linspace",
    "np.log", "np.sqrt",
    "pa.field", "pa.float32", "pa.float64", "pa.int16", "pa.int32", "pa.int64", "pa.list_", "pa.schema", "pa.string",
}  # fmt: skip
HARMLESS_METHODS = {
    "absolute",
    "encode",
    "items",
    "join",
    "keys",
    "removesuffix",
    "resolve",
    "setflags",
    "split",
    "values",
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(path: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere; ``from a import b`` gives a.b where that is a module."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            is_whole = node.level == 0 or module_name(path) == PORTABLE
            assert is_whole, f"{name_of(path)}:{node.lineno} imports relatively; write the whole name"
            found |= {imported(str(node.module), alias.name) for alias in node.names}
    return found


def imported(module: str, name: str) -> str:
    below = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if below.is_dir() or below.with_suffix(".py").exists() else module


def is_standard(name: str) -> bool:
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names and top not in FOREIGN_TO_STANDARD


def outside(path: Path, *allowed: str) -> list[str]:
    """Return the imports of a module that are neither standard nor allowed."""
    return sorted(
        name
        for name in imports_of(path)
        if not is_standard(name) and not any(name == each or name.startswith(f"{each}.") for each in allowed)
    )


def of_room(name: str) -> list[Path]:
    return sorted((ROOT / name).rglob("*.py"))


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@each_module
def test_every_module_opens_with_a_docstring(path):
    assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", of_room("datasets"), ids=name_of)
def test_datasets_import_neither_platform_nor_search_spaces(path):
    assert [name for name in imports_of(path) if name.partition(".")[0] in ("platform", "search_spaces")] == []


@pytest.mark.parametrize("path", of_room("search_spaces"), ids=name_of)
def test_search_spaces_import_optuna_only(path):
    assert outside(path, "optuna", "search_spaces") == []


@pytest.mark.parametrize("path", of_room("platform/models"), ids=name_of)
def test_models_import_torch_only(path):
    adapted = ADAPTED.get(module_name(path), ())
    assert outside(path, "torch", "platform.models", "platform.choices.activations", *adapted) == []


@pytest.mark.parametrize("path", of_room("platform"), ids=name_of)
def test_platform_knows_of_datasets_only_the_shards_and_what_every_command_needs(path):
    known = SHARED_WITH_PLATFORM | ALSO.get(module_name(path), set())
    assert [name for name in imports_of(path) if name.partition(".")[0] == "datasets" and name not in known] == []


@each_module
def test_only_tracking_knows_mlflow(path):
    knows = any(name.partition(".")[0] == "mlflow" for name in imports_of(path))
    assert not knows or module_name(path) in MLFLOW


def test_every_room_of_platform_has_its_place():
    folders = {path.parent.name for path in (ROOT / "platform").glob("*/*.py")}
    assert set().union(*LAYERS) == folders


@pytest.mark.parametrize("path", [path for path in of_room("platform") if path.parent.name != "platform"], ids=name_of)
def test_no_room_imports_one_above_or_beside_it(path):
    room = path.parent.name
    rank = next(position for position, rooms in enumerate(LAYERS) if room in rooms)
    barred = {f"platform.{each}" for each in set().union(*LAYERS[: rank + 1]) - {room}}
    assert [name for name in imports_of(path) if ".".join(name.split(".")[:2]) in barred] == []


# What happens on import


def executed_on_import(body: list[ast.stmt]) -> Iterator[ast.expr]:
    """Yield the expressions that importing a module evaluates, without decorators and the bodies of functions."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (*node.args.defaults, *(each for each in node.args.kw_defaults if each))
        elif isinstance(node, ast.ClassDef):
            yield from executed_on_import(node.body)
        elif isinstance(node, ast.If):
            if not is_main_guard(node):
                yield node.test
                yield from executed_on_import([*node.body, *node.orelse])
        else:
            yield from (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def is_main_guard(node: ast.If) -> bool:
    return ast.unparse(node.test) == "__name__ == '__main__'"


def calls_in(expression: ast.expr) -> Iterator[ast.Call]:
    """Yield the calls that evaluating an expression makes; a lambda's body is not evaluated."""
    if isinstance(expression, ast.Lambda):
        return
    if isinstance(expression, ast.Call):
        yield expression
    for child in ast.iter_child_nodes(expression):
        if isinstance(child, ast.expr):
            yield from calls_in(child)
        elif isinstance(child, ast.keyword):
            yield from calls_in(child.value)
        elif isinstance(child, ast.comprehension):
            yield from calls_in(child.iter)


def is_harmless(call: ast.Call, own: set[str]) -> bool:
    name = ast.unparse(call.func)
    is_method = isinstance(call.func, ast.Attribute) and call.func.attr in HARMLESS_METHODS
    is_class = name.isidentifier() and name[0].isupper()  # settings by default
    return is_method or is_class or name in own or name.removeprefix("dataclasses.") in HARMLESS_CALLS


@pytest.mark.parametrize("path", [path for path in MODULES if path != ROOT / "platform" / "__init__.py"], ids=name_of)
def test_nothing_happens_on_import(path):
    body = tree_of(path).body
    own = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}  # they fill tables
    calls = [call for expression in executed_on_import(body) for call in calls_in(expression)]
    assert [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if not is_harmless(call, own)] == []


@each_module
def test_no_loop_runs_on_import(path):
    loops = (ast.For, ast.While, ast.With, ast.Try, ast.Delete, ast.Assert)
    assert [node.lineno for node in tree_of(path).body if isinstance(node, loops)] == []
