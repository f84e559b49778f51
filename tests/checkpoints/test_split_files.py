"""Splits: as given, as stored, as drawn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.checkpoints import Split, parse_split
from geomdiag.checkpoints.beside.splits import split_from_value
from geomdiag.errors import SplitError


def inputs(p: int) -> np.ndarray:
    return np.array([(a, b) for a in range(p) for b in range(p)], dtype=np.int64)


@given(p=st.integers(2, 9), seed=st.integers(0, 99), fraction=st.floats(0, 1))
def test_recipes_draw_what_studies_draw(p: int, seed: int, fraction: float) -> None:
    n, cut = p * p, int(fraction * p * p)
    pairs = [(a, b, p) for a in range(p) for b in range(p)]
    random.Random(seed).shuffle(pairs)
    expected = {
        "python": [a * p + b for a, b, _ in pairs],
        "numpy": np.random.RandomState(seed).permutation(n).tolist(),
        "numpy-generator": np.random.default_rng(seed).permutation(n).tolist(),
        "torch": torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist(),
    }
    for generator, order in expected.items():
        mask = parse_split(f"{generator}:seed={seed},fraction={fraction!r}").mask(inputs(p))
        assert set(np.flatnonzero(mask)) == set(order[:cut])


def test_global_random_state_is_left_alone() -> None:
    before = random.getstate(), torch.get_rng_state()
    for generator in ("python", "numpy", "torch"):
        parse_split(f"{generator}:seed=0,fraction=0.5").mask(inputs(5))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@given(p=st.integers(3, 8), data=st.data())
def test_all_forms_agree(p: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=p * p, max_size=p * p)))
    if mask.sum() < 2:
        return
    rows = np.flatnonzero(mask)
    pairs = inputs(p)[rows]
    forms = [
        mask,
        mask.reshape(p, p),
        torch.from_numpy(pairs),
        [tuple(pair) for pair in pairs.tolist()],
        [(a, b, p) for a, b in pairs.tolist()],
        [((a, b), (a + b) % p) for a, b in pairs.tolist()],
        {"train": rows.tolist()},
        {"split": {"train": rows.tolist(), "test": []}},
    ]
    if rows.max() > 1:
        forms += [rows, torch.from_numpy(rows), rows.astype(float)]
    for form in forms:
        if form is forms[2] and set(np.unique(pairs)) <= {0, 1}:
            continue  # a matrix of zeros and ones reads as a mask only when it is square
        np.testing.assert_array_equal(split_from_value(form, "here").mask(inputs(p)), mask)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json", ".pt", ".csv", ".txt"])
@pytest.mark.parametrize("form", ["rows", "pairs", "mask"])
def test_files(suffix: str, form: str, tmp_path: Path) -> None:
    mask = np.zeros(49, dtype=bool)
    mask[[0, 3, 4, 11, 27, 48]] = True
    value = {"rows": np.flatnonzero(mask), "pairs": inputs(7)[mask], "mask": mask}[form]
    path = tmp_path / f"split{suffix}"
    if suffix == ".npy":
        np.save(path, value)
    elif suffix == ".npz":
        np.savez(path, train=value, test=np.arange(3))
    elif suffix == ".json":
        path.write_text(json.dumps({"train": value.tolist()}))
    elif suffix == ".pt":
        torch.save(torch.from_numpy(value), path)
    else:
        between = "," if suffix == ".csv" else " "
        rows = np.atleast_2d(value.T).T.tolist()
        path.write_text("\n".join(between.join(map(str, row)) for row in rows))
    split = parse_split(path)
    assert split.kind == form
    np.testing.assert_array_equal(split.mask(inputs(7)), mask)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n0,1\n2,2\n", [1, 8]),
        ("row\n3\n4\n", [3, 4]),
        ("a,b,split\n0,0,train\n0,1,test\n2,2,train\n", [0, 8]),
        ("# drawn by hand\n3\n8\n", [3, 8]),
        ("train\n1\n0\n0\n0\n0\n0\n0\n0\n1\n", [0, 8]),
    ],
)
def test_tables_with_headers(text: str, rows: list[int], tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    assert np.flatnonzero(parse_split(path).mask(inputs(3))).tolist() == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.npz", "neither a file nor a recipe"),
        ("julia:seed=0,fraction=0.3", "unknown generator 'julia'"),
        ("python:seed=0", "exactly seed and fraction"),
        ("python:seed=a,fraction=0.3", "whole number"),
        ("python:seed=0,fraction=1.5", "expected 0 to 1"),
        ("python:seed=0,fraction=nan", "expected 0 to 1"),
        ("torch:seed=-1,fraction=0.3", "expected 0 or more"),
    ],
)
def test_wrong_descriptions(text: str, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        parse_split(text)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(kind="rows", value=[0, 9], source="s"), "rows 0 to 8"),
        (Split(kind="rows", value=[-1], source="s"), "smallest -1"),
        (Split(kind="rows", value=[1, 1], source="s"), "twice"),
        (Split(kind="pairs", value=[(0, 3)], source="s"), r"\(0, 3\)"),
        (Split(kind="pairs", value=[(0, 1, 2)], source="s"), "2 operands"),
        (Split(kind="mask", value=[True] * 8, source="s"), "8 truth values"),
    ],
)
def test_splits_that_do_not_fit(split: Split, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split.mask(inputs(3))


@pytest.mark.parametrize("value", [{}, {"test": [1]}, [], [0.5], "text", [[1, 2], [3]], None])
def test_values_that_are_no_split(value: object) -> None:
    with pytest.raises(SplitError, match="expected"):
        split_from_value(value, "here")


def test_unreadable_files(tmp_path: Path) -> None:
    for name in ("a.npz", "a.json", "a.pt", "a.csv", "a.xyz"):
        path = tmp_path / name
        path.write_text("{ not, this\n")
        with pytest.raises(SplitError, match=name):
            parse_split(path)


@pytest.mark.parametrize("text", ["1\n0\n1\n1\n0\n0\n1\n0\n1\n", "1.0\n0.0\n1\n1\n0\n0\n1\n0\n1\n"])
def test_one_column_of_ones_and_zeros_is_a_mask(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mask.csv"
    path.write_text(text)
    found = parse_split(path).mask(inputs(3))
    assert found.tolist() == [line.startswith("1") for line in text.split()]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01", b"PK\x03\x04 garbage"])
def test_garbage_is_told_what_was_expected(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"split{suffix}"
    path.write_bytes(content)
    with pytest.raises(SplitError, match="row numbers in lexicographic order") as caught:
        parse_split(path)
    for advice in ("allow_pickle", "weights_only", "pickle"):
        assert advice not in str(caught.value)
    if suffix == ".npy":
        np.save(path, np.array([{}], dtype=object))
        with pytest.raises(SplitError, match="Python objects"):
            parse_split(path)
