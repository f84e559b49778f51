"""Damage valid checkpoints of every format at random and read them, for as long as is given.

    python fuzz/run.py --seconds 60                  every format, 60 s each
    python fuzz/run.py --seconds 600 --kinds hdf5    one of them
    python fuzz/run.py --kinds hdf5 --case 12345     one case again, with its traceback

Each case must give values or a CheckpointError within the bounds of tests/checkpoints/fuzzing.py.
What fails is kept under --out with its traceback. Needs the extra test-formats; kinds whose
writer is missing are named and left out. Exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "checkpoints"))

import fuzzing
from checkpoint_makers import KINDS

#: Address space of a child beyond what it has after a first reading.
SPACE = 4 << 30
#: Seconds after which a case that does not end is ended with its process.
HARD = 60
#: Exit code of a child that came to its end and had cases that failed.
FAILED = 3


def _limit() -> None:
    used = fuzzing.memory_in_use("VmSize")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, most))


def child(kind: str, first: int, until: float, out: Path) -> int:
    """Run the cases `first`, ... and print one line of counts; return how many failed."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        try:
            seed = fuzzing.seed_of(kind, work / "seed")
        except BaseException as error:  # pytest's skip is none of Exception
            print(f"{kind}: left out, {error}", flush=True)
            return 0
        if fuzzing.read_all(seed.write(work / "case")) != "read":
            print(f"{kind}: the valid checkpoint is refused", flush=True)
            return 1
        _limit()
        counts: Counter[str] = Counter()
        case, slowest = first, 0.0
        last = out / f"{kind}.last"
        while time.time() < until:
            last.write_text(str(case))
            faulthandler.dump_traceback_later(HARD, exit=True)
            start = time.perf_counter()
            try:
                path = seed.write(work / "case", random.Random(case))
                with fuzzing.bounded():
                    counts[fuzzing.read_all(path)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                counts["failed"] += 1
                keep(out, kind, case, work / "case", traceback.format_exc())
            slowest = max(slowest, time.perf_counter() - start)
            faulthandler.cancel_dump_traceback_later()
            case += 1
        told = ", ".join(f"{counts[key]} {key}" for key in ("read", "refused", "failed"))
        print(f"{kind}: {case - first} cases, {told}; slowest {slowest:.2f} s", flush=True)
        return counts["failed"]


def keep(out: Path, kind: str, case: int, folder: Path, why: str) -> None:
    """Keep a case that failed, unless twenty of its kind are kept."""
    if len(list(out.glob(f"{kind}-*.txt"))) >= 20:
        return
    (out / f"{kind}-{case}.txt").write_text(why)
    if folder.exists():
        shutil.copytree(folder, out / f"{kind}-{case}", dirs_exist_ok=True)


def supervise(kind: str, seconds: float, first: int, out: Path) -> int:
    """Run a child, and another one after each that died; return how many cases failed."""
    until, died = time.time() + seconds, 0
    while True:
        last = out / f"{kind}.last"
        last.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--child", kind, "--first", str(first)]
        command += ["--until", str(until), "--out", str(out)]
        ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        if ran.returncode in (0, FAILED):
            return died + (ran.returncode == FAILED)
        died += 1
        case = int(last.read_text()) if last.exists() else first
        why = f"the process ended with {ran.returncode} in case {case}\n{ran.stderr[-20_000:]}"
        print(f"{kind}: {why.splitlines()[0]}; {why.splitlines()[-1][:200]}", flush=True)
        (out / f"{kind}-{case}.txt").write_text(why)
        first = case + 1
        if time.time() >= until or died >= 20:
            return died


def main() -> int:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=1, help="kinds at a time")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--case", type=int, help="run this one case of one kind, in this process")
    parser.add_argument("--child", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.child:
        return FAILED if child(given.child, given.first, given.until, given.out) else 0
    if given.case is not None:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            seed = fuzzing.seed_of(given.kinds[0], work / "seed")
            path = seed.write(given.out / "case", random.Random(given.case))
            with fuzzing.bounded():
                print(path, fuzzing.read_all(path))
        return 0
    with ThreadPoolExecutor(given.jobs) as pool:
        failed = list(
            pool.map(lambda k: supervise(k, given.seconds, given.first, given.out), given.kinds)
        )
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
