"""What the networks of a program learn from: each its own train inputs, some with wrong answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.metrics.fit import correct, cross_entropy
from geomdiag.tasks.contract import Task
from geomdiag.training.recipe import Training

__all__ = ["Data", "Part", "noisy_answers", "train_rows"]


def train_rows(task: Task, fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw the train inputs: the first of ``numpy.random.default_rng(seed).permutation``.

    Parameters
    ----------
    task : Task
        Whose inputs.
    fraction : float
        Share of all inputs, rounded down.
    seed : int
        Seed.

    Returns
    -------
    (m,) int array
        Rows of ``task.inputs``, increasing.
    """
    total = len(task.inputs)
    drawn = np.random.default_rng(seed).permutation(total)[: int(fraction * total)]
    return np.sort(drawn).astype(np.int64)


def noisy_answers(
    task: Task, rows: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw wrong answers for a share of the train inputs.

    Parameters
    ----------
    task : Task
        Whose inputs.
    rows : (m,) int array
        Train inputs.
    share : float
        Of them, rounded to whole inputs.
    seed : int
        Seed of the split; this draw is independent of that of the split.

    Returns
    -------
    (k,) int array
        Rows of ``task.inputs``, increasing.
    (k,) int array
        The answer each is trained on: uniform over all classes but the right one.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    chosen = np.sort(generator.permutation(rows)[: round(share * len(rows))])
    # 1 to classes - 1 further on, round the clock, is never the right one
    moved = generator.integers(1, task.classes, size=len(chosen))
    return chosen, (task.answers[chosen] + moved) % task.classes


class Part:
    """The same number of inputs for every network, with their answers, on the device."""

    def __init__(
        self,
        task: Task,
        rows: NDArray[np.int64],
        answers: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        inputs = np.moveaxis(task.inputs[rows], -1, 0)  # [arity, networks, n]
        self.inputs = torch.from_numpy(np.ascontiguousarray(inputs)).to(device)
        self.answers = torch.from_numpy(answers).to(device)

    def of(self, networks: slice) -> Part:
        """Return the part of some of the networks; shares the memory."""
        part = copy.copy(self)
        part.inputs, part.answers = self.inputs[:, networks], self.answers[networks]
        return part

    def losses(self, logits: Tensor) -> Tensor:
        """Return the mean loss of each network, float64 (float32 rounds small losses away)."""
        losses = cross_entropy(logits.double().flatten(0, 1), self.answers.flatten())
        mean: Tensor = losses.unflatten(0, self.answers.shape).mean(1)
        return mean

    def accuracies(self, logits: Tensor) -> Tensor:
        """Return the share of right answers of each network."""
        right = correct(logits.flatten(0, 1), self.answers.flatten())
        share: Tensor = right.unflatten(0, self.answers.shape).double().mean(1)
        return share


class Data:
    """The train inputs of each network, and those held out.

    Parameters
    ----------
    task : Task
        Whose inputs.
    settings : sequence of Training
        Settings of each network.
    seeds : sequence of int
        Seed of each.
    device : torch.device
        Where the parts lie.

    Attributes
    ----------
    rows : (networks, m) int array
        Train inputs, as rows of ``task.inputs``.
    noise : list of (array, array) or None
        Rows with a wrong answer, and these answers; None: no noise.
    train, heldout : Part
        Train inputs with the answers that are trained on, and all others.
    """

    def __init__(
        self,
        task: Task,
        settings: Sequence[Training],
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        split_seeds = [
            seed if one.split_seed == "seed" else one.split_seed
            for one, seed in zip(settings, seeds, strict=True)
        ]
        self.rows = np.stack(
            [
                train_rows(task, one.train_fraction, seed)
                for one, seed in zip(settings, split_seeds, strict=True)
            ]
        )
        answers = np.tile(task.answers, (len(seeds), 1))  # that are trained on
        self.noise: list[tuple[NDArray[np.int64], NDArray[np.int64]] | None] = []
        for own, rows, one, seed in zip(answers, self.rows, settings, split_seeds, strict=True):
            drawn = None
            if one.label_noise:
                drawn = noisy_answers(task, rows, one.label_noise, seed)
                own[drawn[0]] = drawn[1]
            self.noise.append(drawn)
        everything = np.arange(len(task.inputs))
        heldout = np.stack([np.setdiff1d(everything, rows) for rows in self.rows])
        trained = np.take_along_axis(answers, self.rows, axis=1)
        self.train = Part(task, self.rows, trained, device)
        self.heldout = Part(task, heldout, task.answers[heldout], device)
