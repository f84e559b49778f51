"""What every registered diagnostic must hold to."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from snapshots import analytic, random_dump

import geomdiag as gd
from geomdiag.analysis.steps import Plan, measure
from geomdiag.analyzers import ANALYZERS, Analyzer
from geomdiag.models import Matrix

NAMES = list(ANALYZERS)
TASKS = [
    "modadd:p=7",
    "modsub:p=6",
    "modsquare:p=7",
    "modcube:p=5",
    "modmul:p=11",
    "modaffine:p=7",
    "comparison:5",
    "comparison:3x4",
    "comparison:3x3,form=binary",
    "group:Z2xZ6",
    "group:D4",
    "group:A4",
    "graph:lattice-3x4",
    "graph:cycle-6",
    "graph:tree-2x2",
]


def compute(analyzer: Analyzer, *snapshots: gd.Snapshot) -> xr.Dataset:
    task = snapshots[0].task
    if analyzer.scope == "run":
        return analyzer.compute(list(snapshots), task)
    return analyzer.compute(snapshots[0], task)


def suited(analyzer: Analyzer, spec: str) -> gd.Task:
    """Return that task, or the first of the others, that the diagnostic has a meaning for."""
    tasks = (gd.task(one) for one in (spec, *TASKS))
    return next(task for task in tasks if not analyzer.applies(task))


def able(analyzer: Analyzer) -> list[gd.Snapshot]:
    """Return snapshots that have all the diagnostic needs."""
    if "differentiable" in analyzer.needs:
        return [analytic(7), analytic(7)]
    task = suited(analyzer, "modadd:p=7")
    return [random_dump(task, seed) for seed in range(3)]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    analyzer = ANALYZERS[name]
    assert analyzer.name == name
    assert analyzer.variables
    assert set(analyzer.static) <= set(analyzer.variables)
    assert analyzer.compute.__doc__


def test_no_variable_belongs_to_two() -> None:
    names = [variable for name in NAMES for variable in ANALYZERS[name].variables]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", NAMES)
def test_its_variables_are_declared_and_described(name: str) -> None:
    analyzer = ANALYZERS[name]
    snapshots = able(analyzer)
    assert analyzer.missing(snapshots[0], snapshots[0].task) == ""
    found = compute(analyzer, *snapshots)
    assert set(found.data_vars) <= set(analyzer.variables)
    for variable in found.data_vars.values():
        assert {"long_name", "units", "definition"} <= set(variable.attrs)
        assert all(isinstance(value, str | int | float) for value in variable.attrs.values())
        assert ("step" in variable.dims) == (analyzer.scope == "run")
    for dim in found.dims:
        assert dim in found.coords


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_the_same_twice(name: str) -> None:
    analyzer = ANALYZERS[name]
    first, second = (compute(analyzer, *able(analyzer)) for _ in range(2))
    xr.testing.assert_identical(first, second)
    for variable in first.data_vars:
        assert first[variable].values.tobytes() == second[variable].values.tobytes() or (
            first[variable].dtype.kind == "O"
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", TASKS)
def test_it_works_on_every_task_or_says_why_not(name: str, spec: str) -> None:
    analyzer, task = ANALYZERS[name], gd.task(spec)
    snapshots = [random_dump(task, seed) for seed in range(2)]
    if reason := analyzer.missing(snapshots[0], task):
        assert len(reason) > 10
        return
    found = compute(analyzer, *snapshots)
    assert any(np.isfinite(v.values).any() for v in found.data_vars.values() if v.dtype != object)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "spec",
    [
        "modadd:p=2",
        "modadd:p=3",
        "modmul:p=2",
        "modmul:p=3",
        "graph:path-2",
        "graph:cycle-3",
        "group:Z1",
        "group:Z2xZ2",
        "group:S3",
    ],
)
def test_the_smallest_tasks_do_not_break_it(name: str, spec: str) -> None:
    analyzer, task = ANALYZERS[name], gd.task(spec)
    snapshots = [random_dump(task, seed) for seed in range(2)]
    if not analyzer.missing(snapshots[0], task):
        compute(analyzer, *snapshots)


@pytest.mark.parametrize("name", NAMES)
def test_it_does_without_a_split_what_it_can(name: str) -> None:
    analyzer = ANALYZERS[name]
    if "differentiable" in analyzer.needs:
        snapshots = [analytic(5, train=False)]
    else:
        task = suited(analyzer, "modadd:p=5")
        snapshots = [random_dump(task, seed, split=False) for seed in range(2)]
    compute(analyzer, *snapshots)


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_parts_do_not_break_it(name: str) -> None:
    """All rows equal, all logits equal: numbers or NaN, no warning, no error."""
    analyzer = ANALYZERS[name]
    task = suited(analyzer, "modadd:p=7")
    if "differentiable" in analyzer.needs:
        pytest.skip("needs a network")
    inputs = len(task.inputs)
    flat = [
        gd.Snapshot(
            task,
            matrices={
                "embedding": Matrix(np.full((task.tokens, 4), 0.1)),
                "neuron_input": Matrix(np.zeros((task.tokens, 5)), columns="neurons"),
            },
            logits=np.zeros((inputs, task.classes), dtype=np.float32),
            train=np.ones(inputs, dtype=bool),
        )
        for _ in range(2)
    ]
    compute(analyzer, *flat)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["embedding", "logits"])
def test_nan_gives_a_clear_error_or_nan(name: str, part: str) -> None:
    analyzer = ANALYZERS[name]
    task = suited(analyzer, "modadd:p=7")
    looked_at = {"logits"} if part == "logits" else {"embedding", "matrices"}
    if "differentiable" in analyzer.needs or not looked_at & set(analyzer.needs):
        pytest.skip("does not look at it")
    good = random_dump(task)
    logits, embedding = good.logits.copy(), good.embedding.copy()
    (logits if part == "logits" else embedding)[3, 2] = np.nan
    bad = gd.Snapshot(task, matrices={"embedding": Matrix(embedding)}, logits=logits)
    if part == "embedding" and name != "spectrum":  # power of NaN is NaN
        with pytest.raises(ValueError, match=r"finite|NaN"):
            compute(analyzer, bad, bad)
        return
    found = compute(analyzer, bad, bad)
    assert any(np.isnan(v.values).any() for v in found.data_vars.values() if v.dtype.kind == "f")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_part_is_named(name: str) -> None:
    analyzer = ANALYZERS[name]
    task = suited(analyzer, "modadd:p=5")
    empty = gd.Snapshot(task, reasons=dict.fromkeys(analyzer.needs, "nobody wrote it down"))
    assert analyzer.missing(empty, task) == "nobody wrote it down"


ROTATION = [name for name in NAMES if "differentiable" not in ANALYZERS[name].needs]


@pytest.mark.parametrize("name", ROTATION)
def test_rotating_features_changes_nothing(name: str) -> None:
    analyzer = ANALYZERS[name]
    task = suited(analyzer, "modadd:p=11")
    plain = [random_dump(task, seed) for seed in range(2)]
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(8, 8)))[0]
    turned = [
        gd.Snapshot(
            task,
            matrices={
                key: Matrix(m.values @ turn, m.rows, m.columns) if m.columns == "features" else m
                for key, m in one.matrices.items()
            },
            logits=one.logits,
            train=one.train,
            step=one.step,
        )
        for one in plain
    ]
    before, after = compute(analyzer, *plain), compute(analyzer, *turned)
    # Ripser works in single precision.
    xr.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


class _Checkpoint:
    step = 3
    digest = "d"
    path = None
    load = None


@pytest.mark.parametrize("spec", ["modadd:p=7", "comparison:3x4"])
def test_all_of_them_through_a_step(spec: str) -> None:
    """Together on one snapshot they give what each gives alone: shared work is not mixed up."""
    task = gd.task(spec)
    everything = tuple(ANALYZERS[name] for name in NAMES if ANALYZERS[name].scope == "step")

    class Given(Plan):
        def snapshot(self, checkpoint: object) -> gd.Snapshot:
            return random_dump(task)

    row = measure(Given(task=task, analyzers=everything), _Checkpoint())  # type: ignore[arg-type]
    assert row.status == "ok", row.error
    alone = random_dump(task)
    assert list(row.reasons) == [one.name for one in everything if one.missing(alone, task)]
    for analyzer in everything:
        if analyzer.name in row.reasons:
            continue
        for name, variable in compute(analyzer, random_dump(task)).data_vars.items():
            np.testing.assert_array_equal(row.values[str(name)].values, variable.values)
