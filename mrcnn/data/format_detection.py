"""Opens annotated images of any known format: `open_dataset(path)`.

    dataset = open_dataset("balloon/train")                          # a folder
    dataset = open_dataset("coco/annotations/instances_val2017.json")  # or the annotation file

How a format is recognised (`FORMATS` has it in words, and so has the error when none fits):
    a file      by its ending, a JSON file by its first entries
    a folder    by its JSON files, and by the folders and files that a format prescribes
Nothing is guessed: where two formats fit, or two files of one format, the error names them, and how to open each. Only
these are preferred to others of their own format: `via_region_data.json` and, of COCO's files, `instances_*.json`; a
YOLO set's yaml file to its labels folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mrcnn.data.dataset import is_url
from mrcnn.data.formats import json_kind, via

ANNOTATION_FOLDERS = ("annotation", "label", "json")  # how the names of folders start that hold no images
FILES_READ, FOLDERS_READ = 100, 20  # of a folder, to recognise it


class UnknownFormat(ValueError):
    """No known format fits, or more than one does; says what was looked for and what is there."""


def open_dataset(path, classes=None, skip_broken=False):
    """Opens a data set of any known format.

    Args:
        path: a folder, or an annotation file: VIA (all versions), COCO, labelme, Pascal VOC, YOLO-seg, Open Images,
            nuclei (one PNG an object), Penn-Fudan (objects' numbers in a PNG), M2NIST. Of a YOLO data.yaml the images
            of `train`; name the folder of labels for others.
        classes: list of class names, or None for all there are. COCO, labelme, VOC, YOLO: those wanted; VIA: all, in
            the order of their ids 1, 2, ...; VIA without attributes, nuclei, Penn-Fudan: the one name of all objects;
            YOLO without a list of names: those of the numbers 0, 1, ...; Open Images: those wanted, must be given.
        skip_broken: bool. Leave broken images out and warn, instead of raising.

    Returns:
        A prepared `Dataset`: one of the classes in `mrcnn.data.formats`, whose `load_...` has more options.

    Raises:
        FileNotFoundError: there is nothing at path, or no images where the annotations are.
        UnknownFormat: a ValueError. Says what was looked for and what is there.
        BrokenAnnotation: a ValueError. Says file, entry, field, what was expected, what is there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; expected a folder or an annotation file.")
    if isinstance(classes, str):
        raise ValueError(f"classes is {classes!r}; expected a list of names, such as [{classes!r}].")
    found = recognise(Place(path))
    if len(found) != 1:
        raise UnknownFormat(_several(path, found) if found else _none(Place(path)))
    ((form, target),) = found
    dataset = form.open(target, classes, skip_broken)
    dataset.prepare()
    return dataset


@dataclass
class Place:
    """What lies at a path, each part looked at once and only if asked for."""

    path: Path

    @cached_property
    def entries(self):
        """Names of what is in the folder, sorted, without hidden ones; of a file its own name."""
        if self.path.is_file():
            return [self.path.name]
        return sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))

    @cached_property
    def folder(self):
        return self.path.parent if self.path.is_file() else self.path

    def files(self, *endings):
        """The files whose names end so, in small letters."""
        return [self.folder / name for name in self.entries if name.lower().endswith(endings)]

    def inside(self, name):
        """The place of a folder in this one, small and capital letters being the same; None if it isn't there."""
        if self.path.is_file():
            return None
        found = [self.folder / entry for entry in self.entries if entry.lower() == name.lower()]
        return Place(found[0]) if found and found[0].is_dir() else None

    @cached_property
    def folders(self):
        """The places of the folders in this one."""
        return [] if self.path.is_file() else [Place(self.path / e) for e in self.entries if (self.path / e).is_dir()]

    @cached_property
    def json_files(self):
        """{path: (kind, content)} of the JSON files, see `json_kind.kind_of_json`; in a folder, of its first ones."""
        return {file: json_kind.kind_of_json(file) for file in self.files(".json")[:FILES_READ]}

    def json_of(self, kind):
        return [file for file, (own, _) in self.json_files.items() if own == kind]


@dataclass
class Format:
    """A format: how it is told, and how it is opened.

    Attributes:
        name: for messages.
        signs: for messages: by what it is recognised.
        loader: for messages: the call that opens it without a doubt.
        find: Place -> list of paths that `open` takes, one for each data set of the format.
        open: (path, classes, skip_broken) -> Dataset, not yet prepared.
    """

    name: str
    signs: str
    loader: str
    find: Callable
    open: Callable


def recognise(place):
    """[(Format, path)] of all that fits."""
    return [(form, target) for form in FORMATS for target in form.find(place)]


# ---- Finding and opening, format by format ---------------------------------------------------------------------------
def _find_via(place):
    found = place.json_of("via")
    return [file for file in found if file.name == via.USUAL_FILE] or found


def _open_via(path, classes, skip_broken):
    dataset = via.ViaDataset()
    dataset.load_via(path, _images_of(path, "via"), classes=classes, skip_broken=skip_broken)
    return dataset


def _find_coco(place):
    found = place.json_of("coco")
    if not found and (annotations := place.inside("annotations")):
        found = annotations.json_of("coco")
    return [file for file in found if file.name.startswith("instances_")] or found


def _open_coco(path, classes, skip_broken):
    from mrcnn.data.formats.coco import CocoDataset

    dataset = CocoDataset()
    dataset.load_coco_format(path, _images_of(path, "coco"), classes=classes, skip_broken=skip_broken)
    return dataset


def _find_labelme(place):
    return [place.path] if place.json_of("labelme") else []


def _open_labelme(path, classes, skip_broken):
    from mrcnn.data.formats.labelme import LabelmeDataset

    dataset = LabelmeDataset()
    dataset.load_labelme(path, classes=classes, skip_broken=skip_broken)
    return dataset


def _find_voc(place):
    for inner in (place, place.inside("Annotations")):
        files = inner.files(".xml") if inner else []
        if files and b"<annotation" in _start(files[0]):
            return [inner.path]
    return []


def _open_voc(path, classes, skip_broken):
    from mrcnn.data.formats.voc import VocDataset

    dataset = VocDataset()
    dataset.load_voc(path, classes=classes, skip_broken=skip_broken)
    return dataset


def _find_yolo(place):
    found = [file for file in place.files(".yaml", ".yml") if b"\nnames:" in b"\n" + _start(file)]
    usual = [file for file in found if file.stem in ("data", "dataset")]
    if found:
        return usual if len(usual) == 1 else found
    labels = place.inside("labels") or place
    return [inner.path for inner in (labels, *labels.folders[:FOLDERS_READ]) if _has_yolo_lines(inner)]


def _has_yolo_lines(place):
    """Whether a folder has text files that start with a number of a class and at least four shares of 0..1."""
    for file in place.files(".txt")[:FILES_READ] if place.path.is_dir() else []:
        words = _start(file).strip().split(b"\n")[0].split()
        if len(words) >= 5 and words[0].isdigit() and all(re.fullmatch(rb"[01]?\.?\d*(e-\d+)?", w) for w in words[1:]):
            return True
    return False


def _open_yolo(path, classes, skip_broken):
    from mrcnn.data.formats.yolo import YoloSegDataset

    dataset = YoloSegDataset()
    dataset.load_yolo(path, classes=classes, skip_broken=skip_broken)
    return dataset


def _find_open_images(place):
    labels = place.inside("labels")
    sorted_by_fiftyone = labels.files("segmentations.csv") if labels else []
    return place.files("annotations-object-segmentation.csv", "segmentations.csv") + sorted_by_fiftyone


def _open_open_images(path, classes, skip_broken):
    from mrcnn.data.formats.open_images import OpenImagesDataset

    if not classes:
        raise ValueError(
            f"{path} is of Open Images, of whose 350 classes those wanted must be named:"
            " open_dataset(path, classes=['Pumpkin'])."
        )
    folder = path.parent.parent if path.parent.name == "labels" else path.parent
    dataset = OpenImagesDataset()
    dataset.load_open_images(folder, classes, annotations=path, skip_broken=skip_broken)
    return dataset


def _find_nuclei(place):
    return [place.path] if any(map(_is_nucleus_image, place.folders[:FOLDERS_READ])) else []


def _is_nucleus_image(place):
    images = place.inside("images")
    return bool(
        images and images.entries and (place.inside("masks") or Path(images.entries[0]).stem == place.path.name)
    )


def _open_nuclei(path, classes, skip_broken):
    from mrcnn.data.formats.instance_pngs import NucleiDataset

    dataset = NucleiDataset()
    dataset.load_nuclei(path, class_name=_only_class(path, classes, "nucleus"), skip_broken=skip_broken)
    return dataset


def _find_penn_fudan(place):
    for inner in (place, place.inside("PennFudanPed")):
        if inner and inner.inside("PNGImages") and inner.inside("PedMasks"):
            return [inner.path]
    return []


def _open_penn_fudan(path, classes, skip_broken):
    from mrcnn.data.formats.id_png import PennFudanDataset

    dataset = PennFudanDataset()
    dataset.load_penn_fudan(path, class_name=_only_class(path, classes, "person"), skip_broken=skip_broken)
    return dataset


def _find_m2nist(place):
    from mrcnn.data.formats import m2nist

    if place.path.is_file():
        fits = place.path.name == m2nist.IMAGES or m2nist.is_archive(place.path)
        return [place.path] if fits else []
    if m2nist.IMAGES in place.entries and m2nist.LABELS in place.entries:
        return [place.path]
    return [file for file in place.files(".zip") if m2nist.is_archive(file)]


def _open_m2nist(path, classes, skip_broken):
    from mrcnn.data.formats.m2nist import M2nistDataset

    if classes is not None:
        raise ValueError(f"{path} is M2NIST, whose classes are the digits; leave classes={classes!r} out.")
    dataset = M2nistDataset()
    dataset.load_m2nist(path, skip_broken=skip_broken)
    return dataset


FORMATS = (
    Format("VIA", 'a JSON file with image entries {"filename", "regions"} or "_via_img_metadata"',
           "ViaDataset().load_via(file, images_dir)", _find_via, _open_via),
    Format("COCO", 'a JSON file with "images", "annotations" and "categories", here or in annotations/',
           "CocoDataset().load_coco_format(file, images_dir)", _find_coco, _open_coco),
    Format("labelme", 'JSON files with "shapes"',
           "LabelmeDataset().load_labelme(folder)", _find_labelme, _open_labelme),
    Format("Pascal VOC", "XML files with <annotation>, here or in Annotations/",
           "VocDataset().load_voc(annotations_dir, images_dir)", _find_voc, _open_voc),
    Format("YOLO-seg", 'a yaml file with "names:", or *.txt with lines "class x y x y ...", here or in labels/',
           "YoloSegDataset().load_yolo(file_or_labels_folder)", _find_yolo, _open_yolo),
    Format("Open Images", "*-annotations-object-segmentation.csv, or labels/segmentations.csv",
           "OpenImagesDataset().load_open_images(folder, classes)", _find_open_images, _open_open_images),
    Format("nuclei", "folders <id>/images and <id>/masks, or <id>/images/<id>.png",
           "NucleiDataset().load_nuclei(folder)", _find_nuclei, _open_nuclei),
    Format("Penn-Fudan", "folders PNGImages and PedMasks",
           "PennFudanDataset().load_penn_fudan(folder)", _find_penn_fudan, _open_penn_fudan),
    Format("M2NIST", "combined.npy and segmented.npy, or a zip file with them",
           "M2nistDataset().load_m2nist(path)", _find_m2nist, _open_m2nist),
)  # fmt: skip


# ---- Parts -----------------------------------------------------------------------------------------------------------
def _start(path):
    """The first bytes of a text file."""
    with open(path, "rb") as file:
        return file.read(1 << 16).replace(b"\r", b"\n")


def _only_class(path, classes, default):
    if classes is None:
        return default
    if len(classes) != 1:
        raise ValueError(f"{path} knows one class of objects; expected one name in classes, got {classes!r}.")
    return classes[0]


def _images_of(file, kind):
    """The folder in which the images of an annotation file of COCO or VIA are.

    Looked for: beside the file, in the folder that COCO would name so (instances_val2017.json: ../val2017), in images/
    and ../images/, then in all folders beside the file and in these two; if the file's own folder is called
    annotations or so, also in the one above and in all of its folders. That with the most of the first images is taken.

    Raises:
        FileNotFoundError: none of the first images is in any of these.
        UnknownFormat: they are in several of the folders without a usual name.
    """
    _, content = json_kind.kind_of_json(file)
    names = json_kind.names_of_images(content, kind) or (json_kind.find_names(file) if kind == "coco" else [])
    names = [name for name in names if not is_url(name)]
    here, above = file.parent, file.resolve().parent.parent
    if not names:
        return here
    usual = [here, above / file.stem.removeprefix("instances_"), here / "images", above / "images"]
    holders = [here, here / "images", above / "images"]
    if file.resolve().parent.name.lower().startswith(ANNOTATION_FOLDERS):
        usual, holders = [*usual, above], [*holders, above]
    others = [inner.path for holder in holders if holder.is_dir() for inner in Place(holder).folders]
    hits = {folder: sum((folder / name).is_file() for name in names) for folder in [*usual, *others]}
    most = max(hits.values())
    best = [folder for folder, count in hits.items() if count == most]
    if not most:
        where = _listed(f"{file}: its images aren't there. Looked for {names[0]} in", map(str, hits))
        raise FileNotFoundError(where)
    if len(best) > 1 and best[0] not in usual:
        loader = next(form.loader for form in FORMATS if form.name.lower() == kind)
        where = _listed(f"{file}: images of these names are in several folders; say which by {loader}:", map(str, best))
        raise UnknownFormat(where)
    return best[0]


def _several(path, found):
    lines = [f"{form.name}: {target}, by {form.loader}" for form, target in found]
    return _listed(f"{path}: more than one data set fits. Open the file itself, or call one:", lines)


def _none(place):
    signs = [f"{form.name}: {form.signs}" for form in FORMATS]
    text = _listed(f"{place.path}: no known format. Looked for", signs) + _listed("\nand found", _found(place))
    near = place.folders[:FOLDERS_READ]
    inner = [f"{one.path}: {form.name}" for one in near for form, _ in recognise(one)[:1]]
    return text + (_listed("\nThere are data sets further inside; open one of them:", inner[:5]) if inner else "")


def _listed(heading, lines):
    return "\n  ".join([heading, *lines])


def _found(place):
    """A few lines about what is there."""
    shown = [f"{file.name}: {json_kind.describe(content)}" for file, (_, content) in list(place.json_files.items())[:5]]
    if place.path.is_file():
        return shown or [f"a file {place.path.suffix or 'without ending'} of {place.path.stat().st_size} bytes"]
    folders = [inner.path.name for inner in place.folders]
    endings = Counter(Path(name).suffix or "no ending" for name in place.entries if name not in set(folders))
    counted = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(8))
    names = ", ".join(folders[:8]) + (f", ... ({len(folders)})" if len(folders) > 8 else "")
    return [f"files: {counted or 'none'}", f"folders: {names or 'none'}", *shown]
