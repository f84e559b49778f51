"""Checkpoints as networks: recognised from names and shapes, run on a task's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomdiag.checkpoints.beside.splits import Split
from geomdiag.checkpoints.series import Checkpoint, TensorSpec
from geomdiag.errors import ArchitectureError, TaskError
from geomdiag.models.factory import CallableNetwork, load_factory
from geomdiag.models.layout import Sizes, fitting_specifications, fitting_tokens, plan
from geomdiag.models.recognition import Architecture, Match, NearMiss, nearest, shared_prefixes
from geomdiag.models.settings import Settings
from geomdiag.models.snapshot import EMBEDDING_ONLY, Matrix, Network, Snapshot
from geomdiag.registry import Registry

if TYPE_CHECKING:
    from geomdiag.models.selection import Selection
    from geomdiag.tasks.contract import Task

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Match",
    "Matrix",
    "Network",
    "Snapshot",
    "full_config",
    "infer_task",
    "load_factory",
    "recognise",
    "snapshot",
]

_HERE = "geomdiag.models.architectures."
ARCHITECTURES = Registry(
    "architecture",
    "geomdiag.architectures",
    {
        "decoder_transformer": _HERE + "decoder.architecture:ARCHITECTURE",
        # before those that would guess at what a Keras model's own description says
        "keras_graph": _HERE + "keras.graph:ARCHITECTURE",
        "embedding_mlp": _HERE + "embedding_mlp:ARCHITECTURE",
        "huggingface": _HERE + "huggingface:ARCHITECTURE",
        "onehot_mlp": _HERE + "onehot_mlp:ARCHITECTURE",
        "openai_grok": _HERE + "openai_grok:ARCHITECTURE",
        "recurrent": _HERE + "recurrent:ARCHITECTURE",
        "stacked_transformer": _HERE + "stacks.architecture:ARCHITECTURE",
    },
)


def recognise(
    specs: Mapping[str, TensorSpec],
    config: Mapping[str, Any] | None = None,
    task: Task | None = None,
) -> Match:
    """Return which network the tensors are, before any value is read.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        Shapes of a checkpoint's tensors.
    config : mapping, optional
        The run's configuration: activation, number of heads, attention coefficient, ...
    task : Task, optional
        When given, vocabulary and classes are checked against it.

    Returns
    -------
    Match

    Raises
    ------
    ArchitectureError
        If nothing fits (the message says which tensor was expected and which found), or the
        sizes do not fit the task (the message says which p would).
    """
    settings = Settings(config)
    misses: list[NearMiss] = []
    seen = {
        cut: {name[len(cut) :]: spec for name, spec in specs.items()}
        for cut in shared_prefixes(specs)
    }
    for last_resort, cut, architecture in product((False, True), seen, ARCHITECTURES.values()):
        if architecture.last_resort is not last_resort:
            continue
        found = architecture.match(seen[cut], settings)
        if isinstance(found, NearMiss):
            misses.append(found)
            continue
        match = _prefixed(found, cut)
        if task is not None:
            notices = list(match.notices)
            plan(task, match.sizes, settings, notices)
            match = replace(match, notices=tuple(notices))
        return match
    raise _unknown(specs, misses)


def _prefixed(match: Match, prefix: str) -> Match:
    """Return the match of tensors whose names all began with `prefix`."""
    if not prefix:
        return match

    def build(tensors: Mapping[str, NDArray[Any]], task: Task) -> Network:
        network = match.build(_Stripped(tensors, prefix), task)
        network.roles = roles
        return network

    roles = {part: prefix + name for part, name in match.roles.items()}
    return replace(match, roles=roles, build=build)


class _Stripped(Mapping[str, Any]):
    """Lazy view of tensors under their names without a prefix."""

    def __init__(self, tensors: Mapping[str, Any], prefix: str) -> None:
        self._tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Any:
        return self._tensors[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name[len(self.prefix) :] for name in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _unknown(specs: Mapping[str, TensorSpec], misses: list[NearMiss]) -> ArchitectureError:
    shown = ", ".join(f"{name} {tuple(spec.shape)}" for name, spec in list(specs.items())[:6])
    further = f" and {len(specs) - 6} more" if len(specs) > 6 else ""
    best = nearest(misses)
    near = f" The nearest is {best.message}." if best.score > 0 else ""
    own = "ive the model yourself with --model package.module:factory"
    if "logits" in specs:  # a dump with arrays of its own says so, or is taken for weights
        advice = (
            "The file has 'logits'; if it is a dump, mark it geomdiag='dump' "
            f"(docs/dump-format.md). G{own} if it is not."
        )
    else:
        advice = (
            "Name its embedding with --map embedding=TENSOR (geomdiag inspect lists what may be "
            f"it), g{own}, or store dumps (logits, embedding) instead of weights."
        )
    return ArchitectureError(
        f"no known architecture fits the tensors ({shown or 'none'}{further}).{near} Known: "
        f"{', '.join(ARCHITECTURES)}. {advice}"
    )


def full_config(checkpoint: Checkpoint, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the run's configuration, completed by what the checkpoint itself carries."""
    return {**checkpoint.metadata, **(config or {})}


def infer_task(
    spec: str | Task,
    checkpoint: Checkpoint,
    config: Mapping[str, Any] | None = None,
    *,
    tokens: int | None = None,
) -> Task:
    """Return the task that `spec` names, with what it leaves unsaid read off a checkpoint.

    Parameters
    ----------
    spec : str or Task
        E.g. ``"modadd"`` (p from the vocabulary) or ``"modadd:p=113"``.
    checkpoint : Checkpoint
        Any of the run.
    config : mapping, optional
        The run's configuration.
    tokens : int, optional
        How many tokens were chosen of a larger vocabulary; this then counts, not its size.

    Returns
    -------
    Task

    Raises
    ------
    TaskError
        If the task lacks a parameter that the checkpoint cannot tell; the message names
        specifications that its sizes would fit.
    """
    from geomdiag import tasks
    from geomdiag.tasks.families import NO_CHECKPOINT

    if not isinstance(spec, str):
        return spec
    try:
        return tasks.task(spec)
    except TaskError as error:
        unsaid = error
    if tokens is not None:
        return tasks.task_for(spec, candidates=(tokens,))
    specs = checkpoint.tensors.specs()
    merged = full_config(checkpoint, config)
    family = spec.partition(":")[0].strip()
    sizes: Sizes | None = None
    if checkpoint.kind == "dump":
        from geomdiag.models.dumps import dump_sizes, fitting_dump

        shapes = {name: found.shape for name, found in specs.items()}
        tokens = dump_sizes(shapes)
        candidates: tuple[int, ...] = () if tokens is None else (tokens,)
        reason = "its shapes do not tell"
    else:
        settings, reason = Settings(merged), "its shapes do not tell"
        try:
            sizes = recognise(specs, merged).sizes
            candidates = fitting_tokens(sizes, settings)
        except ArchitectureError as error:
            said = settings.integer("p", "prime", "modulus")
            candidates = () if said is None else (said,)
            reason = str(error)
    size = getattr(tasks.TASKS[family], "size_parameter", "") if family in tasks.TASKS else ""
    if not candidates or not size:
        if checkpoint.kind == "dump":
            fits = fitting_dump(shapes, family)[:3]
        else:
            fits = () if sizes is None else fitting_specifications(sizes, family)[:3]
        told = f"would fit {' or '.join(fits)}." if fits else f"cannot tell it: {reason}"
        untold = str(unsaid).replace(NO_CHECKPOINT, " and the checkpoint does not tell it")
        raise TaskError(f"{untold} {checkpoint.path.name} {told}") from unsaid
    return tasks.task_for(spec, candidates=candidates)


def snapshot(
    checkpoint: Checkpoint,
    task: Task,
    *,
    train: NDArray[np.bool_] | Split | None = None,
    model: str | Callable[[Mapping[str, Any]], Callable[[Any], Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    selection: Selection | None = None,
) -> Snapshot:
    """Return a checkpoint as an answer to a task.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights or a dump.
    task : Task
        What was to be learnt.
    train : (n,) bool array or Split, optional
        Which inputs were trained on.
    model : str or callable, optional
        The user's own model; see `load_factory`.
    config : mapping, optional
        The run's configuration.
    selection : Selection, optional
        Matrices taken by name, instead of those that the network shows; see
        `geomdiag.models.mapping.select`.

    Returns
    -------
    Snapshot
        Logits are computed when first asked for.

    Raises
    ------
    ArchitectureError
        If the tensors are of no known network, do not fit the task or are not finite.
    CheckpointError
        If the file cannot be read.
    SplitError
        If `train` does not fit the task.
    """
    if isinstance(train, Split):
        train = train.mask(task.inputs)
    chosen, roles = None, None
    if selection is not None:
        chosen, roles = selection.matrices(checkpoint.tensors, task), selection.roles
    if selection is not None and selection.only:
        return Snapshot(
            task,
            matrices=chosen,
            train=train,
            step=checkpoint.step,
            metadata=checkpoint.metadata,
            reasons={"logits": selection.reason, "differentiable": selection.reason},
            origin=EMBEDDING_ONLY,
            roles=roles,
        )
    if checkpoint.kind == "dump":
        if model is not None:
            raise ArchitectureError(
                f"{checkpoint.path.name} is a dump of computed parts; a model needs weights. Leave "
                "--model out."
            )
        from geomdiag.models.dumps import read_dump

        matrices, logits, stored = read_dump(checkpoint.tensors, task)
        return Snapshot(
            task,
            matrices={**matrices, **(chosen or {})},
            roles=roles,
            logits=logits,
            train=stored if train is None else train,
            step=checkpoint.step,
            metadata=checkpoint.metadata,
            reasons={
                "logits": "the dump has no logits",
                "differentiable": "a dump holds no network to differentiate",
            },
        )
    if model is not None:
        factory = load_factory(model) if isinstance(model, str) else model
        return Snapshot(
            task,
            CallableNetwork(factory, checkpoint.tensors, task),
            matrices=chosen,
            roles=roles,
            train=train,
            step=checkpoint.step,
            metadata=checkpoint.metadata,
            reasons={
                "differentiable": "the user's own model is not run from embedding vectors",
                "embedding": "the user's own model shows no embedding (it may carry 'matrices')",
                "matrices": "the user's own model shows no matrices",
            },
        )
    try:
        match = recognise(checkpoint.tensors.specs(), full_config(checkpoint, config), task)
    except ArchitectureError:
        if checkpoint.program is None:
            raise
        return _run_program(checkpoint, task, train, chosen, roles)
    return Snapshot(
        task,
        match.build(checkpoint.tensors, task),
        matrices=chosen,
        roles=roles,
        train=train,
        step=checkpoint.step,
        metadata=checkpoint.metadata,
        notices=match.notices,
    )


def _run_program(
    checkpoint: Checkpoint,
    task: Task,
    train: NDArray[np.bool_] | None,
    matrices: Mapping[str, Matrix] | None,
    roles: Mapping[str, str] | None,
) -> Snapshot:
    """Return a checkpoint that no architecture fits, run as its own file defines it."""
    from geomdiag.models.programs import ProgramNetwork

    network = ProgramNetwork(checkpoint, task)
    missing = (
        "the file's own program is run, and which of its tensors is the embedding is unknown "
        "(--map embedding=TENSOR says it)"
    )
    return Snapshot(
        task,
        network,
        matrices=matrices,
        roles=roles,
        train=train,
        step=checkpoint.step,
        metadata=checkpoint.metadata,
        reasons={
            "differentiable": "the file's own program is not run from embedding vectors",
            "embedding": missing,
            "matrices": missing,
        },
        notices=network.notices,
    )
