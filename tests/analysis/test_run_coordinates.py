"""What a sweep's folders are called, in its result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from run_maker import write_run
from typer.testing import CliRunner

import geomdiag as gd
from geomdiag.analysis import analyze_into
from geomdiag.inspection import inspect_runs
from geomdiag.summary import summarise
from geomdiag_cli.app import app

CHEAP = ["fit", "dimension"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed in (3, 4):
        write_run(tmp_path / "runs" / f"seed={seed}" / "lr=1e-3,loss=mse", steps=(0, 40))
    write_run(tmp_path / "runs" / "plain", steps=(0, 40))
    return tmp_path / "runs"


def coordinates(tree: xr.DataTree) -> dict[str, dict[str, object]]:
    return {one["run"]: one["coordinates"] for one in summarise(tree)}


@pytest.mark.parametrize("format", ["zarr", "netcdf"])
def test_in_the_result_and_after_resuming(tmp_path: Path, sweep: Path, format: str) -> None:
    target = tmp_path / "result"
    options = {"analyzers": CHEAP, "workers": 1, "format": format}
    first = analyze_into(target, sweep, "modadd", **options)
    # "loss" is a variable of the result: the coordinate gives way.
    own = {"lr": 0.001, "name_loss": "mse"}
    expected = {
        "plain": {},
        "seed=3/lr=1e-3,loss=mse": {"seed": 3, **own},
        "seed=4/lr=1e-3,loss=mse": {"seed": 4, **own},
    }
    assert coordinates(first) == expected
    loaded = gd.load(target)
    assert coordinates(loaded) == expected
    node = loaded["seed=3__lr=1e-3,loss=mse"].to_dataset()
    assert node["seed"].dtype.kind == "i"
    assert node["loss"].dims == ("step", "part")
    assert node["seed"].attrs["long_name"] == "seed"

    told: list[int] = []
    resumed = analyze_into(
        target, sweep, "modadd", progress=lambda done, total, label: told.append(done), **options
    )
    assert told == [6]  # nothing was computed anew
    assert coordinates(resumed) == expected
    xr.testing.assert_identical(gd.load(target), loaded)


def test_one_dataset_of_many_runs(sweep: Path) -> None:
    tree = gd.analyze(sweep, "modadd", analyzers=CHEAP, workers=1)
    nodes = [node.to_dataset() for node in tree.children.values() if "seed" in node.coords]
    whole = xr.concat(nodes, "seed", data_vars="all", coords="minimal", compat="override")
    assert whole["seed"].values.tolist() == [3, 4]
    np.testing.assert_array_equal(whole["accuracy"].sel(seed=4).values, nodes[1]["accuracy"].values)


def test_a_name_that_another_runs_diagnostic_has(tmp_path: Path) -> None:
    # Not computed here, but it would be with other --analyzers: the name must not change then.
    write_run(tmp_path / "norm=2", steps=(0,))
    tree = gd.analyze(tmp_path, "modadd", analyzers=["fit"], workers=1)
    (found,) = coordinates(tree).values()
    assert found == {"name_norm": 2}


def test_shown(tmp_path: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {one.run: one.coordinates for one in inspect_runs(sweep, measure=False)}
    assert found["seed=4/lr=1e-3,loss=mse"] == {"seed": 4, "lr": 0.001, "loss": "mse"}
    monkeypatch.chdir(tmp_path)
    one = str(sweep / "seed=3")
    run = CliRunner().invoke
    line = r"coordinates +seed = 3, lr = 0.001, {}loss = mse\n"
    assert re.search(line.format(""), run(app, ["inspect", one]).output)
    common = [one, "-t", "modadd", "--analyzers", "fit", "--workers", "1", "--quiet"]
    told = json.loads(run(app, ["analyze", *common, "--json"]).output)
    assert told["runs"][0]["coordinates"] == {"seed": 3, "lr": 0.001, "name_loss": "mse"}
    assert re.search(line.format("name_"), run(app, ["analyze", *common[:-1]]).output)
