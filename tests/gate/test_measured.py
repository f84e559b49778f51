"""The numbers that are taken out of results."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr

from geomdiag.errors import BaselineError, GeomdiagError
from geomdiag.gate.measured import measure
from geomdiag.gate.patterns import choose


def run(name: str, last: float = 0.9, **attrs: str) -> xr.Dataset:
    accuracy = np.array([[0.5, 0.1], [1.0, last]])
    return xr.Dataset(
        {
            "accuracy": (("step", "part"), accuracy, {"higher_is_better": 1}),
            "additivity": ("step", [0.2, 0.3]),
            "status": ("step", ["ok", "ok"]),
            "error": ("step", ["", ""]),
            "stage_boundary": ("boundary", [7.0, math.nan]),
            "stage_evidence": ("boundary", ["early", "it never came"]),
        },
        {
            "step": [0, 10],
            "part": ["train", "heldout"],
            "boundary": ["t_memorised", "t_generalised"],
        },
        {"run": name, "task": "modadd:p=5", **attrs},
    )


def tree(*runs: xr.Dataset) -> xr.DataTree:
    return xr.DataTree.from_dict({f"/n{i}": one for i, one in enumerate(runs)})


def test_seeds_of_a_setting_stand_together() -> None:
    found = measure(tree(run("a/seed=0", 0.8), run("b/seed=0"), run("a/seed=12", 0.9), run("c")))
    assert [(one.name, one.runs) for one in found] == [
        ("a", ("a/seed=0", "a/seed=12")),
        ("b", ("b/seed=0",)),
        ("c", ("c",)),
    ]
    assert found[0].values["accuracy[heldout]"] == (0.8, 0.9)
    assert found[0].task == "modadd:p=5"
    (alone,) = measure(tree(run("seed=0"), run("seed=1")))
    assert (alone.name, len(alone.runs)) == ("result", 2)


def test_the_last_step_counts_in_whatever_order_the_rows_are() -> None:
    (one,) = measure(run("a").isel(step=[1, 0]))
    assert one.values["accuracy[train]"] == (1.0,)
    assert one.values["additivity"] == (0.3,)
    assert one.values["t_memorised"] == (7.0,)
    assert one.higher_is_better == {"accuracy[train]": True, "accuracy[heldout]": True}


def test_why_a_number_is_missing() -> None:
    broken = run("a", not_computed=json.dumps({"dimension": "no embedding"}))
    broken["status"] = ("step", ["ok", "failed"])
    broken["error"] = ("step", ["", "torn file"])
    broken["additivity"].values[-1] = np.nan
    (one,) = measure(broken)
    assert one.why("additivity") == "the last checkpoint (step 10) is failed: torn file"
    assert one.why("dimension[embedding,effective_dimension]") == "not computed: no embedding"
    assert one.why("t_generalised") == "it never came"
    assert one.why("loss[heldout]") == "the result has no such number"
    assert math.isnan(one.values["additivity"][0])


def test_a_seed_that_lacks_a_metric_has_nan() -> None:
    (one,) = measure(tree(run("a/seed=0"), run("a/seed=1").drop_vars("additivity")))
    np.testing.assert_array_equal(one.values["additivity"], [0.3, math.nan])


def test_numbers_by_name() -> None:
    (one,) = measure({"d": 3, "e": [1.0, 2.0], "f": np.float32(2)})
    assert one.values == {"d": (3.0,), "e": (1.0, 2.0), "f": (2.0,)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no numbers were given"),
        ({"a": "x"}, "'a' is 'x'; expected a number"),
        ({"a": []}, "shape"),
        ({"a": [[1.0]]}, "shape"),
        (xr.DataTree(), "holds no runs"),
    ],
)
def test_what_holds_no_numbers_is_refused(given: object, words: str) -> None:
    with pytest.raises(BaselineError, match=words):
        measure(given)  # type: ignore[arg-type]


def test_different_tasks_are_no_seeds_of_each_other() -> None:
    with pytest.raises(BaselineError, match="different tasks"):
        measure(tree(run("a/seed=0"), run("a/seed=1", task="modadd:p=7")))


def test_a_run_without_steps_is_an_error() -> None:
    with pytest.raises(GeomdiagError, match="no rows along 'step'"):
        measure(xr.Dataset())


def test_patterns() -> None:
    names = ["loss[all]", "loss[heldout]", "t_a", "x[a,mean]", "x[b,max]", "x[b,mean]"]
    assert choose(names, ["x[*,mean]", "t_a"]) == ["x[a,mean]", "x[b,mean]", "t_a"]
    assert choose(names, ["loss[heldout]|loss[all]"]) == ["loss[heldout]"]
    assert choose(names[:1], ["loss[heldout]|loss[all]"]) == ["loss[all]"]
    assert choose(names, ["loss", ".*", "x[ab]"]) == []
    assert choose(names, ["*", "t_a"]) == names
