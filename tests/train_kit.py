"""A small set of photos, written in each annotation format: blocks and discs on a plain background."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mrcnn.data.convert import TARGETS
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.coco import save_coco
from mrcnn.data.formats.cvat_writer import save_cvat
from mrcnn.data.formats.labelme import save_labelme
from mrcnn.data.formats.yolo_writer import save_yolo

SIDE = 128
NAMES = ("block", "disc")
FORMATS = (*TARGETS, "via", "voc", "label_studio", "instance_pngs", "supervisely")


class Scenes(Dataset):
    """Images with a block in the left half and a disc in the right one."""

    def load_scenes(self, count, seed=0):
        for i, name in enumerate(NAMES, start=1):
            self.add_class("drawn", i, name)
        for i in range(count):
            self.add_image("drawn", f"scene{i}", None, seed=(seed, i))
        self.prepare()
        return self

    def load_mask(self, image_id):
        rng = np.random.default_rng(self.image_info[image_id]["seed"])
        masks = np.zeros((SIDE, SIDE, 2), np.uint8)
        y, x, half = rng.integers(24, 104), rng.integers(24, 40), rng.integers(12, 20)
        masks[max(y - half, 0) : y + half, x - half : x + half, 0] = 1
        center = int(rng.integers(86, 104)), int(rng.integers(24, 104))
        masks[..., 1] = cv2.circle(np.zeros((SIDE, SIDE), np.uint8), center, 18, 1, -1)
        return masks.astype(bool), np.array([1, 2], np.int32)

    def load_image(self, image_id):
        masks, _ = self.load_mask(image_id)
        image = np.full((SIDE, SIDE, 3), (40, 60, 80), np.uint8)
        image[masks[..., 0]] = (230, 190, 60)
        image[masks[..., 1]] = (90, 200, 210)
        return image


def write_scenes(folder: Path, form: str, count: int) -> Path:
    """Writes the set, and returns the path to open."""
    scenes = Scenes().load_scenes(count)
    if form in TARGETS:
        paths = {"coco": folder / "all.json", "cvat": folder / "annotations.xml"}
        {"coco": save_coco, "cvat": save_cvat, "labelme": save_labelme, "yolo": save_yolo}[form](
            scenes, paths.get(form, folder)
        )
        return paths.get(form, folder)
    for i in range(count):
        masks, _ = scenes.load_mask(i)
        WRITERS[form](folder, f"scene{i}", Image.fromarray(scenes.load_image(i)), masks)
    return folder


def outline(mask) -> list[list[int]]:
    """[[x, y], ...]"""
    (found,), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return found[:, 0].tolist()


def save_photo(folder: Path, name: str, photo) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    photo.save(folder / name)


def append(path: Path, key: str | None, entry) -> None:
    """Adds an entry to the JSON list or dict in a file."""
    content = json.loads(path.read_text()) if path.exists() else [] if key is None else {}
    if key is None:
        content.append(entry)
    else:
        content[key] = entry
    path.write_text(json.dumps(content))


def write_via(folder, name, photo, masks):
    save_photo(folder, f"{name}.png", photo)
    regions = []
    for i, label in enumerate(NAMES):
        xs, ys = zip(*outline(masks[..., i]))
        shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
        regions.append({"shape_attributes": shape, "region_attributes": {"kind": label}})
    append(folder / "via_region_data.json", name, {"filename": f"{name}.png", "size": 1, "regions": regions})


def write_voc(folder, name, photo, masks):
    save_photo(folder / "JPEGImages", f"{name}.jpg", photo)
    numbers = Image.fromarray((masks[..., 0] + 2 * masks[..., 1]).astype(np.uint8))
    things = "".join(
        f"<object><name>{label}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        for label in NAMES
    )
    for inner, save in (("SegmentationObject", numbers.save), ("SegmentationClass", numbers.save)):
        (folder / inner).mkdir(exist_ok=True)
        save(folder / inner / f"{name}.png")
    (folder / "Annotations").mkdir(exist_ok=True)
    text = f"<annotation><filename>{name}.jpg</filename>{things}</annotation>"
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def write_label_studio(folder, name, photo, masks):
    save_photo(folder / "images", f"{name}.png", photo)
    results = [
        {"id": label, "type": "polygonlabels", "original_width": SIDE, "original_height": SIDE, "image_rotation": 0,
         "value": {"points": [[x / SIDE * 100, y / SIDE * 100] for x, y in outline(masks[..., i])],
                   "polygonlabels": [label]}}
        for i, label in enumerate(NAMES)
    ]  # fmt: skip
    task = {"id": name, "data": {"image": f"/data/upload/1/{name}.png"}, "annotations": [{"result": results}]}
    append(folder / "export.json", None, task)


def write_instance_pngs(folder, name, photo, masks):
    save_photo(folder / name / "images", f"{name}.png", photo)
    (folder / name / "masks").mkdir()
    for i, label in enumerate(NAMES):
        Image.fromarray(masks[..., i].astype(np.uint8) * 255).save(folder / name / "masks" / f"{label}.png")


def write_supervisely(folder, name, photo, masks):
    save_photo(folder / "set" / "img", f"{name}.png", photo)
    meta = {"classes": [{"title": label, "shape": "polygon"} for label in NAMES]}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "set" / "ann").mkdir(exist_ok=True)
    objects = [
        {"classTitle": label, "geometryType": "polygon", "points": {"exterior": outline(masks[..., i]), "interior": []}}
        for i, label in enumerate(NAMES)
    ]
    content = {"description": "", "size": {"height": SIDE, "width": SIDE}, "objects": objects}
    (folder / "set" / "ann" / f"{name}.png.json").write_text(json.dumps(content))


WRITERS = {
    "via": write_via,
    "voc": write_voc,
    "label_studio": write_label_studio,
    "instance_pngs": write_instance_pngs,
    "supervisely": write_supervisely,
}
