from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from geomdiag.training import Progress, TransformerModel, load_recipe, sweep_name, train
from geomdiag.training.files import check_folder, is_finished
from geomdiag.training.networks import build_network

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
#: Least ratio of generalised to memorised step, checkpoints, and bytes at most.
RECORDED = {
    "modadd-p31-transformer": (5, 56, 6e6),
    "modadd-p31-mlp": (5, 54, 6e6),
    "graph-hypercube-5-transformer": (1.5, 18, 4e6),
    "comparison-5x5-transformer": (5, 30, 4e6),
    "group-S4-mlp": (5, 47, 4e6),
}
RECIPES = sorted(path for path in (FIXTURES / "recipes").glob("*.toml") if sweep_name(path) is None)
#: Those that train in minutes on one core; the others are the published settings.
SMALL = [path for path in RECIPES if load_recipe(path).training.steps < 100_000]


class Enough(Exception):
    pass


def stop(event: Progress) -> None:
    if event.step >= 50:
        raise Enough


def history_of(name: str) -> dict[str, list[Any]]:
    run = json.loads((FIXTURES / "series" / name / "seed=0" / "run.json").read_text())
    history: dict[str, list[Any]] = run["history"]
    return history


def from_then_on(steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> int:
    """First step from which the values stay >= 0.99."""
    below = np.flatnonzero(values < 0.99)
    return int(steps[below[-1] + 1 if len(below) else 0])


def test_every_recorded_series_is_known() -> None:
    assert {path.name for path in (FIXTURES / "series").iterdir()} == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_series_memorise_first_and_generalise_later(name: str) -> None:
    ratio, checkpoints, most_bytes = RECORDED[name]
    recipe = load_recipe(FIXTURES / "recipes" / f"{name}.toml")
    (folder,) = check_folder(FIXTURES / "series", recipe, recipe.build_task().name)
    assert is_finished(FIXTURES / "series", recipe)
    history = history_of(name)
    steps, train_accuracy, heldout_accuracy = (
        np.array(history[key]) for key in ("step", "train_accuracy", "heldout_accuracy")
    )
    memorised = from_then_on(steps, train_accuracy)
    generalised = from_then_on(steps, heldout_accuracy)
    assert generalised >= ratio * memorised
    assert train_accuracy[-1] == 1
    assert (heldout_accuracy[steps >= 0.9 * steps[-1]] == 1).all()
    paths = list(folder.glob("*.safetensors"))
    assert len(paths) == checkpoints
    assert sum(path.stat().st_size for path in folder.iterdir()) < most_bytes


@pytest.mark.parametrize("name", RECORDED)
def test_first_steps_come_out_as_recorded(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(FIXTURES / "recipes" / f"{name}.toml")
    with pytest.raises(Enough):
        train(recipe, tmp_path, progress=stop)
    again = tmp_path / name / "seed=0"
    recorded = FIXTURES / "series" / name / "seed=0"
    compared = 0
    for path in sorted(recorded.glob("step_0000[0-4]?.safetensors")):
        new, old = load_file(again / path.name), load_file(path)
        assert list(new) == list(old)
        compared += 1
        for part in old:
            # another processor sums in another order, and Adam divides by tiny gradients
            difference = np.linalg.norm(new[part] - old[part])
            assert difference <= 1e-3 * np.linalg.norm(old[part]) + 1e-6, (path.name, part)
    assert compared >= 6
    splits = [json.loads((run / "run.json").read_text())["split"] for run in (again, recorded)]
    assert splits[0] == splits[1]


def test_every_recipe_has_its_own_name() -> None:
    assert {path.stem for path in RECIPES} == {load_recipe(path).name for path in RECIPES}


def test_the_page_lists_every_recipe_with_what_it_reaches() -> None:
    page = (FIXTURES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    listed = page[page.index("## Recipes") :]
    for path in RECIPES:
        assert f"`{path.stem}`" in listed
    for name in RECORDED:
        row = next(line for line in listed.splitlines() if line.startswith(f"| `{name}` "))
        history = history_of(name)
        reached = [
            from_then_on(np.array(history["step"]), np.array(history[f"{part}_accuracy"]))
            for part in ("train", "heldout")
        ]
        if name.startswith("modadd"):  # recorded on another machine than the row
            assert all(f"{step}" in listed for step in reached[1:])
        else:
            cells = row.split("|")
            assert [int(cells[4]), int(cells[6])] == reached


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_task_and_runs_forward(path: Path) -> None:
    recipe = load_recipe(path)
    task = recipe.build_task()
    network = build_network(task, recipe.model)
    parameters = {name: torch.from_numpy(array)[None] for name, array in network.initial(0).items()}
    rows = np.linspace(0, len(task.inputs) - 1, 9).astype(np.int64)
    logits = network.logits(parameters, torch.from_numpy(task.inputs[rows].T[:, None].copy()))
    assert logits.shape == (1, 9, task.classes)
    assert logits.isfinite().all()
    # two inputs with another answer are not the same to the network
    assert logits[0].std(0).min() > 0


#: arXiv 2603.01968: tasks, train fraction and weight decay.
PUBLISHED = {
    **{
        f"{name}:p=113": (0.3, 1)
        for name in ("modadd", "modsub", "modsquare", "modcube", "modmul", "modaffine")
    },
    **{
        f"graph:{name}": (0.8, 3)
        for name in (
            "path-64",
            "cycle-64",
            "lattice-7x7",
            "lattice-7x7x7",
            "cylinder-7x7",
            "hypercube-7",
        )
    },
    "comparison:7x7": (0.2, 1),
    "comparison:3x3x3": (0.2, 1),
}


def test_the_published_settings_are_all_there() -> None:
    recipes = [load_recipe(path) for path in RECIPES]
    published = {recipe.task: recipe for recipe in recipes if recipe.training.steps == 100_000}
    assert set(published) == set(PUBLISHED)
    for task, (fraction, decay) in PUBLISHED.items():
        recipe, training = published[task], published[task].training
        assert recipe.model == TransformerModel(
            layers=1, d_model=128, heads=4, d_mlp=512, activation="relu"
        )
        assert (training.train_fraction, training.weight_decay) == (fraction, decay)
        assert (training.lr, training.betas, training.warmup) == (1e-3, (0.9, 0.98), 10)
        assert (training.seeds, training.split_seed) == (tuple(range(20)), "seed")


@pytest.mark.slow
@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_small_recipes_learn_from_the_start(path: Path, tmp_path: Path) -> None:
    losses: list[float] = []

    def watch(event: Progress) -> None:
        losses.extend(event.train_loss)
        if event.step >= 200:
            raise Enough

    with pytest.raises(Enough):
        train(path, tmp_path, progress=watch)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]
