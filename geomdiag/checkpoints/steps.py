"""Step numbers in file and folder names, and what remains of a name without them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Stem", "read_stem", "sidecar_key", "without_steps"]

_NUMBERED = re.compile(
    r"(?<![A-Za-z])(?P<word>global[_-]?steps?|steps?|iterations?|iters?|its?|epochs?|ep|"
    r"checkpoint|ckpt)(?P<gap>[_\-= .]*)(?<![_=]-)(?P<number>\d{1,18})(?!\d|\.\d|[A-Za-z])",
    re.IGNORECASE,
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


def read_stem(stem: str) -> Stem:
    """Take a file's or folder's name apart.

    Only explicit forms count as a step: ``step``, ``epoch``, ``ep``, ``iter``, ``it``,
    ``ckpt`` or ``checkpoint`` with a number, or a name that is nothing but a number. Numbers
    of hyper-parameters (``p97_frac0.30_wd1_seed0``), dates (``20240506``) and what is below zero
    (``epoch=-1``) are no steps.

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
    for match in _NUMBERED.finditer(stem):
        rank, unit = _unit(match["word"])
        if best is None or rank < best[0]:
            best = (rank, int(match["number"]), unit)
    rest = _NUMBERED.sub("", stem)
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
    return _NUMBERED.sub("", name)


def sidecar_key(name: str) -> str:
    """Return what a file name says about *which* run it belongs to; empty: nothing.

    ``config_f5dh.json`` and ``model_f5dh.pt`` both give ``f5dh``; ``metrics.csv`` gives "".
    """
    base = read_stem(name).base
    tokens = [token for token in re.split(r"[_\-=. ]+", base) if token]
    return "_".join(token for token in tokens if token.lower() not in GENERIC | BESIDE)
