"""Symmetry prompting: the violation of a task's symmetries as a loss (arXiv 2603.01968).

The instances are those that the analyzers average over, the violation is the same function of
the same log-probabilities: with all instances the loss is the analyzers' number. No answer of
an input enters, so that instances come from all inputs of the task, trained on or not. Which
inputs a symmetry relates is, however, knowledge of the task (for associativity: which inputs
have equal inner results): that is what a prompt gives to the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.errors import RecipeError
from geomdiag.metrics.composition import composition_kl, mean_composition_violation
from geomdiag.metrics.divergence import mean_pair_violation
from geomdiag.metrics.symmetry import mean_violation
from geomdiag.tasks.contract import Composition, Equivalence, Symmetry, Task
from geomdiag.training.draws import Draws
from geomdiag.training.networks import StackedNetwork, look_up

__all__ = ["SymmetryPrompt", "check_all_instances"]

IntArray = NDArray[np.int64]

#: Streams of `Draws` from here on: one a symmetry of the task, in its order.
_INSTANCES = 100
#: Most values (seeds · instances · classes) of compositions that are worked on at once.
_MOST = 20_000_000


class _Pairs:
    """The instances of an equivalence, found by number: no list of all of them is made.

    First come the ordered pairs inside the orbits, n² for an orbit of n inputs, then the listed
    pairs; so a number drawn uniformly takes an orbit with the probability it should have.
    """

    def __init__(self, symmetry: Equivalence, device: torch.device) -> None:
        def tensor(array: IntArray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

        labels = np.empty(0, dtype=np.int64) if symmetry.orbits is None else symmetry.orbits
        members = np.flatnonzero(labels >= 0)
        _, sizes = np.unique(labels[members], return_counts=True)
        members = members[np.argsort(labels[members], kind="stable")]
        listed = np.empty((0, 2), dtype=np.int64) if symmetry.pairs is None else symmetry.pairs
        self.count = symmetry.instances()
        self.inside = self.count - len(listed)
        self.involved = np.union1d(members, listed)
        self.members, self.sizes = tensor(members), tensor(sizes)
        self.starts, self.squares = tensor(np.cumsum(sizes) - sizes), tensor(np.cumsum(sizes**2))
        self.listed = tensor(listed.T)
        self.relabelling: Tensor | None = None
        if symmetry.relabelling is not None and symmetry.alignment is not None:
            self.relabelling = tensor(symmetry.relabelling)
            self.alignment = tensor(symmetry.alignment)

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the two inputs of the instances with these numbers, (2, seeds, tuples)."""
        if not self.inside:
            return self.listed[:, numbers]
        orbit = torch.searchsorted(self.squares, numbers, right=True)
        orbit = orbit.clamp(max=len(self.sizes) - 1)  # numbers of listed pairs
        size = self.sizes[orbit]
        place = (numbers - self.squares[orbit]) % (size * size)  # squares: where the orbit ends
        first = self.starts[orbit]
        found = self.members[torch.stack([first + place // size, first + place % size])]
        if self.inside == self.count:
            return found
        listed = self.listed[:, (numbers - self.inside).clamp(min=0)]
        return torch.where(numbers < self.inside, found, listed)

    def violation(self, log_p: Tensor, rows: Tensor) -> Tensor:
        """Return the mean over the instances, (seeds,), of outputs (2, seeds, tuples, K)."""
        if self.relabelling is not None:
            log_p = log_p.take_along_dim(self.relabelling[self.alignment[rows]], dim=-1)
        mean: Tensor = mean_pair_violation(log_p[0], log_p[1], axis=-1)
        return mean


class _Triples:
    """The instances of a composition: those that the task lists."""

    def __init__(self, symmetry: Composition, device: torch.device) -> None:
        self.symmetry = symmetry
        listed = np.concatenate([symmetry.whole[None], symmetry.parts.T])
        self.count = listed.shape[1]
        self.involved = np.unique(listed)
        self.listed = torch.from_numpy(listed).to(device)

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the three inputs of the instances with these numbers, (3, seeds, tuples)."""
        return self.listed[:, numbers]

    def violation(self, log_p: Tensor, rows: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean over the instances, (seeds,), of outputs (3, seeds, tuples, K)."""
        one = self.symmetry
        kl: Tensor = composition_kl(*log_p, rule=one.rule, odds=one.odds, sums=one.sums)
        return kl.mean(1)


def _chosen(task: Task, names: Sequence[str]) -> list[tuple[int, Symmetry]]:
    """Return the named symmetries and their places in the task's list."""
    known = {symmetry.name: place for place, symmetry in enumerate(task.symmetries)}
    for name in names:
        if name not in known:
            reason = f" ({task.left_out[name]})" if name in task.left_out else ""
            raise RecipeError(
                f"[auxiliary] kind: found {name!r}, which {task.name} does not have{reason}; "
                f"expected one of {', '.join(map(repr, known)) or 'none: it has no symmetry'}"
            )
    return [(known[name], task.symmetries[known[name]]) for name in names]


class SymmetryPrompt:
    r"""The mean violation of symmetries, on instances drawn anew at each step.

    For an equivalence an instance is an ordered pair of inputs in one orbit (an input with
    itself included) or a listed pair, and its violation the symmetric KL of the two aligned
    outputs. For a composition it is one of the task's triples (of the task's sample of them,
    where there are more than it lists), and the violation is between the output of the whole
    and what those of the parts compose to. `tuples` instances of each symmetry are drawn
    uniformly, with replacement: the loss is an unbiased estimate of the mean over all of them.

    Several names are added up: ``consistency`` is the violation of commutativity plus that of
    associativity, so that each presses as hard as it would alone.

    Parameters
    ----------
    task : Task
        Whose symmetries.
    names : sequence of str
        Names of symmetries.
    tuples : int
        Instances drawn each step, of each symmetry. 0: all of them, without any draw.
    seeds : sequence of int
        Of the networks. What one draws depends on its seed and the step alone.
    device : torch.device
        Where it runs.

    Raises
    ------
    RecipeError
        If the task has not such a symmetry, or `tuples` is 0 and the instances of a composition
        are too many to be worked on at once.
    """

    def __init__(
        self,
        task: Task,
        names: Sequence[str],
        tuples: int,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        chosen = _chosen(task, names)
        self.symmetries = tuple(symmetry for _, symmetry in chosen)
        self.tuples, self.seeds = tuples, len(seeds)
        self.table = torch.from_numpy(np.ascontiguousarray(task.inputs.T)).to(device)
        if not tuples:
            check_all_instances(task, names, len(seeds))
            return
        self.instances = [
            _Pairs(one, device) if isinstance(one, Equivalence) else _Triples(one, device)
            for one in self.symmetries
        ]
        self.draws = [Draws(seeds, _INSTANCES + place, device) for place, _ in chosen]
        involved = np.unique(np.concatenate([each.involved for each in self.instances]))
        drawn = sum(2 if isinstance(one, Equivalence) else 3 for one in self.symmetries) * tuples
        self.place: Tensor | None = None
        if drawn >= len(involved):  # each input once is then less work than those drawn
            place = np.zeros(len(task.inputs), dtype=np.int64)
            place[involved] = np.arange(len(involved))
            self.place = torch.from_numpy(place).to(device)
            self.table = self.table[:, torch.from_numpy(involved).to(device)]

    def rows(self, step: int) -> list[Tensor]:
        """Return the inputs of the instances of a step.

        Parameters
        ----------
        step : int
            Step.

        Returns
        -------
        list of (2 or 3, seeds, tuples) int64 tensor
            Rows of ``task.inputs``; one tensor a symmetry.
        """
        return [
            each.rows(draws.integers(step, self.tuples, each.count))
            for each, draws in zip(self.instances, self.draws, strict=True)
        ]

    def losses(
        self, network: StackedNetwork, parameters: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the violation of each seed.

        The network is run on the inputs that were drawn, or once on each input that may be,
        whichever are fewer: the same number at each step.

        Parameters
        ----------
        network : StackedNetwork
            Network.
        parameters : mapping of str to (seeds, ...) tensor
            Stacked parameters.
        step : int
            Step; it decides what is drawn.

        Returns
        -------
        (seeds,) float64 tensor
            Nats.
        """
        if not self.tuples:
            return self._of_all(self._log_p(network, parameters, None))
        rows = self.rows(step)
        flat = [each.transpose(0, 1).flatten(1) for each in rows]  # (seeds, inputs) each
        if self.place is None:
            found = self._log_p(network, parameters, torch.cat(flat, dim=1))
            outputs = torch.split(found, [each.shape[1] for each in flat], dim=1)
        else:
            found = self._log_p(network, parameters, None)
            outputs = tuple(look_up(found, self.place[each]) for each in flat)
        losses = found.new_zeros(self.seeds)
        for each, drawn, log_p in zip(self.instances, rows, outputs, strict=True):
            of_ends = log_p.reshape(self.seeds, len(drawn), self.tuples, -1).transpose(0, 1)
            losses = losses + each.violation(of_ends, drawn)
        return losses

    def _log_p(
        self, network: StackedNetwork, parameters: Mapping[str, Tensor], rows: Tensor | None
    ) -> Tensor:
        """Return log-probabilities of rows of the table, None for all, (seeds, n, K) float64."""
        if rows is None:
            inputs = self.table[:, None].expand(-1, self.seeds, -1)
        else:
            inputs = self.table[:, rows]
        return network.logits(parameters, inputs).double().log_softmax(-1)

    def _of_all(self, log_p: Tensor) -> Tensor:
        losses = log_p.new_zeros(self.seeds)
        for one in self.symmetries:
            if isinstance(one, Equivalence):
                losses = losses + mean_violation(
                    log_p,
                    orbits=one.orbits,
                    pairs=one.pairs,
                    alignment=one.alignment,
                    relabelling=one.relabelling,
                )
            else:
                losses = losses + mean_composition_violation(
                    log_p,
                    rule=one.rule,
                    whole=one.whole,
                    parts=one.parts,
                    odds=one.odds,
                    sums=one.sums,
                )
        return losses


def check_all_instances(task: Task, names: Sequence[str], seeds: int) -> None:
    """Refuse all instances of a composition where their outputs would fill the memory.

    Parameters
    ----------
    task : Task
        Whose symmetries.
    names : sequence of str
        Names of symmetries.
    seeds : int
        Number of networks.

    Raises
    ------
    RecipeError
        If there are too many of one.
    """
    for _, symmetry in _chosen(task, names):
        if isinstance(symmetry, Equivalence):
            continue  # the closed form takes each input once
        wide = task.classes if symmetry.sums is None else int((symmetry.sums >= 0).sum())
        count = len(symmetry.whole)
        if seeds * count * wide > _MOST:
            raise RecipeError(
                f"[auxiliary] tuples: found 0, which is all {count} instances of {symmetry.name} "
                f"in {task.name}; with {seeds} seeds expected at most {_MOST // (seeds * wide)}. "
                "Have some drawn at each step instead, for example tuples = 512"
            )
