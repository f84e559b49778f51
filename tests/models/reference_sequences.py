"""Random recurrent networks and transformers of public programs, run by torch.nn or by hand.

Nothing here shares code with the library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import torch
from reference_networks import ACTS, Case, Tensors
from torch import nn
from torch.nn import functional as F

Draw = Callable[..., torch.Tensor]


def drawer(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape, scale=0.4: (
        torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    )


def tokens(*columns: torch.Tensor | int) -> torch.Tensor:
    """Return (n, positions) tokens; numbers are fixed ones."""
    like = next(column for column in columns if isinstance(column, torch.Tensor))
    return torch.stack(
        [c if isinstance(c, torch.Tensor) else torch.full_like(like, c) for c in columns], dim=1
    )


def of_module(module: nn.Module, seed: int) -> Tensors:
    """Return random weights under the names of a module's."""
    draw = drawer(seed)
    return {name: draw(*value.shape) for name, value in module.state_dict().items()}


# Recurrent networks, by their equations.


def run_recurrent(
    state: Tensors, kind: str, prefix: str, x: torch.Tensor, layers: int = 1, both: bool = False
) -> torch.Tensor:
    """Return (n, positions, output) of a stored torch.nn.LSTM, GRU or RNN."""
    for layer in range(layers):
        ways = [_one_way(state, kind, prefix, x, f"_l{layer}")]
        if both:
            back = _one_way(state, kind, prefix, x.flip(1), f"_l{layer}_reverse")
            ways.append(back.flip(1))
        x = torch.cat(ways, dim=2)
    return x


def _one_way(state: Tensors, kind: str, prefix: str, x: torch.Tensor, end: str) -> torch.Tensor:
    w, u = state[f"{prefix}weight_ih{end}"], state[f"{prefix}weight_hh{end}"]
    zero = w.new_zeros(len(w))
    a, b = (state.get(f"{prefix}bias_{of}{end}", zero) for of in ("ih", "hh"))
    project = state.get(f"{prefix}weight_hr{end}")
    hidden = u.shape[1] if project is None else project.shape[1]
    h = x.new_zeros(len(x), u.shape[1])
    c = x.new_zeros(len(x), hidden)
    out = []
    for t in range(x.shape[1]):
        left, right = x[:, t] @ w.T + a, h @ u.T + b
        if kind == "LSTM":
            i, f, g, o = (left + right).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            h = h if project is None else h @ project.T
        elif kind == "GRU":
            (r, z, n), (r2, z2, n2) = left.chunk(3, dim=1), right.chunk(3, dim=1)
            r, z = torch.sigmoid(r + r2), torch.sigmoid(z + z2)
            h = (1 - z) * torch.tanh(n + r * n2) + z * h
        else:
            h = ACTS[kind](left + right)
        out.append(h)
    return torch.stack(out, dim=1)


def _recurrent(
    name: str,
    make: Callable[..., nn.Module],
    kind: str,
    *,
    prefix: str = "lstm",
    embedding: str = "embedding",
    heads: tuple[tuple[str, int], ...] = (("fc", 11),),
    vocabulary: int = 12,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Case:
    width, p = 6, 11
    seed = sum(map(ord, name))

    def state() -> Tensors:
        module = nn.Module()
        module.add_module(embedding, nn.Embedding(vocabulary, width))
        core = make(width, 7, batch_first=True, **options)
        module.add_module(prefix, core)
        into = (options.get("proj_size") or 7) * (2 if options.get("bidirectional") else 1)
        for head, out in heads:
            module.add_module(head, nn.Linear(into, out))
            into = out
        return of_module(module, seed)

    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        sequence = tokens(left, right, p) if vocabulary > p else tokens(left, right)
        x = state[f"{embedding}.weight"][sequence]
        layers, both = options.get("num_layers", 1), options.get("bidirectional", False)
        x = run_recurrent(state, kind, prefix + ".", x, layers, both)[:, -1]
        for index, (head, _) in enumerate(heads):
            x = torch.relu(x) if index else x
            x = F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"])
        return x

    return Case(name, "recurrent", p, state, run, config or {})


# Transformers, by torch.nn's own modules.


class GrokfastBlock(nn.Module):
    """The stream is the normalised input."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, heads)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ln_1(x)
        x = x + attend(self.attn, x)
        return x + self.mlp(self.ln_2(x))


class PostBlock(nn.Module):
    """Each sum is normalised."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, heads)
        self.self_attn_norm, self.ffn_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.ffn = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.self_attn_norm(x + attend(self.self_attn, x))
        return self.ffn_norm(x + self.ffn(x))


def attend(attention: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    """Causal self-attention, sequence first."""
    mask = torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype).triu(1)
    return attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Grokfast(nn.Module):
    def __init__(self, p: int, d: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(p + 2, d)
        self.position_embeddings = nn.Embedding(5, d)
        self.layers = nn.ModuleList([GrokfastBlock(d, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(d)
        self.head = nn.Linear(d, p + 2, bias=False)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        x = self.token_embeddings(sequence.T)
        x = x + self.position_embeddings.weight[: len(x), None]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.ln_f(x))[-1]


class Numbered(nn.Module):
    def __init__(self, p: int, d: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(p + 2, d)
        self.position_embeddings = nn.Embedding(5, d)
        blocks = [PostBlock(d, heads) for _ in range(layers)]
        self.model = nn.Sequential(*blocks, nn.LayerNorm(d), nn.Linear(d, p + 2))

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        x = self.token_embeddings(sequence.T)
        return self.model(x + self.position_embeddings.weight[: len(x), None])[-1]


def _of_class(name: str, make: Callable[[], nn.Module], config: Mapping[str, Any]) -> Case:
    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        module = make().double().eval()
        module.load_state_dict(state)
        with torch.no_grad():
            return module(tokens(left, 12, right, 11))  # = is token p, the operator p + 1

    seed = sum(map(ord, name))
    return Case(name, "stacked_transformer", 11, lambda: of_module(make(), seed), run, config)


# openai/grok: one module a head, and a vocabulary of everything.

#: As the program lists them; their tokens follow Python's order.
GROK_OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "**2+",
    "**3+",
    "x**2+y**2_mod_97",
    "x**2+y**2+x*y_mod_97",
    "x**2+y**2+x*y+x_mod_97",
    "x**3+x*y_mod_97",
    "x**3+x*y**2+y_mod_97",
    "(x._value//y)if(y._value%2==1)else(x-y)_mod_97",
    "s5",
    "s5conj",
    "s5aba",
    "+*",
    "+-",
    "sort",
    "reverse",
    "copy",
]


def grok_vocabulary(p: int = 97) -> dict[str, int]:
    words = ["<|eos|>", "=", *sorted(GROK_OPERATORS), *map(str, range(p))]
    words += ["".join(map(str, one)) for one in permutations(range(5))]
    return {word: token for token, word in enumerate(words)}


def grok_state(seed: int, p: int, d: int = 8, heads: int = 2, blocks: int = 2) -> Tensors:
    draw, vocabulary = drawer(seed), len(grok_vocabulary(p))
    place = torch.arange(50)[:, None] / 10000 ** (torch.arange(d) // 2 * 2 / d)
    table = torch.where(torch.arange(d) % 2 == 0, place.sin(), place.cos()).double()
    state = {
        "transformer.position_encoding": table,
        "transformer.self_attn_mask": torch.ones(50, 50, dtype=torch.float64).tril(),
        "transformer.embedding.weight": draw(vocabulary, d, scale=1.0),
    }
    for i in range(blocks):
        at = f"transformer.decoder.blocks.{i}."
        for j in range(heads):
            for letter in "qkv":
                shape = (d // heads, d)
                state[f"{at}self_attn.attn_heads.{j}.W{letter}.weight"] = draw(*shape)
        state[at + "self_attn.Wo.weight"] = draw(d, d)
        state[at + "ffn.ffn.0.weight"] = draw(4 * d, d)
        state[at + "ffn.ffn.2.weight"] = draw(d, 4 * d)
        for norm in ("self_attn_norm", "ffn_norm"):
            state[f"{at}{norm}.weight"] = draw(d) + 1
            state[f"{at}{norm}.bias"] = draw(d)
    state["transformer.linear.weight"] = draw(vocabulary, d)
    return state


def run_grok(state: Tensors, equations: torch.Tensor, heads: int, act: str) -> torch.Tensor:
    """Return logits over the whole vocabulary at the last token of each equation."""
    state = {name.removeprefix("transformer."): value for name, value in state.items()}
    x = state["embedding.weight"][equations]
    length, d = x.shape[1:]
    x = x + state["position_encoding"][:length]
    keep = state["self_attn_mask"][:length, :length] == 1
    i = 0
    while f"decoder.blocks.{i}.ffn_norm.weight" in state:
        own = {
            name.removeprefix(f"decoder.blocks.{i}."): value
            for name, value in state.items()
            if name.startswith(f"decoder.blocks.{i}.")
        }
        results = []
        for j in range(heads):
            q, k, v = (x @ own[f"self_attn.attn_heads.{j}.W{c}.weight"].T for c in "qkv")
            scores = (q @ k.mT / (d // heads) ** 0.5).masked_fill(~keep, -torch.inf)
            results.append(scores.softmax(-1) @ v)
        a = torch.cat(results, -1) @ own["self_attn.Wo.weight"].T
        x = F.layer_norm(x + a, (d,), own["self_attn_norm.weight"], own["self_attn_norm.bias"])
        a = ACTS[act](x @ own["ffn.ffn.0.weight"].T) @ own["ffn.ffn.2.weight"].T
        x = F.layer_norm(x + a, (d,), own["ffn_norm.weight"], own["ffn_norm.bias"])
        i += 1
    return x[:, -1] @ state["linear.weight"].T


def _grok(name: str, operator: str, config: Mapping[str, Any], act: str = "relu") -> Case:
    p = 11
    words = grok_vocabulary(p)
    first = words["0"]

    def run(state: Tensors, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        marks = words["<|eos|>"], words[operator], words["="]
        shown = tokens(marks[0], left + first, marks[1], right + first, marks[2])
        return run_grok(state, shown, 2, act)[:, first : first + p]

    return Case(name, "openai_grok", p, lambda: grok_state(sum(map(ord, name)), p), run, config)


CASES = [
    _recurrent("lstm", nn.LSTM, "LSTM"),
    _recurrent("lstm-two-ways", nn.LSTM, "LSTM", num_layers=2, bidirectional=True),
    _recurrent("lstm-projected", nn.LSTM, "LSTM", num_layers=2, proj_size=3),
    _recurrent(
        "lstm-pairs",
        nn.LSTM,
        "LSTM",
        embedding="embed",
        heads=(("fc1", 9), ("out", 11)),
        vocabulary=11,
        bias=False,
        config={"p": 11},
    ),
    _recurrent("gru", nn.GRU, "GRU", prefix="gru", num_layers=2),
    _recurrent("rnn", nn.RNN, "tanh", prefix="rnn"),
    _recurrent(
        "rnn-relu",
        nn.RNN,
        "relu",
        prefix="rnn",
        nonlinearity="relu",
        config={"nonlinearity": "relu"},
    ),
    _of_class("grokfast", lambda: Grokfast(11, 8, 2, 4), {}),
    _of_class("grokfast-heads", lambda: Grokfast(11, 6, 1, 2), {"num_heads": 2}),
    _of_class("numbered", lambda: Numbered(11, 8, 2, 4), {"num_heads": 4}),
    _of_class("numbered-three", lambda: Numbered(11, 6, 3, 3), {"n_heads": 3}),
    _grok("openai-grok", "+", {"hyper_parameters": {"math_operator": "+"}}),
    _grok("openai-grok-minus", "-", {"math_operator": "-", "non_linearity": "gelu"}, "gelu"),
]
