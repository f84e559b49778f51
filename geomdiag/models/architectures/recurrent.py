"""LSTM, GRU and plain recurrent networks as ``torch.nn`` stores them, answered at the end."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.chain import TORCH, Chain, find_chain, sorted_by_name
from geomdiag.models.architectures.sequence import SequenceNetwork
from geomdiag.models.layout import Sizes, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss
from geomdiag.models.settings import POOL_SETTINGS, Settings
from geomdiag.models.tensors import activation, read_tensors, restrict
from geomdiag.models.traceless import refuse_factors
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE"]

_FIRST = re.compile(r"(^|\.)weight_ih_l0$")
_PART = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d+)(_reverse)?")
#: Gates stored one above the other, and the module that has them.
KINDS: Mapping[int, Literal["LSTM", "GRU", "RNN"]] = {4: "LSTM", 3: "GRU", 1: "RNN"}


@dataclass(frozen=True)
class _Shape:
    """What the tensors of a recurrent module say about it."""

    prefix: str
    kind: Literal["LSTM", "GRU", "RNN"]
    width: int
    hidden: int
    layers: int
    both: bool
    projected: int
    biased: bool

    @property
    def output(self) -> int:
        """Features at each position."""
        return (self.projected or self.hidden) * (2 if self.both else 1)

    def module(self, nonlinearity: str) -> nn.Module:
        """Return a module of this shape without storage; its weights are given when it runs."""
        options: dict[str, Any] = {
            "num_layers": self.layers,
            "bidirectional": self.both,
            "bias": self.biased,
            "batch_first": True,
            "device": "meta",
        }
        if self.kind == "LSTM":
            return nn.LSTM(self.width, self.hidden, proj_size=self.projected, **options)
        if self.kind == "GRU":
            return nn.GRU(self.width, self.hidden, **options)
        return nn.RNN(self.width, self.hidden, nonlinearity=nonlinearity, **options)


def _recurrent(specs: Mapping[str, TensorSpec]) -> _Shape | NearMiss:
    """Read the shape of the one recurrent module among the tensors."""
    firsts = [name for name in specs if _FIRST.search(name)]
    if len(firsts) != 1:
        found = ", ".join(map(repr, firsts)) or "none"
        return NearMiss(
            min(1, len(firsts)), f"recurrent network: one '...weight_ih_l0' expected, found {found}"
        )
    prefix = firsts[0][: -len("weight_ih_l0")]
    own = {name[len(prefix) :]: specs[name].shape for name in specs if name.startswith(prefix)}
    own = {name: shape for name, shape in own.items() if _PART.fullmatch(name)}
    into, recurrent = own["weight_ih_l0"], own.get("weight_hh_l0", ())
    projection = own.get("weight_hr_l0", ())
    hidden = (projection or recurrent or (0,))[-1]
    shaped = len(into) == 2 and len(recurrent) == 2 and len(projection) in (0, 2)
    if not shaped or not hidden or recurrent[0] % hidden:
        return NearMiss(
            1,
            f"recurrent network: {firsts[0]!r} has shape {tuple(into)} and 'weight_hh_l0' beside "
            f"it {tuple(recurrent)}; (gates * hidden, inputs) and (gates * hidden, hidden) are due",
        )
    gates = recurrent[0] // hidden
    if gates not in KINDS:
        return NearMiss(
            1, f"recurrent network: {gates} gates found; 4 (LSTM), 3 (GRU) or 1 expected"
        )
    layers = 1 + max(int(found[2]) for found in map(_PART.fullmatch, own) if found)
    if layers > len(own):
        return NearMiss(1, f"recurrent network: layer {layers - 1} is there, earlier ones are not")
    shape = _Shape(
        prefix=prefix,
        kind=KINDS[gates],
        width=into[1],
        hidden=hidden,
        layers=layers,
        both="weight_ih_l0_reverse" in own,
        projected=projection[0] if projection else 0,
        biased="bias_ih_l0" in own,
    )
    if shape.projected and (shape.kind != "LSTM" or shape.projected >= hidden):
        return NearMiss(1, f"recurrent network: 'weight_hr_l0' {projection} fits no {shape.kind}")
    wanted = {name: tuple(one.shape) for name, one in shape.module("tanh").named_parameters()}
    for name in sorted(wanted.keys() | own.keys()):
        if wanted.get(name) != own.get(name):
            return NearMiss(
                len(own) / 2,
                f"{shape.kind} of {layers} layers: tensor {prefix + name!r} should have shape "
                f"{wanted.get(name, 'none (it has no place)')} and has {own.get(name, 'none')}",
            )
    return shape


class _Architecture(Architecture):
    """The state at the last position, or the mean, goes through the linear layers that follow."""

    name = "recurrent"
    title = "LSTM, GRU or plain recurrent network (torch.nn), read at the last position"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        shape = _recurrent(specs)
        if isinstance(shape, NearMiss):
            return shape
        rest = {
            name: spec
            for name, spec in specs.items()
            if not (name.startswith(shape.prefix) and _PART.fullmatch(name[len(shape.prefix) :]))
        }
        chain = find_chain(rest, embedded=True, settings=settings)
        if isinstance(chain, NearMiss):
            return NearMiss(2 + chain.score, f"{shape.kind} between {chain.message}")
        if chain.dialect != TORCH:
            return NearMiss(
                2, f"{shape.kind}: beside torch.nn's names those of {chain.dialect.name}"
            )
        width = specs[chain.embeddings[0]].shape[1]
        into = chain.inputs
        if len(chain.embeddings) != 1 or width != shape.width:
            return NearMiss(
                3,
                f"{shape.kind}: one embedding {shape.width} wide expected, found "
                + " and ".join(f"{name!r} {tuple(specs[name].shape)}" for name in chain.embeddings),
            )
        if into != shape.output:
            return NearMiss(
                3,
                f"{shape.kind}: tensor {chain.weights[0]!r} should have {shape.output} columns "
                f"({'both directions of ' if shape.both else ''}the state at one position) and "
                f"has {into}",
            )
        notices: list[str] = []
        # a square layer fits before the recurrent module as well as after it
        if len(chain.weights) > 1 and chain.shapes[0] == (shape.width, width):
            stored, first = list(specs), chain.weights[0]
            told = not sorted_by_name(stored)
            if told and stored.index(first) < stored.index(shape.prefix + "weight_ih_l0"):
                return NearMiss(
                    3, f"{shape.kind}: tensor {first!r} stands between the embedding and it"
                )
            if not told:
                notices.append(
                    f"the layer {first!r} is taken to come after the {shape.kind}, not before"
                )
        return self._matched(specs, settings, shape, chain, notices)

    def _matched(
        self,
        specs: Mapping[str, TensorSpec],
        settings: Settings,
        shape: _Shape,
        chain: Chain,
        notices: list[str],
    ) -> Match:
        refuse_factors(settings)
        pool = settings.word(*POOL_SETTINGS)
        if pool not in (None, "last", "mean"):
            raise ArchitectureError(
                f"the configuration says pool = {pool!r}; known for a {shape.kind} are last and "
                "mean. Give the model yourself with --model package.module:factory."
            )
        if pool is None:
            notices.append(
                "the answer is read at the last position, as no configuration says otherwise "
                "('pool' = last or mean)"
            )
        if shape.both and pool != "mean":
            notices.append(
                f"the {shape.kind} reads both ways: the last position's output is taken, in which "
                "the backward half has seen one token only"
            )
        nonlinearity = "tanh"
        if shape.kind == "RNN":
            said = settings.word("nonlinearity", "rnn_nonlinearity")
            if said is None:
                notices.append(
                    "the nonlinearity of the RNN is not in the weights and no configuration names "
                    "it: tanh is assumed (say it as 'nonlinearity' in the run's config.json)"
                )
            nonlinearity = said or "tanh"
            if nonlinearity not in ("tanh", "relu"):
                raise ArchitectureError(
                    f"the configuration says nonlinearity = {nonlinearity!r}; torch.nn.RNN has "
                    "tanh and relu. Give the model yourself with --model package.module:factory."
                )
        act = settings.activation("relu", notices) if len(chain.weights) > 1 else "identity"
        parts = {
            name[len(shape.prefix) :]: name
            for name in specs
            if name.startswith(shape.prefix) and _PART.fullmatch(name[len(shape.prefix) :])
        }
        roles = {**chain.roles(), **parts}
        # the last operand's state can answer as it is: an "=" is no matter of course
        sizes = Sizes(specs[chain.embeddings[0]].shape[0], chain.classes, sequence=True, bare=True)

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> SequenceNetwork:
            layout = plan(task, sizes, settings, [])
            read = read_tensors(tensors, roles.values())
            weights = {part: read[name] for part, name in parts.items()}
            module = shape.module(nonlinearity)
            linear = [
                (read[name], None if bias is None else read[bias])
                for name, bias in zip(chain.weights, chain.biases, strict=True)
            ]
            last, offset = linear[-1]
            linear[-1] = (
                restrict(last, 0, task.classes),
                None if offset is None else restrict(offset, 0, task.classes),
            )
            act_ = activation(act)

            def forward(vectors: Sequence[Tensor]) -> Tensor:
                stream = torch.stack(list(vectors), dim=1)
                with warnings.catch_warnings():
                    # torch says of a projected LSTM that it has no fast kernel
                    warnings.filterwarnings("ignore", message="LSTM with projections")
                    states, _ = torch.func.functional_call(module, weights, (stream,))
                x: Tensor = states.mean(1) if pool == "mean" else states[:, -1]
                for index, (weight, bias) in enumerate(linear):
                    x = nn.functional.linear(act_(x) if index else x, weight, bias)
                return x

            table = read[chain.embeddings[0]]
            return SequenceNetwork(
                self.name,
                forward=forward,
                tables=(table,) * len(layout.slots),
                layout=layout,
                unembed=linear[-1][0].T,
                roles=roles,
                neurons=(pool != "mean" and not shape.projected) or len(linear) > 1,
            )

        return Match(
            architecture=self.name,
            convention=f"torch.nn.{shape.kind}",
            roles=roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )


ARCHITECTURE = _Architecture()
