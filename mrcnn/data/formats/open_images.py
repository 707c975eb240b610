"""Open Images V5-V7: masks of chosen classes, from the files that its website offers.

    dataset = OpenImagesDataset()
    dataset.load_open_images("open_images", ["Pumpkin"])
    dataset.prepare()

The folder, as downloaded (or as FiftyOne sorts it: data/, labels/masks/, labels/segmentations.csv):
    class-descriptions-boxable.csv                 LabelName,DisplayName: /m/05zsy,Pumpkin
    train-annotations-object-segmentation.csv      a line an object: MaskPath,ImageID,LabelName,...
    train-masks-0/ ..., or masks/                  the PNGs of MaskPath, unpacked; other than 0 is the object
    train/, or images/                             photos <ImageID>.jpg
Photos and masks are also found in folders one level deeper. A mask mostly has other sides than its photo (which may be
the original, or one of 1024 pixels); it is resized to it.

Not every object of a class has a mask: its authors left out groups and uncertain objects.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool, of the photo's size
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mrcnn.data.formats import limits
from mrcnn.data.formats.access import current_access
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, Where, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, size_for_annotation
from mrcnn.data.formats.image_files import SUFFIXES, read_values
from mrcnn.data.formats.parsing import image_header, image_size, name_classes, parse_all, read_csv
from mrcnn.data.formats.recognition import Format, OpenOptions, Place
from mrcnn.data.user_warnings import warn

FILE_ENDINGS = ("annotations-object-segmentation.csv", "segmentations.csv")
ANNOTATIONS = (f"*{FILE_ENDINGS[0]}", FILE_ENDINGS[1])
DESCRIPTIONS = (  # the last one has labels without names
    "*class-descriptions-boxable.csv",
    "*class-descriptions*.csv",
    "classes.csv",
    "segmentation_classes.csv",
)
COLUMNS = ("MaskPath", "ImageID", "LabelName")
STRETCH = 0.02  # how far a mask's sides may be from the photo's proportions; rounding makes some difference


class OpenImagesDataset(UprightDataset):
    """Photos and masks of some classes. Call `load_open_images` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images/0a.jpg", "masks/0a_m.png"):
        ...         (Path(folder) / name).parent.mkdir()
        ...         Image.new("L", (8, 6), 255).save(Path(folder) / name)
        ...     _ = (Path(folder) / "class-descriptions-boxable.csv").write_text("/m/05zsy,Pumpkin")
        ...     rows = "MaskPath,ImageID,LabelName\\n0a_m.png,0a,/m/05zsy"
        ...     _ = (Path(folder) / "train-annotations-object-segmentation.csv").write_text(rows)
        ...     dataset = OpenImagesDataset()
        ...     dataset.load_open_images(folder, ["Pumpkin"])
        ...     dataset.prepare()
        ...     masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, dataset.class_names
        ((6, 8, 1), ['BG', 'Pumpkin'])
    """

    @names_file
    def load_open_images(self, folder: str | Path, classes: Sequence[str] | str, images_dir: str | Path | None = None,
                         masks_dir: str | Path | None = None, annotations: str | Path | None = None,
                         descriptions: str | Path | None = None, source: str = "open_images",
                         skip_broken: bool = False, limit: int | None = None) -> None:  # fmt: skip
        """Adds the photos that have a mask of one of the classes.

        Args:
            folder: the folder that holds everything for which no other argument is given.
            classes: names ("Pumpkin") or labels ("/m/05zsy") of the classes wanted, in the order of their ids 1, 2, ...
            images_dir, masks_dir: folders of the photos and of the masks; None: see above.
            annotations: CSV of the masks; None: the only one in the folder. Needed if the folder has several.
            descriptions: CSV of the classes' names; None: the one in the folder.
            source: see `Dataset.add_class`.
            skip_broken: skip broken images with a warning, instead of raising. Broken are also those whose photo
                or mask wasn't downloaded.
            limit: int, the most photos to add; None: all.

        Raises:
            FileNotFoundError: a file or folder isn't there.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        folder = Path(folder)
        annotations = _find_file(folder, ANNOTATIONS, "annotations", annotations)
        names = class_labels(_find_file(folder, DESCRIPTIONS, "descriptions", descriptions), classes)
        by_image = _read_annotations(annotations, names)
        subset = annotations.name.split("-annotations")[0]
        photos = _folders(folder, (subset, "images", "data"), images_dir)
        masks = _folders(folder, (f"{subset}-masks*", "masks", "labels/masks"), masks_dir)

        def parse(item: tuple[str, list]) -> tuple:
            return _parse_image(*item, photos, masks, annotations)

        parsed = parse_all(by_image.items(), parse, skip_broken, lambda item: (annotations, f"image {item[0]}"), limit)
        ids = name_classes(self, source, (), list(names.values()), annotations)
        for image_id, photo, (height, width), objects in parsed:
            own = [(ids[names[label]], str(mask)) for label, mask in objects]
            self.add_image(source, image_id, str(photo), height=height, width=width, objects=own)

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """[H, W, N] bool, in the order of the file, and [N] int32 class ids. Masks without a pixel are left out."""
        info = self.image_info[image_id]
        if "objects" not in info:
            return super().load_mask(image_id)
        height, width, objects = info["height"], info["width"], info["objects"]
        masks, class_ids = np.zeros((len(objects), height, width), bool), np.zeros(len(objects), np.int32)
        for i, (own_id, file) in enumerate(objects):
            masks[i] = resize(read_values(file, (info["path"], info["id"])) != 0, height, width)
            class_ids[i] = self.map_source_class_id(f"{info['source']}.{own_id}")
        kept = masks.any(axis=(1, 2))
        return np.moveaxis(masks[kept], 0, -1), class_ids[kept]


def resize(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [h, w] bool in another size, [height, width] bool: what is covered by half or more."""
    if mask.shape == (height, width):
        return mask
    way = cv2.INTER_AREA if height < mask.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=way) >= 0.5


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    labels = place.inside("labels")  # of FiftyOne
    return place.files(*FILE_ENDINGS) + (labels.files("segmentations.csv") if labels else [])


def _open(path: Path, options: OpenOptions) -> OpenImagesDataset:
    classes = options.classes or options.names
    if not classes:
        raise ValueError(
            f"{path} is of Open Images, which has 350 classes. Those wanted must be named:"
            " open_dataset(path, classes=['Pumpkin'])."
        )
    folder = path.parent.parent if path.parent.name == "labels" else path.parent
    dataset = OpenImagesDataset()
    dataset.load_open_images(folder, classes, annotations=path, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="Open Images",
    signs="*-annotations-object-segmentation.csv, or labels/segmentations.csv",
    loader="OpenImagesDataset().load_open_images(folder, classes)",
    find=_find,
    open=_open,
)


# ---- Files -----------------------------------------------------------------------------------------------------------
def _find_file(folder: Path, patterns: Sequence[str], argument: str, given: str | Path | None) -> Path:
    """The file that is given, or the one in the folder, one level deeper, or, for class names, in the folder above."""
    if given is not None:
        return Path(given)
    above = folder.resolve().parent if argument == "descriptions" else None  # where each split has a folder
    for base in (folder, above):
        for pattern in patterns if base else ():
            found = sorted([*base.glob(pattern), *(folder.glob(f"*/{pattern}") if base is folder else ())])
            if argument == "annotations" and len(found) > 1:
                names = ", ".join(str(f.relative_to(folder)) for f in found)
                raise FileNotFoundError(f"{folder} has {names}; say which one in {argument}=.")
            if found:
                return found[0]
    raise FileNotFoundError(f"{folder} has no {' or '.join(patterns)}; download it, or say where it is in {argument}=.")


def _folders(folder: Path, names: Sequence[str], given: str | Path | None) -> list[Path]:
    """The folders that may have images or masks: those of such names, or the one given, and the folders in them."""
    tops = (
        [Path(given)] if given is not None else [*(top for name in names for top in sorted(folder.glob(name))), folder]
    )
    tops = [top for top in tops if top.is_dir()]
    if not tops:
        raise FileNotFoundError(f"{given or folder}: no such folder.")
    inside = [place for top in tops for place in sorted(top.iterdir()) if place.is_dir()]
    return list(dict.fromkeys([*tops, *inside]))


def _first_of(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    allows = current_access().allows
    paths = (place / name for name in names for place in folders)
    return next((path for path in paths if path.is_file() and allows(path, *folders)), None)


# ---- Parts of the files ----------------------------------------------------------------------------------------------
def class_labels(path: str | Path, classes: Sequence[str] | str) -> dict[str, str]:
    """{label: name} of the classes wanted."""
    names = {}
    for line, row in read_csv(path):
        if len(row) != 2:
            raise BrokenAnnotation(path, f"line {line}", "columns", "LabelName,DisplayName", row)
        names[row[0]] = row[1].strip()
    names.pop("LabelName", None)  # the header, which not all versions have
    labels = {name.casefold(): label for label, name in reversed(names.items())}
    wanted = {}
    for name in [classes] if isinstance(classes, str) else classes:
        label = name if name in names else labels.get(name.casefold())
        if label is None:
            near = difflib.get_close_matches(name.casefold(), labels, n=5)
            got = [names[labels[one]] for one in near] or f"{len(names)} others"
            raise BrokenAnnotation(path, "the file", "DisplayName", f"to find {name!r}", got)
        wanted[label] = names[label]
    return wanted


def _read_annotations(path: Path, names: dict[str, str]) -> dict[str, list[tuple[str, str]]]:
    """{image id: [(label, mask's file name)]} of the classes wanted, in the order of the file."""
    by_image, rows = defaultdict(list), read_csv(path)
    _, header = next(rows, (1, []))
    if not set(COLUMNS) <= set(header):
        raise BrokenAnnotation(path, "line 1", "columns", ", ".join(COLUMNS), header)
    mask, image, label = (header.index(column) for column in COLUMNS)
    seen = set()
    for line, row in rows:
        if len(row) <= max(mask, image, label):
            raise BrokenAnnotation(path, f"line {line}", "columns", f"{len(header)} cells", row)
        if row[label] in names:
            by_image[row[image]].append((row[label], row[mask]))
            seen.add(row[label])
    missing = ", ".join(f"{name} ({label})" for label, name in names.items() if label not in seen)
    if not seen:
        raise BrokenAnnotation(path, "the file", "LabelName", f"masks of {missing}", "none")
    if missing:
        warn(f"{path} has no masks of {missing}.")
    return by_image


def _size_of_photo(photo: Path, mask: Path | None, where: Where) -> tuple[int, int]:
    """(height, width) of the photo, upright or as stored, whichever has the proportions of a mask, if there is one."""
    header, stated = image_header(photo, where), (None, None)
    if mask is not None and header.stored != header.upright:
        mask_height, mask_width = image_size(mask, where)
        stated = max(header.stored, header.upright, key=lambda size: (size[0] > size[1]) == (mask_height > mask_width))
    return size_for_annotation(header, where, stated, tools_turn=False)


def _parse_image(
    image_id: str, rows: list[tuple[str, str]], photos: list[Path], masks: list[Path], annotations: Path
) -> tuple[str, Path, tuple[int, int], list[tuple[str, Path]]]:
    """(image id, photo, (height, width), [(label, mask file)])."""
    where = (annotations, f"image {image_id}")
    photo = _first_of([image_id + suffix for suffix in (".jpg", *SUFFIXES)], photos)
    if photo is None:
        raise MissingPhoto(*where, "photo", photos[0] / f"{image_id}.jpg")
    files = [_first_of([name], masks) for _, name in rows]
    height, width = _size_of_photo(photo, next(filter(None, files), None), where)
    limits.check_masks(len(rows), height, width, where)
    objects = []
    for (label, name), file in zip(rows, files):
        if file is None:
            raise BrokenAnnotation(*where, "MaskPath", f"to find {name} in {masks[0]}", "nothing there")
        mask_height, mask_width = image_size(file, where)
        expected = mask_width * height / width
        if abs(mask_height - expected) > max(2, STRETCH * expected):
            proportions = f"a mask {name} of the photo's proportions, {height} x {width} (height x width)"
            raise BrokenAnnotation(*where, "MaskPath", proportions, f"{mask_height} x {mask_width}")
        objects.append((label, file))
    return image_id, photo, (height, width), objects
