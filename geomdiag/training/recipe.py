"""A training recipe: what to train, on what, how long; TOML in, validated dataclasses out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from geomdiag.errors import GeomdiagError, RecipeError
from geomdiag.tasks import task as make_task
from geomdiag.tasks.contract import Equivalence, Symmetry, Task

__all__ = [
    "CONSISTENCY",
    "PRIORS",
    "AuxiliaryLoss",
    "Checkpoints",
    "MLPModel",
    "Recipe",
    "Training",
    "TransformerModel",
    "load_recipe",
    "parse_recipe",
]

_T = TypeVar("_T")

#: Kinds of auxiliary loss that look at the network, not at a symmetry of the task.
PRIORS = ("nuclear", "entropy", "lipschitz")
#: Kind that stands for these symmetries together.
CONSISTENCY = ("commutativity", "associativity")
#: Marks keys that stand in ``run.json`` only when they are set: runs from before they
#: existed are then still runs of the same recipe.
_ONLY_WHEN_SET = {"only_when_set": True}


def _wrong(key: str, found: object, expected: str) -> RecipeError:
    return RecipeError(f"{key}: found {found!r}, expected {expected}")


def _whole(key: str, value: object, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limits = f">= {least}" if most == math.inf else f"from {least} to {most}"
        raise _wrong(key, value, f"a whole number {limits}")


def _number(key: str, value: object, low: float, high: float = math.inf, *, edge: bool) -> None:
    """Check ``low < value < high``; with `edge` the value may also equal `low`."""
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low <= value if edge else low < value)
        and value < high
    )
    if not fits:
        limits = f"{'>=' if edge else '>'} {low:g}"
        if high != math.inf:
            limits += f" and < {high:g}"
        raise _wrong(key, value, f"a number {limits}")


def _share(key: str, value: object) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not fits:
        raise _wrong(key, value, "a number from 0 to 1")


def _choice(key: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, bool):
        raise _wrong(key, value, "one of " + ", ".join(repr(choice) for choice in allowed))


def _idle(section: Any, key: str, needs: str) -> None:
    """Refuse a key of `section` that was set where it would change nothing."""
    table, _, name = key.rpartition(" ")
    found = getattr(section, name)
    if found != {entry.name: entry.default for entry in dataclasses.fields(section)}[name]:
        raise RecipeError(
            f"{table} {name}: found {found!r}, which has an effect only with {needs}; leave it out"
        )


def _flag(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")


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
        _whole("[model] d_model", self.d_model, 1)
        _whole("[model] d_mlp", self.d_mlp, 1)
        _whole("[model] heads", self.heads, 1)
        if self.d_model % self.heads:
            raise _wrong(
                "[model] heads", self.heads, f"a divisor of d_model, which is {self.d_model}"
            )
        _choice("[model] activation", self.activation, ("relu", "gelu", "quadratic"))
        for key in ("positional", "equals_token", "biases"):
            _flag(f"[model] {key}", getattr(self, key))
        _choice("[model] layers", self.layers, (1,))
        for key in ("init_scale", "embedding_init_scale", "output_scale"):
            _number(f"[model] {key}", getattr(self, key), 0, edge=False)


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
        _choice("[model] combine", self.combine, ("concatenate", "sum"))
        _whole("[model] d_embed", self.d_embed, 1)
        _whole("[model] d_hidden", self.d_hidden, 1)
        _choice("[model] activation", self.activation, ("relu", "quadratic"))
        for key in ("init_scale", "embedding_init_scale", "output_scale"):
            _number(f"[model] {key}", getattr(self, key), 0, edge=False)


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
        _whole("[training] steps", self.steps, 1, 999_999_999)
        _number("[training] lr", self.lr, 0, edge=False)
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise _wrong("[training] betas", self.betas, "two numbers")
        for beta in self.betas:
            _number("[training] betas", beta, 0, 1, edge=True)
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        _number("[training] weight_decay", self.weight_decay, 0, edge=True)
        _whole("[training] warmup", self.warmup, 0)
        _number("[training] train_fraction", self.train_fraction, 0, 1, edge=False)
        seeds: Any = self.seeds
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            _whole("[training] seeds", seeds, 1, 100_000)
            seeds = range(seeds)
        if not isinstance(seeds, tuple | list | range) or not seeds:
            raise _wrong("[training] seeds", seeds, "a whole number or a list of them")
        for seed in seeds:
            _whole("[training] seeds", seed, 0)
        if len(set(seeds)) < len(seeds):
            raise _wrong("[training] seeds", list(seeds), "seeds that all differ")
        object.__setattr__(self, "seeds", tuple(seeds))
        if self.split_seed != "seed":
            if isinstance(self.split_seed, str):
                raise _wrong("[training] split_seed", self.split_seed, "a whole number or 'seed'")
            _whole("[training] split_seed", self.split_seed, 0)
        _choice("[training] optimiser", self.optimiser, ("adamw", "sgd", "muon"))
        _number("[training] momentum", self.momentum, 0, 1, edge=True)
        _number("[training] grokfast", self.grokfast, 0, edge=True)
        _number("[training] grokfast_decay", self.grokfast_decay, 0, 1, edge=True)
        _share("[training] label_noise", self.label_noise)
        if self.optimiser == "adamw":
            _idle(self, "[training] momentum", "optimiser = 'sgd' or 'muon'")
        if self.optimiser == "sgd":
            _idle(self, "[training] betas", "optimiser = 'adamw' or 'muon'")
        if not self.grokfast:
            _idle(self, "[training] grokfast_decay", "grokfast > 0")


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
            raise _wrong("[auxiliary] kind", self.kind, "text such as 'nuclear'")
        _number("[auxiliary] weight", self.weight, 0, edge=False)
        _whole("[auxiliary] tuples", self.tuples, 0, 1_000_000)
        # float32 rounds smaller ones away: at 1e-6 the ratio of a fresh network is 2.6 times itself
        _number("[auxiliary] perturbation", self.perturbation, 1e-3, edge=True)
        if self.kind != "lipschitz":
            _idle(self, "[auxiliary] perturbation", "kind = 'lipschitz'")
        if self.kind in ("nuclear", "entropy"):
            _idle(self, "[auxiliary] tuples", "kind = 'lipschitz' or a symmetry")


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
        _whole("[checkpoints] count", self.count, 2)
        _whole("[checkpoints] dense", self.dense, 0)
        _number("[checkpoints] accuracy_change", self.accuracy_change, 0, edge=False)
        _number("[checkpoints] loss_change", self.loss_change, 0, edge=False)
        _whole("[checkpoints] evaluate_every", self.evaluate_every, 1)


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
            raise _wrong("task", self.task, "text such as 'modadd:p=113'")
        _choice("device", self.device, ("auto", "cpu", "cuda"))
        _choice("dtype", self.dtype, ("float32", "float64"))
        if self.checkpoints.count > self.training.steps + 1:
            raise _wrong(
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
            raise _wrong(
                "[training] train_fraction",
                self.training.train_fraction,
                f"a share that gives at least one of the {total} inputs of {task.name}",
            )
        noise, trained = self.training.label_noise, int(self.training.train_fraction * total)
        if noise and not round(noise * trained):
            raise _wrong(
                "[training] label_noise",
                noise,
                f"0, or a share that gives at least one of the {trained} train inputs",
            )
        if self.model.kind == "mlp" and arity != 2:
            raise _wrong("[model] kind", "mlp", f"'transformer': {task.name} has {arity} operands")
        if self.auxiliary is not None:
            symmetries = tuple(symmetry.name for symmetry in task.symmetries)
            kinds = (*PRIORS, *symmetries)
            if set(CONSISTENCY) <= set(symmetries):
                kinds += ("consistency",)
            if self.auxiliary.kind not in kinds:
                raise _wrong(
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


def _section(cls: type[_T], key: str, values: object) -> _T:
    """Make `cls` from a TOML table, refusing keys it does not have."""
    if not isinstance(values, dict):
        raise _wrong(key, values, "a table")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    required = [
        entry.name
        for entry in fields
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    check_keys(key, values, [entry.name for entry in fields], required=required)
    return cls(**values)


def check_name(name: object) -> None:
    """Refuse what cannot name a folder."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
        raise _wrong("name", name, "letters, digits and _ . + - (it names a folder)")


def check_keys(
    key: str, values: dict[str, Any], allowed: Sequence[str], *, required: Sequence[str] = ()
) -> None:
    """Refuse a table with an unknown or a missing key; the message suggests the nearest one."""
    prefix = f"{key} " if key else ""
    for name in values:
        if name not in allowed:
            close = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RecipeError(
                f"{prefix}{name}: unknown key{hint}; allowed here: {', '.join(sorted(allowed))}"
            )
    for name in required:
        if name not in values:
            raise RecipeError(f"{prefix}{name}: missing; the recipe must say it")


_MODELS: dict[str, type[TransformerModel | MLPModel]] = {
    "transformer": TransformerModel,
    "mlp": MLPModel,
}


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Make a recipe from nested plain values, as a TOML file or `Recipe.to_dict` gives them.

    Parameters
    ----------
    values : dict
        Keys ``name``, ``task``, ``device``, ``dtype`` and the tables ``model``, ``training``,
        ``checkpoints``, ``auxiliary``.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        For an unknown or missing key, a wrong type or an impossible size; the message names
        the key, what was found and what is allowed.
    """
    values = dict(values)
    if "training" not in values:
        raise RecipeError("[training]: missing; the recipe must say at least [training] steps")
    values["training"] = _section(Training, "[training]", values["training"])
    if "checkpoints" in values:
        values["checkpoints"] = _section(Checkpoints, "[checkpoints]", values["checkpoints"])
    if "auxiliary" in values:
        values["auxiliary"] = _section(AuxiliaryLoss, "[auxiliary]", values["auxiliary"])
    if "model" in values:
        model = values["model"]
        kind = model.get("kind", "transformer") if isinstance(model, dict) else "transformer"
        _choice("[model] kind", kind, tuple(_MODELS))
        values["model"] = _section(_MODELS[kind], "[model]", model)
    recipe = _section(Recipe, "", values)
    recipe.build_task()
    return recipe


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Parameters
    ----------
    path : str or Path
        File.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        If the file cannot be read, is not TOML, or is not a recipe (see `parse_recipe`).
    """
    path = Path(path)
    values = read_toml(path)
    if "sweep" in values:
        raise RecipeError(
            f"{path} is a sweep, which stands for many recipes; read it with load_recipes"
        )
    try:
        return parse_recipe(values)
    except RecipeError as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read the plain values of a recipe or a sweep."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} is not TOML: {error}") from error
