"""The steps of a run's checkpoints: numbers, words, doubles, and strangers among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomdiag.checkpoints.beside.sidecars import Sidecars
from geomdiag.checkpoints.discover import VERSION, Candidate, stem_of
from geomdiag.checkpoints.formats.contract import Contents, Entry
from geomdiag.checkpoints.series import TensorMap
from geomdiag.errors import CheckpointError

__all__ = ["Item", "in_order", "refuse_mixture", "same_content", "signature", "unit_of"]

_SEPARATE = "put the checkpoints of each run into a folder of its own"
_NO_STEP = (
    '{} says no step; it is shown as step 0. To say one, name the file step_<N> or store "step" '
    "inside"
)
_UNTRAINED = ("init", "initial", "initialization", "untrained")
_LAST_WORDS = ("", "final", "last", "latest", "end")
_LAST_KEYS = ("steps_run", "final_step", "last_step", "total_steps", "epochs_run", "final_epoch")


@dataclass(eq=False)
class Item:
    """An entry and the file it came from; `step` is filled in on the way."""

    file: Candidate
    entry: Entry
    contents: Contents
    step: int | None = None
    source: str = "unknown"

    @property
    def label(self) -> str:
        """File and entry, for messages."""
        return f"{self.file.path}{self.entry.member and f'[{self.entry.member}]'}"


def signature(entry: Entry) -> dict[str, tuple[int, ...]]:
    """Return what must agree between checkpoints of one run: tensor names and shapes."""
    return {name: spec.shape for name, spec in entry.specs.items()}


def in_order(
    items: list[Item], beside: Sidecars, unit: str, failures: int, notices: list[str]
) -> list[Item]:
    """Give every item its step and return them in order.

    Parameters
    ----------
    items : list of Item
        What was opened.
    beside : Sidecars
        What lies beside them.
    unit : str
        See `unit_of`.
    failures : int
        Number of the run's files that could not be opened.
    notices : list of str
        Grows by what a person should know.

    Raises
    ------
    CheckpointError
        If no item can be placed, or two different ones claim one step.
    """
    _number(items, unit, notices)
    items = _of_one_unit(items, unit, notices)
    items = _place_words(items, beside, unit, failures, notices)
    items = _drop_doubles(items, notices)
    return sorted(items, key=lambda item: item.step or 0)


def unit_of(items: Sequence[Item]) -> str:
    """Return the unit in which all checkpoints can be counted; what the names count in first.

    Where there is none, the one in which most are.
    """
    named = Counter(item.file.stem.unit for item in items if item.file.stem.unit)
    wanted = [unit for unit, _ in named.most_common()] + ["step", "epoch"]
    inside = [item.entry.steps for item in items if item.entry.steps]
    told = [_told(item) for item in items]
    common = [unit for unit in wanted if all(_counts(numbers, unit) for numbers in told)]
    for unit in common:
        if inside and all(unit in steps for steps in inside):
            return unit
    most = Counter(unit for numbers in told for unit in numbers if unit)
    found = [unit for unit in common or wanted if most[unit]]
    if found:
        return max(found, key=lambda unit: most[unit])
    return wanted[0] if named else ""


def _told(item: Item) -> dict[str, int]:
    """Return the numbers of a checkpoint by unit: those stored inside, and that of its name."""
    named = item.file.stem
    if named.step is None or named.unit == VERSION:
        return dict(item.entry.steps)
    return {named.unit: named.step, **item.entry.steps}


def _counts(numbers: Mapping[str, int], unit: str) -> bool:
    """Return whether a checkpoint's numbers, if it has any, may be in a unit."""
    return unit in numbers or not any(numbers)


def _number(items: Sequence[Item], unit: str, notices: list[str]) -> None:
    """Give each item its step: stored inside first, file or folder name second."""
    differing: list[Item] = []
    if _never_counted(items):
        for item in items:
            item.step, item.source = item.file.stem.step, "file name"
        notices.append(
            f"all {len(items)} checkpoints store the same step "
            f"({next(iter(items[0].entry.steps.values()))}) and differ; the numbers in their names "
            "are used instead"
        )
        return
    stored = any(item.entry.steps for item in items)
    for item in items:
        steps, named = item.entry.steps, item.file.stem
        form = item.file.format
        saves = form is not None and form.name == "tensorflow"  # ckpt-3: the third one saved
        if steps:
            item.step, item.source = steps.get(unit, next(iter(steps.values()))), "metadata"
            if unit not in steps and named.unit == unit and named.step is not None:
                item.step, item.source = named.step, "file name"
            comparable = named.unit in ("", *steps) and not item.entry.member and not saves
            if named.step is not None and comparable and named.step not in steps.values():
                differing.append(item)
        elif named.step is not None and not (stored and (saves or named.unit == VERSION)):
            item.step, item.source = named.step, "file name"
    if any(
        item.step is not None and not item.entry.steps and item.file.stem.unit == VERSION
        for item in items
    ):
        notices.append(
            "the checkpoints say no step; they are counted by the versions of their artifact"
        )
    if differing:
        example = differing[0]
        notices.append(
            f"{len(differing)} file name(s) say another step than what is stored inside, which "
            f"is used: {example.file.path.name} holds {example.step}"
        )


def _of_one_unit(items: list[Item], unit: str, notices: list[str]) -> list[Item]:
    """Leave out what counts in another unit: epochs cannot be put in order with steps."""
    others = [item for item in items if item.step is not None and not _counts(_told(item), unit)]
    if not unit or not others:
        return items
    notices += [
        f"{item.file.path.name} is left out: it counts in {next(filter(None, _told(item)))}s, the "
        f"others in {unit}s; store both in each file"
        for item in others
    ]
    return [item for item in items if item not in others]


def _never_counted(items: Sequence[Item]) -> bool:
    """Return whether the steps stored inside stand still while names and contents go on."""
    if len(items) < 2 or not items[0].entry.steps:
        return False
    if any(item.entry.steps != items[0].entry.steps or item.entry.member for item in items):
        return False
    stems = [item.file.stem for item in items]
    if len({stem.step for stem in stems} - {None}) < len(items) or stems[0].unit == VERSION:
        return False
    try:
        return not same_content(items[0].entry.load(), items[-1].entry.load())
    except CheckpointError:
        return False


def _place_words(
    items: list[Item], beside: Sidecars, unit: str, failures: int, notices: list[str]
) -> list[Item]:
    """Place checkpoints without a number by a file beside them, or leave them out."""
    for item in items:
        if item.step is None:
            twin = beside.per_file.get(stem_of(item.file.path), {})
            item.step = _step_beside({**beside.scalars, **twin}, item.file.stem.word)
            if item.step is not None:
                item.source = "sidecar"
    _place_untrained(items, notices)
    lost = [item for item in items if item.step is None]
    if not lost:
        return items
    if len(items) == 1 and not failures:
        only = items[0]
        last = _last_recorded(beside, unit)
        if last is not None:
            only.step, only.source = last, "sidecar"
            notices.append(
                f"{only.file.path.name} says no step; taken for the last one recorded beside it, "
                f"{last}"
            )
        else:
            only.step = 0
            notices.append(_NO_STEP.format(only.file.path.name))
        return items
    kept = [item for item in items if item.step is not None]
    if not kept:
        if failures and len(items) == 1:
            items[0].step = 0
            notices.append(_NO_STEP.format(items[0].file.path.name))
            return items
        names = " and ".join(str(item.file.path) for item in lost[:2])
        raise CheckpointError(
            f"{names}: {len(lost)} checkpoints of one run, and none says its step, neither inside "
            "nor in its name; name them step_<N>, store a step inside, or, if they are separate "
            f"runs, {_SEPARATE}"
        )
    notices += [
        f"{item.file.path.name} is left out: neither it nor a file beside it says its step; "
        "store one inside or name it step_<N>"
        for item in lost
    ]
    return kept


def _place_untrained(items: Sequence[Item], notices: list[str]) -> None:
    """Put the only checkpoint that is called untrained at step 0, before all others."""
    named = [each for each in items if each.step is None and each.file.stem.word in _UNTRAINED]
    if len(named) != 1 or any(each.step is not None and each.step <= 0 for each in items):
        return
    named[0].step, named[0].source = 0, "file name"
    if len(items) > 1:
        notices.append(f"{named[0].file.path.name} is taken for step 0, as its name says")


def _step_beside(scalars: Mapping[str, Any], word: str) -> int | None:
    keys: list[str] = []
    if word:
        keys += [f"{word}_step", f"step_{word}", f"{word}_epoch", f"epoch_{word}"]
    if word in _LAST_WORDS:
        keys += _LAST_KEYS
    for key in keys:
        value = scalars.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if abs(value) < 2**62 and value == int(value):  # neither infinite nor NaN
            return int(value)
    return None


def _last_recorded(beside: Sidecars, unit: str) -> int | None:
    last = [
        max(curve.steps.get(unit) or next(iter(curve.steps.values())), default=None)
        for curve in beside.curves
        if curve.steps
    ]
    return max((step for step in last if step is not None), default=None)


def refuse_mixture(items: Sequence[Item]) -> None:
    """Raise if the checkpoints cannot be of one network."""
    if not items:
        return
    first = items[0]
    expected = signature(first.entry)
    for item in items[1:]:
        found = signature(item.entry)
        if first.entry.kind == item.entry.kind == "dump":  # parts of a dump may come and go
            common = expected.keys() & found.keys()
            differing = {name for name in common if expected[name] != found[name]}
        else:
            differing = {
                name
                for name in expected.keys() | found.keys()
                if expected.get(name) != found.get(name)
            }
        if differing:
            name = sorted(differing)[0]
            raise CheckpointError(
                f"two runs are mixed: {first.label} and {item.label} hold different networks "
                f"({name!r} is {_shape(expected.get(name))} in the first and "
                f"{_shape(found.get(name))} in the second); {_SEPARATE}"
            )
    settings = [item.contents.config for item in items]
    for key in ("seed", "run_id", "runid"):
        seen: dict[Any, Item] = {}
        for item, config in zip(items, settings, strict=True):
            value = config.get(key, item.entry.metadata.get(key))
            if isinstance(value, int | float | str):
                seen.setdefault(value, item)
        if len(seen) > 1:
            (one, left), (two, right) = list(seen.items())[:2]
            raise CheckpointError(
                f"two runs are mixed: {left.label} was made with {key} {one!r} and {right.label} "
                f"with {key} {two!r}; {_SEPARATE}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)


def same_content(one: TensorMap, two: TensorMap) -> bool:
    """Return whether two states are bit-identical; the smallest tensors are compared first."""
    if one.specs() != two.specs():
        return False
    order = sorted(one, key=lambda name: (int(np.prod(one.spec(name).shape)), name))
    return all(one[name].tobytes() == two[name].tobytes() for name in order)


def _drop_doubles(items: Sequence[Item], notices: list[str]) -> list[Item]:
    """Keep one of two files with one step if they hold the same, else raise."""
    by_step: dict[int, Item] = {}
    # A number in the name is the better name for the state.
    for item in sorted(items, key=lambda item: (item.file.stem.step is None, item.label)):
        step = item.step or 0
        other = by_step.setdefault(step, item)
        if other is item:
            continue
        try:
            same = same_content(other.entry.load(), item.entry.load())
        except CheckpointError:
            same = False
        if not same:
            raise CheckpointError(
                f"{other.label} and {item.label} both claim step {step} and differ; if they are of "
                f"two runs, {_SEPARATE}, else remove or rename one of them"
            )
        notices.append(
            f"{item.file.path.name} is the same as {other.file.path.name} (step {step}) and left "
            "out"
        )
    return list(by_step.values())
