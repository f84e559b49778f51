"""Step numbers in file and folder names, and what remains of a name without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

__all__ = ["Stem", "counts_first", "folder_count", "read_stem", "sidecar_key", "without_steps"]

#: Whole numbers, thousands (10k) and millions (1.5M); a small m may be anything.
_COUNT = r"\d{1,15}(?:\.\d{1,9})?[kKM]|\d{1,18}"
#: Powers of ten (1e5), where a word says what is counted: an identifier may look the same.
_POWER = r"\d{1,3}(?:\.\d{1,6})?[eE]\+?\d{1,2}"
_END = r"(?!\d|\.\d|[A-Za-z])"
_NUMBERED = re.compile(
    r"(?<![A-Za-z])(?:(?P<word>(?i:global[_-]?steps?|steps?|iterations?|iters?|its?|epochs?|ep))"
    rf"(?P<gap>[_\-= .]*)(?<![_=]-)(?P<number>{_POWER}|{_COUNT}){_END}"
    rf"|(?P<file>(?i:checkpoint|ckpt))[_\-= .]*(?<![_=]-)(?P<count>{_COUNT}){_END})"
)
#: The number first (10k-steps), at the beginning, where no number follows that is counted itself.
_FIRST = re.compile(
    r"(?P<before>(?:(?i:model|checkpoint|ckpt|state)[_\-. ]+)?)"
    rf"(?P<number>{_POWER}|{_COUNT})[_\- ]?(?P<word>(?i:steps|iterations|iters|epochs))"
    r"(?![A-Za-z0-9]|[_\-=. ]*\d)"
)
#: A name that is a number; one that is a date (20240506) counts nothing.
_PURE = re.compile(r"(?!20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$)\d{1,18}")
_SEPARATOR = re.compile(r"[_\-=., ]+")

_WORDS_TEXT = (
    "final last latest best end start begin init initial initialization untrained previous "
    "prev memorize memorized memorise memorised memorization memorisation grok grokked "
    "generalize generalized generalise generalised healthy collapse collapsed trained"
)
#: Words that place a checkpoint in a run without saying its step.
WORDS = frozenset(_WORDS_TEXT.split())
_GENERIC_TEXT = (
    "model models checkpoint checkpoints ckpt ckpts state states dict weights net network "
    "params save saved snapshot pytorch epoch epochs step steps iter dump dumps variables"
)
#: Words that say no more than "this is a checkpoint".
GENERIC = frozenset(_GENERIC_TEXT.split())
_BESIDE_TEXT = (
    "config cfg configs hparams hyperparameters args settings options metrics metric history "
    "log logs training train result results summary run trainer metadata meta info stats "
    "losses curves eval evaluation full data"
)
#: Words in the names of the files that lie beside checkpoints.
BESIDE = frozenset(_BESIDE_TEXT.split())


@dataclass(frozen=True)
class Stem:
    """A file's name, taken apart.

    Attributes
    ----------
    base : str
        What is left without step numbers and words; empty when that says nothing.
    step : int or None
        The step number.
    unit : str
        ``"step"``, ``"epoch"`` or empty.
    word : str
        Word such as ``"final"``, or empty.
    """

    base: str
    step: int | None = None
    unit: str = ""
    word: str = ""


def _unit(word: str) -> tuple[int, str]:
    """Return the rank (lower is preferred) and the unit of a counting word."""
    word = word.lower()
    if "step" in word:
        return 0, "step"
    if word.startswith("it"):
        return 1, "step"
    if word.startswith("ep"):
        return 2, "epoch"
    return 3, ""


def _value(text: str) -> int | None:
    """Return the whole number that a count stands for, or None."""
    factor = {"k": 1000, "K": 1000, "M": 10**6}.get(text[-1], 1)
    number = Decimal(text.rstrip("kKM")) * factor
    if number >= 10**18 or number != number.to_integral_value():
        return None
    return int(number)


def _counts(name: str) -> Iterator[tuple[re.Match[str], str, int]]:
    """Yield the explicit step numbers in a name: where, the counting word, the value."""
    first = _FIRST.match(name)
    for match in [first] if first else _NUMBERED.finditer(name):
        found = match.groupdict()
        value = _value(found["number"] or found["count"])
        if value is not None:
            yield match, found["word"] or found["file"], value


def counts_first(name: str) -> bool:
    """Return whether a name begins with its number: ``10k-steps``, as a run's length may."""
    return _FIRST.match(name) is not None


def folder_count(name: str) -> tuple[int, str] | None:
    """Return number and unit of a folder that is called by its number alone.

    ``500``, ``10k``, ``10k-steps`` (of unit ``"step"``); not dates. The number may count steps,
    or tell runs apart.
    """
    if _PURE.fullmatch(name):
        return int(name), ""
    first = _FIRST.fullmatch(name)
    if first and not first["before"]:
        value, unit = _value(first["number"]), _unit(first["word"])[1]
    elif re.fullmatch(_COUNT, name) and not name.isdecimal():
        value, unit = _value(name), ""
    else:
        return None
    return None if value is None else (value, unit)


def read_stem(stem: str) -> Stem:
    """Take a file's or folder's name apart.

    Only explicit forms count as a step: ``step``, ``epoch``, ``ep``, ``iter``, ``it``,
    ``ckpt`` or ``checkpoint`` with a number (``100``, ``10k``, ``1.5M``; ``1e5`` where steps or
    epochs are named), a number of steps or epochs that begins the name (``10k-steps``), or a name
    that is nothing but a number. Numbers of hyper-parameters (``p97_frac0.30_wd1_seed0``), dates
    (``20240506``) and what is below zero (``epoch=-1``) are no steps.

    Parameters
    ----------
    stem : str
        Name without suffix.

    Returns
    -------
    Stem
    """
    if _PURE.fullmatch(stem):
        return Stem("", int(stem))
    best: tuple[int, int, str] | None = None
    for _, counted, number in _counts(stem):
        rank, unit = _unit(counted)
        if best is None or rank < best[0]:
            best = (rank, number, unit)
    rest = without_steps(stem)
    word = ""
    kept = rest
    for token in _SEPARATOR.split(rest):
        if token.lower() in WORDS:
            word = word or token.lower()
            kept = re.sub(rf"(^|[_\-=., ]+){re.escape(token)}(?=$|[_\-=., ])", "", kept, count=1)
    base = kept.strip("_-=., ")
    base = re.sub(r"([_\-= ])[_\-= ]+", r"\1", base)
    if all(token.lower() in GENERIC for token in _SEPARATOR.split(base) if token):
        base = ""
    if best is None:
        return Stem(base, None, "", word)
    return Stem(base, best[1], best[2], word)


def without_steps(name: str) -> str:
    """Return a name without its explicit step numbers: ``lr=0.1_step=100`` gives ``lr=0.1_``."""
    for match, _, _ in reversed(list(_counts(name))):
        name = name[: match.start()] + name[match.end() :]
    return name


def sidecar_key(name: str) -> str:
    """Return what a file name says about *which* run it belongs to; empty: nothing.

    ``config_f5dh.json`` and ``model_f5dh.pt`` both give ``f5dh``; ``metrics.csv`` gives "".
    """
    base = read_stem(name).base
    tokens = [token for token in re.split(r"[_\-=. ]+", base) if token]
    return "_".join(token for token in tokens if token.lower() not in GENERIC | BESIDE)
