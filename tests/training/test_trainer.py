from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_networks import Naive, small
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from geomdiag.errors import RecipeError, StoreError
from geomdiag.training import Progress, Recipe, stack, train
from geomdiag.training.networks import build_network


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[Progress], None]:
    def progress(event: Progress) -> None:
        if event.step >= at and not event.message:
            raise Killed

    return progress


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def last_weights(folder: Path) -> dict[str, NDArray[Any]]:
    weights: dict[str, NDArray[Any]] = load_file(max(folder.glob("*.safetensors")))
    return weights


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("modadd:p=5", "transformer"),
        ("modadd:p=5", "mlp"),
        ("comparison:3x2", "transformer"),
        ("graph:path-6", "transformer"),
        ("graph:path-6", "mlp"),
    ],
)
def test_twenty_steps_equal_a_plain_training_loop(tmp_path: Path, spec: str, kind: str) -> None:
    recipe = small(kind, task=spec, training={"steps": 20, "lr": 1e-2}, dtype="float64")
    (folder,) = train(recipe, tmp_path)

    task = recipe.build_task()
    model = Naive(build_network(task, recipe.model).initial(0), recipe, torch.float64)
    rows = run_json(folder)["split"]["train"]
    inputs, answers = (torch.from_numpy(table[rows]) for table in (task.inputs, task.answers))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=1.0)
    for step in range(1, 21):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1, step / 10)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), answers).backward()
        optimiser.step()
    found = last_weights(folder)
    assert set(found) == set(model.names)
    for name, array in found.items():
        wanted = model[name].detach().numpy()
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("split_seed", [3, "seed"])
def test_a_seed_does_not_depend_on_its_neighbours(
    tmp_path: Path, kind: str, split_seed: int | str
) -> None:
    def recipe(*seeds: int) -> Recipe:
        return small(kind, training={"seeds": list(seeds), "split_seed": split_seed})

    together = train(recipe(0, 5, 1), tmp_path / "together")
    for seed, folder in zip((0, 5, 1), together, strict=True):
        (alone,) = train(recipe(seed), tmp_path / "alone" / str(seed))
        assert alone.name == folder.name == f"seed={seed}"
        for name, array in last_weights(alone).items():
            np.testing.assert_allclose(last_weights(folder)[name], array, rtol=1e-4, atol=1e-6)
    weights = [last_weights(folder) for folder in together]
    assert not any(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_each_seed_may_draw_its_own_train_inputs(tmp_path: Path) -> None:
    shared = train(small(training={"seeds": 2, "split_seed": 3}), tmp_path / "shared")
    own = train(small(training={"seeds": 2, "split_seed": "seed"}), tmp_path / "own")
    first, second = (run_json(folder)["split"]["train"] for folder in shared)
    assert first == second == sorted(set(first))
    assert len(first) == int(0.6 * 25)
    wanted = [np.random.default_rng(seed).permutation(25)[:15] for seed in (0, 1)]
    for folder, rows in zip(own, wanted, strict=True):
        assert run_json(folder)["split"]["train"] == sorted(rows.tolist())


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_same_recipe_same_bytes(tmp_path: Path, kind: str) -> None:
    before = torch.get_num_threads()
    recipe = small(kind, training={"seeds": 2})
    train(recipe, tmp_path / "a")
    train(recipe, tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
@pytest.mark.parametrize("state_every", [0.0, 1e9])
def test_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, kind: str, state_every: float
) -> None:
    recipe = small(kind, training={"seeds": 2}, checkpoints={"accuracy_change": 0.01, "dense": 3})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole)
    for at in (0, 7, 30, 31, 55, 60):
        with pytest.raises(Killed):
            train(recipe, broken, progress=killer(at), state_every=state_every)
        assert run_json(broken / "small" / "seed=0")["finished"] is False
    messages: list[str] = []
    train(recipe, broken, progress=lambda event: messages.append(event.message))
    assert tree(whole) == tree(broken)
    assert any("resumed at step" in message for message in messages) == (state_every == 0)


def test_finished_says_so_and_does_nothing(tmp_path: Path) -> None:
    recipe = small()
    folders = train(recipe, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    events: list[Progress] = []
    assert train(recipe, tmp_path, progress=events.append) == folders
    assert [event.message for event in events] == [f"{tmp_path / 'small'} is already finished"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    # the device is no part of what makes a recipe
    train(replace(recipe, device="auto"), tmp_path)
    content = tree(tmp_path)
    train(recipe, tmp_path, resume=False, progress=events.append)
    assert len(events) > 2
    assert tree(tmp_path) == content


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"training": {"lr": 0.5}}, "training.lr = 0.001 there, 0.5 now"),
        ({"training": {"seeds": [1]}}, "training.seeds"),
        ({"task": "modadd:p=7"}, "task = 'modadd:p=5' there"),
        ({"kind": "mlp"}, "model.kind = 'transformer' there, 'mlp' now"),
    ],
)
def test_another_recipe_is_refused_before_training(
    tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    train(small(), tmp_path)
    content = tree(tmp_path)
    for resume in (True, False):
        with pytest.raises(RecipeError) as caught:
            train(small(**other), tmp_path, resume=resume)
        assert says in str(caught.value)
        assert "Choose another --out" in str(caught.value)
    assert tree(tmp_path) == content


def test_another_graph_in_the_same_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "line.edgelist"
    file.write_text("0 1\n1 2\n2 3\n")
    recipe = small(task=f"graph:{file}")
    (folder,) = train(recipe, tmp_path / "out")
    file.write_text("0 1\n1 2\n2 3\n3 0\n")
    with pytest.raises(RecipeError, match=r"another recipe \(task = 'graph:.*digest=.* now\)"):
        train(recipe, tmp_path / "out")
    assert run_json(folder)["task"].startswith("graph:")


def test_foreign_or_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "seed=0"
    folder.mkdir(parents=True)
    (folder / "step_000001.safetensors").write_bytes(b"somebody's")
    with pytest.raises(RecipeError, match="unknown whose checkpoints"):
        train(small(), tmp_path)
    (folder / "run.json").write_text("{}")
    with pytest.raises(RecipeError, match="not written by geomdiag"):
        train(small(), tmp_path)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "small").write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        train(small(), tmp_path / "file")
    with pytest.raises(Killed):
        train(small(), tmp_path / "state", progress=killer(40), state_every=0)
    state = tmp_path / "state" / "small" / ".training-state"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RecipeError, match=r"is damaged .*remove it"):
        train(small(), tmp_path / "state")


def test_unwritable_output_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        train(small(), tmp_path / "out")


def test_an_absent_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found 'tpu'"):
        train(small(), tmp_path, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="torch sees no GPU"):
            train(small(), tmp_path, device="cuda")


def check_metadata(recipe: Recipe, folder: Path) -> None:
    run = run_json(folder)
    task = recipe.build_task()
    steps = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata()
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
        steps.append(int(metadata["step"]))
        assert path.name == f"step_{steps[-1]:06d}.safetensors"
        assert (metadata["task"], metadata["seed"]) == (task.name, "0")
        assert json.loads(metadata["config"]) == run["config"]
        # what is stored is what the weights give
        model = Naive(load_file(path), recipe, torch.float64)
        logits = model(torch.from_numpy(task.inputs))
        losses = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(task.answers), reduction="none"
        )
        train_part = np.zeros(len(task.inputs), dtype=bool)
        train_part[run["split"]["train"]] = True
        row = run["history"]["step"].index(steps[-1])
        for part, rows in (("train", train_part), ("heldout", ~train_part)):
            loss = losses.detach().numpy()[rows].mean()
            right = (logits.argmax(1).numpy() == task.answers)[rows].mean()
            assert float(metadata[f"{part}_loss"]) == pytest.approx(loss, rel=1e-4)
            assert run["history"][f"{part}_loss"][row] == pytest.approx(loss, rel=1e-4)
            assert run["history"][f"{part}_accuracy"][row] == pytest.approx(right)
    assert steps[0] == 0
    assert steps[-1] == recipe.training.steps
    assert run["finished"] is True


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_files_say_what_they_hold(tmp_path: Path, kind: str) -> None:
    recipe = small(kind)
    (folder,) = train(recipe, tmp_path)
    check_metadata(recipe, folder)
    assert set(run_json(folder)["versions"]) == {"geomdiag", "numpy", "python", "torch"}
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("spec", "kind", "model"),
    [
        ("modadd:p=5", "transformer", {}),
        ("modadd:p=5", "transformer", {"equals_token": False}),
        ("modadd:p=5", "mlp", {}),
        ("modadd:p=5", "mlp", {"combine": "sum"}),
        ("graph:path-6", "transformer", {}),
        ("graph:path-6", "transformer", {"equals_token": False}),
        ("graph:path-6", "mlp", {}),
        ("comparison:3x2", "transformer", {}),
        ("comparison:3x2", "transformer", {"equals_token": False}),
        ("comparison:4,form=binary", "transformer", {}),
        ("group:D3", "transformer", {}),
        ("group:D3", "mlp", {}),
    ],
)
def test_geomdiag_reads_its_own_runs(
    tmp_path: Path, spec: str, kind: str, model: dict[str, Any]
) -> None:
    from geomdiag.checkpoints import open_runs
    from geomdiag.models import snapshot

    recipe = small(kind, task=spec, model=model, training={"seeds": [4, 2]})
    train(recipe, tmp_path)
    with pytest.raises(Killed):  # an unfinished training must not disturb
        train(replace(recipe, name="more"), tmp_path, progress=killer(30), state_every=0)
    task = recipe.build_task()
    runs = open_runs(tmp_path)
    assert len(runs) == 4
    series = next(series for name, series in runs.items() if "small/seed=2" in name)
    assert series.split is not None
    assert series.history is not None
    part = series.split.mask(task.inputs)
    shot = snapshot(series[-1], task, train=part, config=series.config)
    right = shot.logits.argmax(1) == task.answers
    stored = series.history.values
    assert right[part].mean() == pytest.approx(stored["train_accuracy"][-1])
    assert right[~part].mean() == pytest.approx(stored["heldout_accuracy"][-1])
    assert shot.swap_invariant == (model == {"combine": "sum"})


def test_progress_tells_the_curves(tmp_path: Path) -> None:
    events: list[Progress] = []
    (folder, _) = train(small(training={"seeds": 2}), tmp_path, progress=events.append)
    history = run_json(folder)["history"]
    assert [event.step for event in events] == history["step"]
    assert [event.train_loss[0] for event in events] == pytest.approx(history["train_loss"])
    assert events[-1].seeds == (0, 1)
    assert events[-1].checkpoints == len(list(tmp_path.rglob("*.safetensors")))


@pytest.mark.parametrize("auxiliary", [None, {"kind": "consistency", "tuples": 7}])
def test_seeds_in_groups_equal_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auxiliary: dict[str, Any] | None
) -> None:
    more = {} if auxiliary is None else {"auxiliary": auxiliary}
    recipe = small(training={"seeds": 5, "split_seed": "seed"}, dtype="float64", **more)
    together = train(recipe, tmp_path / "together")
    # 15 inputs, 12 hidden units, 8 bytes: two seeds, two, and one
    monkeypatch.setattr(stack, "_STEP_BYTES", 2 * 15 * 12 * 8)
    groups: list[int] = []
    original = stack.Stack.learn

    def learn(self: stack.Stack, step: int, *, descend: bool) -> Any:
        logits, losses = original(self, step, descend=descend)
        groups[:] = map(len, logits)
        return logits, losses

    monkeypatch.setattr(stack.Stack, "learn", learn)
    apart = train(recipe, tmp_path / "apart")
    assert groups == [2, 2, 1]
    for one, other in zip(together, apart, strict=True):
        for name, array in last_weights(one).items():
            np.testing.assert_allclose(last_weights(other)[name], array, rtol=1e-5, atol=1e-7)
        histories = [run_json(folder)["history"] for folder in (one, other)]
        for name, values in histories[0].items():
            assert histories[1][name] == pytest.approx(values, rel=1e-6), name
