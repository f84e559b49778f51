"""Many results as one table: what is kept, and that it comes back as it was."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from geomdiag.dynamics.corpus import collect, join, load_corpus, runs_of, save_corpus, signals_of
from geomdiag.errors import StoreError


def a_run(seed: int, *, history: bool = True) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    steps = np.array([0, 10, 100])
    data: dict[str, object] = {
        "accuracy": (("step", "part"), np.array([[0.1, 0.0], [1.0, 0.2], [1.0, 1.0]])),
        "dimension": (("step", "matrix", "measure"), rng.normal(size=(3, 3, 2))),
        "logit_scale": ("step", rng.normal(size=3)),
        "power": (("step", "block"), rng.normal(size=(3, 4))),
    }
    coords: dict[str, object] = {
        "step": steps,
        "part": ["train", "heldout"],
        "matrix": ["embedding", "mlp_in", "unembedding"],
        "measure": ["entropy_rank", "stable_rank"],
    }
    if history:
        at = np.arange(0, 101, 5)
        curves = np.stack([at >= 10, at >= 60 + seed], axis=1).astype(float)
        data["history"] = (("history_step", "quantity"), curves)
        data["disagreement"] = (("step", "quantity"), np.zeros((3, 2)))
        coords |= {"history_step": at, "quantity": ["train_accuracy", "heldout_accuracy"]}
    return xr.Dataset(data, coords, {"task": "modadd:p=5", "architecture": "mlp"})


def test_signals_are_named_by_variable_and_labels() -> None:
    run = a_run(0)
    found = signals_of(run)
    assert sorted(found) == [
        "accuracy[heldout]",
        "accuracy[train]",
        "dimension[embedding,entropy_rank]",
        "dimension[embedding,stable_rank]",
        "dimension[unembedding,entropy_rank]",
        "dimension[unembedding,stable_rank]",
        "logit_scale",
    ]
    wanted = run["dimension"].sel(matrix="unembedding", measure="stable_rank").values
    np.testing.assert_array_equal(found["dimension[unembedding,stable_rank]"], wanted)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.99, 1.0], (0.0, 5.0)),
        ([0.0, 1.0, 0.5], (np.nan, np.nan)),
        ([1.0, 0.5, 1.0], (5.0, 9.0)),
        ([0.0, np.nan, 1.0], (0.0, 9.0)),
        ([1.0, 1.0, np.nan], (np.nan, 0.0)),
        ([np.nan, np.nan, np.nan], (np.nan, np.nan)),
    ],
)
def test_onset_is_bracketed(values: list[float], expected: tuple[float, float]) -> None:
    run = a_run(0, history=False).assign_coords(step=[0, 5, 9])
    run["accuracy"].loc[{"part": "heldout"}] = values
    corpus = collect([("a", run)])
    found = (corpus["t_generalised_after"].item(), corpus["t_generalised"].item())
    np.testing.assert_array_equal(found, expected)


def test_onsets_come_from_the_runs_own_curves_where_it_has_some() -> None:
    corpus = collect([("a/seed=3", a_run(3)), ("a/seed=4", a_run(4, history=False))])
    np.testing.assert_array_equal(corpus["t_generalised"], [65, 100])
    np.testing.assert_array_equal(corpus["t_generalised_after"], [60, 10])
    np.testing.assert_array_equal(corpus["t_memorised"], [10, 10])
    assert corpus["setting"].values.tolist() == ["a", "a"]


def test_rows_of_runs_follow_one_another() -> None:
    other = a_run(1).drop_vars("logit_scale").isel(step=[0, 2])
    corpus = collect([("x", a_run(0)), ("y", other)], recipes={"y": '{"name": "y"}'})
    np.testing.assert_array_equal(corpus["run_index"], [0, 0, 0, 1, 1])
    assert runs_of(corpus) == [slice(0, 3), slice(3, 5)]
    np.testing.assert_array_equal(corpus["step"], [0, 10, 100, 0, 100])
    scale = corpus["value"].sel(signal="logit_scale").values
    np.testing.assert_allclose(scale[:3], a_run(0)["logit_scale"].values, rtol=1e-6)
    assert np.isnan(scale[3:]).all()
    assert corpus["value"].dtype == np.float32
    assert corpus["recipe"].values.tolist() == ["", '{"name": "y"}']


def test_what_is_written_is_read_back_and_the_same_bytes(tmp_path: Path) -> None:
    corpus = collect([("a", a_run(0)), ("b", a_run(1))])
    one = save_corpus(corpus, tmp_path / "one.zarr.zip")
    two = save_corpus(corpus, tmp_path / "two.zarr.zip")
    assert one.read_bytes() == two.read_bytes()
    xr.testing.assert_equal(load_corpus(one), corpus)
    assert load_corpus(one)["value"].dtype == np.float32


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.zip"
    text.write_text("no archive")
    with pytest.raises(StoreError, match=r"text\.zip cannot be read as a corpus"):
        load_corpus(text)
    with pytest.raises(StoreError, match="cannot be read as a corpus"):
        load_corpus(tmp_path / "absent.zip")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(StoreError, match="save_corpus writes"):
        load_corpus(other)
    whole = save_corpus(collect([("a", a_run(0))]), tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"half\.zip"):
        load_corpus(tmp_path / "half.zip")


def test_names_must_differ() -> None:
    with pytest.raises(StoreError, match="two runs are called 'a'"):
        collect([("a", a_run(0)), ("a", a_run(1))])
    with pytest.raises(StoreError, match="no runs"):
        collect([])


def test_joined_corpora_are_the_corpus_of_all_runs() -> None:
    other = a_run(1).drop_vars("logit_scale").isel(step=[0, 2])
    runs = [("x", a_run(0)), ("y", other), ("z", a_run(2))]
    parts = [collect(runs[:1]), collect(runs[1:])]
    xr.testing.assert_equal(join(parts), collect(runs))
    assert join(parts)["run_index"].dtype == np.int32
    with pytest.raises(StoreError, match="two runs are called 'x'"):
        join([parts[0], parts[0]])
