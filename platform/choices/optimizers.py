"""The optimizers that a trial may choose from.

Takes parameters, a learning rate and a weight decay; gives an optimizer.  Some train other weights than those to score:
``averaged`` is a context with the latter, ``settle`` leaves them for good.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from schedulefree import AdamWScheduleFree
from torch import nn, optim

BuildOptimizer = Callable[[Iterable[nn.Parameter], float, float], optim.Optimizer]
"""From parameters, learning rate and weight decay to an optimizer."""

MOMENTUM = 0.9


def _sgd(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Descend along the gradient."""
    return optim.SGD(parameters, learning_rate, weight_decay=weight_decay)


def _momentum(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Descend with momentum (Polyak 1964)."""
    return optim.SGD(parameters, learning_rate, momentum=MOMENTUM, weight_decay=weight_decay)


def _nesterov(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Descend with Nesterov's momentum (Sutskever et al. 2013)."""
    return optim.SGD(parameters, learning_rate, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Scale every parameter's step by its gradients' size (Kingma and Ba 2015); weight decay is added to the loss."""
    return optim.Adam(parameters, learning_rate, weight_decay=weight_decay)


def _adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step as Adam does, and shrink the weights apart from it (Loshchilov and Hutter 2019)."""
    return optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)


def _nadam(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step as Adam does with Nesterov's momentum (Dozat 2016), weights shrunk apart from it."""
    return optim.NAdam(parameters, learning_rate, weight_decay=weight_decay, decoupled_weight_decay=True)


def _radam(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step as Adam does, its first steps rectified (Liu et al. 2020), weights shrunk apart from it."""
    return optim.RAdam(parameters, learning_rate, weight_decay=weight_decay, decoupled_weight_decay=True)


def _rmsprop(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Scale every parameter's step by its recent gradients' size (Tieleman and Hinton 2012)."""
    return optim.RMSprop(parameters, learning_rate, weight_decay=weight_decay)


def _adagrad(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Scale every parameter's step by the size of all its gradients so far (Duchi et al. 2011)."""
    return optim.Adagrad(parameters, learning_rate, weight_decay=weight_decay)


def _schedule_free(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step as AdamW does and score the average of all weights so far (Defazio et al. 2024): it needs no schedule."""
    optimizer = AdamWScheduleFree(parameters, learning_rate, weight_decay=weight_decay)
    optimizer.train()
    return optimizer


def _muon(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step along the nearest orthogonal matrix to the momentum of each matrix (Jordan et al. 2024); AdamW for the rest.

    Steps are scaled to the size of AdamW's, so that learning rates mean the same.
    """
    known = list(parameters)
    matrices = [parameter for parameter in known if parameter.ndim == 2]  # noqa: PLR2004
    others = [parameter for parameter in known if parameter.ndim != 2]  # noqa: PLR2004
    parts: list[optim.Optimizer] = []
    if matrices:
        scaling = "match_rms_adamw"
        parts.append(optim.Muon(matrices, learning_rate, weight_decay=weight_decay, adjust_lr_fn=scaling))
    if others:
        parts.append(_adamw(others, learning_rate, weight_decay))
    return Together(parts)


class Together(optim.Optimizer):
    """Several optimizers, each of parameters of its own, that step as one; they share their groups with it."""

    def __init__(self, parts: Iterable[optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let every part take its step."""
        del closure
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the parts' states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the parts' states."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


OPTIMIZERS: dict[str, BuildOptimizer] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "adam": _adam,
    "adamw": _adamw,
    "nadam": _nadam,
    "radam": _radam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "schedule_free": _schedule_free,
    "muon": _muon,
}


@contextmanager
def averaged(optimizer: optim.Optimizer) -> Iterator[None]:
    """Let the weights be those to score, where an optimizer trains others than it scores; those again afterwards."""
    if not isinstance(optimizer, AdamWScheduleFree):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def settle(optimizer: optim.Optimizer) -> None:
    """Leave the weights to score in the parameters; no step may follow."""
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.eval()
