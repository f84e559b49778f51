"""What a metric is compared by unless its baseline says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from geomdiag.gate.patterns import choose

__all__ = ["CHOSEN", "SCALES", "WORSE", "Policy", "policy_of"]

Worse = Literal["lower", "higher", "either"]
Scale = Literal["linear", "log", "logit"]
WORSE: tuple[str, ...] = get_args(Worse)
SCALES: tuple[str, ...] = get_args(Scale)

#: Metrics that a baseline holds unless told which: few, since each costs the others power.
CHOSEN = (
    "accuracy[train]|accuracy[all]",
    "accuracy[heldout]",
    "loss[heldout]|loss[all]",
    "symmetry_js[*,mean]|symmetry_violation[*,mean]",
    "dimension[embedding,effective_dimension]",
    "concentration[embedding,gini]",
    "equivariant_share",
    "order[*,r2_loo]",
    "additivity",
    "t_memorised",
    "t_generalised",
)


@dataclass(frozen=True)
class Policy:
    """How a metric is compared.

    Attributes
    ----------
    worse : {"lower", "higher", "either"}
        Direction that is a regression.
    scale : {"linear", "log", "logit"}
        Scale on which seeds scatter about normally; log(x + absolute) and
        log((x + absolute) / (1 - x + absolute)).
    absolute : float
        Change, in units of the metric, that never counts.
    relative : float
        Change, as a share of the baseline's centre, that never counts.
    spread : float
        Change, on the scale and in standard deviations between seeds, that never counts.
    resolution : float
        Steps, in units of the metric, that its values come in; seeds that agree by rounding
        still scatter by a step over the root of 12.
    test : bool
        Whether a change must also be told from noise, where there are seeds enough.
    allow_missing : bool
        Whether a run may lack it; more runs that do than chance explains are a regression still.
    """

    worse: Worse = "either"
    scale: Scale = "linear"
    absolute: float = 0.0
    relative: float = 0.0
    spread: float = 0.0
    resolution: float = 0.0
    test: bool = True
    allow_missing: bool = False


_SHARE = Policy("lower", "linear", 0.02)
#: First pattern that matches; what is an error is worse when higher, what is a fit when lower.
_DEFAULTS: tuple[tuple[str, Policy], ...] = (
    ("accuracy[*", Policy("lower", "logit", 0.01)),
    ("covered_accuracy[*", Policy("lower", "logit", 0.01)),
    ("loss[*", Policy("higher", "log", 0.01, 0.1)),
    ("restricted_loss", Policy("higher", "log", 0.01, 0.1)),
    ("excluded_loss", Policy("either", "log", 0.01, 0.1)),
    ("symmetry_violation[*", Policy("higher", "log", 0.01, 0.1)),
    # below 0.001 nats a violation has nothing left to fall (see stages)
    ("symmetry_js[*", Policy("higher", "log", 0.001, 0.1)),
    ("dimension[*,effective_dimension]", Policy("either", "log", 1.0, 0.1, resolution=1.0)),
    ("dimension[*", Policy("either", "log", 1.0, 0.1)),
    ("norm[*", Policy("either", "log", 1e-6, 0.1)),
    ("logit_scale", Policy("either", "log", 1e-6, 0.1)),
    ("concentration[*,effective_blocks]", Policy("either", "log", 0.5, 0.1)),
    ("concentration[*", Policy("either", "linear", 0.02)),
    ("equivariant_share", _SHARE),
    ("order[*", _SHARE),
    ("additivity", _SHARE),
    ("helix[*,r2*", _SHARE),
    ("*distortion[*neighbour_recall*", _SHARE),
    ("*distortion[*spearman*", _SHARE),
    ("*distortion[*", Policy("higher", "log", 0.01, 0.1)),
    # a stage that is never reached is an outcome, tested like any other
    ("t_memorised", Policy("higher", "log", 1.0, 0.1, allow_missing=True)),
    ("t_generalised", Policy("higher", "log", 1.0, 0.1, allow_missing=True)),
    ("t_acquired", Policy("higher", "log", 1.0, 0.1, allow_missing=True)),
    ("t_solved", Policy("higher", "log", 1.0, 0.1, allow_missing=True)),
    ("t_*", Policy("either", "log", 1.0, 0.1, allow_missing=True)),
)


def policy_of(metric: str, higher_is_better: bool | None = None) -> Policy:
    """Return how a metric is compared by default.

    Parameters
    ----------
    metric : str
        Name, such as ``symmetry_js[associativity,mean]``.
    higher_is_better : bool, optional
        What its variable says, for a metric that is not known here.

    Returns
    -------
    Policy
        For an unknown metric: a linear scale, a relative tolerance of 10 %.
    """
    for pattern, policy in _DEFAULTS:
        if choose([metric], [pattern]):
            return policy
    worse: Worse = "either"
    if higher_is_better is not None:
        worse = "lower" if higher_is_better else "higher"
    return Policy(worse, relative=0.1)
