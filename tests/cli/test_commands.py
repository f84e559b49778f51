"""The other commands: inspect, train, tasks, formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from geomdiag.training import parse_recipe, train

Command = Callable[..., Result]

RECIPE = """
name = "small"
task = "modadd:p=5"
device = "cpu"
[model]
kind = "mlp"
d_embed = 4
d_hidden = 8
[training]
steps = 20
train_fraction = 0.6
[checkpoints]
count = 3
dense = 0
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_formats(geomdiag: Command) -> None:
    done = geomdiag("formats")
    assert done.exit_code == 0
    names = [row["name"] for row in json.loads(geomdiag("formats", "--json").stdout)]
    assert names[:3] == ["pytorch", "safetensors", "numpy"]
    assert all(name in done.stdout for name in names)


def test_tasks(geomdiag: Command) -> None:
    from geomdiag.tasks import task

    done = geomdiag("tasks")
    assert done.exit_code == 0
    rows = json.loads(geomdiag("tasks", "--json").stdout)
    assert {"modadd", "modsub", "modsquare", "modcube", "modmul", "modaffine"} <= {
        row["name"] for row in rows
    }
    for row in rows:
        assert row["name"] in done.stdout
        assert task(row["example"]).family == row["name"]


def test_train_then_analyze(geomdiag: Command, recipe: Path) -> None:
    done = geomdiag("train", recipe, "--out", "made", "--seeds", "3,5-6")
    assert done.exit_code == 0
    assert "next: geomdiag analyze made/small --task modadd" in done.stdout
    assert sorted(path.name for path in Path("made/small").iterdir()) == [
        "seed=3",
        "seed=5",
        "seed=6",
    ]
    again = geomdiag("train", recipe, "--out", "made", "--seeds", "3,5-6", "--json")
    assert len(json.loads(again.stdout)["runs"]) == 3
    assert "already finished" in again.stderr
    analysed = geomdiag("analyze", "made/small", "--task", "modadd", "--analyzers", "fit")
    assert analysed.exit_code == 0


def test_train_tells_once_which_seeds_diverged(geomdiag: Command, recipe: Path) -> None:
    recipe.write_text(RECIPE + '[auxiliary]\nkind = "nuclear"\nweight = 1e300\n')
    done = geomdiag("train", recipe, "--seeds", "3,5")
    assert done.exit_code == 0
    assert " ".join(done.stderr.split()).count("the loss of seed 3, 5 is no longer a finite") == 1
    recipe.write_text(RECIPE)
    assert "finite" not in geomdiag("train", recipe, "--out", "other").stderr


def test_train_errors(geomdiag: Command, recipe: Path, tmp_path: Path) -> None:
    missing = geomdiag("train", tmp_path / "none.toml")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "none.toml" in missing.stderr
    recipe.write_text(RECIPE.replace("steps", "stepps"))
    wrong = geomdiag("train", recipe)
    assert wrong.exit_code == 2
    assert "did you mean 'steps'" in wrong.stderr
    recipe.write_text(RECIPE)
    assert geomdiag("train", recipe, "--seeds", "a").exit_code == 2
    done = geomdiag("train", recipe, "--seeds", "5-3")
    assert done.exit_code == 2
    assert "write 3-5" in " ".join(done.stderr.split())


def test_inspect_without_a_task(geomdiag: Command, trained: Path) -> None:
    done = geomdiag("inspect", trained)
    assert done.exit_code == 0
    for words in ("seed=0: 3 checkpoints, safetensors", "steps", "0 to 60", "embed", "--task"):
        assert words in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_inspect_with_a_task_says_what_will_be_computed_and_the_cost(
    geomdiag: Command, trained: Path
) -> None:
    done = geomdiag("inspect", trained / "seed=0", "--task", "modadd")
    assert done.exit_code == 0
    assert "modadd:p=7" in done.stdout
    assert "estimated cost" in done.stdout
    arguments = ("inspect", trained / "seed=0", "-t", "modadd", "--json")
    (told,) = json.loads(geomdiag(*arguments).stdout)["runs"]
    assert told["architecture"]
    assert set(told["roles"].values()) | set(told["unused"]) == set(told["shapes"])
    assert {"fit", "symmetry", "dimension"} <= set(told["computed"])
    assert "accuracy" in told["computed"]["fit"]
    assert told["inputs"] == 49
    assert told["train_inputs"] == 34
    assert 0 < told["cost"]["per_checkpoint"] < 60
    assert told["cost"]["memory"] > 0


def test_inspect_says_why_a_diagnostic_is_impossible(geomdiag: Command, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    logits = np.eye(5, dtype=np.float32)[np.add.outer(np.arange(5), np.arange(5)).ravel() % 5]
    save_file({"logits": logits}, tmp_path / "step_1.safetensors")
    (told,) = json.loads(
        geomdiag("inspect", tmp_path / "step_1.safetensors", "-t", "modadd", "--json").stdout
    )["runs"]
    assert told["architecture"] == "dump"
    assert "fit" in told["computed"]
    assert "embedding" in told["not_computed"]["distortion"]


def test_inspect_says_what_it_assumes(geomdiag: Command, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (7, 4), "fc1.weight": (6, 8), "fc2.weight": (7, 6)}
    layers = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(layers, tmp_path / "step_1.safetensors")
    for task in ((), ("-t", "modadd")):
        done = geomdiag("inspect", tmp_path / "step_1.safetensors", "--no-measure", *task)
        words = " ".join(done.stdout.split())
        assert words.count("no configuration names it: relu is assumed") == 1
        assert words.count("names follow no known convention") == 1


def test_inspect_of_a_network_that_nobody_knows(geomdiag: Command, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"strange.weight": np.zeros((3, 4), np.float32)}, tmp_path / "step_1.safetensors")
    done = geomdiag("inspect", tmp_path / "step_1.safetensors")
    assert done.exit_code == 2
    assert "CANNOT BE ANALYSED" in done.stdout
    assert "strange.weight" in done.stdout


def test_no_arguments_shows_the_help(geomdiag: Command) -> None:
    done = geomdiag()
    assert "Usage: geomdiag" in done.output
    assert "analyze" in done.output


def test_a_run_with_noisy_labels_does_not_disagree_with_itself(
    geomdiag: Command, tmp_path: Path
) -> None:
    recipe = {
        "name": "noisy",
        "task": "modadd:p=7",
        "device": "cpu",
        "model": {"kind": "mlp", "d_embed": 8, "d_hidden": 16},
        "training": {"steps": 60, "train_fraction": 0.7, "label_noise": 0.3},
        "checkpoints": {"count": 3, "dense": 0},
    }
    train(parse_recipe(recipe), tmp_path)
    done = geomdiag("analyze", tmp_path / "noisy", "--task", "modadd", "--json")
    assert done.exit_code == 0
    (run,) = json.loads(done.stdout)["runs"]
    assert not run["disagreement"]
    assert run["compared"] == 6  # held-out loss and accuracy at three steps
    assert any("label_noise" in notice for notice in run["notices"])
