"""`mrcnn check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrcnn.cli import options, output


@options.with_reading_options("attribute", "crowds_as_objects", "root", "download")
def check(
    data: options.DataArgument,
    val: Annotated[Path | None, typer.Option(help="The validation split, if it isn't a folder of DATA.")] = None,
    fix: Annotated[Path | None, typer.Option(help="New folder for a clean copy: COCO files and photos.")] = None,
    size: Annotated[int, typer.Option(min=64, help="IMAGE_MIN_DIM and IMAGE_MAX_DIM, for advice on sizes.")] = 1024,
    classes: options.ClassesOption = None,
    as_json: options.JsonOption = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Find what is wrong with a dataset: photos, copies, masks, boxes, classes, sizes.

    DATA is one split, or a folder with both (train and val). Errors make training or evaluation fail or give wrong
    results, warnings are probably mistakes, and advice is for you to decide. --fix writes a copy without the images and
    objects that errors and warnings are about.
    The exit code is 1 if there is an error, unless --fix wrote a copy. docs/check.md lists all findings.
    """
    output.start_backend()
    from mrcnn.config import Config
    from mrcnn.data.doctor import check as check_dataset

    findings = check_dataset(
        data,
        val,
        Config(IMAGE_MIN_DIM=size, IMAGE_MAX_DIM=size) if size != 1024 else None,
        fix=fix,
        classes=options.names_in(classes),
        **reading,
        progress=output.is_terminal(),
    )
    if as_json:
        output.print_json(findings.to_dict())
    else:
        from rich.console import Console

        if len(findings):
            Console().print(findings.table())
        print(findings.summary())
        if findings.fixed:
            output.print_table(findings.fixed_rows(), title=f"Written to {fix}")
    if findings.has_errors and not findings.fixed:
        raise typer.Exit(1)
