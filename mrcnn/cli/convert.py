"""`mrcnn convert`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mrcnn.cli import options, output


class Target(StrEnum):
    coco, yolo, labelme, cvat = "coco", "yolo", "labelme", "cvat"


@options.with_reading_options()
def convert(
    source: options.DataArgument,
    target: Annotated[Path, typer.Argument(help="Folder to write; for COCO and CVAT, the file or the folder for it.")],
    to: Annotated[Target, typer.Option(help="Format to write.")],
    classes: options.ClassesOption = None,
    splits: Annotated[str | None, typer.Option(help="Splits to convert with the same class ids: train,val")] = None,
    as_json: options.JsonOption = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Convert annotations of any known format to COCO, YOLO, labelme or CVAT.

    Prints the files and folders that were written. YOLO gets copies of the images; the other formats refer to them
    where they are. If the images are outside the target's folder, pass --root with their folder to open it again.
    """
    from mrcnn.data.convert import convert as convert_dataset

    if target.is_file() and source.resolve() in (target.resolve(), *target.resolve().parents):
        raise ValueError(f"{target} is a file of {source}, which would be replaced. Choose another target.")
    written = convert_dataset(
        source,
        target,
        to.value,
        classes=options.names_in(classes),
        splits=options.names_in(splits) or (),
        **reading,
        progress=output.is_terminal(),
    )
    paths = list(dict.fromkeys(map(str, written)))
    if as_json:
        output.print_json({"written": paths})
    else:
        print(*paths, sep="\n")
