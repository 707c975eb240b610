"""CVAT's own XML, "CVAT for images 1.1": one file for all images.

    dataset = CvatDataset()
    dataset.load_cvat("export/annotations.xml")    # images beside it, or in images/
    dataset.prepare()

The file:
    <annotations>
        <image id="0" name="a.jpg" width="640" height="480">
            <polygon label="cat" points="1.5,2.0;30.0,2.0;30.0,40.0" group_id="1" z_order="0"/>
            <box label="cat" xtl="1.0" ytl="2.0" xbr="30.0" ybr="40.0" rotation="45.0"></box>
            <ellipse label="cat" cx="20.0" cy="20.0" rx="5.0" ry="7.0"></ellipse>
            <mask label="cat" rle="2, 3, 3, 4, 0, 4" left="10" top="20" width="4" height="4"></mask>
        </image> ...
    </annotations>
A mask's run lengths go along the rows of its box, alternately background and object, background first. `rotation` is in
degrees, clockwise around the center.

Shapes of one image that have the same label and group are one object. The attribute `is_crowd` marks several objects
that are drawn as one, whose class id is negative; other attributes aren't used. Masks may overlap:
`z_order` doesn't cut off what is covered, as in CVAT's COCO export. Points, polylines, skeletons
and cuboids have no mask and are left out with a warning.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mrcnn.data.formats import limits, shapes
from mrcnn.data.formats.broken import BrokenAnnotation, Where, names_file
from mrcnn.data.formats.exif import upright_size
from mrcnn.data.formats.parsing import parse_all, read_xml
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder, first_bytes
from mrcnn.data.user_warnings import warn

NO_MASK = ("points", "polyline", "skeleton", "cuboid")
CROWD_NAMES = ("is_crowd", "iscrowd")


class CvatDataset(shapes.ShapeDataset):
    """Images annotated with CVAT. Call `load_cvat` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> polygon = '<polygon label="cat" points="2,1;5,1;5,3;2,3" z_order="0"/>'
        >>> image = f'<image id="0" name="a.png" width="8" height="6">{polygon}</image>'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "annotations.xml").write_text(f"<annotations>{image}</annotations>")
        ...     dataset = CvatDataset()
        ...     dataset.load_cvat(Path(folder) / "annotations.xml")
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((6, 8, 1), 12, ['BG', 'cat'])
    """

    @names_file
    def load_cvat(
        self,
        path: str | Path,
        images_dir: str | Path | None = None,
        source: str = "cvat",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
    ) -> None:
        """Adds the images of a file.

        Args:
            path: of the XML file.
            images_dir: folder of the images; None: searched for near the file.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: the labels that the file lists, then those
                of its shapes. Objects of other classes are left out, with a warning that counts them.
            skip_broken: skip broken images with a warning, instead of raising.

        Raises:
            FileNotFoundError: no such file, or none of its images is found.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected CVAT's annotations.xml.")
        root = read_xml(path)
        _check_kind(root, path)
        images = root.findall("image")
        if images_dir is None:
            names = [name for image in images[:NAMES_READ] for name in _photo_names(image)]
            images_dir = find_images_folder(path, names, FORMAT.loader)
        photos = PhotoFolder(images_dir)

        def parse(image: ElementTree.Element) -> shapes.ParsedImage:
            return _parse_image(image, path, photos)

        parsed = parse_all(images, parse, skip_broken, lambda image: (path, f"image {image.get('name')}"))
        left_out = Counter(shape.tag for image in images for shape in image if shape.tag in NO_MASK)
        if left_out:
            counts = ", ".join(f"{kind} ({count})" for kind, count in sorted(left_out.items()))
            warn(f"{path}: shapes that have no mask are left out: {counts}.")
        self.add_parsed(parsed, source, classes or _listed_labels(root), path)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    found = [file for file in place.files(".xml") if b"<annotations" in first_bytes(file)]
    if not found and (inside := place.inside("annotations")):
        found = [file for file in inside.files(".xml")[:1] if b"<annotations" in first_bytes(file)]
    return found


def _open(path: Path, options: OpenOptions) -> CvatDataset:
    dataset = CvatDataset()
    dataset.load_cvat(path, classes=options.classes, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="CVAT for images",
    signs="an XML file with <annotations>",
    loader="CvatDataset().load_cvat(file, images_dir)",
    find=_find,
    open=_open,
)


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _check_kind(root: ElementTree.Element, path: Path) -> None:
    if root.tag != "annotations":
        raise BrokenAnnotation(path, "the file", "content", "<annotations>, as CVAT has it", f"<{root.tag}>")
    if root.find("track") is not None:
        expected = "images; this is CVAT for video: export as CVAT for images 1.1, or COCO 1.0"
        raise BrokenAnnotation(path, "the file", "content", expected, "<track>")
    if root.find("image") is None:
        raise BrokenAnnotation(path, "the file", "content", "<image> elements", [child.tag for child in root])


def _listed_labels(root: ElementTree.Element) -> list[str] | None:
    """The labels of the task that the file lists, and those of shapes that it doesn't list; None if it lists none."""
    listed = [name.text.strip() for name in root.findall("meta//labels/label/name") if name.text]
    used = sorted({shape.get("label", "").strip() for shape in root.findall("image/*") if shape.tag not in NO_MASK})
    return list(dict.fromkeys([*listed, *(name for name in used if name)])) if listed else None


def _photo_names(image: ElementTree.Element) -> list[str]:
    """Names that the file of an image may have: exports of projects have a folder for each subset."""
    name, subset = image.get("name"), image.get("subset")
    return [f"{subset}/{name}", name] if name and subset else [name] if name else []


def _parse_image(image: ElementTree.Element, path: Path, photos: PhotoFolder) -> shapes.ParsedImage:
    name = image.get("name")
    if not name:
        raise BrokenAnnotation(path, f"image {image.get('id')}", "name", "the image's file name", name)
    where = (path, f"image {name}")
    there = next((known for known in _photo_names(image) if photos.find(known)), name)
    photo = photos.locate(there, where, "name")
    stated = [int(_number(image, side, where)) if image.get(side) else None for side in ("height", "width")]
    size = upright_size(photo, where, stated)
    objects: dict[tuple, shapes.ParsedObject] = {}
    for i, entry in enumerate(image):
        shape_where = (path, f"image {name}, {entry.tag} {i}")
        if entry.tag in READERS:
            label = entry.get("label", "").strip()
            if not label:
                raise BrokenAnnotation(*shape_where, "label", "the class's name", entry.get("label"))
            group = entry.get("group_id", "0")
            key = (label, i) if group == "0" else (label, "group", group)
            one = objects.setdefault(key, shapes.ParsedObject(label, _is_crowd(entry), []))
            one.shapes.append(READERS[entry.tag](entry, size, shape_where))
        elif entry.tag not in (*NO_MASK, "tag"):  # a tag is a class of the whole image
            raise BrokenAnnotation(*shape_where, "shape", f"one of {', '.join((*READERS, *NO_MASK))}", entry.tag)
    limits.check_masks(len(objects), *size, where)
    return shapes.ParsedImage(there, photo, size, list(objects.values()))


def _is_crowd(entry: ElementTree.Element) -> bool:
    texts = {attribute.get("name"): (attribute.text or "").strip().lower() for attribute in entry.findall("attribute")}
    return any(texts.get(name) in ("true", "1") for name in CROWD_NAMES)


# ---- Shapes ----------------------------------------------------------------------------------------------------------
def _polygon(entry: ElementTree.Element, size: tuple[int, int], where: Where) -> shapes.Shape:
    points = [pair.split(",") for pair in entry.get("points", "").split(";") if pair.strip()]
    return shapes.rings([points], size, where)


def _box(entry: ElementTree.Element, size: tuple[int, int], where: Where) -> shapes.Shape:
    x1, y1, x2, y2 = (_number(entry, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
    return shapes.box(y1, x1, y2 - y1, x2 - x1, _rotation(entry, where), size, where)


def _ellipse(entry: ElementTree.Element, size: tuple[int, int], where: Where) -> shapes.Shape:
    y, x, ry, rx = (_number(entry, name, where) for name in ("cy", "cx", "ry", "rx"))
    return shapes.ellipse(y, x, ry, rx, _rotation(entry, where), size, where)


def _mask(entry: ElementTree.Element, size: tuple[int, int], where: Where) -> shapes.Shape:
    top, left, height, width = (int(_number(entry, name, where)) for name in ("top", "left", "height", "width"))
    limits.check_coordinates([top, left, top + height, left + width], *size, where, "top, left, height, width")
    try:
        counts = np.array(entry.get("rle", "").split(","), np.int64)
    except (ValueError, OverflowError) as error:
        raise BrokenAnnotation(*where, "rle", "whole numbers", entry.get("rle")) from error
    if height < 1 or width < 1 or (counts < 0).any() or (counts > height * width).any():
        raise BrokenAnnotation(*where, "rle", f"run lengths of {height} x {width} pixels", entry.get("rle"))
    ends = np.cumsum(counts)
    if ends[-1] != height * width:
        expected = f"run lengths with a sum of {height} x {width} = {height * width}"
        raise BrokenAnnotation(*where, "rle", expected, int(ends[-1]))
    return shapes.from_runs(ends[:-1:2], counts[1::2], height, width, by_rows=True, top=top, left=left)


READERS = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}


def _rotation(entry: ElementTree.Element, where: Where) -> float:
    return math.radians(_number(entry, "rotation", where)) if entry.get("rotation") else 0.0


def _number(entry: ElementTree.Element, name: str, where: Where) -> float:
    try:
        number = float(entry.get(name, ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BrokenAnnotation(*where, name, "a number", entry.get(name))
    return number
