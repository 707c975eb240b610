"""The folders of a Pascal VOC dataset, and its XML files; see `voc`.

Shapes:
    box   (y1, x1, y2, x2) int, pixels from 0; y2 and x2 exclusive
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

from mrcnn.data.formats import limits
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where
from mrcnn.data.formats.exif import size_of_masks, upright_size
from mrcnn.data.formats.image_files import SUFFIXES, check_size
from mrcnn.data.formats.parsing import image_size, read_xml
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import first_bytes
from mrcnn.data.formats.voc_masks import VocMasks
from mrcnn.data.user_warnings import warn

SPLITS_FOLDERS = (Path("ImageSets", "Main"), Path("ImageSets", "Segmentation"))
XML_FOLDERS = ("Annotations", "annots", "annotation", "xmls", "xml", "labels")  # in upper or lower case
XML_INNER = "xmls"  # annotations/xmls, as in the pets of Oxford
IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img")  # beside the folder of the XML files
SIDES = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = {"0": False, "1": True, "": False, "false": False, "true": True}
Box = tuple[int, int, int, int]
Polygon = tuple[list[float], list[float]]  # ys, xs
Object = tuple[str, Box, bool, Polygon | None]  # class name, box, whether it is difficult to recognize, outline
Image = tuple[str, Path, tuple[int, int], list[Object]]  # name, image file, (height, width), objects


@dataclass(frozen=True)
class VocLayout:
    """The folders of a dataset.

    Attributes:
        top: the folder that holds the others.
        xml_folder: with the XML files, which may be the same; None: there are none.
        xml_file: the only XML file wanted; None: all.
    """

    top: Path
    xml_folder: Path | None
    xml_file: Path | None = None

    @classmethod
    def of(cls, path: Path) -> VocLayout:
        """The layout that a path belongs to: the top folder, the folder of the XML files, or one of these."""
        if path.is_file():
            folder = path.parent
            return cls(folder.parent if _is_xml_folder(folder) else folder, folder, path)
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path} does not exist; expected a folder of a Pascal VOC dataset, or an XML file."
            )
        inside = {folder.name.lower(): folder for folder in sorted(path.iterdir()) if _is_xml_folder(folder)}
        for name in map(str.lower, XML_FOLDERS):
            for folder in (inside[name], inside[name] / XML_INNER) if name in inside else ():
                if any(folder.glob("*.xml")):
                    return cls(path, folder)
        if _is_xml_folder(path):
            return cls(path.parent, path)
        return cls(path, path if any(path.glob("*.xml")) else None)

    def images(self) -> Path:
        """The folder of the images."""
        for base in (self.top, self.top.parent):  # the latter for annotations/xmls
            beside = {folder.name.lower(): folder for folder in sorted(base.iterdir()) if folder.is_dir()}
            found = [beside[name] for name in IMAGE_FOLDERS if name in beside]
            if found:
                return found[0]
            if not _is_xml_folder(self.top):
                break
        return self.xml_folder or self.top

    def xml_files(self, subset: str | None) -> list[Path]:
        """The XML files of a subset; None: all.

        Raises:
            FileNotFoundError: there is none, or no list of the subset.
        """
        folder = self.xml_folder or self.top
        if subset is not None:
            names, access = self._names_in_list(subset, SPLITS_FOLDERS), current_access()
            return [access.check(folder / f"{name}.xml", (self.top, name), "image", folder) for name in names]
        files = [self.xml_file] if self.xml_file else sorted(folder.glob("*.xml"))
        if not files:
            raise FileNotFoundError(f"{folder} has no XML file; expected one an image, as Pascal VOC has them.")
        return files

    def stems_with_masks(self, masks: VocMasks, subset: str | None) -> list[str]:
        """Names, without ending, of the images of a subset that have a mask; warns of those that don't."""
        stems = masks.stems()
        if subset is not None:
            wanted = self._names_in_list(subset, SPLITS_FOLDERS[::-1])
        elif self.xml_file is not None:
            wanted = [self.xml_file.stem]
        else:
            wanted = sorted({*stems, *(file.stem for file in (self.xml_folder or self.top).glob("*.xml"))})
        known = set(stems)
        without = [name for name in wanted if name not in known]
        if len(without) == len(wanted):
            raise FileNotFoundError(
                f"{masks.objects} has no mask of the {len(wanted)} images. masks=False takes the boxes as masks."
            )
        if without:
            shown = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
            warn(
                f"{masks.objects} has no mask of {len(without)} of {len(wanted)} images, which are left out: {shown}."
                " VocDataset().load_voc(path, masks=False) takes the boxes of all images as masks."
            )
        return [name for name in wanted if name in known]

    def _names_in_list(self, subset: str, folders: tuple[Path, ...]) -> list[str]:
        """Names of the images of a subset."""
        lists = [self.top / folder / f"{subset}.txt" for folder in folders]
        file = next((file for file in lists if file.is_file()), lists[0])
        names = []
        for line in file.read_text(encoding="utf-8-sig").splitlines():
            name, _, flag = line.strip().rpartition(" ")
            # Lists of one class have a second column, -1 where an image doesn't show it. Names may have spaces.
            if flag not in ("-1", "0", "1") or not name:
                name, flag = line, ""
            if name.strip() and flag != "-1":
                names.append(name.strip())
        return names


def _is_xml_folder(folder: Path) -> bool:
    return folder.name.lower() in map(str.lower, XML_FOLDERS) and folder.is_dir()


# ---- Images ----------------------------------------------------------------------------------------------------------
def parse_xml(file: Path, photos: PhotoFolder) -> tuple[Path, Path, tuple[int, int], list[Object]]:
    """Reads an XML file: (file, image file, (height, width), objects).

    Raises:
        BrokenAnnotation: it isn't of VOC, there is no image, or an object is broken.
    """
    root = read_xml(file)
    if root.tag != "annotation":
        raise BrokenAnnotation(file, "the file", "content", "<annotation>, as Pascal VOC has it", f"<{root.tag}>")
    photo, where = _find_photo(root, file, photos), (file, "the image")
    stated = [root.findtext(f"size/{side}") for side in ("height", "width")]
    stated = [None if text is None else round(_parse_number(text, f"size.{side}", where))
            for side, text in zip(("height", "width"), stated)]  # fmt: skip
    size = upright_size(photo, where, stated)
    entries = [entry for entry in root.findall("object") if entry.findtext("deleted", "0").strip() != "1"]  # of LabelMe
    limits.check_masks(len(entries), *size, where)
    return file, photo, size, [_parse_object(entry, i, file, size) for i, entry in enumerate(entries)]


def parse_mask(stem: str, masks: VocMasks, xml_folder: Path | None, photos: PhotoFolder) -> Image:
    """Checks the files of an image that has a mask: (its name, image file, (height, width), objects).

    Args:
        stem: name of the image, without ending.
        masks: of the dataset.
        xml_folder: where its XML file tells the classes and which objects are difficult; None: no XML file is read.
        photos: finds image files.

    Raises:
        BrokenAnnotation: there is no image, a mask has another size, or the XML file is broken.
    """
    file = masks.objects / f"{stem}.png"
    where = (file, "the image")
    if xml_folder is not None:
        _, photo, size, objects = parse_xml(xml_folder / f"{stem}.xml", photos)
    else:
        found = [photo for photo in map(photos.find, (stem + suffix for suffix in SUFFIXES)) if photo]
        if not found:
            raise MissingPhoto(*where, "image file", photos.folder / f"{stem}.jpg")
        photo, objects = found[0], []
        size = size_of_masks(photo, [file], where)
    for mask in (file, masks.classes / f"{stem}.png") if masks.classes else (file,):
        check_size(mask, where, image_size(mask, where), size)
    return stem, photo, size, objects


def first_image_names(files: Sequence[Path]) -> list[str]:
    """Names that the images of some XML files may have: as `filename` says, and the file's own name."""
    names = []
    for file in files:
        match = re.search(rb"<filename>([^<]+)</filename>", first_bytes(file))
        if match:
            names.append(PureWindowsPath(match[1].decode("utf-8", errors="replace").strip()).name)
        names += [f"{file.stem}{suffix}" for suffix in (".jpg", ".png")]
    return list(dict.fromkeys(names))


def _find_photo(root: ElementTree.Element, file: Path, photos: PhotoFolder) -> Path:
    """The image of a file: as `filename` says, or, as tools rename images without telling, by the file's own name."""
    name = PureWindowsPath(root.findtext("filename", "").strip()).name
    names = [name] if name else []
    for stem in (name, file.stem):
        names += [stem + suffix for suffix in SUFFIXES]
    found = next(filter(None, map(photos.find, names)), None)
    if found is None:
        raise MissingPhoto(file, "the image", "filename", photos.folder / (name or f"{file.stem}.jpg"))
    return found


def _parse_object(entry: ElementTree.Element, i: int, file: Path, size: tuple[int, int]) -> Object:
    """(class name, box, difficult, outline or None)."""
    name = entry.findtext("name", "").strip()
    where = (file, f"object {i}" + (f" ({name})" if name else ""))
    if not name:
        raise BrokenAnnotation(*where, "name", "the class's name", "nothing")
    difficult = entry.findtext("difficult", "0").strip().lower()
    if difficult not in DIFFICULT:
        raise BrokenAnnotation(*where, "difficult", "0 or 1", difficult)
    outline = _parse_polygon(entry, size, where)
    if outline is not None and entry.find("bndbox") is None:
        (ys, xs), (height, width) = outline, size
        box = max(int(min(ys)), 0), max(int(min(xs)), 0), min(int(max(ys)) + 1, height), min(int(max(xs)) + 1, width)
        return name, box, DIFFICULT[difficult], outline
    numbers = {}
    for side in SIDES:
        text = entry.findtext(f"bndbox/{side}")
        if text is None:
            raise BrokenAnnotation(*where, f"bndbox.{side}", "a number of pixels", "nothing")
        numbers[side] = _parse_number(text, f"bndbox.{side}", where)
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
    return name, box, DIFFICULT[difficult], outline


def _parse_polygon(entry: ElementTree.Element, size: tuple[int, int], where: Where) -> Polygon | None:
    """The outline of an object, as Roboflow, Labelbox and LabelMe's web tool write it; None if it has none."""
    points = []
    for axis in "yx":
        found = [(child.tag[1:], child.text or "") for child in entry.iterfind("polygon/*") if child.tag[:1] == axis]
        found += [("", child.text or "") for child in entry.iterfind(f"polygon/pt/{axis}")]
        points.append([_parse_number(text, f"polygon.{axis}{number}", where) for number, text in found])
        limits.check_coordinates(points[-1], *size, where, "polygon")
    ys, xs = points
    if len(ys) != len(xs):
        raise BrokenAnnotation(*where, "polygon", f"{len(xs)} y, as many as x", len(ys))
    limits.check_outline(xs, ys, where, "polygon")
    return (ys, xs) if len(ys) >= 3 else None


def _parse_number(text: str, name: str, where: Where) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BrokenAnnotation(*where, name, "a number of pixels", text)
    return number
