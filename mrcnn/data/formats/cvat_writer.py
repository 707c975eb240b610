"""Writes CVAT's own XML, "CVAT for images 1.1", which CVAT imports as annotations of a task; `cvat` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import writers
from mrcnn.io import replacing
from mrcnn.ops.mask_boxes import extract_bboxes


def save_cvat(
    dataset: Dataset,
    path: str | Path,
    image_ids: Iterable[int] | None = None,
    images_dir: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """Writes a dataset as a file of CVAT; `CvatDataset.load_cvat` reads the same masks, pixel for pixel.

    Objects become `<mask>` shapes, which CVAT 2.3 and newer edit with the brush. Crowds get the attribute `is_crowd`.
    Objects without a pixel are left out.

    Args:
        path: The file to write. Its folder is created if needed. Images are not copied; images without a file (drawn
            or rotated ones) are written as PNG to the folder `<name of the file>_images`.
        images_dir: Folder that image names are relative to, as in the task of CVAT. None: that of the file.
        dataset, image_ids, progress: As in `save_coco`, which returns and raises the same.

    Example:
        >>> import tempfile
        >>> dataset = Dataset()
        >>> dataset.load_image = lambda image_id: np.zeros((6, 8, 3), np.uint8)
        >>> dataset.load_mask = lambda image_id: (np.eye(6, 8, dtype=bool)[..., None], np.array([1]))
        >>> dataset.add_class("drawn", 1, "line")
        >>> dataset.add_image("drawn", 1, path=None)
        >>> dataset.prepare()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tree = ElementTree.parse(save_cvat(dataset, Path(folder) / "annotations.xml"))
        >>> tree.find("image/mask").get("label"), tree.find("image/mask").get("rle")[:11]
        ('line', '0, 1, 6, 1,')
    """
    path, taken = Path(path), set()
    base = path.parent if images_dir is None else Path(images_dir)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for info in dataset.class_info[1:]:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = str(info["name"])
    for number, image_id in enumerate(writers.with_progress(writers.chosen_images(dataset, image_ids), progress)):
        masks, class_ids = writers.read_objects(dataset, image_id)
        height, width = masks.shape[:2]
        png = path.with_name(f"{path.stem}_images") / f"{writers.file_stem(dataset, image_id, taken)}.png"
        name = writers.relative_path(writers.image_file(dataset, image_id, (height, width), png), base)
        image = ElementTree.SubElement(root, "image", id=str(number), name=name, width=str(width), height=str(height))
        for i, (box, class_id) in enumerate(zip(extract_bboxes(masks).tolist(), class_ids.tolist())):
            _add_mask(image, masks[..., i], box, str(dataset.class_info[abs(class_id)]["name"]), class_id < 0)
    ElementTree.indent(root)
    with replacing(path) as unfinished:
        ElementTree.ElementTree(root).write(unfinished, encoding="utf-8", xml_declaration=True)
    return path


def _add_mask(image: ElementTree.Element, mask: np.ndarray, box: list[int], label: str, is_crowd: bool) -> None:
    """Adds a mask [H, W] with the box (y1, x1, y2, x2) to an image."""
    y1, x1, y2, x2 = box
    pixels = mask[y1:y2, x1:x2].ravel()
    turns = np.flatnonzero(np.diff(pixels.astype(np.int8))) + 1
    counts = np.diff(np.r_[0, turns, len(pixels)]).tolist()
    shape = ElementTree.SubElement(
        image, "mask", label=label, source="auto", occluded="0",
        rle=", ".join(map(str, [0, *counts] if pixels[0] else counts)),
        left=str(x1), top=str(y1), width=str(x2 - x1), height=str(y2 - y1), z_order="0",
    )  # fmt: skip
    if is_crowd:
        ElementTree.SubElement(shape, "attribute", name="is_crowd").text = "true"
