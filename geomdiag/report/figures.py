"""Figures as SVG inside the page: light, of the page's colours, told in words as well."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomdiag.errors import GeomdiagError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["figures_of_run", "figures_of_runs"]

#: Runs up to which each is given every figure; more of them only the first one: size and time.
ALL_FIGURES = 8


def figures_of_run(dataset: xr.Dataset, *, prefix: str, few: bool = False) -> list[str]:
    """Return a run's figures as HTML, or why there is none.

    Parameters
    ----------
    dataset : xr.Dataset
        Result of one run.
    prefix : str
        Of the names inside the drawings, which must be unique on the page.
    few : bool
        Whether only its development is drawn.

    Returns
    -------
    list of str
        Figures that the result has the variables of; a paragraph for each it lacks them of.
    """
    from geomdiag.plots import plot_dynamics, plot_forecast, plot_spectrum

    run = str(dataset.attrs.get("run") or "the run")
    wanted: list[tuple[str, str, Callable[..., Any]]] = [
        (
            "dynamics",
            f"Accuracy, symmetry violation and dimension of {run} over steps, with its stages. "
            "The numbers are in the tables below.",
            plot_dynamics,
        )
    ]
    if not few:
        wanted += [
            (
                "spectrum",
                f"Share of power of the embedding of {run} in each block over steps.",
                plot_spectrum,
            ),
            (
                "forecast",
                f"When {run} was expected to generalise, told at each step.",
                plot_forecast,
            ),
        ]
    return [_drawn(draw, dataset, f"{prefix}{name[0]}", words) for name, words, draw in wanted]


def figures_of_runs(tree: xr.DataTree) -> list[str]:
    """Return the figures of many runs, one a task, that there are enough runs for.

    Parameters
    ----------
    tree : xr.DataTree
        As `geomdiag.analyze` gives it.

    Returns
    -------
    list of str
        HTML.
    """
    from geomdiag.plots import plot_generalisation

    tasks: dict[str, int] = {}
    for node in tree.children.values():
        if "step" in node.dims:
            name = str(node.attrs.get("task", ""))
            tasks[name] = tasks.get(name, 0) + 1
    found = []
    for place, (task, count) in enumerate(sorted(tasks.items())):
        if count > 1:
            words = f"Violation that each of {count} runs of {task} ends with, against accuracy."
            draw = _of_task(plot_generalisation, task)
            found.append(_drawn(draw, tree, f"t{place}g", words))
    return found


def _of_task(draw: Callable[..., Any], task: str) -> Callable[..., Any]:
    return lambda tree: draw(tree, task=task)


def _drawn(draw: Callable[..., Any], of: Any, prefix: str, words: str) -> str:
    from geomdiag.plots import save_figure
    from geomdiag.plots.style import pyplot

    plt = pyplot()
    before = set(plt.get_fignums())
    try:
        drawn = draw(of)
        with tempfile.TemporaryDirectory() as folder:
            path = save_figure(drawn, Path(folder) / "figure.svg")
            text = path.read_text(encoding="utf-8")
    except GeomdiagError as error:
        return f'<p class="missing">No figure: {escape(str(error))}</p>'
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return (
        f'<figure><div class="wide" role="group" tabindex="0" aria-label="Figure, scrolls">'
        f"{_inline(text, prefix, words)}</div><figcaption>{escape(words)}</figcaption></figure>"
    )


def _inline(svg: str, prefix: str, words: str) -> str:
    """Return a drawing of matplotlib as an element of a page, a third as long."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r"('DejaVu Sans'), [^;\"]*sans-serif", r"\1,Verdana,sans-serif", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    # a tenth of a point is finer than a screen shows
    svg = re.sub(
        r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*|(?<= transform=")[^"]*',
        lambda found: re.sub(r"-?\d+\.\d+", _shorter, found[0]),
        svg,
    )
    svg = re.sub(r"<g>((?:<use [^>]*/>)+)</g>", _markers, svg)
    svg = re.sub(r"(<g [^>]*)>((?:<use [^>]*/>)+)</g>", _markers, svg)
    # names that are used, short and unlike those of any other drawing on the page; no others
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    short = {name: f"{prefix}{place}" for place, name in enumerate(used)}
    svg = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{short[found[1]]}"' if found[1] in used else "", svg
    )
    svg = re.sub(r'(href="|url\()#([^")]+)', lambda found: f"{found[1]}#{short[found[2]]}", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" class="figure" ', 1)


def _markers(found: re.Match[str]) -> str:
    """Say once what all markers of a group look like."""
    opening, uses = (found[1], found[2]) if found.re.groups == 2 else ("<g", found[1])
    styles = set(re.findall(r' style="([^"]*)"', uses))
    if len(styles) != 1 or uses.count(" style=") != uses.count("<use ") or " style=" in opening:
        return found[0]
    return f'{opening} style="{styles.pop()}">' + re.sub(r' style="[^"]*"', "", uses) + "</g>"


def _shorter(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")
