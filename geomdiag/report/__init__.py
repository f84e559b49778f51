"""A result as one self-contained HTML page.

>>> from geomdiag.report import report
>>> report(tree, "runs.report.html")     # doctest: +SKIP

`words` tells the verdict, `data` takes the numbers from the result, `paths` the tokens from the
checkpoints, `figures` has them drawn by `geomdiag.plots`; `page` puts them together, and
``page.js`` moves what moves.
"""

from geomdiag.report.page import render, report

__all__ = ["render", "report"]
