"""Task families by name, and the specifications that make a task out of one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from geomdiag.errors import TaskError
from geomdiag.registry import Registry
from geomdiag.tasks.contract import Task
from geomdiag.tasks.cyclic import is_prime

__all__ = [
    "TASKS",
    "TaskFamily",
    "fitting_tasks",
    "task",
    "task_families",
    "task_for",
    "token_candidates",
]

#: Family name → factory: called with the family's parameters by keyword, it returns a `Task`.
#: A `Task` subclass is its own factory.
TASKS = Registry(
    "task",
    "geomdiag.tasks",
    {
        "modadd": "geomdiag.tasks.modular:ModAdd",
        "modsub": "geomdiag.tasks.modular:ModSub",
        "modsquare": "geomdiag.tasks.modular:ModSquare",
        "modcube": "geomdiag.tasks.modular:ModCube",
        "modmul": "geomdiag.tasks.modular:ModMul",
        "modaffine": "geomdiag.tasks.modular:ModAffine",
        "group": "geomdiag.tasks.group:GroupProduct",
        "graph": "geomdiag.tasks.graphs:GraphTask",
        "comparison": "geomdiag.tasks.comparison:Comparison",
    },
)


@dataclass(frozen=True)
class TaskFamily:
    """What there is to say about a family before its parameters are known.

    Attributes
    ----------
    name : str
        Registry name, the part of a specification before the colon.
    title : str
        The rule for unsaid parameters.
    parameters : mapping of str to str
        Parameter name to its meaning, in the order of unnamed values.
    symmetries : tuple of str
        Names of the symmetries of `example`.
    example : str
        A specification that works.
    """

    name: str
    title: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    symmetries: tuple[str, ...] = ()
    example: str = ""


def task(spec: str | Task, **parameters: Any) -> Task:
    """Return the task that a specification describes.

    Parameters
    ----------
    spec : str or Task
        ``"family"``, ``"family:name=value,name=value"`` or ``"family:value"`` (values without
        a name fill the family's parameters in order). A `Task` is returned as it is.
    **parameters
        Parameters beside those of `spec`.

    Returns
    -------
    Task

    Raises
    ------
    UnknownNameError
        If no family has that name; the message lists the known ones.
    TaskError
        If a parameter is missing, unknown, said twice with different values, or wrong.

    Examples
    --------
    >>> task("modadd:p=113").name
    'modadd:p=113'
    >>> task("modmul", p=7).title
    'x·y mod 7'
    """
    if isinstance(spec, Task):
        if parameters:
            raise TaskError(
                f"the task {spec.name} is already made; its parameters cannot be set again "
                f"({', '.join(parameters)}). Give a specification such as "
                f"{spec.family!r} instead."
            )
        return spec
    family, said = _said(spec, parameters)
    return _build(family, said)


def task_for(
    spec: str | Task,
    *,
    vocabulary: int | None = None,
    classes: int | None = None,
    candidates: Sequence[int] | None = None,
) -> Task:
    """Return the task of a specification, completed from the sizes of a checkpoint.

    Fills the family's `Task.size_parameter` (the modulus) when it was not said; leaves a
    parameter that was said alone, and checks it.

    Parameters
    ----------
    spec : str or Task
        As for `task`.
    vocabulary : int, optional
        Rows of the token embedding.
    classes : int, optional
        Rows of the read-out.
    candidates : sequence of int, optional
        Numbers of tokens that the checkpoint allows, most likely first; the first that makes
        a task of this family is taken. Default: `token_candidates` of the two sizes.

    Returns
    -------
    Task

    Raises
    ------
    UnknownNameError
        If no family has that name.
    TaskError
        If the parameter cannot be told, or the one said does not fit the checkpoint; the
        message says which would fit.
    """
    sizes = _sizes(vocabulary, classes)
    if candidates is None:
        known = vocabulary is not None or classes is not None
        candidates = token_candidates(vocabulary, classes)
    else:
        known = True
        sizes = sizes or f"room for {_either(candidates)} tokens"
    if isinstance(spec, Task):
        return _checked(spec, candidates, vocabulary, classes, sizes) if known else spec
    family, said = _said(spec, {})
    size = str(getattr(TASKS[family], "size_parameter", ""))
    if not known:
        return _build(family, said)
    if not size or size in said:
        return _checked(_build(family, said), candidates, vocabulary, classes, sizes)
    refusals = []
    for tokens in candidates:
        try:
            return _build(family, {**said, size: tokens})
        except TaskError as error:
            refusals.append(str(error))
    raise TaskError(
        f"{family}: the checkpoint ({sizes}) tells no {size} that fits. "
        + (f"{refusals[0]} " if refusals else "")
        + f"Say it, as in {_example(family)!r}, or check that these checkpoints belong to "
        "this task."
    )


def token_candidates(vocabulary: int | None = None, classes: int | None = None) -> tuple[int, ...]:
    """Return how many tokens the sizes of a network allow, most likely first.

    For tasks with as many classes as tokens. A vocabulary holds the tokens alone, one or two
    symbols beside them (``=``, an operator), or two copies of them (one an operand); a
    read-out holds the classes alone, or those symbols too. Both sizes must agree. Among what
    is left, a read-out that is smaller than the vocabulary (or known alone) counts the classes
    exactly and its own size goes first; then primes before composites, larger before smaller.

    Parameters
    ----------
    vocabulary : int, optional
        Rows of the token embedding.
    classes : int, optional
        Rows of the read-out.

    Returns
    -------
    tuple of int
        Empty when nothing is known or the two sizes contradict each other.

    Examples
    --------
    >>> token_candidates(114, 113)
    (113, 112)
    >>> token_candidates(114, 114)
    (113, 114, 112)
    >>> token_candidates(46, 23)
    (23,)
    """
    sets = []
    if vocabulary is not None:
        counts = {vocabulary, vocabulary - 1, vocabulary - 2}
        if vocabulary % 2 == 0:
            counts.add(vocabulary // 2)
        sets.append(counts)
    if classes is not None:
        sets.append({classes, classes - 1, classes - 2})
    if not sets:
        return ()
    exact = classes if vocabulary is None or (classes or 0) < vocabulary else None
    allowed = (n for n in set.intersection(*sets) if n >= 2)
    return tuple(sorted(allowed, key=lambda n: (n != exact, not is_prime(n), -n)))


def fitting_tasks(
    vocabulary: int | None, classes: int | None, *, family: str = ""
) -> tuple[str, ...]:
    """Return specifications, over all families, that fit a network of the given sizes.

    Parameters
    ----------
    vocabulary, classes : int or None
        Rows of the token embedding and of the read-out, where they are known.
    family : str
        Its own specifications go first.

    Returns
    -------
    tuple of str
        All of `family`, most likely first, then those of the others. Of the families whose
        size the checkpoint tells (`Task.size_parameter`), which fit all or none, beside `family`
        only the first.

    Examples
    --------
    >>> fitting_tasks(52, 3, family="comparison")[0]
    'comparison:7x7'
    """
    found: list[str] = []
    sized = False
    for name in sorted(TASKS, key=lambda other: other != family):
        factory = TASKS[name]
        size = getattr(factory, "size_parameter", "")
        if not size:
            fitting = getattr(factory, "fitting", None)
            found += fitting(vocabulary, classes) if fitting is not None else ()
        elif name == family or not sized:
            made = [
                spec
                for tokens in token_candidates(vocabulary, classes)
                if _makes(spec := f"{name}:{size}={tokens}")
            ]
            found += made
            sized = bool(made)
    return tuple(dict.fromkeys(found))


def _makes(spec: str) -> bool:
    try:
        task(spec)
    except TaskError:
        return False
    return True


def task_families() -> tuple[TaskFamily, ...]:
    """Return every known family, with what a listing wants to show of it."""
    families = []
    for name in TASKS:
        factory = TASKS[name]
        example = _example(name)
        complete = ":" in example or not _required(factory)
        made = _build(*_said(example, {})) if complete else None
        notes = getattr(factory, "parameter_notes", {})
        summary = (inspect.getdoc(factory) or name).splitlines()[0]
        families.append(
            TaskFamily(
                name=name,
                title=getattr(factory, "rule", "") or summary,
                parameters={key: str(notes.get(key, "")) for key in _parameters(factory)},
                symmetries=tuple(symmetry.name for symmetry in made.symmetries) if made else (),
                example=example,
            )
        )
    return tuple(families)


def _said(spec: str, more: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return family and parameters as said in a specification and beside it."""
    if not isinstance(spec, str):
        raise TaskError(
            f"a task is a specification such as 'modadd:p=113' or a Task, found {spec!r} "
            f"({type(spec).__name__})."
        )
    family, colon, rest = (part.strip() for part in spec.partition(":"))
    if not family:
        raise TaskError(
            f"the task specification {spec!r} names no family. Known: {', '.join(sorted(TASKS))}."
        )
    names = list(_parameters(TASKS[family]))
    said: dict[str, Any] = {}
    if colon and not rest:
        raise TaskError(f"{spec!r}: nothing follows the colon. Write {_example(family)!r}.")
    for number, item in enumerate(rest.split(",") if rest else ()):
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            if number >= len(names):
                raise TaskError(
                    f"{spec!r}: the value {name!r} has no parameter to go to. The parameters of "
                    f"{family!r} are {', '.join(names) or 'none'}."
                )
            name, text = names[number], name
        if not name or not text:
            raise TaskError(
                f"{spec!r}: {item.strip()!r} is not of the form name=value. "
                f"Write for example {_example(family)!r}."
            )
        _say(spec, said, name, int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text)
    for name, value in more.items():
        _say(spec, said, name, value)
    return family, said


def _say(spec: str, said: dict[str, Any], name: str, value: Any) -> None:
    """Add a parameter, unless it was said before with another value."""
    if name in said and said[name] != value:
        raise TaskError(f"{spec!r}: {name} is said twice, as {said[name]!r} and as {value!r}.")
    said[name] = value


def _build(family: str, said: Mapping[str, Any]) -> Task:
    """Call a family's factory, its parameters checked by name first."""
    factory = TASKS[family]
    known = _parameters(factory)
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _signature(factory)):
        for name in said:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise TaskError(
                    f"{family}: unknown parameter {name!r}.{hint} "
                    f"Known: {', '.join(known) or 'none'}."
                )
    missing = [name for name in _required(factory) if name not in said]
    if missing:
        notes = getattr(factory, "parameter_notes", {})
        meaning = f" ({notes[missing[0]]})" if notes.get(missing[0]) else ""
        told = ", and there is no checkpoint here to tell it"
        raise TaskError(
            f"{family}: the parameter {missing[0]!r}{meaning} was not said"
            f"{told if getattr(factory, 'size_parameter', '') else ''}. "
            f"Write for example {_example(family)!r}."
        )
    made = factory(**said)
    if not isinstance(made, Task):
        raise TaskError(
            f"the factory of the task family {family!r} returned {type(made).__name__}, not a "
            "geomdiag.tasks.Task. Report this to whoever registered it."
        )
    return made


def _checked(
    made: Task,
    candidates: Sequence[int],
    vocabulary: int | None,
    classes: int | None,
    sizes: str,
) -> Task:
    """Return the task if a network of these sizes can have been trained on it."""
    size = made.size_parameter
    if size:
        if made.tokens in candidates:
            return made
        fits = f"{size} = {_either(candidates)} would fit" if candidates else f"no {size} fits it"
        if not candidates:
            fits += _other_tasks(made.family, vocabulary, classes)
        raise TaskError(
            f"the task {made.name} contradicts the checkpoint, which has {sizes}: {fits}. "
            f"Leave {size} out to have it told by the checkpoint, or check that these "
            "checkpoints belong to this task."
        )
    for what, found, needed in (
        ("vocabulary", vocabulary, made.vocabulary),
        ("read-out", classes, made.classes),
    ):
        if found is not None and found < needed:
            raise TaskError(
                f"the task {made.name} needs a {what} of at least {needed}, the checkpoint's "
                f"has {found}{_other_tasks(made.family, vocabulary, classes)}. Check that these "
                "checkpoints belong to this task."
            )
    return made


def _other_tasks(family: str, vocabulary: int | None, classes: int | None) -> str:
    """Return which tasks would fit, to end a sentence with."""
    fits = fitting_tasks(vocabulary, classes, family=family)[:3]
    return f"; {' or '.join(fits)} would fit" if fits else ""


def _sizes(vocabulary: int | None, classes: int | None) -> str:
    """Return the sizes of a checkpoint in words."""
    words = []
    if vocabulary is not None:
        words.append(f"a vocabulary of {vocabulary}")
    if classes is not None:
        words.append(f"a read-out of {classes} classes")
    return " and ".join(words)


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(str(number) for number in numbers) or "no"


def _signature(factory: Any) -> tuple[inspect.Parameter, ...]:
    """Return a factory's parameters; those that must be positional are not counted."""
    return tuple(
        p
        for p in inspect.signature(factory).parameters.values()
        if p.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    )


def _parameters(factory: Any) -> tuple[str, ...]:
    """Return the names of a factory's parameters, in order."""
    variadic = inspect.Parameter.VAR_KEYWORD
    return tuple(p.name for p in _signature(factory) if p.kind is not variadic)


def _required(factory: Any) -> tuple[str, ...]:
    """Return the names of a factory's parameters that have no default."""
    return tuple(
        p.name
        for p in _signature(factory)
        if p.default is inspect.Parameter.empty and p.kind is not inspect.Parameter.VAR_KEYWORD
    )


def _example(family: str) -> str:
    """Return a specification to show in a message."""
    factory = TASKS[family]
    filled = ",".join(f"{name}=..." for name in _required(factory))
    return str(getattr(factory, "example", "")) or (f"{family}:{filled}" if filled else family)
