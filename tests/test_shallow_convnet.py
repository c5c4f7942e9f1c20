"""braindecode's shallow network behind our head; with the library only, whose absence the command explains."""

import importlib.util
import sys

import pytest
import torch
from model_shapes import BATCH, build, eeg

from datasets.command_line import run_command
from platform.models import ADAPTERS, ARCHITECTURES
from platform.models.shallow_convnet import ShallowConvNetConfig, braindecode_models
from platform.search import main

is_missing = importlib.util.find_spec("braindecode") is None
needs_braindecode = pytest.mark.skipif(is_missing, reason="needs braindecode: pip install 'braindecode>=1.8,<2'")


def test_the_architecture_is_there_exactly_where_the_library_is():
    assert ("shallow_convnet" in ARCHITECTURES) == (not is_missing)
    assert set(ADAPTERS) == {"shallow_convnet"}


def test_a_missing_library_is_one_line_that_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "braindecode", None)
    monkeypatch.setattr("sys.argv", ["search", "shallow_convnet", "--shards", "nowhere"])
    assert run_command(main) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: shallow_convnet needs an optional library (braindecode cannot be imported: ")
    assert "pip install 'eeg2fmri-platform[braindecode]'" in errors[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_filters": 0}, "num_filters must be 1 or more, but got 0"),
        ({"filter_seconds": 0.0}, "filter_seconds must lie above 0 and not above pool_seconds"),
        ({"pool_seconds": 11.0}, "pool_seconds, which must not exceed 10, but got 0.2 and 11.0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), but got 1.0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShallowConvNetConfig(**wrong)


@needs_braindecode
def test_what_is_encoded_is_what_braindecodes_own_network_gives_its_classifier():
    model = build("shallow_convnet", low_rank=True, width=7).eval()
    own = braindecode_models().ShallowFBCSPNet(
        n_chans=4, n_times=3750, n_outputs=5, filter_time_length=25, pool_time_length=250, pool_time_stride=125
    ).eval()  # fmt: skip
    own.load_state_dict(model.read.state_dict(), strict=False)
    given = []
    own.final_layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    own(eeg())
    torch.testing.assert_close(model.encode(eeg()), model.narrow(given[0].flatten(1)))
    assert model.encode(eeg()).shape == (BATCH, 7)
