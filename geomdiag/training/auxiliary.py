"""Losses beside the cross-entropy: geometry priors here, symmetry prompts from `prompts`.

Each is differentiable, in float64, and one number a seed. The formulas of the priors are
ours (the paper, arXiv 2603.01968, names them only).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from geomdiag.tasks.contract import Task
from geomdiag.training.draws import Draws
from geomdiag.training.networks import StackedNetwork
from geomdiag.training.recipe import PRIORS, Recipe

__all__ = ["Auxiliary", "Lipschitz", "Prompt", "SpectralPrior", "build_auxiliary"]

#: Streams of `Draws` that this file uses.
_PERTURBATIONS, _INPUTS = 10, 11


class Auxiliary(ABC):
    """A loss beside the cross-entropy."""

    @abstractmethod
    def losses(self, parameters: Mapping[str, Tensor], step: int) -> Tensor:
        """Return the loss of each seed, before the weight.

        Parameters
        ----------
        parameters : mapping of str to (seeds, ...) tensor
            Stacked parameters.
        step : int
            Together with a network's seed it decides what is drawn.

        Returns
        -------
        (seeds,) float64 tensor
        """


def _singular_values(tables: Tensor) -> Tensor:
    """Return singular values, (seeds, m); NaN where a table is not finite.

    One diverged seed must not stop the others, as the decomposition would.
    """
    tables = tables.double()
    finite = tables.isfinite().all(dim=2).all(dim=1)
    values = torch.linalg.svdvals(torch.where(finite[:, None, None], tables, 0.0))
    return torch.where(finite[:, None], values, math.nan)


class SpectralPrior(Auxiliary):
    r"""A measure of the singular values of the token embedding (never centred).

    With ``σ`` the singular values of the table's rows that are entity tokens:

    - ``nuclear``: ``Σ σ``, as `geomdiag.metrics.rank.nuclear_norm`;
    - ``entropy``: ``-Σ q log q`` with ``q = σ / Σσ``, in nats, the logarithm of
      `geomdiag.metrics.rank.entropy_rank` with ``center=False``. Values of 0 add nothing.

    A network with a table for each operand has the mean over its tables.

    Parameters
    ----------
    kind : {"nuclear", "entropy"}
        Which.
    network : StackedNetwork
        Names its tables.
    tokens : int
        Rows that count, from the first.
    """

    def __init__(self, kind: str, network: StackedNetwork, tokens: int) -> None:
        self.kind, self.names, self.tokens = kind, network.embeddings, tokens

    def losses(self, parameters: Mapping[str, Tensor], step: int) -> Tensor:  # noqa: ARG002
        """Return the measure of each seed; see `Auxiliary.losses`."""
        measures = []
        for name in self.names:
            values = _singular_values(parameters[name][:, : self.tokens])
            if self.kind == "nuclear":
                measures.append(values.sum(1))
            else:
                shares = values / values.sum(1, keepdim=True)
                # the logarithm of 0 would make the gradient NaN
                safe = torch.where(shares == 0, 1.0, shares)
                measures.append(-(safe.log() * shares).sum(1))
        return torch.stack(measures).mean(0)


class Lipschitz(Auxiliary):
    r"""How much the logits answer to a small change of the embedding.

    ``Σ_i ‖f(E + δ)_i - f(E)_i‖² / Σ_i Σ_j ‖δ_{x_ij}‖²``: over inputs ``i``, the squared change
    of the logits, relative to the squared perturbation of the rows of its operands ``x_ij``.
    ``δ`` is drawn anew each step: independent Gaussians for the rows of all symbols of the task
    (not of "="), in every table, with the standard deviation `perturbation` times the root mean
    square of these rows' entries. Both ``δ`` and the second sum are held fixed in the gradient.
    The inputs need no answers: they are drawn, with replacement, from all inputs of the task.

    Parameters
    ----------
    network : StackedNetwork
        Network.
    task : Task
        Whose inputs.
    seeds : sequence of int
        Of the networks.
    tuples : int
        Inputs that are drawn each step; 0: all of them.
    perturbation : float
        See above.
    device : torch.device
        Where it runs.
    """

    def __init__(
        self,
        network: StackedNetwork,
        task: Task,
        seeds: Sequence[int],
        *,
        tuples: int,
        perturbation: float,
        device: torch.device,
    ) -> None:
        self.network, self.symbols = network, task.vocabulary
        self.tuples, self.perturbation = tuples, perturbation
        columns = np.ascontiguousarray(task.inputs.T)
        self.inputs = torch.from_numpy(columns).to(device)[:, None].expand(-1, len(seeds), -1)
        self.noise = Draws(seeds, _PERTURBATIONS, device)
        self.rows = Draws(seeds, _INPUTS, device)

    def losses(self, parameters: Mapping[str, Tensor], step: int) -> Tensor:
        """Return the ratio of each seed; see `Auxiliary.losses`."""
        inputs = self.inputs
        if self.tuples:
            drawn = self.rows.integers(step, self.tuples, inputs.shape[2])
            inputs = inputs.gather(2, drawn.expand(len(inputs), -1, -1))
        perturbed, squares = self._perturbed(parameters, step)
        sizes = torch.zeros_like(squares[0][:, 0])
        for j, symbols in enumerate(inputs):
            # one table serves all operands, or each has its own
            sizes = sizes + squares[min(j, len(squares) - 1)].gather(1, symbols).sum(1)
        change = self.network.logits(perturbed, inputs) - self.network.logits(parameters, inputs)
        return change.double().square().sum((1, 2)) / sizes

    def _perturbed(
        self, parameters: Mapping[str, Tensor], step: int
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return parameters with moved tables, and of each table the rows' squared moves."""
        names = self.network.embeddings
        tables = [parameters[name] for name in names]
        seeds, _, width = tables[0].shape
        noise = self.noise.normal(step, len(names) * self.symbols * width)
        noise = noise.view(seeds, len(names), self.symbols, width)
        result = dict(parameters)
        squares = []
        for k, (name, table) in enumerate(zip(names, tables, strict=True)):
            own = table[:, : self.symbols].detach().double()
            scale = self.perturbation * own.square().mean((1, 2), keepdim=True).sqrt()
            moves = (scale * noise[:, k]).to(table.dtype)
            rest = table.shape[1] - self.symbols
            result[name] = table + torch.nn.functional.pad(moves, (0, 0, 0, rest))
            squares.append(moves.double().square().sum(2))
        return result, squares


class Prompt(Auxiliary):
    """The violation of symmetries of the task, see `geomdiag.training.prompts`.

    Parameters
    ----------
    network : StackedNetwork
        Network.
    task : Task
        Whose symmetries.
    seeds : sequence of int
        Of the networks.
    symmetries : sequence of str
        Names of those that are prompted.
    tuples : int
        Instances drawn each step; 0: all.
    device : torch.device
        Where it runs.
    """

    def __init__(
        self,
        network: StackedNetwork,
        task: Task,
        seeds: Sequence[int],
        *,
        symmetries: Sequence[str],
        tuples: int,
        device: torch.device,
    ) -> None:
        from geomdiag.training.prompts import SymmetryPrompt

        self.network = network
        self.prompt = SymmetryPrompt(task, symmetries, tuples, seeds, device)

    def losses(self, parameters: Mapping[str, Tensor], step: int) -> Tensor:
        """Return the violation of each seed; see `Auxiliary.losses`."""
        return self.prompt.losses(self.network, parameters, step)


def build_auxiliary(
    recipe: Recipe,
    task: Task,
    network: StackedNetwork,
    device: torch.device,
    seeds: Sequence[int] | None = None,
) -> Auxiliary | None:
    """Return what a recipe's ``[auxiliary]`` describes, or None where it has none.

    Parameters
    ----------
    recipe : Recipe
        Recipe; `Recipe.build_task` has checked that the task has what it asks for.
    task : Task
        Its task.
    network : StackedNetwork
        Network.
    device : torch.device
        Where the training runs.
    seeds : sequence of int, optional
        One for each stacked network. None: the recipe's.
    """
    asked = recipe.auxiliary
    if asked is None:
        return None
    seeds = recipe.training.seeds if seeds is None else seeds
    if asked.kind == "lipschitz":
        return Lipschitz(
            network,
            task,
            seeds,
            tuples=asked.tuples,
            perturbation=asked.perturbation,
            device=device,
        )
    if asked.kind in PRIORS:
        return SpectralPrior(asked.kind, network, task.tokens)
    return Prompt(
        network, task, seeds, symmetries=asked.symmetries, tuples=asked.tuples, device=device
    )
