"""Instance masks of Pascal VOC, as VOC2012, CVAT ("Segmentation mask 1.1") and labelme2voc write them; see `voc`.

    SegmentationObject/<name>.png   the number of the object at each pixel: 1, 2, ... as in the XML file
    SegmentationClass/<name>.png    the class at each pixel
    labelmap.txt                    colors of the classes, "cat:128,0,0::" (CVAT)
    class_names.txt                 names of the classes 0, 1, ... (labelme2voc); without either, VOC's own 20
0 is background and 255 a border that belongs to no object. Numbers are gray values, palette indices, or colors of
VOC's palette (CVAT).

Shapes:
    N        objects of an image
    mask     [H, W, N] bool
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrcnn.data.class_names import is_background
from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, Where
from mrcnn.data.formats.image_files import read_colors, read_values
from mrcnn.data.image_reading import UnreadableImage, read_stored_values

FOLDERS = (  # of objects and classes; older versions of labelme2voc have NumPy files in the first two
    ("SegmentationObject", "SegmentationClass"),
    ("SegmentationObjectPNG", "SegmentationClassPNG"),
)
BORDER = 255
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_palette() -> np.ndarray:
    """[256] int32, the colors 0xRRGGBB of VOC's palette: the bits of the index in rotation, from the highest bit down.

    Example:
        >>> [f"{color:06x}" for color in voc_palette()[[0, 1, 2, 255]]]
        ['000000', '800000', '008000', 'e0e0c0']
    """
    index = np.arange(256)
    colors = np.zeros(256, np.int32)
    for shift, first_bit in ((16, 0), (8, 1), (0, 2)):
        for turn in range(3):
            colors |= ((index >> (3 * turn + first_bit) & 1) << (7 - turn + shift)).astype(np.int32)
    return colors


@dataclass(frozen=True)
class VocMasks:
    """The masks of a dataset.

    Attributes:
        objects: folder with the numbers of the objects.
        classes: folder with the classes; None: there is none, and classes are those of the XML files.
        names: {number of a class: name} without the background.
        colors: {number of a class: 0xRRGGBB} where classes are stored as colors, otherwise empty.
    """

    objects: Path
    classes: Path | None
    names: dict[int, str]
    colors: dict[int, int]

    def stems(self) -> list[str]:
        """Names, without ending, of the images that have a mask."""
        return sorted(file.stem for file in self.objects.glob("*.png") if not file.name.startswith("."))

    def read(self, stem: str, size: tuple[int, int], where: Where) -> tuple[np.ndarray, list[int], list[str | None]]:
        """Reads the objects of an image.

        Args:
            stem: name of the image, without ending.
            size: (height, width) of the image, pixels.
            where: for errors.

        Returns:
            masks: [H, W, N] bool.
            numbers: N, of the objects, increasing.
            names: N, of their classes; None without a folder of classes.

        Raises:
            BrokenAnnotation: a file isn't an image, has another size, or an object has no class.
        """
        file = self.objects / f"{stem}.png"
        values = _as_numbers(file, where, size)
        numbers = np.setdiff1d(values, [0, BORDER])
        limits.check_masks(len(numbers), *size, where)
        masks = np.moveaxis(values == numbers[:, None, None], 0, -1)
        if self.classes is None:
            return masks, numbers.tolist(), [None] * len(numbers)
        file = self.classes / f"{stem}.png"
        table = {color: number for number, color in self.colors.items()}
        classes = read_colors(file, where, size) if table else _as_numbers(file, where, size)
        names = []
        for i, number in enumerate(numbers.tolist()):
            shown, counts = np.unique(classes[masks[..., i]], return_counts=True)
            most = int(shown[counts.argmax()])
            name = self.names.get(table.get(most, -1) if table else most)
            if name is None:
                got = f"the color #{most:06x}" if table else most
                expected = f"one of the classes {', '.join(self.names.values())}"
                raise BrokenAnnotation(*where, f"class of object {number} in {file}", expected, got)
            names.append(name)
        return masks, numbers.tolist(), names


def find_masks(folder: Path) -> VocMasks | None:
    """The masks of a dataset in a folder; None if it has none."""
    for objects, classes in FOLDERS:
        if any((folder / objects).glob("*.png")):
            names, colors = _class_names(folder)
            has_classes = any((folder / classes).glob("*.png"))
            return VocMasks(folder / objects, folder / classes if has_classes else None, names, colors)
    return None


def _class_names(folder: Path) -> tuple[dict[int, str], dict[int, int]]:
    """({number: name}, {number: color}) of the classes, the latter empty where there is no list of colors."""
    for name in ("labelmap.txt", "class_names.txt"):
        file = folder / name
        if file.is_file():
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            lines = [line for line in lines if line and not line.startswith("#")]
            break
    else:
        return dict(enumerate(VOC_CLASSES, 1)), {}
    colors = {}
    if name == "labelmap.txt":
        for i, line in enumerate(lines):
            lines[i], colors[i] = _labelmap_line(line, (file, f"line {i + 1}"))
    names = {i: line for i, line in enumerate(lines) if not is_background(line) and line != "__ignore__"}
    return names, {i: color for i, color in colors.items() if i in names}


def _labelmap_line(line: str, where: Where) -> tuple[str, int]:
    """(name, 0xRRGGBB) of "name:red,green,blue:parts:actions"."""
    cells = line.rsplit(":", 3)
    color = cells[1].split(",") if len(cells) == 4 else []
    if len(color) != 3 or not all(text.strip().isdecimal() and int(text) < 256 for text in color):
        raise BrokenAnnotation(*where, "labelmap", "name:red,green,blue:parts:actions", line)
    red, green, blue = map(int, color)
    return cells[0].strip(), red << 16 | green << 8 | blue


def _as_numbers(file: Path, where: Where, size: tuple[int, int]) -> np.ndarray:
    """[H, W] int of an image of numbers: its values, or of a color image their places in VOC's palette."""
    if not _has_colors(file):
        return read_values(file, where, size).astype(np.int32)
    colors = read_colors(file, where, size)
    shown, place = np.unique(colors, return_inverse=True)
    numbers = {color: i for i, color in enumerate(voc_palette().tolist())}
    unknown = [color for color in shown.tolist() if color not in numbers]
    if unknown:
        raise BrokenAnnotation(*where, f"{file}", "colors of VOC's palette", f"#{unknown[0]:06x}")
    return np.array([numbers[color] for color in shown.tolist()])[place].reshape(colors.shape)


def _has_colors(file: Path) -> bool:
    """Whether an image is stored in colors; False for a file that isn't an image, which the reader reports."""
    try:
        return read_stored_values(file).shape[2:] in ((3,), (4,))
    except (OSError, UnreadableImage):
        return False
