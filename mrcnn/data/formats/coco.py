"""COCO JSON: COCO itself, and the many files that follow its form.

    dataset = CocoDataset()
    dataset.load_coco("coco", "val", year="2017")                       # COCO's own folders
    dataset.load_coco_format("my/annotations.json", "my/images")        # any other file
    dataset.prepare()
    save_coco(dataset, "copy.json")                                     # any data set

The file: {"images": [...], "annotations": [...], "categories": [...]}; "info" and "licenses" aren't needed.
    image       {"id", "file_name"} and, if given, {"height", "width"}; else they are read from the image
    annotation  {"image_id", "category_id", "segmentation"} and, if given, {"iscrowd", "area", "bbox"}
    category    {"id", "name"}, ids as you like
    segmentation  polygons [[x, y, x, y, ...], ...], whose union is the mask;
                  {"size": [h, w], "counts": [...]}, run lengths column by column; or compressed, counts a string

Annotations with iscrowd = 1 mark a group; their class ids are negative, as in matterport's.

Shapes:
    N     annotations of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

import numbers
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn.data.dataset import Dataset, is_url
from mrcnn.data.formats import BrokenAnnotation, field, image_size, keep_whole, read_json, writers
from mrcnn.ops.rle import InvalidRle, draw_rles, encode_masks, to_rle

PARTS = ("images", "annotations", "categories")
MASK_FORMS = "polygons [[x, y, ...], ...] or run lengths {size, counts}"
# Subsets of 2014 whose images lie in another one's folder.
IMAGES_OF = {"minival": "val", "valminusminival": "val"}


class CocoDataset(Dataset):
    """Images annotated in COCO's form. `load_coco` or `load_coco_format` as often as needed, then `prepare()`."""

    def load_coco(self, dataset_dir, subset, year="2014", class_ids=None, class_map=None, return_coco=False,
                  auto_download=False):  # fmt: skip
        """Adds the images of a subset of COCO: annotations/instances_<subset><year>.json, <subset><year>/*.jpg.

        Args:
            dataset_dir: the folder that holds both.
            subset: "train", "val", "minival" or "valminusminival".
            year: str or int.
            class_ids: COCO category ids; then only images that show one of them. None: all classes and images.
            class_map: not used, as in matterport's; see `Dataset.prepare`.
            return_coco: bool. Return the `pycocotools.coco.COCO` of the file.
            auto_download: bool. First call `auto_download(dataset_dir, subset, year)`, which samples/coco.py defines.

        Raises:
            as `load_coco_format`.
        """
        if auto_download:
            self.auto_download(dataset_dir, subset, year)
        annotations, images = coco_layout(dataset_dir, subset, year)
        coco = self.load_coco_format(annotations, images, category_ids=class_ids)
        return coco if return_coco else None

    def auto_download(self, dataset_dir, subset, year):
        """Fetches COCO. Here it can't: `CocoDataset` of samples/coco.py does."""
        raise ValueError(
            f"Can't download COCO {subset}{year} to {dataset_dir}; use the CocoDataset of samples/coco.py."
        )

    def load_coco_format(self, annotations, images_dir=None, category_ids=None, source="coco", skip_broken=False,
                         classes=None):  # fmt: skip
        """Adds the images of a file of COCO's form.

        Args:
            annotations: path of the JSON file, or a `pycocotools.coco.COCO`.
            images_dir: folder of the images; None: that of the file.
            category_ids: ids of the categories wanted; then only images that show one of them. None: all.
            source: str, see `Dataset.add_class`.
            skip_broken: bool. Leave broken images out and warn, instead of raising.
            classes: the same as category_ids, but by name; one of the two.

        Returns:
            The `pycocotools.coco.COCO` of the file.

        Raises:
            FileNotFoundError: no such file.
            BrokenAnnotation: says file, entry, field, what was expected, what is there.
        """
        path = "the COCO object" if isinstance(annotations, COCO) else Path(annotations)
        content = annotations.dataset if isinstance(annotations, COCO) else read_json(path)
        images_dir = Path(images_dir) if images_dir is not None else getattr(path, "parent", Path())
        names = _check_parts(content, path)
        if classes is not None:
            if category_ids is not None:
                raise ValueError(
                    f"category_ids={category_ids!r} and classes={classes!r} are given; expected one of them."
                )
            category_ids = _ids_of(classes, names, path)
        wanted = sorted(names) if category_ids is None else list(dict.fromkeys(category_ids))
        for category_id in wanted:
            if category_id not in names:
                raise BrokenAnnotation(path, "categories", "id", f"to find {category_id!r}", sorted(names))
            self.add_class(source, category_id, names[category_id])

        by_image = _by_image(content, path)
        images = content["images"]
        if category_ids is not None:
            shown = {a["image_id"] for a in content["annotations"] if a["category_id"] in set(wanted)}
            images = [image for image in images if image["id"] in shown]
        parsed = keep_whole(
            images, lambda image: _parse_image(image, by_image[image["id"]], names, set(wanted), images_dir, path),
            skip_broken,
        )  # fmt: skip
        for image, file, (height, width), own in parsed:
            self.add_image(source, image["id"], str(file), height=height, width=width, annotations=own)
        return annotations if isinstance(annotations, COCO) else _as_coco(content)

    def load_mask(self, image_id):
        """[H, W, N] bool, and [N] int32 class ids, negative for crowds. Annotations without a pixel are left out."""
        info = self.image_info[image_id]
        if "annotations" not in info:
            return super().load_mask(image_id)
        height, width, annotations = info["height"], info["width"], info["annotations"]
        # Layer by layer and column by column in memory, as pycocotools has it; what stays 0 is never touched.
        layers = np.zeros((len(annotations), width, height), bool)
        class_ids = np.zeros(len(annotations), np.int32)
        for i in np.flatnonzero(draw(annotations, layers, info["path"])):
            class_id = self.map_source_class_id(f"{info['source']}.{annotations[i]['category_id']}")
            class_ids[i] = -class_id if annotations[i].get("iscrowd") else class_id
        kept = class_ids != 0
        return (layers if kept.all() else layers[kept]).transpose(2, 1, 0), class_ids[kept]

    def image_reference(self, image_id):
        """COCO's page of the image; "" for other sources."""
        info = self.image_info[image_id]
        return f"http://cocodataset.org/#explore?id={info['id']}" if info["source"] == "coco" else ""


CocoFormatDataset = CocoDataset  # for files that aren't COCO, the same under a name that says so


def coco_layout(dataset_dir, subset, year):
    """Paths of the annotation file and of the images' folder of a subset of COCO."""
    folder = Path(dataset_dir)
    return folder / "annotations" / f"instances_{subset}{year}.json", folder / f"{IMAGES_OF.get(subset, subset)}{year}"


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


# ---- Parts of the file -----------------------------------------------------------------------------------------------
def _check_parts(content, path):
    """Category names by id; raises if the file hasn't COCO's form."""
    if not isinstance(content, dict) or any(not isinstance(content.get(part), list) for part in PARTS):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise BrokenAnnotation(path, "the file", "content", f"lists {', '.join(PARTS)}", got)
    names = {}
    for i, category in enumerate(content["categories"]):
        where = (path, f"categories[{i}]")
        _check_object(category, where)
        names[field(category, "id", (int, str), "a number or text", where)] = field(
            category, "name", str, "a text", where
        )
    for i, image in enumerate(content["images"]):
        where = (path, f"images[{i}]")
        _check_object(image, where)
        field(image, "id", (int, str), "a number or text", where)
    return names


def _ids_of(classes, names, path):
    """Ids of the categories of these names."""
    missing = sorted(set(classes) - set(names.values()))
    if missing:
        raise BrokenAnnotation(path, "categories", "name", f"to find {missing[0]!r}", sorted(names.values()))
    return [category_id for name in classes for category_id, own in names.items() if own == name]


def _check_object(entry, where):
    if not isinstance(entry, dict):
        raise BrokenAnnotation(*where, "entry", "an object", entry)


def _by_image(content, path):
    """Annotations by image id, in the order of the file, each with its name for errors."""
    known = {image["id"] for image in content["images"]}
    by_image = defaultdict(list)
    for i, annotation in enumerate(content["annotations"]):
        where = (path, f"annotations[{i}]")
        _check_object(annotation, where)
        for name in ("image_id", "category_id"):
            field(annotation, name, (int, str), "a number or text", where)
        if annotation["image_id"] not in known:
            raise BrokenAnnotation(*where, "image_id", "the id of one of images", annotation["image_id"])
        by_image[annotation["image_id"]].append((f"annotations[{i}] (id {annotation.get('id')})", annotation))
    return by_image


def _parse_image(image, annotations, names, wanted, images_dir, path):
    """(image entry, its file, (height, width), annotations of the categories wanted)."""
    where = (path, f"image {image['id']}")
    name = field(image, "file_name", str, "the image's file name", where)
    file = name if is_url(name) else images_dir / name
    sizes = [image.get(side) for side in ("height", "width")]
    if sizes == [None, None]:
        sizes = image_size(file, where)
    for side, pixels in zip(("height", "width"), sizes):
        if not isinstance(pixels, numbers.Real) or pixels < 1 or pixels != int(pixels):
            raise BrokenAnnotation(*where, side, "pixels, a whole number of 1 or more", pixels)
    height, width = (int(pixels) for pixels in sizes)
    for entry, annotation in annotations:
        if annotation["category_id"] not in names:
            known = f"one of the categories {sorted(names)}"
            raise BrokenAnnotation(path, entry, "category_id", known, annotation["category_id"])
        _check_segmentation(annotation.get("segmentation"), height, width, (path, entry))
    own = [annotation for _, annotation in annotations if annotation["category_id"] in wanted]
    return image, file, (height, width), own


def _check_segmentation(segmentation, height, width, where):
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width, where)
    elif not isinstance(segmentation, list) or not segmentation:
        raise BrokenAnnotation(*where, "segmentation", MASK_FORMS, segmentation)
    else:
        for part in segmentation:
            if not isinstance(part, list) or len(part) % 2 or not all(isinstance(v, (int, float)) for v in part):
                raise BrokenAnnotation(*where, "segmentation", "polygons [x, y, x, y, ...]", part)


def _check_run_lengths(segmentation, height, width, where):
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or [height, width] != size:
        raise BrokenAnnotation(*where, "segmentation.size", f"[height, width] of the image, {[height, width]}", size)
    if isinstance(counts, list):
        whole = all(isinstance(run, int) and run >= 0 for run in counts)
        if not whole or sum(counts) != height * width:
            got = sum(counts) if whole else counts
            raise BrokenAnnotation(
                *where, "segmentation.counts", f"run lengths with a sum of {height} x {width} = {height * width}", got
            )
    elif not isinstance(counts, (str, bytes)) or not counts:
        raise BrokenAnnotation(*where, "segmentation.counts", "a list of run lengths, or a string", counts)


def _as_coco(content):
    """A `pycocotools.coco.COCO` of what was read, without reading the file again or printing."""
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
def save_coco(dataset, path, image_ids=None, indent=None):
    """Writes a data set as a file of COCO's form; `CocoDataset.load_coco_format` reads the same masks, pixel for pixel.

    Masks are written as compressed run lengths, which hold parts and holes exactly; polygons can't. Objects without a
    pixel are left out. Ids of images and categories stay those of the source where they are growing whole numbers, as
    COCO's are; else they are 1, 2, 3, ... .

    Args:
        dataset: Dataset, prepared.
        path: of the file; its folder is made if needed. Images stay where they are and are named by their path from
            there; those that are no file of their own (drawn ones, or turned ones) are written as PNG into the folder
            `<name of the file>_images`.
        image_ids: ids of the images wanted; None: all.
        indent: of the JSON, see `json.dump`; None: all in one line.

    Returns:
        Path of the file.

    Raises:
        ValueError: the data set isn't prepared, or its masks don't fit their images.
    """
    path, taken = Path(path), set()
    wanted = writers.chosen_images(dataset, image_ids)
    own_ids = _growing([dataset.image_info[i]["id"] for i in wanted])
    category_ids = _growing([info["id"] for info in dataset.class_info[1:]])
    images, annotations = [], []
    for own_id, image_id in zip(own_ids, wanted):
        masks, class_ids = writers.read_objects(dataset, image_id)
        height, width = masks.shape[:2]
        png = path.with_name(f"{path.stem}_images") / f"{writers.file_stem(dataset, image_id, taken)}.png"
        file = writers.image_file(dataset, image_id, (height, width), png)
        name = writers.relative_path(file, path.parent)
        images.append({"id": own_id, "file_name": name, "height": height, "width": width})
        for code, class_id in zip(encode_masks(masks), class_ids.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": own_id,
                    "category_id": category_ids[abs(class_id) - 1],
                    "segmentation": {"size": [height, width], "counts": code["counts"].decode()},
                    "area": int(coco_mask.area(code)),
                    "bbox": coco_mask.toBbox(code).tolist(),
                    "iscrowd": int(class_id < 0),
                }
            )
    categories = [
        {"id": own_id, "name": str(info["name"]), "supercategory": info["source"]}
        for own_id, info in zip(category_ids, dataset.class_info[1:])
    ]
    return writers.write_json({"images": images, "annotations": annotations, "categories": categories}, path, indent)


def _growing(ids):
    """ids, if they are whole numbers that grow; else 1, 2, 3, ..."""
    whole = all(isinstance(own_id, numbers.Integral) and own_id > 0 for own_id in ids)
    growing = whole and all(a < b for a, b in pairwise(ids))
    return [int(own_id) for own_id in ids] if growing else list(range(1, len(ids) + 1))
