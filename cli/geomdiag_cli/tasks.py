"""`geomdiag tasks`: what networks can have been trained on."""

from __future__ import annotations

from geomdiag_cli.console import Debug, Json, clean, print_json, stdout


def command(json: Json = False, debug: Debug = False) -> None:  # noqa: ARG001
    """List the tasks, their parameters and their symmetries."""
    from geomdiag.tasks import task_families

    families = task_families()
    if json:
        print_json(
            [
                {
                    "name": family.name,
                    "title": family.title,
                    "parameters": dict(family.parameters),
                    "symmetries": list(family.symmetries),
                    "example": family.example,
                }
                for family in families
            ]
        )
        return
    console = stdout()
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("task", "rule", "symmetries", "example"):
        table.add_column(heading, overflow="fold")
    for family in families:
        table.add_row(
            clean(family.name),
            clean(family.title),
            ", ".join(family.symmetries) or "–",
            clean(family.example),
        )
    console.print(table)
    families_by_meaning: dict[tuple[str, str], list[str]] = {}
    for family in families:
        for parameter in family.parameters.items():
            families_by_meaning.setdefault(parameter, []).append(family.name)
    console.print()
    parameters = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("parameter", "of", "meaning"):
        parameters.add_column(heading, overflow="fold")
    for (name, meaning), whose in families_by_meaning.items():
        parameters.add_row(clean(name), ", ".join(map(clean, whose)), clean(meaning))
    console.print(parameters)
    console.print()
    console.print("A parameter that the checkpoints tell (the modulus) need not be said.")
