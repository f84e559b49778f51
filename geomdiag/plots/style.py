"""How figures look, and how they are written: one style, the same bytes each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from geomdiag.errors import GeomdiagError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BANDS",
    "COLOURS",
    "CYCLIC",
    "MARKERS",
    "STYLE",
    "WIDTH",
    "axes_for",
    "legend_beside",
    "pyplot",
    "save_figure",
    "settled",
    "style",
    "styled",
]

BLUE, VERMILION, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
#: Those of Okabe and Ito's colours that stand out from white by 3:1; told apart by colour-blind
#: readers (a test simulates them). Markers differ as well.
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, BLACK)
MARKERS = ("o", "s", "D", "^", "v")
#: Tints behind the stages, ever darker; each band is numbered, too.
BANDS = {
    "memorisation": "#EFEFEF",
    "symmetry_acquisition": "#CFE3F3",
    "geometric_organisation": "#A5D8C3",
}
GREY, PALE = "#666666", "#CCCCCC"
#: Colour maps for quantities, and for angles.
SEQUENTIAL, CYCLIC = "cividis", "twilight"

#: Inches; 700 pixels at the style's resolution.
WIDTH = 7.0
#: What is set while a figure is made or written.
STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    # text stays text (small files), and names inside the file are no random ones
    "svg.fonttype": "none",
    "svg.hashsalt": "geomdiag",
}

#: Format to what would make two files of one picture differ.
_UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

P = ParamSpec("P")
R = TypeVar("R")


def pyplot() -> Any:
    """Return `matplotlib.pyplot`.

    Raises
    ------
    GeomdiagError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise GeomdiagError(
            f"figures need matplotlib, which cannot be imported ({error}); install it with: "
            "pip install 'geomdiag[plots]'"
        ) from error
    return plt


@contextmanager
def style() -> Iterator[None]:
    """Set geomdiag's style for what is drawn or written inside the block."""
    with pyplot().rc_context(STYLE):
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Return `draw`, in geomdiag's style where it makes its own Axes."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs.get("ax") is not None:
            return draw(*args, **kwargs)
        with style():
            return draw(*args, **kwargs)

    return inside


def axes_for(
    ax: Axes | Sequence[Axes] | None,
    names: Sequence[str],
    size: tuple[float, float],
    *,
    columns: int = 1,
    **layout: Any,
) -> list[Axes]:
    """Return one Axes for each of the named panels: those given, or new ones.

    Raises
    ------
    GeomdiagError
        If another number of Axes is given.
    """
    if ax is None:
        rows = -(-len(names) // columns)
        figure, grid = pyplot().subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False, **layout
        )
        found = list(grid.flat)
        for spare in found[len(names) :]:
            figure.delaxes(spare)
        return found[: len(names)]
    given: list[Axes] = list(np.atleast_1d(np.asarray(ax, dtype=object)).flat)
    if len(given) != len(names):
        raise GeomdiagError(
            f"ax: found {len(given)} Axes, expected {len(names)}, one for each of: "
            f"{', '.join(names)}"
        )
    return given


def legend_beside(ax: Axes, **options: Any) -> None:
    """Put the legend to the right of the Axes, where it covers nothing."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, alignment="left",
            **options,
        )  # fmt: skip


@contextmanager
def settled(figure: Figure) -> Iterator[None]:
    """Lay a figure out, and hold it there inside the block.

    The solver behind constrained layout leaves other last digits from time to time, and names
    inside an SVG are made of them.
    """
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    figure.draw_without_rendering()
    held = [(one, one.get_in_layout()) for one in figure.axes]
    figure.set_layout_engine("none")
    try:
        for one, _ in held:
            one.set_position(np.round(one.get_position(original=True).bounds, 6).tolist())
        yield
    finally:
        for one, in_layout in held:
            one.set_in_layout(in_layout)
        figure.set_layout_engine(engine)


def save_figure(drawn: Axes | Iterable[Axes], path: str | os.PathLike[str]) -> Path:
    """Write the figure that Axes belong to; the same figure gives the same bytes.

    Parameters
    ----------
    drawn : Axes or iterable of Axes
        What a function of `geomdiag.plots` returned.
    path : path
        File to write; its suffix (``.svg``, ``.png`` or ``.pdf``) is the format.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    GeomdiagError
        If the suffix names no format.
    StoreError
        If the file cannot be written.
    """
    from geomdiag._replace import plain_errors, replacing

    target = Path(path).resolve()
    kind = check_format(target)
    figure: Any = next(iter(np.atleast_1d(np.asarray(drawn, dtype=object)).flat)).figure
    with plain_errors(target), replacing(target) as temporary, style(), settled(figure):
        # what is an image inside a drawing is to be sharp on any screen
        dpi = "figure" if kind == "png" else 300
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=_UNDATED[kind])
    return target


def check_format(path: Path) -> str:
    """Return the format that a file's suffix names.

    Raises
    ------
    GeomdiagError
        If it names none.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _UNDATED:
        raise GeomdiagError(
            f"{path.name}: found the suffix {path.suffix!r}, expected one of "
            f"{', '.join('.' + name for name in _UNDATED)}"
        )
    return kind
