"""One PNG whose pixel values are the objects' numbers: Penn-Fudan's pedestrians, and any set of that form.

    dataset = PennFudanDataset()
    dataset.load_penn_fudan("PennFudanPed")
    dataset.prepare()

What lies in the folders:
    PNGImages/<name>.png       the image
    PedMasks/<name>_mask.png   of the image's size: 0 is background, 1, 2, ... are the objects (grey or palette PNG)

Shapes:
    N     objects of an image
    mask  [H, W, N] bool
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.image_files import check_size, choose, image_files, read_values
from mrcnn.data.formats.parsing import BrokenAnnotation, image_size, parse_all
from mrcnn.data.formats.recognition import Format, OpenOptions, Place, only_class


class IdPngDataset(Dataset):
    """Images with one mask file each. `load_id_pngs` as often as needed, then `prepare()`."""

    def load_id_pngs(self, images_dir, masks_dir, mask_suffix="", source="id_png", class_name="object", ignore=(),
                     skip_broken=False, image_names=None):  # fmt: skip
        """Adds the images of a folder; the mask of `<name>.jpg` is `<name><mask_suffix>.png` in the other folder.

        Args:
            images_dir, masks_dir: the two folders.
            mask_suffix: str, what a mask's name has behind the image's.
            source: str, see `Dataset.add_class`.
            class_name: str, the class of all objects.
            ignore: values that are no objects, besides 0; such as 255, which other sets have for borders.
            skip_broken: bool. Leave broken images out and warn, instead of raising.
            image_names: names of the images that are wanted, without ".png"; None: all.

        Raises:
            FileNotFoundError: a folder isn't there, has no image, or not all that are wanted.
            BrokenAnnotation: says folder, entry, field, what was expected, what is there. So for an image without mask
                and for a mask without image.
        """
        images = {file.stem: file for file in image_files(images_dir)}
        masks = {file.stem: file for file in image_files(masks_dir)}
        found = sorted(images.keys() | {_image_of(stem, mask_suffix) for stem in masks} - {None})
        if not found:
            raise FileNotFoundError(f"{images_dir} and {masks_dir} have no images.")

        def parse(name):
            where = (images_dir, name)
            if name not in images:
                raise BrokenAnnotation(*where, "image", f"an image for the mask {name}{mask_suffix}", "nothing there")
            if name + mask_suffix not in masks:
                expected = f"to find {name}{mask_suffix}.png in {masks_dir}"
                raise BrokenAnnotation(*where, "mask", expected, "nothing there")
            mask, size = masks[name + mask_suffix], image_size(images[name], where)
            check_size(mask, where, image_size(mask, where), size)
            return name, images[name], size, str(mask)

        names = choose(found, image_names, images_dir)
        self.add_class(source, 1, class_name)
        for name, image, (height, width), mask in parse_all(names, parse, skip_broken):
            self.add_image(source, name, str(image), height=height, width=width, mask=mask, ignore=(0, *ignore))

    def load_mask(self, image_id):
        """[H, W, N] bool, in the order of the values, and [N] int32 class ids."""
        info = self.image_info[image_id]
        if "mask" not in info:
            return super().load_mask(image_id)
        values = read_values(info["mask"], (info["path"], info["id"]), (info["height"], info["width"]))
        objects = np.setdiff1d(values, np.array(info["ignore"]))
        class_id = self.map_source_class_id(f"{info['source']}.1")
        layers = np.moveaxis(values == objects[:, None, None], 0, -1)
        return layers, np.full(len(objects), class_id, np.int32)


class PennFudanDataset(IdPngDataset):
    """The Penn-Fudan set of pedestrians. `load_penn_fudan` as often as needed, then `prepare()`."""

    def load_penn_fudan(self, folder, source="penn_fudan", class_name="person", skip_broken=False, image_names=None):
        """Adds the images of the set.

        Args:
            folder: the folder that holds PNGImages and PedMasks, or the one above it.
            source, class_name, skip_broken, image_names: as for `load_id_pngs`.

        Raises:
            Exception: those of `load_id_pngs`.
        """
        folder = Path(folder)
        if not (folder / "PNGImages").is_dir() and (folder / "PennFudanPed").is_dir():
            folder = folder / "PennFudanPed"
        self.load_id_pngs(
            folder / "PNGImages", folder / "PedMasks", "_mask", source, class_name, (), skip_broken, image_names
        )


# ---- Recognising and opening -----------------------------------------------------------------------------------------
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


def _image_of(stem, mask_suffix):
    """The name of the image that a mask is of; None if it doesn't end like a mask."""
    return stem[: len(stem) - len(mask_suffix)] if stem.endswith(mask_suffix) else None
