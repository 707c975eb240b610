"""`mrcnn export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrcnn.cli import options, output


class Format(StrEnum):
    onnx, litert, saved_model, openvino = "onnx", "litert", "saved_model", "openvino"


def export(
    model: Annotated[str, typer.Argument(help="A weight file, the folder of a run, or a name such as shapes.")],
    to: Annotated[Format, typer.Option("--format", "-f", help="Runtime to export for.")] = Format.onnx,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("exported"),
    photos: Annotated[
        Path | None, typer.Option("--images", help="Folder of photos to compare on; without it, 20 drawn ones.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Annotated images: AP is measured before and after.")] = None,
    split: Annotated[str | None, typer.Option(help="The split of --data to use, such as val.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="LiteRT: 8-bit; needs --images and --data.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Images at once; without it any, or 1 for LiteRT.")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Size of the input, such as 800x1344.")] = None,
    settings: options.SettingsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Export a model to ONNX, LiteRT, SavedModel or OpenVINO, if its results stay the same.

    Runs the exported model and Keras on the same images, and writes it only if boxes, scores and masks agree. The
    folder also gets parity.json with the largest differences, and mrcnn_runtime.py, which runs the model on photos.
    """
    image_size = parse_size(size)
    if int8 and (to is not Format.litert or data is None or photos is None):
        raise typer.BadParameter("--int8 is for --format litert; it needs --images, for ranges, and --data, for AP.")
    output.start_backend()
    from mrcnn.cli.evaluate import open_for
    from mrcnn.cli.inputs import find_sources
    from mrcnn.cli.models import open_model, parse_settings

    opened = open_model(model, **parse_settings(settings or ()))
    images = None if photos is None else [x.path for x in find_sources([str(photos)], folder) if not x.is_video]
    dataset = None if data is None else open_for(opened, data, split, {})
    output.require_writable(folder)
    name = "saved_model" if to is Format.saved_model else "model"
    with output.prints_to_stderr():
        record = opened.export(
            folder / name, to.value, verbose=False, images=images, dataset=dataset, image_size=image_size,
            batch_size=batch, int8=int8,
        )  # fmt: skip
    if as_json:
        output.print_json(record)
        return
    errors = {f"largest difference of {key}": f"{error:.1e}" for key, error in record["errors"].items()}
    rows = {"format": record["format"], "images compared": record["images"], **errors}
    if "mask_ap" in record:
        rows |= {"mask AP of Keras": record["mask_ap"]["keras"], "mask AP exported": record["mask_ap"]["exported"]}
    output.print_table(rows, title=str(folder))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "800x1344"; None for None."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise typer.BadParameter(f"--size {text}: expected height x width in pixels, such as 800x1344.")
    return int(sides[0]), int(sides[1])
