from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive_networks import Naive, small

from geomdiag.training import Training
from geomdiag.training.networks import build_network
from geomdiag.training.optimiser import AdamW

CASES: list[tuple[str, dict[str, Any]]] = [
    ("transformer", {}),
    ("transformer", {"equals_token": False}),
    ("transformer", {"positional": False}),
    ("transformer", {"equals_token": False, "positional": False, "biases": False}),
    ("transformer", {"activation": "gelu", "heads": 1}),
    ("transformer", {"activation": "quadratic", "init_scale": 2.0}),
    ("mlp", {}),
    ("mlp", {"activation": "quadratic"}),
    ("mlp", {"combine": "sum"}),
]


#: Three symbols an input, more symbols than entities; other answers than tokens.
OTHER_TASKS = ["comparison:3x2", "graph:path-6", "group:D3"]
CASES_BY_TASK = [("modadd:p=5", *case) for case in CASES] + [
    (task, *case) for task in OTHER_TASKS for case in CASES[:4]
]


@pytest.mark.parametrize(("spec", "kind", "model"), CASES_BY_TASK)
def test_stacked_forward_equals_the_naive_one(spec: str, kind: str, model: dict[str, Any]) -> None:
    recipe = small(kind, model=model, task=spec)
    task = recipe.build_task()
    network = build_network(task, recipe.model)
    initial = [network.initial(seed) for seed in (0, 1, 2)]
    rng = np.random.default_rng(0)
    for arrays in initial:  # biases start at zero, which would hide a wrong one
        for array in arrays.values():
            array += 0.1 * rng.standard_normal(array.shape)
    stacked = {k: torch.from_numpy(np.stack([a[k] for a in initial])) for k in initial[0]}
    # every seed its own inputs
    rows = np.stack([rng.permutation(len(task.inputs))[:9] for _ in initial])
    inputs = torch.from_numpy(np.moveaxis(task.inputs[rows], -1, 0).copy())
    found = network.logits(stacked, inputs)
    assert found.shape == (3, 9, task.classes)
    for i, arrays in enumerate(initial):
        wanted = Naive(arrays, recipe, torch.float64)(torch.from_numpy(task.inputs[rows[i]]))
        torch.testing.assert_close(found[i], wanted, rtol=1e-10, atol=1e-12)


def test_every_symbol_has_its_row_and_the_answer_its_classes() -> None:
    recipe = small(task="comparison:3x2")
    task = recipe.build_task()
    network = build_network(task, recipe.model)
    # six entities, two attributes, "="
    assert (task.tokens, task.vocabulary) == (6, 8)
    assert network.shapes["embed.W_E"] == (9, 8)
    assert network.shapes["pos_embed.W_pos"] == (4, 8)
    assert network.shapes["unembed.W_U"] == (8, 3)
    told = ("d_vocab", "d_vocab_out", "n_ctx", "equals_token")
    assert [network.config[key] for key in told] == [9, 3, 4, 8]
    distances = small(task="graph:path-6").build_task()
    without = build_network(distances, small(model={"equals_token": False}).model)
    assert without.shapes["embed.W_E"] == (6, 8)
    assert without.shapes["unembed.W_U"] == (8, 6)
    assert [without.config[key] for key in told] == [6, 6, 2, None]


def test_initial_values() -> None:
    recipe = small(model={"d_model": 64, "heads": 4, "d_mlp": 400, "init_scale": 0.5})
    network = build_network(recipe.build_task(), recipe.model)
    first, again, other = network.initial(3), network.initial(3), network.initial(4)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        if ".b_" in name:
            assert not array.any()
        else:
            assert not np.array_equal(array, other[name])
    assert first["blocks.0.mlp.W_out"].std() == pytest.approx(0.5 / np.sqrt(400), rel=0.05)
    assert first["blocks.0.attn.W_Q"].std() == pytest.approx(0.5 / np.sqrt(64), rel=0.05)


@given(
    warmup=st.integers(0, 12),
    decay=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_updates_equal_those_of_torch(warmup: int, decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    flat = start.clone()
    ours = AdamW(flat, [Training(steps=20, lr=1e-2, weight_decay=decay, warmup=warmup)])
    theirs = torch.nn.Parameter(start.clone())
    reference = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.98), weight_decay=decay)
    for step in range(1, 21):
        gradient = torch.randn(7, generator=generator, dtype=torch.float64)
        reference.param_groups[0]["lr"] = 1e-2 * (min(1, step / warmup) if warmup else 1)
        theirs.grad = gradient.clone()
        reference.step()
        ours.gradient.copy_(gradient)
        ours.update()
    torch.testing.assert_close(flat, theirs.detach(), rtol=1e-10, atol=1e-12)
