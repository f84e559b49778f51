"""What every registered task must satisfy; a new family is picked up without a change here.

Families whose size is told by a checkpoint are tried at several moduli, the others at their
`example` and `examples`. The brute force below knows only the words of `Equivalence`: which
pairs of inputs are instances, and how an output is aligned before it is compared.
"""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest

from geomdiag.errors import TaskError
from geomdiag.tasks import (
    TASKS,
    Composition,
    Equivalence,
    HarmonicBasis,
    Task,
    task,
    task_families,
)
from geomdiag.tasks.contract import IntArray

SIZES = (2, 3, 4, 7, 11, 12, 23)


def every_task() -> list[Task]:
    found = []
    for family in task_families():
        size = getattr(TASKS[family.name], "size_parameter", "")
        if not size:
            more = getattr(TASKS[family.name], "examples", ())
            found += [task(spec) for spec in dict.fromkeys((family.example, *more))]
        for value in SIZES if size else ():
            try:
                found.append(task(family.name, **{size: value}))
            except TaskError as refusal:
                if "prime" not in str(refusal):
                    raise
    return found


ALL = every_task()
EQUIVALENCES = [
    pytest.param(t, s, id=f"{t.name}-{s.name}")
    for t in ALL
    for s in t.symmetries
    if isinstance(s, Equivalence)
]
# Joining pairs one by one is slow in Python; the largest orbits add nothing there.
SMALL = [case for case in EQUIVALENCES if case.values[1].instances() <= 30_000]


@pytest.fixture(params=ALL, ids=lambda t: t.name)
def each(request: pytest.FixtureRequest) -> Task:
    made: Task = request.param
    return made


def ordered_pairs(symmetry: Equivalence, n: int) -> IntArray:
    """Every instance, from the words of the contract alone."""
    found = [] if symmetry.pairs is None else [tuple(row) for row in symmetry.pairs.tolist()]
    if symmetry.orbits is not None:
        members: dict[int, list[int]] = {}
        for row, label in enumerate(symmetry.orbits.tolist()):
            if label >= 0:
                members.setdefault(label, []).append(row)
        for rows in members.values():
            found += itertools.product(rows, rows)
    assert all(0 <= i < n and 0 <= j < n for i, j in found)
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def align(symmetry: Equivalence, outputs: np.ndarray) -> np.ndarray:
    """Class k of the aligned output i is class relabelling[alignment[i], k] of output i."""
    if symmetry.alignment is None or symmetry.relabelling is None:
        return outputs
    return np.take_along_axis(outputs, symmetry.relabelling[symmetry.alignment], axis=1)


def check_basis(basis: HarmonicBasis, tokens: int) -> None:
    m = len(basis.members)
    assert len(set(basis.members.tolist())) == m
    assert basis.members.min() >= 0
    assert basis.members.max() < tokens
    assert basis.vectors.shape == (m, m)
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(m), atol=1e-12)
    # Complete: every block of a label has a vector and the other way round.
    assert basis.block.shape == (m,)
    assert sorted(set(basis.block.tolist())) == list(range(len(basis.labels)))
    assert len(set(basis.labels)) == len(basis.labels)
    trivial = basis.vectors[:, basis.block == 0]
    assert trivial.shape == (m, 1)
    assert np.ptp(trivial) <= 1e-15
    if basis.period is None:
        return
    assert basis.period == m
    values = np.random.default_rng(0).normal(size=(m, 3))
    by_vectors = np.zeros(len(basis.labels))
    np.add.at(by_vectors, basis.block, ((basis.vectors.T @ values) ** 2).sum(axis=1))
    by_fft = np.zeros(len(basis.labels))
    frequency = np.minimum(np.arange(m), m - np.arange(m))
    np.add.at(by_fft, frequency, (np.abs(np.fft.fft(values, axis=0)) ** 2).sum(axis=1) / m)
    np.testing.assert_allclose(by_vectors, by_fft, rtol=1e-10, atol=1e-12)


def check_metric(distance: np.ndarray, tokens: int) -> None:
    assert distance.shape == (tokens, tokens)
    assert distance.dtype == np.float64
    assert (np.diag(distance) == 0).all()
    assert (distance == distance.T).all()
    assert (distance[~np.eye(tokens, dtype=bool)] > 0).all()
    around = (distance[:, :, None] + distance[None, :, :]).min(axis=1)
    assert (distance <= around + 1e-12).all()


def test_name_gives_the_task_back(each: Task) -> None:
    again = task(each.name)
    assert again.name == each.name
    assert again.family == each.family
    assert again.parameters == each.parameters
    assert task(each) is each
    assert str(each.tokens) in repr(each) or each.title in repr(each)


def test_inputs_and_answers(each: Task) -> None:
    n, arity = each.inputs.shape
    assert arity >= 2
    assert each.inputs.dtype == each.answers.dtype == np.int64
    assert each.answers.shape == (n,)
    assert each.answers.min() >= 0
    assert each.answers.max() < each.classes
    rows = each.inputs.tolist()
    assert rows == sorted(rows)
    assert len({tuple(row) for row in rows}) == n


@pytest.mark.parametrize(("each", "symmetry"), EQUIVALENCES)
def test_right_answers_have_the_symmetry(each: Task, symmetry: Equivalence) -> None:
    n = len(each.answers)
    instances = ordered_pairs(symmetry, n)
    assert symmetry.instances() == len(instances) > 0
    right = np.zeros((n, each.classes))
    right[np.arange(n), each.answers] = 30.0
    aligned = align(symmetry, right)
    log_p = aligned - np.log(np.exp(aligned).sum(axis=1, keepdims=True))
    # Instances repeat (row, row) pairs heavily; what is compared is each pair once.
    left, other = np.unique(instances, axis=0).T
    same = aligned.argmax(axis=1)
    assert (same[left] == same[other]).all()
    for start in range(0, len(left), 20_000):
        i, j = left[start : start + 20_000], other[start : start + 20_000]
        kl = 0.5 * ((np.exp(log_p[i]) - np.exp(log_p[j])) * (log_p[i] - log_p[j])).sum(axis=1)
        assert np.abs(kl).max() <= 1e-12


@pytest.mark.parametrize(("each", "symmetry"), EQUIVALENCES)
def test_equivalences_are_well_formed(each: Task, symmetry: Equivalence) -> None:
    n = len(each.answers)
    assert symmetry.definition
    assert (symmetry.orbits is not None) or (symmetry.pairs is not None)
    if symmetry.orbits is not None:
        assert symmetry.orbits.shape == (n,)
        assert symmetry.orbits.min() >= -1
    assert (symmetry.alignment is None) == (symmetry.relabelling is None)
    if symmetry.alignment is not None and symmetry.relabelling is not None:
        assert symmetry.alignment.shape == (n,)
        assert symmetry.alignment.min() >= 0
        assert symmetry.alignment.max() < len(symmetry.relabelling)
        everything = np.broadcast_to(np.arange(each.classes), symmetry.relabelling.shape)
        assert (np.sort(symmetry.relabelling, axis=1) == everything).all()
    swapped = each.inputs[:, ::-1].tolist()
    pairs = ordered_pairs(symmetry, n)
    only_swaps = all(
        each.inputs[j].tolist() in (each.inputs[i].tolist(), swapped[i]) for i, j in pairs[:2000]
    )
    if symmetry.swaps_operands:
        assert only_swaps


@pytest.mark.parametrize(("each", "symmetry"), SMALL)
def test_components_join_exactly_what_instances_join(each: Task, symmetry: Equivalence) -> None:
    n = len(each.answers)
    labels = symmetry.components(n)
    assert labels.shape == (n,)
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in np.unique(ordered_pairs(symmetry, n), axis=0).tolist():
        parent[root(i)] = root(j)
    roots = [root(i) for i in range(n)]
    joint = Counter(zip(roots, labels.tolist(), strict=True))
    assert len(joint) == len(set(roots)) == len(set(labels.tolist()))


def test_bases_are_orthonormal_and_complete(each: Task) -> None:
    check_basis(each.basis, each.tokens)
    if each.class_basis is not None:
        check_basis(each.class_basis, each.classes)


def test_metrics_are_metrics(each: Task) -> None:
    check_metric(each.metric, each.tokens)
    for block in range(-1, len(each.basis.labels) + 1):
        distance = each.metric_for(block)
        if distance is not None:
            check_metric(distance, each.tokens)
            # A re-ordering: the same distances between other tokens.
            assert (np.sort(distance, axis=None) == np.sort(each.metric, axis=None)).all()


def test_class_distances_are_those_of_the_answers(each: Task) -> None:
    if each.class_distances is None:
        return
    assert each.inputs.shape == (each.tokens**2, 2)
    assert each.class_distances.shape == (each.classes,)
    expected = each.metric[each.inputs[:, 0], each.inputs[:, 1]]
    np.testing.assert_allclose(each.class_distances[each.answers], expected, rtol=1e-9)


def test_orders_are_ranks(each: Task) -> None:
    for rank in each.orders.values():
        assert rank.shape == (each.tokens,)


def test_logit_group_agrees_with_the_answers(each: Task) -> None:
    group = each.logit_group
    if group is None:
        return
    assert len(set(group.classes.tolist())) == group.order == len(group.classes)
    if group.table is None:
        product = (group.left + group.right) % group.order
    else:
        assert group.table.shape == (group.order, group.order)
        product = group.table[group.left, group.right]
    assert (product == group.result).all()
    if group.characters is not None:
        blocks = len(group.labels)
        assert group.degrees is not None
        assert group.degrees.shape == (blocks,)
        assert group.characters.shape == (blocks, group.order)
        np.testing.assert_allclose(group.characters[0], 1, atol=1e-12)
        # Blocks are orthogonal: degree/m times a character is the kernel of a projection.
        overlap = group.characters @ group.characters.T / group.order
        np.testing.assert_allclose(overlap, np.diag(np.diag(overlap)), atol=1e-10)
    assert (group.classes[group.result] == each.answers[group.inputs]).all()
    for element in (group.left, group.right, group.result):
        assert element.shape == group.inputs.shape
        assert element.min() >= 0
        assert element.max() < group.order
    # The operands run through the whole group: every pair once.
    assert len(set(zip(group.left.tolist(), group.right.tolist(), strict=True))) == group.order**2


def test_symmetry_names_are_distinct(each: Task) -> None:
    names = [symmetry.name for symmetry in each.symmetries]
    assert len(set(names)) == len(names) > 0
    assert not set(names) & set(each.left_out)
    assert all(each.left_out.values())


def test_survives_pickling_without_its_tables(each: Task) -> None:
    assert each.inputs.size  # fill a table first
    shipped = pickle.dumps(each)
    again = pickle.loads(shipped)
    assert again.name == each.name
    assert (again.answers == each.answers).all()
    assert len(shipped) < 500


def test_tables_are_the_same_each_time(each: Task) -> None:
    again = task(each.name)
    assert again.basis.vectors.tobytes() == each.basis.vectors.tobytes()
    for one, other in zip(each.symmetries, again.symmetries, strict=True):
        if isinstance(one, Equivalence) and isinstance(other, Equivalence):
            for table in ("orbits", "pairs", "alignment", "relabelling"):
                assert np.array_equal(getattr(one, table), getattr(other, table))
        if isinstance(one, Composition) and isinstance(other, Composition):
            for table in ("whole", "parts", "sums"):
                assert np.array_equal(getattr(one, table), getattr(other, table))


COMPOSITIONS = [
    pytest.param(t, s, id=f"{t.name}-{s.name}")
    for t in ALL
    for s in t.symmetries
    if isinstance(s, Composition)
]


@pytest.mark.parametrize(("each", "symmetry"), COMPOSITIONS)
def test_compositions_are_well_formed(each: Task, symmetry: Composition) -> None:
    n, classes = len(each.answers), each.classes
    assert symmetry.definition
    assert symmetry.whole.dtype == symmetry.parts.dtype == np.int64
    assert symmetry.parts.shape == (len(symmetry.whole), 2)
    for rows in (symmetry.whole, symmetry.parts):
        assert rows.size
        assert rows.min() >= 0
        assert rows.max() < n
    if symmetry.exact:
        assert len(np.unique(np.c_[symmetry.whole, symmetry.parts], axis=0)) == len(symmetry.whole)
    if symmetry.rule == "logit_sum":
        assert symmetry.odds is not None
        assert len({*symmetry.odds}) == 2
        assert all(0 <= one < classes for one in symmetry.odds)
    if symmetry.sums is not None:
        assert symmetry.rule == "convolution"
        assert symmetry.sums.shape == (classes, classes)
        assert symmetry.sums.min() >= -1
        assert symmetry.sums.max() < classes


@pytest.mark.parametrize(("each", "symmetry"), COMPOSITIONS)
def test_right_answers_compose(each: Task, symmetry: Composition) -> None:
    first, second = each.answers[symmetry.parts].T
    whole = each.answers[symmetry.whole]
    if symmetry.rule == "convolution":
        # Sure parts make the composition sure of one class: that must be the whole's.
        composed = first + second if symmetry.sums is None else symmetry.sums[first, second]
        assert (composed == whole).all()
        return
    assert symmetry.odds is not None
    positive, negative = symmetry.odds
    odds = (each.answers == positive).astype(int) - (each.answers == negative).astype(int)
    # Log-odds that agree in sign add up to the sign that the whole has.
    assert (odds[symmetry.parts[:, 0]] == odds[symmetry.parts[:, 1]]).all()
    assert (np.sign(odds[symmetry.parts].sum(axis=1)) == odds[symmetry.whole]).all()
