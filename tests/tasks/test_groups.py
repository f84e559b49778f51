"""Groups by name and by table, and the task over them, against enumerations."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import geomdiag as gd
from geomdiag.errors import TaskError
from geomdiag.tasks import Equivalence, task, task_for
from geomdiag.tasks.groups import FiniteGroup, finite_group, group_from_table, read_table

NAMES = (
    "Z1",
    "Z2",
    "Z9",
    "Z6xZ10",
    "Z2xZ2xZ3",
    "D3",
    "D4",
    "D7",
    "S3",
    "S4",
    "S5",
    "A4",
    "A5",
    "S3xZ2",
)


def quaternions() -> np.ndarray:
    """Q8 as 1, -1, i, -i, j, -j, k, -k, from complex matrices."""
    i, j = np.array([[1j, 0], [0, -1j]]), np.array([[0, 1], [-1, 0]])
    units = [s * u for u in (np.eye(2), i, j, i @ j) for s in (1, -1)]
    return np.array(
        [
            [next(n for n, w in enumerate(units) if np.allclose(u @ v, w)) for v in units]
            for u in units
        ]
    )


def shuffled(table: np.ndarray, seed: int) -> np.ndarray:
    """The same group with its elements numbered otherwise."""
    new = np.random.default_rng(seed).permutation(len(table))
    out = np.empty_like(table)
    out[np.ix_(new, new)] = new[table]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_named_groups_are_groups(name: str) -> None:
    group = finite_group(name)
    again = group_from_table(group.table)  # checks every axiom
    assert again.identity == group.identity
    m = group.order
    everything = np.arange(m)
    assert (group.table[everything, group.inverses] == group.identity).all()
    assert len(set(group.elements)) == m
    assert group.is_abelian == (group.family == "abelian")
    for x in range(0, m, 5):
        power, count = x, 1
        while power != group.identity:
            power, count = int(group.table[power, x]), count + 1
        assert group.orders[x] == count
    if m <= 24:  # associativity as it is written
        for x, y, z in itertools.product(range(m), repeat=3):
            assert group.table[group.table[x, y], z] == group.table[x, group.table[y, z]]


@pytest.mark.parametrize(
    ("name", "order", "classes"),
    [("Z113", 113, 113), ("D59", 118, 31), ("D6", 12, 6), ("S4", 24, 5), ("S5", 120, 7),
     ("A4", 12, 4), ("A5", 60, 5), ("Z6xZ10", 60, 60), ("A4xZ3", 36, 12)],
)  # fmt: skip
def test_orders_and_conjugacy_classes(name: str, order: int, classes: int) -> None:
    group = finite_group(name)
    assert group.order == order
    assert len(set(group.conjugacy_classes.tolist())) == classes
    label = group.conjugacy_classes
    x, g = np.random.default_rng(0).integers(0, order, (2, 200))
    conjugate = group.table[group.table[g, x], group.inverses[g]]
    assert (label[conjugate] == label[x]).all()


def test_permutations_compose_from_left_to_right() -> None:
    for name in ("S4", "S5", "A5"):
        group = finite_group(name)
        p = group.permutations
        assert p is not None
        for x, y in np.random.default_rng(0).integers(0, group.order, (50, 2)):
            after = [int(p[y][p[x][i]]) for i in range(p.shape[1])]
            assert p[group.table[x, y]].tolist() == after


def test_published_numbering() -> None:
    s5, a5 = finite_group("S5"), finite_group("A5")
    assert s5.identity == 20
    assert s5.elements[0] == "(2 4 3)"
    assert s5.elements[21] == "(0 1 2 3 4)"
    assert a5.identity == 0
    assert a5.elements[1] == "(0 1 2 3 4)"
    assert a5.elements[5] == "(1 2)(3 4)"
    d59 = finite_group("D59")
    assert d59.table[59, 1] == 59 + 58  # s·r = r⁻¹·s
    assert d59.table[1, 59] == 60
    by_word = finite_group("S5", "lexicographic")
    assert by_word.elements[:3] == ("()", "(3 4)", "(2 3)")
    assert s5.permutations is not None
    assert by_word.permutations is not None
    assert sorted(s5.permutations.tolist()) == by_word.permutations.tolist()


def test_word_metrics() -> None:
    z = finite_group("Z6xZ10").distances
    steps = lambda a, b, n: min((a - b) % n, (b - a) % n)  # noqa: E731
    for x, y in np.random.default_rng(0).integers(0, 60, (100, 2)):
        expected = steps(x // 10, y // 10, 6) + steps(x % 10, y % 10, 10)
        assert z[x, y] == expected
    s4 = finite_group("S4")
    assert s4.permutations is not None
    inversions = [
        sum(p[i] > p[j] for i in range(4) for j in range(i + 1, 4))
        for p in s4.permutations.tolist()
    ]
    assert s4.word_length.tolist() == inversions
    assert finite_group("D59").distances.max() == 30  # half a turn (29) and a reflection
    for name in ("S4", "A5", "D7", "S3xZ2"):
        group = finite_group(name)
        g = group.order // 2
        moved = group.distances[np.ix_(group.table[g], group.table[g])]
        assert (moved == group.distances).all()  # multiplying from the left changes no distance
    # Distances of the Cayley graph itself.
    a5 = finite_group("A5")
    front, seen = {a5.identity}, {a5.identity: 0}
    while front:
        front = {
            int(a5.table[x, h]) for x in front for g in a5.generators for h in (g, a5.inverses[g])
        } - set(seen)
        seen |= dict.fromkeys(front, max(seen.values()) + 1)
    assert a5.word_length.tolist() == [seen[x] for x in range(60)]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Q8", "no known group"),
        ("Z0", "n ≥ 1"),
        ("D2", "D2 is Z2xZ2"),
        ("S2", "S2 is Z2"),
        ("S9", "S9 has 362880 elements.*at most"),
        ("A999999", "more elements than can be tabled"),
        ("Z60xZ60", "at most"),
        ("S5xx", "no known group"),
        ("", "is named"),
        (113, "Did you mean 'Z113'"),
        ("no/such.csv", "does not exist; looked in"),
    ],
)
def test_wrong_names_are_told(name: str, word: str) -> None:
    with pytest.raises(TaskError, match=word):
        finite_group(name)


def test_wrong_orders_are_told() -> None:
    with pytest.raises(TaskError, match="coset, lexicographic"):
        finite_group("S5", "random")
    with pytest.raises(TaskError, match="S5 and A5 only"):
        finite_group("S4", "coset")
    with pytest.raises(TaskError, match="Leave out 'order'"):
        finite_group("Z6", "coset")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".npy", ".npz"])
def test_tables_from_files(tmp_path: Path, suffix: str) -> None:
    table = quaternions()
    path = tmp_path / f"q8{suffix}"
    if suffix == ".npy":
        np.save(path, table)
    elif suffix == ".npz":
        np.savez(path, table=table, other=np.zeros(3))
    else:
        mark = {".csv": ",", ".tsv": "\t", ".txt": " "}[suffix]
        path.write_text("# Q8\n" + "\n".join(mark.join(map(str, row)) for row in table.tolist()))
    group = read_table(path)
    assert (group.table == table).all()
    assert not group.is_abelian
    made = task(f"group:{path}")
    assert task(made.name).name == made.name
    path.unlink()
    again = pickle.loads(pickle.dumps(made))  # a worker needs no file
    assert again == made
    assert (again.basis.vectors == made.basis.vectors).all()
    assert task(again) is again


def test_another_table_in_the_same_file_is_another_task(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    np.save(path, quaternions())
    first = task(f"group:{path}")
    np.save(path, finite_group("D4").table)
    second = task(f"group:{path}")
    assert first.name != second.name
    with pytest.raises(TaskError, match="does not hold the table that was meant"):
        task(first.name)
    with pytest.raises(TaskError, match="leave out its digest"):
        task("group:S4,digest=0a")
    np.save(tmp_path / "a,b.npy", quaternions())
    with pytest.raises(TaskError, match="Rename the file"):
        task("group", group=str(tmp_path / "a,b.npy"))


def refused(table: object, word: str) -> None:
    with pytest.raises(TaskError, match=word):
        group_from_table(table, name="mine")


def test_tables_that_are_no_groups_say_where() -> None:
    good = finite_group("D4").table
    refused(good[:, :5], "square")
    refused(np.zeros((0, 0)), "square")
    refused(good.astype(str), "whole numbers")
    refused(good + 0.5, "whole numbers")
    refused(good + 1, "subtract 1")
    bad = good.copy()
    bad[3, 2] = -1
    refused(bad, r"3·2 is -1")
    refused(shuffled(good, 1)[:, ::-1], "no identity")
    bad = good.copy()
    bad[3, 2] = bad[3, 1]
    refused(bad, "row 3 holds")
    # A loop of five elements: identity and inverses, but not associative.
    loop = np.array(
        [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    )
    refused(loop, "not associative")


@given(st.integers(0, 10_000), st.sampled_from(["D4", "S4", "A4", "Z12", "Z2xZ6"]))
def test_any_change_of_an_intercalate_is_noticed(seed: int, name: str) -> None:
    # Exchanging two entries in two rows (an intercalate) keeps a Latin square: what is left to
    # notice is that the identity or associativity is gone.
    rng = np.random.default_rng(seed)
    table = shuffled(finite_group(name).table, seed)
    x, y = rng.choice(len(table), 2, replace=False)
    columns = [c for c in range(len(table)) if table[x, c] != table[y, c]]
    a = int(rng.choice(columns))
    b = int(np.flatnonzero(table[x] == table[y, a])[0])
    if table[y, b] != table[x, a]:
        return
    table[x, [a, b]], table[y, [a, b]] = table[y, [a, b]].copy(), table[x, [a, b]].copy()
    m = len(table)
    associative = all(
        table[table[i, j], k] == table[i, table[j, k]]
        for i, j, k in itertools.product(range(m), repeat=3)
    )
    if associative:
        group_from_table(table)
    else:
        refused(table, "mine")


@given(
    st.lists(st.sampled_from([2, 3, 4, 5, 6, 8, 9]), min_size=1, max_size=3).filter(
        lambda ns: math.prod(ns) <= 150
    ),
    st.integers(0, 1000),
)
def test_abelian_tables_come_apart_into_cyclic_groups(ns: list[int], seed: int) -> None:
    group = group_from_table(shuffled(finite_group("x".join(f"Z{n}" for n in ns)).table, seed))
    assert math.prod(group.periods) == math.prod(ns)
    # Invariant factors: each divides the one before, so they are the same for the same group.
    assert all(big % small == 0 for big, small in itertools.pairwise(group.periods))
    assert Counter(group.orders.tolist()) == Counter(
        finite_group("x".join(f"Z{n}" for n in group.periods)).orders.tolist()
    )
    c = group.coordinates
    assert c is not None
    total = (c[:, None, :] + c[None, :, :]) % np.array(group.periods)
    assert (c[group.table] == total).all()
    assert len(np.unique(c, axis=0)) == group.order


def test_a_renumbered_cyclic_table_is_a_cycle() -> None:
    table = shuffled(finite_group("Z7").table, 3)
    group = group_from_table(table)
    assert group.periods == (7,)
    assert Counter(group.distances[0].tolist()) == Counter([0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("name", ["Z6", "Z2xZ4", "D4", "S3", "A4", "D5"])
def test_associativity_is_every_triple_once(name: str) -> None:
    made = task(f"group:{name}")
    table = made.group.table  # type: ignore[attr-defined]
    m = len(table)
    by_triples = Counter(
        (int(table[x, y]) * m + z, x * m + int(table[y, z]))
        for x, y, z in itertools.product(range(m), repeat=3)
    )
    symmetry = next(s for s in made.symmetries if s.name == "associativity")
    assert isinstance(symmetry, Equivalence)
    assert symmetry.orbits is not None
    rows = range(m * m)
    by_orbits = Counter(
        (i, j) for i in rows for j in rows if symmetry.orbits[i] == symmetry.orbits[j]
    )
    assert by_triples == by_orbits


@pytest.mark.parametrize("name", ["Z6", "D4", "S3", "A4"])
def test_translations_move_inputs_and_answers(name: str) -> None:
    """A network that is equivariant on one side violates nothing there, and only there."""
    made = task(f"group:{name}")
    table = made.group.table  # type: ignore[attr-defined]
    inverse = made.group.inverses  # type: ignore[attr-defined]
    m = len(table)
    x, y = made.inputs.T
    rng = np.random.default_rng(0)
    free = rng.normal(size=(m, m))
    k = np.arange(m)
    # ℓ(gx, y)[gk] = ℓ(x, y)[k]: any function of y and x⁻¹k.
    left = free[y[:, None], table[inverse[x][:, None], k]]
    # ℓ(x, yg)[kg] = ℓ(x, y)[k]: any function of x and k·y⁻¹.
    right = free[x[:, None], table[k, inverse[y][:, None]]]
    names = [s.name for s in made.symmetries]
    if made.group.is_abelian:  # type: ignore[attr-defined]
        assert names == ["commutativity", "associativity", "translation"]
        both = rng.normal(size=m)[table[inverse[made.answers][:, None], k]]
        assert abs(gd.symmetry_violation(both, made)).max() < 1e-12
        return
    assert names == ["associativity", "left_translation", "right_translation"]
    for outputs, kept, lost in (
        (left, "left_translation", "right_translation"),
        (right, "right_translation", "left_translation"),
    ):
        found = gd.symmetry_violation(outputs, made)
        assert abs(found.sel(symmetry=kept)).max() < 1e-12
        assert found.sel(symmetry=lost, statistic="mean") > 0.1


def test_cyclic_groups_are_modular_addition() -> None:
    group, modular = task("group:C12"), task("modadd:p=12")
    assert group.name == "group:Z12"
    assert (group.answers == modular.answers).all()
    assert group.basis.labels == modular.basis.labels
    assert group.basis.period == 12
    assert (group.basis.vectors == modular.basis.vectors).all()
    assert (group.metric == modular.metric).all()
    for block in range(-1, 8):
        one, other = group.metric_for(block), modular.metric_for(block)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    one, other = group.logit_group, modular.logit_group
    assert one is not None
    assert other is not None
    assert one.table is None
    for part in ("inputs", "result", "classes", "left", "right"):
        assert (getattr(one, part) == getattr(other, part)).all()
    for a, b in zip(group.symmetries, modular.symmetries, strict=True):
        assert isinstance(a, Equivalence)
        assert isinstance(b, Equivalence)
        assert a.name == b.name
        assert a.instances() == b.instances()


def test_a_renumbered_cycle_keeps_its_group(tmp_path: Path) -> None:
    path = tmp_path / "z8.npy"
    np.save(path, shuffled(finite_group("Z8").table, 5))
    made = task(f"group:{path}")
    assert made.basis.period == 8
    shared = made.logit_group
    assert shared is not None
    assert ((shared.left + shared.right) % 8 == shared.result).all()
    assert (shared.classes[shared.result] == made.answers).all()
    assert (made.metric == made.metric_for(1)).all()


def test_specifications() -> None:
    assert task("group:S5").name == task("group:S5,order=coset").name == "group:S5"
    assert task("group:s5,order=lexicographic").name == "group:S5,order=lexicographic"
    assert task("group:S4,order=lexicographic").name == "group:S4"
    assert task("group:C6xC10").name == "group:Z6xZ10"
    assert task("group:S5") != task("group:S5,order=lexicographic")
    for spec in ("group:S5,order=lexicographic", "group:Z6xZ10"):
        assert pickle.loads(pickle.dumps(task(spec))) == task(spec)
        assert task(task(spec).name) == task(spec)
    with pytest.raises(TaskError, match="vocabulary of at least 120"):
        task_for("group:S5", vocabulary=60, classes=60)


def test_groups_of_an_order() -> None:
    fitting = type(task("group:S5")).fitting
    assert fitting(121, 120)[:3] == ("group:S5", "group:D60", "group:Z120")
    assert fitting(61, 60)[:3] == ("group:A5", "group:D30", "group:Z60")
    assert fitting(60, 60)[0] == "group:A5"
    assert fitting(118, 118)[0] == "group:D59"
    assert fitting(114, 113)[0] == "group:Z113"
    assert fitting(None, None) == ()
    for spec in fitting(24, 24):
        made = task(spec)
        assert made.tokens <= 24
        assert isinstance(made.group, FiniteGroup)  # type: ignore[attr-defined]
