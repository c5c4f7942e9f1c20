"""The search space of a study: an architecture's own, or one that a user wrote; and the presets that it begins with.

Takes ``my_module:suggest`` and the names of an architecture and of a preset; gives a search space whose suggestions the
architecture accepts.  The module is imported by the driver alone: workers are handed configurations.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import create_trial

from datasets.errors import BadInput
from platform.proposals.samplers import propose, space_digest, study_in_memory
from platform.training.job import split_configuration
from search_spaces import SEARCH_SPACES, SearchSpace
from search_spaces.presets import PRESETS

NUM_TRIED = 32
"""Random suggestions that a user's own search space must give without fault before a study begins."""
_EXAMPLE = "--search-space my_module:suggest"


def search_space(architecture: str, own: str = "", preset: str = "") -> SearchSpace:
    """Return an architecture's search space, or a user's own, with the configurations of a preset before it.

    Raises:
        BadInput: where there is no such function or preset, in a line that says what to write.
    """
    space = own_search_space(own) if own else SEARCH_SPACES[architecture]
    return dataclasses.replace(space, presets=preset_configurations(preset, architecture)) if preset else space


def preset_configurations(name: str, architecture: str) -> tuple[dict[str, Any], ...]:
    """Return a preset's configurations of an architecture; BadInput where it has none."""
    known = {preset: sorted(found) for preset, found in PRESETS.items()}
    if architecture not in known.get(name, ()):
        raise BadInput(
            f"no preset {name} for {architecture}; --preset knows "
            + ", ".join(f"{preset} (for {', '.join(which)})" for preset, which in sorted(known.items()))
        )
    return PRESETS[name][architecture]


def own_search_space(reference: str) -> SearchSpace:
    """Return the search space of ``module:function``, found in the working directory or on PYTHONPATH.

    The module's ``DEFAULT``, where it has one, holds the parameters of the first trial.
    """
    module_name, colon, function = reference.partition(":")
    if not (colon and module_name and function):
        raise BadInput(
            f"a search space must be named as MODULE:FUNCTION, but got {reference}; for example {_EXAMPLE} for the "
            "function suggest in my_module.py"
        )
    module = _imported(module_name)
    found = getattr(module, function, None)
    if not callable(found):
        problem = _not_callable(module, function)
        raise BadInput(f"{module_name} has {problem}; define: def {function}(trial): return {{...}}")
    default = getattr(module, "DEFAULT", {})
    if not isinstance(default, dict):
        raise BadInput(
            f"DEFAULT of {module_name} must be a dict, the first trial's parameters, but is {type(default).__name__}"
        )
    return SearchSpace(suggest=_guarded(found, module), default=default, source=_source_digest(module))


def check_space(architecture: str, space: SearchSpace) -> None:
    """Refuse a search space that suggests what the architecture is not; presets are checked, too.

    Raises:
        BadInput: naming the field, its value or the parameter.
    """
    for configuration in space.presets:
        checked_configuration(architecture, configuration)
    _check_first(space)
    if not space.source:
        return
    digest = space_digest(space)
    study = study_in_memory(RandomSampler(seed=1))
    for _ in range(NUM_TRIED):
        checked_configuration(architecture, space.suggest(study.ask()))
    if space_digest(space) != digest:
        raise BadInput(
            "a search space must ask for the same parameters whenever it is asked, but this one does not: let it "
            "depend on nothing but the trial"
        )


def checked_configuration(architecture: str, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration that an architecture accepts and that can be stored; BadInput names what cannot be."""
    try:
        json.dumps(configuration)
        split_configuration(architecture, configuration)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in configuration.items())
        raise BadInput(f"the search space suggests what {architecture} is not: {error} (in {shown})") from error
    return configuration


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise BadInput(f"the search space's module {name} imports {error.name}, which is not installed") from error
        raise BadInput(
            f"there is no module {name} for the search space in {here} or on PYTHONPATH; write {name}.py there, or "
            f"name another: {_EXAMPLE}"
        ) from error
    except Exception as error:  # whatever the user's own code raises
        raise BadInput(f"the search space's module {name} cannot be imported: {_where(error, name)}") from error


def _not_callable(module: ModuleType, function: str) -> str:
    if not hasattr(module, function):
        return f"no function {function}"
    return f"a {function} that is no function but a {type(getattr(module, function)).__name__}"


def _guarded(suggest: Callable[[optuna.Trial], Any], module: ModuleType) -> Callable[[optuna.Trial], dict[str, Any]]:
    """Return a function that answers with a configuration, or with a line that says where the user's own went wrong."""
    name = f"{module.__name__}:{getattr(suggest, '__name__', 'suggest')}"

    def guarded(trial: optuna.Trial) -> dict[str, Any]:
        try:
            configuration = suggest(trial)
        except Exception as error:  # whatever the user's own code raises
            raise BadInput(f"the search space {name} failed: {_where(error, module.__name__)}") from error
        if not isinstance(configuration, dict):
            raise BadInput(
                f"the search space {name} must return a dict, the configuration, but returned "
                f"{type(configuration).__name__}"
            )
        return configuration

    return guarded


def _where(error: Exception, module_name: str) -> str:
    """Return an error in one line, with the last line of the user's module that it came from."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    file = module_name.rpartition(".")[2] + ".py"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file]
    return f"{what} ({file} line {lines[-1]})" if lines else what


def _source_digest(module: ModuleType) -> str:
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError) as error:
        raise BadInput(
            f"the search space's module {module.__name__} has no source file: write it as one, because its text is "
            "part of what a study is"
        ) from error


def _check_first(space: SearchSpace) -> None:
    """Refuse a default that suggest does not ask for, or that is outside of what it asks for."""
    with warnings.catch_warnings():  # Optuna warns of what is refused below
        warnings.simplefilter("ignore", UserWarning)
        first = propose([], "random", space, seed=0, number=len(space.presets))
    unasked = sorted(set(space.default) - set(first.params))
    if unasked:
        raise BadInput(
            f"DEFAULT has {', '.join(unasked)}, which the search space does not ask for; it asks for "
            f"{', '.join(sorted(first.params))}"
        )
    try:
        create_trial(params=first.params, distributions=first.distributions, value=0.0)
    except ValueError as error:
        raise BadInput(f"DEFAULT holds what the search space does not offer: {error}") from error
