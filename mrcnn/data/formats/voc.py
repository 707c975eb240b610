"""Pascal VOC XML: one file an image with boxes, as of VOC2007-2012, labelImg, CVAT, Roboflow.

    dataset = VocDataset()
    dataset.load_voc("VOCdevkit/VOC2012", subset="train")    # Annotations/, JPEGImages/, ImageSets/Main/train.txt
    dataset.load_voc("my/photos")                            # *.xml beside the images, as labelImg saves them
    dataset.prepare()

A file:
    <annotation>
        <filename>a.jpg</filename>
        <size><width>500</width><height>375</height><depth>3</depth></size>
        <object>
            <name>dog</name> <difficult>0</difficult>
            <bndbox> <xmin>48</xmin> <ymin>240</ymin> <xmax>195</xmax> <ymax>371</ymax> </bndbox>
        </object> ...
    </annotation>
Pixels are counted from 1, and xmax and ymax belong to the box. Its mask is the whole box. What reaches beyond the image
is cut off. Boxes of an object's parts (`part`: head, hand, foot) aren't objects.

Shapes:
    N     objects of an image
    box   (y1, x1, y2, x2) int, pixels from 0; y2 and x2 exclusive
    mask  [H, W, N] bool
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, upright_size
from mrcnn.data.formats.image_files import SUFFIXES
from mrcnn.data.formats.parsing import name_classes, parse_all
from mrcnn.data.formats.recognition import Format, OpenOptions, Place, first_bytes

SPLITS_FOLDER = Path("ImageSets", "Main")
SIDES = ("xmin", "ymin", "xmax", "ymax")
IMAGE_FOLDERS = ("JPEGImages", "images")  # beside the folder of the XML files
DIFFICULT = {"0": False, "1": True, "": False, "false": False, "true": True}


class VocDataset(UprightDataset):
    """Images annotated in Pascal VOC's form. Call `load_voc` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> box = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>6</xmax><ymax>4</ymax></bndbox>"
        >>> text = f"<annotation><filename>a.png</filename><object><name>cat</name>{box}</object></annotation>"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6)).save(Path(folder) / "a.png")
        ...     _ = (Path(folder) / "a.xml").write_text(text)
        ...     dataset = VocDataset()
        ...     dataset.load_voc(folder)
        >>> dataset.prepare()
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, int(masks.sum()), dataset.class_names
        ((6, 8, 1), 12, ['BG', 'cat'])
    """

    @names_file
    def load_voc(self, annotations_dir: str | Path, images_dir: str | Path | None = None, source: str = "voc",
                 classes: Sequence[str] | None = None, skip_broken: bool = False, keep_difficult: bool = True,
                 subset: str | None = None) -> None:  # fmt: skip
        """Adds the images of a folder of XML files.

        Args:
            annotations_dir: the folder of the *.xml, the one above if it has Annotations/, or one XML file.
            images_dir: folder of the images; None: JPEGImages or images beside the folder, if there is one, else the
                folder itself.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: those found, sorted. Give it if
                training and validation files may have different ones. Objects of other classes are left out, with a
                warning that counts them.
            skip_broken: leave broken images out with a warning, instead of raising.
            keep_difficult: whether objects marked as difficult to recognise count.
            subset: "train", "val", ...: the images that ImageSets/Main/<subset>.txt names; None: all.

        Raises:
            FileNotFoundError: no such file or folder, or none in it.
            BrokenAnnotation: names the file, the entry, its field, what was expected and what is there.
        """
        files, folder = _annotation_files(Path(annotations_dir), subset)
        images_dir = _images_folder(folder) if images_dir is None else Path(images_dir)
        parsed = parse_all(files, lambda file: _parse_file(file, images_dir), skip_broken)
        if not keep_difficult:
            parsed = [(*image, [one for one in objects if not one[2]]) for *image, objects in parsed]
        found = [name for *_, objects in parsed for name, _, _ in objects]
        ids = name_classes(self, source, found, classes, annotations_dir)
        for file, photo, (height, width), objects in parsed:
            own = [(ids[name], box) for name, box, _ in objects if name in ids]
            self.add_image(source, file.stem, str(photo), height=height, width=width, boxes=own)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool, each the whole box, and [N] int32 class ids."""
        info = self.image_info[image_id]
        if "boxes" not in info:
            return super().load_mask(image_id)
        masks = np.zeros((len(info["boxes"]), info["height"], info["width"]), bool)
        for mask, (_, (y1, x1, y2, x2)) in zip(masks, info["boxes"]):
            mask[y1:y2, x1:x2] = True
        class_ids = [self.map_source_class_id(f"{info['source']}.{own_id}") for own_id, _ in info["boxes"]]
        return np.moveaxis(masks, 0, -1), np.array(class_ids, np.int32)


# ---- Recognising and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    for folder in (place, place.inside("Annotations")):
        files = folder.files(".xml") if folder else []
        if files and b"<annotation" in first_bytes(files[0]):
            return [folder.path]
    return []


def _open(path: Path, options: OpenOptions) -> VocDataset:
    dataset = VocDataset()
    dataset.load_voc(path, classes=options.classes, skip_broken=options.skip_broken, subset=options.split)
    return dataset


def _splits(path: Path) -> list[str]:
    """Names of the lists of images beside the folder of XML files."""
    return sorted(file.stem for file in (path.parent / SPLITS_FOLDER).glob("*.txt"))


FORMAT = Format(
    name="Pascal VOC",
    signs="XML files with <annotation>, here or in Annotations/",
    loader="VocDataset().load_voc(annotations_dir, images_dir)",
    find=_find,
    open=_open,
    splits=_splits,
)


# ---- Files -----------------------------------------------------------------------------------------------------------
def _annotation_files(path, subset):
    """The XML files, and the folder that they are in."""
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    if subset is None:
        files = sorted(folder.glob("*.xml")) if folder.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{folder} has no XML file; expected one an image, as Pascal VOC has them.")
        return files, folder if folder.is_dir() else path.parent
    names = folder.parent / SPLITS_FOLDER / f"{subset}.txt"
    # Lists of one class have a second column, -1 where an image doesn't show it.
    rows = [line.split() for line in names.read_text(encoding="utf-8").splitlines()]
    return [folder / f"{row[0]}.xml" for row in rows if row and row[1:2] != ["-1"]], folder


def _images_folder(folder):
    beside = [folder.parent / name for name in IMAGE_FOLDERS]
    return next((f for f in beside if f.is_dir()), folder)


def _find_photo(root, file, images_dir):
    """The image of a file: as `filename` says, or, as tools rename photos without telling, by the file's own name."""
    name = PureWindowsPath(root.findtext("filename", "").strip()).name
    names = [name] if name else []
    for stem in (name, file.stem):
        names += [stem + suffix for suffix in SUFFIXES] + [stem + suffix.upper() for suffix in SUFFIXES]
    for candidate in names:
        if (images_dir / candidate).is_file():
            return images_dir / candidate
    expected = f"to find {name or file.stem + '.jpg'} in {images_dir}"
    raise BrokenAnnotation(file, "the image", "filename", expected, "nothing there")


# ---- Parts of a file -------------------------------------------------------------------------------------------------
def _parse_file(file, images_dir):
    """(file, image file, (height, width), [(class name, box, difficult)])."""
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise BrokenAnnotation(file, "the file", "content", "an XML file", "nothing there") from error
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BrokenAnnotation(file, f"line {line}, column {column + 1}", "text", "XML", str(error)) from error
    if root.tag != "annotation":
        raise BrokenAnnotation(file, "the file", "content", "<annotation>, as Pascal VOC has it", f"<{root.tag}>")
    photo, where = _find_photo(root, file, images_dir), (file, "the image")
    told = [root.findtext(f"size/{side}") for side in ("height", "width")]
    told = [None if text is None else round(_number(text, f"size.{side}", where))
            for side, text in zip(("height", "width"), told)]  # fmt: skip
    size = upright_size(photo, where, told)
    limits.check_masks(len(root.findall("object")), *size, where)
    return file, photo, size, [_parse_object(one, i, file, size) for i, one in enumerate(root.findall("object"))]


def _parse_object(entry, i, file, size):
    """(class name, box, difficult)."""
    name = entry.findtext("name", "").strip()
    where = (file, f"object {i}" + (f" ({name})" if name else ""))
    if not name:
        raise BrokenAnnotation(*where, "name", "the class's name", "nothing")
    difficult = entry.findtext("difficult", "0").strip().lower()
    if difficult not in DIFFICULT:
        raise BrokenAnnotation(*where, "difficult", "0 or 1", difficult)
    numbers = {}
    for side in SIDES:
        text = entry.findtext(f"bndbox/{side}")
        if text is None:
            raise BrokenAnnotation(*where, f"bndbox.{side}", "a number of pixels", "nothing")
        numbers[side] = _number(text, f"bndbox.{side}", where)
    for first, last in (("xmin", "xmax"), ("ymin", "ymax")):
        if numbers[last] < numbers[first]:
            expected = f"{first} = {numbers[first]:g} or more"
            raise BrokenAnnotation(*where, f"bndbox.{last}", expected, f"{numbers[last]:g}")
    limits.check_coordinates(list(numbers.values()), *size, where, "bndbox")
    x1, y1, x2, y2 = (round(numbers[side]) for side in SIDES)
    box = max(y1 - 1, 0), max(x1 - 1, 0), min(y2, size[0]), min(x2, size[1])
    if box[0] >= box[2] or box[1] >= box[3]:
        expected = f"a box that meets the image of {size[1]} x {size[0]} pixels (width x height)"
        raise BrokenAnnotation(*where, "bndbox", expected, [x1, y1, x2, y2])
    return name, box, DIFFICULT[difficult]


def _number(text, name, where):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BrokenAnnotation(*where, name, "a number of pixels", text)
    return number
