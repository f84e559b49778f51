"""Time and memory of the exact triangle violation on the 7 x 7 x 7 lattice, against a notebook.

Run ``python benchmarks/triangle.py`` (add ``--graph NAME`` for another). One thread, CPU time;
everything is measured in this one run, so the ratios hold on any machine.

The floor. The lattice has 343 nodes, 19 classes and 161^3 = 4 173 281 geodesic triples. Each needs
the part of a convolution that stays within the classes, 19 · 20 / 2 = 190 products and sums, and
the logarithm of its 19 probabilities: 1.59 GFLOP and 79 million logarithms in all. Both are timed
on data that stay in cache. All 343³ triples of nodes must be looked at once to find them, 40
million comparisons; that happens once a run and is counted apart.

What stands above it: the two directions of the divergence and the Jensen-Shannon divergence
(two exponentials, an expm1 and a log1p of every probability), gathering three rows for each
triple, and exact percentiles of four million values, four times, and by part of the split.

The notebook gives the same numbers: source by source, all triples of a source in one batch, a
loop over the distances of the first part only (it finds the triples as it goes;
1 - mass and differences of logarithms cost it the smallest values). The plain loop
takes np.convolve triple by triple, on a sample, for the symmetric divergence alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np

import geomdiag as gd
from geomdiag.analysis.crew import one_thread
from geomdiag.metrics.composition import composition_violation
from geomdiag.metrics.fit import log_softmax
from geomdiag.tasks import Composition

LOOPED = 20_000


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def notebook(log_p: np.ndarray, distance: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean, median, 95th percentile and maximum the way a careful notebook gets them."""
    n, classes = len(distance), log_p.shape[1]
    p = np.exp(log_p)
    found: dict[str, list[np.ndarray]] = {}
    touched = []
    for a in range(n):
        b, c = np.nonzero(distance[a][:, None] + distance == distance[a][None, :])
        first, second, whole = p[a * n + b], p[b * n + c], a * n + c
        composed = np.zeros((len(b), classes))
        for i in range(classes):
            composed[:, i:] += first[:, i : i + 1] * second[:, : classes - i]
        mass = composed.sum(axis=1)
        composed /= mass[:, None]
        log_composed, q, log_q = np.log(composed), p[whole], log_p[whole]
        middle = 0.5 * (composed + q)
        log_middle = np.log(middle)
        forward = (composed * (log_composed - log_q)).sum(axis=1)
        backward = (q * (log_q - log_composed)).sum(axis=1)
        js = 0.5 * (composed * (log_composed - log_middle) + q * (log_q - log_middle)).sum(axis=1)
        values = {"kl": 0.5 * (forward + backward), "directed": forward, "js": js, "lost": 1 - mass}
        for name, one in values.items():
            found.setdefault(name, []).append(one)
        touched.append(train[whole].astype(int) + train[a * n + b] + train[b * n + c])
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    inside = np.concatenate(touched)
    for part, chosen in (("train", inside == 3), ("heldout", inside == 0), ("mixed", inside % 3)):
        joined[part] = joined["kl"][chosen != 0]
    return {
        name: np.array([one.mean(), *np.quantile(one, [0.5, 0.95, 1.0])])
        for name, one in joined.items()
    }


def loop(log_p: np.ndarray, whole: np.ndarray, parts: np.ndarray) -> float:
    """Return the mean symmetric violation of some triples, one by one."""
    p, classes = np.exp(log_p), log_p.shape[1]
    total = 0.0
    for ac, (ab, bc) in zip(whole.tolist(), parts.tolist(), strict=True):
        composed = np.convolve(p[ab], p[bc])[:classes]
        composed = composed / composed.sum()
        total += 0.5 * ((composed - p[ac]) * (np.log(composed) - log_p[ac])).sum()
    return total / len(whole)


def floor(classes: int, triples: int) -> float:
    """Return the seconds of the products and logarithms that nothing can avoid."""
    size = 1024
    rng = np.random.default_rng(0)
    first, second = rng.random((2, classes, size)) + 0.1
    kept, product = np.zeros((classes, size)), np.empty((classes, size))

    def once() -> None:
        kept.fill(0.1)
        for i in range(classes):
            np.multiply(first[i], second[: classes - i], out=product[i:])
            np.add(kept[i:], product[i:], out=kept[i:])
        np.log(kept, out=kept)

    once()
    return min(seconds(once) for _ in range(50)) * triples / size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", default="lattice-7x7x7")
    task = gd.task("graph", graph=parser.parse_args().graph)
    start_mb = peak_mb()
    making = seconds(lambda: task.symmetries)
    triangle = next(one for one in task.symmetries if isinstance(one, Composition))
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((len(task.inputs), task.classes)).astype(np.float32)
    logits += 8.0 * np.eye(task.classes, dtype=np.float32)[task.answers]
    train = rng.random(len(task.inputs)) < 0.8
    found = {}

    def measure() -> None:
        found["ours"] = composition_violation(
            log_softmax(logits.astype(np.float64)),
            rule=triangle.rule,
            whole=triangle.whole,
            parts=triangle.parts,
            sums=triangle.sums,
            train=train,
            exact=triangle.exact,
        )

    ours = min(seconds(measure) for _ in range(3))
    ours_mb = peak_mb()
    log_p = log_softmax(logits.astype(np.float64))
    count = len(triangle.whole)
    least = floor(task.classes, count)
    print(f"{task.title}: {task.classes} classes, {count} triples, exact: {triangle.exact}")
    show("symmetries made, once a run", making)
    show("violation, a checkpoint", ours)
    print(f"  {'peak memory':30s}{ours_mb:8.0f} MB, {start_mb:.0f} MB of it before")
    show("floor", least, "ours / floor", ours / least)
    if triangle.exact and triangle.sums is None:
        means = []
        taken = min(
            seconds(lambda: means.append(notebook(log_p, task.distances.classes, train)["kl"][0]))
            for _ in range(2)
        )
        show("notebook", taken, "notebook / ours", taken / ours)
        off = abs(means[0] - found["ours"].kl["mean"])
        print(f"  {'difference of the two means':30s}{off:8.1e} of {means[0]:.4f} nat")
    chosen = rng.choice(count, size=min(LOOPED, count), replace=False)
    taken = seconds(lambda: loop(log_p, triangle.whole[chosen], triangle.parts[chosen]))
    taken *= count / len(chosen)
    show(f"plain loop, from {len(chosen)} triples", taken, "loop / ours", taken / ours)


def show(what: str, took: float, ratio: str = "", value: float = 0.0) -> None:
    print(f"  {what:30s}{took:8.2f} s" + (f"   {ratio:15s}{value:7.2f}" if ratio else ""))


if __name__ == "__main__":
    with one_thread():
        main()
