"""Folders called by bare numbers that hold one checkpoint each: a run's steps, or runs.

``checkpoints/100/model.pt`` is a step, ``seeds/100/model.pt`` a run. What decides is said inside
the files, beside them, by the folder above, or by the user; else nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from geomdiag.checkpoints.assemble import Opened
from geomdiag.checkpoints.beside.curves import step_columns
from geomdiag.checkpoints.beside.options import OPTIONS_FILE
from geomdiag.checkpoints.beside.sidecars import Sidecars
from geomdiag.checkpoints.discover import Group, is_container
from geomdiag.checkpoints.numbered import (
    OVER,
    REPEATS,
    SETTINGS,
    beside_each,
    has_own_records,
    joined,
    settings_differ,
)
from geomdiag.checkpoints.ordering import refuse_mixture
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.steps import Stem, folder_count
from geomdiag.errors import CheckpointError

__all__ = ["join_folders"]

_COUNTED = {
    **dict.fromkeys(("step", "steps", "iter", "iters", "iteration", "iterations"), "step"),
    **dict.fromkeys(("epoch", "epochs"), "epoch"),
}
#: Folders that hold moments of one run, as a rule.
_MOMENTS = frozenset(("checkpoint", "checkpoints", "ckpt", "ckpts", "snapshot", "snapshots"))
_SWEEPS = frozenset(
    ("sweep", "sweeps", "multirun", "grid", "search", "ensemble", "sessions", "outputs", "jobs")
)


@dataclass(eq=False)
class _Folder:
    """A folder that is called by a number, and the one checkpoint in it."""

    value: int
    unit: str
    run: Opened

    @property
    def stored(self) -> Mapping[str, int]:
        """The steps that the checkpoint itself stores; none where it cannot be read."""
        return self.run.items[0].entry.steps if self.run.items else {}


def join_folders(
    opened: list[Opened], top: AnyPath, asked: Callable[[Group], str]
) -> tuple[list[Opened], list[str]]:
    """Make one run of the folders of one place that are called by numbers, where these are steps.

    They are when every folder there that holds checkpoints is called so and holds just one, of
    one file name, tensors and settings, and the steps stored inside or in a file beside go up
    with the numbers, or nothing stores one and the user or the name of the folder above says so.

    Parameters
    ----------
    opened : list of Opened
        Runs as told apart by folders.
    top : Path
        The opened folder.
    asked : callable
        What the user says that numbers count in a group's names: ``"steps"``, ``"runs"`` or
        nothing.

    Returns
    -------
    list of Opened, list of str
        Runs, and what is said of those that stay apart because nothing tells.
    """
    families: dict[AnyPath, list[Opened]] = {}
    for each in opened:
        if each.group.root != top and each.group.root.exists():
            families.setdefault(each.group.root.parent, []).append(each)
    result, notices = list(opened), []
    for place, runs in families.items():
        if folder_count(runs[0].group.root.name) is None:
            continue
        said = asked(runs[0].group)
        folders = _folders(runs, said)
        readable = [one for one in folders if one.run.items]
        if not readable or _lies_in(folders, opened):
            continue
        within = place.relative_to(top).as_posix()
        shown = place.resolve().name if within == "." else within
        verdict, notice = _verdict(shown or "the opened folder", readable, said)
        if verdict == "untold":
            notices.append(notice)
        if verdict != "steps":
            continue
        parts = _with_words(folders, place, opened)
        base = folders[0].run.group.base
        taken = [(each.group.root, each.group.base) for each in result if each not in parts]
        root = place
        while root != top and is_container(root):
            root = root.parent
        if any(root == other for other, _ in taken):
            root = place
        if (root, base) in taken:
            notices.append(
                f"the folders {folders[0].run.group.root.name} to "
                f"{folders[-1].run.group.root.name} of {shown} are read as runs: another network "
                "lies beside them"
            )
            continue
        _say_steps(folders)
        home = joined(root, base, parts, notice)
        result = [each for each in result if each not in parts] + [home]
    return result, notices


def _folders(runs: Sequence[Opened], said: str) -> list[_Folder]:
    """Return the folders in order of their numbers, none if they are not all of one kind."""
    found: list[_Folder] = []
    for each in runs:
        count = folder_count(each.group.root.name)
        if count is None or len(each.group.files) != 1:
            return []
        if len(each.items) + len(each.failures) != 1:
            return []
        file = each.group.files[0]
        over = file.stem.word in OVER and not said  # 100/final.pt: a run each, as a rule
        named = file.stem.step is not None or over
        if named or any(item.entry.member for item in each.items) or not each.group.alone:
            return []
        found.append(_Folder(*count, each))
    same_name = len({one.run.group.files[0].path.name for one in found}) == 1
    different = len({one.value for one in found}) == len(found)
    return sorted(found, key=lambda one: one.value) if same_name and different else []


def _lies_in(folders: Sequence[_Folder], opened: Sequence[Opened]) -> bool:
    """Return whether another run lies below one of the folders."""
    roots = {one.run.group.root for one in folders}
    return any(not roots.isdisjoint(each.group.root.parents) for each in opened)


def _verdict(shown: str, folders: Sequence[_Folder], said: str) -> tuple[str, str]:
    """Return ``"steps"``, ``"runs"`` or ``"untold"``, and what to tell; `shown`: their place."""
    place = shown.rpartition("/")[2].lower()
    words = [word for word in re.split(r"[^a-z]+", place) if word]
    items = [one.run.items[0] for one in folders]
    try:
        refuse_mixture(items)
    except CheckpointError as error:
        asked = (
            f'{OPTIONS_FILE} says numbers = "steps" of {shown}, and they are read as runs: {error}'
        )
        return ("untold", asked) if said == "steps" else ("runs", "")
    if said:
        return said, ""
    if _tells_apart(place):
        return "runs", ""
    if settings_differ([item.contents.config for item in items]):
        return "runs", ""
    first, last = folders[0].run.group.root.name, folders[-1].run.group.root.name
    several = len(folders) > 1
    called = f"the folders {first} to {last} of {shown}" if several else f"{first} in {shown}"
    are = "are read as the steps of one run" if several else "is read as a step"
    otherwise = f'if each is a run of its own, write numbers = "runs" into its {OPTIONS_FILE}'
    beside = [beside_each(one.run, alone=True) for one in folders]
    stored = [one.stored or _step_beside(each) for one, each in zip(folders, beside, strict=True)]
    agree = [one.value in each.values() for one, each in zip(folders, stored, strict=True) if each]
    if len(agree) == len(folders) and all(agree):
        return "steps", ""
    if not all(agree):
        if all(one.stored for one in folders) and _go_up(stored):
            return "steps", f"{called} are read as one run, by the steps stored inside; {otherwise}"
        return "runs", ""
    if has_own_records([one.run for one in folders], beside):
        return "runs", ""
    counted = all(one.unit for one in folders) or not _COUNTED.keys().isdisjoint(words)
    values = [one.value for one in folders]
    in_a_row = several and all(two - one == 1 for one, two in pairwise(values))
    one_run = not _MOMENTS.isdisjoint(words) or re.search(r"seed[_\-= ]?\d+$", place)
    if counted or (one_run and not in_a_row):
        return "steps", f"{called} {are}; {otherwise}"
    if not several:  # of one run there is nothing to tell
        return "runs", ""
    return "untold", (
        f"{called} hold one checkpoint each of networks of one shape, and nothing says whether "
        f"their numbers are steps: they are read as {len(folders)} runs. If they are the steps of "
        f'one, write numbers = "steps" into a {OPTIONS_FILE} in {shown}, or name them '
        f'step_<N>; numbers = "runs" says that they are runs'
    )


def _tells_apart(place: str) -> bool:
    """Return whether a folder's name says that what it gathers are runs, or settings."""
    ending = re.search(r"[a-z]+$", place)  # seeds, n_train; not seed_3, which is a run
    word = ending[0] if ending else ""
    one = word.removesuffix("s")
    known = (REPEATS - {"run"}) | _SWEEPS | {each for each in SETTINGS if len(each) > 1}
    return not known.isdisjoint({word, one}) or word.endswith(("seed", "seeds", "runs", "trials"))


def _step_beside(beside: Sidecars) -> dict[str, int]:
    """Return the steps that a file in the checkpoint's own folder says, by unit."""
    found: dict[str, int] = {}
    for unit, key in step_columns(beside.scalars).items():
        value = beside.scalars[key]
        if isinstance(value, int | float) and abs(value) < 2**62 and value == int(value):
            found[unit] = int(value)
    return found


def _go_up(stored: Sequence[Mapping[str, int]]) -> bool:
    units = set.intersection(*(set(steps) for steps in stored))
    return any(all(one[unit] < two[unit] for one, two in pairwise(stored)) for unit in units)


def _with_words(
    folders: Sequence[_Folder], place: AnyPath, opened: Sequence[Opened]
) -> list[Opened]:
    """Return the folders' runs and, of their network, what ``final/`` beside them holds."""
    parts = [one.run for one in folders]
    for other in opened:
        if other in parts or not all(place in file.path.parents for file in other.group.files):
            continue
        worded = [file.stem.step is not None or file.stem.word for file in other.group.files]
        if other.group.root in (place, *place.parents) and all(worded):
            parts.append(other)
    try:
        refuse_mixture([item for each in parts for item in each.items])
    except CheckpointError:
        return parts[: len(folders)]
    return parts


def _say_steps(folders: Sequence[_Folder]) -> None:
    """Give the files the steps of their folders, where none stores another."""
    places = {one.run.group.root.parent.name.lower() for one in folders}
    words = [word for place in places for word in re.split(r"[^a-z]+", place)]
    unit = next((_COUNTED[word] for word in words if word in _COUNTED), "")
    for one in folders:
        file = one.run.group.files[0]
        if not one.stored or one.value in one.stored.values():
            file.stem = Stem(file.stem.base, one.value, one.unit or unit)
        else:
            file.stem = replace(file.stem, word="")
