"""Checkpoints of the first grokking study, whose vocabulary holds every task at once.

Power et al. 2022 (arXiv 2201.02177), https://github.com/openai/grok: a post-LN transformer
with one module a head and a fixed sinusoidal table. Its tokens, in the order of
``ArithmeticTokenizer.get_tokens`` in ``grok/data.py``: ``<|eos|>``, ``=``, the operators as
Python sorts them, the numbers 0 ... 96, the permutations of five things in lexicographic order.
An equation is ``<|eos|> a op b = c <|eos|>``, and c is predicted at ``=``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.weights import Block, Norm
from geomdiag.models.architectures.layered import Layer
from geomdiag.models.architectures.sequence import SequenceNetwork
from geomdiag.models.architectures.stacks.residual import ResidualStack
from geomdiag.models.layout import Sizes, Slot, plan
from geomdiag.models.recognition import (
    Architecture,
    Convention,
    Fit,
    Match,
    NearMiss,
    Role,
    fit_convention,
)
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import read_tensors
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE", "OPERATORS"]

#: The operators in the order of their tokens; the first is token 2.
OPERATORS = tuple(
    sorted(
        [
            *("+", "-", "*", "/", "**2+", "**3+", "+*", "+-", "s5", "s5conj", "s5aba"),
            *("x**2+y**2_mod_97", "x**2+y**2+x*y_mod_97", "x**2+y**2+x*y+x_mod_97"),
            *("x**3+x*y_mod_97", "x**3+x*y**2+y_mod_97"),
            "(x._value//y)if(y._value%2==1)else(x-y)_mod_97",
            *("sort", "reverse", "copy"),
        ]
    )
)
_EOS, _EQUALS, _FIRST_OPERATOR = 0, 1, 2
_FIRST_NUMBER = _FIRST_OPERATOR + len(OPERATORS)
_PERMUTATIONS = math.factorial(5)
#: Operators of one list, not of two operands.
_LISTS = ("sort", "reverse", "copy")


def _convention(heads: int) -> Convention:
    attention = "decoder.blocks.{i}.self_attn."
    return Convention(
        "openai/grok",
        (
            Role("embed", ("embedding.weight",), "V d"),
            Role("positions", ("position_encoding",), "n d"),
            Role("w_head", ("linear.weight",), "V d"),
        ),
        (
            *(
                Role(
                    f"w_{letter}_{{i}}_{head}",
                    (f"{attention}attn_heads.{head}.W{letter}.weight",),
                    "e d",
                )
                for letter in "qkv"
                for head in range(heads)
            ),
            Role("w_o_{i}", (attention + "Wo.weight",), f"d {heads}*e"),
            Role("norm_attention_gain_{i}", ("decoder.blocks.{i}.self_attn_norm.weight",), "d"),
            Role("norm_attention_offset_{i}", ("decoder.blocks.{i}.self_attn_norm.bias",), "d"),
            Role("w_in_{i}", ("decoder.blocks.{i}.ffn.ffn.0.weight",), "m d"),
            Role("w_out_{i}", ("decoder.blocks.{i}.ffn.ffn.2.weight",), "d m"),
            Role("norm_mlp_gain_{i}", ("decoder.blocks.{i}.ffn_norm.weight",), "d"),
            Role("norm_mlp_offset_{i}", ("decoder.blocks.{i}.ffn_norm.bias",), "d"),
        ),
    )


class _Architecture(Architecture):
    """Tokens are the rows of the numbers, or of the permutations for ``s5...`` operators.

    Their ``s5`` maps (a, b) to b∘a, as `geomdiag.tasks.group` writes a·b; permutations are
    found by their images, so that either numbering of the task's will do.
    """

    name = "openai_grok"
    title = "post-LN transformer of openai/grok, one vocabulary for all its tasks"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        first = "decoder.blocks.0.self_attn.attn_heads."
        heads = sum(name.startswith(first) and name.endswith(".Wq.weight") for name in specs)
        convention = _convention(heads or 1)
        fit = fit_convention(convention, specs, ignored=lambda name: name == "self_attn_mask")
        if isinstance(fit, NearMiss):
            return fit
        vocabulary, context = fit.dims["V"], fit.dims["n"]
        numbers = vocabulary - _FIRST_NUMBER - _PERMUTATIONS
        if numbers < 2 or context < 5:
            return NearMiss(
                len(fit.roles) - 1.0,
                f"{convention.name}: tensor 'embedding.weight' has {vocabulary} rows and "
                f"'position_encoding' {context}; more than {_FIRST_NUMBER + _PERMUTATIONS} (two "
                f"marks, {len(OPERATORS)} operators, the numbers, {_PERMUTATIONS} permutations) "
                "and at least 5 are expected",
            )
        return self._matched(fit, heads, numbers, settings)

    def _matched(self, fit: Fit, heads: int, numbers: int, settings: Settings) -> Match:
        notices: list[str] = []
        operator = settings.get("math_operator")
        if operator is None:
            operator = "+"
            notices.append(
                "no configuration says math_operator, the operator between the operands: '+' is "
                "assumed (say it in the run's config.json)"
            )
        if operator not in OPERATORS or operator in _LISTS:
            known = ", ".join(one for one in OPERATORS if one not in _LISTS)
            raise ArchitectureError(
                f"the configuration says math_operator = {operator!r}; known with two operands "
                f"are {known}. Give the model yourself with --model package.module:factory."
            )
        permuted = str(operator).startswith("s5")
        first = _FIRST_NUMBER + (numbers if permuted else 0)
        tokens = _PERMUTATIONS if permuted else numbers
        said = settings.get("non_linearity")
        act = Settings({"act_fn": "relu" if said is None else said}).activation("relu", [])
        sizes = Sizes(tokens, tokens, 2, sequence=True)  # as far as the task can see

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> SequenceNetwork:
            shown = plan(task, sizes, settings, [])
            read = read_tensors(tensors, fit.roles.values())
            parts = {part: read[name] for part, name in fit.roles.items()}
            rows = first + _order(task)
            operation = _FIRST_OPERATOR + OPERATORS.index(operator)
            # the task's tokens first, as everywhere else, then what stands between them
            table = torch.cat([parts["embed"][rows], parts["embed"][[_EOS, operation, _EQUALS]]])
            eos, between, equals = (Slot(token=len(rows) + k) for k in range(3))
            layout = replace(shown, slots=(eos, Slot(operand=0), between, Slot(operand=1), equals))
            head = parts["w_head"][rows[: task.classes]].T.contiguous()
            stack = _stack(parts, fit.blocks, heads, act, Layer(head))
            return SequenceNetwork(
                self.name,
                forward=stack,
                tables=(table,) * len(layout.slots),
                layout=layout,
                unembed=head,
                roles=fit.roles,
                neuron_logit=stack.neuron_logit(),
            )

        return Match(
            architecture=self.name,
            convention="openai/grok",
            roles=fit.roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )


def _order(task: Task) -> torch.Tensor:
    """Return the place of each of the task's tokens among the numbers or permutations."""
    permutations = getattr(getattr(task, "group", None), "permutations", None)
    if permutations is None or permutations.shape != (_PERMUTATIONS, 5):
        return torch.arange(task.tokens)
    places = {one: i for i, one in enumerate(itertools.permutations(range(5)))}
    return torch.tensor([places[tuple(one)] for one in permutations.tolist()])


def _stack(
    parts: Mapping[str, torch.Tensor], blocks: int, heads: int, act: str, head: Layer
) -> ResidualStack:
    def norm(part: str, i: int) -> Norm:
        return Norm(gain=parts[f"norm_{part}_gain_{i}"], offset=parts[f"norm_{part}_offset_{i}"])

    def block(i: int) -> Block:
        w_q, w_k, w_v = (
            torch.stack([parts[f"w_{letter}_{i}_{one}"].T for one in range(heads)])
            for letter in "qkv"
        )
        output = parts[f"w_o_{i}"].T
        return Block(
            w_q=w_q,
            w_k=w_k,
            w_v=w_v,
            w_o=output.reshape(heads, -1, output.shape[1]).contiguous(),
            w_in=parts[f"w_in_{i}"].T.contiguous(),
            w_out=parts[f"w_out_{i}"].T.contiguous(),
            norm_attention=norm("attention", i),
            norm_mlp=norm("mlp", i),
        )

    return ResidualStack(
        blocks=tuple(block(i) for i in range(blocks)),
        head=head,
        placement="post",
        causal=True,
        positions=parts["positions"],
        activation=act,
    )


ARCHITECTURE = _Architecture()
