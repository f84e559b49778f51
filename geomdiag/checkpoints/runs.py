"""A path → the runs it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from geomdiag.checkpoints.assemble import Opened, assemble, open_group
from geomdiag.checkpoints.beside.options import Options, read_options
from geomdiag.checkpoints.beside.splits import Split, parse_split, read_split_file
from geomdiag.checkpoints.coordinates import contradictions, coordinates_of, names_above
from geomdiag.checkpoints.discover import Group, find_groups, is_container, is_described, stem_of
from geomdiag.checkpoints.formats.contract import NotACheckpointError, read_head
from geomdiag.checkpoints.numbered import join_numbered, siblings_of
from geomdiag.checkpoints.numbered_folders import join_folders
from geomdiag.checkpoints.ordering import signature
from geomdiag.checkpoints.places.addresses import as_path, is_address
from geomdiag.checkpoints.places.archived import ENDINGS, archive_stem, holds_files, open_archive
from geomdiag.checkpoints.places.paths import AnyPath, RemotePath
from geomdiag.checkpoints.series import Series
from geomdiag.errors import CheckpointError, UnsafeCheckpointError
from geomdiag.registry import Registry

__all__ = ["FORMATS", "Runs", "open_runs"]

FORMATS = Registry(
    "format",
    "geomdiag.formats",
    {
        "pytorch": "geomdiag.checkpoints.formats.pytorch:FORMAT",
        "safetensors": "geomdiag.checkpoints.formats.safetensors:FORMAT",
        "numpy": "geomdiag.checkpoints.formats.numpy:FORMAT",
        "hdf5": "geomdiag.checkpoints.formats.hdf5:FORMAT",
        "keras": "geomdiag.checkpoints.formats.keras:FORMAT",
        "torch-distributed": "geomdiag.checkpoints.formats.distributed:FORMAT",
        "flax": "geomdiag.checkpoints.formats.flax:FORMAT",
        "equinox": "geomdiag.checkpoints.formats.equinox:FORMAT",
        "orbax": "geomdiag.checkpoints.formats.orbax:FORMAT",
        "onnx": "geomdiag.checkpoints.formats.onnx:FORMAT",
        "tensorflow": "geomdiag.checkpoints.formats.tensorflow:FORMAT",
        "torchscript": "geomdiag.checkpoints.formats.torchscript:FORMAT",
        "torch-export": "geomdiag.checkpoints.formats.torch_export:FORMAT",
    },
)


class Runs(Mapping[str, Series]):
    """Runs by name, in order of name.

    Attributes
    ----------
    path : Path or RemotePath
        What was opened.
    notices : list of str
        What concerns no single run: files left out.
    """

    def __init__(self, path: AnyPath, series: Mapping[str, Series], notices: Sequence[str]) -> None:
        self.path = path
        self.notices = list(notices)
        self._series = dict(series)

    def __getitem__(self, name: str) -> Series:
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        lines = [f"<Runs in {self.path}>", *(f"  {series!r}" for series in self.values())]
        return "\n".join(lines)


def open_runs(
    path: str | os.PathLike[str] | RemotePath,
    *,
    split: Split | str | Path | None = None,
    allow_pickle: bool = False,
    ignore: Callable[[Any], bool] | None = None,
) -> Runs:
    """Open a checkpoint file, a run's folder or a folder of runs, lazily.

    Nothing but names, shapes, step numbers and recorded losses is read; tensors are read when
    they are asked for.

    Parameters
    ----------
    path : str or path
        File, folder, or zip or tar archive of a folder; of this machine, or as text an address
        (``s3://bucket/run``, ``https://server/run.zip``) that fsspec can reach.
    split : Split, str or Path, optional
        Train/held-out split for all runs, instead of any found; text as in `parse_split`.
    allow_pickle : bool
        Read files whose pickles run code. Only for files whose origin you trust.
    ignore : callable, optional
        ``ignore(path)`` tells of a file under `path` whether it is to be passed over as if it
        were not there, such as one that is being written.

    Returns
    -------
    Runs
        One `Series` a run. A checkpoint that cannot be opened is there with its `error`.

    Raises
    ------
    CheckpointError
        If there are no checkpoints or none can be opened, if two runs are mixed in one folder,
        or if two checkpoints claim one step; if an address cannot be reached, or its package is
        missing; if an archive is damaged or would lead out of itself.
    UnsafeCheckpointError
        If every checkpoint would run code and `allow_pickle` is False.
    SplitError
        If `split` cannot be understood.
    OptionsError
        If a ``geomdiag.toml`` beside the runs cannot be understood.

    Examples
    --------
    >>> runs = open_runs("runs/")  # doctest: +SKIP
    >>> runs["seed0"].steps  # doctest: +SKIP
    """
    place = _place_of(path)
    try:
        return _open(place, split, allow_pickle, ignore)
    except OSError as error:
        if isinstance(place, Path):
            raise
        raise CheckpointError(f"{place}: cannot be read: {error}") from error


def name_of(value: str | os.PathLike[str]) -> str:
    """Return what a result of the runs at a path or address is called."""
    if is_address(value):
        last = os.fspath(value).partition("?")[0].rstrip("/").rpartition("/")[2]
        is_file = last.lower().endswith(_claimed())
    else:
        path = Path(value).expanduser().resolve()
        last, is_file = path.name, path.is_file()
        if path.is_dir():
            return last
    stem = archive_stem(last)
    return PurePath(last).stem if is_file and stem == last else stem


def _claimed() -> tuple[str, ...]:
    """Return the endings of the formats' files."""
    return tuple(suffix.lower() for key in FORMATS for suffix in FORMATS[key].suffixes)


def _place_of(path: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Return what is to be opened; of an archive of files, its folder."""
    place = as_path(path)
    if not place.exists() and (index := place.parent / f"{place.name}.index").is_file():
        return index  # how TensorFlow names a checkpoint: the files' common beginning
    if not place.is_file() or place.name.lower().endswith(_claimed()):
        return place
    return open_archive(place) if holds_files(place, read_head(place)) else place


def _open(
    path: AnyPath,
    split: Split | str | Path | None,
    allow_pickle: bool,
    ignore: Callable[[Any], bool] | None,
) -> Runs:
    if split is not None and not isinstance(split, Split):
        split = parse_split(split)
    if not path.is_file():
        read_options([path])  # what is wrong with it is told before everything is opened
    groups, notices, seen = find_groups(path, FORMATS, ignore)
    opened: list[Opened] = []
    others: list[NotACheckpointError] = []
    for group in groups:
        try:
            opened.append(open_group(group, allow_pickle=allow_pickle))
        except NotACheckpointError as error:
            others.append(error)
    notices += [f"left out: {error}" for error in others]
    _refuse_nothing(path, opened, others, seen)

    def asked(group: Group) -> str:
        return _options_of(path, group).numbers

    if path.is_file():
        _number_by_siblings(opened[0], allow_pickle, asked)
    else:
        opened, untold = join_folders(opened, path, asked)
        notices += untold
    opened = _adopt(join_numbered(opened, asked))
    names = _names(path, [each.group for each in opened])
    series: dict[str, Series] = {}
    for name, each in sorted(zip(names, opened, strict=True), key=lambda pair: pair[0]):
        of = each.group.files[0].path if path.is_file() else _path_of(each.group)
        options = _options_of(path, each.group)
        said = _split_of(options) if split is None else split
        series[name] = assemble(each, name=name, path=of, split=said)
        series[name].options = options
        _set_coordinates(series[name], path, each.group)
    return Runs(path, series, notices)


def _options_of(path: AnyPath, group: Group) -> Options:
    """Return what ``geomdiag.toml`` says, from the opened folder down to the run's own."""
    above = [one for one in group.root.parents if one == path or path in one.parents]
    folders = [group.root, *above]
    if is_container(folders[-1]):  # checkpoints/ of a run
        folders.append(folders[-1].parent)
    return read_options(folders[::-1])


def _split_of(options: Options) -> Split | None:
    if not options.split:
        return None
    if isinstance(options.split, str):
        return parse_split(options.split)
    return read_split_file(options.split)


def _set_coordinates(series: Series, path: AnyPath, group: Group) -> None:
    """Read the settings that the names of a run's folders and file spell out."""
    top = path.resolve()
    names = names_above(top.parent if path.is_file() else top)
    if not path.is_file():
        names += group.root.relative_to(path).parts
    series.coordinates, notices = coordinates_of([*names, group.base])
    series.notices += [*notices, *contradictions(series.coordinates, series.config)]


def _refuse_nothing(
    path: AnyPath,
    opened: Sequence[Opened],
    others: Sequence[NotACheckpointError],
    seen: Mapping[str, int],
) -> None:
    """Raise if there is no checkpoint that could be opened."""
    if any(each.items for each in opened):
        return
    failures = [error for each in opened for _, error in each.failures]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        unsafe = all(isinstance(error, UnsafeCheckpointError) for error in failures)
        kind = UnsafeCheckpointError if unsafe else CheckpointError
        listed = "".join(f"\n- {error}" for error in failures[:5])
        more = f"\n- and {len(failures) - 5} more" if len(failures) > 5 else ""
        raise kind(f"{path}: none of the {len(failures)} checkpoints can be opened:{listed}{more}")
    if others:
        raise others[0]
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(seen.items()))
    known = "; ".join(f"{name} ({', '.join(FORMATS[name].suffixes)})" for name in FORMATS)
    raise CheckpointError(
        f"{path}: there are no checkpoints in this folder; found {kinds or 'no files at all'}. "
        f"Known formats: {known}. Point to the folder that holds them{_or_to_an_archive(seen)}."
    )


def _or_to_an_archive(seen: Mapping[str, int]) -> str:
    packed = any(f".{ending.rpartition('.')[2]}" in seen for ending in ENDINGS)
    return ", or to an archive itself: those in a folder are not looked into" if packed else ""


def _number_by_siblings(alone: Opened, allow_pickle: bool, asked: Callable[[Group], str]) -> None:
    """Give a file opened by itself the step that it has when its whole folder is opened."""
    if len(alone.items) != 1 or alone.items[0].entry.steps or alone.items[0].entry.member:
        return
    if not isinstance(alone.group.files[0].path, Path):
        return  # its siblings would have to be fetched
    family = [alone]
    for path in siblings_of(alone.group.files[0].path):
        try:
            groups, _, _ = find_groups(path, FORMATS)
            family.append(open_group(groups[0], allow_pickle=allow_pickle))
        except (CheckpointError, OSError):
            continue
    for run in join_numbered(family, asked):
        if run.guess and alone.items[0] in run.items:
            alone.notices.append(run.guess)


def _adopt(opened: list[Opened]) -> list[Opened]:
    """Let ``special.pt`` beside ``step_0.pt``, ``step_10.pt``, ... belong to that series.

    Only where one series in the folder has numbers, and the other file is one unnumbered
    checkpoint of the very same tensors: it is then placed by the step stored inside, or left
    out with a notice.
    """
    by_root: dict[AnyPath, list[Opened]] = {}
    for each in opened:
        by_root.setdefault(each.group.root, []).append(each)
    result: list[Opened] = []
    for members in by_root.values():
        numbered = [
            each
            for each in members
            if not each.joined and sum(item.file.stem.step is not None for item in each.items) >= 2
        ]
        if len(numbered) == 1 and numbered[0].group.base == "":
            home = numbered[0]
            expected = signature(home.items[0].entry)
            for each in list(members):
                lone = each is not home and len(each.items) == 1 and not each.failures
                if lone and each.items[0].file.stem.step is None:
                    item = each.items[0]
                    if signature(item.entry) == expected and not item.entry.member:
                        home.items.append(item)
                        home.group.files.append(item.file)
                        home.notices += each.notices
                        members.remove(each)
            home.group.alone = len(members) == 1
        result += members
    return result


def _path_of(group: Group) -> AnyPath:
    """Return the run's folder, or its file if it is the only one and not alone there."""
    if not group.alone and len(group.files) == 1:
        return group.files[0].path
    if not group.root.exists():  # versions of an artifact
        return group.root.parent
    return group.root if group.root.name else group.root.resolve()  # "." has no name


def _names(path: AnyPath, groups: Sequence[Group]) -> list[str]:
    """Return each run's name: its folder relative to `path`, and its stem where it shares one."""
    if path.is_file():
        return [stem_of(path)]
    top = path.resolve()
    above = top  # the run's folder, where that is not the opened one
    while is_container(above) and above != above.parent:
        above = above.parent
        if is_described(above):
            top = above
    names: list[str] = []
    for group in groups:
        relative = group.root.relative_to(path).as_posix()
        own = group.base or stem_of(group.files[0].path)
        if relative == ".":
            names.append(top.name or "run" if group.alone else own)
        else:
            names.append(relative if group.alone else f"{relative}/{own}")
    # A file and a folder of one name: the file keeps its suffix.
    for i, group in enumerate(groups):
        if not group.alone and names.count(names[i]) > 1:
            names[i] += group.files[0].path.suffix
    return names
