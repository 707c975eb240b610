"""Pascal VOC: an XML file with boxes for each image, and masks as images, as of VOC2007-2012, labelImg, CVAT, Roboflow.

    dataset = VocDataset()
    dataset.load_voc("VOCdevkit/VOC2012", subset="train")    # Annotations/, JPEGImages/, ImageSets/Main/train.txt
    dataset.load_voc("my/photos")                            # *.xml beside the images, as labelImg saves them
    dataset.load_voc("my/export")                            # SegmentationObject/, SegmentationClass/, JPEGImages/
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
Pixels are counted from 1, and xmax and ymax belong to the box. What reaches beyond the image is cut off. Boxes of an
object's parts (`part`: head, hand, foot) aren't objects.

Where there is a folder SegmentationObject, the masks are read from it, see `voc_masks`, and only images that have one
are added. Else the mask of an object is its `polygon`, which Roboflow and Labelbox write beside the box, or the whole
box.

Shapes:
    N     objects of an image
    box   (y1, x1, y2, x2) int, pixels from 0; y2 and x2 exclusive
    mask  [H, W, N] bool
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.data.formats import rasterize
from mrcnn.data.formats.broken import BrokenAnnotation, names_file, names_image
from mrcnn.data.formats.exif import UprightDataset
from mrcnn.data.formats.parsing import name_classes, parse_all, warn_of_boxes
from mrcnn.data.formats.photo_folder import PhotoFolder
from mrcnn.data.formats.recognition import NAMES_READ, Format, OpenOptions, Place, first_bytes, images_folder_of
from mrcnn.data.formats.voc_files import (
    SPLITS_FOLDERS,
    XML_FOLDERS,
    XML_INNER,
    VocLayout,
    first_image_names,
    parse_mask,
    parse_xml,
)
from mrcnn.data.formats.voc_masks import FOLDERS, VocMasks, find_masks


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
                 subset: str | None = None, masks: bool | None = None) -> None:  # fmt: skip
        """Adds the images of a folder of XML files or masks.

        Args:
            annotations_dir: the folder of the *.xml, the one above, or one XML file.
            images_dir: folder of the images; None: JPEGImages or images beside the folder, if there is one, else the
                folder itself.
            source: see `Dataset.add_class`.
            classes: class names, in the order of their ids 1, 2, ...; None: for masks those that voc_masks lists, for
                boxes those found, sorted. Give it, or use `open_splits`, if training and validation files may have
                different ones. Objects of other classes are left out, for boxes with a warning that counts them.
            skip_broken: skip broken images with a warning, instead of raising.
            keep_difficult: whether objects marked as difficult to recognize count.
            subset: "train", "val", ...: the images that ImageSets/Main/<subset>.txt names, or for masks
                ImageSets/Segmentation/<subset>.txt; None: all.
            masks: whether the masks in SegmentationObject are read; False: boxes are masks. None: if there are none,
                boxes are masks, with a warning.

        Raises:
            FileNotFoundError: no such file or folder, or none in it.
            BrokenAnnotation: an entry is invalid. The message names file, entry, field, expected and actual value.
        """
        layout = VocLayout.of(Path(annotations_dir))
        found = None if masks is False else find_masks(layout.top)
        if masks and found is None:
            raise FileNotFoundError(f"{layout.top} has no PNG in {FOLDERS[0][0]}; expected one an image.")
        photos = PhotoFolder(layout.images() if images_dir is None else images_dir)
        first = len(self.image_info)
        if found is None:
            self._add_boxes(layout.xml_files(subset), photos, source, classes, skip_broken, keep_difficult, layout)
            if masks is None:
                outlines = [outline for info in self.image_info[first:] for outline in info["outlines"]]
                warn_of_boxes(layout.top, outlines.count(None), len(outlines))
        else:
            self._add_masks(layout, found, photos, source, classes, skip_broken, keep_difficult, subset)

    def _add_boxes(self, files: list[Path], photos: PhotoFolder, source: str, classes: Sequence[str] | None,
                   skip_broken: bool, keep_difficult: bool, layout: VocLayout) -> None:  # fmt: skip
        parsed = parse_all(files, lambda file: parse_xml(file, photos), skip_broken)
        if not keep_difficult:
            parsed = [(*image, [thing for thing in objects if not thing[2]]) for *image, objects in parsed]
        shown = [thing[0] for *_, objects in parsed for thing in objects]
        ids = name_classes(self, source, shown, classes, layout.top)
        for file, photo, (height, width), objects in parsed:
            kept = [thing for thing in objects if thing[0] in ids]
            boxes, outlines = [(ids[name], box) for name, box, *_ in kept], [thing[3] for thing in kept]
            self.add_image(source, file.stem, str(photo), height=height, width=width, boxes=boxes, outlines=outlines)

    def _add_masks(self, layout: VocLayout, masks: VocMasks, photos: PhotoFolder, source: str,
                   classes: Sequence[str] | None, skip_broken: bool, keep_difficult: bool,
                   subset: str | None) -> None:  # fmt: skip
        stems = layout.stems_with_masks(masks, subset)
        needs_xml = masks.classes is None or not keep_difficult
        parsed = parse_all(
            stems,
            lambda stem: parse_mask(stem, masks, layout.xml_folder if needs_xml else None, photos),
            skip_broken,
            lambda stem: (masks.objects / f"{stem}.png", "the file"),
        )
        listed = list(masks.names.values())
        if masks.classes is None:
            listed = sorted({thing[0] for *_, objects in parsed for thing in objects})
        ids = name_classes(self, source, (), listed if classes is None else classes, layout.top)
        for stem, photo, (height, width), objects in parsed:
            difficult = [i for i, thing in enumerate(objects, 1) if thing[2] and not keep_difficult]
            names = [thing[0] for thing in objects] if masks.classes is None else None
            self.add_image(source, stem, str(photo), height=height, width=width, masks=masks, names=names,
                           left_out=difficult, ids=ids)  # fmt: skip

    @names_image
    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Loads the masks of an image.

        Returns:
            masks: [H, W, N] bool; without a folder of masks each is its outline, or the whole box.
            class_ids: [N] int32.
        """
        info = self.image_info[image_id]
        if "masks" in info:
            masks, own_ids = _read_masks(info)
        elif "boxes" in info:
            own_ids = [own_id for own_id, _ in info["boxes"]]
            masks = np.zeros((info["height"], info["width"], len(own_ids)), bool, order="F")
            for i, ((_, (y1, x1, y2, x2)), outline) in enumerate(zip(info["boxes"], info["outlines"])):
                if outline is None:
                    masks[y1:y2, x1:x2, i] = True
                else:
                    masks[..., i] = rasterize.polygon(info["height"], info["width"], *outline)
        else:
            return super().load_mask(image_id)
        class_ids = [self.map_source_class_id(f"{info['source']}.{own_id}") for own_id in own_ids]
        return masks, np.array(class_ids, np.int32)


def _read_masks(info: dict[str, Any]) -> tuple[np.ndarray, list[int]]:
    """(masks [H, W, N] bool, N class ids of the source) of an image, without objects of classes not wanted."""
    where = (info["masks"].objects / f"{info['id']}.png", "the file")
    masks, numbers, names = info["masks"].read(info["id"], (info["height"], info["width"]), where)
    if info["names"] is not None:  # object 1 is the first one of the XML file
        unknown = [number for number in numbers if number > len(info["names"])]
        if unknown:
            raise BrokenAnnotation(*where, "objects", f"{len(info['names'])}, as in the XML file", unknown[0])
        names = [info["names"][number - 1] for number in numbers]
    kept = [i for i, name in enumerate(names) if name in info["ids"] and numbers[i] not in info["left_out"]]
    return masks[..., kept], [info["ids"][names[i]] for i in kept]


# ---- Recognizing and opening -----------------------------------------------------------------------------------------
def _find(place: Place) -> list[Path]:
    inside = [folder for folder in map(place.inside, XML_FOLDERS) if folder]
    deeper = [folder.inside(XML_INNER) for folder in inside]
    for folder in (place, *inside, *filter(None, deeper)):
        files = folder.files(".xml")
        if files and re.search(rb"<annotation[\s>]", first_bytes(files[0])):
            return [folder.path]
    return [place.path] if place.path.is_dir() and find_masks(place.path) else []


def _open(path: Path, options: OpenOptions) -> VocDataset:
    dataset = VocDataset()
    layout = VocLayout.of(path)
    folder = layout.images()
    if layout.xml_folder is not None:
        files = layout.xml_files(None)
        folder = images_folder_of(files[0], first_image_names(files[:NAMES_READ]), folder, FORMAT.loader)
    dataset.load_voc(path, folder, classes=options.classes, skip_broken=options.skip_broken, subset=options.split)
    return dataset


def _splits(path: Path) -> list[str]:
    """Names of the lists of images beside the folder of XML files or masks."""
    top = VocLayout.of(path).top
    return sorted({file.stem for folder in SPLITS_FOLDERS for file in (top / folder).glob("*.txt")})


FORMAT = Format(
    name="Pascal VOC",
    signs="XML files with <annotation>, here or in Annotations/ or annots/, or PNGs in SegmentationObject/",
    loader="VocDataset().load_voc(annotations_dir, images_dir)",
    find=_find,
    open=_open,
    splits=_splits,
)
