"""Figures, one function each: a result (or arrays) in, matplotlib Axes out.

>>> from geomdiag import plots
>>> plots.plot_dynamics(tree["NAME_OF_A_RUN"].to_dataset())     # doctest: +SKIP

Every function takes the Axes to draw into as ``ax`` and makes a figure of its own style where
there is none; `save_figure` writes it. matplotlib is an extra (``geomdiag[plots]``) and is
imported when something is drawn. A new figure is one file with a `Figure` and one line in
`FIGURES`, or, from another package, an entry point of the group ``geomdiag.figures``.
"""

from geomdiag.plots.circular_coordinate import plot_circular_coordinate
from geomdiag.plots.contract import Figure
from geomdiag.plots.dual_grid import plot_dual_grid
from geomdiag.plots.dynamics import plot_dynamics
from geomdiag.plots.embedding import plot_embedding
from geomdiag.plots.forecast import plot_forecast
from geomdiag.plots.generalisation import plot_generalisation
from geomdiag.plots.interventions import plot_interventions
from geomdiag.plots.persistence import plot_persistence
from geomdiag.plots.shepard import plot_shepard
from geomdiag.plots.spectrum import plot_spectrum
from geomdiag.plots.style import STYLE, save_figure, style
from geomdiag.plots.tokens import Tokens, edges_of, tokens_of
from geomdiag.registry import Registry

__all__ = [
    "FIGURES",
    "STYLE",
    "Figure",
    "Tokens",
    "edges_of",
    "plot_circular_coordinate",
    "plot_dual_grid",
    "plot_dynamics",
    "plot_embedding",
    "plot_forecast",
    "plot_generalisation",
    "plot_interventions",
    "plot_persistence",
    "plot_shepard",
    "plot_spectrum",
    "save_figure",
    "style",
    "tokens_of",
]

_HERE = "geomdiag.plots."
FIGURES = Registry(
    "figure",
    "geomdiag.figures",
    {
        "dynamics": _HERE + "dynamics:FIGURE",
        "embedding": _HERE + "embedding:FIGURE",
        "spectrum": _HERE + "spectrum:FIGURE",
        "dual-grid": _HERE + "dual_grid:FIGURE",
        "generalisation": _HERE + "generalisation:FIGURE",
        "persistence": _HERE + "persistence:FIGURE",
        "circular-coordinate": _HERE + "circular_coordinate:FIGURE",
        "shepard": _HERE + "shepard:FIGURE",
        "forecast": _HERE + "forecast:FIGURE",
        "interventions": _HERE + "interventions:FIGURE",
    },
)
