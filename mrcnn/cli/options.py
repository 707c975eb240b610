"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

DataArgument = Annotated[Path, typer.Argument(help="Folder or annotation file of any format that open_dataset reads.")]
InputsArgument = Annotated[
    list[str], typer.Argument(help="Photos, videos, folders, patterns such as 'photos/*.jpg', or - for stdin.")
]
ChosenClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Only these of the model's classes, with commas between them.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
WeightsOption = Annotated[
    str, typer.Option("--weights", "-w", help="A file, or a name: shapes (shipped), torchvision_v2 (download), ...")
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Class names with commas between them, where the files name none.")
]
READING_OPTIONS: dict[str, tuple[Any, Any]] = {  # arguments of `open_dataset`: type and default
    "skip_broken": (
        Annotated[bool, typer.Option("--skip-broken", help="Leave broken images out, with a warning.")], False,
    ),
    "attribute": (Annotated[str | None, typer.Option(help="VIA files: the attribute with the class.")], None),
    "crowds_as_objects": (
        Annotated[bool, typer.Option("--crowds-as-objects", help="COCO files: read iscrowd=1 as objects.")], False,
    ),
    "root": (
        Annotated[Path | None, typer.Option(help="Another folder whose images the annotations may name.")], None,
    ),
    "download": (Annotated[bool, typer.Option("--download", help="Fetch images that are URLs.")], False),
}  # fmt: skip
MinScoreOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Lowest score of an object; without it, that of the model's settings."),
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of Config; may be repeated.")
]


def with_reading_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds options of `READING_OPTIONS` to a command, which receives their values as the dict `reading`.

    Args:
        *names: Names of the options; none: all.
    """
    names = names or tuple(READING_OPTIONS)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            reading = {name: arguments.pop(name) for name in names}
            command(**arguments, reading=reading)

        signature = inspect.signature(command, eval_str=True)  # typer reads the options from the signature
        parameters = [parameter for name, parameter in signature.parameters.items() if name != "reading"]
        for name in names:
            kind, default = READING_OPTIONS[name]
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
        run.__signature__ = signature.replace(parameters=parameters)
        return run

    return decorate


def names_in(text: str | None) -> list[str] | None:
    """The names in "cat, dog"; None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
