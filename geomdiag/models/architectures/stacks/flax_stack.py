"""From a Flax tree to the transformer that is run, with what only the configuration can say."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError
from geomdiag.models.architectures.decoder.weights import Block, Norm
from geomdiag.models.architectures.layered import Layer
from geomdiag.models.architectures.stacks.flax_tree import FlaxTree, plain_names, read_tree
from geomdiag.models.architectures.stacks.residual import Placement, Pool, ResidualStack
from geomdiag.models.recognition import NearMiss
from geomdiag.models.settings import POOL_SETTINGS, Settings
from geomdiag.models.tensors import restrict

__all__ = ["FlaxStack", "fit_flax"]

#: ``epsilon`` of flax.linen.LayerNorm and flax.nnx.LayerNorm.
_EPSILON = 1e-6
_EPSILON_SETTINGS = (
    *("layer_norm_eps", "ln_eps", "layer_norm_epsilon"),
    *("rms_norm_eps", "norm_eps"),
)
_POOLS: Mapping[str, Pool] = {
    "last": "last",
    "first": "first",
    "mean": "mean",
    "avg": "mean",
    "average": "mean",
    "flatten": "flatten",
    "concat": "flatten",
}


class FlaxStack:
    """A transformer in a Flax tree.

    Parameters
    ----------
    tree : FlaxTree
        Its parts.
    stored : mapping of str to str
        Plain to stored name.
    settings : Settings
        The run's configuration.

    Raises
    ------
    ArchitectureError
        If the configuration asks for something unknown.
    """

    def __init__(self, tree: FlaxTree, stored: Mapping[str, str], settings: Settings) -> None:
        self.tree = tree
        self.roles = {part: stored[name] for part, name in tree.roles.items()}
        self.notices = list(tree.notices)
        self.context = tree.positions
        self.pool = self._pool(settings)
        self.causal = self._causal(settings)
        self.placement = self._placement(settings)
        self.activation = "identity"
        if "kernel_in_0" in tree.roles:
            self.activation = flax_activation(settings, "relu", self.notices)
        self.eps = settings.number(*_EPSILON_SETTINGS) or _EPSILON
        self._norm = settings.word("normalization_type", "norm_type") or ""
        scales = [part for part in tree.roles if part.startswith("scale_")]
        if not self._norm and any(
            part.replace("scale", "bias") not in tree.roles for part in scales
        ):
            self.notices.append(
                "normalisations with a scale and no bias are taken for RMSNorm, not LayerNorm "
                "('normalization_type' = RMS or LN)"
            )

    def _pool(self, settings: Settings) -> Pool:
        tree = self.tree
        if tree.into != tree.width:
            positions = tree.into // tree.width
            if tree.positions is not None and positions > tree.positions:
                raise ArchitectureError(
                    f"the read-out takes {positions} positions of {tree.width} features, and the "
                    f"table of positions has {tree.positions} rows. Give the model yourself with "
                    "--model package.module:factory."
                )
            self.context = positions
            return "flatten"
        said = settings.word(*POOL_SETTINGS)
        if said is None:
            self.notices.append(
                "the answer is read at the last position, as no configuration says otherwise "
                "('pool' = last, mean or first)"
            )
            return "last"
        if _POOLS.get(said, "flatten") == "flatten":
            raise ArchitectureError(
                f"the configuration says pool = {said!r}; known for a read-out {tree.into} wide "
                "are last, mean and first. Give the model yourself with --model "
                "package.module:factory."
            )
        return _POOLS[said]

    def _causal(self, settings: Settings) -> bool:
        said = settings.causal()
        if said is not None:
            return said
        default = self.pool == "last"
        if self.tree.blocks > 1 or not default:
            self.notices.append(
                f"the attention is taken to be {'causal' if default else 'without a mask'}, as no "
                "configuration says ('causal')"
            )
        return default

    def _placement(self, settings: Settings) -> Placement:
        if not any(part.startswith("scale_attention") for part in self.tree.roles):
            return "pre"
        said = settings.pre_norm()
        if said is not None:
            return "pre" if said else "post"
        pre = "scale_final" in self.tree.roles
        self.notices.append(
            f"the normalisations are taken to stand {'before' if pre else 'after'} attention and "
            f"MLP, as {'there is' if pre else 'there is not'} one after the blocks and no "
            "configuration says ('norm_first')"
        )
        return "pre" if pre else "post"

    def stack(self, parts: Mapping[str, Tensor], classes: int) -> ResidualStack:
        """Return the transformer, its read-out cut to `classes`."""
        head = parts["kernel_head"] if "kernel_head" in parts else parts["embed"].T
        bias = parts.get("bias_head")
        positions = parts.get("positions")
        return ResidualStack(
            blocks=tuple(self._block(parts, i) for i in range(self.tree.blocks)),
            head=Layer(
                restrict(head, 1, classes), None if bias is None else restrict(bias, 0, classes)
            ),
            placement=self.placement,
            causal=self.causal,
            pool=self.pool,
            positions=None if positions is None else positions.reshape(-1, self.tree.width),
            norm_final=self._normalised(parts, "final"),
            activation=self.activation,
        )

    def _normalised(self, parts: Mapping[str, Tensor], part: str) -> Norm | None:
        gain, offset = parts.get(f"scale_{part}"), parts.get(f"bias_{part}")
        if gain is None:
            return None
        # a gain without an offset is RMSNorm unless said otherwise
        centered = offset is not None or self._norm.startswith(("ln", "layer"))
        return Norm(centered=centered, eps=self.eps, gain=gain, offset=offset)

    def _block(self, parts: Mapping[str, Tensor], i: int) -> Block:
        w_q, w_k, w_v = (
            parts[f"kernel_{letter}_{i}"].transpose(0, 1).contiguous() for letter in "qkv"
        )
        b_q, b_k, b_v, b_o = (parts.get(f"bias_{letter}_{i}") for letter in "qkvo")
        return Block(
            w_q=w_q,
            w_k=w_k,
            w_v=w_v,
            w_o=parts[f"kernel_o_{i}"],
            b_q=b_q,
            b_k=b_k,
            b_v=b_v,
            b_o=b_o,
            w_in=parts.get(f"kernel_in_{i}"),
            b_in=parts.get(f"bias_in_{i}"),
            w_out=parts.get(f"kernel_out_{i}"),
            b_out=parts.get(f"bias_out_{i}"),
            norm_attention=self._normalised(parts, f"attention_{i}"),
            norm_mlp=self._normalised(parts, f"mlp_{i}"),
        )


def flax_activation(settings: Settings, default: str, notices: list[str]) -> str:
    """Return the activation a Flax program means: its ``gelu`` is the tanh approximation.

    Parameters are those of `Settings.activation`.
    """
    found = settings.activation(default, notices)
    return "gelu_tanh" if found == "gelu" else found


def fit_flax(specs: Mapping[str, TensorSpec], settings: Settings) -> FlaxStack | NearMiss:
    """Read a checkpoint's tensors as a Flax transformer.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors.
    settings : Settings
        The run's configuration.

    Returns
    -------
    FlaxStack or NearMiss

    Raises
    ------
    ArchitectureError
        If they are one, and the configuration asks for something unknown.
    """
    stored = plain_names(specs)
    tree = read_tree({name: tuple(specs[stored[name]].shape) for name in stored})
    return tree if isinstance(tree, NearMiss) else FlaxStack(tree, stored, settings)
