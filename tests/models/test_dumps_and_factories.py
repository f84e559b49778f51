from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stored import stored

from geomdiag import models
from geomdiag.checkpoints.beside.splits import Split
from geomdiag.errors import ArchitectureError, MissingPartError, TaskError
from geomdiag.tasks import task

P = 7
TASK = task("modadd", p=P)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(P * P, P))
EMBEDDING = RNG.normal(size=(P, 5))


def test_dump_gives_its_parts_and_says_what_it_lacks() -> None:
    dump = stored({"logits": LOGITS, "embedding": EMBEDDING}, "dump", train_loss=0.5)
    seen = models.snapshot(dump, TASK)
    np.testing.assert_array_equal(seen.logits, LOGITS)
    np.testing.assert_array_equal(seen.embedding, EMBEDDING)
    assert seen.step == 3
    assert seen.metadata == {"train_loss": 0.5}
    assert seen.missing("unembedding") == "the checkpoint has no unembedding"
    assert "no network" in seen.missing("differentiable")
    assert seen.missing("split") == "the split is unknown"
    assert not seen.swap_invariant


def test_dump_without_logits() -> None:
    seen = models.snapshot(stored({"embedding": EMBEDDING}, "dump"), TASK)
    assert seen.missing("logits") == "the dump has no logits"
    with pytest.raises(MissingPartError, match="no logits"):
        _ = seen.logits


def test_further_rows_and_classes_are_cut_off() -> None:
    dump = {
        "logits": np.pad(LOGITS, ((0, 0), (0, 1))).reshape(P, P, P + 1),
        "embedding": np.pad(EMBEDDING, ((0, 1), (0, 0))),
        "neuron_logit": RNG.normal(size=(P + 1, 9)),
        "notes": np.zeros(3),
    }
    seen = models.snapshot(stored(dump, "dump"), TASK)
    np.testing.assert_array_equal(seen.logits, LOGITS)
    np.testing.assert_array_equal(seen.embedding, EMBEDDING)
    assert seen.matrices["neuron_logit"].columns == "neurons"
    assert models.infer_task("modadd", stored(dump, "dump")).name == TASK.name


def test_dump_carries_its_split() -> None:
    mask = RNG.random(P * P) < 0.5
    dump = stored({"logits": LOGITS, "train_mask": mask}, "dump")
    assert (models.snapshot(dump, TASK).train == mask).all()
    assert not models.snapshot(dump, TASK, train=np.zeros(P * P, bool)).train.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"logits": LOGITS[:-1]}, r"shape \(49, 7\), a row for each.*have shape \(48, 7\)"),
        ({"logits": np.zeros((25, 5))}, r"\(25, 5\). It would fit p = 5"),
        ({"logits": LOGITS[:, :5]}, r"\(49, 7\).*\(49, 5\)"),
        ({"logits": np.full((49, 7), np.nan)}, "'logits' holds 343 values that are NaN"),
        ({"logits": LOGITS.astype(complex)}, "complex128, not real"),
        ({"embedding": EMBEDDING[:4]}, "7 tokens of modadd:p=7"),
        ({"unembedding": np.zeros((20, 3))}, "7 classes of modadd:p=7"),
        ({"logits": LOGITS, "train_mask": np.zeros(5, bool)}, "49 values.*has 5"),
        ({"hidden": LOGITS}, "holds 'hidden'; expected at least one of logits, embedding"),
        ({}, "holds nothing"),
    ],
)
def test_dumps_that_do_not_fit(arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        models.snapshot(stored(arrays, "dump"), TASK)


def test_half_precision_dump_is_widened() -> None:
    dump = stored({"logits": LOGITS.astype(np.float16), "embedding": np.eye(P, dtype=int)}, "dump")
    seen = models.snapshot(dump, TASK)
    assert seen.logits.dtype == np.float32
    assert seen.embedding.dtype == np.float32


def test_dump_cannot_be_run_by_a_model() -> None:
    with pytest.raises(ArchitectureError, match="is a dump"):
        models.snapshot(stored({"logits": LOGITS}, "dump"), TASK, model=bilinear)


# -- the user's own model --------------------------------------------------------------------


STATE = {"a": RNG.normal(size=(P, 4)).astype(np.float32), "u": np.ones((4, P + 1), np.float32)}


def bilinear(state: Mapping[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(inputs: torch.Tensor) -> torch.Tensor:
        assert inputs.dtype == torch.int64
        return (state["a"][inputs[:, 0]] * state["a"][inputs[:, 1]]) @ state["u"]

    return run


def test_any_callable_is_a_model() -> None:
    seen = models.snapshot(stored(STATE), TASK, model=bilinear)
    wanted = (STATE["a"][TASK.inputs[:, 0]] * STATE["a"][TASK.inputs[:, 1]]).sum(1)
    np.testing.assert_allclose(seen.logits, np.repeat(wanted[:, None], P, 1), rtol=1e-5)
    assert "shows no embedding" in seen.missing("embedding")
    assert "shows no matrices" in seen.missing("matrices")
    assert "not run from embedding" in seen.missing("differentiable")


def test_a_model_may_be_a_module_and_show_matrices() -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.zeros(P, 4))
            self.u = torch.nn.Parameter(torch.zeros(4, P + 1))

        @property
        def matrices(self) -> dict[str, torch.Tensor]:
            return {"embedding": self.a, "unembedding": self.u.T}

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return (self.a[inputs[:, 0]] * self.a[inputs[:, 1]]) @ self.u

    def factory(state: Mapping[str, torch.Tensor]) -> Module:
        module = Module()
        module.load_state_dict(state)
        return module

    seen = models.snapshot(stored(STATE), TASK, model=factory)
    np.testing.assert_array_equal(seen.embedding, STATE["a"])
    assert seen.matrices["unembedding"].values.shape == (P, 4)
    np.testing.assert_array_equal(
        seen.logits, models.snapshot(stored(STATE), TASK, model=bilinear).logits
    )


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda x: torch.zeros(3, P), r"returned shape \(3, 7\); expected \(49, 7\)"),
        (lambda x: torch.zeros(len(x), 2, P), r"shape \(49, 2, 7\)"),
        (lambda x: torch.zeros(len(x), P - 1), r"shape \(49, 6\)"),
        (lambda x: torch.full((len(x), P), torch.nan), "NaN or infinite logits"),
        (lambda x: x.nothing, r"failed on inputs of shape \(49, 2\): AttributeError"),
    ],
)
def test_models_that_answer_wrongly(run: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        _ = models.snapshot(stored(STATE), TASK, model=lambda _state: run).logits


def test_factories_that_fail() -> None:
    with pytest.raises(ArchitectureError, match="<lambda>' failed: KeyError: 'missing'"):
        models.snapshot(stored(STATE), TASK, model=lambda state: state["missing"])
    with pytest.raises(ArchitectureError, match="returned a int; expected a callable"):
        models.snapshot(stored(STATE), TASK, model=lambda state: 3)  # type: ignore[arg-type,return-value]


def test_factory_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_model.py").write_text(
        "VALUE = 3\n\ndef build(state):\n    return lambda x: state['a'][x[:, 0]] @ state['u']\n"
    )
    (tmp_path / "my_broken_model.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    seen = models.snapshot(stored(STATE), TASK, model="my_own_model:build")
    assert seen.logits.shape == (P * P, P)
    for text, words in [
        ("my_own_model", "takes package.module:factory, not 'my_own_model'"),
        ("my_own_model:other", "has no 'other'"),
        ("my_own_model:VALUE", "is a int, not a function"),
        ("nowhere_at_all:build", "cannot be imported: ModuleNotFoundError"),
        ("my_broken_model:build", "cannot be imported: .*a_module_that_is_not_there"),
    ]:
        with pytest.raises(ArchitectureError, match=words):
            models.load_factory(text)
    assert sys.path == before


def test_split_becomes_a_mask() -> None:
    split = Split(kind="rows", value=np.arange(10), source="test")
    seen = models.snapshot(stored({"logits": LOGITS}, "dump"), TASK, train=split)
    assert seen.train is not None
    assert seen.train.sum() == 10
    assert seen.missing("split") == ""


def test_a_dump_with_arrays_of_its_own_is_told_the_mark() -> None:
    unmarked = stored({"logits": LOGITS, "mine": EMBEDDING}, "state")
    with pytest.raises(ArchitectureError, match="has 'logits'; if it is a dump, mark it") as caught:
        models.snapshot(unmarked, TASK)
    assert "geomdiag='dump'" in str(caught.value)
    assert "instead of weights" not in str(caught.value)
    with pytest.raises(ArchitectureError, match=r"dumps .* instead of weights"):
        models.snapshot(stored({"mine": EMBEDDING}, "state"), TASK)


@pytest.mark.parametrize("spec", ["comparison:4x4,form=binary", "graph:lattice-3x3", "group:S4"])
def test_a_dump_tells_which_tasks_would_fit_it(spec: str) -> None:
    made, rng = task(spec), np.random.default_rng(0)
    arrays = {
        "logits": rng.normal(size=(len(made.inputs), made.classes)),
        "embedding": rng.normal(size=(made.vocabulary, 4)),
    }
    with pytest.raises(TaskError, match=f"would fit .*{spec}"):
        models.infer_task(made.family, stored(arrays, "dump"))
