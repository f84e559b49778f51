"""Valid checkpoints damaged at random, and the judgement on how each is read.

Used by `test_fuzzing.py` and by `fuzz/run.py`. Whatever a file holds, reading it must end in
values or in a `CheckpointError`, within `SECONDS` and `MEMORY`.
"""

from __future__ import annotations

import io
import random
import re
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from checkpoint_makers import KINDS, Kind

from geomdiag.checkpoints import open_runs
from geomdiag.errors import CheckpointError

#: Bounds of one reading: seconds, and bytes of memory beyond what was in use.
SECONDS = 5.0
MEMORY = 500 << 20

#: Numbers at the edges of the types that sizes are stored in.
_EDGES = [0, 1, 2, 3, 127, 128, 255, 256, 65535, 65536]
_EDGES += [(1 << bits) + by for bits in (31, 32, 62, 63, 64) for by in (-1, 0, 1)]
_DECIMALS = [str(sign * edge) for edge in _EDGES for sign in (1, -1)] + ["1e400", "0.5", "null", ""]


def _bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _number(data: bytearray, rng: random.Random) -> None:
    """Write an extreme number over 1, 2, 4 or 8 bytes."""
    width = rng.choice([1, 2, 4, 8])
    value = rng.choice(_EDGES) % (1 << 8 * width)
    at = rng.randrange(len(data))
    data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))


def _decimal(data: bytearray, rng: random.Random) -> None:
    """Write an extreme number over one that is spelt out."""
    found = list(re.finditer(rb"-?\d+", data))
    if found:
        start, end = rng.choice(found).span()
        data[start:end] = rng.choice(_DECIMALS).encode()


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 4, 16, 64, 512, len(data)]))


def _cut(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    del data[start:end]


def _again(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    at = rng.randrange(len(data))
    data[at:at] = data[start:end]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice([b"\0", b"\xff", rng.randbytes(1)]) * rng.choice([1, 3, 8, 100, 5000])


def _move(data: bytearray, rng: random.Random) -> None:
    """Write one stretch over another."""
    start, end = _span(data, rng)
    at = rng.randrange(len(data))
    data[at : at + end - start] = data[start:end]


_DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    *(_bit, _byte, _byte, _number, _number, _number),
    *(_decimal, _decimal, _cut, _again, _insert, _move),
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to four damages, in a member of it where it is a zip."""
    if data.startswith(b"PK") and rng.random() < 0.6:
        try:
            return _inside(data, rng)
        except (zipfile.BadZipFile, ValueError, IndexError, NotImplementedError):
            pass
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if found:
            rng.choice(_DAMAGES)(found, rng)
    return bytes(found)


def _inside(data: bytes, rng: random.Random) -> bytes:
    """Damage one member and write the archive again, so that its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = rng.randrange(len(members))
    out = io.BytesIO()
    how = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(out, "w", how) as archive:
        for i, (info, held) in enumerate(members):
            name = info.filename
            if i == chosen and rng.random() < 0.1:
                name = damaged(name.encode(), rng).decode("latin-1") or "x"
            elif i == chosen:
                held = damaged(held, rng)
            archive.writestr(name, held)
    return out.getvalue()


@dataclass(frozen=True)
class Seed:
    """A valid checkpoint, kept in memory: relative paths to bytes."""

    kind: str
    path: str
    files: dict[str, bytes]
    data: tuple[str, ...]

    def write(self, folder: Path, rng: random.Random | None = None) -> Path:
        """Write it into the empty `folder`, damaged if `rng` is given; return what to open."""
        if folder.exists():
            shutil.rmtree(folder)
        chosen = rng.choice(self.data) if rng else ""
        for name, data in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(damaged(data, rng) if rng and name == chosen else data)
        return folder / self.path


def seed_of(kind: str, folder: Path) -> Seed:
    """Write a small valid checkpoint and keep it."""
    of: Kind = KINDS[kind]
    state: dict[str, np.ndarray | torch.Tensor] = {
        "embed.weight": np.arange(60, dtype=np.float32).reshape(12, 5) / 7,
        "block.0.bias": np.linspace(-1, 1, 9),
        "mask": np.tril(np.ones((3, 3), dtype=bool)),
        "scale": np.array(2.5, dtype=np.float32),
    }
    narrow = torch.float16 if "bfloat16" in of.lacks else torch.bfloat16
    state["narrow"] = torch.ones(2, 3, dtype=narrow)
    state["turned"] = state["narrow"].t()
    if of.empty:  # of another's memory: torch.export wants that
        state["empty"] = state["narrow"][:0]
    beside = {"step": 3} if "step" in of.stores else {}
    if "losses" in of.stores:
        beside |= {"train_loss": 0.5}  # type: ignore[dict-item]
    folder.mkdir(parents=True, exist_ok=True)
    path = of.write(folder / f"net_step_4{of.suffix}", state, **beside)
    every = [each for each in folder.rglob("*") if each.is_file()]
    return Seed(
        kind,
        path.relative_to(folder).as_posix(),
        {each.relative_to(folder).as_posix(): each.read_bytes() for each in every},
        tuple(each.relative_to(folder).as_posix() for each in of.files(path)),
    )


def read_all(path: Path) -> str:
    """Read all there is at `path`; return ``"read"`` or ``"refused"``, or raise what was raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for series in open_runs(path).values():
                for checkpoint in series:
                    tensors = checkpoint.tensors
                    for name, spec in tensors.specs().items():
                        value = tensors[name]
                        if value.shape != spec.shape:
                            raise AssertionError(f"{name!r}: {value.shape} is not {spec.shape}")
                        if spec.shape and spec.shape[0]:
                            tensors.rows(name, [spec.shape[0] - 1])
    except CheckpointError:
        return "refused"
    return "read"


def memory_in_use(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise OSError(f"no {name} in /proc/self/status")


@contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """Raise `AssertionError` if what is done within takes longer or more memory (Linux).

    The time is that of the processor: another process' work is not held against a file.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the greatest memory so far is forgotten
    before, start = memory_in_use("VmRSS"), time.process_time()
    yield
    took, used = time.process_time() - start, memory_in_use("VmHWM") - before
    if took > seconds or used > memory:
        raise AssertionError(
            f"took {took:.1f} s and {used >> 20} MiB; allowed are {seconds:.0f} s and "
            f"{memory >> 20} MiB"
        )
