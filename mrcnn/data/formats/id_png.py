"""One PNG for each image whose pixel values are object numbers: the Penn-Fudan pedestrians, and similar datasets.

    dataset = PennFudanDataset()
    dataset.load_penn_fudan("PennFudanPed")
    dataset.prepare()

The folders:
    PNGImages/<name>.png       the image
    PedMasks/<name>_mask.png   of the image's size: 0 is background, 1, 2, ... are the objects (gray or palette)

Shapes:
    N     objects of an image
    mask  [H, W, N] bool
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats import limits
from mrcnn.data.formats.broken import BrokenAnnotation, MissingPhoto, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset, size_of_masks
from mrcnn.data.formats.image_files import choose, image_files, read_values
from mrcnn.data.formats.parsing import parse_all
from mrcnn.data.formats.recognition import Format, OpenOptions, Place, only_class


class IdPngDataset(UprightDataset):
    """Images with one mask file each. Call `load_id_pngs` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.diag([1, 1, 2, 2]).astype(np.uint8)).save(Path(folder) / "a_mask.png")
        ...     Image.new("L", (4, 4)).save(Path(folder) / "a.png")
        ...     dataset = IdPngDataset()
        ...     dataset.load_id_pngs(folder, folder, "_mask", class_name="cell", image_names=["a"])
        ...     dataset.prepare()
        ...     masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, class_ids.tolist(), dataset.class_names
        ((4, 4, 2), [1, 1], ['BG', 'cell'])
    """

    @names_file
    def load_id_pngs(self, images_dir: str | Path, masks_dir: str | Path, mask_suffix: str = "",
                     source: str = "id_png", class_name: str = "object", ignore: Sequence[int] = (),
                     skip_broken: bool = False, image_names: Iterable[str] | None = None) -> None:  # fmt: skip
        """Adds the images of a folder; the mask of `<name>.jpg` is `<name><mask_suffix>.png` in the other folder.

        Args:
            images_dir, masks_dir: the two folders.
            mask_suffix: what follows the image's name in a mask's name.
            source: see `Dataset.add_class`.
            class_name: the class of all objects.
            ignore: values besides 0 that aren't objects, such as 255 if it marks borders.
            skip_broken: skip broken images with a warning, instead of raising.
            image_names: names of the images wanted, without ".png"; None: all.

        Raises:
            FileNotFoundError: a folder isn't there, has no image, or lacks one that is wanted.
            BrokenAnnotation: an entry is invalid. The message names folder, entry, field, expected and actual value.
                An image without a mask is invalid, and so is a mask without an image.
        """
        images = {file.stem: file for file in image_files(images_dir)}
        masks = {file.stem: file for file in image_files(masks_dir)}
        found = sorted(images.keys() | {_image_of(stem, mask_suffix) for stem in masks} - {None})
        if not found:
            raise FileNotFoundError(f"{images_dir} and {masks_dir} have no images.")

        def parse(name: str) -> tuple[str, Path, tuple[int, int], str]:
            where = (images_dir, name)
            if name not in images:
                raise MissingPhoto(*where, "image", Path(images_dir) / f"{name}.png")
            if name + mask_suffix not in masks:
                expected = f"to find {name}{mask_suffix}.png in {masks_dir}"
                raise BrokenAnnotation(*where, "mask", expected, "nothing there")
            mask = masks[name + mask_suffix]
            size = size_of_masks(images[name], [mask], where)
            return name, images[name], size, str(mask)

        names = choose(found, image_names, images_dir)
        self.add_class(source, 1, class_name)
        for name, image, (height, width), mask in parse_all(names, parse, skip_broken, lambda name: (images_dir, name)):
            self.add_image(source, name, str(image), height=height, width=width, mask=mask, ignore=(0, *ignore))

    @names_image
    def load_mask(self, image_id: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Loads the masks of an image.

        Returns:
            masks: [H, W, N] bool, in the order of their values.
            class_ids: [N] int32.
        """
        info = self.image_info[image_id]
        if "mask" not in info:
            return super().load_mask(image_id)
        values = read_values(info["mask"], (info["path"], info["id"]), (info["height"], info["width"]))
        objects = np.setdiff1d(values, np.array(info["ignore"]))
        limits.check_masks(len(objects), *values.shape, (info["mask"], "the file"))
        class_id = self.map_source_class_id(f"{info['source']}.1")
        layers = np.moveaxis(values == objects[:, None, None], 0, -1)
        return layers, np.full(len(objects), class_id, np.int32)


class PennFudanDataset(IdPngDataset):
    """The Penn-Fudan pedestrians. Call `load_penn_fudan` once or more, then `prepare`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("PNGImages/a.png", "PedMasks/a_mask.png"):
        ...         (Path(folder) / name).parent.mkdir()
        ...         Image.fromarray(np.eye(4, dtype=np.uint8)).save(Path(folder) / name)
        ...     dataset = PennFudanDataset()
        ...     dataset.load_penn_fudan(folder)
        >>> dataset.prepare()
        >>> dataset.num_images, dataset.class_names
        (1, ['BG', 'person'])
    """

    def load_penn_fudan(
        self,
        folder: str | Path,
        source: str = "penn_fudan",
        class_name: str = "person",
        skip_broken: bool = False,
        image_names: Iterable[str] | None = None,
    ) -> None:
        """Adds the images of the dataset.

        Args:
            folder: the folder that holds PNGImages and PedMasks, or the one above it.
            source, class_name, skip_broken, image_names: as in `load_id_pngs`.

        Raises:
            Exception: those of `load_id_pngs`.
        """
        folder = Path(folder)
        if not (folder / "PNGImages").is_dir() and (folder / "PennFudanPed").is_dir():
            folder = folder / "PennFudanPed"
        self.load_id_pngs(
            folder / "PNGImages", folder / "PedMasks", "_mask", source, class_name, (), skip_broken, image_names
        )


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    for folder in (place, place.inside("PennFudanPed")):
        if folder and folder.inside("PNGImages") and folder.inside("PedMasks"):
            return [folder.path]
    return []


def _open(path: Path, options: OpenOptions) -> PennFudanDataset:
    dataset = PennFudanDataset()
    class_name = only_class(path, options, default="person")
    dataset.load_penn_fudan(path, class_name=class_name, skip_broken=options.skip_broken)
    return dataset


FORMAT = Format(
    name="Penn-Fudan",
    signs="folders PNGImages and PedMasks",
    loader="PennFudanDataset().load_penn_fudan(folder)",
    find=_find,
    open=_open,
)


# ---- Names -----------------------------------------------------------------------------------------------------------


def _image_of(stem: str, mask_suffix: str) -> str | None:
    """The name of a mask's image; None if the name doesn't end like a mask's."""
    return stem[: len(stem) - len(mask_suffix)] if stem.endswith(mask_suffix) else None
