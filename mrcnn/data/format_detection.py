"""Opens annotated images of any known format.

    dataset = open_dataset("balloon/train")                             # a folder
    dataset = open_dataset("coco/annotations/instances_val2017.json")   # or the annotation file
    train, val = open_splits("balloon")                                 # both, with the same class ids

Formats are recognized by files and folders that they prescribe, JSON files by their first entries; the error for an
unknown format lists how. Nothing is guessed: if several formats fit, or several files of one format, the error names
them and says how to open each. Only these are preferred to others of the same format: `via_region_data.json`, COCO's
`instances_*.json`, and the yaml file of a YOLO dataset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path

from mrcnn.data import formats
from mrcnn.data.class_names import class_list, number_classes
from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.access import granting
from mrcnn.data.formats.broken import naming
from mrcnn.data.formats.json_head import describe
from mrcnn.data.formats.photo_folder import folders_below
from mrcnn.data.formats.recognition import Format, OpenOptions, Place, UnknownFormat, indented
from mrcnn.data.formats.unsupported import describe_unread

SPLIT_NAMES = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))  # synonyms
ONLY_OF = {"attribute": "VIA", "crowds_as_objects": "COCO"}  # the format of options that one format has
FOLDERS_RECOGNIZED = 100  # maximum number of folders to search for datasets
DATASETS_SHOWN = 8  # in a message
Found = list[tuple[Format, Path]]
Target = tuple[Format, Path, str | None]  # the last one is the name of the split in the path, if it lists them


def open_dataset(
    path: str | Path,
    classes: Dataset | Sequence[str] | None = None,
    skip_broken: bool = False,
    attribute: str | None = None,
    crowds_as_objects: bool = False,
    root: str | Path | None = None,
    download: bool = False,
) -> Dataset:
    """Opens a dataset of any known format.

    VIA, labelme and Pascal VOC files without a list of classes number only the classes that occur in them. So open
    training and validation images with `open_splits`, or the second dataset with `classes=` set to the first.

    Args:
        path: a folder or an annotation file of one of these formats: VIA 1 and 2, COCO (also LVIS and panoptic),
            labelme, CVAT for images, Label Studio, Supervisely, Pascal VOC, YOLO (also darknet), Cityscapes, Open
            Images, run lengths in CSV (Kaggle), nuclei (a PNG for each object), Penn-Fudan (object numbers in a PNG),
            M2NIST. A YOLO data.yaml and Cityscapes open the images of `train`; see `open_splits` for others.
        classes: class names in the order of their ids 1, 2, ..., or another prepared `Dataset`, or None: all.
            A list chooses the classes of COCO, labelme, VOC, YOLO and Open Images (which needs one). It must have all
            classes of VIA, and the one class of nuclei, Penn-Fudan or a VIA file without attributes. It names the
            classes if the files of YOLO or VIA don't. A background in front is left out.
            A `Dataset` gives all classes the ids that they have there; those that only it has are added.
        skip_broken: skip broken images with a warning, instead of raising.
        attribute: name of the attribute with the class, for VIA files whose regions have several attributes.
        crowds_as_objects: read COCO annotations with iscrowd = 1 as objects. CVAT exports brush masks this way.
        root: a folder whose files the annotations may name, besides the dataset's own. Other names are an error.
        download: whether image files that are URLs may be fetched, within a time limit.

    Returns:
        A prepared `Dataset`, of a class in `mrcnn.data.formats` whose `load_...` has more options.

    Raises:
        FileNotFoundError: there is nothing at path, or no images where the annotations are.
        UnknownFormat: a ValueError. Says what was looked for and what was found.
        BrokenAnnotation: a ValueError. Names the file, the entry, its field, what was expected and what was found.
        ValueError: an argument is invalid, e.g. `classes` is a `Dataset` that lacks a class of the files.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images", "masks"):
        ...         (Path(folder) / "a" / name).mkdir(parents=True)
        ...         Image.new("L", (8, 6), 255).save(Path(folder) / "a" / name / "a.png")
        ...     dataset = open_dataset(folder, classes=["cell"])
        >>> type(dataset).__name__, dataset.class_names
        ('NucleiDataset', ['BG', 'cell'])
    """
    path = Path(path)
    names = None if classes is None else class_list(classes)
    form, target = find_dataset(path)
    options = OpenOptions(None, None, skip_broken, None, attribute, crowds_as_objects, root, download)
    if isinstance(classes, Dataset):
        return _open_numbered(form, target, replace(options, names=names))
    (dataset := read_dataset(form, target, replace(options, classes=names))).prepare()
    return dataset


def open_splits(
    path: str | Path, splits: Sequence[str] = ("train", "val"), classes: Dataset | Sequence[str] | None = None,
    skip_broken: bool = False, attribute: str | None = None, crowds_as_objects: bool = False,
    root: str | Path | None = None, download: bool = False,
) -> tuple[Dataset, ...]:  # fmt: skip
    """Opens the splits of a dataset, such as training and validation images, with the same class ids.

    A split is a folder of its name, also inside others, or an annotation file with it in its name
    (instances_val2017.json), or is listed by the dataset itself (YOLO's data.yaml, ImageSets of Pascal VOC). "val" also
    finds "valid" and "validation".

    Args:
        path: the folder that holds the splits, or a data.yaml.
        splits: their names.
        classes: class names in the order of their ids, or another prepared `Dataset`. None: those of the first split.
            Classes of the files that aren't in a list are left out; those that aren't in a `Dataset` are an error.
        skip_broken, attribute, crowds_as_objects, root, download: as in `open_dataset`.

    Returns:
        A prepared `Dataset` for each split, in the order of `splits`. All have the same `class_names`.

    Raises:
        UnknownFormat: a ValueError. A split isn't there, or more than one fits.
        ValueError: a split has a class that the first split, or the `Dataset`, lacks; or no split has a class of the
            list.
        Exception: those of `open_dataset`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train/a/images", "train/a/masks", "valid/b/images", "valid/b/masks"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...         Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(Path(folder) / name / "a.png")
        ...     train, val = open_splits(folder, classes=["cell"])
        >>> train.class_names == val.class_names, val.image_info[0]["id"]
        (True, 'b')
    """
    path = Path(path)
    if isinstance(splits, str) or not splits:
        raise ValueError(f"splits is {splits!r}; expected a list of names, such as ['train', 'val'].")
    targets = find_splits(path, splits)
    options = OpenOptions(
        skip_broken=skip_broken, attribute=attribute, crowds_as_objects=crowds_as_objects, root=root, download=download
    )
    if classes is not None and not isinstance(classes, Dataset):
        return _open_chosen(path, targets, class_list(classes), options)
    return _open_alike(splits, targets, classes, options)


@cache
def known_formats() -> tuple[Format, ...]:
    """The formats of `mrcnn.data.formats.MODULES`."""
    return tuple(import_module(f"{formats.__name__}.{module}").FORMAT for module in formats.MODULES)


def recognize(place: Place) -> Found:
    """(format, path that it opens) of everything in a place that fits a format."""
    with naming(place.path):
        return [(form, target) for form in place.formats for target in form.find(place)]


def find_dataset(path: Path) -> tuple[Format, Path]:
    """(format, path that it opens) of the dataset at a path. Raises UnknownFormat if there is none, or several."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder or an annotation file.")
    place = Place(path, known_formats())
    found = recognize(place)
    if not found:
        raise UnknownFormat(*_describe_unknown(place))
    if len(found) > 1:
        raise UnknownFormat(_describe_several(path, found))
    return found[0]


def find_splits(path: Path, splits: Sequence[str]) -> list[Target]:
    """(format, path that it opens, name of the split in it or None) of each split; errors as `open_splits`."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder with {', '.join(splits)}, or a data.yaml.")
    place = Place(path, known_formats())
    found = recognize(place)
    return [_find_split(place, found, split) for split in splits]


def read_dataset(form: Format, target: Path, options: OpenOptions) -> Dataset:
    """Opens a path of a format. Every error while reading names the path."""
    for name, format_name in ONLY_OF.items():
        if getattr(options, name) and form.name != format_name:
            raise ValueError(f"{name}={getattr(options, name)!r} is for {format_name}; {target} is {form.name}.")
    with naming(target), granting(None, options.root, options.download):
        return form.open(target, options)


# ---- Class ids -------------------------------------------------------------------------------------------------------
def _open_alike(
    splits: Sequence[str], targets: list[Target], classes: Dataset | None, options: OpenOptions
) -> tuple[Dataset, ...]:
    """Opens several datasets with the class ids of `classes`, or else of the first one."""
    datasets: list[Dataset] = []
    for split, (form, target, own_split) in zip(splits, targets):
        names = None if classes is None else class_list(classes)
        try:
            datasets.append(_open_numbered(form, target, replace(options, names=names, split=own_split)))
        except ValueError as error:
            if not datasets or isinstance(error, formats.BrokenAnnotation):
                raise
            raise ValueError(
                f"{target}: {split} has other classes than {splits[0]}: {error}\nName the classes of all splits:"
                " open_splits(path, classes=[...])."
            ) from error
        classes = classes or datasets[0]
    return tuple(datasets)


def _open_numbered(form: Format, target: Path, options: OpenOptions) -> Dataset:
    """Opens all classes of a dataset, with the ids 1, 2, ... of `options.names`, if given."""
    dataset = read_dataset(form, target, options)
    dataset.prepare()
    if options.names is not None:
        number_classes(dataset, options.names)
    return dataset


def _open_chosen(path: Path, targets: list[Target], names: list[str], options: OpenOptions) -> tuple[Dataset, ...]:
    """Opens several datasets with these classes. Each must be in one of the datasets, but not in all of them."""
    datasets, found = [], set()
    for form, target, split in targets:
        dataset = read_dataset(form, target, replace(options, names=names, split=split))
        own_names = [info["name"] for info in dataset.class_info[1:]]
        found.update(own_names)
        if not set(own_names) <= set(names):  # read again without the others
            chosen = [name for name in names if name in own_names]
            if not chosen:
                raise ValueError(f"{target} has the classes {own_names}; expected one of classes={names}.")
            dataset = read_dataset(form, target, replace(options, classes=chosen, split=split))
        number_classes(dataset, names)
        datasets.append(dataset)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: no split has the class {missing[0]!r}; found {sorted(found)}.")
    return tuple(datasets)


# ---- Splits ----------------------------------------------------------------------------------------------------------
def _find_split(place: Place, found: Found, split: str) -> Target:
    """(format, path that it opens, name of the split in it or None)."""
    words = _same_split(split)
    if len(found) == 1:
        ((form, target),) = found
        with naming(target):
            listed = [name for name in (form.splits(target) if form.splits else []) if name.lower() in words]
        if listed:
            return form, target, listed[0]
    fitting = [(form, target) for form, target in found if _splits_named(target.stem) == {words}]
    below, depth = () if fitting or place.path.is_file() else folders_below(place.path), None
    for folder in below:
        if depth is not None and len(folder.parts) > depth:
            break  # a folder nearer to the top fits
        if folder.name.lower() in words and (inside := recognize(Place(folder, place.formats))):
            fitting, depth = fitting + inside, len(folder.parts)
    if len(fitting) == 1:
        return *fitting[0], None
    if fitting:
        raise UnknownFormat(_describe_several(place.path, fitting))
    named = " or ".join(repr(word) for word in words)
    expected = f"expected a folder {named}, or an annotation file with this word in its name"
    lines = [f"{form.name}: {target}" for form, target in found] + _describe_content(place)
    raise UnknownFormat(indented(f"{place.path}: no split {split!r}; {expected}. Found", lines))


def _same_split(split: str) -> tuple[str, ...]:
    """The names that a split may have."""
    return next((group for group in SPLIT_NAMES if split.lower() in group), (split.lower(),))


def _splits_named(stem: str) -> set[tuple[str, ...]]:
    """The known splits that a file name has a word of."""
    words = {stem.lower(), *re.split(r"[\W_\d]+", stem.lower())}
    return {group for group in SPLIT_NAMES if words & set(group)} or {(stem.lower(),)}


# ---- Messages --------------------------------------------------------------------------------------------------------
def _describe_several(path: Path, found: Found) -> str:
    lines = [f"{form.name}: {target}, by {form.loader}" for form, target in found]
    heading = f"{path}: more than one dataset fits. Open the file itself, call one of these, or use open_splits:"
    return indented(heading, lines)


def _describe_unknown(place: Place) -> tuple[str, str]:
    """The message with all known formats, and one of a line."""
    signs = [f"{form.name}: {form.signs}" for form in place.formats]
    unread = "".join(f" {line}" for line in describe_unread(place))
    text = indented(f"{place.path}: no known format.{unread} Looked for", signs)
    content = _describe_content(place)
    text += indented("\nand found", content)
    short = f"{place.path}: no annotations of a known format.{unread} Found {'; '.join(content)}."
    inner = [f"{folder}: {form.name}" for folder, form in datasets_below(place)]
    if not inner:
        return text, f"{short} `mrcnn label` annotates photos; docs/data.md lists the formats."
    text += indented("\nThere are datasets in its folders; open one of them, or use open_splits:", inner)
    return text, f"{short} Open a dataset in its folders: {'; '.join(inner)}."


def datasets_below(place: Place) -> list[tuple[Path, Format]]:
    """(folder, format) of the first datasets in the folders below one, nearest first; not those inside another one."""
    found: list[tuple[Path, Format]] = []
    for folder in islice(folders_below(place.path), FOLDERS_RECOGNIZED) if place.path.is_dir() else ():
        if len(found) < DATASETS_SHOWN and not any(other in folder.parents for other, _ in found):
            found += [(folder, form) for form, _ in recognize(Place(folder, place.formats))[:1]]
    return found


def _describe_content(place: Place) -> list[str]:
    """A few lines about what is there."""
    shown = [f"{file.name}: {describe(content)}" for file, (_, content) in list(place.json_files.items())[:5]]
    if place.path.is_file():
        return shown or [f"a file {place.path.suffix or 'without ending'} of {place.path.stat().st_size} bytes"]
    folders = [inner.path.name for inner in place.folders]
    endings = Counter(Path(name).suffix or "no ending" for name in place.entries if name not in set(folders))
    counted = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(8))
    names = ", ".join(folders[:8]) + (f", ... ({len(folders)})" if len(folders) > 8 else "")
    return [f"files: {counted or 'none'}", f"folders: {names or 'none'}", *shown]
