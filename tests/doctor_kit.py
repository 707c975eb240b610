"""Generated annotated photos for the tests of the dataset doctor, and writers that don't correct what they write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

H, W = 96, 128
CLASSES = ("disc", "plate")


@dataclass
class Object:
    name: str
    points: list[list[float]]  # [x, y]
    box: list[float] | None = None  # x, y, width, height; None: that of the points
    crowd: bool = False


@dataclass
class Photo:
    pixels: np.ndarray
    objects: list[Object]
    size: tuple[int, int] | None = None  # (height, width) stated in the annotation; None: that of the pixels
    exif: int = 0
    suffix: str = ".jpg"
    damage: str = ""  # "missing" or "cut"
    extra: dict = field(default_factory=dict)


def ellipse(y, x, ry, rx):
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=-1).round(1).tolist()


def rectangle(y1, x1, y2, x2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def shapes_photo(seed, count=2):
    """A photo with a different background, and objects of both classes."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(20, 230, (7, 9, 3)).astype(np.uint8), (W, H), interpolation=cv2.INTER_CUBIC)
    objects = []
    for i in range(count):
        y, x = int(rng.integers(26, H - 26)), 32 + i * 60 + int(rng.integers(-4, 5))
        ry, rx = rng.integers(14, 22, 2).tolist()
        points = ellipse(y, x, ry, rx) if i % 2 == 0 else rectangle(y - ry, x - rx, y + ry, x + rx)
        cv2.fillPoly(pixels, [np.int32(points)], rng.integers(0, 256, 3).tolist())
        objects.append(Object(CLASSES[i % 2], points))
    return Photo(pixels, objects)


def clean_set(count, seed=0):
    """{name: Photo}"""
    return {f"a{seed + i}": shapes_photo(seed + i) for i in range(count)}


# ---- Writing ---------------------------------------------------------------------------------------------------------
def write_photo(photo: Photo, stem: Path) -> Path:
    path = stem.with_name(stem.name + photo.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    if photo.damage == "missing":
        return path
    if photo.pixels.dtype == np.uint16:
        cv2.imwrite(str(path), photo.pixels)
        return path
    picture = Image.fromarray(photo.pixels)
    exif = picture.getexif()
    if photo.exif:
        exif[0x0112] = photo.exif
    picture.save(path, **({"quality": 95} if photo.suffix == ".jpg" else {}), exif=exif)
    if photo.damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_coco(photos, folder, split="train", names=CLASSES):
    """instances_<split>.json and <split>/*.jpg, with polygons and boxes."""
    images, annotations = [], []
    for i, (name, photo) in enumerate(photos.items(), start=1):
        path = write_photo(photo, folder / split / name)
        height, width = photo.size or photo.pixels.shape[:2]
        images.append({"id": i, "file_name": path.name, "height": height, "width": width})
        for one in photo.objects:
            points = np.array(one.points, float)
            low, high = points.min(axis=0), points.max(axis=0)
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": list(names).index(one.name) + 1,
                "segmentation": [points.ravel().tolist()], "iscrowd": int(one.crowd),
                "bbox": one.box or [*low.tolist(), *(high - low).tolist()],
            })  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def write_labelme(photos, folder, split="train", names=CLASSES):
    """<split>/*.jpg and *.json, and labels.txt."""
    for name, photo in photos.items():
        path = write_photo(photo, folder / split / name)
        height, width = photo.size or photo.pixels.shape[:2]
        shapes = [
            {"label": one.name, "points": one.points, "shape_type": "polygon", "flags": {"iscrowd": one.crowd}}
            for one in photo.objects
        ]
        content = {"imagePath": path.name, "imageHeight": height, "imageWidth": width, "shapes": shapes}
        path.with_suffix(".json").write_text(json.dumps(content))
    (folder / "labels.txt").write_text("\n".join(names))
    return folder / split


def write_via(photos, folder, split="train", names=CLASSES):
    """<split>/*.jpg and via_region_data.json."""
    entries = {}
    for name, photo in photos.items():
        path = write_photo(photo, folder / split / name)
        regions = []
        for one in photo.objects:
            xs, ys = np.array(one.points).T.tolist()
            shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
            regions.append({"shape_attributes": shape, "region_attributes": {"kind": one.name}})
        entries[name] = {"filename": path.name, "regions": regions}
    file = folder / split / "via_region_data.json"
    file.write_text(json.dumps(entries))
    return file


def write_voc(photos, folder, split="train", names=CLASSES):
    """JPEGImages and Annotations with a box and a polygon for each object."""
    for name, photo in photos.items():
        path = write_photo(photo, folder / "JPEGImages" / name)
        height, width = photo.size or photo.pixels.shape[:2]
        objects = ""
        for one in photo.objects:
            points = np.array(one.points)
            x, y, w, h = one.box or [*points.min(axis=0), *np.ptp(points, axis=0)]
            corners = "".join(f"<x{i}>{px}</x{i}><y{i}>{py}</y{i}>" for i, (px, py) in enumerate(one.points, 1))
            box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            objects += f"<object><name>{one.name}</name><bndbox>{box}</bndbox><polygon>{corners}</polygon></object>"
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        file = folder / "Annotations" / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><filename>{path.name}</filename>{size}{objects}</annotation>")
    return folder


def write_yolo(photos, folder, split="train", names=CLASSES):
    """images/<split>, labels/<split> and data.yaml."""
    for name, photo in photos.items():
        write_photo(photo, folder / "images" / split / name)
        height, width = photo.pixels.shape[:2]
        lines = []
        for one in photo.objects:
            values = (np.array(one.points) / (width, height)).clip(0, 1).ravel()
            lines.append(" ".join([str(list(names).index(one.name)), *(f"{v:.6f}" for v in values)]))
        file = folder / "labels" / split / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    content = [f"{one}: images/{one}" for one in ("train", "val") if (folder / "images" / one).is_dir()]
    names = "names: [" + ", ".join(names) + "]"
    (folder / "data.yaml").write_text("\n".join([f"path: {folder}", *content, names]))
    return folder
