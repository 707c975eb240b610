"""labelme JSON: one file an image, of versions 3 to 6, also as X-AnyLabeling writes them.

    dataset = LabelmeDataset()
    dataset.load_labelme("photos")          # folder with a.jpg, a.json, ...
    dataset.prepare()
    save_labelme(dataset, "copies")

A file:
    {"imagePath": ..., "imageData": base64 or null, "imageHeight": ..., "imageWidth": ..., "shapes": [shape, ...]}
    shape  {"label": ..., "points": [[x, y], ...], "shape_type": ..., "group_id": number or null, "flags": {...}}
The image is the file at imagePath, or what imageData holds if there is no such file, or an image of the JSON's name.

Shapes become masks: polygon, rectangle (also an oriented one), circle, mask (a small PNG), and, one pixel thin, line,
linestrip and point. A file without shapes is an image without objects. Shapes of the labels `__ignore__` and
`_background_`, labelme's names for background, are left out. The flag `iscrowd` marks a group, whose class id is
negative. A shape with too few points, such as a polygon of two, is left out with a warning.

Class ids are the order of `labels.txt`, labelme's list of labels, if that has all labels of the files. Without it, they
are those of the labels in the files, sorted: then two folders have the same ids only if both have all labels.

One object may have several shapes, of one label and one group_id. Their union is its mask, as in labelme's own
converters, except for holes. labelme has no tool for these; its users draw them in one of three ways, and each is read:
    a mask shape                         is read as it is
    one polygon with a cut to the hole   is filled by the even-odd rule
    a second outline in the same group   is cut out if it is wholly inside the first; one inside that is filled again
In a union a shape within another would change nothing, so it is only drawn for a hole. Outlines that only overlap
are parts of the object. Points and lines never cut.

Shapes:
    V     corners of a shape
    K     shapes of an object
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats import limits, writers
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, size_for_annotation, upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.json_head import growing_heads, texts_of
from mrcnn.data.formats.labelme_shapes import THIN, as_file, draw, merge, parse_shape, shapes_of
from mrcnn.data.formats.parsing import field, name_classes, parse_all, read_json, warn_of_small_shapes
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, images_folder_of
from mrcnn.data.image_reading import UnreadableImage, decode_image, read_header
from mrcnn.data.user_warnings import warn
from mrcnn.io import replacing

NO_OBJECT = ("__ignore__", "_background_")
CROWD = "iscrowd"
LABELS = "labels.txt"  # labelme's name for its list of labels
Size = tuple[int, int]
Object = tuple[str, bool, list[dict[str, Any]]]  # label, whether it is a crowd, shapes


class LabelmeDataset(UprightDataset):
    """Images annotated with labelme. Call `load_labelme` once or more, then `prepare`.

    Example:
        >>> import json, tempfile
        >>> from PIL import Image
        >>> shape = {"label": "cat", "points": [[2, 1], [5, 1], [5, 3], [2, 3]], "shape_type": "polygon"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
        ...     dataset = LabelmeDataset()
        ...     dataset.load_labelme(folder)
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((6, 8, 1), 12, ['BG', 'cat'])
    """

    @names_file
    def load_labelme(
        self,
        path: str | Path,
        images_dir: str | Path | None = None,
        source: str = "labelme",
        classes: Sequence[str] | None = None,
        skip_broken: bool = False,
        labels: str | None = LABELS,
    ) -> None:
        """Adds the images of a folder, or one.

        Args:
            path: folder with labelme's JSON files, or one such file. Images without a file aren't added, because
                they may not be annotated yet.
            images_dir: folder of the images; None: as imagePath says, seen from the file.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: those of `labels`, else those found,
                sorted. Give it, or use `open_splits`, if training and validation files may have different ones.
                Objects of other classes are left out, with a warning that counts them.
            skip_broken: skip broken images with a warning, instead of raising.
            labels: name of the list of class names, one a line, in the folder or the one above; None: don't read it.

        Raises:
            FileNotFoundError: no such file, or none in the folder.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        path = Path(path)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} has no JSON file; expected one an image, as labelme writes them.")
        photos = PhotoFolder(files[0].parent if images_dir is None else images_dir)
        too_small: list[str] = []
        parsed = parse_all(files, lambda file: _parse_file(file, photos, too_small), skip_broken)
        warn_of_small_shapes(path, too_small)
        found = [label for *_, objects in parsed for label, _, _ in objects]
        if classes is None and labels is not None:
            classes = _listed_labels(files[0].parent, labels, found)
        ids = name_classes(self, source, found, classes, path)
        for file, photo, (height, width), objects in parsed:
            known = [(ids[label], crowd, shapes) for label, crowd, shapes in objects if label in ids]
            embedded = photo is None
            self.add_image(
                source, file.stem, str(photo or file), height=height, width=width, embedded=embedded, objects=known
            )

    @names_image
    def load_image(self, image_id: int) -> np.ndarray:
        """[H, W, 3] uint8, RGB, upright."""
        info = self.image_info[image_id]
        if not info.get("embedded"):
            return super().load_image(image_id)
        size = info["height"], info["width"]
        return decode_image(_embedded_image(read_json(info["path"]), info["path"]), info["path"], upright=size)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool, and [N] int32 class ids, negative for crowds. Objects without a pixel are left out."""
        info = self.image_info[image_id]
        if "objects" not in info:
            return super().load_mask(image_id)
        height, width = info["height"], info["width"]
        masks, class_ids = [], []
        for source_id, crowd, shapes in info["objects"]:
            parts = [draw(shape, height, width) for shape in shapes]
            mask = merge(parts, [shape["kind"] not in THIN for shape in shapes])
            if mask.any():
                class_id = self.map_source_class_id(f"{info['source']}.{source_id}")
                masks.append(mask)
                class_ids.append(-class_id if crowd else class_id)
        layers = np.stack(masks) if masks else np.zeros((0, height, width), bool)
        return np.moveaxis(layers, 0, -1), np.array(class_ids, np.int32)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _find(place: Place) -> list[Path]:
    return [place.path] if place.json_files_of(FORMAT.name) else []


def _open(path: Path, options: OpenOptions) -> LabelmeDataset:
    dataset = LabelmeDataset()
    labels = LABELS if options.names is None else None  # classes that no file has would need a place among the names
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    heads = [next(growing_heads(file)) for file in files[:NAMES_READ]]
    stems = [file.stem for file, head in zip(files, heads) if isinstance(head, dict) and not head.get("imageData")]
    folder = files[0].parent
    names = texts_of(heads, "imagePath", NAMES_READ) if stems else []
    if not any(PhotoFolder(folder).find(stem + suffix) for stem in stems for suffix in SUFFIXES):
        folder = images_folder_of(files[0], names, folder, FORMAT.loader)
    dataset.load_labelme(path, folder, classes=options.classes, skip_broken=options.skip_broken, labels=labels)
    return dataset


FORMAT = Format(
    name="labelme",
    signs='JSON files with "shapes"',
    loader="LabelmeDataset().load_labelme(folder, images_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _listed_labels(folder: Path, name: str, found: Sequence[str]) -> list[str] | None:
    """The labels of the list in a folder or the one above; None if there is none, or it lacks a label of the files."""
    for file in (folder / name, folder.resolve().parent / name):
        if not file.is_file():
            continue
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        listed = [line for line in dict.fromkeys(lines) if line and line not in NO_OBJECT]
        missing = sorted(set(found) - set(listed))
        if not missing:
            return listed
        warn(f"{file} lacks {', '.join(map(repr, missing))}, so it isn't used to number the classes.")
        return None
    return None


def _parse_file(file: Path, photos: PhotoFolder, too_small: list[str]) -> tuple[Path, Path | None, Size, list[Object]]:
    """(file, image file or None if the image is in it, (height, width), objects)."""
    content, where = read_json(file), (file, "the image")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        got = sorted(content) if isinstance(content, dict) else content
        raise BrokenAnnotation(file, "the file", "content", 'an object with a list "shapes", as labelme writes it', got)
    stated = []
    for side in ("imageHeight", "imageWidth"):
        pixels = content.get(side)
        if pixels is not None and (not isinstance(pixels, int) or pixels < 1):
            raise BrokenAnnotation(*where, side, "pixels, a whole number of 1 or more", pixels)
        stated.append(pixels)
    photo = _find_photo(content, file, photos)
    if photo is None:
        try:
            header = read_header(_embedded_image(content, file), f"{file} (imageData)")
        except UnreadableImage as error:
            raise BrokenAnnotation(*where, "imageData", "an image file in base64", str(error)) from error
        size = size_for_annotation(header, where, stated)
    else:
        size = upright_size(photo, where, stated)
    return file, photo, size, _group_shapes(content["shapes"], size, file, too_small)


def _find_photo(content: dict, file: Path, photos: PhotoFolder) -> Path | None:
    """Path of the image file; None if there is none, but imageData."""
    embedded, where = content.get("imageData"), (file, "the image")
    if embedded is not None and content.get("imagePath") is None:
        return None
    name = field(content, "imagePath", str, "the image's file", where)
    photo = photos.find(name)
    if photo is not None and photo.suffix.lower() != ".json":  # labelme's own tutorial names the JSON file itself
        return photo
    if embedded is not None:
        return None
    renamed = [photos.find(file.stem + suffix) for suffix in SUFFIXES]  # tools rename both, but not the text inside
    if any(renamed):
        return next(filter(None, renamed))
    photos.refuse_outside(name, where, "imagePath")
    raise MissingPhoto(*where, "imagePath", photos.folder / name.replace("\\", "/"), "There is no imageData either.")


def _embedded_image(content: dict, file: str | Path) -> bytes:
    """The bytes of the image file that imageData holds."""
    try:
        return base64.b64decode(content["imageData"], validate=True)
    except (TypeError, ValueError) as error:
        raise BrokenAnnotation(file, "the image", "imageData", "an image file in base64", str(error)) from error


def _group_shapes(entries: list, size: Size, file: Path, too_small: list[str]) -> list[Object]:
    """The objects in the order of their first shapes; a group is one object."""
    limits.check_masks(len(entries), *size, (file, "the image"))
    objects = {}
    for i, entry in enumerate(entries):
        where = (file, f"shapes[{i}]")
        if not isinstance(entry, dict):
            raise BrokenAnnotation(*where, "shape", "an object", entry)
        label = str(field(entry, "label", (str, int), "the class's name", where)).strip()
        group, flags = entry.get("group_id"), entry.get("flags") or {}
        if group is not None and (not isinstance(group, (int, str)) or isinstance(group, bool)):
            raise BrokenAnnotation(*where, "group_id", "a number, or null", group)
        if not isinstance(flags, dict):
            raise BrokenAnnotation(*where, "flags", "an object", flags)
        shape = parse_shape(entry, size, where)
        if label in NO_OBJECT:
            continue
        if shape is None:
            too_small.append(f"{file.name}: {where[1]}")
            continue
        key = (label, i) if group is None else (label, "group", group)
        found = objects.setdefault(key, [label, False, []])
        found[1] |= bool(flags.get(CROWD))
        found[2].append(shape)
    return [tuple(found) for found in objects.values()]


# ---- Writing ---------------------------------------------------------------------------------------------------------
def save_labelme(
    dataset: Dataset, folder: str | Path, image_ids: Iterable[int] | None = None, progress: bool = False
) -> list[Path]:
    """Writes a dataset as labelme files, one for each image; `LabelmeDataset` reads the same masks, pixel for pixel.

    Objects become polygons through their outer pixels, several in one group if they have several parts. What polygons
    can't hold, holes above all, becomes a mask shape (labelme 5 or newer). Crowds get the flag `iscrowd`. Objects
    without a pixel are left out. `labels.txt` lists all classes, also those without an object.

    Args:
        dataset: a prepared Dataset.
        folder: where to write. Images stay where they are, and the files have their paths relative to this folder.
            Images without their own file (drawn or rotated ones) are written here as PNG.
        image_ids: ids of the images wanted; None: all.
        progress: whether to show a progress bar.

    Returns:
        Paths of the JSON files, in the order of the images.

    Raises:
        ValueError: the dataset isn't prepared, or its masks don't fit their images.

    Example:
        >>> import json, tempfile
        >>> class Square(Dataset):
        ...     def load_image(self, image_id):
        ...         return np.zeros((6, 8, 3), np.uint8)
        ...
        ...     def load_mask(self, image_id):
        ...         return np.ones((6, 8, 1), bool), np.array([1])
        >>> dataset = Square()
        >>> dataset.add_class("drawn", 1, "square")
        >>> dataset.add_image("drawn", 1, path=None)
        >>> dataset.prepare()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     content = json.loads(save_labelme(dataset, folder)[0].read_text())
        >>> content["shapes"][0]["label"], content["shapes"][0]["points"]
        ('square', [[0.0, 0.0], [0.0, 5.0], [7.0, 5.0], [7.0, 0.0]])
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, taken = [], set()
    for image_id in writers.with_progress(writers.chosen_images(dataset, image_ids), progress):
        masks, class_ids = writers.read_objects(dataset, image_id)
        name = writers.file_stem(dataset, image_id, taken)
        photo = writers.image_file(dataset, image_id, masks.shape[:2], folder / f"{name}.png")
        shapes = _shapes_of_objects(dataset, masks, class_ids)
        content = as_file(shapes, writers.relative_path(photo, folder), masks.shape[:2])
        paths.append(writers.write_json(content, folder / f"{name}.json", indent=2))
    with replacing(folder / LABELS) as unfinished:
        names = [str(info["name"]) for info in dataset.class_info[1:]]
        unfinished.write_text("\n".join([*NO_OBJECT, *names]) + "\n", encoding="utf-8")
    return paths


def _shapes_of_objects(dataset: Dataset, masks: np.ndarray, class_ids: np.ndarray) -> list[dict[str, Any]]:
    shapes = []
    for i, class_id in enumerate(class_ids.tolist()):
        label, flags = str(dataset.class_info[abs(class_id)]["name"]), {CROWD: True} if class_id < 0 else {}
        shapes += shapes_of(masks[..., i], i + 1, label=label, flags=flags, description="")
    return shapes
