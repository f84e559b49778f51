"""Transformers that are run as written: grokfast, numbered ``nn.Sequential``, Flax trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.architectures.sequence import SequenceNetwork
from geomdiag.models.architectures.stack_names import find_heads, fit_stack, stack_of
from geomdiag.models.layout import Sizes, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import read_tensors
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE"]


class _Architecture(Architecture):
    name = "stacked_transformer"
    title = "causal transformer of torch.nn.MultiheadAttention blocks (grokfast, nn.Sequential)"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        found = fit_stack(specs)
        if isinstance(found, NearMiss):
            return found
        naming, fit = found
        notices: list[str] = []
        heads = find_heads(fit.dims["d"], naming.heads, settings, notices)
        # both programs always use GELU, so nothing is assumed where nothing is said
        act = settings.activation(naming.activation, [])
        eps = settings.number("layer_norm_eps", "ln_eps") or 1e-5
        sizes = Sizes(fit.dims["V"], fit.dims["C"], fit.dims["n"], sequence=True)

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> SequenceNetwork:
            layout = plan(task, sizes, settings, [])
            read = read_tensors(tensors, fit.roles.values())
            parts = {part: read[name] for part, name in fit.roles.items()}
            stack = stack_of(
                naming, fit, parts, heads=heads, activation=act, eps=eps, classes=task.classes
            )
            return SequenceNetwork(
                self.name,
                forward=stack,
                tables=(parts["embed"],) * len(layout.slots),
                layout=layout,
                unembed=stack.head.weight,
                roles=fit.roles,
                neuron_logit=stack.neuron_logit(),
            )

        return Match(
            architecture=self.name,
            convention=naming.convention.name,
            roles=fit.roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )


ARCHITECTURE = _Architecture()
