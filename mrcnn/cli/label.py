"""`mrcnn label`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrcnn.cli import options, output

if TYPE_CHECKING:
    from mrcnn.data.dataset import Dataset


class Target(StrEnum):
    labelme, cvat, coco, yolo = "labelme", "cvat", "coco", "yolo"


def label(
    photos: options.InputsArgument,
    weights: options.WeightsOption,
    to: Annotated[Target, typer.Option("--format", "-f", help="Format to write.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; for labelme, that of the photos.")],
    min_score: options.MinScoreOption = None,
    classes: options.ChosenClassesOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing annotations.")] = False,
    settings: options.SettingsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Annotate photos with a model, to correct them in labelme, CVAT or another tool.

    Writes one JSON file for each photo (labelme), annotations.xml (CVAT for images 1.1), annotations.json (COCO), or a
    folder with copies of the photos (YOLO). Refuses to replace annotations, which may have been corrected by hand.
    """
    from mrcnn.cli.detect import detect_photos
    from mrcnn.cli.inputs import STDIN, find_sources
    from mrcnn.cli.models import ChosenClasses, open_model, parse_settings

    sources = find_sources(photos, target, beside=True)
    wrong = [source.name for source in sources if source.is_video or source.path is None]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]}: expected photos in files; not videos, and not {STDIN}.")
    if not overwrite:
        refuse_to_replace(target, to, [source.path for source in sources])
    found_settings = parse_settings(settings or ())
    if min_score is not None:
        found_settings["DETECTION_MIN_CONFIDENCE"] = min_score
    model = ChosenClasses(open_model(weights, **found_settings), options.names_in(classes))
    output.require_writable(target)
    dataset, broken, objects = new_dataset(model.class_names), [], 0
    with output.prints_to_stderr():
        for source, _, found in detect_photos(model, output.track(sources, "photos"), 1, broken):
            dataset.add_image("detected", source.name, str(source.path), rles=found.rle, class_ids=found.class_ids)
            objects += len(found)
        dataset.prepare()
        written = write(dataset, target, to)
    if as_json:
        output.print_json({"photos": dataset.num_images, "objects": objects, "broken": broken, "written": str(written)})
    else:
        print(f"{dataset.num_images} photos, {objects} objects, {len(broken)} broken")
        print(written)
    if broken:
        raise typer.Exit(1)


def refuse_to_replace(target: Path, to: Target, photos: list[Path]) -> None:
    """Raises ValueError if a file that would be written exists."""
    names = {
        Target.labelme: [f"{photo.stem}.json" for photo in photos],
        Target.cvat: ["annotations.xml"],
        Target.coco: ["annotations.json"],
        Target.yolo: ["data.yaml"],
    }[to]
    existing = next((target / name for name in names if (target / name).exists()), None)
    if existing is not None:
        raise ValueError(
            f"{existing} exists, and may have been corrected by hand. Choose another --output, or --overwrite."
        )


def new_dataset(class_names: list[str]) -> Dataset:
    """An empty dataset whose images come with their run lengths and class ids, as `add_image(rles=, class_ids=)`."""
    import numpy as np
    from pycocotools import mask as coco_mask

    from mrcnn.data.dataset import Dataset
    from mrcnn.data.image_reading import read_header, read_image

    class Detected(Dataset):
        def load_image(self, image_id: int) -> Any:
            return read_image(self.image_info[image_id]["path"], upright=True)

        def load_mask(self, image_id: int) -> tuple[Any, Any]:
            info = self.image_info[image_id]
            if not info["rles"]:
                return np.zeros((*read_header(info["path"]).upright, 0), bool), np.zeros(0, np.int32)
            return coco_mask.decode(info["rles"]).astype(bool), info["class_ids"]

    dataset = Detected()
    for i, name in enumerate(class_names[1:], start=1):
        dataset.add_class("detected", i, name)
    return dataset


def write(dataset: Dataset, target: Path, to: Target) -> Path:
    """Writes the annotations, and returns the file or folder."""
    from mrcnn.data.formats.coco import save_coco
    from mrcnn.data.formats.cvat_writer import save_cvat
    from mrcnn.data.formats.labelme import save_labelme
    from mrcnn.data.formats.yolo_writer import save_yolo

    if to == Target.labelme:
        save_labelme(dataset, target)
        return target
    if to == Target.cvat:
        return save_cvat(dataset, target / "annotations.xml")
    return save_coco(dataset, target / "annotations.json") if to == Target.coco else save_yolo(dataset, target)
