"""What one embedding of a large checkpoint costs, in each way in which each format comes.

    python benchmarks/formats.py                     files of 268 MB
    python benchmarks/formats.py --gigabytes 4       of 4 GB, zeros: left out is what packs zeros
    python benchmarks/formats.py --kinds pytorch onnx

Each file is written by its own library and holds an embedding of a quarter of the file, a small
one of 58 kB (113 tokens, 128 wide), and the rest. Each embedding is read in a fresh process that
has read a small file of the same kind before, from a file that the kernel holds nothing of.

Counted are:

read      bytes of read calls (rchar of /proc/self/io)
mapped    bytes of the file that are mapped into the process at the end, as resident pages: what
          was touched and what the kernel mapped around it; for formats that map their file, 0 in
          the column read says nothing
disk      bytes that the file system fetched (read_bytes of /proc/self/io): read calls and
          mapped pages alike, with what it reads ahead; 0 on a file system in memory
memory    growth of the resident memory to its greatest: the array, all copies, mapped pages. The
          latter are the kernel's own copy of the file, which it takes back when memory is short
floor     read + mapped for the small embedding: directory and description of all tensors

and held against the bounds: read + mapped <= 1.2 x the embedding + the floor,
memory - mapped <= the embedding as an array + 200 MB. Exit code 1 if a bound is broken by a kind
that is said to be lazy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "checkpoints"))

#: Kinds whose writers need a multiple of the file as memory, or whose files are limited to 2 GB.
SMALL_ONLY = {
    "flax": "its writer builds the file in memory",
    "onnx": "one file holds at most 2 GB: see onnx-external",
    "hdf5-compressed": "packs zeros",
    "orbax": "packs zeros",
    "orbax-files": "packs zeros",
    "orbax-zarr3": "packs zeros",
}
ROWS, WIDTH = 113, 128
MEMORY = 200e6
RATIO = 1.2


def write(kind: str, path: Path, nbytes: float) -> None:
    """Write a checkpoint of `nbytes` of float32; a quarter is its embedding."""
    import torch
    from checkpoint_makers import KINDS

    width = 1024
    rows = int(nbytes) // 4 // width
    make = torch.zeros if nbytes > 1e9 else torch.randn
    rest = [make(rows // 4, width) for _ in range(3)]
    state = {f"block.{i}": value for i, value in enumerate(rest)}
    state["embed"] = make(rows // 4, width)
    state["small"] = torch.ones(ROWS, WIDTH)
    KINDS[kind].write(path, state)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    return 0


def _io(name: str) -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def measure(kind: str, warm: Path, path: Path, which: str) -> dict[str, float]:
    """Read one embedding of `path` in this process and say what it took."""
    import ml_types
    from checkpoint_makers import KINDS

    from geomdiag.checkpoints import open_runs

    names = KINDS[kind].named(["block.0", "block.1", "block.2", "embed", "small"])

    def read(file: Path) -> Any:
        (series,) = open_runs(file).values()
        tensors = series[0].tensors
        return tensors, tensors[names[which]]

    read(warm)
    home = path.parent
    ml_types.forget(home)
    Path("/proc/self/clear_refs").write_text("5")
    resident, calls, disk = _status("VmRSS"), _io("rchar"), _io("read_bytes")
    start = time.perf_counter()
    tensors, array = read(path)
    took = time.perf_counter() - start
    result = {
        "seconds": took,
        "disk": _io("read_bytes") - disk,
        "read": _io("rchar") - calls,
        "memory": _status("VmHWM") - resident,
        "mapped": ml_types.mapped_bytes(home),
        "stored": array.size * 4,
        "array": array.nbytes,
    }
    del tensors
    return result


def child(*words: str) -> str:
    """Run a step of this file in a fresh process and return its last line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, env=environment
    )
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1] if ran.stderr else "no output")
    return ran.stdout.strip().splitlines()[-1] if ran.stdout.strip() else ""


def row(kind: str, nbytes: float, folder: Path) -> tuple[str, bool]:
    """Return the table's line of one kind, and whether it keeps the bounds."""
    from checkpoint_makers import KINDS

    suffix = KINDS[kind].suffix
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        big = Path(temporary) / "big" / f"net_step_1{suffix}"
        warm = Path(temporary) / "warm" / f"net_step_1{suffix}"
        for path, size in ((big, nbytes), (warm, 1e6)):
            path.parent.mkdir()
            child("--write", kind, str(path), str(size))
        total = sum(f.stat().st_size for f in big.parent.rglob("*") if f.is_file())
        small = json.loads(child("--measure", kind, str(warm), str(big), "small"))
        found = json.loads(child("--measure", kind, str(warm), str(big), "embed"))
    floor = small["read"] + small["mapped"]
    moved = found["read"] + found["mapped"]
    kept = moved <= RATIO * found["stored"] + floor
    kept &= found["memory"] - found["mapped"] <= found["array"] + MEMORY
    verdict = "ok" if kept else "TOO MUCH" if KINDS[kind].lazy else "read as a whole"
    numbers = [found[key] / 1e6 for key in ("stored", "read", "mapped", "disk", "memory")]
    return (
        f"{kind:20} {total / 1e6:7.0f} "
        + " ".join(f"{number:8.1f}" for number in numbers)
        + f" {moved / found['stored']:6.3f} {floor / 1e3:7.0f} kB {small['memory'] / 1e6:6.1f}"
        + f" {found['seconds']:7.3f} {small['seconds'] * 1e3:6.0f}   "
        + verdict,
        kept or not KINDS[kind].lazy,
    )


def main() -> int:
    """Print the table; return 1 if a bound is broken."""
    from checkpoint_makers import KINDS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=0.268)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--folder", type=Path, help="where the files are written")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write[0], Path(given.write[1]), float(given.write[2]))
        return 0
    if given.measure:
        kind, warm, path, which = given.measure
        print(json.dumps(measure(kind, Path(warm), Path(path), which)))
        return 0
    print(
        f"{'MB':20} {'file':>7} {'embed':>8} {'read':>8} {'mapped':>8} {'disk':>8} {'memory':>8} "
        f"{'ratio':>6} {'floor':>10} {'memory':>6} {'s':>7} {'ms':>6}\n"
        f"{'':20} {'':7} {'large embedding':>44} {'':6} {'small embedding':>17}"
    )
    kept = True
    for kind in given.kinds:
        if given.gigabytes > 1 and kind in SMALL_ONLY:
            print(f"{kind:20} left out: {SMALL_ONLY[kind]}", flush=True)
            continue
        try:
            line, fine = row(kind, given.gigabytes * 1e9, given.folder)
        except RuntimeError as error:
            print(f"{kind:20} left out: {error}", flush=True)
            continue
        kept &= fine
        print(line, flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
