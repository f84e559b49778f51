"""Coverage-guided fuzzing of the readers that are written in Python, with atheris.

    pip install atheris
    python fuzz/atheris_formats.py --format safetensors --seconds 60

atheris follows which lines of geomdiag an input reaches and keeps those that reach new ones. Each
input is read as a file of the format; anything but values or a CheckpointError ends the run with
exit code 77, the input is kept as crash-* in the current folder. Formats that are read by other
libraries (torch, h5py, tensorstore) are for fuzz/run.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "checkpoints"))

with atheris.instrument_imports(include=["geomdiag.checkpoints"]):
    import fuzzing

    from geomdiag.checkpoints import FORMATS

#: Kinds of `checkpoint_makers` whose bytes geomdiag itself takes apart.
KINDS = ("safetensors", "numpy", "flax", "onnx", "torchscript", "torch-export", "equinox")


def main() -> None:
    """Fuzz one format for a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=KINDS, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="at most; CI bounds them")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    given = parser.parse_args()
    with atheris.instrument_imports(include=["geomdiag.checkpoints"]):
        FORMATS[given.format]  # loaded here, so that it is followed

    folder = Path(tempfile.mkdtemp(prefix="geomdiag-fuzz-"))
    seed = fuzzing.seed_of(given.format, folder / "seed")
    corpus = folder / "corpus"
    corpus.mkdir()
    ((name, data),) = seed.files.items()
    (corpus / "valid").write_bytes(data)
    path = folder / "case" / name
    path.parent.mkdir()

    def one(case: bytes) -> None:
        path.write_bytes(case)
        fuzzing.read_all(path)

    options = [f"-max_total_time={given.seconds}", "-timeout=30", "-rss_limit_mb=2048"]
    options += [f"-runs={given.runs}", f"-seed={given.seed}"]
    atheris.Setup([sys.argv[0], *options, "-max_len=20000", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
