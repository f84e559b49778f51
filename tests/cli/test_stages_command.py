"""`geomdiag stages` on stored results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import Result

import geomdiag as gd

SERIES = Path(__file__).resolve().parents[2] / "fixtures" / "series"
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded run of S4, whose stages come in order."""
    path = tmp_path_factory.mktemp("stages") / "result.zarr"
    gd.analyze_into(
        path,
        gd.open_runs(SERIES / "group-S4-mlp"),
        "group:S4",
        analyzers=["fit", "symmetry", "dimension"],
        workers=1,
    )
    return path


def test_every_boundary_is_told_with_its_interval(geomdiag: Command, result: Path) -> None:
    done = geomdiag("stages", result)
    assert done.exit_code == 0, done.stderr
    for line in (
        "memorised         63    60 to 63",
        "generalised       1107  1087 to 1107",
        "stage at the end: geometric organisation",
        "order of stages: held: train accuracy 0.99 at step 63",
    ):
        assert line in done.stdout
    assert "leaves its plateau at step" in " ".join(done.stdout.split())


def test_json_holds_what_the_result_holds(geomdiag: Command, result: Path) -> None:
    done = geomdiag("stages", result, "--json")
    (run,) = json.loads(done.stdout)["runs"]
    stored = next(iter(gd.load(result).children.values())).to_dataset()
    assert run["stage_order"] == stored["stage_order"].item()
    assert run["stage_order_probability"] == stored["stage_order_probability"].item() >= 0.9
    assert list(run["boundaries"]) == stored["boundary"].values.tolist()
    for name, boundary in run["boundaries"].items():
        here = stored.sel(boundary=name)
        step = here["stage_boundary"].item()
        assert boundary["step"] == step
        low, high = boundary["interval"]
        assert low < step <= high
        assert [low, high] == here["stage_boundary_interval"].values.tolist()
        assert boundary["evidence"] == here["stage_evidence"].item()
    assert run["boundaries"]["t_symmetry"]["p_value"] <= 0.05
    assert run["boundaries"]["t_memorised"]["p_value"] is None


def test_a_result_without_stages_gets_them_and_is_left_as_it_is(
    geomdiag: Command, result: Path, tmp_path: Path
) -> None:
    tree = gd.load(result)
    name, node = next(iter(tree.children.items()))
    dataset = node.to_dataset()
    old = [one for one in dataset.variables if str(one).startswith("stage")]
    bare = xr.DataTree.from_dict({"/": tree.to_dataset(), f"/{name}": dataset.drop_vars(old)})
    path = gd.save(bare, tmp_path / "bare.zarr")
    one, other = (
        json.loads(geomdiag("stages", place, "--json").stdout)["runs"] for place in (result, path)
    )
    assert one == other
    assert "stage" not in gd.load(path)[name].to_dataset()


def test_seed_and_samples_are_the_bootstraps(geomdiag: Command, result: Path) -> None:
    runs = [
        json.loads(geomdiag("stages", result, "--json", *more).stdout)["runs"][0]["boundaries"]
        for more in ((), ("--samples", 19), ("--seed", 7, "--samples", 19))
    ]
    assert len({one["t_symmetry"]["p_value"] for one in runs[:2]}) == 2
    assert len({one["t_geometry"]["step"] for one in runs}) == 1  # the estimate is not random


def test_one_checkpoint_is_told_in_words(geomdiag: Command, tmp_path: Path) -> None:
    run = xr.Dataset(
        {"accuracy": (("step", "part"), np.array([[1.0, 1.0]]))},
        {"step": [700], "part": ["train", "heldout"]},
        {"run": "a run", "task": "modadd:p=7"},
    )
    path = gd.save(xr.DataTree.from_dict({"/one": run}), tmp_path / "one.zarr")
    done = geomdiag("stages", path)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("a run: modadd:p=7")
    assert "record's start" in done.stdout
    assert "the result has no 'dimension'" in " ".join(done.stdout.split())
    assert "cannot be told: no t_symmetry" in done.stdout


def test_what_is_no_result_is_an_error(geomdiag: Command, tmp_path: Path) -> None:
    done = geomdiag("stages", tmp_path / "none.zarr")
    assert done.exit_code == 2
    assert "there is no result at" in done.stderr
