"""Settings that folder and file names spell out: ``seed=3/wd=1.0`` → {seed: 3, wd: 1.0}.

A wrong coordinate is worse than none. ``key=value`` is taken at its word; without the sign only
well-known settings count, and only where nothing else can be meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

from geomdiag.checkpoints.beside.curves import STEP_UNITS
from geomdiag.checkpoints.discover import is_container
from geomdiag.checkpoints.places.paths import AnyPath
from geomdiag.checkpoints.steps import without_steps

__all__ = ["Coordinate", "contradictions", "coordinates_of", "names_above"]

Coordinate = int | float | str

_SETTINGS_TEXT = (
    "seed data_seed model_seed init_seed split_seed random_seed torch_seed train_seed wd "
    "weight_decay lr learning_rate frac fraction train_frac frac_train train_fraction "
    "training_fraction data_frac mod modulus prime width depth layers n_layers num_layers heads "
    "n_heads num_heads hidden hidden_dim hidden_size d_model d_mlp d_head dim embed_dim "
    "embedding_dim batch_size bs dropout momentum trial fold replicate"
)
#: Settings that are believed without an equals sign, as in ``seed_3`` or ``wd1``.
_SETTINGS = frozenset(_SETTINGS_TEXT.split())
#: Keys whose values are names even where they look like numbers (``id=12e5``).
_NAMES = re.compile(r"(.*[_.-])?(id|uid|uuid|hash|sha|commit|date|time|timestamp|name|tag|version)")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_KEY = re.compile(r"[A-Za-z][\w.-]{0,63}")
_DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d-\d\d-\d\d(?:[-_T. ]\d\d[-_.:]?\d\d(?:[-_.:]?\d\d)?)?(?!\d)"
)
#: Between one ``key=value`` and the next, outside brackets.
_COMMA = re.compile(r"[,;& ]+(?![^\[({]*[\])}])")
_spelled = "|".join(
    re.escape(name).replace("_", "[_-]") for name in sorted(_SETTINGS, key=len, reverse=True)
)
_BARE = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?P<key>{_spelled})[_\- ]?|(?P<p>p))"
    rf"(?P<value>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z0-9.]|[_\-., ]\d)",
    re.IGNORECASE,
)
_TIME = frozenset({*STEP_UNITS, "ep", "iters", "global_steps", "ckpt", "checkpoint"})
_LONGEST = 200


def coordinates_of(names: Iterable[str]) -> tuple[dict[str, Coordinate], list[str]]:
    """Return the settings spelled in the names of a run's folders and file.

    Parameters
    ----------
    names : iterable of str
        Names of folders, outermost first, and what is left of the file's without step numbers.

    Returns
    -------
    coordinates : dict of str to int, float or str
        Numbers as numbers, words as words, in the order they were met.
    notices : list of str
        What was left out because two names contradict each other.

    Examples
    --------
    >>> coordinates_of(["sweep", "seed=3", "lr=1e-3,opt=adam"])[0]
    {'seed': 3, 'lr': 0.001, 'opt': 'adam'}
    >>> coordinates_of(["p97_frac0.30_wd1_seed0"])[0]
    {'p': 97, 'frac': 0.3, 'wd': 1, 'seed': 0}
    >>> coordinates_of(["exp-3", "v2", "seed_3_5"])[0]
    {}
    """
    found: dict[str, Coordinate] = {}
    torn: dict[str, list[Coordinate]] = {}
    for name in names:
        text = _DATE.sub("", without_steps(name))
        pairs = _explicit(text) if "=" in text else _implicit(text)
        for key, value in pairs:
            if key.lower() in _TIME:
                continue
            if found.setdefault(key, value) != value:
                torn.setdefault(key, [found[key]]).append(value)
    for key in torn:
        del found[key]
    return found, [
        f"the names of the run's folders say {key} {' and '.join(map(str, values))}; it is no "
        "coordinate of the result"
        for key, values in torn.items()
    ]


def _implicit(text: str) -> Iterator[tuple[str, Coordinate]]:
    found = list(_BARE.finditer(text))
    for match in found:
        value = _value("", match["value"])
        if match["p"] is None:
            yield match["key"].replace("-", "_"), value
        elif isinstance(value, int) and (value > 9 or len(found) > 1):  # p3 may be part 3
            yield match["p"], value


def _explicit(text: str) -> Iterator[tuple[str, Coordinate]]:
    pieces = _COMMA.split(text)
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        if re.match(rf"{_NUMBER}(?!.*=)", following) and re.search(rf"={_NUMBER}$", piece):
            continue  # lr=1,5 or seeds=1,2: a list, or a comma for a point
        head, *middle = piece.split("=")
        if not middle:
            continue
        key = _key(head)
        for between in middle[:-1]:  # "0.1_seed" of "lr=0.1_seed=3"
            value, after = _parted(key, between)
            if key and value is not None:
                yield key, _value(key, value)
            key = after
        last = middle[-1].rstrip("_- ").lstrip()
        match = re.match(rf"({_NUMBER})[_\- ]+(?P<more>.)", last)
        if match and not _NAMES.fullmatch(key.lower()):
            if not (match["more"].isalpha() and key.lower() in _SETTINGS):
                continue  # seed=3_5, arch=2_layers
            last = match[1]  # lr=0.1_mlp
        if key and last and len(last) <= _LONGEST:
            yield key, _value(key, last)


def _key(text: str) -> str:
    """Return the key that stands before an equals sign, empty where it cannot be told."""
    text = text.strip("_+~- ")
    foreign = any(any(c.isdigit() for c in token) for token in re.split(r"[_-]", text)[:-1])
    if foreign or "-" in text:  # the run's name comes first: "mlp-p31-seed=0"
        known = _known_ending(text)
        if known or foreign:
            return known
    return text if _KEY.fullmatch(text) else ""


def _known_ending(text: str) -> str:
    tokens = re.split(r"[_-]", text)
    endings = ("_".join(tokens[place:]) for place in range(len(tokens)))
    return next((each for each in endings if each.lower() in _SETTINGS), "")


def _parted(key: str, text: str) -> tuple[str | None, str]:
    """Return the value of `key` and the next key: what stands between two equals signs."""
    if match := re.fullmatch(rf"({_NUMBER})[_\- ]+([A-Za-z].*)", text):
        after = match[2]
        sure = key.lower() in _SETTINGS or not re.search(r"[_-]", after)
        if sure or _known_ending(after) == after.replace("-", "_"):
            return match[1], _key(after)
        return None, ""  # "arch=2_layer_seed=3"
    tokens = [token for token in re.split(r"[_-]", text) if token]
    known = _known_ending(text)
    if known and len(tokens) - 1 == known.count("_") + 1:
        return tokens[0], known
    if len(tokens) == 2 and not re.fullmatch(_NUMBER, tokens[0]):
        return tokens[0], _key(tokens[1])
    return None, ""  # "sgd_nesterov_my_seed": where does the key begin?


def _value(key: str, text: str) -> Coordinate:
    if _NAMES.fullmatch(key.lower()) or not re.fullmatch(_NUMBER, text):
        return text
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text) if len(text) <= 18 else text
    number = float(text)
    return number if math.isfinite(number) else text


def names_above(folder: AnyPath) -> list[str]:
    """Return the name of an opened folder and of the ``key=value`` folders it lies in.

    So that a run opened by itself keeps the coordinates it has within its sweep.

    Parameters
    ----------
    folder : Path
        Absolute.
    """
    names: list[str] = []
    for place in (folder, *folder.parents):
        if is_container(place) or not without_steps(place.name).strip("_-=., "):
            continue
        if names and "=" not in place.name:
            break
        names.insert(0, place.name)
    return names


def contradictions(
    coordinates: Mapping[str, Coordinate], config: Mapping[str, object]
) -> list[str]:
    """Return, in words, where the names and the run's settings disagree about a number."""
    return [
        f"the name says {key} {value}, the run's settings say {config[key]!r}"
        for key, value in coordinates.items()
        if isinstance(value, int | float)
        and isinstance(config.get(key), int | float)
        and config[key] != value
    ]
