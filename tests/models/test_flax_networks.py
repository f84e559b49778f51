"""Networks in Flax trees, against Flax where it is installed (extra test-formats)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.stored import stored
from reference_networks import lens_state
from reference_trees import ATTENTION, CASES, flax_from_lens

from geomdiag import models
from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.tasks import task

os.environ.setdefault("JAX_PLATFORMS", "cpu")
T = task("modadd:p=11")
WITH_EQUALS = np.pad(T.inputs, ((0, 0), (0, 1)), constant_values=11)


@pytest.fixture(scope="module")
def flax() -> Any:
    pytest.importorskip("jax", exc_type=ImportError)
    return pytest.importorskip("flax", exc_type=ImportError)


def read(path: Path, config: dict[str, Any], inputs: np.ndarray, wanted: Any) -> Any:
    """Compare the logits of a file with the library's own."""
    (series,) = open_runs(path).values()
    made = models.snapshot(series[-1], T, config=config)
    wanted = np.asarray(wanted)[:, :11]
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(made.logits, wanted, rtol=0, atol=1e-5)
    return made


def saved(tmp_path: Path, variables: Any) -> Path:
    from flax import serialization

    path = tmp_path / "step_5.msgpack"
    path.write_bytes(serialization.to_bytes(variables))
    return path


def linen_transformer(placement: str, pool: str, act: str, causal: bool, tied: bool) -> Any:
    import jax.numpy as jnp
    from flax import linen as nn

    activation = {"relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}[act]

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any, mask: Any) -> Any:
            attention = nn.MultiHeadDotProductAttention(num_heads=2)
            width = x.shape[-1]
            if placement == "pre":
                y = nn.LayerNorm()(x)
                x = x + attention(y, y, mask=mask)
                y = nn.Dense(width)(activation(nn.Dense(32)(nn.LayerNorm()(x))))
                return x + y
            x = nn.LayerNorm()(x + attention(x, x, mask=mask))
            return nn.LayerNorm()(x + nn.Dense(width)(activation(nn.Dense(32)(x))))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any) -> Any:
            embed = nn.Embed(12, 16)
            x = embed(tokens) + nn.Embed(3, 16, name="positions")(jnp.arange(3))
            mask = nn.make_causal_mask(tokens) if causal else None
            for _ in range(2):
                x = Block()(x, mask)
            x = nn.LayerNorm()(x) if placement == "pre" else x
            x = {"mean": x.mean(1), "last": x[:, -1], "flatten": x.reshape(len(x), -1)}[pool]
            return embed.attend(x) if tied else nn.Dense(12)(x)

    return Net()


@pytest.mark.parametrize(
    ("placement", "pool", "act", "causal", "tied"),
    [
        ("pre", "last", "gelu", True, False),
        ("post", "mean", "relu", False, False),
        ("post", "flatten", "silu", True, False),
        ("pre", "last", "relu", False, True),
    ],
)
def test_linen_transformers(
    flax: Any, tmp_path: Path, placement: str, pool: str, act: str, causal: bool, tied: bool
) -> None:
    import jax

    net = linen_transformer(placement, pool, act, causal, tied)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(
        lambda x: np.float32(x + 0.1 * rng.normal(size=x.shape)),
        jax.jit(net.init)(jax.random.key(1), WITH_EQUALS),
    )
    wanted = jax.jit(net.apply)(variables, WITH_EQUALS)
    config = {"activation": act, "causal": causal, "norm_first": placement == "pre"}
    if pool != "flatten":
        config["pool"] = pool
    made = read(saved(tmp_path, variables), config, WITH_EQUALS, wanted)
    assert made.notices == (
        ("no read-out is stored: the embedding is taken for it, transposed",) if tied else ()
    )
    table = np.asarray(variables["params"]["Embed_0"]["embedding"])
    np.testing.assert_array_equal(made.embedding, table[:11])


def test_linen_mlps(flax: Any, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class Mlp(nn.Module):
        combine: str

        @nn.compact
        def __call__(self, pairs: Any) -> Any:
            x = nn.Embed(11, 8)(pairs)
            x = {"sum": x.sum(1), "mean": x.mean(1), "concat": x.reshape(len(x), -1)}[self.combine]
            return nn.Dense(11)(nn.gelu(nn.Dense(20)(nn.gelu(nn.Dense(20)(x)))))

    for combine in ("sum", "mean", "concat"):
        net = Mlp(combine)
        variables = jax.jit(net.init)(jax.random.key(0), T.inputs)
        wanted = jax.jit(net.apply)(variables, T.inputs)
        (tmp_path / combine).mkdir()
        path = saved(tmp_path / combine, variables)
        read(path, {"act_fn": "gelu", "combine": combine}, T.inputs, wanted)

    class OneHot(nn.Module):
        @nn.compact
        def __call__(self, pairs: Any) -> Any:
            x = jax.nn.one_hot(pairs, 11).reshape(len(pairs), -1)
            return nn.Dense(11)(jnp.square(nn.Dense(30)(x)))

    net = OneHot()
    variables = jax.jit(net.init)(jax.random.key(0), T.inputs)
    config = {"act_fn": "square", "logit_scale": 1}
    read(saved(tmp_path, variables), config, T.inputs, jax.jit(net.apply)(variables, T.inputs))


def test_nnx_through_orbax(flax: Any, tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp

    checkpoints = pytest.importorskip("orbax.checkpoint", exc_type=ImportError)
    pytest.importorskip("tensorstore", exc_type=ImportError)
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.attn = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.norm1, self.norm2 = (nnx.LayerNorm(8, rngs=rngs) for _ in range(2))
            self.linear1 = nnx.Linear(8, 24, rngs=rngs)
            self.linear2 = nnx.Linear(24, 8, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            mask = nnx.make_causal_mask(x[..., 0])
            x = x + self.attn(self.norm1(x), mask=mask)
            return x + self.linear2(nnx.relu(self.linear1(self.norm2(x))))

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embed = nnx.Embed(12, 8, rngs=rngs)
            self.pos = nnx.Param(jax.random.normal(jax.random.key(3), (3, 8)))
            self.blocks = nnx.List([Block(rngs), Block(rngs)])
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.head = nnx.Linear(8, 11, rngs=rngs)
            self.drop = nnx.Dropout(0.1, deterministic=True, rngs=rngs)  # keeps a generator

        def __call__(self, tokens: Any) -> Any:
            x = self.embed(tokens) + self.pos[...]
            for block in self.blocks:
                x = block(x)
            return self.head(self.drop(self.norm(x)))[:, -1]

    net = Net(nnx.Rngs(0))
    wanted = nnx.jit(net)(jnp.asarray(WITH_EQUALS))
    state = nnx.state(net)
    for name, tree in (("1", state), ("2", nnx.to_pure_dict(state))):
        with checkpoints.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / name / "1", tree)
        config = {"act_fn": "relu", "causal": True, "norm_first": True, "pool": "last"}
        made = read(tmp_path / name / "1", config, WITH_EQUALS, wanted)
        assert not made.notices


def specs(state: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(value.shape), "float32") for name, value in state.items()}


def flax_specs(**options: Any) -> dict[str, TensorSpec]:
    return specs(flax_from_lens(lens_state(0, 12, 11, **options)))


def test_what_a_tree_does_not_say() -> None:
    found = flax_specs(norms="LN", blocks=2)
    notices = "\n".join(models.recognise(found).notices)
    for words in (
        "'Embed_1.embedding' is taken for the table of positions",
        "read at the last position",
        "taken to be causal",
        "stand before attention",
        "relu is assumed",
    ):
        assert words in notices
    said = {"pool": "mean", "causal": False, "post_norm": True, "act_fn": "relu"}
    (only,) = models.recognise(found, said).notices
    assert "Embed_1" in only
    for name in ("LayerNorm_0.scale", "LayerNorm_0.bias"):
        del found[name]
    assert "stand after attention" in "\n".join(models.recognise(found).notices)


@pytest.mark.parametrize(
    "said",
    [{"pool": "mean"}, {"causal": False}, {"norm_first": False}, {"layer_norm_eps": 0.1}],
)
def test_what_the_configuration_says_counts(said: dict[str, Any]) -> None:
    case = next(case for case in CASES if case.name == "flax-pre-norm")
    state = {name: value.numpy() for name, value in case.state().items()}
    one = models.snapshot(stored(state), T, config=case.config).logits
    other = models.snapshot(stored(state), T, config={**case.config, **said}).logits
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"Block_0.{ATTENTION}.key.kernel": None}, f"'Block_0.{ATTENTION}.key.kernel' is missing"),
        ({f"Block_0.{ATTENTION}.key.kernel": (24, 3, 6)}, "should have shape (24, 3, 5), has (24"),
        ({f"Block_0.{ATTENTION}.out.bias": (23,)}, "should have shape (24,) and has (23,)"),
        (
            {"Block_0.Dense_1.kernel": (41, 24)},
            "'Block_0.Dense_1.kernel' should have shape (40, 24)",
        ),
        ({"Block_0.Dense_2.kernel": (40, 24)}, "has 2 normalisations and 3 dense layers"),
        ({"Block_0.LayerNorm_1.scale": (23,)}, "should have shape (24,) and has (23,)"),
        ({"Embed_2.embedding": (4, 24)}, "one token embedding and at most one table of positions"),
        ({"Dense_1.kernel": (11, 11)}, "2 dense layers after the blocks"),
        ({"Dense_0.kernel": (25, 11)}, "'Dense_0.kernel' should have shape (24, C) and has (25"),
        ({"cls": (1, 1, 24)}, "'cls' of shape (1, 1, 24) has no place in it"),
    ],
)
def test_near_misses(change: dict[str, Any], words: str) -> None:
    found = flax_specs(norms="LN")
    for name, shape in change.items():
        if shape is None:
            del found[name]
        else:
            found[name] = TensorSpec(shape, "float32")
    with pytest.raises(ArchitectureError, match=re.escape(words)):
        models.recognise(found)


def test_parts_of_a_block_are_told_by_shape_and_name_where_their_order_does_not() -> None:
    case = next(case for case in CASES if case.name == "flax-pre-norm")
    state = {name: value.numpy() for name, value in case.state().items()}
    names = {"Dense_0": "up", "Dense_1": "down", "LayerNorm_0": "self_attn", "LayerNorm_1": "ffn"}
    other = {}
    for name, value in state.items():
        block, _, rest = name.partition(".")
        module, _, leaf = rest.partition(".")
        new = f"{block}.{names.get(module, module)}.{leaf}" if block.startswith("Block") else name
        other[new] = value
    other = dict(sorted(other.items()))
    assert list(other).index("Block_0.down.kernel") < list(other).index("Block_0.up.kernel")
    wanted = models.snapshot(stored(state), T, config=case.config).logits
    got = models.snapshot(stored(other), T, config=case.config).logits
    np.testing.assert_array_equal(got, wanted)


def test_configurations_that_do_not_fit() -> None:
    found = flax_specs(norms="LN")
    with pytest.raises(ArchitectureError, match=r"pool = 'cls'.*last, mean and first"):
        models.recognise(found, {"pool": "cls"})
    found["Dense_0.kernel"] = TensorSpec((96, 11), "float32")
    with pytest.raises(ArchitectureError, match=r"takes 4 positions .* positions has 3 rows"):
        models.recognise(found)


def test_layers_that_fit_in_more_than_one_order_are_refused() -> None:
    square = {"embed.embedding": (11, 8), "a.kernel": (8, 8), "b.kernel": (8, 8)}
    found = {name: TensorSpec(shape, "float32") for name, shape in square.items()}
    found["c.kernel"] = TensorSpec((8, 11), "float32")
    with pytest.raises(
        ArchitectureError, match=r"a\.kernel, b\.kernel, c\.kernel fit in more than"
    ):
        models.recognise(found)
    named = {
        re.sub("([abc])", lambda m: f"Dense_{ord(m[0]) - 97}", n, count=1)
        if "kernel" in n
        else n: s
        for n, s in found.items()
    }
    assert models.recognise(named).roles["weight_1"] == "Dense_1.kernel"


def test_normalisations_find_their_place_by_name() -> None:
    found = flax_specs(norms="LN")

    def named(one: str, other: str) -> tuple[str, str]:
        names = {"LayerNorm_0": one, "LayerNorm_1": other}
        tree = {
            re.sub(r"LayerNorm_\d", lambda m: names[m[0]], n) if n.startswith("Block") else n: s
            for n, s in found.items()
        }
        roles = models.recognise(dict(sorted(tree.items()))).roles
        return roles["scale_attention_0"], roles["scale_mlp_0"]

    for first, second in (
        ("ln_1", "ln_2"),
        ("norm_attn", "norm_ffn"),
        ("pre_norm", "mlp_norm"),
        ("input_layernorm", "post_attention_layernorm"),
        ("zero", "feed_forward_norm"),
    ):
        expected = tuple(f"Block_0.{name}.scale" for name in (first, second))
        assert named(first, second) == named(second, first) == expected
    with pytest.raises(ArchitectureError, match="comes first is not in their names"):
        named("after", "before")


def test_parts_whose_place_is_open_are_refused() -> None:
    """One normalisation a block, square layers under names of any order, no MLP."""
    flat = {
        re.sub(r"^Block_\d\.", "", name): spec
        for name, spec in flax_specs(norms="LN").items()
        if not name.startswith(("Block_0.Dense", "LayerNorm"))
    }
    with pytest.raises(ArchitectureError, match=r"two normalisations .* and no MLP"):
        models.recognise(flat)
    lone = {name: spec for name, spec in flat.items() if "LayerNorm_1" not in name}
    notices = "\n".join(models.recognise(lone).notices)
    assert "the only normalisation, 'LayerNorm_0', is taken to stand after the blocks" in notices
    twice = {
        **lone,
        **{
            name.replace("0", "1", 1): spec
            for name, spec in lone.items()
            if name.startswith(("LayerNorm", ATTENTION))
        },
    }
    with pytest.raises(ArchitectureError, match="2 blocks stand in one module with 2 of the kind"):
        models.recognise(twice)
    square = flax_specs(norms="LN", m=24)
    other = {re.sub(r"Block_0\.Dense_0", "Block_0.up", n): s for n, s in square.items()}
    models.recognise(square)
    with pytest.raises(ArchitectureError, match="which of the square layers"):
        models.recognise(other)


def test_a_scale_without_a_bias_is_noticed() -> None:
    found = flax_specs(norms="LN")
    bare = {n: s for n, s in found.items() if not ("LayerNorm" in n and n.endswith("bias"))}
    assert "taken for RMSNorm" in "\n".join(models.recognise(bare).notices)
    said = models.recognise(bare, {"normalization_type": "LN"}).notices
    assert "RMSNorm" not in "\n".join(said)
