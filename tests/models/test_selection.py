"""Matrices taken by name: what a map means, how names and shapes tell where tokens lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from geomdiag.checkpoints import Checkpoint, TensorSpec
from geomdiag.checkpoints.series import as_tensors
from geomdiag.errors import ArchitectureError, OptionsError
from geomdiag.models.embedding_names import EMBEDDING_NAMES, GENERIC_NAMES, known_axis, named
from geomdiag.models.mapping import parse_map, select, suggest
from geomdiag.models.tokens import Tokens, choose_tokens
from geomdiag.tasks import task

Z12 = task("group:Z12")


def specs(**shapes: tuple[int, ...]) -> dict[str, TensorSpec]:
    return {name.replace("__", "."): TensorSpec(shape, "float32") for name, shape in shapes.items()}


def arrays(found: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(spec.shape) for name, spec in found.items()}


def checkpoint(held: Mapping[str, np.ndarray]) -> Checkpoint:
    tensors = as_tensors(held, path=Path("x"), plugin="test")
    return Checkpoint(step=0, path=Path("x"), load=lambda: tensors)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "transformer.wte.weight",
        "model.embed_tokens.weight",
        "gpt_neox.embed_in.weight",
        "bert.embeddings.word_embeddings.weight",
        "tok_embeddings.weight",
        "params.Embed_0.embedding",
        "embeddings.vars.0",
        "layers.embedding.vars.0",
        "embed.W_E",
        "wte",
        "token_embedding/embeddings",
        "inner.embed_tokens.embedding_weight",
        "shared.weight",
        "token_embd.weight",
    ],
)
def test_names_that_are_recognised(name: str) -> None:
    held = {name: TensorSpec((20, 8), "float32"), "wpe.weight": TensorSpec((30, 8), "float32")}
    held |= {"embeddings.LayerNorm.weight": TensorSpec((8,), "float32")}
    held |= {"embeddings.position_embeddings.weight": TensorSpec((9, 8), "float32")}
    assert named(held, "embedding") == [name]


def test_plain_names_count_only_where_no_other_does() -> None:
    held = specs(embed__weight=(12, 8), wte__weight=(12, 8))
    assert named(held, "embedding") == ["wte.weight"]
    assert not set(EMBEDDING_NAMES) & set(GENERIC_NAMES)
    assert named(specs(embed__weight=(12,), other__weight=(12, 8)), "embedding") == []


# --- where tokens lie -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "name", "axis"),
    [
        ((12, 40), "net.table", 0),
        ((40, 12), "net.table", 1),
        ((13, 40), "net.table", 0),
        ((14, 40), "net.table", 0),
        ((12, 13), "wte.weight", 0),
        ((12, 13), "lm_head.kernel", 1),
    ],
)
def test_the_axis_that_fits_the_task(shape: tuple[int, int], name: str, axis: int) -> None:
    held = {name: TensorSpec(shape, "float32")}
    chosen = select(held, Z12, {"embedding": name}, only="no network")
    assert chosen.parts["embedding"].axis == axis
    values = arrays(held)
    matrix = chosen.matrices(checkpoint(values).tensors, Z12)["embedding"].values
    expected = values[name] if axis == 0 else values[name].T
    np.testing.assert_array_equal(matrix, expected[:12])


def test_both_axes_fit_is_asked_back_and_can_be_said() -> None:
    held = specs(net__table=(12, 13))
    with pytest.raises(OptionsError, match=r"embedding.rows=net.table or embedding.columns="):
        select(held, Z12, {"embedding": "net.table"}, only="no network")
    for place, axis in (("rows", 0), ("columns", 1)):
        chosen = select(held, Z12, {f"embedding.{place}": "net.table"}, only="no network")
        assert chosen.parts["embedding"].axis == axis


def test_an_axis_that_the_name_denies_must_be_said() -> None:
    """An embedding 12 wide is no embedding of 12 tokens, and token 70 is no feature of 64 rows."""
    held = specs(wte__weight=(64, 12))
    with pytest.raises(
        ArchitectureError, match=r"no rows for the 12 tokens.*embedding\.columns=wte\.weight"
    ):
        select(held, Z12, {"embedding": "wte.weight"}, only="no network")
    with pytest.raises(ArchitectureError, match="no rows for the 12 tokens"):
        select(held, Z12, {}, only="no network")
    said = select(held, Z12, {"embedding.columns": "wte.weight"}, only="no network")
    assert said.parts["embedding"].axis == 1
    assert suggest(held, Z12) == ("embedding.columns=wte.weight",)
    wide = specs(wte__weight=(64, 90))
    with pytest.raises(ArchitectureError, match="no rows for token 70"):
        select(wide, Z12, {}, choose_tokens("59:71"), only="no network")
    other = specs(wte__weight=(12, 40), lm_head__weight=(40, 12))
    assert set(select(other, Z12, {}, only="no network").parts) == {"embedding"}
    # a layer on one-hot vectors maps (tokens) to (features), a read-out the other way
    assert known_axis("embed.kernel") == 0
    assert known_axis("lm_head.kernel") == 1


def test_an_axis_that_was_said_must_fit() -> None:
    with pytest.raises(ArchitectureError, match="no rows for the 12 tokens"):
        select(specs(a=(40, 12)), Z12, {"embedding.rows": "a"}, only="no network")
    with pytest.raises(ArchitectureError, match=r"no axis for the 12 tokens.*--tokens"):
        select(specs(a=(40, 15), b=(12, 3)), Z12, {"embedding": "a"}, only="no network")


def test_tokens_tell_by_the_largest() -> None:
    tokens = Tokens((0, 30, *range(2, 12)), said="x")
    chosen = select(specs(a=(40, 8)), Z12, {"embedding": "a"}, tokens, only="no network")
    assert chosen.parts["embedding"].axis == 0
    chosen = select(specs(a=(8, 40)), Z12, {"embedding": "a"}, tokens, only="no network")
    assert chosen.parts["embedding"].axis == 1
    with pytest.raises(OptionsError, match=r"embedding\.rows=a"):
        select(specs(a=(40, 40)), Z12, {"embedding": "a"}, tokens, only="no network")
    by_name = select(specs(wte__weight=(40, 40)), Z12, {}, tokens, only="no network")
    assert by_name.parts["embedding"].axis == 0
    with pytest.raises(ArchitectureError, match="no axis for token 30"):
        select(specs(a=(20, 20)), Z12, {"embedding": "a"}, tokens, only="no network")


def test_as_many_tokens_as_the_task_has() -> None:
    with pytest.raises(OptionsError, match=r"3 tokens were given \(1,2,3\).*12 elements.*Z3"):
        select(specs(wte=(40, 8)), Z12, {}, Tokens((1, 2, 3), said="1,2,3"), only="no network")


# --- what a map says ------------------------------------------------------------------------------


def test_a_unique_ending_is_enough() -> None:
    held = specs(encoder__tok__weight=(12, 40), decoder__tok__weight=(12, 40), a__b=(12, 8))
    assert select(held, Z12, {"embedding": "b"}, only="n").parts["embedding"].tensor == "a.b"
    found = select(held, Z12, {"embedding": "encoder.tok.weight"}, only="n")
    assert found.roles == {"embedding": "encoder.tok.weight"}
    with pytest.raises(OptionsError, match="end of several names"):
        select(held, Z12, {"embedding": "tok.weight"}, only="n")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"embedding": "encoder.tok.wieght"}, "not there; nearest: encoder.tok.weight"),
        ({"embeding": "encoder.tok.weight"}, "part 'embeding'; known: embedding, "),
        ({"embedding.T": "encoder.tok.weight"}, r"\.rows or \.columns"),
        ({"unembedding": "encoder.tok.weight"}, "not the embedding.*add embedding=NAME"),
        ({"embedding": "head", "embedding.rows": "head"}, "twice"),
    ],
)
def test_maps_that_cannot_be_understood(mapping: dict[str, str], message: str) -> None:
    held = specs(encoder__tok__weight=(12, 40), head=(12, 40))
    with pytest.raises(OptionsError, match=message):
        select(held, Z12, mapping, only="no network")


@pytest.mark.parametrize("text", ["embedding", "embedding=", "=a", "embedding=a,,", "a=b,a=c"])
def test_texts_that_are_no_map(text: str) -> None:
    with pytest.raises(OptionsError, match=r"expected PART=TENSOR|twice"):
        parse_map(text)


def test_the_read_out_comes_along_where_its_name_tells_it() -> None:
    held = specs(wte__weight=(40, 8), lm_head__weight=(40, 8))
    tokens = Tokens(tuple(range(5, 17)), said="5:17")
    chosen = select(held, Z12, {}, tokens, only="no network")
    assert chosen.roles == {"embedding": "wte.weight", "unembedding": "lm_head.weight"}
    values = arrays(held)
    matrices = chosen.matrices(checkpoint(values).tensors, Z12)
    np.testing.assert_array_equal(matrices["unembedding"].values, values["lm_head.weight"][5:17])
    assert matrices["unembedding"].rows == "classes"
    distances = task("graph:path-12")
    with_classes = select(held, distances, {}, tokens, only="no network")
    assert "unembedding" in with_classes.parts  # as many distances as nodes
    circle = task("graph:cycle-12")  # seven distances
    assert set(select(held, circle, {}, tokens, only="no network").parts) == {"embedding"}
    mapping = {"embedding": "wte.weight", "unembedding": "lm_head.weight"}
    with pytest.raises(ArchitectureError, match="leave the unembedding out of the map"):
        select(held, circle, mapping, tokens, only="no network")


def test_several_embeddings_by_name_are_asked_back() -> None:
    held = specs(encoder__embed_tokens__weight=(12, 8), decoder__embed_tokens__weight=(12, 8))
    with pytest.raises(ArchitectureError, match=r"several .*--map embedding=NAME"):
        select(held, Z12, {}, only="no network")


# --- guesses --------------------------------------------------------------------------------------


def test_guesses_are_those_whose_shape_fits_best_name_first() -> None:
    held = specs(
        head=(12, 40), square=(12, 13), bias=(12,), other=(30, 40), tok__table=(12, 40), wte=(12, 8)
    )
    assert suggest(held, Z12) == (
        "embedding=wte",
        "embedding=tok.table",
        "embedding=head",
        "embedding.rows=square",
        "embedding.columns=square",
    )
    for guess in suggest(held, Z12):  # each can be given as it stands
        assert select(held, Z12, parse_map(guess), only="no network").parts
    assert suggest(held, None) == ("embedding=wte",)


# --- numbers --------------------------------------------------------------------------------------


def test_the_digest_is_of_the_rows_used_and_of_all_shapes() -> None:
    tokens = Tokens(tuple(range(3, 15)), said="3:15")
    held = {"wte.weight": np.ones((40, 8), np.float32), "rest": np.ones((4, 4), np.float32)}
    found = as_tensors(held, path=Path("x"), plugin="test").specs()
    chosen = select(found, Z12, {}, tokens, only="no network")

    def digest(changed: Mapping[str, np.ndarray]) -> str:
        return chosen.digest(checkpoint({**held, **changed}), Z12)

    table = held["wte.weight"]
    outside, inside = table.copy(), table.copy()
    outside[2], inside[14, 3] = 5, 5
    assert digest({"wte.weight": outside, "rest": np.zeros((4, 4), np.float32)}) == digest({})
    assert digest({"wte.weight": inside}) != digest({})
    assert digest({"rest": np.ones((4, 5), np.float32)}) != digest({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((12, 8), np.nan), "NaN or infinite in the rows used"),
        (np.ones((12, 8), bool), "holds bool"),
        (np.ones((5, 8)), r"shape \(5, 8\).*too small for row 11"),
        (np.ones(12), r"shape \(12,\)"),
    ],
)
def test_values_that_are_no_embedding(values: np.ndarray, message: str) -> None:
    chosen = select(specs(a=(12, 8)), Z12, {"embedding": "a"}, only="no network")
    with pytest.raises(ArchitectureError, match=message):
        chosen.matrices(checkpoint({"a": values}).tensors, Z12)
    with pytest.raises(ArchitectureError, match="is not in this checkpoint"):
        chosen.matrices(checkpoint({"b": values}).tensors, Z12)


def test_rows_beyond_those_used_may_be_broken() -> None:
    values = np.ones((14, 8))
    values[12:] = np.inf
    chosen = select(specs(a=(14, 8)), Z12, {"embedding": "a"}, only="no network")
    matrix = chosen.matrices(checkpoint({"a": values}).tensors, Z12)["embedding"]
    assert matrix.values.shape == (12, 8)
