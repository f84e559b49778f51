"""Files of one folder whose names differ in one number only, as one run or as one run each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from geomdiag.checkpoints.assemble import Opened
from geomdiag.checkpoints.beside.curves import is_of_a_moment
from geomdiag.checkpoints.beside.sidecars import Sidecars, collect
from geomdiag.checkpoints.discover import Group, stem_of
from geomdiag.checkpoints.ordering import refuse_mixture
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.steps import GENERIC, Stem
from geomdiag.errors import CheckpointError

__all__ = [
    "OVER",
    "REPEATS",
    "SETTINGS",
    "beside_each",
    "has_own_records",
    "join_numbered",
    "joined",
    "numbers_of",
    "settings_differ",
    "siblings_of",
]

_REPEATS_TEXT = (
    "seed seeds s run runs trial rep reps repeat replicate replica try attempt fold split id idx "
    "v ver version exp experiment job worker rank gpu device copy part shard member ensemble "
    "sample task variant group"
)
#: Words before a number that tells runs, not moments, apart.
REPEATS = frozenset(_REPEATS_TEXT.split())
_SETTINGS_TEXT = (
    "wd decay lr rate p q mod modulus prime frac fraction train alpha beta gamma lambda eps "
    "dropout momentum temp temperature scale std noise d dim dims size width depth layer layers "
    "block blocks head heads hidden dmlp neurons units embd embed emb h l b bs batch n k m c "
    "classes vocab tokens ctx len length order degree freq freqs warmup sparsity"
)
#: Words before a number that is a setting.
SETTINGS = frozenset(_SETTINGS_TEXT.split())
#: Single letters that count time; any other may stand for a setting.
_TIME = {"e": "epoch", "i": "step", "t": ""}
#: Words that say the training is over: what differs beside them is the run.
OVER = frozenset(("final", "last", "latest", "best", "end"))
_OWN_TEXT = (
    "seed random_seed data_seed p prime modulus lr learning_rate wd weight_decay frac_train "
    "train_frac train_fraction attn_coeff d_model d_mlp width depth n_layers num_layers"
)
#: Single values in a file named like a checkpoint that tell runs apart.
_OWN = frozenset(_OWN_TEXT.split())
#: Files of one name that are looked at closely.
_ENOUGH = 4
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d{1,18}(?!\d|\.\d|[A-Za-z])")
_DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"(?:[-_T. ]?\d\d([-_.:]?)\d\d(?:\2\d\d)?(?!\d))?"
)
_BETWEEN = re.compile(r"[_\-=., \[\]()]+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class Numbered:
    """A number in a name: what stands around it, and what the word before it says."""

    before: str
    after: str
    value: int
    word: str

    @property
    def repeats(self) -> bool:
        """Whether the word says that the number tells runs apart."""
        return self.word in REPEATS or self.word.endswith(("seed", "run", "trial", "fold"))

    @property
    def sets(self) -> bool:
        """Whether the word says, or may say, that the number is a setting."""
        return self.word in SETTINGS or (len(self.word) == 1 and self.word not in _TIME)

    @property
    def base(self) -> str:
        """The name without the number; empty when that says nothing."""
        base = "_".join(filter(None, (part.strip("_-=., ") for part in (self.before, self.after))))
        generic = all(token.lower() in GENERIC for token in _BETWEEN.split(base) if token)
        return "" if generic or base.lower() in _TIME else base


def numbers_of(stem: str) -> Iterator[Numbered]:
    """Yield the whole numbers in a name that may be steps or tell runs apart.

    Decimals, dates, and digits inside mixed identifiers (``l8k1hzciux``) are none.

    Parameters
    ----------
    stem : str
        File name without suffix.
    """
    dates = [match.span() for match in _DATE.finditer(stem)]
    for match in _NUMBER.finditer(stem):
        start, end = match.span()
        if any(start < last and first < end for first, last in dates):
            continue
        before, after = stem[:start], stem[end:]
        if re.search(r"\d[eE][-+]?$", before):  # lr1e-3
            continue
        attached = re.search(r"[^_\-=., \[\]()]*$", before)
        word = attached[0] if attached else ""
        if re.search(r"\d", word):  # part of an identifier
            continue
        if not word:
            tokens = [token for token in _BETWEEN.split(before) if token]
            word = tokens[-1] if tokens else ""
            if re.search(r"\d", word):  # seed1_100: the word has its number
                word = ""
            if not tokens:  # 3_layers
                following = [token for token in _BETWEEN.split(after) if token]
                first = following[0].lower() if following else ""
                word = first if first in REPEATS | SETTINGS else ""
        humps = _HUMP.findall(word)
        yield Numbered(before, after, int(match[0]), humps[-1].lower() if humps else "")


def siblings_of(path: AnyPath) -> list[AnyPath]:
    """Return some files beside `path` whose names differ from its in one number only."""
    own = {(number.before, number.after) for number in numbers_of(stem_of(path))}
    found: dict[tuple[str, str], list[AnyPath]] = {}
    for other in sorted(path.parent.iterdir()) if own else ():
        if other == path or other.suffix != path.suffix or not other.is_file():
            continue
        for number in numbers_of(stem_of(other)):
            if (key := (number.before, number.after)) in own:
                found.setdefault(key, []).append(other)
    return list(dict.fromkeys(other for same in found.values() for other in same[:_ENOUGH]))


def join_numbered(
    opened: list[Opened], asked: Callable[[Group], str] = lambda _: ""
) -> list[Opened]:
    """Make one run of files whose names differ in one number, where that number is the step.

    It is when the files store steps that grow with it; or when none stores a step, the files
    hold tensors of the same names and shapes, no word before the number says that it counts
    something else (``seed3``, ``wd_1``), and no file has settings or curves of its own.

    Parameters
    ----------
    opened : list of Opened
        Runs as told apart by explicit steps in names.
    asked : callable, optional
        What the user says that numbers count in a group's names: ``"steps"``, ``"runs"`` or
        nothing.

    Returns
    -------
    list of Opened
    """
    families: dict[tuple[AnyPath, str, str, str], list[tuple[Numbered, Opened]]] = {}
    for each in opened:
        if len(each.group.files) != 1 or len(each.items) + len(each.failures) != 1:
            continue
        file = each.group.files[0]
        if file.stem.step is not None or any(item.entry.member for item in each.items):
            continue
        for number in numbers_of(stem_of(file.path)):
            key = (file.path.parent, file.path.suffix, number.before, number.after)
            families.setdefault(key, []).append((number, each))
    several = [found for found in families.values() if len(found) > 1 and not found[0][0].repeats]
    said = {id(found): asked(found[0][1].group) for found in several}
    wanted = [found for found in several if said[id(found)] != "runs"]
    plain = {id(each) for found in wanted if not found[0][0].sets for _, each in found}
    wanted = [
        found
        for found in wanted
        if not found[0][0].sets or not any(id(each) in plain for _, each in found)
    ]
    claims = Counter(id(each) for found in wanted for _, each in found)
    result = list(opened)
    for found in wanted:
        if any(claims[id(each)] > 1 for _, each in found):
            continue  # two numbers vary: which one counts is anybody's guess
        found.sort(key=lambda pair: pair[0].value)
        numbers, members = [pair[0] for pair in found], [pair[1] for pair in found]
        notice = _one_run(numbers, members, sure=bool(said[id(found)]))
        if notice is None:
            continue
        home, parts = _joined(numbers, members, notice, result)
        result = [each for each in result if each not in parts] + [home]
    inside = Counter(each.group.root for each in result)
    for each in result:
        each.group.alone = inside[each.group.root] == 1
    return result


def _one_run(numbers: Sequence[Numbered], members: Sequence[Opened], *, sure: bool) -> str | None:
    """Return what to tell of files that are one run (perhaps nothing), None if they are not.

    `sure`: the user says that the numbers are steps.
    """
    good = [(number, each) for number, each in zip(numbers, members, strict=True) if each.items]
    values = [number.value for number in numbers]
    if len(good) < 2 or len(set(values)) < len(values):
        return None
    items = [each.items[0] for _, each in good]
    try:
        refuse_mixture(items)
    except CheckpointError:
        return None
    if settings_differ([item.contents.config for item in items]):
        return None
    counts = [number.value for number, _ in good]
    stored = [item.entry.steps for item in items]
    if all(stored):
        units = set.intersection(*(set(steps) for steps in stored))
        for unit in units:
            steps = [held[unit] for held in stored]
            if all(one < two for one, two in pairwise(steps)):
                return ""
        return None
    if any(
        steps and count not in steps.values() for count, steps in zip(counts, stored, strict=True)
    ):
        return None
    if numbers[0].sets or _is_over(numbers[0]):
        return None
    if sure:
        return ""
    if _have_their_own([each for _, each in good]):
        return None
    if any(stored):  # those that say their step say this number
        return ""
    first, last = (each.group.files[0].path.name for _, each in (good[0], good[-1]))
    return (
        f"the number in the file names ({first} to {last}) is taken for the training step; if it "
        'is, name the files step_<N> or store "step" inside to say so; if it tells runs apart, '
        "put each run into a folder of its own, name the files seed<N>, or write "
        'numbers = "runs" into a geomdiag.toml beside them'
    )


def _is_over(number: Numbered) -> bool:
    tokens = _BETWEEN.split(f"{number.before}_{number.after}".lower())
    return not OVER.isdisjoint(tokens)


def settings_differ(settings: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether two files name different numbers as settings; losses and steps are none."""
    for key in set().union(*settings):
        if is_of_a_moment(str(key)):
            continue
        values = {
            config[key] for config in settings if isinstance(config.get(key), bool | int | float)
        }
        if len(values) > 1:
            return True
    return False


def _have_their_own(members: Sequence[Opened]) -> bool:
    """Return whether the files have settings or whole curves each, as separate runs do."""
    sample = [*members[:_ENOUGH], *members[_ENOUGH:][-1:]]
    return has_own_records(sample, [beside_each(each, alone=False) for each in sample])


def beside_each(member: Opened, *, alone: bool) -> Sidecars:
    """Return what lies beside a member's one file; `alone`: all of its folder is its own."""
    file = member.group.files[0]
    return collect(
        [file.path.parent],
        base=member.group.base,
        stems=[stem_of(file.path)],
        alone=alone,
        exclude={file.path},
    )


def has_own_records(members: Sequence[Opened], beside: Sequence[Sidecars]) -> bool:
    """Return whether members have settings or whole curves each, as separate runs do.

    Parameters
    ----------
    members : sequence of Opened
        In order of their numbers.
    beside : sequence of Sidecars
        What lies beside each, see `beside_each`.
    """
    scalars = [
        {key: value for key, value in each.scalars.items() if key in _OWN} for each in beside
    ]
    own: list[int] = []
    for member, each in zip(members, beside, strict=True):
        curves = (*each.curves, *member.items[0].contents.curves)
        length = max((len(next(iter(c.values.values()), ())) for c in curves), default=0)
        own += [length] if length > 1 else []
    # Curves that grow with the number are one run's, saved on the way.
    grow = all(one < two for one, two in pairwise(own))
    return (
        settings_differ([each.config for each in beside])
        or settings_differ(scalars)
        or (len(own) > 1 and not grow)
    )


def _joined(
    numbers: Sequence[Numbered], members: Sequence[Opened], notice: str, others: Sequence[Opened]
) -> tuple[Opened, list[Opened]]:
    """Return the run of `members` and all that went into it.

    A file of their name without a number (``model_final`` beside ``model_100``) goes in too.
    """
    stored = any(item.entry.steps for each in members for item in each.items)
    same = all(
        number.value in item.entry.steps.values()
        for number, each in zip(numbers, members, strict=True)
        for item in each.items
        if item.entry.steps
    )
    root, base = members[0].group.root, numbers[0].base
    if notice or not stored or same:
        unit = _TIME.get(numbers[0].word, "")
        for number, each in zip(numbers, members, strict=True):
            each.group.files[0].stem = Stem(base, number.value, unit)
    else:
        for each in members:
            each.group.files[0].stem = replace(each.group.files[0].stem, base=base, word="")
    parts = list(members)
    rivals = [each for each in others if each.group.root == root and each.group.base == base]
    rivals = [each for each in rivals if each not in parts]
    if rivals and _fits(parts, rivals[0]):
        parts.append(rivals[0])
    elif rivals:
        base = stem_of(members[0].group.files[0].path)
    home = joined(root, base, parts, notice)
    return home, parts


def joined(root: AnyPath, base: str, parts: Sequence[Opened], notice: str) -> Opened:
    """Return the run that several make together."""
    home = Opened(
        Group(root, base, sorted((f for p in parts for f in p.group.files), key=_by_path)),
        [item for each in parts for item in each.items],
        [failure for each in parts for failure in each.failures],
        list(dict.fromkeys(text for each in parts for text in each.notices)),
        joined=True,
        guess=notice,
    )
    if notice:
        home.notices.append(notice)
    return home


def _fits(members: Sequence[Opened], other: Opened) -> bool:
    """Return whether unnumbered files of the members' name (``model_final``) are of their run."""
    if any(file.stem.step is not None for file in other.group.files):
        return False
    if any(item.entry.member for item in other.items):
        return False
    try:
        refuse_mixture([item for each in (*members, other) for item in each.items])
    except CheckpointError:
        return False
    return True


def _by_path(file: Any) -> str:
    return str(file.path)
