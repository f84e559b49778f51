"""Stages of a whole result, fresh or stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_stages import grokking

import geomdiag as gd
from geomdiag.dynamics import stages
from geomdiag.errors import GeomdiagError


def result(*names: str) -> xr.DataTree:
    nodes = {f"/{name}": grokking().assign_attrs(run=name) for name in names}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"task": "modadd"}), **nodes})


@pytest.mark.parametrize("names", [("one",), ("one", "two")])
def test_every_run_gets_its_stages(names: tuple[str, ...]) -> None:
    tree = result(*names)
    found = gd.segment(tree)
    assert list(found.children) == list(names)
    assert found.attrs == {"task": "modadd"}
    for name in names:
        run = found[name].to_dataset()
        assert run.attrs == {"run": name}
        alone = stages(grokking())
        assert (
            run[list(alone.data_vars)]
            .drop_attrs(deep=False)
            .identical(alone.drop_attrs(deep=False))
        )
        assert run["accuracy"].identical(grokking()["accuracy"])
    assert "stage" not in tree[names[0]].to_dataset()  # the tree that was given stays as it was


def test_stored_results_are_segmented_again(tmp_path: Path) -> None:
    found = gd.segment(result("one"))
    again = gd.segment(gd.load(gd.save(found, tmp_path / "result.zarr")))
    for name in ("stage", "stage_boundary", "stage_boundary_interval", "stage_fact"):
        np.testing.assert_array_equal(again["one"][name], found["one"][name])
    assert set(again["one"].coords) == set(found["one"].coords)


def test_stages_of_an_earlier_version_are_replaced() -> None:
    tree = result("one")
    old = (
        tree["one"]
        .to_dataset()
        .assign(
            stage=("step", np.zeros(tree["one"].sizes["step"], dtype=int)),
            stage_boundary=("boundary", [1.0, 2.0]),
            stage_evidence=("boundary", np.array(["a", "b"], dtype=object)),
            boundary=["t_memorised", "t_other"],
        )
    )
    found = gd.segment(xr.DataTree.from_dict({"/one": old}))["one"].to_dataset()
    assert "t_other" not in found["boundary"].values
    assert found["stage"].max() == 3


def test_rows_may_lie_in_any_order() -> None:
    tree = result("one")
    shuffled = grokking().isel(step=np.random.default_rng(0).permutation(tree["one"].sizes["step"]))
    found = gd.segment(xr.DataTree.from_dict({"/one": shuffled}))["one"].to_dataset()
    assert (found["step"] == shuffled["step"]).all()
    assert found["stage"].dtype == np.int64
    assert (found.sortby("step")["stage"] == gd.segment(tree)["one"]["stage"]).all()


def test_a_tree_without_runs_is_refused() -> None:
    with pytest.raises(GeomdiagError, match="has no runs"):
        gd.segment(xr.DataTree())
