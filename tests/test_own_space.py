"""A user's own search space and the presets: what is accepted, what is refused in one line, and what a study knows."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
from searching import QUICK, environment, table
from small_study import write_small_study

from datasets.command_line import run_command
from datasets.errors import BadInput
from platform.models import ARCHITECTURES
from platform.models.shape import ModelShape
from platform.proposals.samplers import propose, space_digest
from platform.search import main, parse_arguments, study_settings
from platform.study.own_space import check_space, own_search_space, preset_configurations, search_space
from platform.training.job import split_configuration
from search_spaces.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "your-own-search-space.md"
SMALL = """
DEFAULT = {"width": 8}


def suggest(trial):
    return {"width": trial.suggest_categorical("width", [8, 16]), "num_layers": 1, "output_rank": 4}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes a module into the working directory and gives the name to call it by."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def write(text: str, name: str = "") -> str:
        name = name or f"own_space_{tmp_path.name}_{len(names)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        return f"{name}:suggest"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def checked(reference: str, architecture: str = "fully_connected") -> None:
    check_space(architecture, search_space(architecture, reference))


def refusal(reference: str, architecture: str = "fully_connected") -> str:
    with pytest.raises(BadInput) as refused:
        checked(reference, architecture)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# A user's own


def test_an_own_search_space_begins_with_its_default_and_suggests_what_it_says(written):
    space = own_search_space(written(SMALL))
    first = propose([], "tpe", space, seed=0, number=0)
    assert first.configuration == {"width": 8, "num_layers": 1, "output_rank": 4}
    drawn = [propose([], "random", space, seed=0, number=number).configuration["width"] for number in range(1, 30)]
    assert set(drawn) == {8, 16}


def test_an_own_search_space_needs_no_default(written):
    reference = written(SMALL.replace("DEFAULT", "SOMETHING_ELSE"))
    checked(reference)
    assert propose([], "tpe", own_search_space(reference), seed=0, number=0).params["width"] in (8, 16)


def test_every_architectures_own_space_passes_the_check_of_own_spaces():
    for architecture in ARCHITECTURES:
        check_space(architecture, search_space(architecture))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("my_module", "must be named as MODULE:FUNCTION, but got my_module; for example --search-space my_module:sugg"),
        (":suggest", "must be named as MODULE:FUNCTION, but got :suggest"),
        ("my_module:", "must be named as MODULE:FUNCTION, but got my_module:"),
        ("no_such_module:suggest", "there is no module no_such_module for the search space in"),
        ("no_such.module:suggest", "there is no module no_such.module for the search space in"),
        ("json:suggest", "json has no function suggest; define: def suggest(trial): return {...}"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(reference, expected):
    assert expected in refusal(reference)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("suggest = 3", r"has a suggest that is no function but a int; define: def suggest\(trial\)"),
        ("import no_such_library", "imports no_such_library, which is not installed"),
        ("x = 1\ny = 1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(own_space_.* line 2\)"),
        ("def suggest(trial:\n", r"cannot be imported: SyntaxError: "),
        (
            "def suggest(trial):\n    return trial.suggest_intt('width', 1, 2)",
            r"failed: AttributeError: .*suggest_intt.* \(own_space_.* line 2\)",
        ),
        ("def suggest(trial):\n    return None", "must return a dict, the configuration, but returned NoneType"),
        ("def suggest():\n    return {}", "failed: TypeError: "),
        (
            "def suggest(trial):\n    return {'widht': trial.suggest_int('width', 1, 8)}",
            r"the fully_connected has no \['widht'\]; it has \[.*'width'",
        ),
        (
            "def suggest(trial):\n    return {'width': trial.suggest_int('width', 0, 1)}",
            r"width must be 1 or more, but got 0 \(in width=0\)",
        ),
        (
            "def suggest(trial):\n    return {'activation': 'tanhh'}",
            "activation must be one of .*, but got 'tanhh'",
        ),
        ("def suggest(trial):\n    return {'learning_rate': 1j}", "complex is not JSON serializable"),
        ("DEFAULT = [1]\ndef suggest(trial):\n    return {}", "DEFAULT of .* must be a dict, .*, but is list"),
        (SMALL.replace('"width": 8', '"widht": 8'), "DEFAULT has widht, which the search space does not ask for; it "),
        (SMALL.replace('"width": 8', '"width": 9'), r"failed: ValueError: '9' not in \(8, 16\)"),
        (
            "DEFAULT = {'width': 9}\ndef suggest(trial):\n    return {'width': trial.suggest_int('width', 1, 8)}",
            "DEFAULT holds what the search space does not offer: ",
        ),
        (
            "import itertools\nN = itertools.count()\ndef suggest(trial):\n"
            "    return {'width': trial.suggest_int('width', 1, 100 + next(N))}",
            "must ask for the same parameters whenever it is asked",
        ),
    ],
)  # fmt: skip
def test_a_module_that_is_no_search_space_is_refused_in_a_line_that_names_the_fault(written, text, expected):
    assert re.search(expected, refusal(written(text)))


def test_a_changed_module_has_another_digest_and_the_same_module_the_same(written, tmp_path):
    first = space_digest(own_search_space(written(SMALL, "one_space")))
    sys.modules.pop("one_space")
    assert space_digest(own_search_space(written(SMALL, "one_space"))) == first
    sys.modules.pop("one_space")
    # The parameters stay; only what is made of them is another.
    changed = written(SMALL.replace('"num_layers": 1', '"num_layers": 2'), "other_space")
    assert space_digest(own_search_space(changed)) != first


def test_the_option_and_the_variable_name_the_search_space(written, tmp_path, monkeypatch):
    reference = written(SMALL)
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path))
    monkeypatch.setenv("EEG2FMRI_SHARDS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["search", "fully_connected", "--search-space", reference])
    settings = study_settings(parse_arguments())
    monkeypatch.setattr("sys.argv", ["search", "fully_connected"])
    monkeypatch.setenv("EEG2FMRI_SEARCH_SPACE", reference)
    assert study_settings(parse_arguments()) == settings
    monkeypatch.delenv("EEG2FMRI_SEARCH_SPACE")
    plain = study_settings(parse_arguments()).terms("data")
    terms = settings.terms("data")
    assert terms["search_space"] == reference and terms["space"] != plain["space"]
    assert "search_space" not in plain and "preset" not in plain


def test_a_bad_search_space_is_refused_before_anything_is_read_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EEG2FMRI_HOME", str(tmp_path / "home"))
    arguments = ["transformer", "--shards", str(tmp_path / "nothing"), "--search-space", "suggest"]
    monkeypatch.setattr("sys.argv", ["search", *arguments])
    assert run_command(main) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "MODULE:FUNCTION" in errors[0]
    assert not (tmp_path / "home").exists()


def test_the_example_of_the_page_is_a_search_space(written):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    reference = written(example)
    checked(reference, "fully_connected")
    space = own_search_space(reference)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggest(study.ask()) for _ in range(50)]
    assert {configuration["num_layers"] for configuration in drawn} == {0, 1, 2}
    assert all(("activation" in configuration) == (configuration["num_layers"] > 0) for configuration in drawn)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # seconds; it starts Ray
def test_a_search_of_an_own_space_runs_on_ray_and_refuses_the_same_study_with_a_changed_space(tmp_path):
    shards = str(write_small_study(tmp_path / "shards", volumes=40))
    (tmp_path / "small_space.py").write_text(SMALL)
    command = (
        "fully_connected", "--shards", shards, "--trials", "2", "--racing", "none", *QUICK, "--preset", "published",
        "--search-space", "small_space:suggest", "--no-finalist-scores",
    )  # fmt: skip
    home = tmp_path / "home"

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "platform.search", *command],
            cwd=tmp_path,
            env={**environment(home), "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
            capture_output=True,
            text=True,
            timeout=550,
        )

    done = run()
    assert done.returncode == 0, done.stderr[-3000:]
    records = table(home)["records"]
    configurations = [json.loads(json.dumps(records[f"fully_connected/{n}/COMPLETE/configuration"])) for n in (0, 1)]
    assert configurations[0] == PRESETS["published"]["fully_connected"][0]
    assert configurations[1] == {"width": 8, "num_layers": 1, "output_rank": 4}
    (tmp_path / "small_space.py").write_text(SMALL.replace('"num_layers": 1', '"num_layers": 2'))
    refused = run()
    assert refused.returncode == 2
    assert "was begun under other terms: space was" in refused.stderr
    assert "Traceback" not in refused.stderr


# Presets


ALL_PRESETS = [(name, architecture) for name, found in PRESETS.items() for architecture in found]


@pytest.mark.parametrize(("name", "architecture"), ALL_PRESETS)
def test_a_preset_is_a_configuration_of_its_architecture_with_every_key_said(name, architecture):
    for configuration in preset_configurations(name, architecture):
        model_config, training_config = split_configuration(architecture, configuration)
        assert training_config.output_rank == configuration["output_rank"]
        fields = {field.name for field in dataclasses.fields(model_config)}
        assert fields - set(configuration) <= {"num_mixtures", "refinement_filters"}  # of no meaning there
        check_space(architecture, search_space(architecture, preset=name))


@pytest.mark.parametrize(("name", "architecture"), ALL_PRESETS)
def test_a_study_begins_with_its_preset_then_its_default_and_goes_on_as_it_would_without(name, architecture):
    plain, with_preset = search_space(architecture), search_space(architecture, preset=name)
    number = len(with_preset.presets)
    first = propose([], "tpe", with_preset, seed=0, number=0)
    assert first.configuration == PRESETS[name][architecture][0]
    assert first.params == {}
    default = propose([], "tpe", with_preset, seed=0, number=number)
    assert default.configuration == propose([], "tpe", plain, seed=0, number=0).configuration
    assert space_digest(plain) != space_digest(with_preset)


def test_a_sampler_learns_from_a_history_that_begins_with_a_preset():
    space = search_space("fully_connected", preset="published")
    study = optuna.create_study(direction="maximize")
    for number in range(14):
        proposal = propose(study.trials, "tpe", space, seed=0, number=number)
        study.add_trial(
            optuna.trial.create_trial(params=proposal.params, distributions=proposal.distributions, value=number / 14)
        )
    assert propose(study.trials, "tpe", space, seed=0, number=14).params


def test_an_unknown_preset_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(BadInput) as refused:
        search_space("band_power", preset="published")
    assert str(refused.value) == (
        "no preset published for band_power; --preset knows published (for convolutional, fully_connected, transformer)"
    )


def ds000116(rate_hz: int) -> ModelShape:
    """Return the shape of ds000116's windows and volumes, the mask as large as ours (any voxels of the grid)."""
    grid = (53, 63, 52)
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in grid))
    return ModelShape(
        num_channels=34,
        num_samples=30 * rate_hz,
        num_volumes=15,
        rate_hz=rate_hz,
        grid_shape=grid,
        voxel_indices=everywhere[:64_820],
        basis=None,
        channel_positions=torch.zeros(34, 3),
    )


@pytest.mark.parametrize(
    ("architecture", "num_parameters"),
    [("fully_connected", 12_806_020), ("convolutional", 12_118_452), ("transformer", 49_967_820)],
)
def test_the_published_models_have_as_many_parameters_as_the_page_says(architecture, num_parameters):
    (configuration,) = PRESETS["published"][architecture]
    model_config, _ = split_configuration(architecture, configuration)
    with torch.device("meta"):
        model = ARCHITECTURES[architecture].build(model_config, ds000116(250))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert f"{num_parameters:,}".replace(",", " ") in PAGE.read_text()
