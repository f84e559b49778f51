"""A training recipe as validated dataclasses: what to train, on what, how long."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from geomdiag.errors import GeomdiagError, RecipeError
from geomdiag.tasks import task as make_task
from geomdiag.tasks.contract import Equivalence, Symmetry, Task
from geomdiag.training.values import (
    check_choice,
    check_flag,
    check_idle,
    check_name,
    check_number,
    check_share,
    check_whole,
    wrong,
)

__all__ = [
    "CONSISTENCY",
    "PRIORS",
    "AuxiliaryLoss",
    "Checkpoints",
    "MLPModel",
    "Recipe",
    "Training",
    "TransformerModel",
]

#: Kinds of auxiliary loss that look at the network, not at a symmetry of the task.
PRIORS = ("nuclear", "entropy", "lipschitz")
#: Kind that stands for these symmetries together.
CONSISTENCY = ("commutativity", "associativity")
#: Marks keys that stand in ``run.json`` only when they are set: runs from before they
#: existed are then still runs of the same recipe.
_ONLY_WHEN_SET = {"only_when_set": True}


@dataclass(frozen=True, kw_only=True)
class TransformerModel:
    """Decoder-only transformer without LayerNorm, read out at its last position.

    Attributes
    ----------
    d_model, d_mlp : int
        Widths of the residual stream and of the hidden layer.
    heads : int
        Attention heads; each has ``d_model / heads`` dimensions.
    activation : {"relu", "gelu", "quadratic"}
        Of the hidden layer.
    positional : bool
        Whether each position has a learnt embedding.
    equals_token : bool
        Whether a token ``=`` follows the operands; the answer is read there, otherwise at
        the last operand.
    biases : bool
        Whether the two MLP layers have biases.
    layers : int
        Number of blocks; only 1 can be trained.
    init_scale : float
        Factor on every initial weight (standard deviation ``init_scale / sqrt(fan_in)``).
    embedding_init_scale : float
        Further factor on the initial token embedding.
    output_scale : float
        Factor on the logits. Checkpoints hold the read-out matrix multiplied by it.
    """

    kind: Literal["transformer"] = "transformer"
    d_model: int = 128
    heads: int = 4
    d_mlp: int = 512
    activation: str = "relu"
    positional: bool = True
    equals_token: bool = True
    biases: bool = True
    layers: int = 1
    init_scale: float = 1.0
    embedding_init_scale: float = field(default=1.0, metadata=_ONLY_WHEN_SET)
    output_scale: float = field(default=1.0, metadata=_ONLY_WHEN_SET)

    def __post_init__(self) -> None:
        check_whole("[model] d_model", self.d_model, 1)
        check_whole("[model] d_mlp", self.d_mlp, 1)
        check_whole("[model] heads", self.heads, 1)
        if self.d_model % self.heads:
            raise wrong(
                "[model] heads", self.heads, f"a divisor of d_model, which is {self.d_model}"
            )
        check_choice("[model] activation", self.activation, ("relu", "gelu", "quadratic"))
        for key in ("positional", "equals_token", "biases"):
            check_flag(f"[model] {key}", getattr(self, key))
        check_choice("[model] layers", self.layers, (1,))
        for key in ("init_scale", "embedding_init_scale", "output_scale"):
            check_number(f"[model] {key}", getattr(self, key), 0, edge=False)


@dataclass(frozen=True, kw_only=True)
class MLPModel:
    """Embedding, one hidden layer, read-out.

    Attributes
    ----------
    combine : {"concatenate", "sum"}
        ``concatenate``: each operand has its own embedding table; ``sum``: one table, whose
        rows are added, so that the network is commutative by construction.
    d_embed, d_hidden : int
        Widths of the embedding and of the hidden layer.
    activation : {"relu", "quadratic"}
        Of the hidden layer.
    init_scale : float
        Factor on every initial weight (standard deviation ``init_scale / sqrt(fan_in)``).
    embedding_init_scale : float
        Further factor on the initial token embedding.
    output_scale : float
        Factor on the logits. Checkpoints hold the read-out matrix multiplied by it.
    """

    kind: Literal["mlp"] = "mlp"
    combine: str = "concatenate"
    d_embed: int = 64
    d_hidden: int = 128
    activation: str = "relu"
    init_scale: float = 1.0
    embedding_init_scale: float = field(default=1.0, metadata=_ONLY_WHEN_SET)
    output_scale: float = field(default=1.0, metadata=_ONLY_WHEN_SET)

    def __post_init__(self) -> None:
        check_choice("[model] combine", self.combine, ("concatenate", "sum"))
        check_whole("[model] d_embed", self.d_embed, 1)
        check_whole("[model] d_hidden", self.d_hidden, 1)
        check_choice("[model] activation", self.activation, ("relu", "quadratic"))
        for key in ("init_scale", "embedding_init_scale", "output_scale"):
            check_number(f"[model] {key}", getattr(self, key), 0, edge=False)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Full-batch descent on the cross-entropy of the train inputs.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    lr, betas, weight_decay : float, pair of float, float
        Of AdamW (decoupled decay, applied to every parameter). SGD and Muon have the same
        ``lr`` and ``weight_decay``; SGD's decay is a part of the gradient.
    warmup : int
        The learning rate of step ``t`` (counted from 1) is ``lr · min(1, t / warmup)``.
    train_fraction : float
        Share of all inputs that is trained on, rounded down to whole inputs.
    seeds : tuple of int
        One network each, all trained in one program. In TOML a number ``n`` stands for
        the seeds 0 ... n-1.
    split_seed : int or "seed"
        Seed of the draw of the train inputs; ``"seed"``: each network's own seed.
    optimiser : {"adamw", "sgd", "muon"}
        See `geomdiag.training.optimiser`.
    momentum : float
        Of SGD and Muon.
    grokfast : float
        Factor on the running mean of the gradients that is added to each gradient; 0: off.
    grokfast_decay : float
        Share of that mean that a step keeps.
    label_noise : float
        Share of the train answers, rounded to whole answers, that are replaced by another
        class. Drawn from the seed of the split.
    """

    steps: int
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1.0
    warmup: int = 10
    train_fraction: float = 0.3
    seeds: tuple[int, ...] = (0,)
    split_seed: int | Literal["seed"] = 0
    optimiser: str = field(default="adamw", metadata=_ONLY_WHEN_SET)
    momentum: float = field(default=0.9, metadata=_ONLY_WHEN_SET)
    grokfast: float = field(default=0.0, metadata=_ONLY_WHEN_SET)
    grokfast_decay: float = field(default=0.98, metadata=_ONLY_WHEN_SET)
    label_noise: float = field(default=0.0, metadata=_ONLY_WHEN_SET)

    def __post_init__(self) -> None:
        check_whole("[training] steps", self.steps, 1, 999_999_999)
        check_number("[training] lr", self.lr, 0, edge=False)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise wrong("[training] betas", self.betas, "two numbers")
        for beta in self.betas:
            check_number("[training] betas", beta, 0, 1, edge=True)
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        check_number("[training] weight_decay", self.weight_decay, 0, edge=True)
        check_whole("[training] warmup", self.warmup, 0)
        check_number("[training] train_fraction", self.train_fraction, 0, 1, edge=False)
        seeds: Any = self.seeds
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            check_whole("[training] seeds", seeds, 1, 100_000)
            seeds = range(seeds)
        if not isinstance(seeds, tuple | list | range) or not seeds:
            raise wrong("[training] seeds", seeds, "a whole number or a list of them")
        for seed in seeds:
            check_whole("[training] seeds", seed, 0)
        if len(set(seeds)) < len(seeds):
            raise wrong("[training] seeds", list(seeds), "seeds that all differ")
        object.__setattr__(self, "seeds", tuple(seeds))
        if self.split_seed != "seed":
            if isinstance(self.split_seed, str):
                raise wrong("[training] split_seed", self.split_seed, "a whole number or 'seed'")
            check_whole("[training] split_seed", self.split_seed, 0)
        check_choice("[training] optimiser", self.optimiser, ("adamw", "sgd", "muon"))
        check_number("[training] momentum", self.momentum, 0, 1, edge=True)
        check_number("[training] grokfast", self.grokfast, 0, edge=True)
        check_number("[training] grokfast_decay", self.grokfast_decay, 0, 1, edge=True)
        check_share("[training] label_noise", self.label_noise)
        if self.optimiser == "adamw":
            check_idle(self, "[training] momentum", "optimiser = 'sgd' or 'muon'")
        if self.optimiser == "sgd":
            check_idle(self, "[training] betas", "optimiser = 'adamw' or 'muon'")
        if not self.grokfast:
            check_idle(self, "[training] grokfast_decay", "grokfast > 0")


@dataclass(frozen=True, kw_only=True)
class AuxiliaryLoss:
    """A loss beside the cross-entropy; see `geomdiag.training.auxiliary`.

    Attributes
    ----------
    kind : str
        A geometry prior (`PRIORS`), a symmetry of the task by its name, or
        ``"consistency"``: commutativity and associativity.
    weight : float
        Factor on it.
    tuples : int
        Instances of a symmetry, or inputs of ``lipschitz``, that are drawn each step; 0: all.
    perturbation : float
        Of ``lipschitz``: standard deviation of the perturbations, in units of the root mean
        square of the embedding's entries.
    """

    kind: str
    weight: float = 1.0
    tuples: int = 512
    perturbation: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str):
            raise wrong("[auxiliary] kind", self.kind, "text such as 'nuclear'")
        check_number("[auxiliary] weight", self.weight, 0, edge=False)
        check_whole("[auxiliary] tuples", self.tuples, 0, 1_000_000)
        # float32 rounds smaller ones away: at 1e-6 the ratio of a fresh network is 2.6 times itself
        check_number("[auxiliary] perturbation", self.perturbation, 1e-3, edge=True)
        if self.kind != "lipschitz":
            check_idle(self, "[auxiliary] perturbation", "kind = 'lipschitz'")
        if self.kind in ("nuclear", "entropy"):
            check_idle(self, "[auxiliary] tuples", "kind = 'lipschitz' or a symmetry")

    @property
    def symmetries(self) -> tuple[str, ...]:
        """Names of the task's symmetries that are prompted; none of a prior."""
        if self.kind in PRIORS:
            return ()
        return CONSISTENCY if self.kind == "consistency" else (self.kind,)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Which steps are saved: log-spaced ones and, beside them, where held-out results move.

    Attributes
    ----------
    count : int
        Log-spaced steps, the first (0) and the last included.
    dense : int
        Most further checkpoints a run may keep.
    accuracy_change : float
        A further checkpoint is saved once held-out accuracy moved by this much since the
        last saved one ...
    loss_change : float
        ... or the natural logarithm of the held-out loss by this much. Both double, and the
        further checkpoints are thinned to fit, whenever there are more than `dense`.
    evaluate_every : int
        Steps between two evaluations on the held-out inputs; log-spaced early steps are
        evaluated too.
    """

    count: int = 40
    dense: int = 40
    accuracy_change: float = 0.05
    loss_change: float = 0.25
    evaluate_every: int = 20

    def __post_init__(self) -> None:
        check_whole("[checkpoints] count", self.count, 2)
        check_whole("[checkpoints] dense", self.dense, 0)
        check_number("[checkpoints] accuracy_change", self.accuracy_change, 0, edge=False)
        check_number("[checkpoints] loss_change", self.loss_change, 0, edge=False)
        check_whole("[checkpoints] evaluate_every", self.evaluate_every, 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training needs; equal recipes give equal runs on one CPU.

    Attributes
    ----------
    name : str
        Name of the folder that the runs go into.
    task : str
        Task specification, e.g. ``"modadd:p=113"``.
    model : TransformerModel or MLPModel
        Network.
    training : Training
        Optimiser and data.
    checkpoints : Checkpoints
        Which steps are saved.
    auxiliary : AuxiliaryLoss or None
        A loss beside the cross-entropy.
    device : {"auto", "cpu", "cuda"}
        ``auto``: a GPU when there is one.
    dtype : {"float32", "float64"}
        Of parameters and forward pass; the loss is always taken in float64, checkpoints
        are always stored in float32.
    """

    name: str
    task: str
    training: Training
    model: TransformerModel | MLPModel = field(default_factory=TransformerModel)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    device: str = "auto"
    dtype: str = "float32"
    auxiliary: AuxiliaryLoss | None = field(default=None, metadata=_ONLY_WHEN_SET)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.task, str):
            raise wrong("task", self.task, "text such as 'modadd:p=113'")
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        check_choice("dtype", self.dtype, ("float32", "float64"))
        if self.checkpoints.count > self.training.steps + 1:
            raise wrong(
                "[checkpoints] count",
                self.checkpoints.count,
                f"at most [training] steps + 1 = {self.training.steps + 1}",
            )

    def build_task(self) -> Task:
        """Return the task, after checking that the recipe can be trained on it.

        Raises
        ------
        RecipeError
            If the task is unknown or too small for the split.
        """
        try:
            task = make_task(self.task)
        except GeomdiagError as error:
            raise RecipeError(f"task: found {self.task!r}: {error}") from error
        total, arity = task.inputs.shape
        if int(self.training.train_fraction * total) < 1:
            raise wrong(
                "[training] train_fraction",
                self.training.train_fraction,
                f"a share that gives at least one of the {total} inputs of {task.name}",
            )
        noise, trained = self.training.label_noise, int(self.training.train_fraction * total)
        if noise and not round(noise * trained):
            raise wrong(
                "[training] label_noise",
                noise,
                f"0, or a share that gives at least one of the {trained} train inputs",
            )
        if self.model.kind == "mlp" and arity != 2:
            raise wrong("[model] kind", "mlp", f"'transformer': {task.name} has {arity} operands")
        if self.auxiliary is not None:
            symmetries = tuple(symmetry.name for symmetry in task.symmetries)
            kinds = (*PRIORS, *symmetries)
            if set(CONSISTENCY) <= set(symmetries):
                kinds += ("consistency",)
            if self.auxiliary.kind not in kinds:
                raise wrong(
                    "[auxiliary] kind",
                    self.auxiliary.kind,
                    f"what {task.name} has, one of " + ", ".join(repr(kind) for kind in kinds),
                )
            if isinstance(self.model, MLPModel) and self.model.combine == "sum":
                for symmetry in task.symmetries:
                    if symmetry.name == self.auxiliary.kind and _by_construction(symmetry):
                        raise RecipeError(
                            f"[auxiliary] kind: found {symmetry.name!r}, which a network with "
                            "combine = 'sum' has by construction: its violation is always 0; use "
                            "combine = 'concatenate' or a transformer"
                        )
        return task

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain nested values, ready for JSON.

        Keys of interventions that are not used are left out.
        """
        plain = _plain(self)
        plain["training"]["betas"] = list(self.training.betas)
        plain["training"]["seeds"] = list(self.training.seeds)
        return plain


def _by_construction(symmetry: Symmetry) -> bool:
    """Tell whether networks that add their operands' embeddings cannot break a symmetry."""
    return isinstance(symmetry, Equivalence) and symmetry.swaps_operands


def _plain(section: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain values, without the keys that were not set."""
    result: dict[str, Any] = {}
    for entry in dataclasses.fields(section):
        value = getattr(section, entry.name)
        if "only_when_set" in entry.metadata and value == entry.default:
            continue
        result[entry.name] = _plain(value) if dataclasses.is_dataclass(value) else value
    return result
