"""What every architecture must do, over one random network of every convention."""

from __future__ import annotations

import numpy as np
import pytest
import reference_language_models
import reference_networks
import reference_sequences
import reference_trees
import torch
from helpers.stored import stored
from hypothesis import given
from hypothesis import strategies as st
from reference_networks import Case, lens_state, run_lens

from geomdiag import models
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures import layered, mixture, sequence
from geomdiag.models.architectures.decoder import architecture as decoder_transformer
from geomdiag.models.architectures.decoder import pair_table
from geomdiag.tasks import task

CASES = [
    *reference_networks.CASES,
    *reference_language_models.CASES,
    *reference_sequences.CASES,
    *reference_trees.CASES,
]
CASE = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_every_registered_architecture_has_a_case() -> None:
    elsewhere = {"huggingface"}  # run by another library: test_huggingface.py
    assert {case.architecture for case in CASES} == set(models.ARCHITECTURES) - elsewhere


def arrays(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    state = case.state()
    return {
        name: (value.to(dtype) if value.is_floating_point() else value).numpy()
        for name, value in state.items()
    }


def network(case: Case, dtype: torch.dtype = torch.float64) -> models.Network:
    made = models.snapshot(
        stored(arrays(case, dtype)), task("modadd", p=case.p), config=case.config
    )
    assert made.network is not None
    return made.network


def expected(case: Case, inputs: np.ndarray) -> np.ndarray:
    state = {name: torch.from_numpy(value) for name, value in arrays(case).items()}
    left, right = torch.from_numpy(inputs.copy()).T
    return case.run(state, left, right)[:, : case.p].numpy()


@CASE
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)
def test_shared_pass_equals_plain_pass(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    inputs = task("modadd", p=case.p).inputs
    wanted = expected(case, inputs)
    got = network(case, dtype).logits(inputs)
    assert got.shape == (case.p**2, case.p)
    assert got.dtype == str(dtype)[6:]
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@CASE
def test_any_inputs_in_any_order(case: Case) -> None:
    made = network(case)
    rng = np.random.default_rng(0)
    inputs = rng.integers(case.p, size=(57, 2))
    np.testing.assert_allclose(made.logits(inputs), expected(case, inputs), rtol=0, atol=1e-11)


@CASE
def test_chunks_do_not_show(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = task("modadd", p=case.p).inputs
    wanted = expected(case, inputs)
    for bytes_, left, cost in ((1, 8, 0), (3000, 8, 10**6), (20000, 2, 0), (5000, 3, 10**6)):
        monkeypatch.setattr(mixture, "CHUNK_BYTES", bytes_)
        monkeypatch.setattr(mixture, "CHUNK_LEFT", left)
        monkeypatch.setattr(pair_table, "MIX_COST", cost)
        monkeypatch.setattr(decoder_transformer, "CHUNK_ROWS", 1 + bytes_ // 100)
        monkeypatch.setattr(layered, "CHUNK_BYTES", bytes_)
        monkeypatch.setattr(sequence, "CHUNK_ROWS", 1 + bytes_ // 100)
        got = network(case).logits(inputs)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-11)


@CASE
def test_embedding_vectors_give_the_same_logits_and_gradients(case: Case) -> None:
    made = network(case)
    matrices = made.matrices()
    inputs = task("modadd", p=case.p).inputs[::3]
    left = matrices["embedding"].values
    right = matrices.get("embedding_right", matrices["embedding"]).values
    operands = [
        torch.from_numpy(left[inputs[:, 0]]).requires_grad_(),
        torch.from_numpy(right[inputs[:, 1]]).requires_grad_(),
    ]
    logits = made.logits_from_embeddings(operands)
    np.testing.assert_allclose(logits.detach().numpy(), made.logits(inputs), rtol=0, atol=1e-11)
    gradients = torch.autograd.grad(logits[:, 2].sum(), operands)
    for index, gradient in enumerate(gradients):
        step = [vector.detach().clone() for vector in operands]
        direction = torch.randn(
            step[index].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        step[index] = step[index] + 1e-6 * direction
        moved = made.logits_from_embeddings(step)[:, 2] - logits.detach()[:, 2]
        np.testing.assert_allclose(
            moved.numpy() / 1e-6, (gradient * direction).sum(1).numpy(), rtol=1e-3, atol=1e-4
        )


@CASE
def test_matrices_name_tokens_and_classes(case: Case) -> None:
    made = network(case)
    matrices = made.matrices()
    assert {"embedding", "unembedding"} <= set(matrices)
    assert ("embedding_right" in matrices) == case.separate
    assert set(matrices) <= {
        "embedding",
        "embedding_right",
        "unembedding",
        "neuron_input",
        "neuron_input_right",
        "neuron_logit",
    }
    for name, matrix in matrices.items():
        assert len(matrix.values) == case.p, name
        assert matrix.rows == ("classes" if name in ("unembedding", "neuron_logit") else "tokens")
        assert matrix.values.flags.c_contiguous
    if "neuron_logit" in matrices:
        assert matrices["neuron_logit"].columns == "neurons"
    assert made.architecture == case.architecture
    assert set(made.roles.values()) <= set(case.state())
    assert not any(name.endswith(("mask", "IGNORE", "basis")) for name in made.roles.values())


@CASE
def test_swap_invariance_is_said_exactly_when_it_holds(case: Case) -> None:
    made = network(case)
    assert made.swap_invariant == case.swap_invariant
    logits = made.logits(task("modadd", p=case.p).inputs).reshape(case.p, case.p, case.p)
    apart = np.abs(logits - logits.transpose(1, 0, 2)).max()
    assert (apart < 1e-12 * np.abs(logits).max()) == case.swap_invariant


@CASE
def test_same_weights_same_bytes(case: Case) -> None:
    inputs = task("modadd", p=case.p).inputs
    first = network(case, torch.float32).logits(inputs)
    assert first.tobytes() == network(case, torch.float32).logits(inputs).tobytes()


@CASE
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_named(case: Case, value: float) -> None:
    state = arrays(case)
    name = list(network(case).roles.values())[-1]
    state[name] = state[name].copy()
    state[name].flat[3] = value
    with pytest.raises(ArchitectureError, match=f"{name}.*1 values that are NaN or inf"):
        models.snapshot(stored(state), task("modadd", p=case.p), config=case.config)


@CASE
def test_half_precision_is_widened(case: Case) -> None:
    made = network(case, torch.float16)
    assert made.logits(np.array([[1, 2]])).dtype == np.float32


@CASE
def test_wrappers_in_names_are_seen_through(case: Case) -> None:
    state = {f"_orig_mod.{name}": value for name, value in arrays(case).items()}
    t = task("modadd", p=case.p)
    made = models.snapshot(stored(state), t, config=case.config).network
    assert made is not None
    assert set(made.roles.values()) <= set(state)
    np.testing.assert_array_equal(made.logits(t.inputs), network(case).logits(t.inputs))


@CASE
def test_only_weights_are_read(case: Case) -> None:
    checkpoint = stored(arrays(case))
    made = models.snapshot(checkpoint, task("modadd", p=case.p), config=case.config)
    assert made.network is not None
    assert checkpoint.tensors.read == set(made.network.roles.values())  # type: ignore[attr-defined]


@CASE
def test_modulus_is_read_off_the_checkpoint(case: Case) -> None:
    found = models.infer_task("modadd", stored(arrays(case)), case.config)
    assert found.name == f"modadd:p={case.p}"


@given(
    p=st.integers(2, 13),
    d=st.integers(1, 40),
    h=st.integers(1, 5),
    e=st.integers(1, 9),
    m=st.integers(1, 50),
    form=st.sampled_from(["ab", "ab="]),
    norms=st.sampled_from(["", "LN", "RMS"]),
    seed=st.integers(0, 1000),
)
def test_transformers_of_any_size(
    p: int, d: int, h: int, e: int, m: int, form: str, norms: str, seed: int
) -> None:
    state = lens_state(
        seed, p + len(form) - 2, p, d=d, h=h, e=e, m=m, context=len(form), norms=norms
    )
    config = {"act_fn": "relu"}
    t = task("modadd", p=p)
    made = models.snapshot(
        stored({name: value.numpy() for name, value in state.items()}), t, config=config
    )
    tokens = torch.from_numpy(np.pad(t.inputs, ((0, 0), (0, len(form) - 2)), constant_values=p))
    wanted = run_lens(state, tokens, norms=norms).numpy()
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-10 * scale)
