"""Recurrent networks and transformers of public programs: what else must hold of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import reference_sequences as reference
import torch
from helpers.stored import stored
from torch import nn

from geomdiag import models
from geomdiag.checkpoints import open_runs
from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.tasks import task


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def specs(state: dict[str, torch.Tensor]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(value.shape), "float32") for name, value in state.items()}


def lstm(**options: Any) -> dict[str, torch.Tensor]:
    module = nn.Module()
    module.embed = nn.Embedding(12, 6)
    module.lstm = nn.LSTM(6, 7, batch_first=True, **options)
    module.head = nn.Linear(14 if options.get("bidirectional") else 7, 11)
    return dict(module.state_dict())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_logits_are_those_of_torch(kind: Any) -> None:
    module = nn.ModuleDict(
        {"embedding": nn.Embedding(12, 6), "rnn": kind(6, 7, 2, batch_first=True)}
    )
    head = nn.Linear(7, 11)
    t = task("modadd:p=11")
    tokens = torch.from_numpy(np.pad(t.inputs, ((0, 0), (0, 1)), constant_values=11))
    with torch.no_grad():
        wanted = head(module["rnn"](module["embedding"](tokens))[0][:, -1]).numpy()
    state = {**module.state_dict(), "fc.weight": head.weight, "fc.bias": head.bias}
    got = models.snapshot(stored(arrays({k: v.detach() for k, v in state.items()})), t)
    np.testing.assert_allclose(got.logits, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lstm.weight_hh_l0": (28, 8)}, r"\(28, 6\) and 'weight_hh_l0' beside it \(28, 8\)"),
        ({"lstm.bias_hh_l0": (21,)}, r"LSTM of 1 layers: .*bias_hh_l0' should have shape \(28,\)"),
        ({"lstm.weight_ih_l9": (28, 6)}, "layer 9 is there, earlier ones are not"),
        ({"lstm.weight_ih_l123456789": (28, 6)}, "layer 123456789 is there, earlier ones are not"),
        ({"head.weight": (11, 14)}, r"'head\.weight' should have 7 columns .* and has 14"),
        (
            {"embed.weight": (12, 5)},
            r"one embedding 6 wide expected, found 'embed\.weight' \(12, 5",
        ),
        ({"other.weight_ih_l0": (28, 6)}, "one '...weight_ih_l0' expected, found"),
        ({"lstm.extra": (28, 6)}, r"lstm\.extra' of shape \(28, 6\) has no place in it"),
    ],
)
def test_near_misses_of_recurrent_networks(change: dict[str, tuple[int, ...]], words: str) -> None:
    found = specs(lstm()) | {name: TensorSpec(shape, "float32") for name, shape in change.items()}
    with pytest.raises(ArchitectureError, match=words):
        models.recognise(found)


def test_what_recurrent_weights_do_not_say() -> None:
    (last,) = models.recognise(specs(lstm())).notices
    assert "the answer is read at the last position" in last
    assert not models.recognise(specs(lstm()), {"pool": "last"}).notices
    with pytest.raises(ArchitectureError, match="pool = 'max'; known for a LSTM are last and mean"):
        models.recognise(specs(lstm()), {"pool": "max"})
    both = models.recognise(specs(lstm(bidirectional=True)), {"pool": "last"})
    assert "backward" in both.notices[0]
    plain = nn.ModuleDict({"embed": nn.Embedding(5, 3), "rnn": nn.RNN(3, 4), "o": nn.Linear(4, 5)})
    said = {"pool": "last"}
    assert "tanh is assumed" in models.recognise(specs(dict(plain.state_dict())), said).notices[0]
    said["nonlinearity"] = "relu"
    assert not models.recognise(specs(dict(plain.state_dict())), said).notices
    with pytest.raises(ArchitectureError, match=r"nonlinearity = 'sine'.*tanh and relu"):
        models.recognise(specs(dict(plain.state_dict())), {"nonlinearity": "sine"})


def test_a_recurrent_network_that_is_averaged_over_its_positions() -> None:
    state = lstm()
    state = {**state, "embed.weight": state["embed.weight"][:11]}
    embed, net, head = nn.Embedding(11, 6), nn.LSTM(6, 7, batch_first=True), nn.Linear(7, 11)
    module = nn.ModuleDict({"embed": embed, "lstm": net, "head": head})
    module.load_state_dict(state)
    t = task("modadd:p=11")
    with torch.no_grad():
        wanted = head(net(embed(torch.from_numpy(t.inputs)))[0].mean(1)).numpy()
    found = models.snapshot(stored(arrays(state)), t, config={"pool": "mean"})
    np.testing.assert_allclose(found.logits, wanted, rtol=0, atol=1e-6)
    assert "neuron_logit" not in found.matrices


def test_a_square_layer_before_a_recurrent_network_is_not_taken_to_follow_it() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(11, 6), "middle": nn.Linear(6, 6)})
    net["lstm"], net["out"] = nn.LSTM(6, 6), nn.Linear(6, 11)
    before = specs(dict(net.state_dict()))
    with pytest.raises(ArchitectureError, match=r"middle\.weight' stands between the embedding"):
        models.recognise(before)
    by_name = dict(sorted(before.items()))
    notices = models.recognise(by_name).notices
    assert any("'middle.weight' is taken to come after the LSTM" in text for text in notices)
    after = {name: before[name] for name in sorted(before, key=lambda name: "lstm" not in name)}
    assert not any("taken to come" in text for text in models.recognise(after).notices)


@pytest.mark.parametrize(
    ("vocabulary", "classes", "config", "p"),
    [(12, 12, {}, 12), (12, 12, {"p": 11}, 11), (12, 11, {}, 11), (13, 11, {}, 11)],
)
def test_modulus_of_a_recurrent_network(
    vocabulary: int, classes: int, config: dict[str, int], p: int
) -> None:
    net = nn.ModuleDict(
        {
            "embed": nn.Embedding(vocabulary, 6),
            "lstm": nn.LSTM(6, 7, batch_first=True),
            "head": nn.Linear(7, classes),
        }
    )
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    t = models.infer_task("modadd", stored(state), config)
    assert t.name == f"modadd:p={p}"
    equals = {11: [11], 12: []}[p] if vocabulary == 12 else [12, 11]
    shown = {0: [0, 1], 1: [0, 1, *equals], 2: [0, 12, 1, 11]}[len(equals)]
    with torch.no_grad():
        wanted = net["head"](net["lstm"](net["embed"](torch.tensor([shown])))[0][:, -1])
    made = models.snapshot(stored(state), t, config=config).network
    assert made is not None
    np.testing.assert_allclose(made.logits(np.array([[0, 1]])), wanted[:, :p], rtol=0, atol=1e-6)


def test_heads_of_fused_projections_are_noticed() -> None:
    state = dict(reference.Grokfast(11, 8, 2, 4).state_dict())
    match = models.recognise(specs(state))
    assert match.convention == "grokfast"
    assert any("4 assumed" in text for text in match.notices)
    (carried,) = models.recognise(specs(state), {"n_heads": 2}).notices
    assert "carries on the normalised stream, as grokfast's code does" in carried
    assert not models.recognise(specs(state), {"n_heads": 2, "norm_first": True}).notices
    with pytest.raises(ArchitectureError, match="3 heads, which do not divide an attention 8"):
        models.recognise(specs(state), {"n_heads": 3})
    del state["layers.1.ln_2.weight"]
    with pytest.raises(ArchitectureError, match=r"grokfast: tensor 'layers\.1\.ln_2\.weight'"):
        models.recognise(specs(state))


@pytest.mark.parametrize("first", [True, False])
def test_blocks_of_a_fork_of_grokfast_normalise_as_is_said(first: bool) -> None:
    torch.manual_seed(0)
    net = reference.Grokfast(11, 8, 1, 2)
    state = dict(net.state_dict())
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, nn.functional.gelu, batch_first=True, norm_first=first
    )
    block = {name.removeprefix("layers.0."): v for name, v in state.items() if "layers.0." in name}
    renamed = {"attn": "self_attn", "ln_1": "norm1", "ln_2": "norm2"}
    renamed |= {"mlp.0": "linear1", "mlp.2": "linear2"}
    for old, new in renamed.items():
        block = {re.sub(f"^{re.escape(old)}", new, name): value for name, value in block.items()}
    layer.load_state_dict(block)
    t = task("modadd:p=11")
    left, right = torch.from_numpy(t.inputs).T
    shown = torch.stack([left, torch.full_like(left, 12), right, torch.full_like(left, 11)], 1)
    with torch.no_grad():
        x = net.token_embeddings(shown) + net.position_embeddings.weight[:4]
        x = layer(x, nn.Transformer.generate_square_subsequent_mask(4))
        wanted = net.head(net.ln_f(x))[:, -1, :11].numpy()
    config = {"n_heads": 2, "norm_first": first}
    got = models.snapshot(stored(arrays(state)), t, config=config).logits
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_a_grokfast_file(tmp_path: Any) -> None:
    """A series as its main.py writes it: lists beside a list of state dicts."""
    torch.manual_seed(0)
    nets = [reference.Grokfast(11, 8, 2, 4) for _ in range(3)]
    curves = {name: [0.1, 0.2, 0.3] for name in ("train_acc", "train_loss", "val_acc", "val_loss")}
    path = tmp_path / "res_run.pt"
    torch.save(
        {
            "its": [2, 4, 6],
            **curves,
            "net_its": [0, 1, 2],
            "net": [net.state_dict() for net in nets],
        },
        path,
    )
    (series,) = open_runs(path).values()
    t = models.infer_task("modadd", series[-1], series.config)
    assert t.name == "modadd:p=11"
    got = models.snapshot(series[2], t, config=series.config).logits
    left, right = torch.from_numpy(t.inputs.copy()).T
    with torch.no_grad():
        wanted = nets[2](reference.tokens(left, 12, right, 11))[:, :11].numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("order", ["lexicographic", "coset"])
def test_openai_permutations_in_either_numbering(order: str) -> None:
    state = reference.grok_state(3, 11)
    t = task(f"group:S5,order={order}")
    made = models.snapshot(stored(arrays(state)), t, config={"math_operator": "s5"})
    words = reference.grok_vocabulary(11)
    names = ["".join(map(str, one)) for one in t.group.permutations.tolist()]  # type: ignore[attr-defined]
    rows = torch.tensor([words[name] for name in names])
    inputs = np.random.default_rng(0).integers(120, size=(40, 2))
    left, right = rows[torch.from_numpy(inputs.copy())].T
    shown = reference.tokens(words["<|eos|>"], left, words["s5"], right, words["="])
    wanted = reference.run_grok(state, shown, 2, "relu")[:, rows].numpy()
    assert made.network is not None
    np.testing.assert_allclose(made.network.logits(inputs), wanted, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(
        made.embedding, state["transformer.embedding.weight"][rows].numpy()
    )
    # their s5 maps (a, b) to b[a]; the task's answers must be the same permutations
    a, b = (t.group.permutations[column] for column in inputs.T)  # type: ignore[attr-defined]
    product = t.group.table[inputs[:, 0], inputs[:, 1]]  # type: ignore[attr-defined]
    composed = np.take_along_axis(b, a, axis=1)
    np.testing.assert_array_equal(t.group.permutations[product], composed)  # type: ignore[attr-defined]


def test_what_openai_grok_must_be_told() -> None:
    state = specs(reference.grok_state(0, 97))
    match = models.recognise(state)
    assert (match.sizes.vocabulary, match.sizes.classes) == (97, 97)
    assert len(reference.grok_vocabulary()) == 239
    assert any("'+' is assumed" in text for text in match.notices)
    assert not models.recognise(state, {"math_operator": "*"}).notices
    with pytest.raises(ArchitectureError, match="math_operator = 'sort'; known with two operands"):
        models.recognise(state, {"math_operator": "sort"})
    with pytest.raises(ArchitectureError, match=r"does not fit group:S5.*97 rows"):
        models.recognise(state, {"math_operator": "+"}, task("group:S5"))
    small = {
        name: TensorSpec(tuple(140 if size == 239 else size for size in spec.shape), "float32")
        for name, spec in state.items()
    }
    with pytest.raises(ArchitectureError, match=r"has 140 rows.*more than 142"):
        models.recognise(small)


def test_a_lightning_checkpoint_of_openai_grok(tmp_path: Any) -> None:
    state = reference.grok_state(5, 11)
    path = tmp_path / "epoch_4.ckpt"
    torch.save(
        {
            "epoch": 4,
            "global_step": 40,
            "state_dict": state,
            "hyper_parameters": {"math_operator": "-", "non_linearity": "relu", "n_heads": 2},
        },
        path,
    )
    (series,) = open_runs(path).values()
    t = models.infer_task("modsub", series[-1], series.config)
    assert t.name == "modsub:p=11"
    made = models.snapshot(series[-1], t, config=series.config)
    words = reference.grok_vocabulary(11)
    left, right = torch.from_numpy(t.inputs.copy()).T + words["0"]
    shown = reference.tokens(words["<|eos|>"], left, words["-"], right, words["="])
    wanted = reference.run_grok(state, shown, 2, "relu")[:, words["0"] :][:, :11]
    np.testing.assert_allclose(made.logits, wanted.numpy(), rtol=0, atol=1e-11)
