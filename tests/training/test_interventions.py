from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_networks import Naive, small
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

from geomdiag.training import Progress, Recipe, Training, train
from geomdiag.training.data import noisy_answers, train_rows
from geomdiag.training.networks import build_network
from geomdiag.training.optimiser import Matrix, Muon

#: Every intervention that changes how a step is taken or what it is taken on.
INTERVENTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"training": {"optimiser": "sgd", "lr": 0.1, "weight_decay": 1e-3}},
    "muon": {"training": {"optimiser": "muon", "lr": 1e-2}},
    "grokfast": {"training": {"grokfast": 2.0, "grokfast_decay": 0.9}},
    "muon and grokfast": {"training": {"optimiser": "muon", "grokfast": 1.0}},
    "noise": {"training": {"label_noise": 0.2}},
    "scales": {"model": {"output_scale": 3.0, "embedding_init_scale": 0.5}},
    "nuclear": {"auxiliary": {"kind": "nuclear", "weight": 0.01}},
    "entropy": {"auxiliary": {"kind": "entropy"}},
    "lipschitz": {"auxiliary": {"kind": "lipschitz", "tuples": 7}},
    "prompt": {"auxiliary": {"kind": "consistency", "tuples": 7}},
    "prompt of all": {"auxiliary": {"kind": "associativity"}},
}


def run_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def last_weights(folder: Path) -> dict[str, NDArray[Any]]:
    weights: dict[str, NDArray[Any]] = load_file(max(folder.glob("*.safetensors")))
    return weights


def merged(sections: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {**sections, "training": {**sections.get("training", {}), **training}}


def plain_loop(
    recipe: Recipe,
    make: Callable[[Naive], list[torch.optim.Optimizer]],
    *,
    filtered: Callable[[Naive], None] = lambda _: None,
) -> Naive:
    """Train seed 0 as anybody would, with torch's own optimisers."""
    task = recipe.build_task()
    model = Naive(build_network(task, recipe.model).initial(0), recipe, torch.float64)
    settings = recipe.training
    rows = train_rows(task, settings.train_fraction, 0)
    inputs, answers = (torch.from_numpy(table[rows]) for table in (task.inputs, task.answers))
    optimisers = make(model)
    for step in range(1, settings.steps + 1):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * min(1, step / settings.warmup)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), answers).backward()
        filtered(model)
        for optimiser in optimisers:
            optimiser.step()
    return model


def assert_same_weights(folder: Path, model: Naive) -> None:
    found = last_weights(folder)
    assert set(found) == set(model.names)
    for name, array in found.items():
        wanted = model[name].detach().numpy()
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_torchs(tmp_path: Path, kind: str, momentum: float) -> None:
    settings = {"steps": 20, "lr": 0.05, "optimiser": "sgd", "momentum": momentum}
    recipe = small(kind, training={**settings, "weight_decay": 0.01}, dtype="float64")
    (folder,) = train(recipe, tmp_path)
    model = plain_loop(
        recipe,
        lambda m: [torch.optim.SGD(m.parameters(), momentum=momentum, weight_decay=0.01)],
    )
    assert_same_weights(folder, model)


def as_linear(name: str, array: Tensor) -> Tensor:
    """A matrix as ``nn.Linear`` would hold it, (out, in), heads side by side."""
    if name.rpartition("_")[0].endswith("attn.W") and array.ndim == 3:
        joined = array.flatten(0, 1) if name.endswith("O") else torch.cat(list(array), dim=1)
        return joined.T
    return array if name == "l1.weight" else array.T


def from_linear(name: str, matrix: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 3:
        heads = len(like)
        if name.endswith("O"):
            return matrix.T.reshape(like.shape)
        return torch.stack(matrix.T.chunk(heads, dim=1))
    return matrix if name == "l1.weight" else matrix.T


class Muons(torch.optim.Optimizer):
    """torch's Muon on the matrices of a naive network, each as ``nn.Linear`` would hold it."""

    def __init__(self, model: Naive, names: list[str], **settings: Any) -> None:
        self.model, self.names = model, names
        self.copies = [
            torch.nn.Parameter(as_linear(name, model[name].detach()).clone()) for name in names
        ]
        self.muon = torch.optim.Muon(self.copies, **settings)
        super().__init__(self.copies, {})
        self.param_groups = self.muon.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for name, copy in zip(self.names, self.copies, strict=True):
            gradient = self.model[name].grad
            assert gradient is not None
            copy.grad = as_linear(name, gradient).clone()
        self.muon.step()
        for name, copy in zip(self.names, self.copies, strict=True):
            self.model[name].copy_(from_linear(name, copy.detach(), self.model[name]))


HIDDEN = {
    "transformer": [f"blocks.0.attn.W_{c}" for c in "QKVO"]
    + ["blocks.0.mlp.W_in", "blocks.0.mlp.W_out"],
    "concatenate": ["W"],
    "sum": ["l1.weight"],
}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("form", HIDDEN)
def test_muon_equals_torchs(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "transformer" if form == "transformer" else "mlp"
    recipe = small(
        kind,
        model={} if kind == "transformer" else {"combine": form},
        training={"steps": 20, "lr": 1e-2, "optimiser": "muon", "momentum": 0.8},
        dtype="float64",
    )
    (folder,) = train(recipe, tmp_path)
    # theirs rounds to bfloat16 on the way; the rest of the arithmetic is what is compared
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    hidden = HIDDEN[form]

    def make(model: Naive) -> list[torch.optim.Optimizer]:
        rest = [model[name] for name in model.names if name not in hidden]
        return [
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=1.0),
            Muons(model, hidden, momentum=0.8, weight_decay=1.0),
        ]

    assert_same_weights(folder, plain_loop(recipe, make))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize(("rows", "columns"), [(6, 11), (12, 5)])
def test_muon_differs_from_torchs_by_bfloat16_only(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, rows, columns, generator=generator)
    flat = start.flatten().clone()
    matrix = Matrix(slice(0, flat.numel()), tuple(start.shape), (0,), (1,))
    settings = Training(steps=5, lr=0.1, weight_decay=0.0, warmup=0, optimiser="muon")
    ours = Muon(flat, [settings], matrices={"all": matrix})
    theirs = [torch.nn.Parameter(one.clone()) for one in start]
    reference = torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.0)
    for _ in range(5):
        gradients = torch.randn(start.shape, generator=generator)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        ours.gradient.copy_(gradients.flatten())
        ours.update()
    moved = flat.view(start.shape) - start
    for one, parameter, before in zip(moved, theirs, start, strict=True):
        wanted = parameter.detach() - before
        assert (one - wanted).norm() < 0.02 * wanted.norm()


def test_grokfast_equals_a_written_out_loop(tmp_path: Path) -> None:
    recipe = small(
        training={"steps": 20, "lr": 1e-2, "grokfast": 1.5, "grokfast_decay": 0.7},
        dtype="float64",
    )
    (folder,) = train(recipe, tmp_path)
    slow: dict[str, Tensor] = {}

    def filtered(model: Naive) -> None:
        for name in model.names:
            gradient = model[name].grad
            assert gradient is not None
            before = slow.get(name, gradient.clone())
            slow[name] = 0.7 * before + (1 - 0.7) * gradient
            gradient += 1.5 * slow[name]

    model = plain_loop(
        recipe,
        lambda m: [torch.optim.AdamW(m.parameters(), betas=(0.9, 0.98), weight_decay=1.0)],
        filtered=filtered,
    )
    assert_same_weights(folder, model)


def test_the_output_scale_is_in_the_stored_weights(tmp_path: Path) -> None:
    from geomdiag.checkpoints import open_runs
    from geomdiag.models import snapshot

    for kind, combine in (("transformer", None), ("mlp", "concatenate"), ("mlp", "sum")):
        model: dict[str, Any] = {"output_scale": 5.0}
        if combine:
            model["combine"] = combine
        out = tmp_path / f"{kind}{combine}"
        recipe = small(kind, model=model, training={"steps": 20, "lr": 1e-2}, dtype="float64")
        (folder,) = train(recipe, out)
        # what the run recorded is what anybody finds who runs the checkpoint
        task = recipe.build_task()
        (series,) = open_runs(out).values()
        shot = snapshot(series[-1], task, config=series.config)
        log_p = torch.from_numpy(np.asarray(shot.logits, dtype=np.float64)).log_softmax(1).numpy()
        rows = run_json(folder)["split"]["train"]
        loss = -log_p[rows, task.answers[rows]].mean()
        history = run_json(folder)["history"]
        assert history["train_loss"][-1] == pytest.approx(loss, rel=1e-5)
        # at the beginning only the read-out is larger
        first = load_file(min(folder.glob("*.safetensors")))
        network = build_network(task, recipe.model)
        for name, array in network.initial(0).items():
            factor = 5.0 if name == network.readout else 1.0
            np.testing.assert_allclose(first[name], factor * array, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "combine", "tables"),
    [
        ("transformer", None, {"embed.W_E"}),
        ("mlp", "concatenate", {"W_x", "W_y"}),
        ("mlp", "sum", {"embed.weight"}),
    ],
)
def test_the_embedding_begins_larger(kind: str, combine: str | None, tables: set[str]) -> None:
    given = {"combine": combine} if combine else {}
    plain, larger = (
        small(kind, model={**given, "embedding_init_scale": factor}) for factor in (1.0, 3.0)
    )
    task = plain.build_task()
    before = build_network(task, plain.model).initial(2)
    after = build_network(task, larger.model).initial(2)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], (3.0 if name in tables else 1.0) * array)


# -- label noise -------------------------------------------------------------------------


def test_wrong_answers_are_evenly_drawn_other_classes() -> None:
    task = small(task="modadd:p=7").build_task()
    rows = train_rows(task, 0.8, 0)
    counts = np.zeros(task.classes)
    for seed in range(300):
        wrong, answers = noisy_answers(task, rows, 0.25, seed)
        assert len(wrong) == round(0.25 * len(rows)) == 10
        assert set(wrong) <= set(rows)
        assert (np.diff(wrong) > 0).all()
        assert (answers != task.answers[wrong]).all()
        counts += np.bincount((answers - task.answers[wrong]) % 7, minlength=7)
    assert counts[0] == 0
    # 3000 draws over 6: within 5 standard deviations of 500
    assert (abs(counts[1:] - 500) < 5 * np.sqrt(3000 * 5 / 36)).all()
    everything, _ = noisy_answers(task, rows, 1.0, 0)
    np.testing.assert_array_equal(everything, rows)


def test_noise_follows_the_split_and_is_recorded(tmp_path: Path) -> None:
    settings = {"label_noise": 0.2, "seeds": 2}
    shared = [run_json(f) for f in train(small(training=settings), tmp_path / "shared")]
    assert shared[0]["label_noise"] == shared[1]["label_noise"]
    assert len(shared[0]["label_noise"]["rows"]) == 3
    own = train(small(training={**settings, "split_seed": "seed"}), tmp_path / "own")
    noise = [run_json(folder)["label_noise"] for folder in own]
    assert noise[0] == shared[0]["label_noise"]
    assert noise[0] != noise[1]
    assert "label_noise" not in run_json(train(small(), tmp_path / "plain")[0])
    # the split itself stays
    assert run_json(own[0])["split"] == run_json(tmp_path / "plain" / "small" / "seed=0")["split"]


def test_the_curves_are_of_the_answers_that_are_trained_on(tmp_path: Path) -> None:
    recipe = small(training={"label_noise": 0.4, "seeds": [3], "split_seed": "seed"})
    (folder,) = train(recipe, tmp_path)
    run = run_json(folder)
    task = recipe.build_task()
    answers = task.answers.copy()
    answers[run["label_noise"]["rows"]] = run["label_noise"]["answers"]
    model = Naive(last_weights(folder), recipe, torch.float64)
    losses = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(task.inputs)), torch.from_numpy(answers), reduction="none"
    )
    part = np.zeros(len(answers), dtype=bool)
    part[run["split"]["train"]] = True
    for name, rows in (("train", part), ("heldout", ~part)):
        wanted = losses.detach().numpy()[rows].mean()
        assert run["history"][f"{name}_loss"][-1] == pytest.approx(wanted, rel=1e-4)


# -- all of them -------------------------------------------------------------------------


class Killed(Exception):
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    recipe = small(**merged(INTERVENTIONS[name], seeds=2, split_seed="seed"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole)
    for at in (1, 30, 55):

        def stop(event: Progress, at: int = at) -> None:
            if event.step >= at and not event.message:
                raise Killed

        with pytest.raises(Killed):
            train(recipe, broken, progress=stop, state_every=0)
    messages: list[str] = []
    train(recipe, broken, progress=lambda event: messages.append(event.message))
    assert any("resumed at step" in message for message in messages)
    assert files(whole) == files(broken)


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_a_seed_does_not_depend_on_its_neighbours(tmp_path: Path, name: str, kind: str) -> None:
    settings = merged(INTERVENTIONS[name], steps=30, split_seed="seed")
    seeds = (0, 5, 1)
    every = merged(settings, seeds=list(seeds))
    together = train(small(kind, **every, dtype="float64"), tmp_path / "all")
    for seed, folder in zip(seeds, together, strict=True):
        own = merged(settings, seeds=[seed])
        (alone,) = train(small(kind, **own, dtype="float64"), tmp_path / str(seed))
        for part, array in last_weights(alone).items():
            np.testing.assert_allclose(last_weights(folder)[part], array, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_intervention_changes_the_run_and_is_recorded(tmp_path: Path, name: str) -> None:
    (plain,) = train(small(), tmp_path / "plain")
    (folder,) = train(small(**dict(INTERVENTIONS[name])), tmp_path / "changed")
    before, after = last_weights(plain), last_weights(folder)
    assert any(not np.allclose(before[part], after[part]) for part in before)
    stored = run_json(folder)["recipe"]
    for section, values in INTERVENTIONS[name].items():
        for key, value in values.items():
            assert stored[section][key] == value
    # keys that nobody set do not stand in a run, so that older runs stay what they were
    untouched = run_json(plain)["recipe"]
    assert set(untouched) == {"name", "task", "training", "model", "checkpoints", "dtype"}
    assert not {"optimiser", "grokfast", "label_noise"} & set(untouched["training"])
    assert not {"output_scale", "embedding_init_scale"} & set(untouched["model"])
