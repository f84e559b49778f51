"""Diagnostics: parts of a snapshot in, named variables out.

One file a diagnostic; it says what it needs of a snapshot, calls `geomdiag.metrics` and names
dims, units and definitions. Another package adds its own through the entry-point group
``geomdiag.analyzers``, whose values are `Analyzer` objects.
"""

from geomdiag.analyzers.contract import Analyzer, describe
from geomdiag.registry import Registry

__all__ = ["ANALYZERS", "Analyzer", "describe"]

_HERE = "geomdiag.analyzers."
ANALYZERS = Registry(
    "analyzer",
    "geomdiag.analyzers",
    {
        "fit": _HERE + "fit:ANALYZER",
        "symmetry": _HERE + "symmetry:ANALYZER",
        "dimension": _HERE + "dimension:ANALYZER",
        "spectrum": _HERE + "spectrum:ANALYZER",
        "progress": _HERE + "progress:ANALYZER",
        "irreps": _HERE + "irreps:ANALYZER",
        "circle": _HERE + "circle:ANALYZER",
        "helix": _HERE + "helix:ANALYZER",
        "topology": _HERE + "topology:ANALYZER",
        "distortion": _HERE + "distortion:ANALYZER",
        "order": _HERE + "order:ANALYZER",
        "gradient": _HERE + "gradient:ANALYZER",
        "alignment": _HERE + "alignment:ANALYZER",
    },
)
