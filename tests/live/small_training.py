"""A tiny training whose every bit is fixed, with and without someone watching."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

P = 7
INPUTS = torch.cartesian_prod(torch.arange(P), torch.arange(P))
ANSWERS = INPUTS.sum(dim=1) % P
SPLIT = "python:seed=0,fraction=0.7"


class Network(nn.Module):
    """An embedding and a small perceptron, with dropout; `normed` adds a batch norm."""

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(P, 8)
        self.hidden = nn.Linear(16, 24)
        self.output = nn.Linear(24, P)
        self.drop = nn.Dropout(0.1)
        self.norm: nn.Module = nn.BatchNorm1d(24) if normed else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(self.embedding(inputs).flatten(1)))
        answers: Tensor = self.output(self.drop(self.norm(hidden)))
        return answers


class Trained(NamedTuple):
    """What is left of a training."""

    states: dict[int, dict[str, Tensor]]
    gradients: list[Tensor]
    modes: list[bool]
    random: tuple[float, float, float]


def run(
    network: Network,
    watch: Callable[[int], object] | None = None,
    *,
    steps: int = 40,
    start: int = 0,
    every: int = 20,
    seed: int = 0,
    rate: float = 1e-2,
) -> Trained:
    """Train, calling `watch` with 0 and after every update."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global state is what is looked at
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    states: dict[int, dict[str, Tensor]] = {}
    for step in range(start, start + steps + 1):
        if step > start:
            batch = torch.randint(0, len(INPUTS), (16,))
            loss = nn.functional.cross_entropy(network(INPUTS[batch]), ANSWERS[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if step % every == 0:
            states[step] = {name: value.clone() for name, value in network.state_dict().items()}
        if watch is not None:
            watch(step)
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    drawn = (random.random(), float(np.random.rand()), float(torch.rand(1)))  # noqa: NPY002
    return Trained(states, gradients, [one.training for one in network.modules()], drawn)


def fresh(seed: int = 1, **options: Any) -> Network:
    """Return a network with fixed first weights."""
    torch.manual_seed(seed)
    return Network(**options)


def assert_same(one: Trained, other: Trained) -> None:
    """Compare two trainings bit for bit."""
    assert one.random == other.random
    assert one.modes == other.modes
    assert one.states.keys() == other.states.keys()
    for step, state in one.states.items():
        for name, value in state.items():
            assert torch.equal(value, other.states[step][name]), f"step {step}: {name}"
    for first, second in zip(one.gradients, other.gradients, strict=True):
        assert torch.equal(first, second)
