"""Time per checkpoint of a generalised p = 113 transformer, against its floor and a notebook.

Run ``python benchmarks/per_checkpoint.py`` (add ``--checkpoint FILE`` to time another network of
the paper's size). One thread, CPU time, medians; everything is measured in this one run, so the
ratios hold on any machine.

The floor. For p = 113, d_model = 128, d_mlp = 512 and p² = 12 769 inputs, attention can be
reduced to tables over tokens, but the hidden layer differs for every input, so the products
residual → hidden, hidden → residual and residual → logits remain for each of them:
2 · 12 769 · (128·512 + 512·128 + 128·113) = 3.72 GFLOP. The weights are 0.9 MB, so reading them
(well under a millisecond from the page cache) is no bound. The floor is the time of exactly these
three products with the faster of NumPy and torch on this machine.

What stands above it. Most is symmetry (21 ms of 61): every value of the p³ associativity
instances is formed and binned for exact percentiles, some fifteen passes over 1.4 million
numbers; then the sampled percentiles of translation. The spectra, with 999 relabellings for each
matrix' key blocks, take 9 ms. One machine (AMD EPYC with AVX-512, three runs beside other work)
gave, by what NumPy's BLAS was allowed to use:

=====================  ============  ============
                       AVX-512       AVX2
=====================  ============  ============
floor                  16-17 ms      32-33 ms
forward / floor        0.7-0.8       0.6
everything             61-65 ms      73-76 ms
everything / floor     3.7-4.0       2.2-2.4
notebook / everything  15.3-16.1     13.0-13.7
=====================  ============  ============

With AVX2 the 15 hoped for is missed: our products, those of the forward pass above all, take
longer there, while the notebook runs on torch, which was as fast in both. That the forward pass
beats the floor is no error: the floor is that of a pass which forms every input's stream, ours
mixes images of per-token rows and takes the last two products as one. Topology is on request
because ripser alone takes a floor.

A *generalised* network matters: its softmax has tails that underflow to denormals, which slow a
careless implementation several-fold; random weights hide that.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from notebook import analyse, forward

import geomdiag as gd
from geomdiag.analysis.crew import one_thread
from geomdiag.analyzers import ANALYZERS
from geomdiag.models import Snapshot, snapshot

NETWORK = Path(__file__).parent / "networks" / "modadd_p113.safetensors"


def median_ms(call: Callable[[], object], repeats: int = 7) -> float:
    """Return the median CPU time of `call` in milliseconds after one warm-up."""
    call()
    times = []
    gc.disable()
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    gc.enable()
    return 1e3 * statistics.median(times)


def floor_ms(p: int, d_model: int, d_mlp: int) -> tuple[float, float]:
    """Return (milliseconds, GFLOP/s) of the products no forward pass can avoid."""
    rng = np.random.default_rng(0)
    shapes = ((p * p, d_model), (d_model, d_mlp), (d_mlp, d_model), (d_model, p))
    x, w_in, w_out, w_u = (rng.normal(size=s).astype(np.float32) for s in shapes)
    tx, t_in, t_out, t_u = (torch.from_numpy(a) for a in (x, w_in, w_out, w_u))
    hidden, back, out = (np.empty((p * p, n), np.float32) for n in (d_mlp, d_model, p))

    def with_numpy() -> None:
        np.matmul(x, w_in, out=hidden)
        np.matmul(hidden, w_out, out=back)
        np.matmul(back, w_u, out=out)

    t_hidden, t_back, t_logits = (torch.from_numpy(a) for a in (hidden, back, out))

    def with_torch() -> None:
        torch.mm(tx, t_in, out=t_hidden)
        torch.mm(t_hidden, t_out, out=t_back)
        torch.mm(t_back, t_u, out=t_logits)

    best = min(median_ms(with_numpy), median_ms(with_torch))
    flop = 2 * p * p * (2 * d_model * d_mlp + d_model * p)
    return best, flop / best / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=NETWORK)
    options = parser.parse_args()
    with one_thread():
        run(options.checkpoint)


def run(path: Path) -> None:
    """Measure one checkpoint and print the table."""
    task = gd.task("modadd:p=113")
    p = task.tokens
    rng = np.random.default_rng(0)
    train = rng.permutation(p * p) < 0.3 * p * p

    def load() -> object:
        series = next(iter(gd.open_runs(path).values()))
        checkpoint = series[-1]
        return {name: checkpoint.tensors[name] for name in checkpoint.tensors}

    series = next(iter(gd.open_runs(path).values()))
    checkpoint = series[-1]

    def fresh() -> Snapshot:
        return snapshot(checkpoint, task, train=train)

    def run_forward() -> object:
        return fresh().logits

    # the tables of the task are made once a run, not once a checkpoint
    _ = task.symmetries, task.basis, task.metric
    floor, rate = floor_ms(p, 128, 512)
    t_load = median_ms(load)
    t_snapshot = median_ms(fresh)
    t_forward = median_ms(run_forward) - t_snapshot

    names = [
        name
        for name, one in ANALYZERS.items()
        if one.default and one.scope == "step" and not one.missing(fresh(), task)
    ]

    def analyse_all() -> object:
        snap = snapshot(checkpoint, task, train=train)
        return [ANALYZERS[name].compute(snap, task) for name in names]

    rows: list[tuple[str, float]] = [("load (open, every tensor)", t_load)]
    rows += [("recognise", t_snapshot), ("forward", t_forward)]
    spent = dict.fromkeys(names, 0.0)
    repeats = 7
    for attempt in range(repeats + 1):
        snap = snapshot(checkpoint, task, train=train)
        _ = snap.logits
        for name in names:
            start = time.process_time()
            ANALYZERS[name].compute(snap, task)
            if attempt:  # the first round warms caches that live as long as the run
                spent[name] += (time.process_time() - start) / repeats * 1e3
    rows += [(f"  {name}", ms) for name, ms in spent.items()]
    everything = median_ms(analyse_all)
    rows.append(("forward + all default analyzers", everything))

    log_p = snapshot(checkpoint, task, train=train).log_probabilities
    both = [one for one in task.symmetries if one.name in ("commutativity", "associativity")]

    def exact_means() -> object:
        return [
            gd.equivalence_violation(
                log_p, orbits=one.orbits, pairs=one.pairs, statistics=("mean",)
            ).kl["mean"]
            for one in both
        ]

    means = median_ms(exact_means)

    weights = {n: torch.from_numpy(np.array(checkpoint.tensors[n])) for n in checkpoint.tensors}
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        naive = forward(weights, p).numpy()
    ours = snapshot(checkpoint, task, train=train).logits
    error = float(np.abs(naive - ours).max() / np.abs(naive).max())
    with torch.no_grad():
        t_naive_forward = median_ms(lambda: forward(weights, p), 3)
    t_notebook = median_ms(lambda: analyse(weights, p), 3)

    print(f"{path.name}: p = {p}, one thread, torch {torch.__version__}")
    print(f"floor: {floor:.1f} ms at {rate:.0f} GFLOP/s (three products, float32)\n")
    print(f"{'':38s}{'ms':>9s}{'× floor':>9s}")
    for label, ms in rows:
        print(f"{label:38s}{ms:9.1f}{ms / floor:9.2f}")
    print(f"{'notebook: forward':38s}{t_naive_forward:9.1f}{t_naive_forward / floor:9.2f}")
    print(f"{'notebook: everything':38s}{t_notebook:9.1f}{t_notebook / floor:9.2f}\n")
    print(f"logits agree with the notebook's to {error:.1e} of their scale")
    for label, value, expected in (
        ("forward / floor", t_forward / floor, "≤ 1.6"),
        ("all default analyzers / floor", everything / floor, "≤ 4"),
        ("notebook / all default analyzers", t_notebook / everything, "≥ 15"),
        ("comm.+assoc. exact means / forward", means / t_forward, "≤ 0.40"),
        ("peak memory before the notebook, MB", peak_before, "< 1000"),
    ):
        print(f"{label:38s}{value:9.2f}   (expected {expected})")


if __name__ == "__main__":
    main()
