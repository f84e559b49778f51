"""Which files under a path are checkpoints, and which of them belong to one run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomdiag.checkpoints.beside.trackers import gathers, version_of
from geomdiag.checkpoints.formats.contract import HEAD, Format, refusal
from geomdiag.checkpoints.formats.orbax import folder_of
from geomdiag.checkpoints.formats.sharding import INDEX_ENDING, shards_of
from geomdiag.checkpoints.places.archived import ENDINGS
from geomdiag.checkpoints.places.paths import AnyPath, RemotePath
from geomdiag.checkpoints.steps import Stem, counts_first, read_stem, sidecar_key
from geomdiag.errors import CheckpointError

__all__ = [
    "VERSION",
    "Candidate",
    "Group",
    "find_groups",
    "is_container",
    "is_described",
    "stem_of",
]

_CONTAINERS_TEXT = (
    "checkpoints checkpoint ckpts ckpt save saves saved saved_models models weights states "
    "state_dicts snapshots dumps"
)
#: Folders that only gather a run's checkpoints and do not name a run.
_CONTAINERS = frozenset(_CONTAINERS_TEXT.split())
#: Files that lie beside checkpoints and hold no network.
_BESIDE = re.compile(
    r"(train|test|val|valid|validation)[_-]?(data|set|dataset|indices|idx|rows|pairs|mask|split"
    r"|loader)?|splits?|(lr_?)?(optimi[sz]er|optim|scheduler|grad_scaler|scaler)([_-].*)?"
    r"|rng_states?([_-].*)?|random_states?([_-].*)?|training_args|opt_state([_-].*)?",
    re.IGNORECASE,
)
_NEVER_TEXT = (
    ".json .jsonl .ndjson .csv .tsv .txt .md .rst .yaml .yml .toml .ini .cfg .py .ipynb .sh "
    ".log .html .css .js .png .jpg .jpeg .gif .svg .pdf .mp4 .npy .pkl .pickle .zip .gz .bz2 "
    ".xz .tar .nc .h5 .hdf5 .parquet .lock .whl .distcp .index"
)
_NEVER = frozenset(_NEVER_TEXT.split())
#: Files that stand for the folder they lie in.
_OF_FOLDERS = frozenset({".metadata", "_METADATA"})
#: What a checkpoint counts in that says no step itself: versions of an artifact.
VERSION = "version"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
#: Values of a TensorFlow checkpoint, which stands for itself by its ``.index``.
_VALUES = re.compile(r"\.data-\d{5}-of-\d{5}$")


@dataclass(eq=False)
class Candidate:
    """A file that is, or is meant to be, a checkpoint."""

    path: AnyPath
    format: Format | None
    stem: Stem
    refused: CheckpointError | None = None
    sure: bool = False  # told by content, not by suffix alone


@dataclass(eq=False)
class Group:
    """The files of one run.

    Attributes
    ----------
    root : Path
        The run's folder; for versions of an artifact (``artifacts/model:v3``) their common name.
    base : str
        The files' common name without steps and words.
    files : list of Candidate
        In order of path.
    alone : bool
        Whether no other run lies in the same folder.
    notices : list of str
        Files left out.
    """

    root: AnyPath
    base: str
    files: list[Candidate] = field(default_factory=list)
    alone: bool = True
    notices: list[str] = field(default_factory=list)


def stem_of(path: AnyPath) -> str:
    """Return a checkpoint's name without its suffix."""
    name = path.name
    if name in _OF_FOLDERS:
        return "checkpoint"
    for suffix in (".safetensors.index.json", ".bin.index.json", ".pth.tar"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def is_container(folder: AnyPath) -> bool:
    """Return whether a folder only gathers checkpoints and does not name a run."""
    return folder.name.lower() in _CONTAINERS or gathers(folder)


def is_described(folder: AnyPath) -> bool:
    """Return whether a run's settings or curves lie in a folder, which then names the run."""
    try:
        return any(
            path.suffix.lower() in (".json", ".jsonl", ".csv", ".yaml", ".yml")
            and not sidecar_key(path.stem)
            for path in folder.iterdir()
        )
    except OSError:
        return False


def find_groups(
    path: AnyPath, formats: Mapping[str, Any], ignore: Callable[[Any], bool] | None = None
) -> tuple[list[Group], list[str], Mapping[str, int]]:
    """Find the checkpoints under a folder, or the one at a path, sorted into runs.

    Parameters
    ----------
    path : Path
        File or folder.
    formats : mapping of str to Format
        The registry.
    ignore : callable, optional
        Tells of a file in the folder whether it is to be passed over.

    Returns
    -------
    groups : list of Group
        Runs.
    notices : list of str
        What was left out as a whole.
    seen : mapping of str to int
        Number of files by suffix, for the message when there are no checkpoints.

    Raises
    ------
    CheckpointError
        If the path does not exist or cannot be listed.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.is_file():
        return [_single(path, formats)], [], {path.suffix: 1}
    seen: dict[str, int] = {}
    found: dict[AnyPath, list[Candidate]] = {}
    archives: list[AnyPath] = []
    for folder, names in _walk(path):
        if ignore is not None:
            names = [name for name in names if not ignore(folder / name)]
        for name in names:
            suffix = Path(name).suffix.lower() or "(no suffix)"
            seen[suffix] = seen.get(suffix, 0) + 1
        candidates = _candidates(folder, names, formats, path)
        for candidate in candidates:
            found.setdefault(_root_of(candidate, path), []).append(candidate)
        packed = {name for name in names if name.lower().endswith(ENDINGS)}
        packed -= {candidate.path.name for candidate in candidates}
        archives += (folder / name for name in sorted(packed))
    notices = _drop_derived(found, path)
    if archives:
        notices.append(
            f"{len(archives)} archive(s) such as {archives[0].relative_to(path)} are not looked "
            f"into; to open one: geomdiag analyze {archives[0]}"
        )
    groups: list[Group] = []
    for root in sorted(found):
        groups.extend(_by_base(root, found[root]))
    return groups, notices, seen


def _walk(path: AnyPath) -> list[tuple[AnyPath, list[str]]]:
    def stop(error: OSError) -> None:
        raise CheckpointError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    found: list[tuple[AnyPath, list[str]]] = []
    walk: Any = path.walk() if isinstance(path, RemotePath) else os.walk(path, onerror=stop)
    for folder, subfolders, names in walk:
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith((".", "__")) and not name.endswith((".zarr", ".egg-info"))
        )
        shown = (name for name in names if not name.startswith(".") or name in _OF_FOLDERS)
        place = folder if isinstance(folder, RemotePath) else Path(folder)
        found.append((place, sorted(shown)))
    return found


def _head(path: AnyPath) -> bytes:
    with path.open("rb", buffering=0) as file:
        head: bytes = file.read(HEAD)
    return head


def _candidates(
    folder: AnyPath, names: Sequence[str], formats: Mapping[str, Any], opened: AnyPath
) -> list[Candidate]:
    shards: set[str] = set()
    for name in names:
        if name.endswith(INDEX_ENDING):
            shards |= shards_of(folder / name)
    claimed = tuple(suffix.lower() for key in formats for suffix in formats[key].suffixes)
    result: list[Candidate] = []
    for name in names:
        path = folder / name
        if name in shards or _VALUES.search(name) or _BESIDE.fullmatch(stem_of(path)):
            continue
        index = name.endswith(INDEX_ENDING)
        # Such files mostly hold something else: a format must claim the suffix and the content.
        other = Path(name).suffix.lower() in _NEVER and not index
        if other and not name.lower().endswith(claimed):
            continue
        candidate = _recognise(path, formats)
        if candidate is None or (other and not candidate.sure):
            continue
        _add_folder_step(candidate, opened)
        result.append(candidate)
    return result


def _recognise(path: AnyPath, formats: Mapping[str, Any]) -> Candidate | None:
    """Tell the format by content; a file that is only named like one becomes a refusal."""
    stem = read_stem(stem_of(path))
    name = path.name.lower()
    if path.exists() and not path.is_file():
        return None  # a pipe, which would be waited for, or a device
    try:
        head = _head(path)
    except OSError as error:
        if not any(name.endswith(formats[key].suffixes) for key in formats):
            return None
        return Candidate(path, None, stem, CheckpointError(f"{path}: cannot be read: {error}"))
    named: list[Format] = []
    for key in formats:
        member: Format = formats[key]
        if member.recognises(path, head):
            if _SHARD.search(stem_of(path)):
                return Candidate(
                    path,
                    member,
                    stem,
                    CheckpointError(
                        f"{path}: one shard of a sharded checkpoint whose index is missing; copy "
                        "the *.index.json that names it into the same folder"
                    ),
                )
            return Candidate(path, member, stem, sure=True)
        if name.endswith(tuple(member.suffixes)):
            named.append(member)
    if not named:
        return None
    # Plain pickles (no torch magic) are still torch's to read or refuse.
    if head.startswith((b"\x80", b"PK")) or (head and named[0].name not in ("pytorch", "numpy")):
        return Candidate(path, named[0], stem)
    return Candidate(path, named[0], stem, refusal(path, head, f"a {named[0].name} file"))


def _single(path: AnyPath, formats: Mapping[str, Any]) -> Group:
    """Return the group of one file that was named outright."""
    if path.suffix == ".distcp":
        raise CheckpointError(
            f"{path}: one shard of a distributed checkpoint; point to its folder, {path.parent}"
        )
    candidate = _recognise(path, formats)
    if candidate is None:
        head = _head(path)
        if not head.startswith(b"\x80"):
            raise refusal(path, head, "a file of the formats " + ", ".join(formats))
        candidate = Candidate(path, formats["pytorch"], read_stem(stem_of(path)))  # a pickle
    _add_folder_step(candidate, path.parent)
    neighbours = {
        read_stem(stem_of(other)).base
        for other in path.parent.iterdir()
        if other.is_file()
        and other.name.lower().endswith(
            tuple(suffix for key in formats for suffix in formats[key].suffixes)
        )
        and not _BESIDE.fullmatch(stem_of(other))
    }
    return Group(path.parent, candidate.stem.base, [candidate], alone=len(neighbours) <= 1)


def _add_folder_step(candidate: Candidate, opened: AnyPath) -> None:
    """Let ``checkpoint-500/model.safetensors`` take its step from the folder."""
    folder = _holder(candidate)
    if candidate.stem.step is None and (folder != opened.parent) and _is_step_folder(folder):
        of = read_stem(folder.name)
        stem = candidate.stem
        candidate.stem = Stem(stem.base, of.step, of.unit, stem.word or of.word)
    version = _version(folder, opened)
    if candidate.stem.step is None and version is not None:
        candidate.stem = Stem(candidate.stem.base, version, VERSION)


def _version(folder: AnyPath, opened: AnyPath) -> int | None:
    """Return the number of the artifact version that a folder belongs to."""
    for place in (folder, *folder.parents):
        if (found := version_of(place)) is not None:
            return found[1]
        if place == opened or not is_container(place):
            return None
    return None


def _holder(candidate: Candidate) -> AnyPath:
    """Return the folder that holds a checkpoint and may be named for its step.

    Accelerate and Transformers keep a distributed checkpoint's folder inside that of the step:
    ``checkpoint-500/pytorch_model_fsdp_0/.metadata``.
    """
    folder = candidate.path.parent
    if folder.name == "variables" and is_container(folder):  # of a SavedModel
        return folder.parent
    inside = candidate.path.name in _OF_FOLDERS and not _is_step_folder(folder)
    return folder.parent if inside and _is_step_folder(folder.parent) else folder


def _is_step_folder(folder: AnyPath) -> bool:
    """Return whether a folder is named for a step.

    A bare number may be a seed's, and ``100-epochs`` a run's length: see `join_folders`.
    """
    stem = read_stem(folder.name)
    placed = stem.step is not None or stem.word in ("final", "last", "latest", "best")
    return (
        placed and not stem.base and not folder.name.isdecimal() and not counts_first(folder.name)
    )


def _root_of(candidate: Candidate, opened: AnyPath) -> AnyPath:
    root = _holder(candidate) if candidate.path.parent != opened else opened
    if candidate.format is not None and candidate.format.name == "orbax":
        folder = folder_of(candidate.path)
        if folder != opened and opened in folder.parents:
            root = folder.parent if folder.name.isdecimal() else folder
    while root != opened and (is_container(root) or _is_step_folder(root)):
        root = root.parent
    if root != opened and (version := version_of(root)) is not None:
        return root.parent / version[0]  # no folder: what all versions have in common
    return root


def _drop_derived(found: dict[AnyPath, list[Candidate]], opened: AnyPath) -> list[str]:
    """Leave out .npz files that were derived from the run's real checkpoints."""
    real = {
        root
        for root, files in found.items()
        if any(file.format is not None and file.format.name != "numpy" for file in files)
    }
    notices: list[str] = []
    for root in sorted(found):
        parts = {part.lower() for part in root.relative_to(opened).parts}
        below = any(root == other or other in root.parents for other in real)
        derived = real and parts & {"artifacts", "artefacts", "derived", "analysis", "results"}
        if not (below or derived):
            continue
        arrays = [f for f in found[root] if f.format is not None and f.format.name == "numpy"]
        if arrays:
            found[root] = [file for file in found[root] if file not in arrays]
            notices.append(
                f"{len(arrays)} .npz file(s) such as {arrays[0].path.relative_to(opened)} lie "
                "beside real checkpoints, are taken for results derived from them and left out; "
                "to analyse them as dumps, open their folder alone"
            )
        if not found[root]:
            del found[root]
    return notices


def _by_base(root: AnyPath, files: list[Candidate]) -> list[Group]:
    groups: dict[str, Group] = {}
    for file in sorted(files, key=lambda file: str(file.path)):
        base = file.stem.base
        groups.setdefault(base, Group(root, base)).files.append(file)
    for group in groups.values():
        group.alone = len(groups) == 1
    return [groups[base] for base in sorted(groups)]
