"""Which tensors play which parts: what a map says, what their names and shapes tell."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from geomdiag.checkpoints.series import TensorSpec
from geomdiag.errors import ArchitectureError, OptionsError
from geomdiag.models.dumps import DUMP_MATRICES, EXTRA
from geomdiag.models.embedding_names import known_axis, named
from geomdiag.models.selection import Part, Selection, entries
from geomdiag.models.tokens import Tokens

if TYPE_CHECKING:
    from geomdiag.tasks.contract import Task

__all__ = ["parse_map", "select", "suggest"]

#: Where the tokens of a mapped matrix lie, as its key may say: ``embedding.columns``.
_AXES = {"rows": 0, "columns": 1}


def parse_map(text: str) -> dict[str, str]:
    """Return what ``--map`` says, part to tensor name.

    Parameters
    ----------
    text : str
        ``"embedding=encoder.tok.weight,unembedding=head.weight"``.

    Raises
    ------
    OptionsError
        If it has another form or names a part twice.

    Examples
    --------
    >>> parse_map("embedding.columns=W_E, unembedding=head.weight")
    {'embedding.columns': 'W_E', 'unembedding': 'head.weight'}
    """
    result: dict[str, str] = {}
    for piece in text.split(","):
        part, equals, name = (one.strip() for one in piece.partition("="))
        if not (part and equals and name):
            raise OptionsError(
                f"the map {text!r} has {piece.strip()!r}; expected PART=TENSOR, such as "
                "embedding=encoder.tok.weight,unembedding=head.weight"
            )
        if part in result:
            raise OptionsError(f"the map {text!r} names {part!r} twice; say it once")
        result[part] = name
    return result


def select(
    specs: Mapping[str, TensorSpec],
    task: Task,
    mapping: Mapping[str, str],
    tokens: Tokens | None = None,
    *,
    only: str = "",
) -> Selection:
    """Find the matrices that a map names, or that their own names tell.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors.
    task : Task
        Gives the number of tokens and classes.
    mapping : mapping of str to str
        Part to tensor name: the whole name, or an ending that only one has. A part may say
        where its tokens lie, ``"embedding.columns"``.
    tokens : Tokens, optional
        Which entries of the vocabulary stand for the task's elements.
    only : str
        Why no network is run; empty if one is. Then what `mapping` leaves unsaid is
        recognised by name.

    Returns
    -------
    Selection

    Raises
    ------
    OptionsError
        If the map names an unknown part or tensor, the number of tokens is not the task's, or
        where the tokens lie is open.
    ArchitectureError
        If there is no embedding, or a matrix has no axis for the task's tokens.
    """
    if tokens is not None and len(tokens) != task.tokens:
        raise OptionsError(
            f"{len(tokens)} tokens were given ({tokens.said}) and {task.name} has {task.tokens} "
            f"elements; give {task.tokens} tokens, or a task of {len(tokens)} such as "
            f"group:Z{len(tokens)}"
        )
    parts: dict[str, Part] = {}
    for key, said in mapping.items():
        part, _, place = key.partition(".")
        if part not in DUMP_MATRICES or (place and place not in _AXES):
            raise OptionsError(
                f"the map names the part {key!r}; known: {', '.join(DUMP_MATRICES)}, each also "
                "with .rows or .columns for where its tokens (or classes) lie"
            )
        if part in parts:
            raise OptionsError(f"the map names the part {part!r} twice; say it once")
        name = _resolve(said, specs)
        parts[part] = Part(name, _axis(part, name, specs, task, tokens, _AXES.get(place)))
    if only and not parts:
        parts = _by_name(specs, task, tokens)
    if only and "embedding" not in parts:
        raise OptionsError(
            f"the map names {', '.join(parts)} and not the embedding, which an analysis without "
            f"a network is of; add embedding=NAME. {_listing(specs, task, tokens)}"
        )
    notices = [_told(part, one, specs) for part, one in parts.items()]
    if tokens is not None:
        notices.append(f"tokens {tokens.said}: {tokens.shown()}")
    if only:
        verb = "is" if len(parts) == 1 else "are"
        notices = [f"{only}: the {' and '.join(parts)} alone {verb} analysed", *notices]
    return Selection(
        parts=parts, tokens=tokens, only=bool(only), reason=only, notices=tuple(notices)
    )


def suggest(
    specs: Mapping[str, TensorSpec], task: Task | None, tokens: Tokens | None = None
) -> tuple[str, ...]:
    """Return what may be the embedding, best guess first, as ``embedding=NAME``.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        A checkpoint's tensors.
    task : Task or None
        If given, only tensors with an axis for its tokens count.
    tokens : Tokens, optional
        Which entries of the vocabulary would be used.

    Returns
    -------
    tuple of str
        With ``embedding.columns=`` or ``embedding.rows=`` where that has to be said.
    """
    known = named(specs, "embedding")
    if task is None:
        return tuple(f"embedding={name}" for name in known)
    found: list[tuple[tuple[bool, bool], str]] = []
    for name, spec in specs.items():
        fits = _fitting("embedding", spec.shape, task, tokens)
        for axis in fits:
            told = known_axis(name)
            plain = told in (None, axis) if len(fits) == 1 else told is not None
            says = "" if plain else (".rows", ".columns")[axis]
            likely = "emb" in name.lower() or "tok" in name.lower()
            found.append(((name not in known, not likely), f"embedding{says}={name}"))
    ordered = [text for _, text in sorted(found, key=lambda pair: pair[0])]
    return tuple(dict.fromkeys(ordered))


def _fitting(
    part: str, shape: tuple[int, ...], task: Task, tokens: Tokens | None
) -> tuple[int, ...]:
    """Return the axes of a matrix along which the tokens (or classes) can lie."""
    if len(shape) != 2:
        return ()
    least = entries(part, task)
    most = (task.vocabulary if DUMP_MATRICES[part][0] == "tokens" else task.classes) + EXTRA
    if tokens is not None:
        if least != len(tokens):  # classes that are not the tokens
            return ()
        return tuple(axis for axis in (0, 1) if shape[axis] > max(tokens.ids))
    return tuple(axis for axis in (0, 1) if least <= shape[axis] <= most)


def _axis(
    part: str,
    name: str,
    specs: Mapping[str, TensorSpec],
    task: Task,
    tokens: Tokens | None,
    said: int | None,
) -> int:
    """Return the axis along which the tokens lie: as said, as only one fits, as the name tells."""
    shape = specs[name].shape
    fits = _fitting(part, shape, task, tokens)
    if said is not None and said in fits:
        return said
    axis = known_axis(name) if said is None else said
    if said is None and len(fits) == 1 and axis in (None, *fits):
        return fits[0]
    if said is None and len(fits) == 2:
        if axis is None:
            raise OptionsError(
                f"the tensor {name!r} of shape {shape} may be the {part} of {task.name} with "
                f"tokens along its rows or its columns; say which: {part}.rows={name} or "
                f"{part}.columns={name}"
            )
        return axis
    what, count = DUMP_MATRICES[part][0], entries(part, task)
    where = {None: "no axis", 0: "no rows", 1: "no columns"}[axis]
    if tokens is not None and count != len(tokens):
        raise ArchitectureError(
            f"the {part} has a row for each of the {count} {what} of {task.name}, and the "
            f"{len(tokens)} tokens given are not these: leave the {part} out of the map"
        )
    wanted = f"for token {max(tokens.ids)}" if tokens else f"for the {count} {what} of {task.name}"
    if said is None and fits:
        turned = ("rows", "columns")[fits[0]]
        raise ArchitectureError(
            f"the tensor {name!r} of shape {shape} has {where} {wanted}, and by its name these are "
            f"the {what}. If its {turned} are, say so: {part}.{turned}={name}"
        )
    further = "" if tokens else "; if it holds a larger vocabulary, say with --tokens which rows"
    raise ArchitectureError(
        f"the tensor {name!r} of shape {shape} has {where} {wanted}{further}. "
        f"{_listing(specs, task, tokens)}"
    )


def _resolve(said: str, specs: Mapping[str, TensorSpec]) -> str:
    """Return the tensor whose name is `said`, or alone ends so."""
    if said in specs:
        return said
    ending = [name for name in specs if name.endswith(("." + said, "/" + said))]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise OptionsError(
            f"the map's {said!r} is the end of several names ({', '.join(ending[:5])}); say more "
            "of it"
        )
    lowered = {name.lower(): name for name in specs}
    near = difflib.get_close_matches(said.lower(), lowered, 5, 0.4)
    near += [name for name in lowered if name.endswith(said.lower().rsplit(".", 1)[-1])]
    hint = ", ".join(lowered[name] for name in dict.fromkeys(near[:5])) or ", ".join([*specs][:5])
    raise OptionsError(f"the map names the tensor {said!r}, which is not there; nearest: {hint}")


def _by_name(specs: Mapping[str, TensorSpec], task: Task, tokens: Tokens | None) -> dict[str, Part]:
    """Return the parts that their names tell."""
    found = named(specs, "embedding")
    if len(found) != 1:
        how = f"several ({', '.join(found[:5])})" if found else "none"
        raise ArchitectureError(
            f"by their names {how} of the tensors can be the embedding; name it with --map "
            f"embedding=NAME. {_listing(specs, task, tokens)}"
        )
    parts = {
        "embedding": Part(found[0], _axis("embedding", found[0], specs, task, tokens, None)),
    }
    heads = named(specs, "unembedding")
    if len(heads) == 1 and (fits := _fitting("unembedding", specs[heads[0]].shape, task, tokens)):
        told = known_axis(heads[0])
        axis = fits[0] if len(fits) == 1 and told is None else told
        if axis in fits:
            parts["unembedding"] = Part(heads[0], axis)
    return parts


def _listing(specs: Mapping[str, TensorSpec], task: Task, tokens: Tokens | None) -> str:
    """Return the tensors that may be the embedding, as the end of a message."""
    guesses = suggest(specs, task, tokens)[:3]
    if guesses:
        return f"By its shape it may be {' or '.join(guesses)}."
    matrices = [f"{name} {spec.shape}" for name, spec in specs.items() if len(spec.shape) == 2]
    return f"The matrices are {', '.join(matrices[:6]) or 'none'}."


def _told(part: str, chosen: Part, specs: Mapping[str, TensorSpec]) -> str:
    rows, columns = specs[chosen.tensor].shape
    what = DUMP_MATRICES[part][0]
    lie = "rows" if chosen.axis == 0 else "columns"
    return f"{part} is {chosen.tensor!r} ({rows}×{columns}), whose {lie} are {what}"
