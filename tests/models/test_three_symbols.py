"""Inputs of three symbols (entity, what is asked, entity), and tasks that sizes would fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stored import stored
from hypothesis import given
from hypothesis import strategies as st
from reference_networks import lens_state, linear_from_lens, nanda_from_lens, run_lens

from geomdiag import models
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError, TaskError
from geomdiag.models.layout import Sizes, fitting_specifications, plan
from geomdiag.models.settings import Settings
from geomdiag.tasks import Task, fitting_tasks, task

RELU = {"act_fn": "relu"}


def arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def sequences(t: Task, equals: int | None) -> torch.Tensor:
    """Return inputs as rows of the vocabulary, from the task's words alone."""
    rows = torch.from_numpy(t.inputs.copy())
    return rows if equals is None else torch.cat([rows, torch.full((len(rows), 1), equals)], 1)


@pytest.mark.parametrize("spec", ["comparison:5", "comparison:3x4", "comparison:3x2,form=binary"])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"context": None},
        {"blocks": 2},
        {"norms": "LN"},
        {"biases": False, "h": 1, "e": 24},
        {"mlp": False},
    ],
    ids=["plain", "no-positions", "two-blocks", "norms", "one-head", "attention-only"],
)
def test_logits_are_those_of_a_plain_pass(spec: str, extra: int, options: dict[str, Any]) -> None:
    t = task(spec)
    options = {"context": 3 + (extra > 0), **options}
    state = lens_state(extra, t.vocabulary + extra, t.classes, **options)
    made = models.snapshot(stored(arrays(state)), t, config=RELU)
    wanted = run_lens(
        state, sequences(t, t.vocabulary if extra else None), norms=options.get("norms", "")
    ).numpy()
    assert made.logits.shape == (len(t.inputs), t.classes)
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    np.testing.assert_array_equal(made.embedding, state["embed.W_E"][: t.tokens].numpy())
    assert made.network is not None
    assert made.network.swap_invariant == (
        options["context"] is None and extra > 0 and ("blocks" not in options)
    )
    # any inputs in any order, and from their vectors
    some = t.inputs[np.random.default_rng(0).permutation(len(t.inputs))[:17]]
    order = [t.inputs.tolist().index(row) for row in some.tolist()]
    np.testing.assert_allclose(made.network.logits(some), wanted[order], rtol=0, atol=1e-9)
    vectors = [state["embed.W_E"][torch.from_numpy(column.copy())] for column in some.T]
    from_vectors = made.network.logits_from_embeddings(vectors).numpy()
    np.testing.assert_allclose(from_vectors, wanted[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("convert", [nanda_from_lens, lambda s: linear_from_lens(s, "fused")])
def test_other_conventions(convert: Any) -> None:
    t = task("comparison:3x3")
    state = lens_state(0, t.vocabulary + 1, t.classes, context=4, h=4, e=6)
    config = {"act_fn": "relu", "n_heads": 4}
    if convert is not nanda_from_lens:
        state = lens_state(0, t.vocabulary + 1, t.classes, context=4, h=4, e=6, norms="LN")
    wanted = run_lens(
        state, sequences(t, t.vocabulary), norms="" if convert is nanda_from_lens else "LN"
    ).numpy()
    made = models.snapshot(stored(arrays(convert(state))), t, config=config)
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-9)


def test_a_read_out_over_the_whole_vocabulary_is_cut() -> None:
    t = task("comparison:4")
    state = lens_state(0, 6, 6, context=4)
    made = models.snapshot(stored(arrays(state)), t, config=RELU)
    wanted = run_lens(state, sequences(t, 5))[:, :3].numpy()
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-9)
    assert len(made.matrices["unembedding"].values) == 3


def test_the_equals_token_can_be_said_but_not_among_the_symbols() -> None:
    t = task("comparison:4")
    state = lens_state(0, 7, 3, context=4)
    made = models.snapshot(stored(arrays(state)), t, config={**RELU, "equals_token": 6})
    wanted = run_lens(state, sequences(t, 6)).numpy()
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-9)
    match = models.recognise(shapes(state), RELU, t)
    assert any("row 5 is taken for '='" in notice for notice in match.notices)
    with pytest.raises(ArchitectureError, match=r"the row 4 of the vocabulary.*one of the 5"):
        models.snapshot(stored(arrays(state)), t, config={**RELU, "equals_token": 4})


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(value.shape), "float32") for name, value in state.items()}


@pytest.mark.parametrize(
    ("spec", "vocabulary", "classes", "context", "words"),
    [
        ("modadd:p=97", 50, 13, 3, "50 rows and its read-out 13 classes.*fit graph:lattice-7x7"),
        ("modadd:p=97", 12, 11, 3, "would fit p = 11"),
        ("comparison:7x7", 50, 13, 3, "49 tokens with 2 further symbols.*graph:lattice-7x7"),
        ("comparison:5x5", 52, 3, 4, "would fit comparison:7x7 or comparison:50 or"),
        ("comparison:7x7", 52, 2, 4, "would fit comparison:48,form=binary"),
        ("comparison:7x7", 31, 3, 4, "would fit comparison:3x3x3"),
        ("graph:lattice-7x7", 52, 3, 4, "would fit comparison:7x7 or "),
        ("comparison:7x7", 52, 3, 2, "positional embedding has 2 rows.*3 operands"),
        ("comparison:7x7", 51, 3, 4, "51 symbols leave no row.*for an '='"),
        ("modadd:p=23", 500, 77, 3, "no task that is known"),
    ],
)
def test_misfits_name_what_would_fit(
    spec: str, vocabulary: int, classes: int, context: int, words: str
) -> None:
    specs = shapes(lens_state(0, vocabulary, classes, context=context))
    with pytest.raises(ArchitectureError, match=words):
        models.recognise(specs, RELU, task(spec))


def test_an_unsaid_grid_is_not_guessed_but_named() -> None:
    checkpoint = stored(arrays(lens_state(0, 52, 3, context=4)))
    words = r"'grid'.*was not said.*would fit comparison:7x7 or comparison:50"
    with pytest.raises(TaskError, match=words):
        models.infer_task("comparison", checkpoint, RELU)
    assert models.infer_task("comparison:7x7", checkpoint, RELU).name == "comparison:7x7"
    with pytest.raises(TaskError, match=r"'grid'.*cannot tell it: no known architecture"):
        models.infer_task("comparison", stored({"a": np.zeros(3)}))


@given(
    vocabulary=st.integers(2, 70),
    classes=st.integers(2, 70),
    context=st.sampled_from([None, 2, 3, 4]),
    family=st.sampled_from(["modadd", "modmul", "graph", "comparison", "group"]),
)
def test_what_is_said_to_fit_fits(
    vocabulary: int, classes: int, context: int | None, family: str
) -> None:
    sizes = Sizes(vocabulary, classes, context, sequence=True)
    for spec in fitting_specifications(sizes, family):
        plan(task(spec), sizes, Settings(RELU), [])
    # and every comparison that the sizes allow exactly, but for the '=', is among them
    for text in ("comparison:4x4", "comparison:9", "comparison:3x3x3,form=binary"):
        t = task(text)
        assert t.name in fitting_tasks(t.vocabulary + 1, t.classes, family="comparison")


@pytest.mark.parametrize(
    "state",
    [
        {"embed.weight": (13, 8), "l1.weight": (6, 8), "unembed.weight": (3, 6)},
        {"fc1.weight": (30, 26), "fc2.weight": (13, 30)},
    ],
    ids=["embedding", "one-hot"],
)
def test_networks_without_a_sequence_say_so(state: dict[str, tuple[int, ...]]) -> None:
    specs = {name: TensorSpec(shape, "float32") for name, shape in state.items()}
    with pytest.raises(ArchitectureError, match=r"two operands at once.*sequence of 3 symbols"):
        models.recognise(specs, RELU, task("comparison:12"))


def test_dumps_may_hold_the_further_symbols() -> None:
    from geomdiag.models.dumps import read_dump

    t = task("comparison:3x3")
    logits = np.zeros((len(t.inputs), 3))
    for rows in (9, 11, 12):
        table = np.arange(4.0 * rows).reshape(rows, 4)
        matrices, found, _ = read_dump({"embedding": table, "logits": logits}, t)
        np.testing.assert_array_equal(matrices["embedding"].values, table[:9])
        assert found is not None
    for rows in (8, 14):
        with pytest.raises(ArchitectureError, match="each of the 9 tokens") as caught:
            read_dump({"embedding": np.zeros((rows, 4))}, t)
        assert not re.search("p =", str(caught.value))
