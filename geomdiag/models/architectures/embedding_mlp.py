"""MLPs on token embeddings, summed or concatenated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.chain import find_chain
from geomdiag.models.architectures.layered import Layer, LayeredPlan, layered_match
from geomdiag.models.architectures.stacks.flax_stack import flax_activation
from geomdiag.models.layout import Sizes, TokenLayout
from geomdiag.models.recognition import (
    Architecture,
    Convention,
    Fit,
    Match,
    NearMiss,
    Role,
    fit_convention,
    nearest,
)
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import restrict
from geomdiag.models.traceless import refuse_factors

__all__ = ["ARCHITECTURE"]

Combine = Literal["sum", "mean", "concatenate", "both"]

PAIR = Convention(
    "group-composition MLP",
    (
        Role("embedding", ("W_x",), "V d"),
        Role("embedding_right", ("W_y",), "V d"),
        Role("weight_0", ("W",), "2*d m"),
        Role("weight_1", ("W_U",), "m C"),
    ),
)
COLUMNS = Convention(
    "embed.W_E + mlp.W_in",
    (
        Role("embedding", ("embed.W_E",), "d V"),
        Role("weight_0", ("mlp.W_in",), "m d"),
        Role("bias_0", ("mlp.b_in",), "m", required=False),
        Role("weight_1", ("mlp.W_out",), "C m"),
        Role("bias_1", ("mlp.b_out",), "C", required=False),
    ),
)
_LINEAR = (
    Role("weight_0", ("l1.weight",), "m d1"),
    Role("bias_0", ("l1.bias",), "m", required=False),
    Role("weight_1", ("l2.weight",), "m2 m", required=False),
    Role("bias_1", ("l2.bias",), "m2", required=False),
    Role("unembedding", ("unembed.weight",), "C r"),
)
LINEAR = Convention("clock-pizza linear", (Role("embedding", ("embed.weight",), "V d"), *_LINEAR))
LINEAR_TWO = Convention(
    "clock-pizza linear, two embeddings",
    (
        Role("embedding", ("embed1.weight",), "V d"),
        Role("embedding_right", ("embed2.weight",), "V d"),
        *_LINEAR,
    ),
)

#: Types of the clock-pizza study's linear models (``model_type`` in their configuration):
#: how the operands meet in the first layer, and how many layers there are.
PIZZA_TYPES: Mapping[str, tuple[Combine, int]] = {
    "A": ("sum", 1),
    "B": ("sum", 2),
    "C": ("both", 2),  # l1(a) + l1(b): the bias counts twice
    "D": ("concatenate", 1),
    "X": ("sum", 1),
}


#: What configurations call it.
_WORDS: Mapping[str, Combine] = {
    **dict.fromkeys(("sum", "add"), "sum"),
    **dict.fromkeys(("mean", "avg", "average"), "mean"),
    **dict.fromkeys(("concatenate", "concat", "cat"), "concatenate"),
}
#: Ways that are said and not run.
_OTHER_WAYS = ("product", "prod", "mul", "multiply", "hadamard", "difference", "diff", "max")


@dataclass(frozen=True)
class _Form:
    """Layers by part name, and how the operands meet."""

    layers: int
    combine: Combine
    #: Whether stored matrices are (in, out) rather than (out, in).
    forward: bool = False
    #: Whether the embedding is stored as (d, vocabulary).
    columns: bool = False

    def plan(
        self, parts: Mapping[str, Tensor], layout: TokenLayout, classes: int, activation: str
    ) -> LayeredPlan:
        """Bring the parts into the one form."""
        p = layout.tokens
        stored = [parts["embedding"]]
        if "embedding_right" in parts:
            stored.append(parts["embedding_right"])
        stored = [table.T if self.columns else table for table in stored]
        offsets = layout.offsets if len(stored) == 1 else (0,) * len(layout.offsets)
        rows: dict[tuple[int, int], Tensor] = {}
        tables = []
        for operand, offset in enumerate(offsets):
            key = (min(operand, len(stored) - 1), offset)
            if key not in rows:
                rows[key] = stored[key[0]][offset : offset + p].contiguous()
            tables.append(rows[key])
        layers = [self._layer(parts, index) for index in range(self.layers + 1)]
        first, last = layers[0], layers[-1]
        layers[-1] = Layer(
            restrict(last.weight, 1, classes),
            None if last.bias is None else restrict(last.bias, 0, classes),
        )
        bias = first.bias
        if self.combine == "concatenate":
            shares = tuple(part.contiguous() for part in first.weight.chunk(len(tables)))
        else:
            shares = (first.weight,) * len(tables)
            if self.combine == "both" and bias is not None:
                bias = bias * len(tables)
            if self.combine == "mean":
                shares = (first.weight / len(tables),) * len(tables)
        return LayeredPlan(
            tables=tuple(tables),
            first=shares,
            bias=bias,
            layers=tuple(layers[1:]),
            activation=activation,
        )

    def _layer(self, parts: Mapping[str, Tensor], index: int) -> Layer:
        weight = parts[f"weight_{index}"]
        weight = weight if self.forward else weight.T.contiguous()
        return Layer(weight, parts.get(f"bias_{index}"))


class _Architecture(Architecture):
    name = "embedding_mlp"
    title = "MLP on token embeddings, summed or concatenated"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        misses = []
        for convention, form in (
            (PAIR, _Form(1, "concatenate", forward=True)),
            (COLUMNS, _Form(1, "sum", columns=True)),
        ):
            fit = fit_convention(convention, specs)
            if isinstance(fit, Fit):
                sizes = Sizes(fit.dims["V"], fit.dims["C"])
                return self._matched(convention.name, fit.roles, sizes, form, settings, [])
            misses.append(fit)
        for convention in (LINEAR, LINEAR_TWO):
            fit = fit_convention(convention, specs)
            if isinstance(fit, Fit):
                found = self._pizza(convention, fit, settings)
                if isinstance(found, Match):
                    return found
                fit = found
            misses.append(fit)
        generic = self._generic(specs, settings)
        return generic if isinstance(generic, Match) else nearest([*misses, generic])

    def _pizza(self, convention: Convention, fit: Fit, settings: Settings) -> Match | NearMiss:
        layers = 2 if "weight_1" in fit.roles else 1
        width, into = fit.dims["d"], fit.dims["d1"]
        last = fit.dims["m2"] if layers == 2 else fit.dims["m"]
        if fit.dims["r"] != last:
            return NearMiss(
                len(fit.roles) - 1,
                f"{convention.name}: tensor 'unembed.weight' should have {last} columns and has "
                f"{fit.dims['r']}",
            )
        if into not in (width, 2 * width):
            return NearMiss(
                len(fit.roles) - 1,
                f"{convention.name}: tensor 'l1.weight' should have {width} columns (summed "
                f"embeddings) or {2 * width} (concatenated) and has {into}",
            )
        combine: Combine = "sum" if into == width else "concatenate"
        notices: list[str] = []
        said = settings.get("model_type")
        if said is not None:
            kind = PIZZA_TYPES.get(str(said))
            if kind is None:
                raise ArchitectureError(
                    f"the configuration says model_type = {said!r}; known are "
                    f"{', '.join(PIZZA_TYPES)}. Give the model yourself with --model "
                    "package.module:factory."
                )
            joined = "sum" if kind[0] == "both" else kind[0]
            if (joined, kind[1]) != (combine, layers):
                raise ArchitectureError(
                    f"the configuration says model_type = {said!r}, which has {kind[1]} layers on "
                    f"embeddings joined by {joined}; the tensors show {layers} on {combine}. "
                    "Check that the configuration belongs to the checkpoint."
                )
            combine = kind[0]
            settings = Settings({"act_fn": settings.get("act_fn") or "relu"})  # as their code
        elif layers == 2 and combine == "sum" and "bias_0" in fit.roles:
            notices.append(
                "no configuration says model_type: the embeddings are taken to be summed before "
                "the first layer (type B), not after it (type C)"
            )
        parts = dict(fit.roles)
        parts[f"weight_{layers}"] = parts.pop("unembedding")
        sizes = Sizes(fit.dims["V"], fit.dims["C"])
        form = _Form(layers, combine)
        return self._matched(convention.name, parts, sizes, form, settings, notices)

    def _generic(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        chain = find_chain(specs, embedded=True, settings=settings)
        if isinstance(chain, NearMiss):
            return chain
        vocabulary, width = specs[chain.embeddings[0]].shape
        if any(specs[name].shape != (vocabulary, width) for name in chain.embeddings):
            return NearMiss(1, "embedding and linear layers: the two embeddings differ in shape")
        into = chain.inputs
        if into not in (width, 2 * width) or len(chain.weights) < 2:
            return NearMiss(
                0.5 * len(chain.weights),
                f"embedding and linear layers: tensor {chain.weights[0]!r} should have {width} "
                f"{chain.dialect.input_axis} (summed embeddings) or {2 * width} (concatenated) "
                f"and has {into}"
                if into not in (width, 2 * width)
                else "embedding and linear layers: only one linear layer",
            )
        combine: Combine = "sum" if into == width else "concatenate"
        said = settings.word("combine", "pool", "pooling", "merge")
        known = _WORDS.get(said or "", combine if said is None else None)
        if combine == "sum" and known == "mean":
            combine = "mean"
        if known not in (combine, None) or said in _OTHER_WAYS:
            ways = "sum or mean" if into == width else "concatenate"
            raise ArchitectureError(
                f"the configuration says that the operands meet by {said!r}; with a first layer of "
                f"{into} inputs on embeddings {width} wide they are known to meet by {ways}. Give "
                "the model yourself with --model package.module:factory."
            )
        notices = [
            f"names follow no known convention: read as an embedding, {combine} of the operands, "
            f"then linear layers {', '.join(chain.weights)} with an activation between",
        ]
        if len(chain.embeddings) == 2:
            left, right = chain.embeddings
            notices.append(f"{left!r} is taken for the left operand's table, {right!r} the right's")
        sizes = Sizes(vocabulary, chain.classes)
        form = _Form(len(chain.weights) - 1, combine, forward=chain.dialect.forward)
        name = f"{chain.dialect.name} layers"
        return self._matched(
            name, chain.roles(), sizes, form, settings, notices, flax=chain.dialect.name == "Flax"
        )

    def _matched(
        self,
        convention: str,
        roles: Mapping[str, str],
        sizes: Sizes,
        form: _Form,
        settings: Settings,
        notices: list[str],
        *,
        flax: bool = False,
    ) -> Match:
        refuse_factors(settings)
        named = flax_activation if flax else Settings.activation
        activation = named(settings, "relu", notices)

        def make(parts: Mapping[str, Tensor], layout: TokenLayout, classes: int) -> LayeredPlan:
            return form.plan(parts, layout, classes, activation)

        return layered_match(
            architecture=self.name,
            convention=convention,
            roles=roles,
            sizes=sizes,
            settings=settings,
            notices=notices,
            make=make,
        )


ARCHITECTURE = _Architecture()
