"""`geomdiag formats`: the checkpoint formats that can be read here."""

from __future__ import annotations

from geomdiag_cli.console import Debug, Json, clean, print_json, stdout


def command(json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """List the checkpoint formats that can be read."""
    from geomdiag.checkpoints import FORMATS

    rows = [
        {
            "name": name,
            "description": FORMATS[name].description,
            "suffixes": list(FORMATS[name].suffixes),
            "lazy": FORMATS[name].lazy,
            "safe": FORMATS[name].safe,
            "runs": getattr(FORMATS[name], "runs", False),
            "extra": FORMATS[name].extra,
        }
        for name in FORMATS
    ]
    if json:
        print_json(rows)
        return
    console = stdout()
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("format", "extra", "lazy", "runs by\nitself", "safe"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for row in rows:
        answers = ("yes" if row[key] else "no" for key in ("lazy", "runs", "safe"))
        what = f"{clean(row['description'])} ({' '.join(row['suffixes'])})"
        table.add_row(row["name"], row["extra"] or "-", *answers, what)
    console.print(table)
    console.print(
        "\nFormats are recognised by content. Lazy: tensor by tensor. Safe: reading runs nothing "
        "that a file carries, unless --allow-pickle. Extra: pip install 'geomdiag[NAME]'. See "
        "docs/formats.md; for a model that geomdiag cannot run, docs/dump-format.md."
    )
