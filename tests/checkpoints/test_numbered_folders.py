"""Folders called by bare numbers: the steps of a run, or runs; told where nothing says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_makers import npz, pytorch, safetensors

from geomdiag.checkpoints import Runs, open_runs
from geomdiag.errors import OptionsError

READ_AS_ONE = "are read as the steps of one run"
UNTOLD = "nothing says whether their numbers are steps"


def state(seed: int, rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(rows, 3)).astype(np.float32), "b": rng.normal(size=2)}


def write(
    place: Path, names: list[str], file: str = "model.pt", inside: dict[str, Any] | None = None
) -> Path:
    for seed, name in enumerate(names):
        (place / name).mkdir(parents=True)
        beside = {key: values[seed] for key, values in (inside or {}).items()}
        pytorch(place / name / file, state(seed), **beside)
    return place


def found(runs: Runs) -> dict[str, list[int]]:
    return {name: series.steps.tolist() for name, series in runs.items()}


def said(runs: Runs) -> list[str]:
    return [*runs.notices, *(notice for series in runs.values() for notice in series.notices)]


@pytest.mark.parametrize(
    ("place", "names", "steps"),
    [
        ("checkpoints", ["100", "200"], [100, 200]),
        ("checkpoints", ["0", "100", "1000"], [0, 100, 1000]),  # by number, not by text
        ("ckpts", ["1k", "2k", "1.5M"], [1000, 2000, 1_500_000]),
        ("steps", ["0", "1", "2"], [0, 1, 2]),
        ("epochs", ["000", "001"], [0, 1]),
        ("seed_3", ["100", "200"], [100, 200]),
        ("other", ["10k-steps", "20k-steps"], [10_000, 20_000]),
    ],
)
def test_numbers_that_count_steps(
    place: str, names: list[str], steps: list[int], tmp_path: Path
) -> None:
    top = tmp_path / "top"
    write(top / "run" / place, names)
    runs = open_runs(top)
    (series,) = runs.values()
    assert series.steps.tolist() == steps
    assert series.name == ("run" if place in ("checkpoints", "ckpts") else f"run/{place}")
    assert series.unit == {"epochs": "epoch", "steps": "step", "other": "step"}.get(place, "")
    (notice,) = said(runs)
    assert READ_AS_ONE in notice
    assert 'numbers = "runs"' in notice
    for checkpoint in series:
        (seed,) = (i for i, step in enumerate(steps) if step == checkpoint.step)
        np.testing.assert_array_equal(checkpoint.tensors["a"], state(seed)["a"])


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("seeds", ["0", "1", "2"]),
        ("seeds", ["100", "200"]),
        ("runs", ["0", "1"]),
        ("trials", ["10", "20"]),
        ("sweep", ["10", "20"]),
        ("n_train", ["100", "200"]),
        ("width", ["64", "128"]),
    ],
)
def test_numbers_that_tell_runs_apart(place: str, names: list[str], tmp_path: Path) -> None:
    write(tmp_path / "top" / place, names)
    runs = open_runs(tmp_path / "top")
    assert found(runs) == {f"{place}/{name}": [0] for name in names}
    assert all("says no step" in notice for notice in said(runs))


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("checkpoints", ["0", "1", "2", "3", "4"]),  # epochs, or seeds
        ("checkpoints", ["41", "42"]),
        ("seed_3", ["0", "1"]),
        ("mlp", ["100", "200"]),
    ],
)
def test_where_nothing_tells_it_is_said_and_the_user_can_say(
    place: str, names: list[str], tmp_path: Path
) -> None:
    home = write(tmp_path / "top" / place, names)
    runs = open_runs(tmp_path / "top")
    assert len(runs) == len(names)
    (notice,) = runs.notices
    assert UNTOLD in notice
    assert f'"steps" into a geomdiag.toml in {place}' in notice
    (home / "geomdiag.toml").write_text('numbers = "steps"\n')
    runs = open_runs(tmp_path / "top")
    (series,) = runs.values()
    assert series.steps.tolist() == [int(name) for name in names]
    assert said(runs) == []
    (home / "geomdiag.toml").write_text('numbers = "runs"\n')
    runs = open_runs(tmp_path / "top")
    assert len(runs) == len(names)
    assert runs.notices == []


def test_the_user_says_that_what_look_like_steps_are_runs(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", ["100", "200"])
    (tmp_path / "geomdiag.toml").write_text('numbers = "runs"\n')
    assert len(open_runs(tmp_path)) == 2
    assert len(open_runs(tmp_path / "checkpoints")) == 2
    (tmp_path / "geomdiag.toml").write_text('numbers = "both"\n')
    with pytest.raises(OptionsError, match=r"numbers is 'both'; expected \"steps\" or \"runs\""):
        open_runs(tmp_path)


def test_the_user_says_what_the_numbers_of_files_are(tmp_path: Path) -> None:
    for number in (1, 2):
        pytorch(tmp_path / f"net_{number}.pt", state(number))
    (series,) = open_runs(tmp_path).values()
    assert "is taken for the training step" in series.notices[0]
    (tmp_path / "geomdiag.toml").write_text('numbers = "steps"\n')
    (series,) = open_runs(tmp_path).values()
    assert series.notices == []
    assert series.steps.tolist() == [1, 2]
    (tmp_path / "geomdiag.toml").write_text('numbers = "runs"\n')
    assert list(open_runs(tmp_path)) == ["net_1", "net_2"]


@pytest.mark.parametrize("place", ["mlp", "models", "checkpoints"])
def test_steps_stored_inside_tell(place: str, tmp_path: Path) -> None:
    home = tmp_path / "top" / place
    write(home, ["0", "1", "2"], inside={"step": [0, 1, 2]})
    runs = open_runs(tmp_path / "top")
    assert list(found(runs).values()) == [[0, 1, 2]]
    assert said(runs) == []


def test_steps_stored_inside_that_go_up_with_the_numbers_count(tmp_path: Path) -> None:
    write(tmp_path / "mlp", ["1", "2", "3"], inside={"step": [97, 194, 291], "epoch": [1, 1, 1]})
    runs = open_runs(tmp_path / "mlp")
    (series,) = runs.values()
    assert series.steps.tolist() == [97, 194, 291]
    assert "by the steps stored inside" in said(runs)[0]


@pytest.mark.parametrize(
    "inside",
    [
        {"step": [500, 500]},  # five hundred steps of each seed
        {"step": [500, 400]},
        {"config": [{"seed": 1}, {"seed": 2}]},
        {"config": [{"lr": 0.1}, {"lr": 0.2}]},
        {"train_losses": [[3.0, 2.0, 1.0], [3.0, 2.5, 2.0]]},
    ],
)
def test_files_that_say_that_they_are_runs(inside: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", ["100", "200"], inside=inside)
    runs = open_runs(tmp_path)
    assert len(runs) == 2
    assert runs.notices == []


def test_networks_of_two_shapes_are_runs(tmp_path: Path) -> None:
    for name, rows in (("100", 4), ("200", 5)):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        pytorch(folder / "model.pt", state(0, rows))
    runs = open_runs(tmp_path)
    assert len(runs) == 2
    assert runs.notices == []
    (tmp_path / "geomdiag.toml").write_text('numbers = "steps"\n')
    runs = open_runs(tmp_path)
    assert len(runs) == 2
    (notice,) = runs.notices
    assert "read as runs: two runs are mixed" in notice


def test_one_that_stores_no_step_goes_with_the_others(tmp_path: Path) -> None:
    home = write(tmp_path / "checkpoints", ["100", "200"], inside={"step": [100, 200]})
    (home / "300").mkdir()
    pytorch(home / "300" / "model.pt", state(3))
    (series,) = open_runs(home).values()
    assert series.steps.tolist() == [100, 200, 300]
    assert READ_AS_ONE in series.notices[0]


def test_a_step_in_a_file_beside_tells(tmp_path: Path) -> None:
    home = write(tmp_path / "mlp", ["0", "1", "2"])
    for step in (0, 1, 2):
        record = {"global_step": step, "train_loss": 1 / (1 + step)}
        (home / str(step) / "metrics.json").write_text(json.dumps(record))
    runs = open_runs(home)
    assert found(runs) == {"mlp": [0, 1, 2]}
    assert said(runs) == []
    (home / "2" / "metrics.json").write_text(json.dumps({"global_step": 9}))
    assert len(open_runs(home)) == 3


def test_settings_beside_each_tell_runs_apart(tmp_path: Path) -> None:
    home = write(tmp_path / "checkpoints", ["100", "200"])
    for name, decay in (("100", 0.1), ("200", 1.0)):
        (home / name / "config.json").write_text(json.dumps({"weight_decay": decay}))
    assert len(open_runs(home)) == 2


@pytest.mark.parametrize("file", ["final.pt", "step_5.pt"])
def test_a_file_that_says_more_than_the_folder(file: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", ["100", "200"], file)
    runs = open_runs(tmp_path)
    assert len(runs) == 2
    assert runs.notices == []
    (tmp_path / "geomdiag.toml").write_text('numbers = "steps"\n')
    expected = {"checkpoints/100": [5], "checkpoints/200": [5]}
    assert found(open_runs(tmp_path)) == (
        expected if file == "step_5.pt" else {tmp_path.name: [100, 200]}
    )


@pytest.mark.parametrize("other", ["more", "100/second"])
def test_other_folders_beside_them(other: str, tmp_path: Path) -> None:
    home = write(tmp_path / "checkpoints", ["100", "200"])
    write(home, [other])
    assert len(open_runs(home)) == 3


@pytest.mark.parametrize("kind", [safetensors, npz])
def test_final_beside_them(kind: Any, tmp_path: Path) -> None:
    suffix = kind.__name__
    for seed, name in enumerate(("100", "200", "final")):
        folder = tmp_path / "run" / "checkpoints" / name
        folder.mkdir(parents=True)
        kind(folder / f"model.{suffix}", state(seed))
    (series,) = open_runs(tmp_path / "run").values()
    assert series.steps.tolist() == [100, 200]
    assert any(f"model.{suffix} is left out" in notice for notice in series.notices)
    kind(tmp_path / "run" / "checkpoints" / "final" / f"model.{suffix}", state(2), step=250)
    (series,) = open_runs(tmp_path / "run").values()
    assert series.steps.tolist() == [100, 200, 250]


def test_two_places_of_one_run_keep_their_names(tmp_path: Path) -> None:
    for place in ("checkpoints", "ckpts"):
        write(tmp_path / "run" / place, ["100", "200"])
    assert found(open_runs(tmp_path / "run")) == {
        "ckpts": [100, 200],
        "run": [100, 200],
    }


@pytest.mark.parametrize(
    ("place", "name", "steps"),
    [
        ("checkpoints", "run", [100]),  # as when others have come
        ("epochs", "run/epochs", [100]),
        ("mlp", "run/mlp/100", [0]),
        ("seeds", "run/seeds/100", [0]),
    ],
)
def test_one_folder_alone(place: str, name: str, steps: list[int], tmp_path: Path) -> None:
    write(tmp_path / "top" / "run" / place, ["100"])
    runs = open_runs(tmp_path / "top")
    assert found(runs) == {name: steps}
    (notice,) = said(runs)
    assert ("100 in run/" in notice and "is read as a step" in notice) == (steps == [100])


def test_another_network_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", ["100", "200"])
    pytorch(tmp_path / "checkpoints" / "model.pt", state(0, rows=9))
    runs = open_runs(tmp_path / "checkpoints")
    assert set(runs) == {"checkpoints", "100", "200"}
    assert "another network lies beside them" in runs.notices[0]
    runs = open_runs(tmp_path)  # the one beside them is that of the folder above
    assert found(runs) == {"checkpoints": [100, 200], tmp_path.name: [0]}


def test_one_that_cannot_be_read_keeps_its_step(tmp_path: Path) -> None:
    home = write(tmp_path / "checkpoints", ["100", "200", "300"])
    (home / "200" / "model.pt").write_bytes(b"")
    (series,) = open_runs(home).values()
    assert series.steps.tolist() == [100, 200, 300]
    assert "empty" in series[1].error
    (home / "100" / "model.pt").write_bytes(b"")
    (series,) = open_runs(home).values()
    assert [bool(checkpoint.error) for checkpoint in series] == [True, True, False]
