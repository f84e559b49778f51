"""Specifications, the registry, and what a checkpoint's sizes tell."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomdiag.errors import GeomdiagError, TaskError, UnknownNameError
from geomdiag.tasks import (
    TASKS,
    Equivalence,
    HarmonicBasis,
    Symmetry,
    Task,
    families,
    sizes,
    task,
    task_families,
    task_for,
    token_candidates,
)
from geomdiag.tasks.contract import FloatArray, IntArray
from geomdiag.tasks.cyclic import cycle_distances, cyclic_basis

MODULAR = ["modadd", "modsub", "modsquare", "modcube", "modmul", "modaffine"]


class Parity(Task):
    """A user's own task: parity of a sum, three tokens a side."""

    family = "parity"

    def __init__(self, n: int = 3, label: str = "plain") -> None:
        self.n, self.label = n, label

    @property
    def name(self) -> str:
        return f"parity:n={self.n}"

    @property
    def parameters(self) -> Mapping[str, int | str]:
        return {"n": self.n}

    @property
    def title(self) -> str:
        return "parity of x + y"

    @property
    def tokens(self) -> int:
        return self.n

    @property
    def classes(self) -> int:
        return 2

    @cached_property
    def inputs(self) -> IntArray:
        return np.stack(np.divmod(np.arange(self.n**2), self.n), axis=1)

    @cached_property
    def answers(self) -> IntArray:
        parity: IntArray = self.inputs.sum(axis=1) % 2
        return parity

    @cached_property
    def symmetries(self) -> tuple[Symmetry, ...]:
        rows = np.arange(self.n**2)
        swapped = self.inputs[:, 1] * self.n + self.inputs[:, 0]
        return (Equivalence(name="commutativity", pairs=np.stack([rows, swapped], axis=1)),)

    @cached_property
    def basis(self) -> HarmonicBasis:
        return cyclic_basis(np.arange(self.n))

    @cached_property
    def metric(self) -> FloatArray:
        return cycle_distances(np.arange(self.n), self.n)


@pytest.fixture
def parity() -> Iterator[None]:
    TASKS._targets["parity"] = "test"
    TASKS._loaded["parity"] = Parity
    yield
    del TASKS._targets["parity"], TASKS._loaded["parity"]


@pytest.mark.parametrize(
    "spec", ["modadd:p=11", "modadd:11", " modadd : p = 11 ", "modadd:p=+11", "modadd:p=11,p=11"]
)
def test_ways_to_write_a_specification(spec: str) -> None:
    assert task(spec).name == "modadd:p=11"


def test_parameters_beside_the_specification() -> None:
    assert task("modadd", p=11).name == "modadd:p=11"
    assert task("modadd:p=11", p=11).name == "modadd:p=11"
    with pytest.raises(TaskError, match="p is said twice, as 11 and as 7"):
        task("modadd:p=11", p=7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("modadd", r"'p' \(modulus.*was not said.*'modadd:p=113'"),
        ("modadd:", "nothing follows the colon"),
        ("modadd:q=5", "unknown parameter 'q'.*Known: p"),
        ("modadd:P=5", "unknown parameter 'P'.*Did you mean|Known: p"),
        ("modadd:3,4", "the value '4' has no parameter"),
        ("modadd:p=", "not of the form name=value"),
        ("modadd:=5", "not of the form name=value"),
        ("modadd:,", "not of the form name=value"),
        ("modadd:p=3,", "no parameter to go to|not of the form"),
        ("modadd:p=1.5", "whole number ≥ 2, found '1.5'"),
        ("modadd:p=" + "9" * 30, "whole number"),
        ("", "names no family"),
        (":p=3", "names no family"),
    ],
)
def test_wrong_specifications(spec: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(spec)


def test_unknown_families_get_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"'modad'.*Did you mean 'modadd'\?.*modsub"):
        task("modad:p=7")


@pytest.mark.parametrize("wrong", [None, 113, b"modadd:p=7", ["modadd"]])
def test_things_that_are_no_specification(wrong: object) -> None:
    with pytest.raises(TaskError, match="specification such as 'modadd:p=113'"):
        task(wrong)  # type: ignore[arg-type]


@given(st.text(max_size=20) | st.builds("modadd:{}".format, st.text(max_size=10)))
def test_any_text_is_a_task_or_a_diagnosed_error(spec: str) -> None:
    try:
        made = task(spec)
    except GeomdiagError:
        return
    assert task(made.name).name == made.name


def test_a_users_own_task_is_taken_as_it_is() -> None:
    own = Parity(4)
    assert task(own) is own
    assert task_for(own) is own
    assert task_for(own, vocabulary=6, classes=2) is own
    with pytest.raises(TaskError, match=r"vocabulary of at least 4, the checkpoint's has 3"):
        task_for(own, vocabulary=3)
    with pytest.raises(TaskError, match="read-out of at least 2"):
        task_for(own, classes=1)
    with pytest.raises(TaskError, match="already made"):
        task(own, n=4)


@pytest.mark.usefixtures("parity")
def test_families_with_several_parameters_and_defaults() -> None:
    assert task("parity").name == "parity:n=3"
    named = task("parity:5,label=quick")
    assert isinstance(named, Parity)
    assert (named.n, named.label) == (5, "quick")
    with pytest.raises(TaskError, match=r"unknown parameter 'lable'\. Did you mean 'label'\?"):
        task("parity:lable=x")
    assert task_for("parity:n=4", vocabulary=5, classes=2).name == "parity:n=4"
    listed = {family.name: family for family in task_families()}["parity"]
    assert list(listed.parameters) == ["n", "label"]
    assert listed.symmetries == ("commutativity",)
    assert listed.title.startswith("A user's own task")


def test_a_factory_that_makes_no_task_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._targets, "odd", "test")
    monkeypatch.setitem(TASKS._loaded, "odd", lambda: 3)
    with pytest.raises(TaskError, match="'odd' returned int, not a"):
        task("odd")


def test_families_are_listed() -> None:
    listed = {family.name: family for family in task_families()}
    assert list(listed)[:6] == MODULAR
    assert listed["modadd"].symmetries == ("commutativity", "associativity", "translation")
    assert listed["modsquare"].symmetries == ("commutativity", "associativity")
    for family in listed.values():
        assert family.title
        assert task(family.example).family == family.name
        assert all(family.parameters.values())


@pytest.mark.parametrize(
    ("vocabulary", "classes", "expected"),
    [
        (113, 113, (113, 112, 111)),
        (114, 114, (113, 114, 112)),  # "=" in both
        (114, 113, (113, 112)),  # "=" only among the inputs
        (115, 115, (113, 115, 114)),
        (99, 97, (97,)),
        (46, 23, (23,)),  # two vocabularies
        (23, 23, (23, 22, 21)),
        (118, 59, (59,)),
        (None, 59, (59, 58, 57)),
        (59, None, (59, 58, 57)),
        (114, None, (113, 114, 112, 57)),
        (200, 30, ()),
        (None, None, ()),
        (2, 2, (2,)),
    ],
)
def test_sizes_tell_the_modulus(
    vocabulary: int | None, classes: int | None, expected: tuple[int, ...]
) -> None:
    assert token_candidates(vocabulary, classes) == expected
    if expected:
        made = task_for("modadd", vocabulary=vocabulary, classes=classes)
        assert made.tokens == expected[0]


def test_given_candidates_are_taken_in_their_order() -> None:
    assert task_for("modadd", candidates=(114, 113)).name == "modadd:p=114"
    assert task_for("modmul", candidates=(114, 113)).name == "modmul:p=113"
    with pytest.raises(TaskError, match=r"tells no p that fits.*not prime"):
        task_for("modmul", candidates=(114, 112))
    with pytest.raises(TaskError, match="tells no p that fits"):
        task_for("modadd", candidates=())


def test_a_modulus_that_was_said_is_kept_and_checked() -> None:
    assert task_for("modadd:p=114", vocabulary=114, classes=114).name == "modadd:p=114"
    assert task_for("modadd:p=7").name == "modadd:p=7"
    assert task_for(task("modadd:p=113"), vocabulary=114).name == "modadd:p=113"
    with pytest.raises(
        TaskError, match=r"modadd:p=11 contradicts.*a vocabulary of 114.*p = 113 or 112 would fit"
    ):
        task_for("modadd:p=11", vocabulary=114, classes=113)
    with pytest.raises(TaskError, match=r"p = 60 would fit"):
        task_for(task("modadd:p=11"), candidates=(60,))
    with pytest.raises(TaskError, match="no p fits it"):
        task_for("modadd:p=11", vocabulary=200, classes=30)


def test_without_sizes_the_modulus_must_be_said() -> None:
    with pytest.raises(TaskError, match="no checkpoint here to tell it"):
        task_for("modadd")


def test_a_wrong_name_is_not_blamed_on_the_sizes() -> None:
    with pytest.raises(TaskError, match=r"^modadd: unknown parameter 'q'\. Known: p\.$"):
        task_for("modadd:q=31", candidates=(31,))


def test_sizes_of_a_language_model_are_no_modulus() -> None:
    with pytest.raises(TaskError, match=r"50257.*p ≤ 3162.*Say it"):
        task_for("modadd", vocabulary=50257, classes=50257)


def test_docstrings_tell_the_truth() -> None:
    for module in (families, sizes):
        assert doctest.testmod(module).failed == 0


def test_importing_tasks_is_cheap() -> None:
    code = (
        "import sys, geomdiag.tasks as t; t.task('modadd:p=7').symmetries; "
        "print([m for m in ('torch', 'sklearn', 'ripser', 'xarray', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
