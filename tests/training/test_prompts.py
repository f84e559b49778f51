from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from naive_networks import small
from safetensors.numpy import load_file
from torch import Tensor

import geomdiag as gd
from geomdiag.errors import RecipeError
from geomdiag.metrics.composition import composition_violation
from geomdiag.metrics.divergence import symmetric_kl
from geomdiag.tasks.contract import Composition, Equivalence, Task
from geomdiag.training import Progress, prompts, train
from geomdiag.training.networks import StackedNetwork, build_network
from geomdiag.training.prompts import SymmetryPrompt

CPU = torch.device("cpu")
SEEDS = (3, 0, 11)
#: Edges of different lengths, so that some distances add up to no class.
UNEVEN = nx.Graph()
UNEVEN.add_weighted_edges_from((i, (i + 1) % 6, length) for i, length in enumerate([1, 1, 2.5] * 2))

TASKS = {
    "modadd": gd.task("modadd:p=7"),
    "modsub": gd.task("modsub:p=7"),
    "modmul": gd.task("modmul:p=7"),
    "modaffine": gd.task("modaffine:p=7"),
    "modsquare": gd.task("modsquare:p=7"),
    "cycle": gd.task("graph:cycle-6"),
    "path": gd.task("graph:path-5"),
    "lattice": gd.task("graph:lattice-2x3"),
    "uneven": gd.task("graph", graph=UNEVEN),
    "comparison": gd.task("comparison:3x3"),
    "comparison, binary": gd.task("comparison:4,form=binary"),
    "S3": gd.task("group:S3"),
    "Z2xZ3": gd.task("group:Z2xZ3"),
}
PROMPTS = [(key, one.name) for key, task in TASKS.items() for one in task.symmetries]


def stacked(task: Task, seeds: Sequence[int] = SEEDS) -> tuple[StackedNetwork, dict[str, Tensor]]:
    """Return tiny networks in double precision, far from alike in what they answer."""
    network = build_network(task, small("transformer", model={"init_scale": 1.6}).model)
    arrays = [network.initial(seed) for seed in seeds]
    return network, {
        name: torch.from_numpy(np.stack([each[name] for each in arrays])) for name in arrays[0]
    }


def log_probabilities(task: Task, network: StackedNetwork, parameters: dict[str, Tensor]) -> Tensor:
    """Return those of all inputs, (seeds, inputs, classes)."""
    inputs = torch.from_numpy(task.inputs.T.copy())[:, None].expand(-1, len(SEEDS), -1)
    return network.logits(parameters, inputs).detach().log_softmax(-1)


def symmetry(task: Task, name: str) -> Equivalence | Composition:
    return next(one for one in task.symmetries if one.name == name)


def all_instances(task: Task, name: str) -> list[tuple[int, ...]]:
    """Return the inputs of each instance, written out."""
    one = symmetry(task, name)
    if isinstance(one, Composition):
        return [(a, *b) for a, b in zip(one.whole.tolist(), one.parts.tolist(), strict=True)]
    found = [] if one.pairs is None else [tuple(pair) for pair in one.pairs.tolist()]
    if one.orbits is not None:
        for label in np.unique(one.orbits[one.orbits >= 0]):
            inside = np.flatnonzero(one.orbits == label).tolist()
            found += [(i, j) for i in inside for j in inside]
    return found


def violation_of(task: Task, name: str, log_p: Tensor, rows: Sequence[int]) -> float:
    """Return the violation of one instance."""
    one = symmetry(task, name)
    if isinstance(one, Composition):
        whole, *parts = rows
        said = {"rule": one.rule, "odds": one.odds, "sums": one.sums}
        return composition_violation(log_p, whole=[whole], parts=[parts], **said).kl["mean"]
    ends = [log_p[i] for i in rows]
    if one.alignment is not None and one.relabelling is not None:
        ends = [
            end[torch.from_numpy(one.relabelling[one.alignment[i]].copy())]
            for end, i in zip(ends, rows, strict=True)
        ]
    return float(symmetric_kl(*ends))


@pytest.mark.parametrize(("key", "name"), PROMPTS)
def test_all_instances_give_the_analyzers_number(key: str, name: str) -> None:
    task = TASKS[key]
    network, parameters = stacked(task)
    found = SymmetryPrompt(task, [name], 0, SEEDS, CPU).losses(network, parameters, 5)
    assert found.dtype == torch.float64
    assert len(set(found.tolist())) == len(SEEDS)
    for value, log_p in zip(found, log_probabilities(task, network, parameters), strict=True):
        expected = gd.symmetry_violation(log_p, task).sel(symmetry=name, statistic="mean")
        assert float(value) == pytest.approx(float(expected), rel=1e-11)
        assert value > 1e-3


@pytest.mark.parametrize("tuples", [3, 400], ids=["drawn inputs", "all inputs once"])
@pytest.mark.parametrize(("key", "name"), PROMPTS)
def test_the_loss_is_the_mean_over_what_was_drawn(key: str, name: str, tuples: int) -> None:
    task = TASKS[key]
    network, parameters = stacked(task)
    prompt = SymmetryPrompt(task, [name], tuples, SEEDS, CPU)
    assert (prompt.place is None) == (tuples == 3)
    found = prompt.losses(network, parameters, 8)
    (rows,) = prompt.rows(8)
    log_p = log_probabilities(task, network, parameters)
    possible = set(all_instances(task, name))
    for k, value in enumerate(found.tolist()):
        drawn = list(zip(*rows[:, k].tolist(), strict=True))
        assert len(drawn) == tuples
        assert set(drawn) <= possible
        expected = np.mean([violation_of(task, name, log_p[k], each) for each in drawn])
        assert value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("key", "name"), PROMPTS)
def test_every_instance_is_drawn_as_often_as_it_stands(key: str, name: str) -> None:
    task = TASKS[key]
    wanted: dict[tuple[int, ...], int] = {}
    for each in all_instances(task, name):
        wanted[each] = wanted.get(each, 0) + 1
    total = sum(wanted.values())
    draws = 60 * total
    (rows,) = SymmetryPrompt(task, [name], draws, SEEDS[:1], CPU).rows(2)
    drawn, counts = np.unique(rows[:, 0].numpy().T, axis=0, return_counts=True)
    assert {tuple(each) for each in drawn.tolist()} == set(wanted)
    expected = np.array([60.0 * wanted[tuple(each)] for each in drawn.tolist()])
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize(("key", "name"), PROMPTS)
def test_the_mean_over_steps_is_the_full_violation(key: str, name: str) -> None:
    task = TASKS[key]
    network, parameters = stacked(task)
    full = SymmetryPrompt(task, [name], 0, SEEDS, CPU).losses(network, parameters, 0)
    prompt = SymmetryPrompt(task, [name], 200, SEEDS, CPU)
    with torch.no_grad():
        drawn = torch.stack([prompt.losses(network, parameters, step) for step in range(60)])
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert (error > 0).all()
    assert (abs(drawn.mean(0) - full) < 4.5 * error).all()


def test_orbits_and_listed_pairs_of_one_symmetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task of ours has both, but a task may; and inputs outside of all orbits."""
    task = gd.task("modadd:p=3")
    both = Equivalence(
        name="both",
        orbits=np.array([4, -1, 7, 4, 4, -1, 7, 9, -1]),
        pairs=np.array([[1, 5], [1, 0], [8, 8]]),
        alignment=np.arange(9) % 2,
        relabelling=np.array([[0, 1, 2], [2, 0, 1]]),
    )
    monkeypatch.setitem(task.__dict__, "symmetries", (both,))
    assert both.instances() == 9 + 4 + 1 + 3
    prompt = SymmetryPrompt(task, ["both"], 17_000, [0], CPU)
    (rows,) = prompt.rows(0)
    counts: dict[tuple[int, ...], int] = {}
    for each in zip(*rows[:, 0].tolist(), strict=True):
        counts[each] = counts.get(each, 0) + 1
    assert set(counts) == set(all_instances(task, "both"))
    assert all(abs(count - 1000) < 5 * np.sqrt(1000) for count in counts.values())
    network, parameters = stacked(task, SEEDS[:1])
    full = SymmetryPrompt(task, ["both"], 0, [0], CPU).losses(network, parameters, 0)
    sampled = prompt.losses(network, parameters, 0)
    assert float(sampled) == pytest.approx(float(full), rel=0.05)


def test_names_are_added_and_draw_as_they_would_alone() -> None:
    task = TASKS["modadd"]
    network, parameters = stacked(task)
    names = ("commutativity", "associativity")
    for tuples in (0, 5, 300):
        together = SymmetryPrompt(task, names, tuples, SEEDS, CPU)
        alone = [SymmetryPrompt(task, [name], tuples, SEEDS, CPU) for name in names]
        expected = sum(each.losses(network, parameters, 4) for each in alone)
        torch.testing.assert_close(
            together.losses(network, parameters, 4), expected, rtol=1e-11, atol=0
        )
        if tuples:
            for rows, each in zip(together.rows(4), alone, strict=True):
                assert torch.equal(rows, each.rows(4)[0])


@pytest.mark.parametrize(("key", "name"), PROMPTS)
@pytest.mark.parametrize("tuples", [0, 4, 300])
def test_seeds_do_not_mix(key: str, name: str, tuples: int) -> None:
    task = TASKS[key]
    network, parameters = stacked(task)
    together = SymmetryPrompt(task, [name], tuples, SEEDS, CPU)
    losses = together.losses(network, parameters, 9)
    for k, seed in enumerate(SEEDS):
        alone = SymmetryPrompt(task, [name], tuples, [seed], CPU)
        own = {key: value[k : k + 1] for key, value in parameters.items()}
        torch.testing.assert_close(
            alone.losses(network, own, 9)[0], losses[k], rtol=1e-12, atol=1e-15
        )
        if tuples:
            assert torch.equal(alone.rows(9)[0][:, 0], together.rows(9)[0][:, k])
            assert not torch.equal(alone.rows(9)[0], alone.rows(10)[0])


@pytest.mark.parametrize(("key", "name"), PROMPTS)
@pytest.mark.parametrize("tuples", [0, 3, 60])
def test_the_gradient_is_that_of_finite_differences(key: str, name: str, tuples: int) -> None:
    task = TASKS[key]
    network, parameters = stacked(task)
    prompt = SymmetryPrompt(task, [name], tuples, SEEDS, CPU)
    for value in parameters.values():
        value.requires_grad_()
    losses = prompt.losses(network, parameters, 1)
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
    generator = torch.Generator().manual_seed(0)
    # in a few random directions; so small a step seldom meets a corner of a ReLU
    for _ in range(3):
        directions = [
            torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for value in parameters.values()
        ]
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        ends = []
        for sign in (-1, 1):
            moved = {
                name: value.detach() + sign * 1e-6 * direction
                for (name, value), direction in zip(parameters.items(), directions, strict=True)
            }
            ends.append(float(prompt.losses(network, moved, 1).sum()))
        assert slope == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-4, abs=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_a_network_with_the_symmetry_is_not_punished() -> None:
    recipe = small("mlp", model={"combine": "sum"}, dtype="float64")
    task = recipe.build_task()
    network = build_network(task, recipe.model)
    parameters = {name: torch.from_numpy(a[None]) for name, a in network.initial(0).items()}
    for tuples in (0, 7, 100):
        prompt = SymmetryPrompt(task, ["commutativity"], tuples, [0], CPU)
        assert float(prompt.losses(network, parameters, 0)) < 1e-28


def test_orbits_of_many_inputs_are_not_listed() -> None:
    """One orbit of 12 769 inputs has 163 million pairs."""
    task = gd.task("modadd:p=113")
    prompt = SymmetryPrompt(task, ["translation"], 6, SEEDS, CPU)
    (rows,) = prompt.rows(0)
    assert rows.shape == (2, 3, 6)
    assert len(rows.unique()) > 30
    assert rows.min() >= 0
    assert rows.max() > 6000


def test_what_a_task_has_not_is_refused() -> None:
    def refused(spec: str, name: str, tuples: int = 5, seeds: Sequence[int] = SEEDS) -> str:
        with pytest.raises(RecipeError) as caught:
            SymmetryPrompt(gd.task(spec), [name], tuples, seeds, CPU)
        return str(caught.value)

    assert refused("modadd:p=5", "triangle") == (
        "[auxiliary] kind: found 'triangle', which modadd:p=5 does not have; expected one of "
        "'commutativity', 'associativity', 'translation'"
    )
    assert "commutativity" in refused("group:S3", "commutativity")
    message = refused("comparison:2x2", "transitivity")
    assert "(no attribute of 2x2 has three ranks)" in message
    assert "expected one of 'antisymmetry'" in message


def test_more_instances_than_memory_must_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, wide in (("cycle", 4), ("uneven", None)):
        task = TASKS[key]
        one: Any = symmetry(task, "triangle")
        values = len(one.whole) * (wide or int((one.sums >= 0).sum())) * len(SEEDS)
        monkeypatch.setattr(prompts, "_MOST", values)
        SymmetryPrompt(task, ["triangle"], 0, SEEDS, CPU)
        monkeypatch.setattr(prompts, "_MOST", values - 1)
        with pytest.raises(RecipeError, match=r"tuples: found 0, .* with 3 seeds expected at most"):
            SymmetryPrompt(task, ["triangle"], 0, SEEDS, CPU)
        SymmetryPrompt(task, ["triangle"], 5, SEEDS, CPU)
        SymmetryPrompt(task, ["reversal"], 0, SEEDS, CPU)


#: Through the trainer: recipe task, prompt, and how many instances a step.
TRAININGS = [
    ("modadd:p=5", "consistency", 6),
    ("modadd:p=5", "consistency", 200),
    ("modadd:p=5", "translation", 0),
    ("graph:path-5", "triangle", 9),
    ("comparison:3x2", "transitivity", 9),
    ("comparison:3x2", "antisymmetry", 0),
    ("group:S3", "associativity", 9),
]


def trained(
    out: Path, spec: str, kind: str, tuples: int, seeds: Sequence[int], **settings: Any
) -> list[Path]:
    recipe = small(
        task=spec,
        training={"steps": 40, "seeds": list(seeds), "split_seed": "seed"},
        auxiliary={"kind": kind, "tuples": tuples},
        dtype="float64",
    )
    return train(recipe, out, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killed(Exception):
    pass


@pytest.mark.parametrize(("spec", "kind", "tuples"), TRAININGS)
def test_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, spec: str, kind: str, tuples: int
) -> None:
    trained(tmp_path / "whole", spec, kind, tuples, [4, 2])
    for at in (1, 15, 30):

        def stop(event: Progress, at: int = at) -> None:
            if event.step >= at and not event.message:
                raise Killed

        with pytest.raises(Killed):
            trained(tmp_path / "broken", spec, kind, tuples, [4, 2], progress=stop, state_every=0.0)
    trained(tmp_path / "broken", spec, kind, tuples, [4, 2])
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")


@pytest.mark.parametrize(("spec", "kind", "tuples"), TRAININGS)
def test_prompted_seeds_train_as_they_would_alone(
    tmp_path: Path, spec: str, kind: str, tuples: int
) -> None:
    together = trained(tmp_path / "together", spec, kind, tuples, [4, 2])
    for seed, folder in zip((4, 2), together, strict=True):
        (alone,) = trained(tmp_path / str(seed), spec, kind, tuples, [seed])
        first, second = (load_file(max(each.glob("*.safetensors"))) for each in (folder, alone))
        for name, array in first.items():
            np.testing.assert_allclose(array, second[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("spec", "kind"), [(spec, kind) for spec, kind, _ in TRAININGS[1:]])
def test_the_recorded_loss_is_what_the_analysis_finds(tmp_path: Path, spec: str, kind: str) -> None:
    """All the way round: trainer, checkpoint, architecture, analyzer."""
    (folder,) = trained(tmp_path, spec, kind, 0, [4])
    history = json.loads((folder / "run.json").read_text())["history"]
    node = next(iter(gd.analyze(folder, spec, analyzers=["symmetry"]).children.values()))
    names = ["commutativity", "associativity"] if kind == "consistency" else [kind]
    measured = node["symmetry_violation"].sel(symmetry=names, statistic="mean").sum("symmetry")
    recorded = dict(zip(history["step"], history["auxiliary"], strict=True))
    steps = measured["step"].values.tolist()
    assert len(steps) >= 6
    np.testing.assert_allclose(
        measured.values, [recorded[step] for step in steps], rtol=2e-5, atol=1e-9
    )
