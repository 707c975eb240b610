"""`mrcnn evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrcnn.cli import options, output

if TYPE_CHECKING:
    from mrcnn.data.dataset import Dataset
    from mrcnn.model import MaskRCNN


@options.with_reading_options()
def evaluate(
    data: options.DataArgument,
    weights: options.WeightsOption,
    split: Annotated[str | None, typer.Option(help="The split to use, such as val; without it, all of DATA.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file to write: curves, errors, the worst images.")] = None,
    save: Annotated[Path | None, typer.Option(help="COCO results file to write the detections to.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lower scores do not count.")] = 0.05,
    batch: Annotated[int, typer.Option(min=1, help="Images per call of the network.")] = 1,
    settings: options.SettingsOption = None,
    as_json: options.JsonOption = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Measure a model on annotated images by COCO's protocol.

    Classes of DATA are matched with the model's by name. A checkpoint that `mrcnn train` wrote for the same DATA is
    measured on the images that it was not trained on.
    """
    from mrcnn.cli.models import open_model, parse_settings

    model = open_model(weights, **{"IMAGES_PER_GPU": batch, **parse_settings(settings or ())})
    dataset = open_for(model, data, split, reading)
    for path in filter(None, (report, save)):
        output.require_writable(path.parent)
    image_ids = None if split else held_out_images(model, data, dataset)
    with output.prints_to_stderr():
        found = model.evaluate_dataset(
            dataset, image_ids, min_score=min_score, save=save, progress=output.is_terminal()
        )
        if report is not None:
            found.report(report)
    if as_json:
        output.print_json(found.to_dict())
    else:
        print(found)


def open_for(model: MaskRCNN, data: Path, split: str | None, reading: dict[str, Any]) -> Dataset:
    """Opens a dataset with the class ids that the model has for these names."""
    from mrcnn.data.dataset import Dataset
    from mrcnn.data.format_detection import open_dataset, open_splits

    numbered = Dataset()
    for i, name in enumerate(model.class_names[1:], start=1):
        numbered.add_class("model", i, name)
    numbered.prepare()
    if split:
        return open_splits(data, [split], numbered, **reading)[0]
    return open_dataset(data, numbered, **reading)


def held_out_images(model: MaskRCNN, data: Path, dataset: Dataset) -> list[int] | None:
    """The validation images of the run, if `mrcnn train` wrote the model for the same data; None: use all images."""
    from mrcnn.cli.train import RECORD

    path = Path(model.log_dir) / RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not record or Path(record["data"]).resolve() != data.resolve() or record["split"] != "hash":
        return None
    kept = set(record["validation_images"])
    image_ids = [i for i, info in enumerate(dataset.image_info) if str(info["id"]) in kept]
    output.note(f"note: {len(image_ids)} of {dataset.num_images} images, which {path.parent} was not trained on.")
    return image_ids
