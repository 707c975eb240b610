"""labelme JSON: one file an image, of versions 3 to 6, also as X-AnyLabeling writes them.

    dataset = LabelmeDataset()
    dataset.load_labelme("photos")          # folder with a.jpg, a.json, ...
    dataset.prepare()
    save_labelme(dataset, "copies")

What stands in a file:
    {"imagePath": ..., "imageData": base64 or null, "imageHeight": ..., "imageWidth": ..., "shapes": [shape, ...]}
    shape  {"label": ..., "points": [[x, y], ...], "shape_type": ..., "group_id": number or null, "flags": {...}}
The image is the file at imagePath, or what imageData holds if there is no such file.

Shapes become masks: polygon, rectangle (also an oriented one), circle, mask (a small PNG), and, one pixel thin, line,
linestrip and point. A file without shapes is an image without objects. Shapes of the labels `__ignore__` and
`_background_`, labelme's names for what is no object, are left out. The flag `iscrowd` marks a group, whose class id is
negative.

One object may have several shapes, of one label and one group_id. Their union is its mask, as in labelme's own
converters, but for holes. labelme has no tool for these; its users draw them in one of three ways, and each is read:
    a mask shape                         holds what it holds
    one polygon with a cut to the hole   is filled by the even-odd rule
    a second outline in the same group   is cut out if it lies wholly within the first; one within that is filled again
In a union a shape within another would change nothing, so nobody draws it but for a hole. Outlines that only overlap
are parts of the object. Points and lines never cut.

Shapes:
    V     corners of a shape
    K     shapes of an object
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
from PIL import Image

from mrcnn.data.formats import BrokenAnnotation, field, keep_whole, name_classes, rasterize, read_json, writers
from mrcnn.data.formats.exif import UprightDataset, check_told_size, upright_size

NO_OBJECT = ("__ignore__", "_background_")
CROWD = "iscrowd"
POINTS = {  # least and most points of each shape
    "polygon": (3, math.inf),
    "rectangle": (2, 4),  # two opposite corners, or all four
    "oriented_rectangle": (4, 4),
    "rotation": (4, 4),  # X-AnyLabeling's word for it
    "circle": (2, 2),  # centre, and a point on the border
    "mask": (2, 2),  # first and last pixel
    "line": (2, 2),
    "linestrip": (2, math.inf),
    "point": (1, 1),
}
THIN = ("line", "linestrip", "point")


class LabelmeDataset(UprightDataset):
    """Images annotated with labelme. `load_labelme` as often as needed, then `prepare()`."""

    def load_labelme(self, path, images_dir=None, source="labelme", classes=None, skip_broken=False):
        """Adds the images of a folder, or one.

        Args:
            path: folder whose *.json are labelme's, or one such file. Photos without a file aren't added: labelme
                doesn't tell whether someone looked at them.
            images_dir: folder of the images; None: as imagePath says, seen from the file.
            source: str, see `Dataset.add_class`.
            classes: list of class names, in the order of their ids 1, 2, ...; None: those found, sorted. Give it if
                training and validation files needn't have the same ones. Objects of other classes are left out, with a
                warning that counts them.
            skip_broken: bool. Leave broken images out and warn, instead of raising.

        Raises:
            FileNotFoundError: no such file, or none in the folder.
            BrokenAnnotation: says file, entry, field, what was expected, what is there.
        """
        path = Path(path)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} has no JSON file; expected one an image, as labelme writes them.")
        parsed = keep_whole(files, lambda file: _parse_file(file, images_dir), skip_broken)
        found = [label for *_, objects in parsed for label, _, _ in objects]
        ids = name_classes(self, source, found, classes, path)
        for file, photo, (height, width), objects in parsed:
            own = [(ids[label], crowd, shapes) for label, crowd, shapes in objects if label in ids]
            embedded = photo is None
            self.add_image(
                source, file.stem, str(photo or file), height=height, width=width, embedded=embedded, objects=own
            )

    def load_image(self, image_id):
        """[H, W, 3] uint8, RGB, upright."""
        info = self.image_info[image_id]
        if not info.get("embedded"):
            return super().load_image(image_id)
        return np.asarray(_embedded_image(read_json(info["path"]), info["path"]).convert("RGB"))

    def load_mask(self, image_id):
        """[H, W, N] bool, and [N] int32 class ids, negative for crowds. Objects without a pixel are left out."""
        info = self.image_info[image_id]
        if "objects" not in info:
            return super().load_mask(image_id)
        height, width, objects = info["height"], info["width"], info["objects"]
        masks, class_ids = np.zeros((len(objects), height, width), bool), np.zeros(len(objects), np.int32)
        for i, (own_id, crowd, shapes) in enumerate(objects):
            masks[i] = merge([draw(shape, height, width) for shape in shapes], [s["kind"] not in THIN for s in shapes])
            class_id = self.map_source_class_id(f"{info['source']}.{own_id}")
            class_ids[i] = -class_id if crowd else class_id
        kept = masks.any(axis=(1, 2))
        return np.moveaxis(masks[kept], 0, -1), class_ids[kept]


# ---- From shapes to masks --------------------------------------------------------------------------------------------
def draw(shape, height, width):
    """A checked shape as a mask [height, width] bool."""
    xs, ys = shape["points"].T
    kind = shape["kind"]
    if kind == "mask":
        return _paste(_decode_mask(shape["png"]), round(ys.min()), round(xs.min()), height, width)
    if kind == "rectangle":
        (top, bottom), (left, right) = (ys.min(), ys.max()), (xs.min(), xs.max())
        return rasterize.polygon(height, width, [top, top, bottom, bottom], [left, right, right, left])
    if kind == "circle":
        radius = math.hypot(ys[1] - ys[0], xs[1] - xs[0])
        return rasterize.ellipse(height, width, ys[0], xs[0], radius, radius)
    if kind == "point":
        return rasterize.point(height, width, ys[0], xs[0])
    if kind in THIN:
        return rasterize.line(height, width, ys, xs)
    return rasterize.polygon(height, width, ys, xs)


def merge(parts, may_cut):
    """The mask of one object.

    Args:
        parts: K masks [H, W] bool.
        may_cut: K bool, which of them are holes if they lie wholly within another one (and are holes' islands if they
            lie within a hole, and so on).

    Returns:
        [H, W] bool.
    """
    if len(parts) == 1:
        return parts[0]
    areas = [np.count_nonzero(part) for part in parts]
    depths = [0] * len(parts)
    by_area = sorted(range(len(parts)), key=lambda i: -areas[i])
    for place, i in enumerate(by_area):
        if not may_cut[i]:
            continue
        for j in by_area[:place]:
            if may_cut[j] and areas[j] > areas[i] and not np.any(parts[i] & ~parts[j]):
                depths[i] = max(depths[i], depths[j] + 1)
    mask = np.zeros_like(parts[0])
    for i in sorted(by_area, key=lambda i: depths[i]):
        mask[parts[i]] = depths[i] % 2 == 0
    return mask


def _paste(small, top, left, height, width):
    """[height, width] bool with a small mask in it, cut off where it leaves the image."""
    mask = np.zeros((height, width), bool)
    y1, x1 = max(top, 0), max(left, 0)
    kept = small[y1 - top : max(height - top, 0), x1 - left : max(width - left, 0)]
    mask[y1 : y1 + kept.shape[0], x1 : x1 + kept.shape[1]] = kept
    return mask


def _decode_mask(png):
    with Image.open(io.BytesIO(png)) as picture:
        values = np.asarray(picture)
    return (values if values.ndim == 2 else values[..., :3].max(axis=-1)) != 0


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _parse_file(file, images_dir):
    """(file, image file or None if the image is in it, (height, width), [(label, crowd, shapes)])."""
    content, where = read_json(file), (file, "the image")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        got = sorted(content) if isinstance(content, dict) else content
        raise BrokenAnnotation(file, "the file", "content", 'an object with a list "shapes", as labelme writes it', got)
    told = []
    for side in ("imageHeight", "imageWidth"):
        pixels = content.get(side)
        if pixels is not None and (not isinstance(pixels, int) or pixels < 1):
            raise BrokenAnnotation(*where, side, "pixels, a whole number of 1 or more", pixels)
        told.append(pixels)
    photo = _find_photo(content, file, images_dir)
    if photo is None:
        embedded = _embedded_image(content, file)
        size = embedded.height, embedded.width
        check_told_size(told, size, where)
    else:
        size = upright_size(photo, where, told)
    return file, photo, size, _objects(content["shapes"], file)


def _find_photo(content, file, images_dir):
    """Path of the image file; None if there is none, but imageData."""
    embedded, where = content.get("imageData"), (file, "the image")
    if embedded is not None and content.get("imagePath") is None:
        return None
    # labelme on Windows writes backslashes.
    name = PureWindowsPath(field(content, "imagePath", str, "the image's file", where)).as_posix()
    folder = file.parent if images_dir is None else Path(images_dir)
    for photo in (folder / name, folder / Path(name).name):
        if name and photo.is_file():
            return photo
    if embedded is None:
        expected = f"to find {folder / name}, or imageData"
        raise BrokenAnnotation(*where, "imagePath", expected, "nothing there")
    return None


def _embedded_image(content, file):
    """The picture that imageData holds."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(content["imageData"], validate=True)))
        picture.load()
    except (TypeError, binascii.Error, OSError, SyntaxError) as error:
        raise BrokenAnnotation(file, "the image", "imageData", "an image file in base64", str(error)) from error
    return picture


def _objects(entries, file):
    """[(label, crowd, shapes)] in the order of their first shapes; a group is one object."""
    objects = {}
    for i, entry in enumerate(entries):
        where = (file, f"shapes[{i}]")
        if not isinstance(entry, dict):
            raise BrokenAnnotation(*where, "shape", "an object", entry)
        label = field(entry, "label", str, "the class's name", where)
        group, flags = entry.get("group_id"), entry.get("flags") or {}
        if group is not None and (not isinstance(group, (int, str)) or isinstance(group, bool)):
            raise BrokenAnnotation(*where, "group_id", "a number, or null", group)
        if not isinstance(flags, dict):
            raise BrokenAnnotation(*where, "flags", "an object", flags)
        shape = _parse_shape(entry, where)
        if label in NO_OBJECT:
            continue
        key = (label, i) if group is None else (label, "group", group)
        one = objects.setdefault(key, [label, False, []])
        one[1] |= bool(flags.get(CROWD))
        one[2].append(shape)
    return [tuple(one) for one in objects.values()]


def _parse_shape(entry, where):
    """{"kind", "points": [V, (x, y)] float, and for masks "png": bytes}."""
    kind = entry.get("shape_type") or "polygon"  # older versions knew nothing else
    if kind not in POINTS:
        raise BrokenAnnotation(*where, "shape_type", f"one of {', '.join(POINTS)}", kind)
    points = field(entry, "points", list, "a list of [x, y]", where)
    for point in points:
        pair = isinstance(point, list) and len(point) == 2
        if not pair or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in point):
            raise BrokenAnnotation(*where, "points", "points [x, y], two numbers each", point)
    least, most = POINTS[kind]
    if not least <= len(points) <= most:
        count = f"{least}" if least == most else f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise BrokenAnnotation(*where, "points", f"{count} points of a {kind}", points)
    shape = {"kind": kind, "points": np.array(points, np.float64)}
    if kind == "mask":
        shape["png"] = _check_mask(entry, shape["points"], where)
    return shape


def _check_mask(entry, points, where):
    """The bytes of a mask shape's PNG; raises unless it is one, of the size that its points tell."""
    text = field(entry, "mask", str, "a PNG in base64", where)
    try:
        png = base64.b64decode(text, validate=True)
        height, width = _decode_mask(png).shape
    except (binascii.Error, OSError, SyntaxError) as error:
        raise BrokenAnnotation(*where, "mask", "a PNG in base64", str(error)) from error
    # Corners that aren't whole may be rounded either way.
    expected = np.abs(points[1] - points[0]) + 1
    if np.any(np.abs(expected - (width, height)) > 1):
        size = f"{round(expected[1])} x {round(expected[0])} pixels (height x width), from its first point to its last"
        raise BrokenAnnotation(*where, "mask", size, f"{height} x {width}")
    return png


# ---- Writing ---------------------------------------------------------------------------------------------------------
def save_labelme(dataset, folder, image_ids=None):
    """Writes a data set as labelme files, one an image; `LabelmeDataset` reads the same masks, pixel for pixel.

    Objects become polygons through their outer pixels, several in one group if they have several parts. What polygons
    can't hold, holes above all, becomes a mask shape (labelme 5 or newer). Crowds get the flag `iscrowd`. Objects
    without a pixel are left out.

    Args:
        dataset: Dataset, prepared.
        folder: where to; is made if needed. Images stay where they are and are named by their path from here; those
            that are no file of their own (drawn ones, or turned ones) are written here as PNG.
        image_ids: ids of the images wanted; None: all.

    Returns:
        Paths of the JSON files, in the order of the images.

    Raises:
        ValueError: the data set isn't prepared, or its masks don't fit their images.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, taken = [], set()
    for image_id in writers.chosen_images(dataset, image_ids):
        masks, class_ids = writers.read_objects(dataset, image_id)
        name = writers.file_stem(dataset, image_id, taken)
        photo = writers.image_file(dataset, image_id, masks.shape[:2], folder / f"{name}.png")
        shapes = []
        for i, class_id in enumerate(class_ids.tolist()):
            own = {
                "label": str(dataset.class_info[abs(class_id)]["name"]),
                "flags": {CROWD: True} if class_id < 0 else {},
                "description": "",
            }
            shapes += [{**own, **shape} for shape in shapes_of(masks[..., i], group_id=i + 1)]
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": writers.relative_path(photo, folder),
            "imageData": None,
            "imageHeight": masks.shape[0],
            "imageWidth": masks.shape[1],
        }
        paths.append(writers.write_json(content, folder / f"{name}.json", indent=2))
    return paths


def shapes_of(mask, group_id):
    """labelme shapes that are drawn as this very mask: polygons if they can, else one mask shape.

    Args:
        mask: [H, W] bool with a pixel in it.
        group_id: int, of the object; given to its shapes if there are several.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    small = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    outlines, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [outline[:, 0] for outline in outlines]
    if all(len(outline) >= 3 for outline in outlines):
        parts = [rasterize.polygon(*small.shape, outline[:, 1], outline[:, 0]) for outline in outlines]
        if np.array_equal(np.any(parts, axis=0), small):
            group = group_id if len(outlines) > 1 else None
            return [_as_shape("polygon", outline + (left, top), group) for outline in outlines[::-1]]
    last = [left + small.shape[1] - 1, top + small.shape[0] - 1]
    return [_as_shape("mask", np.array([[left, top], last]), None, _as_png(small))]


def _as_shape(kind, points, group, png=None):
    points = points.astype(float).tolist()
    return {"points": points, "group_id": group, "shape_type": kind, "mask": png}


def _as_png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
