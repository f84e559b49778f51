"""What the sizes of a checkpoint tell of its task: parameters left unsaid, and what would fit."""

from __future__ import annotations

from collections.abc import Sequence

from geomdiag.errors import TaskError
from geomdiag.tasks.contract import Task
from geomdiag.tasks.cyclic import is_prime
from geomdiag.tasks.families import (
    TASKS,
    build_task,
    check_names,
    example_of,
    parse_specification,
    task,
)

__all__ = ["fitting_tasks", "task_for", "token_candidates"]


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
    family, said = parse_specification(spec, {})
    size = str(getattr(TASKS[family], "size_parameter", ""))
    if not known:
        return build_task(family, said)
    if not size or size in said:
        return _checked(build_task(family, said), candidates, vocabulary, classes, sizes)
    check_names(family, said)  # or the sizes would be blamed for a wrong name
    refusals = []
    for tokens in candidates:
        try:
            return build_task(family, {**said, size: tokens})
        except TaskError as error:
            refusals.append(str(error))
    raise TaskError(
        f"{family}: the checkpoint ({sizes}) tells no {size} that fits. "
        + (f"{refusals[0]} " if refusals else "")
        + f"Say it, as in {example_of(family)!r}, or check that these checkpoints belong to "
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
