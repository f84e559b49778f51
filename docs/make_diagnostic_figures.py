"""Draw the pictures of docs/diagnostics/: each diagnostic on what is known beforehand.

Run ``python docs/make_diagnostic_figures.py`` (half a minute on one core) after a measure has
changed. Most show constructions whose numbers can be told in advance; four show a recorded run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import geomdiag as gd
from geomdiag import plots
from geomdiag.plots.style import BLACK, BLUE, COLOURS, GREY, MARKERS, PALE, VERMILION, pyplot

ROOT = Path(__file__).resolve().parent.parent
SERIES, FIGURES = ROOT / "fixtures" / "series", ROOT / "docs" / "figures" / "diagnostics"


#: How the constructions' tokens, the residues modulo 59, carry frequencies.
CYCLE: dict[str, Any] = {"members": np.arange(59), "period": 59}


def panels(count: int, height: float = 2.5) -> tuple[Any, Any]:
    """Return a figure and its panels, side by side."""
    return pyplot().subplots(1, count, figsize=(7.0, height), layout="constrained")


def helix(order: int, frequencies: tuple[int, ...], width: int, noise: float) -> Any:
    """Return an embedding of Z_m: circles of equal size in a random place, and noise."""
    rng = np.random.default_rng(0)
    angles = 2 * np.pi * np.outer(np.arange(order), frequencies) / order
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    axes = np.linalg.qr(rng.normal(size=(width, waves.shape[1])))[0]
    return waves @ axes.T + noise * rng.normal(size=(order, width))


@cache
def recorded(name: str, task: str, *analyzers: str) -> Any:
    """Return the result of a recorded run."""
    tree = gd.analyze(SERIES / name, task, analyzers=list(analyzers), workers=1)
    return next(iter(tree.children.values())).to_dataset()


def over_steps(axes: Any, run: Any, values: Any, label: str, number: int) -> None:
    """Draw a curve over log(1 + step)."""
    axes.plot(run.step + 1, values, MARKERS[number] + "-", color=COLOURS[number], label=label)
    axes.set(xscale="log", xlabel="step + 1")


def fit() -> Any:
    """Draw accuracy and loss of a run that generalises late."""
    figure, axes = panels(2)
    run = recorded("modadd-p31-mlp", "modadd", "fit")
    for number, part in enumerate(("train", "heldout")):
        over_steps(axes[0], run, run["accuracy"].sel(part=part), part, number)
        over_steps(axes[1], run, run["loss"].sel(part=part), part, number)
    axes[0].set_title("accuracy")
    axes[1].set(title="cross-entropy, nats", yscale="log")
    axes[0].legend()
    return figure


def symmetry() -> Any:
    """Draw both divergences of memorised answers as the logits grow."""
    task, rng = gd.task("modadd:p=11"), np.random.default_rng(0)
    memorised = np.eye(task.classes)[rng.permutation(task.answers)]  # answers that follow no rule
    solved = np.eye(task.classes)[task.answers] + 0.05 * rng.normal(size=memorised.shape)
    scales = np.geomspace(0.1, 100, 25)
    figure, axes = panels(2)
    for number, (name, logits) in enumerate((("no rule", memorised), ("nearly solved", solved))):
        sums = task.symmetries[1].orbits  # associativity: inputs with one and the same sum
        means = [
            gd.equivalence_violation(gd.log_softmax(scale * logits), orbits=sums)
            for scale in scales
        ]
        found = [[one.kl["mean"], one.js["mean"]] for one in means]
        for place, one in enumerate(axes):
            one.plot(
                scales, np.array(found)[:, place], color=COLOURS[number], label=name, lw=1 + number
            )
    axes[1].axhline(np.log(11), color=GREY, ls=":")
    axes[1].text(0.1, np.log(11), " log 11", va="bottom", color=GREY)
    for one, title in zip(axes, ("symmetric KL, nats", "Jensen-Shannon, nats"), strict=True):
        one.set(
            title=title, xscale="log", yscale="log", xlabel="scale of the logits", ylim=(1e-7, 1e3)
        )
    axes[0].legend()
    return figure


def dimension() -> Any:
    """Draw five measures of one matrix whose variances fall as a power."""
    axes_of = np.linalg.qr(np.random.default_rng(0).normal(size=(113, 32)))[0]
    axes_of -= axes_of.mean(axis=0)
    powers = np.linspace(0, 4, 21)
    figure, axes = panels(1)
    measures = (
        "effective_dimension",
        "entropy_rank",
        "entropy_rank_squared",
        "participation_ratio",
        "stable_rank",
    )
    found = [gd.dimensions(axes_of * np.arange(1, 33.0) ** (-power / 2)) for power in powers]
    for number, name in enumerate(measures):
        values = [float(one[name]) for one in found]
        axes.plot(powers, values, MARKERS[number] + "-", color=COLOURS[number], label=name)
    axes.set(
        title="variance of component i falls as i to the power −a, i = 1 … 32",
        xlabel="a",
        ylabel="dimensions",
        ylim=(0, 34),
    )
    axes.legend()
    return figure


def spectrum() -> Any:
    """Draw power by frequency of a helix in noise, and of noise."""
    figure, axes = panels(2)
    made = (("three circles in noise", helix(59, (4, 11, 20), 24, 0.25)), ("noise alone", noise()))
    for one, (title, matrix) in zip(axes, made, strict=True):
        fractions = np.asarray(gd.power_fractions(gd.block_power(matrix, **CYCLE)))
        key = gd.key_blocks(matrix, **CYCLE).key
        effective = gd.concentration(fractions)["effective_blocks"]
        colours = [VERMILION if found else PALE for found in key]
        one.bar(np.arange(1, len(fractions) + 1), fractions, color=colours)
        one.set(title=title, xlabel=f"frequency k\n{effective:.1f} effective blocks")
    axes[0].set_ylabel("fraction of power")
    return figure


def noise() -> Any:
    """Return 59 tokens without structure."""
    return np.random.default_rng(1).normal(size=(59, 24))


def circle() -> Any:
    """Draw three ellipses and their numbers."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(31) / 31
    circles = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    made = {
        "a circle": circles,
        "flattened": circles * [1, 0.4],
        "in noise": circles + 0.2 * rng.normal(size=circles.shape),
    }
    figure, axes = panels(3)
    for one, (title, matrix) in zip(axes, made.items(), strict=True):
        fit = gd.circle_fit(matrix, [1])
        one.scatter(*matrix.T, c=np.arange(31), cmap="twilight", edgecolors=BLACK, linewidths=0.3)
        words = [
            f"axis ratio {fit.axis_ratio[0]:.2f}",
            f"in-plane share {fit.in_plane_share[0]:.2f}",
            f"phase error {fit.phase_error[0]:.2f} rad",
        ]
        one.set(title=title, aspect="equal", xlabel="\n".join(words), xticks=[], yticks=[])
        one.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    return figure


def helix_fit() -> Any:
    """Draw R² with more and more of the strongest frequencies, in a helix and in noise."""
    figure, axes = panels(2)
    made = (("three circles in noise", helix(59, (4, 11, 20), 24, 0.25)), ("noise alone", noise()))
    for one, (title, matrix) in zip(axes, made, strict=True):
        strongest = np.argsort(-np.asarray(gd.block_power(matrix, **CYCLE))[1:]) + 1
        counts = range(1, 26)
        fits = [gd.helix_fit(matrix, strongest[:count], permutations=0) for count in counts]
        for number, (name, label) in enumerate((("r2", "R²"), ("r2_loo", "leave-one-out R²"))):
            values = [getattr(fit, name) for fit in fits]
            one.plot(counts, values, MARKERS[number] + "-", color=COLOURS[number], label=label)
        one.axhline(0, color=PALE, zorder=0)
        one.set(title=title, xlabel="frequencies, strongest first", ylim=(-1.5, 1.05))
    axes[0].legend()
    return figure


def distortion() -> Any:
    """Draw distances on a circle, and along it, against those of the cycle."""
    count = 24
    angle = 2 * np.pi * np.arange(count) / count
    circles = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    target = gd.task(f"graph:cycle-{count}").metric
    rng = np.random.default_rng(0)
    figure, axes = panels(3)
    upper = np.triu_indices(count, 1)
    made: tuple[tuple[str, Any, Any], ...] = (
        ("a circle, straight", circles, "euclidean"),
        ("a circle, along it", circles, "intrinsic"),
        ("order lost", circles[rng.permutation(count)], "euclidean"),
    )
    for one, (title, points, kind) in zip(axes, made, strict=True):
        found = gd.distortion(points, target, kind=kind)
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        if kind == "intrinsic":
            from geomdiag.metrics.distortion import intrinsic_distances

            distances, _ = intrinsic_distances(distances, target)
        pairs = np.stack([target[upper], distances[upper].round(6)], axis=1)
        one.scatter(*np.unique(pairs, axis=0).T, s=6, color=BLUE)
        words = f"ρ = {found['spearman']:.2f}, stress {found['stress']:.2f}\n" + (
            f"worst case {found['worst_case']:.1f}"
        )
        one.set(title=title, xlabel="distance on the cycle\n" + words, ylim=(0, None))
    axes[0].set_ylabel("distance in the plane")
    return figure


def order() -> Any:
    """Draw three layouts of a grid of five by five."""
    x, y = (one.ravel() for one in np.meshgrid(range(5), range(5), indexing="ij"))
    bent = np.stack([x + 0.12 * (y - 2.0) ** 2 * x, y + 0.0], axis=1)
    uneven = np.stack([np.array([0, 0.4, 0.8, 1.2, 4.0])[x], y + 0.0], axis=1)
    made = {"a grid": np.stack([x, y], axis=1) + 0.0, "uneven steps": uneven, "bent": bent}
    figure, axes = panels(3)
    for one, (title, points) in zip(axes, made.items(), strict=True):
        for row in range(5):
            one.plot(*points[x == row].T, color=PALE, zorder=0)
            one.plot(*points[y == row].T, color=PALE, zorder=0)
        one.scatter(*points.T, c=x, cmap="cividis", s=14)
        readout, tau = gd.order_readout(points, x)
        words = [
            f"leave-one-out R² {readout:.2f}, τ {tau:.2f}",
            f"evenness {gd.step_evenness(points, x):.2f}",
            f"additivity {gd.additivity(points, [x, y]):.2f}",
        ]
        one.set(title=title, xticks=[], yticks=[], xlabel="\n".join(words))
    return figure


def topology() -> Any:
    """Draw the bars of a loop, of a cloud and of a helix of three circles."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 60)
    loop = np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.normal(size=(60, 2))
    made = {
        "a loop": loop,
        "a cloud": rng.normal(size=(60, 2)),
        "three circles": helix(31, (3, 7, 12), 8, 0.02),
    }
    figure, axes = panels(3)
    for one, (title, points) in zip(axes, made.items(), strict=True):
        found = gd.persistence(points, maxdim=1)
        for homology, label in enumerate(("H0", "H1")):
            bars = found.bars[homology] / found.diameter
            one.plot(*bars.T, MARKERS[homology], ls="", color=COLOURS[homology], label=label)
        one.plot([0, 0.8], [0, 0.8], color=PALE, zorder=0)
        words = f"longest {found.longest[1]:.2f}, holes {found.holes[1]:.0f}"
        one.set(
            title=title, xlabel=f"birth / diameter\n{words}", xlim=(-0.03, 0.85), ylim=(0, 0.85)
        )
    axes[0].set_ylabel("death / diameter")
    axes[0].legend(loc="lower right")
    return figure


def progress() -> Any:
    """Draw restricted and excluded loss of a recorded run."""
    figure, axes = panels(2)
    run = recorded("modadd-p31-transformer", "modadd", "fit", "progress", "spectrum")
    curves = {
        "train": run["loss"].sel(part="train"),
        "held-out": run["loss"].sel(part="heldout"),
        "restricted": run["restricted_loss"],
        "excluded": run["excluded_loss"],
    }
    for number, (label, values) in enumerate(curves.items()):
        over_steps(axes[0], run, values, label, number)
    axes[0].set(title="loss, nats", yscale="log")
    axes[0].legend(loc="lower left")
    over_steps(axes[1], run, run["equivariant_share"], "equivariant share", 2)
    over_steps(axes[1], run, run["accuracy"].sel(part="heldout"), "held-out accuracy", 1)
    axes[1].set_ylim(0, 1.03)
    axes[1].legend()
    return figure


def gradient() -> Any:
    """Draw gradient symmetricity and distance irrelevance between Clock and Pizza."""
    import torch

    order, wave = 31, 2 * np.pi / 31
    angle = torch.arange(order, dtype=torch.float64) * wave
    table = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)

    def logits(mix: float) -> Callable[[Any], Any]:
        def run(operands: Any) -> Any:
            a, b = operands
            product = torch.stack(
                [a[:, 0] * b[:, 0] - a[:, 1] * b[:, 1], a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0]], 1
            )
            x, y = (a + b).T
            size = torch.sqrt(x**2 + y**2) + 1e-9
            doubled = torch.stack([(x**2 - y**2) / size, 2 * x * y / size], dim=1)
            return ((1 - mix) * product + mix * doubled) @ table.T

        return run

    left, right = (one.ravel() for one in np.meshgrid(range(order), range(order), indexing="ij"))
    group = {"order": order, "inputs": np.arange(order**2), "left": left, "right": right}
    group |= {"result": (left + right) % order, "classes": np.arange(order)}
    mixes = np.linspace(0, 1, 11)
    # Without it, Clock's right logits are all equal, and the ratio is that of rounding errors.
    disturbance = 0.1 * np.random.default_rng(0).normal(size=(order**2, order))
    found = []
    for mix in mixes:
        run = logits(float(mix))
        values = run([table[left], table[right]]).numpy() + disturbance
        found.append(
            [gd.gradient_symmetricity(run, table), gd.distance_irrelevance(values, **group)]
        )
    figure, axes = panels(1)
    for number, label in enumerate(("gradient symmetricity", "distance irrelevance")):
        values = np.array(found)[:, number]
        axes.plot(mixes, values, MARKERS[number] + "-", color=COLOURS[number], label=label)
    axes.set(xlabel="share of Pizza in the logits; the rest is Clock", ylim=(-0.1, 1.05))
    axes.legend()
    return figure


def irreps() -> Any:
    """Draw both losses of a recorded network on S4, by representation."""
    run = recorded("group-S4-mlp", "group:S4", "irreps", "progress").isel(step=-1)
    figure, axes = panels(3)
    names = [str(name) for name in run["block"].values]
    shown = {
        "share of the logits": run["logit_power"],
        "loss of it alone, nats": run["irrep_restricted_loss"],
        "loss without it, nats": run["irrep_excluded_loss"],
    }
    for number, (one, (title, values)) in enumerate(zip(axes, shown.items(), strict=True)):
        one.barh(names, values, color=COLOURS[number])
        one.set_title(title)
        if number:
            one.set_yticklabels([])
    axes[1].axvline(np.log(24), color=GREY, ls=":")
    axes[1].text(np.log(24), 2.5, "log 24", ha="right", va="center", color=GREY, rotation=90)
    axes[2].set_xscale("log")
    return figure


def alignment() -> Any:
    """Draw every measure for four ways in which an embedding may differ."""
    rng = np.random.default_rng(0)
    before = helix(59, (4, 11, 20), 24, 0.1)
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    spread = before.std() * rng.normal(size=before.shape)
    made = {
        "turned": before @ turn,
        "twice as large": 2 * before,
        "as much noise added": before + spread,
        "unrelated": spread,
    }
    measures: dict[str, Callable[[Any, Any], float]] = {
        "cka": gd.linear_cka,
        "rotation_share": gd.rotation_share,
        "mutual_knn": gd.mutual_knn,
        "procrustes": gd.procrustes_distance,
        "displacement": gd.displacement,
    }
    figure, axes = panels(2)
    for number, (name, measure) in enumerate(measures.items()):
        values = [measure(before, after) for after in made.values()]
        one = axes[0] if number < 3 else axes[1]
        one.plot(
            values,
            range(len(made)),
            MARKERS[number],
            ls="",
            ms=7,
            color=COLOURS[number],
            label=name,
        )
    for one, title in zip(axes, ("likeness", "distance"), strict=True):
        one.set(title=title, yticks=range(len(made)), ylim=(3.5, -0.5))
        one.set_yticklabels(list(made) if one is axes[0] else [])
        one.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return figure


#: Picture to the function that draws it; those of constructions take a moment only.
DRAWINGS: dict[str, Callable[[], Any]] = {
    "alignment": alignment,
    "circle": circle,
    "dimension": dimension,
    "distortion": distortion,
    "fit": fit,
    "gradient": gradient,
    "helix": helix_fit,
    "irreps": irreps,
    "order": order,
    "progress": progress,
    "spectrum": spectrum,
    "symmetry": symmetry,
    "topology": topology,
}


def draw(name: str, path: Path) -> Path:
    """Draw one picture into a file."""
    with plots.style():
        figure = DRAWINGS[name]()
        saved = plots.save_figure(figure.axes[0], path)
        pyplot().close(figure)
    return saved


if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    for drawing in DRAWINGS:
        draw(drawing, FIGURES / f"{drawing}.svg")
