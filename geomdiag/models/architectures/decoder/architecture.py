"""Decoder-only transformers, whatever their tensors are called.

One implementation with options (normalisation, rotary positions, heads that share keys and
values, gated MLP, parallel residual): what names, shapes and configuration say selects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.canonical import canonical
from geomdiag.models.architectures.decoder.language_model_names import NAMINGS as LANGUAGE_MODELS
from geomdiag.models.architectures.decoder.language_model_names import model_type
from geomdiag.models.architectures.decoder.names import NAMINGS, Naming
from geomdiag.models.architectures.decoder.options import read_options
from geomdiag.models.architectures.decoder.pair_table import pair_logits
from geomdiag.models.architectures.decoder.steps import (
    attention,
    keys,
    mlp,
    project,
    queries,
)
from geomdiag.models.architectures.decoder.weights import Block, TransformerWeights
from geomdiag.models.architectures.embedding_only import EmbeddingNetwork, token_matrices
from geomdiag.models.layout import Sizes, Slot, TokenLayout, plan
from geomdiag.models.recognition import (
    Architecture,
    Fit,
    Match,
    NearMiss,
    fit_convention,
    nearest,
)
from geomdiag.models.settings import Settings
from geomdiag.models.snapshot import Matrix, Network
from geomdiag.models.tensors import product_grid, read_tensors
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE", "DecoderTransformer"]

#: Rows at a time of the pass that computes every position.
CHUNK_ROWS = 1024
#: A table of more positions than this has room beyond the inputs.
TIGHT = 3


class DecoderTransformer(Network):
    """A decoder-only transformer that answers at its last position.

    Parameters
    ----------
    weights : TransformerWeights
        In the one form; the read-out is cut to the task's classes.
    layout : TokenLayout
        How inputs are shown to it.
    roles : mapping of str to str
        Part to tensor name.
    """

    architecture = "decoder_transformer"

    def __init__(
        self, weights: TransformerWeights, layout: TokenLayout, roles: Mapping[str, str]
    ) -> None:
        self.weights = weights
        self.layout = layout
        self.roles = roles
        # without positions a block is blind to order, unless a mask tells the positions apart
        self.swap_invariant = (
            weights.positions is None
            and weights.rotary is None
            and layout.shared
            and layout.slots[-1].operand is None
            and (len(weights.blocks) == 1 or not weights.causal)
        )

    def matrices(self) -> dict[str, Matrix]:
        """Return embedding, unembedding and neuron-to-logit map; see `Network.matrices`."""
        weights, p = self.weights, self.layout.tokens
        found = {}
        for name, offset in zip(
            ("embedding", "embedding_right"), sorted(set(self.layout.offsets)), strict=False
        ):
            found[name] = Matrix(weights.embed[offset : offset + p].numpy())
        found["unembedding"] = Matrix(weights.unembed.T.contiguous().numpy(), rows="classes")
        last = weights.blocks[-1]
        if last.w_out is not None:
            found["neuron_logit"] = Matrix(
                (last.w_out @ weights.unembed).T.contiguous().numpy(),
                rows="classes",
                columns="neurons",
            )
        return found

    def logits(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits over the task's classes; see `Network.logits`.

        In the type the weights are stored in (half precision: float32).
        """
        if inputs.shape[1] == 3:
            return self._logits_by_middle(inputs)
        with torch.no_grad():
            grid = product_grid(inputs)
            ends = self.layout.slots[-1].operand in (None, 1)
            alone = len(self.weights.blocks) == 1 and not self.weights.parallel
            if grid is not None and ends and alone:
                result = pair_logits(self.weights, self.layout, *grid)
            else:
                result = self._table_logits(torch.from_numpy(np.asarray(inputs, dtype=np.int64)))
        values: NDArray[np.float32] = result.numpy()
        return values

    def _logits_by_middle(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute inputs of three symbols as pairs, for each middle symbol that is asked.

        A middle symbol that stays is as fixed as an operator, and what pairs share is shared.
        """
        offsets, slots = self.layout.offsets, self.layout.slots
        outer = {0: Slot(operand=0), 2: Slot(operand=1)}
        unembed = self.weights.unembed
        result: NDArray[Any] = unembed.new_empty(len(inputs), unembed.shape[1]).numpy()
        for symbol in np.unique(inputs[:, 1]):
            fixed = Slot(token=int(symbol) + offsets[1])
            pairs = replace(
                self.layout,
                offsets=(offsets[0], offsets[2]),
                slots=tuple(
                    slot if slot.operand is None else outer.get(slot.operand, fixed)
                    for slot in slots
                ),
            )
            rows = np.flatnonzero(inputs[:, 1] == symbol)
            asked = DecoderTransformer(self.weights, pairs, self.roles)
            result[rows] = asked.logits(inputs[rows][:, [0, 2]])
        return result

    def logits_from_embeddings(self, operands: Sequence[Any]) -> Tensor:
        """Return logits from embedding vectors; see `Network.logits_from_embeddings`."""
        weights = self.weights
        count = len(operands[0])
        stream = []
        for slot in self.layout.slots:
            if slot.operand is not None:
                stream.append(operands[slot.operand].to(weights.embed.dtype))
            else:
                stream.append(weights.embed[slot.token].expand(count, -1))
        x = torch.stack(stream, dim=1)
        if weights.positions is not None:
            x = x + weights.positions[: x.shape[1]]
        for index, block in enumerate(weights.blocks):
            x = self._block(block, x, only_last=index == len(weights.blocks) - 1)
        x = x[:, -1]
        if weights.norm_final is not None:
            x = weights.norm_final(x)
        logits = x @ weights.unembed
        return logits if weights.unembed_bias is None else logits + weights.unembed_bias

    def _table_logits(self, inputs: Tensor) -> Tensor:
        """Compute every position of every input, some rows at a time."""
        rows = inputs + torch.tensor(self.layout.offsets)
        embed = self.weights.embed
        parts = [
            self.logits_from_embeddings([embed[column] for column in part.T])
            for part in torch.split(rows, CHUNK_ROWS)
        ]
        return torch.cat(parts)

    def _block(self, block: Block, x: Tensor, *, only_last: bool) -> Tensor:
        """Run a block on (n, positions, d); `only_last` leaves out the other positions."""
        weights = self.weights
        positions = torch.arange(x.shape[1])
        y = x if block.norm_attention is None else block.norm_attention(x)
        asking = slice(-1, None) if only_last else slice(None)
        q = queries(weights, block, y[:, asking], positions[asking])
        k = keys(weights, block, y, positions)
        v = project(y, block.w_v, block.b_v)
        scores = torch.einsum("nqhe,nkhe->nhqk", q, k)
        if weights.causal and not only_last:
            later = torch.ones(len(positions), len(positions), dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        pattern = attention(scores, -1, weights.coefficient)
        before = x[:, asking]
        x = before + torch.einsum("nhqk,nkhe,hed->nqd", pattern, v, block.w_o)
        if block.b_o is not None:
            x = x + block.b_o
        added = mlp(weights, block, before if weights.parallel else x)
        return x if added is None else x + added


class _Architecture(Architecture):
    name = "decoder_transformer"
    title = (
        "decoder-only transformer (Nanda, TransformerLens, pizza, pre-LN and plain names; GPT-2, "
        "nanoGPT, GPT-NeoX, Llama, Qwen)"
    )

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        misses = []
        for naming in (*NAMINGS, *LANGUAGE_MODELS):
            fit = fit_convention(naming.convention, specs, ignored=_ignored(specs))
            if isinstance(fit, Fit):
                _refuse_unsaid_rotary(specs, settings)
                found = self._matched(naming, fit, settings)
                if isinstance(found, Match):
                    return found
                fit = found
            misses.append(fit)
        return nearest(misses)

    def _matched(self, naming: Naming, fit: Fit, settings: Settings) -> Match | NearMiss:
        nearness, name = len(fit.roles) - 1.0, naming.convention.name
        half = next((i for i in range(fit.blocks or 1) if _half_mlp(fit, i)), None)
        if half is not None:
            return NearMiss(nearness, f"{name}: block {half} has only one layer of its MLP")
        notices: list[str] = []
        if "unembed" not in fit.roles:
            if reason := _untied(naming, settings, notices):
                return NearMiss(nearness, f"{name}: {reason}")
            fit = replace(fit, roles={**fit.roles, "unembed": fit.roles["embed"]})
        try:
            options = read_options(naming, fit, settings, notices)
        except ArchitectureError as error:
            if not naming.model_types:
                raise
            if model_type(settings) is not None:  # a model for transformers itself
                return NearMiss(nearness, f"{name}: {error}", refused=True)
            return self._unrun(naming, fit, settings, str(error))
        if naming.model_types and model_type(settings) is None:
            notices.append(
                f"no configuration says model_type: the tensors have {name} names and are run as "
                "such a model"
            )
        sizes = _sizes(naming, fit)

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> DecoderTransformer:
            layout = plan(task, sizes, settings, [])
            if len(layout.slots) > fit.dims.get("n", len(layout.slots)):
                raise ArchitectureError(
                    f"the inputs of {task.name} fill {len(layout.slots)} positions, and the "
                    f"positional embedding has {fit.dims['n']}. Check the task."
                )
            read = read_tensors(tensors, fit.roles.values())
            parts = {part: read[name] for part, name in fit.roles.items()}
            weights = canonical(naming, fit, parts, options, task.classes)
            return DecoderTransformer(weights, layout, fit.roles)

        return Match(
            architecture=self.name,
            convention=name,
            roles=fit.roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )

    def _unrun(self, naming: Naming, fit: Fit, settings: Settings, reason: str) -> Match:
        """Return the match of a network whose forward pass is not known, for its matrices."""
        sizes = _sizes(naming, fit)
        roles = {part: fit.roles[part] for part in ("embed", "unembed") if part in fit.roles}

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> EmbeddingNetwork:
            layout = plan(task, sizes, settings, [])
            return EmbeddingNetwork(
                self.name,
                roles=roles,
                matrices=token_matrices(tensors, roles, layout, task.classes),
                reason=reason,
            )

        return Match(
            architecture=self.name,
            convention=naming.convention.name,
            roles=roles,
            sizes=sizes,
            build=build,
            notices=(f"the network is not run, only its matrices are read: {reason}",),
        )


def _sizes(naming: Naming, fit: Fit) -> Sizes:
    vocabulary, context = fit.dims["V"], fit.dims.get("n")
    if naming.model_types and context is not None and context > TIGHT:
        context = None  # a table of positions longer than any input says nothing of the inputs
    classes, language = fit.dims.get("C", vocabulary), bool(naming.model_types)
    return Sizes(vocabulary, classes, context, sequence=True, language=language)


def _untied(naming: Naming, settings: Settings, notices: list[str]) -> str:
    """Return why a missing read-out is not the embedding, or an empty string if it is."""
    said = settings.flag("tie_word_embeddings", "tie_embeddings", "tied_embeddings", "tie_weights")
    if said is None:
        said = naming.tied
    if said is None and model_type(settings) is None:
        notices.append("there is no read-out: the embedding is taken for it (tied weights)")
        said = True
    if said:
        return ""
    head = next(role.names[0] for role in naming.convention.roles if role.part == "unembed")
    return (
        f"tensor {head!r} is missing, and the configuration does not say that it is the embedding "
        "(tie_word_embeddings)"
    )


def _refuse_unsaid_rotary(specs: Mapping[str, TensorSpec], settings: Settings) -> None:
    """Raise where TransformerLens' buffers show rotary positions and no configuration does."""
    turned = next((name for name in specs if name.endswith("attn.rotary_sin")), None)
    if turned is not None and "positional_embedding_type" not in settings:
        raise ArchitectureError(
            f"the buffer {turned!r} shows rotary positions, and no configuration says how they "
            "turn: put TransformerLens' configuration (positional_embedding_type, rotary_dim, "
            "rotary_base, rotary_adjacent_pairs) into the run's config.json"
        )


def _half_mlp(fit: Fit, block: int) -> bool:
    return (f"w_in_{block}" in fit.roles) != (f"w_out_{block}" in fit.roles)


def _ignored(specs: Mapping[str, TensorSpec]) -> Callable[[str], bool]:
    """Tell of masks called bias, and of copies of the embedding that group studies store."""
    embed = specs.get("embed.W_E")

    def ignored(name: str) -> bool:
        if name.endswith((".attn.bias", ".attention.bias")):
            return len(specs[name].shape) == 4
        return (
            name in ("x_embed", "y_embed")
            and embed is not None
            and specs[name].shape == embed.shape
        )

    return ignored


ARCHITECTURE = _Architecture()
