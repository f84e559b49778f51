"""Optimisers on one flat tensor: all parameters of all seeds in a few operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from geomdiag.training.networks import StackedNetwork
from geomdiag.training.recipe import Training

__all__ = ["SGD", "AdamW", "Matrix", "Muon", "Optimiser", "build_optimiser", "flat_order"]

#: Of Muon's Newton-Schulz iteration, as in ``torch.optim.Muon``.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class _Common(TypedDict, total=False):
    """What every optimiser is told, as `geomdiag.training.recipe.Training` has it."""

    lr: float
    weight_decay: float
    warmup: int
    grokfast: float
    grokfast_decay: float


class Optimiser(ABC):
    """One step along the gradient for all seeds; no element sees another seed's.

    With `grokfast` each gradient ``g`` is replaced by ``g + grokfast · m``, where ``m`` is the
    running mean ``m ← decay · m + (1 - decay) · g``, which begins at the first gradient
    (Grokfast-EMA, arXiv 2405.20233, whose code begins like that).

    Parameters
    ----------
    flat : (n,) tensor
        All parameters of all seeds, changed in place.
    lr, weight_decay, warmup, grokfast, grokfast_decay : float, float, int, float, float
        As in `geomdiag.training.recipe.Training`.

    Attributes
    ----------
    gradient : (n,) tensor
        To be filled before `update`, which may change it.
    state : dict of str to tensor
        What the next step depends on beside `flat` and `step_count`.
    step_count : int
        Updates done.
    """

    def __init__(
        self,
        flat: Tensor,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1.0,
        warmup: int = 10,
        grokfast: float = 0.0,
        grokfast_decay: float = 0.98,
    ) -> None:
        self.flat = flat
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.grokfast, self.grokfast_decay = grokfast, grokfast_decay
        self.gradient = torch.zeros_like(flat)
        self.state: dict[str, Tensor] = {}
        if grokfast:
            self.state["slow"] = torch.zeros_like(flat)
        self.step_count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take one step along `gradient`."""
        self.step_count += 1
        step = self.step_count
        if self.grokfast:
            slow = self.state["slow"]
            if step == 1:
                slow.copy_(self.gradient)
            else:
                slow.lerp_(self.gradient, 1 - self.grokfast_decay)
            self.gradient.add_(slow, alpha=self.grokfast)
        self._step(self.lr * min(1.0, step / self.warmup) if self.warmup else self.lr)

    @abstractmethod
    def _step(self, rate: float) -> None:
        """Change `flat` at this learning rate."""


class AdamW(Optimiser):
    """Adam with decoupled weight decay and linear warm-up (arXiv 1711.05101).

    Element by element the same as ``torch.optim.AdamW`` with its default ``eps``; so seeds
    never mix.

    Parameters
    ----------
    flat, **settings
        As `Optimiser`.
    betas : pair of float
        Decay of the running means of the gradient and of its square.
    leading : int, optional
        Only the first so many elements are changed. None: all.
    """

    def __init__(
        self,
        flat: Tensor,
        *,
        betas: tuple[float, float],
        eps: float = 1e-8,
        leading: int | None = None,
        **settings: Unpack[_Common],
    ) -> None:
        super().__init__(flat, **settings)
        self.betas, self.eps, self.leading = betas, eps, leading
        self.state["mean"] = torch.zeros_like(flat[:leading])
        self.state["square"] = torch.zeros_like(flat[:leading])

    def _step(self, rate: float) -> None:
        first, second = self.betas
        flat, gradient = self.flat[: self.leading], self.gradient[: self.leading]
        mean, square = self.state["mean"], self.state["square"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = square.sqrt().div_(math.sqrt(1 - second**self.step_count)).add_(self.eps)
        flat.mul_(1 - rate * self.weight_decay)
        flat.addcdiv_(mean, root, value=-rate / (1 - first**self.step_count))


class SGD(Optimiser):
    """Gradient descent with momentum, element by element the same as ``torch.optim.SGD``.

    Its weight decay is a part of the gradient, so that momentum carries it on.

    Parameters
    ----------
    flat, **settings
        As `Optimiser`.
    momentum : float
        Share of the last change that is added to the next.
    """

    def __init__(self, flat: Tensor, *, momentum: float, **settings: Unpack[_Common]) -> None:
        super().__init__(flat, **settings)
        self.momentum = momentum
        self.state["momentum"] = torch.zeros_like(flat)

    def _step(self, rate: float) -> None:
        change = self.state["momentum"]
        change.mul_(self.momentum).add_(self.gradient).add_(self.flat, alpha=self.weight_decay)
        self.flat.add_(change, alpha=-rate)


@dataclass(frozen=True)
class Matrix:
    """Where a stacked parameter lies in the flat tensor, and how it is a matrix.

    Attributes
    ----------
    window : slice
        Its elements.
    shape : tuple of int
        Seeds first.
    outputs, inputs : tuple of int
        Axes of one seed's parameter, see `geomdiag.training.networks.StackedNetwork.matrices`.
    """

    window: slice
    shape: tuple[int, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    def view(self, flat: Tensor) -> Tensor:
        """Return the window as a view (seeds, *outputs, *inputs)."""
        axes = (0, *(axis + 1 for axis in (*self.outputs, *self.inputs)))
        return flat[self.window].view(self.shape).permute(axes)

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and columns: the numbers of outputs and of inputs."""
        rows, columns = (
            math.prod(self.shape[axis + 1] for axis in axes) for axes in (self.outputs, self.inputs)
        )
        return rows, columns


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return ``U f(S) Vᵀ`` of each matrix ``U S Vᵀ``, with ``f(S)`` roughly 1.

    Five Newton-Schulz iterations as in ``torch.optim.Muon``, but in the matrices' own
    precision: bfloat16 is only there for its speed.

    Parameters
    ----------
    matrices : (seeds, rows, columns) tensor

    Returns
    -------
    (seeds, rows, columns) tensor
    """
    linear, cubic, quintic = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=_SMALLEST_NORM)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear
        )
    return x.mT if tall else x


class Muon(AdamW):
    """Momentum whose change of each matrix is orthogonalised; AdamW for what is no such matrix.

    For each of `matrices`, stored as (outputs, inputs), the same as ``torch.optim.Muon`` (with
    Nesterov's momentum and its original scaling of the learning rate,
    ``sqrt(max(1, outputs / inputs))``), all seeds at once, in full precision.

    Parameters
    ----------
    flat, betas, **settings
        As `AdamW`.
    momentum : float
        Share of the running mean of the gradient that a step keeps.
    matrices : mapping of str to Matrix
        They lie behind one another at the end of `flat`.

    References
    ----------
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self,
        flat: Tensor,
        *,
        betas: tuple[float, float],
        momentum: float,
        matrices: Mapping[str, Matrix],
        **settings: Unpack[_Common],
    ) -> None:
        leading = min(matrix.window.start for matrix in matrices.values())
        super().__init__(flat, betas=betas, leading=leading, **settings)
        self.momentum, self.matrices = momentum, dict(matrices)
        # as long as `flat`, so that the windows fit
        self.state["momentum"] = torch.zeros_like(flat)

    def _step(self, rate: float) -> None:
        super()._step(rate)
        momentum = self.state["momentum"]
        momentum[self.leading :].lerp_(self.gradient[self.leading :], 1 - self.momentum)
        for matrix in self.matrices.values():
            rows, columns = matrix.sizes
            change = matrix.view(self.gradient).lerp(matrix.view(momentum), self.momentum)
            change = orthogonalised(change.reshape(len(change), rows, columns))
            values = matrix.view(self.flat)
            values.mul_(1 - rate * self.weight_decay)
            scale = math.sqrt(max(1.0, rows / columns))
            values.sub_(change.view(values.shape), alpha=rate * scale)


def flat_order(network: StackedNetwork, settings: Training) -> list[str]:
    """Return the parameters in the order in which they lie in the flat tensor."""
    names = list(network.shapes)
    if settings.optimiser != "muon":
        return names
    return sorted(names, key=lambda name: name in network.matrices)


def build_optimiser(
    network: StackedNetwork, settings: Training, flat: Tensor, seeds: int
) -> Optimiser:
    """Return the optimiser that a recipe's ``[training]`` describes.

    Parameters
    ----------
    network : StackedNetwork
        Whose parameters.
    settings : Training
        Settings.
    flat : (n,) tensor
        All parameters, in the order of `flat_order`, those of all seeds together.
    seeds : int
        How many.
    """
    common: _Common = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "warmup": settings.warmup,
        "grokfast": settings.grokfast,
        "grokfast_decay": settings.grokfast_decay,
    }
    if settings.optimiser == "sgd":
        return SGD(flat, momentum=settings.momentum, **common)
    if settings.optimiser == "adamw":
        return AdamW(flat, betas=settings.betas, **common)
    matrices = {}
    start = 0
    for name in flat_order(network, settings):
        shape = (seeds, *network.shapes[name])
        window = slice(start, start + math.prod(shape))
        start = window.stop
        if name in network.matrices:
            matrices[name] = Matrix(window, shape, *network.matrices[name])
    return Muon(flat, betas=settings.betas, momentum=settings.momentum, matrices=matrices, **common)
