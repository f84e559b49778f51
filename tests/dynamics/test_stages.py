"""Stages of synthetic runs, one for each way a training can go."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from geomdiag.dynamics import stages
from geomdiag.errors import GeomdiagError

STEPS = np.unique(np.geomspace(1, 50_000, 60).astype(np.int64))


def rise(at: float, width: float = 0.15) -> np.ndarray:
    """A curve that passes from 0 to 1 around a step, on log-spaced steps."""
    return 1 / (1 + np.exp(-(np.log10(STEPS) - math.log10(at)) / (width / 4)))


def run(
    *,
    train: Sequence[float] | None = None,
    heldout: Sequence[float] | None = None,
    violation: Sequence[float] | dict[str, Sequence[float]] | None = None,
    dimension: Sequence[float] | None = None,
    js: bool = True,
    steps: Sequence[int] = STEPS,  # type: ignore[assignment]
) -> xr.Dataset:
    parts = {"train": train, "heldout": heldout}
    given = {part: np.asarray(v, dtype=float) for part, v in parts.items() if v is not None}
    whole = sum(given.values()) / len(given) if given else np.full(len(steps), np.nan)
    accuracy = np.stack([whole, *given.values()], axis=1)
    variables = {"accuracy": (("step", "part"), accuracy)}
    coords: dict[str, object] = {"step": np.asarray(steps), "part": ["all", *given]}
    if violation is not None:
        curves = violation if isinstance(violation, dict) else {"associativity": violation}
        values = np.stack([np.asarray(v, dtype=float) for v in curves.values()], axis=1)
        name = "symmetry_js" if js else "symmetry_violation"
        variables[name] = (
            ("step", "symmetry", "statistic"),
            np.stack([values, 5 * values], axis=2),
        )
        coords |= {"symmetry": list(curves), "statistic": ["mean", "max"]}
    if dimension is not None:
        values = np.asarray(dimension, dtype=float)
        variables["dimension"] = (
            ("step", "matrix", "measure"),
            np.stack([values, 2 * values], axis=1)[:, None, :],
        )
        coords |= {"matrix": ["embedding"], "measure": ["effective_dimension", "entropy_rank"]}
    return xr.Dataset(variables, coords)  # type: ignore[arg-type]


def grokking() -> xr.Dataset:
    """Memorised near 100, symmetry falls near 3000, generalised near 5000, geometry 12000."""
    return run(
        train=rise(50),
        heldout=0.1 + 0.9 * rise(4000),
        violation=2.5 * rise(30) * (1 - 0.999 * rise(3500, 0.3)),
        dimension=np.round(50 - 40 * rise(15_000, 0.2)),
    )


def value(found: xr.Dataset, boundary: str) -> float:
    return float(found["stage_boundary"].sel(boundary=boundary))


def interval(found: xr.Dataset, boundary: str) -> tuple[float, float]:
    low, high = found["stage_boundary_interval"].sel(boundary=boundary).values.tolist()
    return low, high


def fact(found: xr.Dataset, boundary: str, name: str) -> float:
    return float(found["stage_fact"].sel(boundary=boundary, fact=name))


def words(found: xr.Dataset, boundary: str) -> str:
    return str(found["stage_evidence"].sel(boundary=boundary).item())


def flags(found: xr.Dataset) -> list[int]:
    """Distinct flags in order of first appearance, runs of equal flags joined."""
    sequence = found["stage"].values.tolist()
    return [f for i, f in enumerate(sequence) if i == 0 or f != sequence[i - 1]]


def test_grokking_passes_all_stages_in_order() -> None:
    data = grokking()
    found = stages(data)
    t = {name: value(found, name) for name in found["boundary"].values}
    assert t["t_memorised"] < 120
    # The violation is at 95 % of its plateau near 2000, at 70 % near 3000, at 10 % near 6000.
    assert 1200 < t["t_symmetry"] < 3000 < t["t_generalised"] < 8000
    assert 4500 < t["t_acquired"] < 8000
    assert 8000 < t["t_geometry"] < 18_000 < t["t_settled"] < 30_000
    assert t["t_solved"] > t["t_generalised"]
    assert flags(found) == [0, 1, 2, 3]
    step = found["step"].values
    stage = found["stage"].values
    assert (stage[step < t["t_memorised"]] == 0).all()
    assert (stage[(step >= t["t_memorised"]) & (step < t["t_symmetry"])] == 1).all()
    # Symmetry has settled at 8000 at the latest, but nothing organises before the dimension falls.
    assert t["t_acquired"] < t["t_geometry"]
    assert (stage[(step >= t["t_symmetry"]) & (step < t["t_geometry"])] == 2).all()
    assert (stage[step >= t["t_geometry"]] == 3).all()
    assert str(found["stage_order"].item()).startswith("held: train accuracy 0.99 at step ")
    assert found["stage_order_probability"] > 0.95
    # The definitions hold for the values that were found.
    js = data["symmetry_js"].sel(symmetry="associativity", statistic="mean")
    assert (js.sel(step=slice(t["t_acquired"], None)) <= 0.101 * js.max()).all()
    later = js.sel(step=slice(t["t_symmetry"], None)).values
    assert (np.diff(later) < 0).all()
    for name in t:
        low, high = interval(found, name)
        assert low < t[name] <= high, name
        assert fact(found, name, "known") == 1
        assert fact(found, name, "first") == t[name]
        assert math.isnan(fact(found, name, "lost"))
        assert fact(found, name, "or_earlier") == 0
        tested = name in ("t_symmetry", "t_geometry")
        assert (fact(found, name, "p_value") <= 0.05) is tested
        assert fact(found, name, "interval_prob") == pytest.approx(
            0.9 if tested else math.nan, nan_ok=True
        )


def test_shape_of_the_result() -> None:
    found = stages(grokking())
    assert found["stage"].dims == ("step",)
    assert found["stage"].dtype == np.int64
    assert found["stage"].attrs["flag_values"] == [-1, 0, 1, 2, 3]
    assert found["stage"].attrs["flag_meanings"].split() == [
        "unknown",
        "before",
        "memorisation",
        "symmetry_acquisition",
        "geometric_organisation",
    ]
    assert found["boundary"].values.tolist() == [
        "t_memorised",
        "t_symmetry",
        "t_generalised",
        "t_acquired",
        "t_geometry",
        "t_settled",
        "t_solved",
    ]
    assert found["stage_boundary"].dims == found["stage_evidence"].dims == ("boundary",)
    for variable in found.data_vars.values():
        assert variable.attrs["long_name"]
        assert variable.attrs["units"]
        for attribute in variable.attrs.values():
            assert isinstance(attribute, str | float | list)
    assert found["stage_boundary_interval"].attrs["ci_prob"] == 0.9
    assert found["ci_bound"].values.tolist() == ["lower", "upper"]
    merged = grokking().merge(found)
    assert (stages(merged)["stage"] == found["stage"]).all()


def test_same_input_same_result_whatever_the_order_of_rows() -> None:
    data = grokking()
    assert stages(data).identical(stages(data))
    shuffled = data.isel(step=np.random.default_rng(0).permutation(data.sizes["step"]))
    assert stages(shuffled).identical(stages(data))


def test_starts_grokked() -> None:
    n = len(STEPS)
    found = stages(
        run(train=np.ones(n), heldout=np.ones(n), violation=np.full(n, 1e-5), dimension=[10.0] * n)
    )
    for name in ("t_memorised", "t_generalised", "t_solved"):
        assert value(found, name) == STEPS[0]
    assert "or earlier" in words(found, "t_generalised")
    assert math.isnan(value(found, "t_symmetry"))
    assert "before the record begins" in words(found, "t_symmetry")
    assert "does not fall" in words(found, "t_geometry")
    assert flags(found) == [-1]


def test_starts_grokked_and_still_collapses() -> None:
    n = len(STEPS)
    found = stages(
        run(
            train=np.ones(n),
            heldout=np.ones(n),
            violation=np.full(n, 1e-5),
            dimension=50 - 40 * rise(1000),
        )
    )
    assert flags(found) == [-1, 3]


def test_never_memorises() -> None:
    found = stages(
        run(
            train=0.6 * rise(100),
            heldout=0.01 * rise(100),
            violation=0.3 * rise(50),
            dimension=[40.0] * len(STEPS),
        )
    )
    assert np.isnan(found["stage_boundary"]).all()
    assert "never reached 0.99; its best is 0.6" in words(found, "t_memorised")
    assert "never reached 100 %" in words(found, "t_solved")
    assert flags(found) == [0]
    assert (
        found["stage_order"]
        .item()
        .startswith("cannot be told: no train accuracy 0.99, no t_symmetry")
    )


def test_memorises_and_never_generalises() -> None:
    wobble = 1 + 0.05 * np.sin(np.arange(len(STEPS)))
    found = stages(
        run(
            train=rise(50),
            heldout=0.02 + 0.1 * rise(50),
            violation=2.5 * rise(30) * wobble,
            dimension=50 - 3 * rise(1000),
        )
    )
    assert value(found, "t_memorised") < 120
    for name in ("t_symmetry", "t_generalised", "t_geometry", "t_settled", "t_solved"):
        assert math.isnan(value(found, name)), name
    assert "does not fall by 30%" in words(found, "t_symmetry")
    assert "no fall began" in words(found, "t_settled")
    assert flags(found) == [0, 1]


def test_a_collapse_without_symmetry_is_not_the_third_stage() -> None:
    found = stages(
        run(
            train=rise(50),
            heldout=0.1 * rise(50),
            violation=2.5 * rise(30),
            dimension=50 - 40 * rise(2000),
        )
    )
    assert value(found, "t_geometry") > 1000
    assert flags(found) == [0, 1]


def test_what_shrinks_while_it_memorises_is_not_the_collapse() -> None:
    data = grokking()
    early = 50 - 20 * rise(60) - 20 * rise(15_000, 0.2)
    data["dimension"] = data["dimension"].copy(data=np.stack([early, early], axis=1)[:, None, :])
    found = stages(data)
    assert 8000 < value(found, "t_geometry") < 18_000
    assert str(found["stage_order"].item()).startswith("held")
    assert flags(found) == [0, 1, 2, 3]


def test_a_collapse_before_the_symmetry_breaks_the_order() -> None:
    found = stages(
        run(
            train=rise(20),
            heldout=rise(12_000),
            violation=2.5 * rise(10) * (1 - 0.999 * rise(10_000, 0.3)),
            dimension=np.round(50 - 40 * rise(500, 0.2)),
        )
    )
    assert found["stage_order"].item().startswith("broken")
    assert found["stage_order_probability"] < 0.05
    assert flags(found) == [0, 1, 2]  # nothing was left to organise


def test_a_collapse_that_begins_early_is_the_third_stage_once_symmetry_has_settled() -> None:
    """As in all recorded runs: the two overlap."""
    data = grokking()
    early = np.round(50 - 40 * rise(9000, 1.5))
    data["dimension"] = data["dimension"].copy(data=np.stack([early, early], axis=1)[:, None, :])
    found = stages(data)
    geometry, acquired = value(found, "t_geometry"), value(found, "t_acquired")
    assert geometry < acquired < value(found, "t_settled")
    step, stage = found["step"].values, found["stage"].values
    assert (stage[(step >= geometry) & (step < acquired)] == 2).all()
    assert (stage[step >= acquired] == 3).all()


def test_an_order_that_cannot_be_told() -> None:
    """Both fall in the same few checkpoints."""
    fall = 1 - 0.99 * rise(3000, 0.3)
    found = stages(run(train=rise(50), heldout=rise(5000), violation=fall, dimension=50 * fall))
    assert found["stage_order"].item().startswith("cannot be told: train accuracy")
    assert 0.1 < found["stage_order_probability"] < 0.9


def test_generalises_without_delay() -> None:
    found = stages(
        run(
            train=rise(300),
            heldout=rise(300),
            violation=1.5 * rise(20) * (1 - 0.99 * rise(250)),
            dimension=50 - 40 * rise(5000),
        )
    )
    assert value(found, "t_generalised") == value(found, "t_memorised")
    assert "without delay" in words(found, "t_generalised")
    assert value(found, "t_symmetry") < value(found, "t_memorised")
    assert flags(found) == [0, 2, 3]
    assert found["stage_order"].item().startswith("broken: train accuracy 0.99")


def test_a_record_that_begins_generalised_does_not_tell_the_delay() -> None:
    flat = np.ones_like(rise(300))
    found = stages(run(train=flat, heldout=flat, violation=1e-6 * flat, dimension=5 * flat))
    assert value(found, "t_generalised") == value(found, "t_memorised")
    assert "or earlier" in words(found, "t_generalised")
    assert "without delay" not in words(found, "t_generalised")


def test_generalises_and_loses_it_again() -> None:
    """A slingshot: accuracy, symmetry and dimension all return."""
    back = rise(25_000, 0.05)
    found = stages(
        run(
            train=rise(50),
            heldout=(0.1 + 0.9 * rise(2000)) * (1 - 0.7 * back),
            violation=2.5 * rise(30) * (1 - 0.99 * rise(1500)) * (1 - back) + 2.4 * back,
            dimension=50 - 40 * rise(5000) * (1 - back),
        )
    )
    assert math.isnan(value(found, "t_generalised"))
    assert "did not stay there" in words(found, "t_generalised")
    assert 1000 < value(found, "t_symmetry") < 2000
    assert "back above 70%" in words(found, "t_symmetry")
    assert math.isnan(value(found, "t_settled"))
    assert "rose again" in words(found, "t_settled")
    assert flags(found)[-1] == 1
    assert flags(found)[:4] == [0, 1, 2, 3]


def test_a_dip_that_passes_is_told() -> None:
    heldout = rise(1000)
    heldout[-5] = 0.5
    found = stages(run(train=rise(50), heldout=heldout))
    assert value(found, "t_generalised") == STEPS[-4]
    assert "below again at 1 checkpoint in between" in words(found, "t_generalised")


def test_spikes_of_the_loss_do_not_end_the_memorised_stage() -> None:
    """As in a published run that solves the task at 2000 and dips once at 4300."""
    data = grokking()
    spike = int(np.flatnonzero(STEPS > 20_000)[0])
    data["accuracy"][spike] = 0.97
    found, clean = stages(data), stages(grokking())
    assert value(found, "t_memorised") == STEPS[spike + 1]
    assert (found["stage"] == clean["stage"]).all()
    assert found["stage_order"].item() == clean["stage_order"].item()


@pytest.mark.parametrize(("train", "flag"), [(1.0, -1), (0.3, 0)])
def test_single_checkpoint(train: float, flag: int) -> None:
    found = stages(
        run(train=[train], heldout=[0.2], violation=[1.0], dimension=[30.0], steps=[700])
    )
    assert value(found, "t_memorised") == pytest.approx(
        700 if train == 1 else math.nan, nan_ok=True
    )
    assert "one checkpoint only" in words(found, "t_symmetry")
    assert "one checkpoint only" in words(found, "t_geometry")
    assert "cannot be told" in words(found, "t_settled")
    assert found["stage"].values.tolist() == [flag]


def test_failed_checkpoints_are_passed_over() -> None:
    data = grokking()
    whole = stages(data)
    broken = data.copy(deep=True)
    # One before each boundary is lost, none that sets one.
    lost = [3, 20, 52]
    for variable in broken.data_vars.values():
        variable[{"step": lost}] = np.nan
    found = stages(broken)
    assert found["stage_boundary"].identical(whole["stage_boundary"])
    assert (found["stage"].values[lost] == -1).all()
    kept = np.setdiff1d(np.arange(len(STEPS)), lost)
    assert (found["stage"].values[kept] == whole["stage"].values[kept]).all()


def test_everything_failed() -> None:
    found = stages(grokking() * np.nan)
    assert np.isnan(found["stage_boundary"]).all()
    assert flags(found) == [-1]
    assert "no checkpoint has a value" in words(found, "t_geometry")


def test_unknown_split_is_said_and_the_rest_is_given() -> None:
    data = grokking()
    data = data.sel(part=["all"])
    data["accuracy"][:] = rise(4000)[:, None]
    data["accuracy"][:-1] -= 1e-3
    data["accuracy"][-1] = 1.0
    found = stages(data)
    for name in ("t_memorised", "t_generalised"):
        assert math.isnan(value(found, name))
        assert "unknown because the split is" in words(found, name)
        assert "Accuracy over all inputs stays at or above 0.99 from step" in words(found, name)
    assert value(found, "t_solved") == STEPS[-1]
    assert "accuracy over all inputs is 100 %" in words(found, "t_solved")
    assert "the split is" in words(found, "t_solved")
    assert flags(found) == [-1, 2, 3]


def test_no_held_out_inputs() -> None:
    """Everything was trained on: there is a split, but no held-out accuracy."""
    found = stages(run(train=np.minimum(1, 1.1 * rise(50)), heldout=np.full(len(STEPS), np.nan)))
    assert math.isnan(value(found, "t_generalised"))
    assert "has the split no such inputs?" in words(found, "t_generalised")
    data = run(train=np.minimum(1, 1.1 * rise(50)))
    assert value(stages(data), "t_solved") > 10


def test_held_out_decides_when_it_is_solved() -> None:
    found = stages(run(train=(STEPS > 100).astype(float), heldout=(STEPS > 5000).astype(float)))
    assert value(found, "t_solved") == STEPS[STEPS > 5000][0]


@pytest.mark.parametrize("missing", ["accuracy", "symmetry_js", "dimension"])
def test_missing_variables_are_said(missing: str) -> None:
    whole, found = stages(grokking()), stages(grokking().drop_vars(missing))
    gone = {
        "accuracy": ["t_memorised", "t_generalised", "t_solved"],
        "symmetry_js": ["t_symmetry", "t_acquired"],
        "dimension": ["t_geometry", "t_settled"],
    }[missing]
    for name in found["boundary"].values:
        if name in gone:
            assert math.isnan(value(found, name))
            assert "the result has no" in words(found, name)
        else:
            assert value(found, name) == pytest.approx(value(whole, name), nan_ok=True)
    assert (
        flags(found)
        == {
            "accuracy": [-1, 2, 3],
            "symmetry_js": [0, -1, 3],  # the collapse comes after generalisation
            "dimension": [0, 1, -1],
        }[missing]
    )


def test_nothing_but_steps() -> None:
    found = stages(xr.Dataset(coords={"step": [0, 10]}))
    assert np.isnan(found["stage_boundary"]).all()
    assert flags(found) == [-1]


def test_missing_labels_are_said() -> None:
    data = grokking().assign_coords(matrix=["unembedding"])
    assert "has no matrix 'embedding' (it has unembedding)" in words(stages(data), "t_geometry")
    data = grokking().assign_coords(measure=["rank", "entropy_rank"])
    assert "no measure 'effective_dimension'" in words(stages(data), "t_geometry")


def test_symmetric_kl_stands_in_for_jensen_shannon() -> None:
    js = grokking()
    found = stages(js.rename(symmetry_js="symmetry_violation"))
    assert value(found, "t_symmetry") == value(stages(js), "t_symmetry")
    assert "symmetric KL violation of associativity" in words(found, "t_symmetry")
    both = js.assign(symmetry_violation=js["symmetry_js"] * 0 + 1)
    assert "Jensen-Shannon" in words(stages(both), "t_symmetry")
    empty = both.assign(symmetry_js=js["symmetry_js"] * np.nan)
    assert "symmetric KL" in words(stages(empty), "t_symmetry")


def test_the_earliest_symmetry_sets_the_onset_and_architectural_ones_none() -> None:
    plateau = 2.0 * rise(30)
    found = stages(
        run(
            train=rise(50),
            heldout=rise(5000),
            violation={
                "commutativity": np.full(len(STEPS), 1e-14),
                "associativity": plateau * (1 - 0.99 * rise(4000)),
                "translation": plateau * (1 - 0.99 * rise(2000)),
            },
            dimension=[20.0] * len(STEPS),
        )
    )
    assert 1500 < value(found, "t_symmetry") < 2500
    assert words(found, "t_symmetry").startswith("Jensen-Shannon violation of translation")
    assert "commutativity never exceeds 0.001" in words(found, "t_symmetry")
    assert "Also: Jensen-Shannon violation of associativity leaves" in words(found, "t_symmetry")
    assert flags(found) == [0, 1, 2]


def test_results_that_are_no_run() -> None:
    with pytest.raises(GeomdiagError, match="no rows along 'step'"):
        stages(xr.Dataset())
    with pytest.raises(GeomdiagError, match="share step 5"):
        stages(xr.Dataset(coords={"step": [0, 5, 5]}))


def test_survives_both_stores(tmp_path: Path) -> None:
    found = stages(grokking())
    for name in ("memorised.zarr", "memorised.nc"):
        path = tmp_path / name
        if name.endswith("zarr"):
            found.to_zarr(path, zarr_format=3, consolidated=False)
            again = xr.open_zarr(path, consolidated=False).load()
        else:
            pytest.importorskip("h5netcdf")
            found.to_netcdf(path, engine="h5netcdf")
            again = xr.load_dataset(path, engine="h5netcdf")
        assert words(again, "t_symmetry") == words(found, "t_symmetry")
        assert (again["stage"] == found["stage"]).all()
        assert list(again["stage"].attrs["flag_values"]) == [-1, 0, 1, 2, 3]


def published(file: Path, step: str) -> tuple[list[int], list[float], list[float]]:
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return (
        [int(float(row[step])) for row in rows],
        [float(row["train_acc"]) for row in rows],
        [float(row["test_acc"]) for row in rows],
    )


def test_published_curves_of_a_p23_run(real_data: Path) -> None:
    """Train accuracy passes 0.95 at 1800; held-out accuracy never reaches 0.99."""
    steps, train, heldout = published(
        real_data / "yagent-p23" / "yagent_p23_grok_reference.csv", "epoch"
    )
    found = stages(run(train=train, heldout=heldout, steps=steps))
    assert math.isnan(value(found, "t_generalised"))
    assert "never reached 0.99" in words(found, "t_generalised")


def test_published_curves_of_p97_runs(real_data: Path) -> None:
    """Five decayed runs generalise, four without decay never do; all memorise."""
    files = sorted((real_data / "porth-p97").glob("*.csv"))
    assert len(files) == 9
    for file in files:
        steps, train, heldout = published(file, "step")
        found = stages(run(train=train, heldout=heldout, steps=steps))
        generalised = value(found, "t_generalised")
        assert math.isnan(generalised) is ("wd0" in file.name), file.name
        # Most stay memorised from the first record on; some dip once, by far, later.
        dips = [t for t, a in zip(steps, train, strict=True) if a < 0.99]
        assert value(found, "t_memorised") == dips[-1] + 100, file.name
        first = next(t for t, a in zip(steps, train, strict=True) if a >= 0.99)
        assert first == 100
        if len(dips) > 1:
            assert "it first reached 0.99 at step 100" in words(found, "t_memorised")
        if "wd1" in file.name:
            assert value(found, "t_solved") > 1000


def test_a_network_that_never_learns_has_no_stage() -> None:
    """As under a wrong task: everything else may fall and means nothing."""
    found = stages(
        run(
            train=0.03 + 0.2 * rise(50),
            heldout=0.03 + 0 * rise(50),
            violation=2.5 * rise(30) * (1 - 0.999 * rise(3500, 0.3)),
            dimension=np.round(50 - 40 * rise(15_000, 0.2)),
        )
    )
    assert flags(found) == [0]
    assert value(found, "t_symmetry") > 0  # what fell is told all the same


def with_history(apart: float) -> xr.Dataset:
    """Ten checkpoints of a run that recorded its accuracies at every step of `STEPS`."""
    data = grokking()
    kept = np.arange(0, len(STEPS), 6)
    quantities = ["train_accuracy", "heldout_accuracy"]
    curves = data["accuracy"].sel(part=["train", "heldout"]).values
    return data.isel(step=kept).assign(
        history=(("history_step", "quantity"), curves),
        disagreement=(("step", "quantity"), np.full((len(kept), 2), apart)),
        history_step=STEPS,
        quantity=quantities,
    )


def test_the_recorded_curves_tell_what_lies_between_the_checkpoints() -> None:
    whole, few = stages(grokking()), stages(with_history(0.001))
    for name in ("t_memorised", "t_generalised"):
        assert value(few, name) == value(whole, name)
        assert interval(few, name) == interval(whole, name)
        assert value(few, name) not in few["step"].values
    assert few["stage"].dims == ("step",)


def test_curves_of_another_network_tell_nothing() -> None:
    other, none = stages(with_history(0.5)), stages(with_history(0.5).drop_vars("history"))
    assert other["stage_boundary"].identical(none["stage_boundary"])
    assert value(other, "t_memorised") in other["step"].values


def test_ten_thousand_checkpoints_in_seconds() -> None:
    steps = 10 * np.arange(1, 10_001)
    log = np.log10(steps)

    def rises(at: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(log - math.log10(at)) / width))

    data = run(
        train=rises(200, 0.03),
        heldout=rises(9000, 0.03),
        violation=1 - 0.999 * rises(8000, 0.05),
        dimension=np.round(50 - 40 * rises(40_000, 0.05)),
        steps=steps,  # type: ignore[arg-type]
    )
    start = time.process_time()
    found = stages(data)
    assert time.process_time() - start < 10
    assert found["stage_order"].item().startswith("held")
    assert flags(found) == [0, 1, 2, 3]


def test_an_architectures_own_symmetry_is_not_acquired() -> None:
    data = run(
        train=rise(50),
        heldout=rise(5000),
        violation={
            "commutativity": 2.5 * rise(30) * (1 - 0.999 * rise(400, 0.3)),
            "associativity": 2.5 * rise(30) * (1 - 0.999 * rise(3500, 0.3)),
        },
        dimension=[20.0] * len(STEPS),
    )
    assert value(stages(data), "t_symmetry") < 400
    data["symmetry_architectural"] = ("symmetry", np.array([1.0, 0.0]))
    found = stages(data)
    assert value(found, "t_symmetry") > 1000
    assert "commutativity is the architecture's own" in words(found, "t_symmetry")


def test_a_run_that_starts_solved_says_so() -> None:
    n = len(STEPS)
    found = stages(
        run(train=np.ones(n), heldout=np.ones(n), violation=np.full(n, 1e-5), dimension=[10.0] * n)
    )
    for name in ("t_memorised", "t_generalised", "t_solved"):
        assert fact(found, name, "or_earlier") == 1
        low, high = interval(found, name)
        assert math.isnan(low)
        assert high == STEPS[0]
    assert found["stage_order"].item().startswith("cannot be told: no t_symmetry")
    assert math.isnan(found["stage_order_probability"])
