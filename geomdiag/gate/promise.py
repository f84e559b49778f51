"""What the level of a check promises, in words."""

from __future__ import annotations

from collections.abc import Sequence

from geomdiag.gate.baseline import CORRECTIONS
from geomdiag.gate.chance import Basis, Runs, basis_of, least_p
from geomdiag.gate.permutation import fewest_new_runs, number_of_splits, splits

__all__ = ["notices_of"]


def notices_of(metrics: Sequence[Runs], basis: Basis, level: float, correction: str) -> list[str]:
    """Return what a reader must know of a test.

    Parameters
    ----------
    metrics : sequence of Runs
        All that were compared.
    basis : {"exact", "approximate", "tolerances"}
        What the level rests on.
    level : float
    correction : {"family-wise", "benjamini-hochberg", "none"}

    Returns
    -------
    list of str
    """
    notices = []
    bases = [(runs, basis_of(runs, level)) for runs in metrics]
    tested = [runs for runs, rests_on in bases if rests_on != "tolerances"]
    few = [runs for runs, rests_on in bases if rests_on == "tolerances" and runs.policy.test]
    off = sum(not runs.policy.test for runs in metrics)
    if few:
        runs = min(few, key=lambda one: one.old)
        more = fewest_new_runs(runs.old, level)
        notices.append(
            f"{len(few)} of {len(metrics)} metrics have {_runs(runs)}: tolerances alone decide, "
            "noise between seeds cannot be told from regression, and no rate of false alarms is "
            f"promised. {more} new runs, or more seeds in the baseline, would change that."
        )
    if off:
        notices.append(
            f"{off} of {len(metrics)} metrics are not to be tested (test = false): tolerances "
            "alone decide, outside of the level."
        )
    if not tested:
        return notices
    runs = min(tested, key=lambda one: number_of_splits(one.old, one.new))
    number, drawn = number_of_splits(runs.old, runs.new), len(splits(runs.old, runs.new))
    ways = f"can be split in {number} ways"
    if number > drawn:
        ways = f"split in {drawn} ways of many"
        if level * drawn < 1:
            notices.append(
                f"of so many ways, {drawn} are looked at: no p-value is below {1 / drawn:.1g}, so "
                f"nothing can fail at the level {level:g}; raise it."
            )
    share = f"{100 * level:g} %"
    several = "1 metric" if len(tested) == 1 else f"{len(tested)} metrics"
    subject = {
        "family-wise": f"{several} tested together: of results without a change, at "
        f"most {share} fail",
        "benjamini-hochberg": f"{several} tested (Benjamini-Hochberg): at most {share} "
        "of the regressions told are false, where metrics depend on each other positively",
        "none": f"{several} tested, each by itself: at most {share} of results without "
        "a change fail in a given metric, and more in some metric",
    }[correction]
    if basis == "exact":
        notices.append(f"{subject}, however seeds scatter ({_runs(runs)} {ways}).")
        if mute := sum(least_p(one) > level * (1 + 1e-9) for one in tested):
            notices.append(
                f"{mute} metrics for which either direction is worse cannot fail with as many new "
                "runs as old ones; one run more lets them."
            )
    else:
        more = fewest_new_runs(runs.old, level)
        most = f"up to {100 * max(map(least_p, tested)):.2g} %"
        bound = most if correction != CORRECTIONS[1] else "more"
        notices.append(
            f"{subject}, if seeds scatter as those of recorded runs do. With {_runs(runs)} nothing "
            f"tells whether they do; where they do not, {bound} may. {more} new runs make it "
            f"{share} however seeds scatter."
        )
    return notices


def _runs(runs: Runs) -> str:
    seeds = "1 seed" if runs.old == 1 else f"{runs.old} seeds"
    return f"{seeds} in the baseline and {runs.new} new"
