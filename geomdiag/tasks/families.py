"""Task families by name, and the specifications that make a task out of one."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geomdiag.errors import TaskError
from geomdiag.registry import Registry
from geomdiag.tasks.contract import Task

__all__ = [
    "NO_CHECKPOINT",
    "TASKS",
    "TaskFamily",
    "build_task",
    "check_names",
    "example_of",
    "parse_specification",
    "task",
    "task_families",
]

#: What is said of a size that nobody told, where there is no checkpoint.
NO_CHECKPOINT = ", and there is no checkpoint here to tell it"

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
        "graph": "geomdiag.tasks.graph:GraphTask",
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
    family, said = parse_specification(spec, parameters)
    return build_task(family, said)


def task_families() -> tuple[TaskFamily, ...]:
    """Return every known family, with what a listing wants to show of it.

    Returns
    -------
    tuple of TaskFamily
        In the order of the registry.
    """
    families = []
    for name in TASKS:
        factory = TASKS[name]
        example = example_of(name)
        complete = ":" in example or not _required(factory)
        made = build_task(*parse_specification(example, {})) if complete else None
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


def parse_specification(spec: str, more: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return family and parameters as said in a specification and beside it.

    Parameters
    ----------
    spec : str
        As for `task`.
    more : mapping of str to value
        Parameters beside it.

    Raises
    ------
    UnknownNameError
        If no family has that name.
    TaskError
        If the specification cannot be read, or says a parameter twice.
    """
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
        raise TaskError(f"{spec!r}: nothing follows the colon. Write {example_of(family)!r}.")
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
                f"Write for example {example_of(family)!r}."
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


def build_task(family: str, said: Mapping[str, Any]) -> Task:
    """Call a family's factory, its parameters checked by name first.

    Parameters
    ----------
    family : str
        Registry name.
    said : mapping of str to value
        Parameters by name.

    Raises
    ------
    TaskError
        If a parameter is missing, unknown or wrong.
    """
    factory = TASKS[family]
    check_names(family, said)
    missing = [name for name in _required(factory) if name not in said]
    if missing:
        notes = getattr(factory, "parameter_notes", {})
        meaning = f" ({notes[missing[0]]})" if notes.get(missing[0]) else ""
        raise TaskError(
            f"{family}: the parameter {missing[0]!r}{meaning} was not said"
            f"{NO_CHECKPOINT if getattr(factory, 'size_parameter', '') else ''}. "
            f"Write for example {example_of(family)!r}."
        )
    made = factory(**said)
    if not isinstance(made, Task):
        raise TaskError(
            f"the factory of the task family {family!r} returned {type(made).__name__}, not a "
            "geomdiag.tasks.Task. Report this to whoever registered it."
        )
    return made


def check_names(family: str, said: Mapping[str, Any]) -> None:
    """Raise a `TaskError` for a parameter that a family does not have."""
    factory = TASKS[family]
    known = _parameters(factory)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _signature(factory)):
        return
    for name in said:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise TaskError(
                f"{family}: unknown parameter {name!r}.{hint} Known: {', '.join(known) or 'none'}."
            )


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


def example_of(family: str) -> str:
    """Return a specification to show in a message."""
    factory = TASKS[family]
    filled = ",".join(f"{name}=..." for name in _required(factory))
    return str(getattr(factory, "example", "")) or (f"{family}:{filled}" if filled else family)
