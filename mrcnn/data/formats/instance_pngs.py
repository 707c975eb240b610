"""One PNG for each object: the nuclei of the Data Science Bowl 2018, and similar datasets.

    dataset = NucleiDataset()
    dataset.load_nuclei("nuclei/stage1_train")
    dataset.prepare()

The folder:
    <id>/images/<id>.png   the image
    <id>/masks/*.png       one file for each object, of the image's size; its pixels are those that aren't 0
A folder <id> without masks/ is an image that isn't annotated, as in stage1_test; one whose masks/ is empty shows no
object. `load_mask` returns no object for either; `image_info[i]["masks"]` is None for the first.

Shapes:
    N     objects of an image that have a pixel
    mask  [H, W, N] bool
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, size_of_masks, upright_size
from mrcnn.data.formats.image_files import choose, image_files, read_values
from mrcnn.data.formats.parsing import parse_all
from mrcnn.data.formats.recognition import FOLDERS_READ, Format, OpenOptions, Place, only_class
from mrcnn.data.user_warnings import warn


class NucleiDataset(UprightDataset):
    """Images with one mask file for each object. Call `load_nuclei` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("images/a.png", "masks/1.png", "masks/2.png"):
        ...         (Path(folder) / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        ...         Image.fromarray(np.eye(4, dtype=np.uint8)).save(Path(folder) / "a" / name)
        ...     dataset = NucleiDataset()
        ...     dataset.load_nuclei(folder)
        ...     dataset.prepare()
        ...     masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, class_ids.tolist(), dataset.class_names
        ((4, 4, 2), [1, 1], ['BG', 'nucleus'])
    """

    @names_file
    def load_nuclei(
        self,
        folder: str | Path,
        source: str = "nuclei",
        class_name: str = "nucleus",
        skip_broken: bool = False,
        image_names: Iterable[str] | None = None,
    ) -> None:
        """Adds the images of a folder.

        Args:
            folder: the folder that holds a folder for each image.
            source: see `Dataset.add_class`.
            class_name: the class of all objects.
            skip_broken: skip broken images with a warning, instead of raising.
            image_names: names of the images' folders wanted; None: all.

        Raises:
            FileNotFoundError: no such folder, no image in it, or one that is wanted is missing.
            BrokenAnnotation: an entry is invalid. The message names folder, entry, field, expected and actual value.
        """
        folder = Path(folder)
        names = choose(image_folders(folder), image_names, folder)
        self.add_class(source, 1, class_name)
        parsed = parse_all(names, lambda name: _parse_image(folder, name), skip_broken, lambda name: (folder, name))
        for name, image, (height, width), masks in parsed:
            self.add_image(source, name, str(image), height=height, width=width, masks=masks)
        unknown = [name for name, *_, masks in parsed if masks is None]
        if 0 < len(unknown) < len(parsed):
            shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
            warn(
                f"{folder}: {len(unknown)} of {len(parsed)} images have no masks folder and count as images without"
                f" an object: {shown}. Name the others in image_names to leave them out."
            )

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Loads the masks of an image.

        Returns:
            masks: [H, W, N] bool, in the order of the files' names. Empty ones are left out.
            class_ids: [N] int32.
        """
        info = self.image_info[image_id]
        if "masks" not in info:
            return super().load_mask(image_id)
        size, where = (info["height"], info["width"]), (info["path"], info["id"])
        files = info["masks"] or []
        layers = np.zeros((len(files), *size), bool)
        for layer, file in zip(layers, files):
            np.not_equal(read_values(file, where, size), 0, out=layer)
        layers = layers[layers.any(axis=(1, 2))]
        class_id = self.map_source_class_id(f"{info['source']}.1")
        return np.moveaxis(layers, 0, -1), np.full(len(layers), class_id, np.int32)


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    return [place.path] if any(map(_is_image_folder, place.folders[:FOLDERS_READ])) else []


def _is_image_folder(place: Place) -> bool:
    images = place.inside("images")
    return bool(
        images and images.entries and (place.inside("masks") or Path(images.entries[0]).stem == place.path.name)
    )


def _open(path: Path, options: OpenOptions) -> NucleiDataset:
    dataset = NucleiDataset()
    class_name = only_class(path, options, default="nucleus")
    dataset.load_nuclei(path, class_name=class_name, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="nuclei",
    signs="folders <id>/images and <id>/masks, or <id>/images/<id>.png",
    loader="NucleiDataset().load_nuclei(folder)",
    find=_find,
    open=_open,
)


# ---- Files -----------------------------------------------------------------------------------------------------------


def image_folders(folder: str | Path) -> list[str]:
    """Names of the folders of images in a folder: all of its folders except hidden ones and those that macOS adds.

    Raises:
        FileNotFoundError: there is no such folder, or none in it has an images/.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with <id>/images and <id>/masks.")
    found = sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "__")))
    if not any((folder / name / "images").is_dir() for name in found):
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") or "no folder"
        raise FileNotFoundError(f"{folder} has {shown}; expected folders <id> with <id>/images and <id>/masks.")
    return found


def _parse_image(folder: Path, name: str) -> tuple[str, Path, tuple[int, int], list[str] | None]:
    """(name, image file, (height, width), mask files or None)."""
    where = (folder, name)
    if not (folder / name / "images").is_dir():
        raise BrokenAnnotation(*where, "images", "a folder with the image", "nothing there")
    images = image_files(folder / name / "images")
    if len(images) != 1:
        raise BrokenAnnotation(*where, "images", "one image file", [f.name for f in images])
    if not (folder / name / "masks").is_dir():
        return name, images[0], upright_size(images[0], where), None
    masks = image_files(folder / name / "masks")
    size = size_of_masks(images[0], masks, where)
    limits.check_masks(len(masks), *size, where)
    return name, images[0], size, [str(mask) for mask in masks]
