"""Draw the pictures of docs/figures.md, from the recorded series and the corpus.

Run ``python docs/make_figures.py`` (about two minutes on one core) after a figure or what it
shows has changed. A picture whose source is not there is left as it is, and named.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geomdiag as gd
from geomdiag import plots
from geomdiag.dynamics.corpus import load_corpus
from geomdiag.models import infer_task, snapshot
from geomdiag.training import load_recipe, train

ROOT = Path(__file__).resolve().parent.parent
SERIES, FIGURES = ROOT / "fixtures" / "series", ROOT / "docs" / "figures"
CORPUS = ROOT / "fixtures" / "corpus" / "corpus.zarr.zip"


def analysed(path: Path, task: str, *analyzers: str) -> Any:
    """Return the result of the one run that lies at a path."""
    tree = gd.analyze(gd.open_runs(path), task, analyzers=analyzers, workers=1)
    return next(iter(tree.children.values())).to_dataset()


def last_of(name: str, spec: str) -> gd.Snapshot:
    """Return the last checkpoint of a recorded series."""
    (series,) = gd.open_runs(SERIES / name).values()
    last = series[-1]
    return snapshot(last, infer_task(spec, last, series.config), config=series.config)


def of_a_product() -> Any:
    """Return the result of a run on a product of two cyclic groups, trained for it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(ROOT / "fixtures" / "recipes" / "group-Z5xZ6-mlp.toml")
        (run,) = train(recipe, folder, device="cpu")
        return analysed(run, "group:Z5xZ6", "spectrum")


def of_the_corpus(kind: str) -> Any:
    """Draw a figure of the corpus' modular additions."""
    return plots.FIGURES[kind].draw(load_corpus(CORPUS), task="modadd:p=31")


def checkpoint(kind: str, name: str, spec: str) -> Callable[[], Any]:
    """Return a function that draws a figure of a recorded series' last checkpoint."""
    return lambda: plots.FIGURES[kind].draw(last_of(name, spec))


TRANSFORMER, GRID = "modadd-p31-transformer", "comparison-5x5-transformer"
#: Pictures of checkpoints, which take a moment only.
QUICK = {
    "embedding": checkpoint("embedding", GRID, "comparison:5x5"),
    "embedding-helix": checkpoint("embedding", TRANSFORMER, "modadd:p=31"),
    "shepard": checkpoint("shepard", GRID, "comparison:5x5"),
    "circular-coordinate": checkpoint("circular-coordinate", TRANSFORMER, "modadd:p=31"),
}


def write() -> None:
    """Write all pictures."""
    FIGURES.mkdir(exist_ok=True)
    run = analysed(SERIES / TRANSFORMER, "modadd", "default", "topology")
    drawings: dict[str, Callable[[], Any]] = {
        **QUICK,
        **{
            kind: lambda kind=kind: plots.FIGURES[kind].draw(run)
            for kind in ("dynamics", "spectrum", "persistence", "forecast")
        },
        "dual-grid": lambda: plots.plot_dual_grid(of_a_product()),
    }
    for kind in ("generalisation", "interventions"):
        if CORPUS.is_file():
            drawings[kind] = lambda kind=kind: of_the_corpus(kind)
        else:
            sys.stderr.write(f"{kind} is left as it is: there is no {CORPUS}\n")
    for name, draw in drawings.items():
        plots.save_figure(draw(), FIGURES / f"{name}.svg")


if __name__ == "__main__":
    write()
