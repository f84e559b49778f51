"""Watching networks while they train.

>>> import geomdiag as gd
>>> monitor = gd.live.Monitor(model, "modadd:p=31", out="run.geomdiag.zarr")  # doctest: +SKIP
>>> monitor.step(100)                                                         # doctest: +SKIP

`Monitor` measures a network in memory; `live.lightning` and `live.huggingface` hold callbacks
that drive one; `live.sinks` tells other tools; `Follower` follows a folder of checkpoints that
grows.
"""

from geomdiag.live import sinks
from geomdiag.live.cost import Cost
from geomdiag.live.follow import Follower
from geomdiag.live.looks import Look
from geomdiag.live.monitor import Monitor
from geomdiag.live.sinks import Sink

__all__ = ["Cost", "Follower", "Look", "Monitor", "Sink", "sinks"]
