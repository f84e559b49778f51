"""Watching a network while it trains: measured in memory, kept as `geomdiag.analyze` keeps it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from geomdiag.analysis.assembly import assemble
from geomdiag.analysis.growing import GrowingRun
from geomdiag.checkpoints.series import Series
from geomdiag.errors import GeomdiagError, StoreError
from geomdiag.live.cost import Clock, Cost
from geomdiag.live.given import check, is_first_process, split_of, whole
from geomdiag.live.losses import Losses
from geomdiag.live.memory import checkpoint_of, runner, untouched
from geomdiag.live.place import Place
from geomdiag.live.sinks import Sink, Sinks, prospects, scalars

if TYPE_CHECKING:
    import xarray as xr
    from torch import nn

    from geomdiag.analyzers.contract import Analyzer
    from geomdiag.tasks.contract import Task

__all__ = ["Monitor"]


class Monitor:
    """Measures a network in memory every so many steps of its training.

    The numbers are those that `geomdiag.analyze` computes of a saved ``state_dict`` of the same
    step, to the last bit. The network's mode, gradients, parameters and buffers and all random
    states stay as they are: a training with a monitor is, bit for bit, the training without.

    Parameters
    ----------
    module : torch.nn.Module
        The network that is trained.
    task : str or Task
        As in `geomdiag.analyze`.
    out : path, optional
        Result, a Zarr folder, or a netCDF file if the name ends in ``.nc``. Left out: the
        result is kept in memory (`tree`). An earlier result of the same run is continued.
    every : int
        Steps divisible by this are measured.
    analyzers : sequence of str or Analyzer, optional
        As in `geomdiag.analyze`. Diagnostics that compare checkpoints are not computed: none is
        kept.
    split : Split, str or array, optional
        Which inputs are trained on: as in `geomdiag.analyze`, or row numbers, operands or a mask.
    model : str or callable, optional
        As in `geomdiag.analyze`: a factory that makes a callable of the tensors.
    forward : callable, optional
        ``forward(module, inputs)`` maps (n, arity) int64 operands to logits (n, classes), for
        networks that geomdiag does not know. It is called in eval mode, without gradients.
    config : mapping, optional
        The run's settings, as they would lie beside its checkpoints: activation, heads, ...
    name : str
        Of the run.
    sinks : sequence of callable
        Called with each measured step and its values; see `geomdiag.live.sinks`.
    max_share : float, optional
        Steps are skipped as long as the monitor has taken more than this share of the wall time.
    if_exists : {"continue", "replace"}
        What becomes of a result that lies at `out`.
    quiet : bool
        Whether to leave out the line on stderr that says at the end what it cost.

    Raises
    ------
    StoreError
        If the result cannot be written, or the one at `out` cannot be continued.
    TaskError, ArchitectureError, SplitError, UnknownNameError
        If the task, the network, the split or an analyzer does not fit; told before the training
        begins.

    Examples
    --------
    >>> with Monitor(model, "modadd:p=31", out="run.geomdiag.zarr") as monitor:  # doctest: +SKIP
    ...     for step in range(1, 5001):
    ...         train_one_step(model)
    ...         monitor.step(step)
    """

    def __init__(
        self,
        module: nn.Module,
        task: str | Task,
        *,
        out: str | os.PathLike[str] | None = None,
        every: int = 100,
        analyzers: Sequence[str | Analyzer] | None = None,
        split: Any = None,
        model: Any = None,
        forward: Callable[[Any, Any], Any] | None = None,
        config: Mapping[str, Any] | None = None,
        name: str = "run",
        sinks: Sequence[Sink] = (),
        max_share: float | None = None,
        if_exists: Literal["continue", "replace"] = "continue",
        quiet: bool = False,
    ) -> None:
        check(every, max_share, if_exists, model, forward)
        self.every = every
        self._module, self._name, self._quiet = module, name, quiet
        self._sinks = Sinks(sinks)
        self._clock = Clock(max_share)
        self._losses = Losses()
        self._dataset: xr.Dataset | None = None
        self._place: Place | None = None
        self._closed = self._unwritten = self._resumed = self._cut = False
        self._active = is_first_process()
        if not self._active:
            return
        with self._clock.counted(), untouched():
            if out is not None:
                self._place = Place(out, if_exists)
            first = checkpoint_of(module, 0, name=name)
            series = Series(
                name=name,
                path=Path(name),
                checkpoints=[first],
                format="memory",
                config=dict(config or {}),
                split=split_of(split),
            )
            self._run = GrowingRun(
                series,
                task,
                analyzers=analyzers,
                model=model if forward is None else runner(module, forward),
                journal=None if self._place is None else self._place.journal,
            )
            self._run.try_out(first)
            if self._place is not None:
                self._continue(self._place)

    def _continue(self, place: Place) -> None:
        """Take up what an earlier session left."""
        previous = place.open()
        try:
            self._run.resume(previous)
        except StoreError as error:
            place.leave()
            raise StoreError(
                f"{place.path} cannot be continued: {error}. Choose another path for out, or "
                'if_exists="replace".'
            ) from error
        if previous is not None:
            self._losses.take(next(iter(previous.children.values())).to_dataset())
        if (kept := self._run.kept("history")) is not None:
            self._losses.unpack(kept)
        self._unwritten = bool(place.journal.keys())
        # whether all rows are of an earlier session
        self._resumed = bool(self._run.rows)

    # --- while it trains -----------------------------------------------------------------------

    def step(
        self,
        step: int,
        *,
        train_loss: Any = None,
        heldout_loss: Any = None,
        train_accuracy: Any = None,
        heldout_accuracy: Any = None,
        force: bool = False,
    ) -> bool:
        """Measure the network if its turn has come.

        Parameters
        ----------
        step : int
            Updates that the network has had: call it after the optimiser's step, and with 0
            before the first one.
        train_loss, heldout_loss, train_accuracy, heldout_accuracy : number or tensor, optional
            What the loop itself measured of these very weights; kept as the run's own curves,
            and held against what the monitor measures. A tensor on a GPU makes the loop wait.
        force : bool
            Measure whatever `every` and `max_share` say.

        Returns
        -------
        bool
            Whether it was measured.

        Raises
        ------
        StoreError
            If a training begins anew where an earlier result would be lost.
        """
        step = whole(step)
        if not self._active:
            return False
        due = force or step % self.every == 0
        given = {
            "train_loss": train_loss,
            "heldout_loss": heldout_loss,
            "train_accuracy": train_accuracy,
            "heldout_accuracy": heldout_accuracy,
        }
        if not due:
            self._losses.record(step, given, keep=False)
            return False
        if self._clock.over_budget() and not force:
            self._skip(step)
            self._losses.record(step, given, keep=False)
            return False
        with self._clock.counted(), untouched():
            return self._measure(step, given)

    def _measure(self, step: int, given: Mapping[str, Any]) -> bool:
        checkpoint = checkpoint_of(self._module, step, name=self._name)
        if self._run.held(checkpoint):  # an earlier session measured these very weights
            self._losses.record(step, given, keep=True)
            return False
        rewound = self._run.contradicted(checkpoint)
        if rewound:
            self._rewind(step, rewound)
        self._closed = False
        self._losses.record(step, given, keep=True)
        try:
            # rows in the journal stand beside those of the result, which has the dropped ones
            row = self._run.add(checkpoint, safely=not self._cut)
            if len(self._losses) and not self._cut:
                self._run.keep("history", self._losses.pack())
        except StoreError as error:  # no reason to end a training: it stands in memory
            warnings.warn(f"step {step} is not safe yet: {error}", RuntimeWarning, stacklevel=4)
            row = self._run.rows[-1]
        self._clock.measured += 1
        self._dataset = None
        self._unwritten, self._resumed = True, False
        if self._sinks:
            self._sinks.tell(step, scalars(assemble([row], self._run.static)))
        if self._place is not None and (self._cut or self._place.worth_writing()):
            try:
                self.write()
            except StoreError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return True

    def _rewind(self, step: int, dropped: Sequence[int]) -> None:
        """Drop what a training that was taken up earlier passes anew; nothing is lost on disk."""
        held = [row.step for row in self._run.rows]
        if self._resumed and len(dropped) == len(held):
            where = "" if self._place is None else self._place.path
            raise StoreError(
                f"{where} holds a run from step {held[0]} to {held[-1]}, and the network at step "
                f"{step} is another one: none of it would be left. Choose another path for out, "
                'or if_exists="replace".'
            )
        if not self._resumed and 1 < len(dropped) == len(held):
            raise StoreError(
                f"this monitor has measured steps {held[0]} to {held[-1]}, and the network at step "
                f"{step} is another one: none of it would be left. Count all updates since the "
                "training began, not those of an epoch; another training needs another monitor."
            )
        text = (
            f"at step {step} the network is not the one that was measured before: "
            f"{len(dropped)} steps from {dropped[0]} to {dropped[-1]} are dropped"
        )
        if self._place is not None and self._place.holds_result():
            aside = self._place.set_aside(self.tree, f"rewound-{step}")
            text += f"; the result with them is kept as {aside.name}"
        self._run.drop(dropped)
        self._cut = self._place is not None
        self._losses.rewind(dropped[0])
        self._run.notice(text)
        warnings.warn(text, RuntimeWarning, stacklevel=5)

    def _skip(self, step: int) -> None:
        share, most = self.cost.share, self._clock.max_share
        if not self._clock.skipped:
            warnings.warn(
                f"step {step} is skipped: measuring has taken {share:.1%} of the time, more than "
                f"max_share={most:g}; so are others until it is below",
                RuntimeWarning,
                stacklevel=3,
            )
        self._clock.skipped += 1
        self._run.notice(f"steps were skipped so that measuring stays below {most:.1%} of the time")

    # --- what came of it -----------------------------------------------------------------------

    @property
    def cost(self) -> Cost:
        """What watching has cost so far."""
        return self._clock.cost

    @property
    def dataset(self) -> xr.Dataset:
        """The run as it stands, with stages and forecast made of all steps so far.

        Raises
        ------
        GeomdiagError
            If nothing was measured yet.
        """
        if self._dataset is None:
            if not self._active or not self._run.rows:
                raise GeomdiagError(
                    "nothing was measured yet"
                    if self._active
                    else "this process does not measure: the first process of the training does"
                )
            with self._clock.counted(), untouched():
                self._run.history = self._losses.history()
                self._dataset = self._run.dataset(self.cost.attrs())
        return self._dataset

    @property
    def tree(self) -> xr.DataTree:
        """The result as `geomdiag.analyze` gives it, with this run alone."""
        dataset = self.dataset  # or the error that says why there is none
        return self._run.tree(dataset)

    @property
    def forecast(self) -> dict[str, Any]:
        """The forecast at the last measured step; see `geomdiag.dynamics.forecast.newest`."""
        from geomdiag.dynamics.forecast import newest

        return newest(self.dataset)

    @property
    def stage(self) -> str:
        """Name of the stage at the last measured step."""
        from geomdiag.summary import summarise

        stage: str = summarise(self.tree)[0]["stage"]
        return stage

    # --- keeping it ----------------------------------------------------------------------------

    def write(self) -> Path | None:
        """Write the result now; return where it lies.

        Raises
        ------
        StoreError
            If it cannot be written. What was measured is then still in the journal.
        """
        if self._place is None or not self._run.rows:
            return None
        with self._clock.counted(), untouched():
            self._dataset = None  # with what it has cost by now
            self._place.write(lambda: self.tree)
            self._unwritten = self._cut = False
            if self._sinks:
                self._sinks.tell(int(self.dataset["step"].values[-1]), prospects(self.dataset))
        return self._place.path

    def close(self, step: int | None = None) -> None:
        """Write what is not written yet, and say what it cost.

        Parameters
        ----------
        step : int, optional
            The last one: measured first, whatever `every` says.

        Raises
        ------
        StoreError
            If the result cannot be written.
        """
        if step is not None:
            self.step(step, force=True)
        if self._closed or not self._active:
            return
        if self._unwritten:
            self.write()
        if self._place is not None:
            self._place.leave()
        self._closed = True
        if not self._quiet and self._clock.measured:
            where = "" if self._place is None else f"; result: {self._place.path}"
            sys.stderr.write(f"geomdiag: {self.cost}{where}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:  # what ends the training is what is to be seen
            self.close()
        except GeomdiagError as problem:
            warnings.warn(str(problem), RuntimeWarning, stacklevel=2)
