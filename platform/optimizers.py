"""The optimizers that a trial may choose from."""

from collections.abc import Callable, Iterable

from torch import nn, optim

BuildOptimizer = Callable[[Iterable[nn.Parameter], float, float], optim.Optimizer]
"""From parameters, learning rate and weight decay to an optimizer."""


def _nesterov(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Descend with Nesterov's momentum (Sutskever et al. 2013)."""
    return optim.SGD(parameters, learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Scale every parameter's step by its gradients' size (Kingma and Ba 2015); weight decay is added to the loss."""
    return optim.Adam(parameters, learning_rate, weight_decay=weight_decay)


def _adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> optim.Optimizer:
    """Step as Adam does, and shrink the weights apart from it (Loshchilov and Hutter 2019)."""
    return optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)


OPTIMIZERS: dict[str, BuildOptimizer] = {"nesterov": _nesterov, "adam": _adam, "adamw": _adamw}
