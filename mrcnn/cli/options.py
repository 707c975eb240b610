"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    str, typer.Option("--weights", "-w", help="A file, or a word: shapes (shipped), torchvision_v2 (download), ...")
]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Class names with commas between them, where the files name none.")
]
AttributeOption = Annotated[str | None, typer.Option(help="VIA files: the attribute with the class.")]
SkipBrokenOption = Annotated[bool, typer.Option("--skip-broken", help="Leave broken images out, with a warning.")]
CrowdsOption = Annotated[bool, typer.Option("--crowds-as-objects", help="COCO files: read iscrowd=1 as objects.")]
RootOption = Annotated[
    Path | None, typer.Option(help="A folder whose images the annotations may name, besides their own folder.")
]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch images that are URLs.")]

MinScoreOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Lowest score of an object; without it, that of the model's settings."),
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of Config; may be repeated.")
]


def names_in(text: str | None) -> list[str] | None:
    """The names in "cat, dog"; None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
