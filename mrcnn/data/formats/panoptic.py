"""COCO's panoptic format: a JSON file, and a PNG for each image whose colors are the numbers of segments.

    dataset = PanopticDataset()
    dataset.load_panoptic("annotations/panoptic_val2017.json", "val2017")
    dataset.prepare()

The file is one of COCO's with other annotations, one for each image:
    annotation  {"image_id", "file_name": "a.png", "segments_info": [{"id", "category_id", "iscrowd"}, ...]}
    category    {"id", "name", "isthing"}
The pixels of segment `id` have the color red + 256 green + 65536 blue = id. The PNGs are in the folder of the file's
name (panoptic_val2017/). Segments of things are objects; those of stuff (isthing = 0), such as sky, are left out.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, size_of_masks
from mrcnn.data.formats.image_files import read_colors
from mrcnn.data.formats.json_head import has_keys
from mrcnn.data.formats.parsing import field, name_classes, parse_all, read_json
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder

PARTS = ("images", "annotations", "categories")
SEARCHED = 1 << 26  # bytes of a file called panoptic_*.json that are searched for segments


class PanopticDataset(UprightDataset):
    """Images with panoptic annotations. Call `load_panoptic` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> segment = {"id": 5, "category_id": 1}
        >>> content = {
        ...     "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}],
        ...     "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": [segment]}],
        ...     "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "panoptic").mkdir()
        ...     Image.new("RGB", (6, 4)).save(Path(folder) / "a.jpg")
        ...     Image.new("RGB", (6, 4), (5, 0, 0)).save(Path(folder) / "panoptic" / "a.png")
        ...     _ = (Path(folder) / "panoptic.json").write_text(json.dumps(content))
        ...     dataset = PanopticDataset()
        ...     dataset.load_panoptic(Path(folder) / "panoptic.json")
        ...     dataset.prepare()
        ...     masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((4, 6, 1), 24, ['BG', 'cat'])
    """

    @names_file
    def load_panoptic(
        self,
        path: str | Path,
        images_dir: str | Path | None = None,
        segments_dir: str | Path | None = None,
        source: str = "panoptic",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Adds the images of a file.

        Args:
            path: The JSON file.
            segments_dir: Folder of the PNGs. None: the folder next to the file with the same name.
            classes: Names of the things wanted, in the order of their ids 1, 2, ...; None: all.
            images_dir, source, skip_broken: As in `CocoDataset.load_coco_format`.

        Raises:
            FileNotFoundError, BrokenAnnotation: see `open_dataset`.
        """
        path = Path(path)
        content = read_json(path)
        if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
            raise BrokenAnnotation(path, "the file", "content", f"lists {', '.join(PARTS)}", content)
        names = _thing_names(content["categories"], path)
        by_id = {image["id"]: image for image in content["images"] if has_keys(image, "id", "file_name")}
        if images_dir is None:
            first = [str(image["file_name"]) for image in list(by_id.values())[:NAMES_READ]]
            images_dir = find_images_folder(path, first, FORMAT.loader)
        folders = PhotoFolder(images_dir), PhotoFolder(segments_dir or path.with_suffix(""))
        entries = [(f"annotations[{i}]", entry) for i, entry in enumerate(content["annotations"])]

        def parse(item: tuple[str, dict]) -> tuple:
            return _parse_annotation(item[1], (path, item[0]), by_id, names, folders)

        parsed = parse_all(entries, parse, skip_broken, lambda item: (path, item[0]))
        found = [name for *_, segments in parsed for _, name, _ in segments]
        ids = name_classes(self, source, found, classes or list(dict.fromkeys(filter(None, names.values()))), path)
        for own_id, photo, (height, width), png, segments in parsed:
            kept = [(number, ids[name], crowd) for number, name, crowd in segments if name in ids]
            self.add_image(source, own_id, str(photo), height=height, width=width, png=str(png), segments=kept)

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Reads the masks of an image.

        Returns:
            masks: [H, W, N] bool. Segments without a pixel are left out.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "segments" not in info:
            return super().load_mask(image_id)
        colors = read_colors(info["png"], (info["png"], "the file"), (info["height"], info["width"]))
        numbers = (colors >> 16) + (colors & 0xFF00) + ((colors & 0xFF) << 16)  # red is the lowest byte
        layers = np.zeros((len(info["segments"]), *numbers.shape), bool)
        class_ids = np.zeros(len(layers), np.int32)
        for i, (number, own_id, crowd) in enumerate(info["segments"]):
            np.equal(numbers, number, out=layers[i])
            class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
            class_ids[i] = -class_id if crowd else class_id
        kept = layers.any(axis=(1, 2))
        return np.moveaxis(layers[kept], 0, -1), class_ids[kept]


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    return isinstance(annotations, list) and bool(annotations) and has_keys(annotations[0], "segments_info")


def _find(place: Place) -> list[Path]:
    folders = [place] if place.path.is_file() else [place, place.inside("annotations")]
    found = [file for folder in folders if folder for file in folder.files(".json") if is_panoptic(folder, file)]
    beside = [name for folder in folders if folder for name in folder.entries if name.startswith("instances_")]
    return [] if beside else found  # objects that COCO has in both forms


def is_panoptic(place: Place, file: Path) -> bool:
    """Whether a file in a place is panoptic, also if its beginning has only images, as that of COCO's own files."""
    name = place.json_files.get(file, (None, None))[0]
    if name != "COCO" or "panoptic" not in file.name.lower():
        return name == FORMAT.name
    with open(file, "rb") as stream:
        return b'"segments_info"' in stream.read(SEARCHED)


def _open(path: Path, options: OpenOptions) -> PanopticDataset:
    dataset = PanopticDataset()
    dataset.load_panoptic(path, classes=options.classes, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="COCO panoptic",
    signs='a JSON file with "segments_info", here or in annotations/',
    loader="PanopticDataset().load_panoptic(file, images_dir, segments_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _thing_names(categories: list, path: Path) -> dict[int, str | None]:
    """{category id: name, or None of stuff}."""
    names: dict[int, str | None] = {}
    for i, category in enumerate(categories):
        where = (path, f"categories[{i}]")
        if not isinstance(category, dict):
            raise BrokenAnnotation(*where, "category", "an object", category)
        name = field(category, "name", str, "a text", where).strip()
        names[field(category, "id", int, "a number", where)] = name if category.get("isthing", 1) else None
    return names


def _parse_annotation(
    entry: Any,
    where: Where,
    by_id: dict[Any, dict],
    names: dict[int, str | None],
    folders: tuple[PhotoFolder, PhotoFolder],
) -> tuple[Any, Path | str, tuple[int, int], Path, list[tuple[int, str, bool]]]:
    """(image id, image file, (height, width), PNG, [(number, class name, whether a crowd)] of things)."""
    if not isinstance(entry, dict) or entry.get("image_id") not in by_id:
        raise BrokenAnnotation(*where, "image_id", "the id of one of images", entry)
    image = by_id[entry["image_id"]]
    photo = folders[0].locate(field(image, "file_name", str, "the image's file name", where), where)
    name = field(entry, "file_name", str, "the name of a PNG", where)
    png = folders[1].find(name)
    if png is None:
        raise MissingPhoto(*where, "file_name", folders[1].folder / name)
    size = size_of_masks(photo, [png], where)
    segments = []
    for segment in field(entry, "segments_info", list, "a list of segments", where):
        if not isinstance(segment, dict) or segment.get("category_id") not in names:
            raise BrokenAnnotation(*where, "segments_info", f"segments of the categories {list(names)}", segment)
        thing = names[segment["category_id"]]
        if thing is not None:
            segments.append((field(segment, "id", int, "a number", where), thing, bool(segment.get("iscrowd"))))
    limits.check_masks(len(segments), *size, where)
    return image["id"], photo, size, png, segments
