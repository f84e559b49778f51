"""The summary holds the result's own numbers, and says when there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from geomdiag.summary import summarise


def tree(**variables: object) -> xr.DataTree:
    steps = np.array([0, 10, 100], dtype=np.int64)
    data = {
        "status": ("step", np.array(["ok", "ok", "ok"])),
        "error": ("step", np.array(["", "", ""])),
        **variables,
    }
    dataset = xr.Dataset(data, {"step": ("step", steps)}, {"run": "a/b", "task": "modadd:p=7"})
    return xr.DataTree.from_dict({"/": xr.Dataset(), "a__b": dataset})


def test_a_result_with_nothing_in_it() -> None:
    (told,) = summarise(tree())
    assert (told["run"], told["node"], told["task"]) == ("a/b", "a__b", "modadd:p=7")
    assert told["checkpoints"] == 3
    assert told["steps"] == [0, 100]
    assert told["stage"] == "unknown"
    assert told["key_blocks"] is None
    assert told["effective_dimension"] is None
    for name in ("accuracy", "boundaries", "symmetry_violation", "not_computed", "not_applicable"):
        assert told[name] == {}
    for name in ("errors", "disagreement", "notices"):
        assert told[name] == []
    json.dumps(told, allow_nan=False)


def test_missing_values_are_passed_over() -> None:
    violation = xr.DataArray(
        np.array([[[np.nan]], [[3.0]], [[np.nan]]]),
        dims=("step", "symmetry", "statistic"),
        coords={"symmetry": ["commutativity"], "statistic": ["mean"]},
    )
    accuracy = xr.DataArray(
        np.array([[0.1, np.nan], [0.5, np.nan], [np.nan, np.nan]]),
        dims=("step", "part"),
        coords={"part": ["train", "heldout"]},
    )
    (told,) = summarise(tree(symmetry_violation=violation, accuracy=accuracy))
    course = {"first": 3.0, "peak": 3.0, "last": 3.0, "architectural": False}
    assert told["symmetry_violation"] == {"commutativity": course}
    assert told["accuracy"] == {"train": 0.5}


def test_key_blocks_are_those_of_the_last_checkpoint_strongest_first() -> None:
    power = np.array([[[0.1, 0.2, 0.7]], [[0.3, 0.1, 0.6]], [[np.nan] * 3]])
    key = np.array([[[True, True, True]], [[True, False, True]], [[False] * 3]])
    coords = {"matrix": ["embedding"], "block": ["k=1", "k=2", "k=3"]}
    dims = ("step", "matrix", "block")
    (told,) = summarise(
        tree(power=xr.DataArray(power, coords, dims), key_block=xr.DataArray(key, coords, dims))
    )
    assert told["key_blocks"]["blocks"] == ["k=3", "k=1"]
    assert told["key_blocks"]["share"] == pytest.approx(0.9)


def test_stages_and_their_evidence() -> None:
    stage = xr.DataArray(
        [0, 1, 3],
        dims="step",
        attrs={"flag_values": [-1, 0, 1, 3], "flag_meanings": "unknown before memorised organised"},
    )
    names = {"boundary": ["t_memorised", "t_generalised"]}
    boundary = xr.DataArray([10.0, np.nan], names, ("boundary",))
    evidence = xr.DataArray(["train accuracy", "never reached"], names, ("boundary",))
    (told,) = summarise(tree(stage=stage, stage_boundary=boundary, stage_evidence=evidence))
    assert told["stage"] == "organised"
    assert told["stage_order"] == ""
    for name, step, words in (
        ("t_memorised", 10, "train accuracy"),
        ("t_generalised", None, "never reached"),
    ):
        assert told["boundaries"][name]["step"] == step
        assert told["boundaries"][name]["evidence"] == words


def test_failures_are_listed() -> None:
    status = ("step", np.array(["ok", "failed", "partial"]))
    error = ("step", np.array(["", "truncated", "helix: too few tokens"]))
    (told,) = summarise(tree(status=status, error=error))
    assert (told["failed"], told["partial"]) == (1, 1)
    assert told["errors"][0] == {"step": 10, "status": "failed", "error": "truncated"}


@pytest.mark.parametrize(
    ("labels", "heading"),
    [
        (["k=1", "k=2", "k=3"], "key frequencies"),
        (["k=0,1", "k=1,0", "k=1,2"], "key frequencies"),
        (["sign", "standard", "[2,2]"], "key blocks"),
        (["sign", "k=1", "k=2"], "key blocks"),
    ],
)
@pytest.mark.parametrize("key", [(0, 1, 1), (0, 0, 0)])
def test_key_blocks_are_called_frequencies_where_they_are(
    labels: list[str], heading: str, key: tuple[int, ...]
) -> None:
    from geomdiag_cli.tables import _key_heading

    dims = ("step", "matrix", "block")
    coords = {"matrix": ["embedding"], "block": labels}
    power = xr.DataArray(np.full((3, 1, 3), 1 / 3), dims=dims, coords=coords)
    chosen = xr.DataArray(np.tile(np.array(key), (3, 1, 1)), dims=dims, coords=coords)
    (told,) = summarise(tree(power=power, key_block=chosen))
    assert len(told["key_blocks"]["blocks"]) == sum(key)
    assert _key_heading([told, {"key_blocks": None}]) == heading


@pytest.mark.parametrize(
    ("fact", "ends", "text"),
    [
        ((388, np.nan, 0, np.nan, np.nan), (377, 388), "388"),
        ((101, np.nan, 0, np.nan, np.nan), (377, 388), "388 (first at 101, then below again)"),
        ((388, np.nan, 1, np.nan, np.nan), (np.nan, 388), "388 or earlier"),
        ((388, np.nan, 0, 0.01, 0.9), (200, 500), "388 (200 to 500)"),
        ((388, np.nan, 0, 0.01, 0.9), (np.nan, 500), "388 (to 500)"),
        ((388, np.nan, 0, 0.01, np.nan), (200, 388), "388"),
    ],
)
def test_a_boundary_tells_what_went_before(
    fact: tuple[float, ...], ends: tuple[float, float], text: str
) -> None:
    from geomdiag_cli.tables import when

    (told,) = summarise(
        tree(
            stage_boundary=xr.DataArray([388.0], {"boundary": ["t_memorised"]}),
            stage_boundary_interval=xr.DataArray(
                [ends], {"ci_bound": ["lower", "upper"]}, ("boundary", "ci_bound")
            ),
            stage_fact=xr.DataArray(
                [fact],
                {"fact": ["first", "lost", "or_earlier", "p_value", "interval_prob"]},
                ("boundary", "fact"),
            ),
        )
    )
    boundary = told["boundaries"]["t_memorised"]
    assert when(boundary) == text
    assert boundary["lost"] is None
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("stage", "settled", "words"),
    [
        (2, 60.0, "symmetry acquisition (settled at 60; geometry does not organise)"),
        (2, np.nan, "symmetry acquisition"),
        (3, 60.0, "geometric organisation"),
    ],
)
def test_symmetry_that_has_settled_is_told_of_a_run_that_ends_there(
    stage: int, settled: float, words: str
) -> None:
    from geomdiag_cli.tables import _stages

    flags = {
        "flag_values": [1, 2, 3],
        "flag_meanings": "memorisation symmetry_acquisition geometric_organisation",
    }
    (told,) = summarise(
        tree(
            stage=xr.DataArray([1, 2, stage], dims="step", attrs=flags),
            stage_boundary=xr.DataArray([settled], {"boundary": ["t_acquired"]}),
        )
    )
    assert ("stage at the end", words) in _stages(told)


def test_a_boundary_without_interval_or_facts_is_told_all_the_same() -> None:
    """As in results of earlier versions."""
    from geomdiag_cli.tables import between, when

    coords = {"boundary": ["t_memorised", "t_generalised"]}
    (told,) = summarise(
        tree(
            stage_boundary=xr.DataArray([388.0, np.nan], coords),
            stage_evidence=xr.DataArray(["", "never"], coords),
        )
    )
    memorised, generalised = told["boundaries"].values()
    assert when(memorised) == "388"
    assert when(generalised) == "– (never)"
    assert between(memorised) == "–"
    assert told["stage_order_probability"] is None


@pytest.mark.parametrize(("generates", "said"), [(1.0, True), (0.0, False), (np.nan, None)])
def test_whether_the_keys_generate_the_group(generates: float, said: bool | None) -> None:
    dims, coords = ("step", "matrix", "block"), {"matrix": ["embedding"], "block": ["k=2", "k=4"]}
    power = xr.DataArray(np.full((3, 1, 2), 0.5), dims=dims, coords=coords)
    key = xr.DataArray(np.ones((3, 1, 2), dtype=bool), dims=dims, coords=coords)
    helix = xr.DataArray(
        np.full((3, 1, 1), generates),
        dims=("step", "matrix", "measure"),
        coords={"matrix": ["embedding"], "measure": ["generates"]},
    )
    (told,) = summarise(tree(power=power, key_block=key, helix=helix))
    assert told["key_blocks"]["generates"] is said
