"""Optimisers on one flat tensor: all parameters of all networks in a few operations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geomdiag.training.networks import StackedNetwork
from geomdiag.training.recipe import Training

__all__ = ["SGD", "AdamW", "Matrix", "Muon", "Optimiser", "build_optimiser", "flat_order"]

#: Of Muon's Newton-Schulz iteration, as in ``torch.optim.Muon``.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


def _part(factor: float | Tensor, window: slice) -> float | Tensor:
    return factor[window] if isinstance(factor, Tensor) else factor


def _add(target: Tensor, change: Tensor, factor: float | Tensor) -> None:
    """Add ``factor · change`` in place."""
    if isinstance(factor, Tensor):
        target.addcmul_(change, factor)
    else:
        target.add_(change, alpha=factor)


class Optimiser(ABC):
    """One step along the gradient for all networks; no element sees another network's.

    With ``grokfast`` each gradient ``g`` is replaced by ``g + grokfast · m``, where ``m`` is the
    running mean ``m ← decay · m + (1 - decay) · g``, which begins at the first gradient
    (Grokfast-EMA, arXiv 2405.20233, whose code begins like that).

    Parameters
    ----------
    flat : (n,) tensor
        All parameters of all networks, changed in place.
    settings : sequence of Training
        What is asked for. Several may differ in their numbers only: they have one optimiser,
        and all or none of them ``grokfast``.
    owner : (n,) int64 tensor, optional
        Which of the settings holds for each element; needed when there are several.

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
        self, flat: Tensor, settings: Sequence[Training], owner: Tensor | None = None
    ) -> None:
        self.flat, self.settings, self.owner = flat, tuple(settings), owner
        self.gradient = torch.zeros_like(flat)
        self.state: dict[str, Tensor] = {}
        self.grokfast = self.settings[0].grokfast > 0
        if self.grokfast:
            self.state["slow"] = torch.zeros_like(flat)
        self.step_count = 0
        self._spread: dict[str, tuple[list[float], Tensor]] = {}

    def _each(self, name: str, value: Callable[[Training], float]) -> float | Tensor:
        """Return a number where all settings agree on it, else one for each element.

        Kept under `name` until it changes: most numbers do so in the first steps only.
        """
        values = [value(one) for one in self.settings]
        if self.owner is None or values.count(values[0]) == len(values):
            return values[0]
        known = self._spread.get(name)
        if known is None or known[0] != values:
            few = torch.tensor(values, dtype=self.flat.dtype).to(self.flat.device)
            known = self._spread[name] = (values, few[self.owner])
        return known[1]

    def _rate(self, one: Training) -> float:
        """Return the learning rate of this step."""
        return one.lr * min(1.0, self.step_count / one.warmup) if one.warmup else one.lr

    @torch.no_grad()
    def update(self) -> None:
        """Take one step along `gradient`."""
        self.step_count += 1
        if self.grokfast:
            slow = self.state["slow"]
            if self.step_count == 1:
                slow.copy_(self.gradient)
            else:
                slow.lerp_(self.gradient, self._each("slow", lambda one: 1 - one.grokfast_decay))
            _add(self.gradient, slow, self._each("grokfast", lambda one: one.grokfast))
        self._step()

    @abstractmethod
    def _step(self) -> None:
        """Change `flat`."""


class AdamW(Optimiser):
    """Adam with decoupled weight decay and linear warm-up (arXiv 1711.05101).

    Element by element the same as ``torch.optim.AdamW`` with its default ``eps``; so networks
    never mix.

    Parameters
    ----------
    flat, settings, owner
        As `Optimiser`.
    leading : int, optional
        Only the first so many elements are changed. None: all.
    """

    def __init__(
        self,
        flat: Tensor,
        settings: Sequence[Training],
        owner: Tensor | None = None,
        *,
        eps: float = 1e-8,
        leading: int | None = None,
    ) -> None:
        super().__init__(flat, settings, owner)
        self.eps, self.leading = eps, leading
        self.state["mean"] = torch.zeros_like(flat[:leading])
        self.state["square"] = torch.zeros_like(flat[:leading])

    def _step(self) -> None:
        step, leading = self.step_count, slice(self.leading)

        def each(name: str, value: Callable[[Training], float]) -> float | Tensor:
            return _part(self._each(name, value), leading)

        flat, gradient = self.flat[leading], self.gradient[leading]
        mean, square = self.state["mean"], self.state["square"]
        mean.lerp_(gradient, each("first", lambda one: 1 - one.betas[0]))
        square.mul_(each("second", lambda one: one.betas[1]))
        share = each("share", lambda one: 1 - one.betas[1])
        if isinstance(share, Tensor):
            square.addcmul_(gradient * share, gradient)
        else:
            square.addcmul_(gradient, gradient, value=share)
        root = square.sqrt()
        root.div_(each("root", lambda one: math.sqrt(1 - one.betas[1] ** step))).add_(self.eps)
        flat.mul_(each("decay", lambda one: 1 - self._rate(one) * one.weight_decay))
        rate = each("rate", lambda one: -self._rate(one) / (1 - one.betas[0] ** step))
        if isinstance(rate, Tensor):
            flat.addcdiv_(mean * rate, root)
        else:
            flat.addcdiv_(mean, root, value=rate)


class SGD(Optimiser):
    """Gradient descent with momentum, element by element the same as ``torch.optim.SGD``.

    Its weight decay is a part of the gradient, so that momentum carries it on.

    Parameters
    ----------
    flat, settings, owner
        As `Optimiser`.
    """

    def __init__(
        self, flat: Tensor, settings: Sequence[Training], owner: Tensor | None = None
    ) -> None:
        super().__init__(flat, settings, owner)
        self.state["momentum"] = torch.zeros_like(flat)

    def _step(self) -> None:
        change = self.state["momentum"]
        change.mul_(self._each("momentum", lambda one: one.momentum)).add_(self.gradient)
        _add(change, self.flat, self._each("decay", lambda one: one.weight_decay))
        _add(self.flat, change, self._each("rate", lambda one: -self._rate(one)))


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

    def part(self, factor: float | Tensor) -> float | Tensor:
        """Return a factor of all elements as one of the view's."""
        return self.view(factor) if isinstance(factor, Tensor) else factor

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
    ``sqrt(max(1, outputs / inputs))``), all networks at once, in full precision.

    Parameters
    ----------
    flat, settings, owner
        As `Optimiser`.
    matrices : mapping of str to Matrix
        They lie behind one another at the end of `flat`.

    References
    ----------
    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self,
        flat: Tensor,
        settings: Sequence[Training],
        owner: Tensor | None = None,
        *,
        matrices: Mapping[str, Matrix],
    ) -> None:
        leading = min(matrix.window.start for matrix in matrices.values())
        super().__init__(flat, settings, owner, leading=leading)
        self.matrices = dict(matrices)
        # as long as `flat`, so that the windows fit
        self.state["momentum"] = torch.zeros_like(flat)

    def _step(self) -> None:
        super()._step()
        momentum, rest = self.state["momentum"], slice(self.leading, None)
        kept = self._each("momentum", lambda one: one.momentum)
        new = self._each("new", lambda one: 1 - one.momentum)
        decay = self._each("decay", lambda one: 1 - self._rate(one) * one.weight_decay)
        momentum[rest].lerp_(self.gradient[rest], _part(new, rest))
        for matrix in self.matrices.values():
            rows, columns = matrix.sizes
            change = matrix.view(self.gradient).lerp(matrix.view(momentum), matrix.part(kept))
            change = orthogonalised(change.reshape(len(change), rows, columns))
            values = matrix.view(self.flat)
            values.mul_(matrix.part(decay))
            scale = math.sqrt(max(1.0, rows / columns))
            rate = self._each(f"rate {scale}", lambda one, by=scale: -self._rate(one) * by)  # type: ignore[misc]
            _add(values, change.view(values.shape), matrix.part(rate))


def flat_order(network: StackedNetwork, settings: Training) -> list[str]:
    """Return the parameters in the order in which they lie in the flat tensor."""
    names = list(network.shapes)
    if settings.optimiser != "muon":
        return names
    return sorted(names, key=lambda name: name in network.matrices)


def build_optimiser(
    network: StackedNetwork, settings: Sequence[Training], members: Sequence[int], flat: Tensor
) -> Optimiser:
    """Return the optimiser that the ``[training]`` of recipes describes.

    Parameters
    ----------
    network : StackedNetwork
        Whose parameters.
    settings : sequence of Training
        Settings, one a recipe; see `Optimiser`.
    members : sequence of int
        Recipe of each stacked network.
    flat : (n,) tensor
        All parameters, in the order of `flat_order`, those of all networks together.
    """
    count = len(members)
    shapes = {name: (count, *network.shapes[name]) for name in flat_order(network, settings[0])}
    owner = None
    if len(settings) > 1:
        of = torch.tensor(members)
        sizes = [math.prod(shape) // count for shape in shapes.values()]
        owner = torch.cat([of.repeat_interleave(size) for size in sizes]).to(flat.device)
    if settings[0].optimiser == "sgd":
        return SGD(flat, settings, owner)
    if settings[0].optimiser == "adamw":
        return AdamW(flat, settings, owner)
    matrices = {}
    start = 0
    for name, shape in shapes.items():
        window = slice(start, start + math.prod(shape))
        start = window.stop
        if name in network.matrices:
            matrices[name] = Matrix(window, shape, *network.matrices[name])
    return Muon(flat, settings, owner, matrices=matrices)
