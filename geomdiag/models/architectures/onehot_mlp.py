"""MLPs on one-hot operands: the first layer's columns are the tokens' vectors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.models.architectures.chain import TORCH, Dialect, find_chain
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

__all__ = ["ARCHITECTURE"]

COLUMNS = Convention(
    "mlp.W_in on one-hot inputs",
    (
        Role("weight_0", ("mlp.W_in",), "m V"),
        Role("bias_0", ("mlp.b_in",), "m", required=False),
        Role("weight_1", ("mlp.W_out",), "C m"),
        Role("bias_1", ("mlp.b_out",), "C", required=False),
    ),
)


class _Architecture(Architecture):
    """Two one-hot operands, concatenated (2p columns) or added (p columns).

    Gromov's network (arXiv 2301.02679) divides by powers of its sizes between the layers; a
    quadratic network's logits are only multiplied by that. The factor is not in the weights
    and divergences depend on it, so it is taken as 1 unless the configuration says
    ``logit_scale``.
    """

    name = "onehot_mlp"
    title = "MLP on one-hot operands (Gromov's quadratic network; summed one-hots)"

    def match(self, specs: Mapping[str, TensorSpec], settings: Settings) -> Match | NearMiss:
        fit = fit_convention(COLUMNS, specs)
        if isinstance(fit, Fit):
            sizes = Sizes(fit.dims["V"], fit.dims["C"])
            roles = dict(fit.roles)
            return self._matched(COLUMNS.name, roles, sizes, 2, "relu", settings, [])
        chain = find_chain(specs, embedded=False, settings=settings)
        if isinstance(chain, NearMiss):
            return nearest([fit, chain])
        columns, classes = chain.inputs, chain.classes
        # p, p+1 or p+2 classes for 2p columns are concatenated operands
        concatenated = columns % 2 == 0 and 0 <= classes - columns // 2 <= 2
        if not concatenated and not 0 <= classes - columns <= 2:
            return NearMiss(
                0.5 * len(chain.weights),
                f"linear layers on one-hot inputs: tensor {chain.weights[0]!r} has {columns} "
                f"{chain.dialect.input_axis}; for the {classes} classes of {chain.weights[-1]!r} "
                f"it should have {2 * classes} (concatenated) or {classes} (added)",
            )
        vocabulary = columns // 2 if concatenated else columns
        plain = not any(chain.biases)
        default = "quadratic" if plain and len(chain.weights) == 2 else "relu"
        return self._matched(
            f"{chain.dialect.name} layers on one-hot inputs",
            chain.roles(),
            Sizes(vocabulary, classes),
            len(chain.weights),
            default,
            settings,
            [],
            chain.dialect,
        )

    def _matched(
        self,
        convention: str,
        roles: Mapping[str, str],
        sizes: Sizes,
        layers: int,
        default: str,
        settings: Settings,
        notices: list[str],
        dialect: Dialect = TORCH,
    ) -> Match:
        named = flax_activation if dialect.name == "Flax" else Settings.activation
        activation = named(settings, default, notices)
        scale = settings.number("logit_scale")
        if activation == "quadratic" and scale is None:
            notices.append(
                "quadratic networks are often written with factors that are not in the weights "
                "and multiply the logits: 1 is assumed (say it as 'logit_scale' in the run's "
                "config.json); losses and divergences depend on it, accuracy does not"
            )

        def backward(weight: Tensor) -> Tensor:
            return weight.T if dialect.forward else weight

        def make(parts: Mapping[str, Tensor], layout: TokenLayout, classes: int) -> LayeredPlan:
            stored = backward(parts["weight_0"])
            p, vocabulary = layout.tokens, sizes.vocabulary
            offsets = layout.offsets if stored.shape[1] == vocabulary else (0, vocabulary)
            distinct = {offset: stored[:, offset : offset + p].T.contiguous() for offset in offsets}
            tables = [distinct[offset] for offset in offsets]
            linear = [
                Layer(backward(parts[f"weight_{index}"]).T.contiguous(), parts.get(f"bias_{index}"))
                for index in range(1, layers)
            ]
            last = linear[-1]
            linear[-1] = Layer(
                restrict(last.weight, 1, classes),
                None if last.bias is None else restrict(last.bias, 0, classes),
            )
            return LayeredPlan(
                tables=tuple(tables),
                bias=parts.get("bias_0"),
                layers=tuple(linear),
                activation=activation,
                scale=1.0 if scale is None else scale,
            )

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
