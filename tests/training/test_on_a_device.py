"""A step stays on its device: it mixes no tensors of another, and never waits for a number.

Shown without a GPU: tensors of the ``meta`` device hold no numbers, and torch's fake mode refuses
what mixes them with the processor's, and what asks for their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from naive_networks import small
from numpy.typing import NDArray
from test_interventions import INTERVENTIONS
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import geomdiag as gd
from geomdiag.training import Recipe, stack
from geomdiag.training.stack import Stack

ELSEWHERE = torch.device("meta")

PROMPTS = {
    f"{task} {one.name}": {"task": task, "auxiliary": {"kind": one.name, "tuples": 4}}
    for task in ("modadd:p=5", "graph:lattice-2x3", "comparison:3x3", "group:S3")
    for one in gd.task(task).symmetries
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    real = torch.from_numpy

    def from_numpy(array: NDArray[Any]) -> torch.Tensor:
        return mode.from_tensor(real(array))

    monkeypatch.setattr(torch, "from_numpy", from_numpy)
    with mode:
        yield


def two(recipe: Recipe) -> list[Recipe]:
    """Return two recipes of one program, so that numbers are spread over the elements."""
    other = replace(recipe.training, lr=recipe.training.lr / 2, weight_decay=0.01, warmup=3)
    return [recipe, replace(recipe, name="other", training=other)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("mlp", name) for name in INTERVENTIONS]
    + [("transformer", name) for name in (*INTERVENTIONS, *PROMPTS)],
)
def test_a_step_stays_on_its_device(elsewhere: None, kind: str, name: str) -> None:
    recipe = small(kind, **{**INTERVENTIONS, **PROMPTS}[name])
    networks = Stack(two(recipe), recipe.build_task(), ELSEWHERE)
    for step in range(2):
        logits, losses = networks.learn(step, descend=True)
        networks.optimiser.update()
    held = networks.network.logits(networks.parameters, networks.data.heldout.inputs)
    for tensor in (*logits, *losses, held, networks.flat, *networks.optimiser.state.values()):
        assert tensor.device == ELSEWHERE


def test_what_leaves_the_device_is_noticed(
    elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small()
    networks = Stack([recipe], recipe.build_task(), ELSEWHERE)
    written = stack._forward

    def waiting(*inputs: Any) -> Any:
        logits, losses = written(*inputs)
        assert losses.max() < 100
        return logits, losses

    def mixing(*inputs: Any) -> Any:
        logits, losses = written(*inputs)
        return logits, losses * torch.ones(1)

    monkeypatch.setattr(stack, "_forward", waiting)
    with pytest.raises(DataDependentOutputException):
        Stack([recipe], recipe.build_task(), ELSEWHERE).learn(0, descend=True)
    monkeypatch.setattr(stack, "_forward", mixing)
    with pytest.raises(Exception, match="device"):
        Stack([recipe], recipe.build_task(), ELSEWHERE).learn(0, descend=True)
    networks.learn(0, descend=True)
