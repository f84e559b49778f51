from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_networks import Naive, small
from torch import Tensor

from geomdiag.metrics.rank import entropy_rank, nuclear_norm
from geomdiag.training import Recipe, train
from geomdiag.training.auxiliary import Auxiliary, build_auxiliary
from geomdiag.training.draws import Draws
from geomdiag.training.networks import StackedNetwork, build_network

CPU = torch.device("cpu")
NETWORKS: list[tuple[str, dict[str, Any], str]] = [
    ("transformer", {}, "modadd:p=5"),
    ("transformer", {}, "comparison:3x2"),  # symbols that are no entities
    ("transformer", {"equals_token": False}, "modadd:p=5"),
    ("mlp", {"combine": "concatenate"}, "modadd:p=5"),
    ("mlp", {"combine": "sum"}, "modadd:p=5"),
]


def built(
    recipe: Recipe, seeds: tuple[int, ...]
) -> tuple[StackedNetwork, Auxiliary, dict[str, Tensor]]:
    task = recipe.build_task()
    network = build_network(task, recipe.model)
    auxiliary = build_auxiliary(recipe, task, network, CPU)
    assert auxiliary is not None
    initial = [network.initial(seed) for seed in seeds]
    stacked = {k: torch.from_numpy(np.stack([a[k] for a in initial])) for k in initial[0]}
    return network, auxiliary, stacked


def leaves(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


@pytest.mark.parametrize(("kind", "model", "spec"), NETWORKS)
@pytest.mark.parametrize("prior", ["nuclear", "entropy"])
def test_spectral_priors_are_the_metrics(
    prior: str, kind: str, model: dict[str, Any], spec: str
) -> None:
    recipe = small(
        kind, model=model, task=spec, auxiliary={"kind": prior}, training={"seeds": [0, 1, 2]}
    )
    network, auxiliary, parameters = built(recipe, (0, 1, 2))
    found = auxiliary.losses(parameters, 0)
    assert found.dtype == torch.float64
    tokens = recipe.build_task().tokens
    for i in range(3):
        tables = [parameters[name][i, :tokens].numpy() for name in network.embeddings]
        if prior == "nuclear":
            wanted = np.mean([float(nuclear_norm(table)) for table in tables])
        else:
            wanted = np.mean([np.log(float(entropy_rank(table, center=False))) for table in tables])
        assert float(found[i]) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("prior", ["nuclear", "entropy", "lipschitz"])
def test_gradients_are_those_of_finite_differences(prior: str) -> None:
    recipe = small("mlp", auxiliary={"kind": prior}, model={"activation": "quadratic"})
    network, auxiliary, parameters = built(recipe, (0,))
    names = list(parameters)

    def loss(*values: Tensor) -> Tensor:
        return auxiliary.losses(dict(zip(names, values, strict=True)), 3).sum()

    if prior == "lipschitz":
        # the size of the perturbations is held fixed in the gradient, so tables are not varied
        def loss(*values: Tensor) -> Tensor:
            given = dict(zip(names, values, strict=True))
            given.update({name: parameters[name] for name in network.embeddings})
            return auxiliary.losses(given, 3).sum()

    assert torch.autograd.gradcheck(loss, tuple(leaves(parameters).values()))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_degenerate_embedding_has_a_finite_gradient_of_entropy(rank: int) -> None:
    recipe = small("mlp", auxiliary={"kind": "entropy"}, model={"combine": "sum"})
    _, auxiliary, parameters = built(recipe, (0, 1))
    table = torch.zeros_like(parameters["embed.weight"])
    table[1] = parameters["embed.weight"][1]
    if rank:
        table[0, :, 0] = 1.0
    given = leaves({**parameters, "embed.weight": table})
    losses = auxiliary.losses(given, 0)
    torch.autograd.backward(losses.sum())
    gradient = given["embed.weight"].grad
    assert gradient is not None
    assert gradient[1].isfinite().all()
    if rank:  # an embedding of zeros has no shares
        assert float(losses.detach()[0]) == pytest.approx(0, abs=1e-12)
        assert gradient[0].isfinite().all()


@pytest.mark.parametrize("prior", ["nuclear", "entropy", "lipschitz"])
def test_a_diverged_seed_leaves_the_others_alone(prior: str) -> None:
    recipe = small("mlp", auxiliary={"kind": prior}, training={"seeds": [0, 1]})
    _, auxiliary, parameters = built(recipe, (0, 1))
    broken = {name: value.clone() for name, value in parameters.items()}
    broken["W_x"][0, 0, 0] = torch.nan
    whole, other = leaves(parameters), leaves(broken)
    first, second = auxiliary.losses(whole, 0), auxiliary.losses(other, 0)
    assert second[0].isnan()
    assert torch.equal(first[1], second[1])
    torch.autograd.backward(first.sum())
    torch.autograd.backward(second.sum())
    for name in whole:
        mine, theirs = whole[name].grad, other[name].grad
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine[1], theirs[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kind", "model", "spec"), NETWORKS)
def test_lipschitz_written_out(kind: str, model: dict[str, Any], spec: str) -> None:
    recipe = small(
        kind,
        model={**model, "output_scale": 2.0},
        task=spec,
        auxiliary={"kind": "lipschitz", "perturbation": 0.3, "tuples": 0},
        training={"seeds": [4, 9]},
    )
    network, auxiliary, parameters = built(recipe, (4, 9))
    task = recipe.build_task()
    found = auxiliary.losses(parameters, 17)
    width = parameters[network.embeddings[0]].shape[2]
    drawn = Draws((4, 9), 10, CPU).normal(17, len(network.embeddings) * task.vocabulary * width)
    inputs = torch.from_numpy(task.inputs)
    for i in range(2):
        own = {name: value[i] for name, value in parameters.items()}
        noise = drawn[i].view(len(network.embeddings), task.vocabulary, width)
        moved, moves = dict(own), []
        for k, name in enumerate(network.embeddings):
            rows = own[name][: task.vocabulary]
            moves.append(0.3 * rows.square().mean().sqrt() * noise[k])
            moved[name] = own[name].clone()
            moved[name][: task.vocabulary] += moves[-1]
        change = Naive(moved, recipe, torch.float64)(inputs)
        change = 2.0 * (change - Naive(own, recipe, torch.float64)(inputs)).detach()
        squares = 0.0
        for row in task.inputs.tolist():
            for j, symbol in enumerate(row):
                squares += float(moves[min(j, len(moves) - 1)][symbol].square().sum())
        assert float(found[i]) == pytest.approx(float(change.square().sum()) / squares, rel=1e-9)


def test_lipschitz_of_a_linear_map_is_known() -> None:
    # an MLP whose hidden layer passes everything on, and two fixed tables
    recipe = small(
        "mlp", auxiliary={"kind": "lipschitz", "tuples": 0}, model={"d_embed": 6, "d_hidden": 12}
    )
    _, auxiliary, parameters = built(recipe, (0,))
    task = recipe.build_task()
    parameters["W_x"], parameters["W_y"] = (5 + parameters[name] for name in ("W_x", "W_y"))
    parameters["W"] = torch.eye(12, dtype=torch.float64)[None]
    head = torch.zeros(1, 12, task.classes, dtype=torch.float64)
    head[0, 0, 0] = 3.0
    # of 12 directions only one counts, nine-fold
    parameters["W_U"] = head
    drawn = [float(auxiliary.losses(parameters, step)) for step in range(400)]
    assert np.mean(drawn) == pytest.approx(9 / 12, rel=0.1)


def test_tuples_are_drawn_anew_and_average_to_all() -> None:
    auxiliary = {"kind": "lipschitz", "tuples": 4}
    _, some, parameters = built(small("mlp", auxiliary=auxiliary), (0,))
    _, every, _ = built(small("mlp", auxiliary={"kind": "lipschitz", "tuples": 0}), (0,))
    drawn = [float(some.losses(parameters, step)) for step in range(300)]
    assert len(set(drawn)) == 300
    assert float(some.losses(parameters, 7)) == drawn[7]
    whole = [float(every.losses(parameters, step)) for step in range(300)]
    assert np.mean(drawn) == pytest.approx(np.mean(whole), rel=0.1)


def test_the_value_is_recorded_before_its_weight_and_apart(tmp_path: Path) -> None:
    recipe = small(auxiliary={"kind": "nuclear", "weight": 1e-9}, training={"seeds": 2})
    folders = train(recipe, tmp_path / "prior")
    plain = train(small(training={"seeds": 2}), tmp_path / "plain")
    for seed, (folder, other) in enumerate(zip(folders, plain, strict=True)):
        history, without = (
            json.loads((place / "run.json").read_text())["history"] for place in (folder, other)
        )
        assert list(without) == [name for name in history if name != "auxiliary"]
        assert len(history["auxiliary"]) == len(history["step"])
        # so small a weight changes nothing that is seen in the cross-entropy
        np.testing.assert_allclose(history["train_loss"], without["train_loss"], rtol=1e-3)
        task = recipe.build_task()
        table = build_network(task, recipe.model).initial(seed)["embed.W_E"][: task.tokens]
        assert history["auxiliary"][0] == pytest.approx(float(nuclear_norm(table)), rel=1e-6)


def test_a_step_descends_the_weighted_sum(tmp_path: Path) -> None:
    recipe = small(
        "mlp",
        auxiliary={"kind": "nuclear", "weight": 0.25},
        training={"steps": 20, "lr": 1e-2},
        dtype="float64",
    )
    (folder,) = train(recipe, tmp_path)
    task = recipe.build_task()
    model = Naive(build_network(task, recipe.model).initial(0), recipe, torch.float64)
    rows = json.loads((folder / "run.json").read_text())["split"]["train"]
    inputs, answers = (torch.from_numpy(table[rows]) for table in (task.inputs, task.answers))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=1.0)
    for step in range(1, 21):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1, step / 10)
        optimiser.zero_grad()
        norms = [torch.linalg.matrix_norm(model[name], "nuc") for name in ("W_x", "W_y")]
        loss = torch.nn.functional.cross_entropy(model(inputs), answers)
        torch.autograd.backward(loss + 0.25 * (norms[0] + norms[1]) / 2)
        optimiser.step()
    from safetensors.numpy import load_file

    for name, array in load_file(max(folder.glob("*.safetensors"))).items():
        wanted = model[name].detach().numpy()
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7)


def test_geomdiag_reads_a_run_with_an_auxiliary_loss(tmp_path: Path) -> None:
    from geomdiag.checkpoints import open_runs

    train(small(auxiliary={"kind": "entropy"}), tmp_path)
    (series,) = open_runs(tmp_path).values()
    assert series.history is not None
    assert {"train_loss", "heldout_accuracy"} <= set(series.history.values)


# -- draws -------------------------------------------------------------------------------


def test_draws_depend_on_seed_stream_step_and_place_alone() -> None:
    together = Draws((3, 2**70, 0), 1, CPU).uniform(5, 40)
    for i, seed in enumerate((3, 2**70, 0)):
        alone = Draws((seed,), 1, CPU).uniform(5, 40)
        assert torch.equal(together[i], alone[0])
    # a longer draw begins with the shorter one
    assert torch.equal(Draws((3,), 1, CPU).uniform(5, 90)[:, :40], together[:1])
    others = [
        Draws((3,), 1, CPU).uniform(6, 40),
        Draws((3,), 2, CPU).uniform(5, 40),
        Draws((4,), 1, CPU).uniform(5, 40),
    ]
    for other in others:
        assert not torch.isin(other, together).any()


def test_draws_are_even_and_uncorrelated() -> None:
    draws = Draws(range(20), 1, CPU)
    values = torch.stack([draws.uniform(step, 500) for step in range(100)])  # a million
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values.float(), 64, 0, 1)
    chi = float(((counts - 1e6 / 64).square() / (1e6 / 64)).sum())
    assert chi < 63 + 6 * np.sqrt(2 * 63)
    centred = values - 0.5
    for first, second in (
        (centred[1:], centred[:-1]),  # steps
        (centred[:, 1:], centred[:, :-1]),  # seeds
        (centred[..., 1:], centred[..., :-1]),  # places
    ):
        products = first * second
        assert abs(float(products.mean())) < 5 / 12 / np.sqrt(products.numel())
    normal = draws.normal(0, 50_001)
    assert normal.shape == (20, 50_001)
    assert abs(float(normal.mean())) < 5e-3
    assert float(normal.var()) == pytest.approx(1, abs=1e-2)
    assert float((normal**4).mean()) == pytest.approx(3, abs=0.05)
    whole = draws.integers(0, 7000, 7)
    assert set(whole.flatten().tolist()) == set(range(7))
