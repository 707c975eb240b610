"""COCO JSON: COCO itself, and the many files of the same format.

    dataset = CocoDataset()
    dataset.load_coco("coco", "val", year="2017")                   # COCO's own folders
    dataset.load_coco_format("my/annotations.json", "my/images")    # any other file
    dataset.prepare()
    save_coco(dataset, "copy.json")                                 # any dataset

The file: {"images": [...], "annotations": [...], "categories": [...]}; "info" and "licenses" aren't needed.
    image       {"id", "file_name"} and optionally {"height", "width"}, otherwise those of the image file
    annotation  {"image_id", "category_id", "segmentation"} and optionally {"iscrowd", "area", "bbox"}
    category    {"id", "name"}, any ids
    segmentation  polygons [[x, y, x, y, ...], ...], whose union is the mask;
                  {"size": [h, w], "counts": [...]}, run lengths column by column; or compressed, counts a string

Annotations with iscrowd = 1 mark a group; their class ids are negative, as in matterport.

Shapes:
    N     annotations of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import numbers
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats import writers
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.coco_file import PARTS, CategoryId, check_file, check_image, file_name, ids_of_names
from mrcnn.data.formats.exif import UprightDataset
from mrcnn.data.formats.json_head import find_strings, growing_heads, has_keys, texts_of
from mrcnn.data.formats.panoptic import is_panoptic
from mrcnn.data.formats.parsing import parse_all, read_json
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, find_images_folder
from mrcnn.ops.rle import InvalidRle, draw_rles, encode_masks, to_rle

# Subsets of 2014 whose images are in the folder of another one.
IMAGES_OF = {"minival": "val", "valminusminival": "val"}
KEYS = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}  # of each part


class CocoDataset(UprightDataset):
    """Images annotated in COCO's format. Call `load_coco` or `load_coco_format` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> square = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
        >>> image = {"id": 7, "file_name": "a.jpg", "height": 6, "width": 8}
        >>> content = {"images": [image], "annotations": [square], "categories": [{"id": 3, "name": "cat"}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = writers.write_json(content, Path(folder) / "annotations.json")
        ...     dataset = CocoDataset()
        ...     _ = dataset.load_coco_format(file, check_images=False)
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names[class_ids[0]]
        ((6, 8, 1), 12, 'cat')
    """

    def load_coco(self, dataset_dir: str | Path, subset: str, year: str | int = "2014",
                  class_ids: Iterable[CategoryId] | None = None, class_map: Any = None, return_coco: bool = False,
                  auto_download: bool = False) -> COCO | None:  # fmt: skip
        """Adds the images of a subset of COCO: annotations/instances_<subset><year>.json, <subset><year>/*.jpg.

        Args:
            dataset_dir: the folder that holds both.
            subset: "train", "val", "minival" or "valminusminival".
            year: such as "2014" or "2017".
            class_ids: COCO category ids; then only images that show one of them. None: all classes and images.
            class_map: not used, as in matterport; see `Dataset.prepare`.
            return_coco: return the `pycocotools.coco.COCO` of the file.
            auto_download: first call `auto_download(dataset_dir, subset, year)`, which samples/coco.py defines.

        Raises:
            Exception: those of `load_coco_format`.
        """
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        annotations, images = coco_layout(dataset_dir, subset, year)
        # matterport's scripts also call this for the class names alone, without the photos.
        there = Path(images).is_dir()
        coco = self.load_coco_format(annotations, images, category_ids=class_ids, check_images=there)
        return coco if return_coco else None

    def auto_download(self, dataset_dir: str | Path, subset: str, year: str | int) -> None:
        """Raises ValueError: only the `CocoDataset` of samples/coco.py can download COCO."""
        raise ValueError(
            f"Can't download COCO {subset}{year} to {dataset_dir}; use the CocoDataset of samples/coco.py."
        )

    @names_file
    def load_coco_format(self, annotations: str | Path | COCO, images_dir: str | Path | None = None,
                         category_ids: Iterable[CategoryId] | None = None, source: str = "coco",
                         skip_broken: bool = False, classes: Sequence[str] | None = None,
                         crowds_as_objects: bool = False, check_images: bool = True) -> COCO:  # fmt: skip
        """Adds the images of a file of COCO's format.

        Args:
            annotations: path of the JSON file, or a `pycocotools.coco.COCO`.
            images_dir: folder of the images; None: that of the file.
            category_ids: ids of the categories wanted; then only images that show one of them. None: all.
            source: see `Dataset.add_class`.
            skip_broken: skip broken images with a warning, instead of raising.
            classes: the same as category_ids, but by name; give one of the two.
            crowds_as_objects: read annotations with iscrowd = 1 as objects. CVAT exports brush masks this way.
            check_images: whether all image files must be there and have the size that the file says. Their headers are
                read, which takes 0.1 to 0.2 ms each. False: use the masks without the images.

        Returns:
            The `pycocotools.coco.COCO` of the file.

        Raises:
            FileNotFoundError: no such file.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        path = "the COCO object" if isinstance(annotations, COCO) else Path(annotations)
        content = annotations.dataset if isinstance(annotations, COCO) else read_json(path)
        images_dir = Path(images_dir) if images_dir is not None else getattr(path, "parent", Path())
        file = check_file(content, path, skip_broken, crowds_as_objects)
        if classes is not None:
            if category_ids is not None:
                raise ValueError(
                    f"{path}: category_ids={category_ids!r} and classes={classes!r} are given; expected one of them."
                )
            category_ids = ids_of_names(classes, file.names, path)
        # Text ids after numbers, which can't be compared.
        every = sorted(file.names, key=lambda category_id: (isinstance(category_id, str), category_id))
        wanted = every if category_ids is None else list(dict.fromkeys(category_ids))
        for category_id in wanted:
            if category_id not in file.names:
                raise BrokenAnnotation(path, "categories", "id", f"to find {category_id!r}", every)
            self.add_class(source, category_id, file.names[category_id])

        images, wanted_ids = file.content["images"], set(wanted)
        if category_ids is not None:
            shown = {a["image_id"] for a in file.content["annotations"] if a["category_id"] in wanted_ids}
            images = [image for image in images if image["id"] in shown]
        photos = PhotoFolder(images_dir) if check_images else None

        def parse(image: dict) -> tuple:
            return image["id"], *check_image(image, file, photos)

        for own_id, photo, (height, width) in parse_all(
            images, parse, skip_broken, lambda image: (path, f"image {image['id']}")
        ):
            if not check_images and not is_url(photo):
                where = (path, f"image {own_id}")
                photo = current_access().check(images_dir / photo, where, "file_name", images_dir)
            kept = [a for _, a in file.annotations.get(own_id, ()) if a["category_id"] in wanted_ids]
            self.add_image(source, own_id, str(photo), height=height, width=width, annotations=kept)
        return annotations if isinstance(annotations, COCO) else _as_coco(file.content)

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Loads the masks of an image.

        Returns:
            masks: [H, W, N] bool. Annotations without a pixel are left out.
            class_ids: [N] int32, negative for crowds.
        """
        info = self.image_info[image_id]
        if "annotations" not in info:
            return super().load_mask(image_id)
        height, width, annotations = info["height"], info["width"], info["annotations"]
        # Layer by layer and column by column in memory, as in pycocotools.
        layers = np.zeros((len(annotations), width, height), bool)
        class_ids = np.zeros(len(annotations), np.int32)
        for i in np.flatnonzero(draw(annotations, layers, info["path"])):
            class_id = self.map_source_class_id(f"{info['source']}.{annotations[i]['category_id']}")
            class_ids[i] = -class_id if annotations[i].get("iscrowd") else class_id
        kept = class_ids != 0
        return (layers if kept.all() else layers[kept]).transpose(2, 1, 0), class_ids[kept]

    def load_class_ids(self, image_id: int) -> NDArray[np.int32]:
        """The class ids of the annotations, [N] int32, also of those without a pixel; negative for crowds."""
        info = self.image_info[image_id]
        if "annotations" not in info or type(self).load_mask is not CocoDataset.load_mask:
            return super().load_class_ids(image_id)
        signs = [-1 if annotation.get("iscrowd") else 1 for annotation in info["annotations"]]
        keys = [f"{info['source']}.{annotation['category_id']}" for annotation in info["annotations"]]
        return np.array([s * self.map_source_class_id(key) for s, key in zip(signs, keys)], np.int32)

    def image_reference(self, image_id: int) -> str:
        """The web page of a COCO image; "" for other sources."""
        info = self.image_info[image_id]
        return f"http://cocodataset.org/#explore?id={info['id']}" if info["source"] == "coco" else ""


CocoFormatDataset = CocoDataset  # a more fitting name for files that aren't COCO


def coco_layout(dataset_dir: str | Path, subset: str, year: str | int) -> tuple[Path, Path]:
    """Paths of the annotation file and of the images' folder of a subset of COCO."""
    folder = Path(dataset_dir)
    return folder / "annotations" / f"instances_{subset}{year}.json", folder / f"{IMAGES_OF.get(subset, subset)}{year}"


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _is_mine(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    parts = [content.get(part) for part in PARTS]
    first = [part[0] if isinstance(part, list) and part else None for part in parts]
    return parts == [[], [], []] or any(has_keys(entry, *KEYS[part]) for part, entry in zip(PARTS, first))


def _find(place: Place) -> list[Path]:
    found = [file for file in place.json_files_of(FORMAT.name) if not is_panoptic(place, file)]
    if not found and (inside := place.inside("annotations")):
        found = [file for file in inside.json_files_of(FORMAT.name) if not is_panoptic(inside, file)]
    return [file for file in found if file.name.startswith("instances_")] or found


def _open(path: Path, options: OpenOptions) -> CocoDataset:
    dataset = CocoDataset()
    images_dir = find_images_folder(path, first_image_names(path), FORMAT.loader)
    dataset.load_coco_format(
        path,
        images_dir,
        classes=options.classes,
        skip_broken=options.skip_broken,
        crowds_as_objects=options.crowds_as_objects,
    )
    return dataset


def first_image_names(path: Path) -> list[str]:
    """File names of the first images of a file."""
    for content in growing_heads(path):
        if _is_mine(content):
            names = texts_of(content.get("images") or [], "file_name", NAMES_READ)
            names = names or find_strings(path, "file_name", NAMES_READ)
            urls = [] if names else find_strings(path, "coco_url", NAMES_READ)  # of LVIS
            return names or [file_name({"coco_url": url}, (path, "images")) for url in urls]
    return []


FORMAT = Format(
    name="COCO",
    signs='a JSON file with "images", "annotations" and "categories", here or in annotations/',
    loader="CocoDataset().load_coco_format(file, images_dir)",
    find=_find,
    open=_open,
    is_mine=_is_mine,
)


def draw(annotations: list[dict], layers: NDArray[np.bool_], path: str | Path) -> NDArray[np.bool_]:
    """Draws checked annotations, pixel for pixel as pycocotools' `annToMask` does.

    Args:
        annotations: N dicts with "segmentation".
        layers: [N, W, H] bool, C-contiguous, all False; changed in place, see `ops.rle.draw_rles`.
        path: of the image, for errors.

    Returns:
        [N] bool: whether the annotation has a pixel.

    Raises:
        BrokenAnnotation: run lengths that can't be read, or whose sum isn't the image's number of pixels.
    """
    _, width, height = layers.shape
    nothing = {"size": [height, width], "counts": [height * width]}
    rles = []
    for annotation in annotations:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):  # fewer than three points have no area; pycocotools takes two for a box
            segmentation = [part for part in segmentation if len(part) >= 6] or nothing
        rles.append(to_rle(segmentation, height, width))
    try:
        return draw_rles(rles, layers)
    except InvalidRle as error:
        annotation = annotations[error.index]
        where = (path, f"annotation {annotation.get('id')}", "segmentation.counts")
        expected = f"run lengths with a sum of {height} x {width} = {height * width}"
        raise BrokenAnnotation(*where, expected, annotation["segmentation"]["counts"]) from error


def _as_coco(content: dict) -> COCO:
    """Makes a `pycocotools.coco.COCO` of a file's checked content, without reading the file again or printing."""
    coco = COCO()
    coco.dataset = {"info": {}, "licenses": [], **content}
    coco.anns = {annotation["id"]: annotation for annotation in content["annotations"] if "id" in annotation}
    coco.imgs = {image["id"]: image for image in content["images"]}
    coco.cats = {category["id"]: category for category in content["categories"]}
    coco.imgToAnns, coco.catToImgs = defaultdict(list), defaultdict(list)
    for annotation in content["annotations"]:
        coco.imgToAnns[annotation["image_id"]].append(annotation)
        coco.catToImgs[annotation["category_id"]].append(annotation["image_id"])
    return coco


# ---- Writing ---------------------------------------------------------------------------------------------------------
def save_coco(
    dataset: Dataset,
    path: str | Path,
    image_ids: Iterable[int] | None = None,
    indent: int | None = None,
    progress: bool = False,
) -> Path:
    """Writes a dataset as a COCO file; `CocoDataset.load_coco_format` reads the same masks, pixel for pixel.

    Masks are written as compressed run lengths, which represent parts and holes exactly; polygons can't. Objects
    without a pixel are left out. Ids of images and categories are those of the source if they are increasing whole
    numbers, as in COCO; otherwise they are 1, 2, 3, ... .

    Args:
        dataset: a prepared Dataset.
        path: The file to write. Its folder is created if needed. Images are not copied; the file has their paths
            relative to its folder, and reading it needs `root=` if they are outside. Images without a file (drawn or
            rotated ones) are written as PNG to the folder `<name of the file>_images`.
        image_ids: ids of the images wanted; None: all.
        indent: of the JSON, see `json.dump`; None: all in one line.
        progress: whether to show a progress bar.

    Returns:
        Path of the file.

    Raises:
        ValueError: the dataset isn't prepared, or its masks don't fit their images.

    Example:
        >>> import json, tempfile
        >>> dataset = Dataset()
        >>> dataset.load_image = lambda image_id: np.zeros((6, 8, 3), np.uint8)
        >>> dataset.load_mask = lambda image_id: (np.ones((6, 8, 1), bool), np.array([1]))
        >>> dataset.add_class("drawn", 1, "square")
        >>> dataset.add_image("drawn", 1, path=None)
        >>> dataset.prepare()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     content = json.loads(save_coco(dataset, Path(folder) / "squares.json").read_text())
        >>> content["annotations"][0]["bbox"], content["categories"][0]["name"]
        ([0.0, 0.0, 8.0, 6.0], 'square')
    """
    path = Path(path)
    taken: set[str] = set()
    wanted = writers.chosen_images(dataset, image_ids)
    source_ids = _renumber_ids([dataset.image_info[i]["id"] for i in wanted])
    category_ids = _renumber_ids([info["id"] for info in dataset.class_info[1:]])
    images, annotations = [], []
    for source_id, image_id in zip(source_ids, writers.with_progress(wanted, progress)):
        masks, class_ids = writers.read_objects(dataset, image_id)
        height, width = masks.shape[:2]
        png = path.with_name(f"{path.stem}_images") / f"{writers.file_stem(dataset, image_id, taken)}.png"
        file = writers.image_file(dataset, image_id, (height, width), png)
        name = writers.relative_path(file, path.parent)
        images.append({"id": source_id, "file_name": name, "height": height, "width": width})
        for rle, class_id in zip(encode_masks(masks), class_ids.tolist()):
            ids = {"id": len(annotations) + 1, "image_id": source_id, "category_id": category_ids[abs(class_id) - 1]}
            annotations.append({**ids, **_as_annotation(rle, is_crowd=class_id < 0)})
    content = {"images": images, "annotations": annotations, "categories": _categories(dataset, category_ids)}
    return writers.write_json(content, path, indent)


def _categories(dataset: Dataset, category_ids: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": category_id, "name": str(info["name"]), "supercategory": info["source"]}
        for category_id, info in zip(category_ids, dataset.class_info[1:])
    ]


def _as_annotation(rle: dict, is_crowd: bool) -> dict[str, Any]:
    """The fields of an annotation apart from its ids."""
    return {
        "iscrowd": int(is_crowd),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _renumber_ids(ids: Sequence[Any]) -> list[int]:
    """ids, if they are increasing whole numbers; otherwise 1, 2, 3, ..."""
    whole = all(isinstance(source_id, numbers.Integral) and source_id > 0 for source_id in ids)
    increasing = whole and all(a < b for a, b in pairwise(ids))
    return [int(source_id) for source_id in ids] if increasing else list(range(1, len(ids) + 1))
