"""Where a monitor's numbers can go beside the result: TensorBoard, W&B, MLflow, or anything.

A sink is any callable ``sink(step, values)`` with values by stable names such as
``geometry/symmetry_violation/commutativity/mean``.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from geomdiag.errors import MissingExtraError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Sink", "Sinks", "mlflow", "prospects", "scalars", "tensorboard", "wandb"]

#: Begins the name of every number.
PREFIX = "geometry"


class Sink(Protocol):
    """Takes the numbers of one step."""

    def __call__(self, step: int, values: Mapping[str, float], /) -> object:
        """Take the values of a step by name."""


class Sinks:
    """Sinks of one training; one that fails is left out from then on.

    Parameters
    ----------
    sinks : sequence of callable
        In the order in which they are told.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values of a step to all of them."""
        for sink in list(self._sinks):
            try:
                sink(step, values)
            except Exception as error:  # another library's, and no reason to end a training
                self._sinks.remove(sink)
                warnings.warn(
                    f"a sink failed at step {step} and gets no more numbers: "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=5,
                )


def scalars(run: xr.Dataset) -> dict[str, float]:
    """Return the numbers at a run's last step by their names in a sink.

    Parameters
    ----------
    run : xr.Dataset
        With the dim ``step``, in order.

    Returns
    -------
    dict of str to float
        ``geometry/VARIABLE/LABEL/...``; those that are missing are left out. The variables are
        those that a corpus keeps: a few dozen numbers, not the whole spectrum.
    """
    from geomdiag.dynamics.corpus import signals_of

    found: dict[str, float] = {}
    for name, column in signals_of(run).items():
        if math.isfinite(value := float(column[-1])):
            variable, _, labels = name.removesuffix("]").partition("[")
            found["/".join([PREFIX, variable, *labels.split(",")]).rstrip("/")] = value
    return found


def prospects(run: xr.Dataset) -> dict[str, float]:
    """Return stage and forecast at a run's last step by their names in a sink.

    Parameters
    ----------
    run : xr.Dataset
        With what `geomdiag.dynamics` derives.

    Returns
    -------
    dict of str to float
        ``geometry/stage``; ``geometry/forecast/MODE/onset``, the median; and ``.../never``.
    """
    from geomdiag.dynamics.forecast import newest

    found = {f"{PREFIX}/stage": float(run["stage"].values[-1])}
    for mode, told in newest(run).items():
        if isinstance(told, dict):
            for name, value in (("onset", told["onset"]["0.5"]), ("never", told["never"])):
                if value is not None:
                    found[f"{PREFIX}/forecast/{mode}/{name}"] = value
    return found


def tensorboard(to: Any) -> Sink:
    """Return a sink that writes TensorBoard event files.

    Parameters
    ----------
    to : SummaryWriter or path
        Of ``torch.utils.tensorboard`` (or tensorboardX), or the folder of a new one.

    Returns
    -------
    Sink
        Call it with a step and numbers by name; `Monitor` does.

    Raises
    ------
    MissingExtraError
        If a folder is given and tensorboard is not installed.
    """
    if isinstance(to, str | os.PathLike):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard") from error
        to = SummaryWriter(os.fspath(to))

    def sink(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            to.add_scalar(name, value, global_step=step)
        to.flush()  # a killed training loses nothing

    return sink


def wandb(run: Any = None) -> Sink:
    """Return a sink that logs to Weights & Biases.

    The training's own count of log calls is left alone: the numbers bring their axis,
    ``geometry/step``.

    Parameters
    ----------
    run : wandb.Run, optional
        By default the one that ``wandb.init`` began.

    Returns
    -------
    Sink
        Call it with a step and numbers by name; `Monitor` does.

    Raises
    ------
    MissingExtraError
        If wandb is not installed.
    """
    try:
        import wandb as library
    except ImportError as error:
        raise MissingExtraError("wandb", "wandb") from error
    announced: set[int] = set()

    def sink(step: int, values: Mapping[str, float]) -> None:
        to = run if run is not None else library.run
        if to is None:
            raise RuntimeError("no W&B run is under way; call wandb.init() before the training")
        if id(to) not in announced:
            to.define_metric(f"{PREFIX}/step", hidden=True)
            to.define_metric(f"{PREFIX}/*", step_metric=f"{PREFIX}/step")
            announced.add(id(to))
        to.log({**values, f"{PREFIX}/step": step})

    return sink


def mlflow(run_id: str | None = None) -> Sink:
    """Return a sink that logs metrics to MLflow.

    Parameters
    ----------
    run_id : str, optional
        By default the active run.

    Returns
    -------
    Sink
        Call it with a step and numbers by name; `Monitor` does.

    Raises
    ------
    MissingExtraError
        If mlflow is not installed.
    """
    try:
        import mlflow as library
    except ImportError as error:
        raise MissingExtraError("mlflow", "mlflow") from error

    def sink(step: int, values: Mapping[str, float]) -> None:
        if run_id is None and library.active_run() is None:
            raise RuntimeError("no MLflow run is active; call mlflow.start_run() before")
        # MLflow takes no other characters in the name of a metric
        plain = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
        library.log_metrics(plain, step=step, run_id=run_id)

    return sink
