"""Transformers that are run as written: grokfast, numbered ``nn.Sequential``, Flax trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.architectures.sequence import SequenceNetwork
from geomdiag.models.architectures.stacks.flax_stack import fit_flax
from geomdiag.models.architectures.stacks.names import (
    find_heads,
    find_placement,
    fit_stack,
    stack_of,
)
from geomdiag.models.architectures.stacks.residual import ResidualStack
from geomdiag.models.layout import Sizes, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss, nearest
from geomdiag.models.settings import Settings
from geomdiag.models.tensors import read_tensors
from geomdiag.models.traceless import refuse_factors, refuse_positions
from geomdiag.tasks.contract import Task

__all__ = ["ARCHITECTURE"]


class _Architecture(Architecture):
    name = "stacked_transformer"
    title = "transformer blocks in any arrangement (grokfast, numbered nn.Sequential, Flax trees)"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        torch_names = self._torch(specs, settings)
        if isinstance(torch_names, Match):
            return torch_names
        found = fit_flax(specs, settings)
        if isinstance(found, NearMiss):
            return nearest([torch_names, found])
        tree = found.tree
        sizes = Sizes(tree.vocabulary, tree.classes, found.context, sequence=True)
        return self._matched("Flax", found.roles, sizes, settings, found.notices, found.stack)

    def _torch(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        found = fit_stack(specs)
        if isinstance(found, NearMiss):
            return found
        naming, fit = found
        notices: list[str] = []
        heads = find_heads(fit.dims["d"], naming.heads, settings, notices)
        placement = find_placement(naming, settings, notices)
        # both programs always use GELU, so nothing is assumed where nothing is said
        act = settings.activation(naming.activation, [])
        eps = settings.number("layer_norm_eps", "ln_eps") or 1e-5
        sizes = Sizes(fit.dims["V"], fit.dims["C"], fit.dims["n"], sequence=True)

        def stack(parts: Mapping[str, Tensor], classes: int) -> ResidualStack:
            return stack_of(
                fit,
                parts,
                heads=heads,
                placement=placement,
                activation=act,
                eps=eps,
                classes=classes,
            )

        name = naming.convention.name
        return self._matched(name, fit.roles, sizes, settings, notices, stack)

    def _matched(
        self,
        convention: str,
        roles: Mapping[str, str],
        sizes: Sizes,
        settings: Settings,
        notices: list[str],
        stack: Callable[[Mapping[str, Tensor], int], ResidualStack],
    ) -> Match:
        refuse_factors(settings)
        refuse_positions(settings, notices, table=roles.get("positions", ""))

        def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> SequenceNetwork:
            layout = plan(task, sizes, settings, [])
            read = read_tensors(tensors, roles.values())
            parts = {part: read[name] for part, name in roles.items()}
            run = stack(parts, task.classes)
            return SequenceNetwork(
                self.name,
                forward=run,
                tables=(parts["embed"],) * len(layout.slots),
                layout=layout,
                unembed=run.head.weight,
                roles=roles,
                neuron_logit=run.neuron_logit(),
                swap_invariant=run.blind_to_order(layout),
            )

        return Match(
            architecture=self.name,
            convention=convention,
            roles=roles,
            sizes=sizes,
            build=build,
            notices=tuple(notices),
        )


ARCHITECTURE = _Architecture()
