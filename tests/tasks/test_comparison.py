"""Comparison tasks: answers by their words, chains by a loop, and what a sample stands for."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.sparse.csgraph import shortest_path

from geomdiag.errors import TaskError
from geomdiag.tasks import Composition, Equivalence, Task, comparison, task
from geomdiag.tasks.comparison import Comparison

GRIDS = st.lists(st.integers(2, 4), min_size=1, max_size=3).filter(lambda s: math.prod(s) <= 24)
FORMS = st.sampled_from(["three", "binary"])


def points(t: Comparison) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, t.sizes)))


def symmetry(t: Task, name: str) -> Equivalence | Composition | None:
    return next((one for one in t.symmetries if one.name == name), None)


@given(GRIDS, FORMS)
def test_inputs_and_answers_are_what_the_words_say(sizes: list[int], form: str) -> None:
    t = Comparison(sizes, form)
    entities = points(t)
    n = len(entities)
    assert (t.tokens, t.classes) == (n, 3 if form == "three" else 2)
    symbols = range(n, t.vocabulary)
    assert len(symbols) == len(sizes) * (1 if form == "three" else 3)
    expected = list(itertools.product(range(n), symbols, range(n)))
    assert [tuple(row) for row in t.inputs.tolist()] == expected
    for (a, asked, b), answer in zip(expected, t.answers.tolist(), strict=True):
        if form == "three":
            left, right = entities[a][asked - n], entities[b][asked - n]
            assert answer == (0 if left < right else 1 if left == right else 2)
        else:
            attribute, relation = divmod(asked - n, 3)
            left, right = entities[a][attribute], entities[b][attribute]
            assert answer == int((left < right, left == right, left > right)[relation])


@given(GRIDS)
def test_ranks_and_distances_are_those_of_the_grid(sizes: list[int]) -> None:
    t = Comparison(sizes)
    entities = np.array(points(t))
    assert list(t.orders) == [f"x{k}" for k in range(1, len(sizes) + 1)]
    np.testing.assert_array_equal(np.stack(list(t.orders.values()), axis=1), entities)
    steps = np.abs(entities[:, None] - entities).sum(axis=2) == 1
    np.testing.assert_array_equal(t.metric, shortest_path(steps.astype(float), unweighted=True))


@given(GRIDS)
def test_the_basis_is_the_cosine_transform_along_each_axis(sizes: list[int]) -> None:
    t = Comparison(sizes)
    values = np.random.default_rng(0).normal(size=t.tokens)
    expected = values.reshape(sizes)
    for axis in range(len(sizes)):
        expected = dct(expected, type=2, norm="ortho", axis=axis)
    np.testing.assert_allclose(t.basis.vectors.T @ values, expected.ravel(), atol=1e-12)
    assert t.basis.labels == tuple("k=" + ",".join(map(str, k)) for k in points(t))


@given(GRIDS, FORMS)
def test_chains_are_those_of_a_loop(sizes: list[int], form: str) -> None:
    """a < b < c in an attribute: (a, c) from (a, b) and (b, c), whatever is asked of the order."""
    t = Comparison(sizes, form)
    row = {tuple(one): number for number, one in enumerate(t.inputs.tolist())}
    entities, expected = points(t), []
    for k in range(len(sizes)):
        asked = [t.tokens + k] if form == "three" else [t.tokens + 3 * k, t.tokens + 3 * k + 2]
        for a, b, c in itertools.product(range(t.tokens), repeat=3):
            if entities[a][k] < entities[b][k] < entities[c][k]:
                expected += [(row[a, s, c], row[a, s, b], row[b, s, c]) for s in asked]
    found = symmetry(t, "transitivity")
    if not expected:
        assert found is None
        return
    assert isinstance(found, Composition)
    assert found.exact
    assert found.rule == "logit_sum"
    assert found.odds == ((2, 0) if form == "three" else (1, 0))
    listed = np.column_stack([found.whole, found.parts]).tolist()
    assert sorted(map(tuple, listed)) == sorted(expected)


@pytest.mark.parametrize("form", ["three", "binary"])
def test_antisymmetry_joins_an_input_with_its_exchange(form: str) -> None:
    t = Comparison("3x2", form)
    found = symmetry(t, "antisymmetry")
    assert isinstance(found, Equivalence)
    assert found.pairs is not None
    assert found.orbits is None
    converse = {0: 2, 1: 1, 2: 0}
    met = set()
    for i, j in found.pairs.tolist():
        a, asked, b = t.inputs[i].tolist()
        other = asked
        if form == "binary":
            attribute, relation = divmod(asked - t.tokens, 3)
            other = t.tokens + 3 * attribute + converse[relation]
        assert t.inputs[j].tolist() == [b, other, a]
        met.add(frozenset((i, j)))
    assert len(met) == len(found.pairs)
    n = t.tokens
    each = n * (n - 1) // 2 if form == "three" else n * n + n * (n - 1) // 2
    assert len(met) == 2 * each


@pytest.mark.parametrize("form", ["three", "binary"])
def test_a_sample_is_uniform_over_the_chains(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal sides, so that attributes differ in how many chains they have."""
    t = Comparison("3x4", form)
    whole = symmetry(t, "transitivity")
    assert isinstance(whole, Composition)
    monkeypatch.setattr(comparison, "MAX_TRIPLES", len(whole.whole) - 1)
    monkeypatch.setattr(comparison, "SAMPLED_TRIPLES", 200_000)
    drawn = symmetry(Comparison("3x4", form), "transitivity")
    assert isinstance(drawn, Composition)
    assert not drawn.exact
    assert "sample" in drawn.definition
    assert drawn.parts.shape == (200_000, 2)
    rows = np.column_stack([whole.whole, whole.parts])
    picked, counts = np.unique(
        np.column_stack([drawn.whole, drawn.parts]), axis=0, return_counts=True
    )
    assert sorted(picked.tolist()) == sorted(rows.tolist())
    mean = 200_000 / len(rows)
    chi = ((counts - mean) ** 2 / mean).sum()
    assert abs(chi - (len(rows) - 1)) < 5 * np.sqrt(2 * (len(rows) - 1))
    again = symmetry(Comparison("3x4", form), "transitivity")
    assert isinstance(again, Composition)
    np.testing.assert_array_equal(again.parts, drawn.parts)


def test_the_papers_grids() -> None:
    for spec, tokens, chains in (
        ("comparison:7x7", 49, 2 * 35 * 7**3),
        ("comparison:3x3x3", 27, 3 * 9**3),
        ("comparison:20", 20, 1140),
    ):
        t = task(spec)
        found = symmetry(t, "transitivity")
        assert t.tokens == tokens
        assert isinstance(found, Composition)
        assert len(found.whole) == chains
    large = symmetry(task("comparison:7x7x7"), "transitivity")
    assert isinstance(large, Composition)
    assert not large.exact
    assert len(large.whole) == comparison.SAMPLED_TRIPLES


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("comparison:20", "comparison:20"),
        ("comparison: 7 x 7 ", "comparison:7x7"),
        ("comparison:7X07", "comparison:7x7"),
        ("comparison:3×4", "comparison:3x4"),
        ("comparison:grid=3x3,form=three", "comparison:3x3"),
        ("comparison:3x3,binary", "comparison:3x3,form=binary"),
        ("comparison:grid=5,form=binary", "comparison:5,form=binary"),
    ],
)
def test_ways_to_write_it(spec: str, name: str) -> None:
    assert task(spec).name == name


def test_grids_from_python() -> None:
    assert Comparison(7) == task("comparison:7") != Comparison("7x7")
    assert Comparison((3, 4)) == Comparison([3, np.int64(4)]) == Comparison("3x4")
    assert Comparison(7) != Comparison(7, "binary")
    assert len({Comparison(7), Comparison("7"), Comparison(7, form="binary")}) == 2
    assert pickle.loads(pickle.dumps(Comparison("3x4", "binary"))) == Comparison("3x4", "binary")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("comparison", "'grid'.*was not said"),
        ("comparison:1", "attribute with 1 ranks; each needs at least 2"),
        ("comparison:7x0", "with 0 ranks"),
        ("comparison:7x", "the grid is '7x'; expected the number of ranks"),
        ("comparison:7.5", "the grid is '7.5'"),
        ("comparison:-3", "with -3 ranks"),
        ("comparison:axb", "the grid is 'axb'"),
        ("comparison:7x7,form=ternary", "form is 'ternary'; expected 'three'.*'binary'"),
        ("comparison:4000", "16000000 inputs, more than the 10000000"),
        ("comparison:999999999x999999999", "more than the 10000000"),
        ("comparison:7x7,shape=2", "unknown parameter 'shape'"),
    ],
)
def test_what_is_no_comparison(spec: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(spec)


@pytest.mark.parametrize("grid", [True, (), (3, True), 2.0, None, ("3", "4")])
def test_what_is_no_grid(grid: object) -> None:
    with pytest.raises(TaskError, match="the grid is"):
        Comparison(grid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vocabulary", "classes", "first"),
    [
        (52, 3, "comparison:7x7"),
        (51, 3, "comparison:7x7"),
        (31, 3, "comparison:3x3x3"),
        (56, 2, "comparison:7x7,form=binary"),
        (37, 2, "comparison:3x3x3,form=binary"),
        (22, 3, "comparison:20"),
        (52, 52, "comparison:7x7"),
        (52, None, "comparison:7x7"),
    ],
)
def test_sizes_tell_the_grids_that_fit(vocabulary: int, classes: int | None, first: str) -> None:
    found = Comparison.fitting(vocabulary, classes)
    assert found[0] == first
    for spec in found:
        made = task(spec)
        assert 0 <= vocabulary - made.vocabulary <= 2
        assert classes in (made.classes, vocabulary, None)


def test_sizes_that_tell_nothing() -> None:
    assert Comparison.fitting(None, 3) == ()
    assert Comparison.fitting(52, 7) == ()
    assert Comparison.fitting(2, 3) == ()
    assert Comparison.fitting(50257, 3) == ()
