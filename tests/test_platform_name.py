"""The package ``platform`` is the standard module of that name, wherever and however Python is started."""

import ast
import importlib.util
import os
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from environments import borrowing_python, run

ROOT = Path(__file__).resolve().parent.parent
PROBE = (
    "import platform, platform.data.folds as folds, sys; "
    "assert platform.system() and platform.data.folds is folds; "
    "print(platform.system(), folds.__file__)"
)


def standard_namespace() -> set[str]:
    """Return the names that the standard module holds once all its functions ran."""
    spec = PathFinder.find_spec("platform", [sysconfig.get_path("stdlib")])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = set(vars(module))
    # What its functions import lazily and their names of variables cannot collide; what it imports at the top does.
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return names | {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the Python of a fresh virtual environment with our wheel in it; libraries are borrowed, not installed."""
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    return borrowing_python(tmp_path_factory.mktemp("installed"), with_wheel=True)


# The package is the module


def test_it_holds_all_that_the_standard_module_holds():
    import platform

    code = "import platform; print(*sorted(vars(platform)))"
    plain = run(sys.executable, "-I", "-S", "-c", code, cwd=Path("/")).split()
    assert set(plain) <= set(vars(platform))


def test_no_module_takes_a_name_that_the_standard_module_holds():
    ours = {path.stem for path in (ROOT / "platform").iterdir() if path.suffix == ".py" or path.is_dir()}
    held = {name for name in standard_namespace() if not name.startswith("__")}
    assert {"node", "machine", "system", "sys"} <= held
    assert ours & held == set()


def test_it_prints_what_the_standard_module_prints():
    plain = run(sys.executable, "-I", "-S", "-m", "platform", cwd=Path("/"))
    assert plain.strip()
    assert run(sys.executable, "-m", "platform") == plain
    assert run(sys.executable, "-m", "platform", "terse") == run(
        sys.executable, "-I", "-S", "-m", "platform", "terse", cwd=Path("/")
    )


@pytest.mark.skipif(importlib.util.find_spec("test.test_platform") is None, reason="this Python ships no own tests")
def test_it_passes_the_tests_that_python_has_for_it():
    code = (
        "import platform, unittest; assert hasattr(platform, '__path__'); "
        "unittest.main('test.test_platform', argv=['x', '-q'])"
    )
    run(sys.executable, "-c", code)


def test_a_function_can_be_replaced_in_a_test(monkeypatch):
    import platform

    monkeypatch.setattr("platform.system", lambda: "Replaced")
    assert platform.system() == "Replaced"


def test_an_absent_submodule_is_an_import_error_with_its_name():
    with pytest.raises(ModuleNotFoundError, match=r"platform\.nothing"):
        importlib.import_module("platform.nothing")


# How Python may be started


@pytest.mark.parametrize("options", [[], ["-OO"], ["-W", "error"], ["-B", "-s"]], ids=" ".join)
def test_the_checkout_works_without_being_installed(options):
    assert str(ROOT / "platform") in run(sys.executable, *options, "-c", PROBE)


def test_a_standard_module_that_was_imported_before_becomes_the_package(tmp_path):
    code = (
        f"import sys, platform; before = platform.system; sys.path.insert(0, {str(ROOT)!r}); import _platform_first; "
        "import platform.__main__; assert platform.system is before and platform.__main__"
    )
    run(sys.executable, "-S", "-c", code, cwd=tmp_path)


def test_another_folder_called_platform_is_left_alone(tmp_path):
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "rails.py").write_text("")
    printed = run(sys.executable, "-S", "-c", "import platform; print(platform.system())", cwd=tmp_path)
    assert printed.strip() == os.uname().sysname


def test_pytest_works_as_a_script_and_as_a_module(tmp_path):
    test = "tests/test_platform_name.py::test_a_function_can_be_replaced_in_a_test"
    options = ["-q", "-p", "no:cacheprovider", test]
    assert "1 passed" in run(Path(sys.executable).with_name("pytest"), *options)
    assert "1 passed" in run(sys.executable, "-m", "pytest", *options)


SPAWN = """
import multiprocessing
import platform.data.folds

def child(queue):
    import platform
    queue.put((platform.system(), platform.data.folds.__file__))

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(*queue.get(timeout=60))
    process.join()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_process_finds_it(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SPAWN.format(method=method))
    assert str(ROOT / "platform") in run(sys.executable, script, cwd=tmp_path, PYTHONPATH=str(ROOT))


RAY = f"""
import ray

@ray.remote
def child():
    import platform
    import platform.data.folds
    return platform.system(), platform.data.folds.__file__

ray.init(
    address="local",
    num_cpus=1,
    include_dashboard=False,
    log_to_driver=False,
    object_store_memory=100_000_000,
    runtime_env={{"env_vars": {{"PYTHONPATH": {str(ROOT)!r}}}}},
)
print(*ray.get(child.remote()))
ray.shutdown()
"""


def test_a_ray_worker_of_a_bare_checkout_finds_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RAY)
    shown = run(sys.executable, script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert str(ROOT / "platform") in shown


# Installed


def test_the_installed_package_wins_from_any_folder(installed, tmp_path):
    shown = run(installed, "-c", PROBE, cwd=tmp_path)
    assert str(installed.parent.parent) in shown


@pytest.mark.parametrize("options", [["-I"], ["-P"], ["-E"], ["-OO"], ["-W", "error"]], ids=" ".join)
def test_the_installed_package_wins_under_every_option_of_python(installed, tmp_path, options):
    system, found = run(installed, *options, "-c", PROBE, cwd=tmp_path).split()
    assert system == os.uname().sysname
    assert Path(found).is_relative_to(installed.parents[1])


def test_what_is_installed_runs_as_a_module(installed, tmp_path):
    assert run(installed, "-m", "platform", cwd=tmp_path) == run(sys.executable, "-I", "-S", "-m", "platform")
    if (ROOT / "platform" / "search.py").exists():
        assert "ARCHITECTURE" in run(installed, "-m", "platform.search", "--help", cwd=tmp_path).upper()


def test_starting_python_imports_next_to_nothing_more(installed, tmp_path):
    code = "import sys; print(*sys.modules)"
    without = set(run(installed, "-S", "-c", code, cwd=tmp_path).split())
    loaded = set(run(installed, "-c", code, cwd=tmp_path).split()) - without
    assert not {"platform", "pathlib", "typing", "re", "subprocess"} & loaded
