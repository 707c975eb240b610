"""The `Dataset` contract: which images there are, which classes, and how one image and its masks are read.

Subclass it, register classes and images, and say how the masks of an image come about:

    class BalloonDataset(Dataset):
        def load_balloons(self, folder):
            self.add_class("balloon", 1, "balloon")
            for path in sorted(Path(folder).glob("*.jpg")):
                self.add_image("balloon", image_id=path.name, path=str(path))

        def load_mask(self, image_id):
            masks = ...  # [H, W, N] bool, one channel per object
            return masks, np.ones(masks.shape[-1], np.int32)

    dataset = BalloonDataset()
    dataset.load_balloons("balloon/train")
    dataset.prepare()

Two kinds of ids: a *source* ("coco", "balloon") numbers its classes and images as it likes; inside, after `prepare()`,
images are 0..num_images-1 and classes 0..num_classes-1, where 0 is the background "BG". Several sources may share one
dataset: a class counts in the loss of an image only if the image's source knows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import cv2
import numpy as np
import skimage.io

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


class Dataset:
    """Images, classes and masks of one or more sources. Override `load_mask`, and whatever else differs.

    Args:
        class_map: dict or None, as in `prepare`. matterport ignored this argument and people hand over all sorts of
            things, so whatever isn't a dict counts as None.

    Attributes, valid after `prepare()`:
        image_info: list of dicts with "id", "source", "path" and what was given to `add_image`.
        class_info: list of dicts with "source", "id", "name".
        num_images, num_classes: int; the background is a class.
        image_ids, class_ids: int arrays, 0, 1, 2, ...
        class_names: list of str, "BG" first.
        class_from_source_map: dict "source.id" -> class id.
        image_from_source_map: dict "source.id" -> image id.
        sources: list of str; "" is the background's.
        source_class_ids: dict source -> sorted list of its class ids, 0 included.
    """

    def __init__(self, class_map=None):
        self.class_map = class_map if isinstance(class_map, Mapping) else None
        self._image_ids = np.zeros(0, np.int64)
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids = {}

    # ---- Registering ---------------------------------------------------------------------------------------------
    def add_class(self, source, class_id, class_name):
        """Registers a class of a source. A class that is there already is left as it is.

        Raises:
            ValueError: the source's name has a dot, which separates source and id in "source.id".
        """
        if "." in source:
            raise ValueError(f"The source {source!r} has a dot in its name; expected a name without one.")
        for known in self.class_info:
            if known["source"] == source and known["id"] == class_id:
                if known["name"] != class_name:
                    warnings.warn(
                        f"Class {source}.{class_id} is {known['name']!r} already; the new name {class_name!r} is not"
                        " taken. Give each class of a source an id of its own.",
                        stacklevel=2,
                    )
                return
        self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **kwargs):
        """Registers an image; all keywords are kept in its `image_info` for `load_mask` and the like.

        Args:
            source: str, as in `add_class`.
            image_id: the source's own id of the image, any type.
            path: str or Path of the image file; None when `load_image` doesn't read one.
        """
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map=None):
        """Numbers images and classes. Call it once all are registered; call it again after adding more.

        Args:
            class_map: dict "source.id" -> name, or None. Classes that get the same name become one class, so that
                sources can share it: `{"via.1": "balloon", "toys.7": "balloon"}`.

        Raises:
            ValueError: the class map names a class that isn't registered.
        """
        class_map = self.class_map if class_map is None else class_map
        if class_map:
            self._merge_classes(class_map)
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [str(c["name"]).split(",")[0] for c in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)

        members = [(i, source, own_id) for i, info in enumerate(self.class_info) for source, own_id in _members(info)]
        self.class_from_source_map = {f"{source}.{own_id}": i for i, source, own_id in members}
        self.image_from_source_map = {f"{info['source']}.{info['id']}": i for i, info in enumerate(self.image_info)}
        self.sources = list(dict.fromkeys(source for _, source, _ in members))
        self.source_class_ids = {source: [] for source in self.sources}
        for source, ids in self.source_class_ids.items():
            ids.extend(sorted({0} | {i for i, other, _ in members if other == source}))
        self._warn_of_duplicates()

    def _merge_classes(self, class_map):
        if not isinstance(class_map, Mapping):
            raise ValueError(f'class_map is {class_map!r}; expected a dict such as {{"via.1": "balloon"}}.')
        known = {f"{source}.{own_id}" for info in self.class_info for source, own_id in _members(info)}
        unknown = sorted(str(key) for key in class_map if key not in known)
        if unknown:
            raise ValueError(f"class_map names {', '.join(unknown)}; registered are {', '.join(sorted(known))}.")
        merged = {}  # name on the map -> class; other classes stay as they are, under their own key
        for info in self.class_info:
            for source, own_id in _members(info):
                name = class_map.get(f"{source}.{own_id}")
                if name is None:
                    merged[source, own_id] = info
                elif name in merged:
                    merged[name]["members"].append((source, own_id))
                else:
                    merged[name] = {"source": source, "id": own_id, "name": name, "members": [(source, own_id)]}
        self.class_info = list({id(info): info for info in merged.values()}.values())

    def _warn_of_duplicates(self):
        if len(self.image_from_source_map) == self.num_images:
            return
        first, twice = set(), []
        for info in self.image_info:
            key = f"{info['source']}.{info['id']}"
            (twice.append if key in first else first.add)(key)
        shown = ", ".join(twice[:5]) + (", ..." if len(twice) > 5 else "")
        warnings.warn(
            f"{len(twice)} images are registered more than once and count more than once: {shown}. Give each image"
            " an id of its own in add_image.",
            stacklevel=3,
        )

    # ---- Looking up ----------------------------------------------------------------------------------------------
    @property
    def image_ids(self):
        """Ids of all images, [num_images] int; empty before `prepare()`."""
        return self._image_ids

    def map_source_class_id(self, source_class_id):
        """Class id of a source's class: `map_source_class_id("coco.44")`.

        Raises:
            KeyError: there is no such class; the message has those there are.
        """
        try:
            return self.class_from_source_map[source_class_id]
        except KeyError:
            known = ", ".join(self.class_from_source_map)
            raise KeyError(f"No class {source_class_id!r} ('source.id') is registered; there are: {known}.") from None

    def get_source_class_id(self, class_id, source):
        """The source's own id of a class; the inverse of `map_source_class_id`.

        Raises:
            ValueError: the class is not of this source.
        """
        info = self.class_info[class_id]
        for other, own_id in _members(info):
            if other == source:
                return own_id
        raise ValueError(f"Class {class_id} ({info['name']!r}) is of source {info['source']!r}, not of {source!r}.")

    def image_reference(self, image_id):
        """A link or text that leads a person to the image in its source. Override it; used in displays only."""
        return ""

    def source_image_link(self, image_id):
        """Path or URL of the image."""
        return self.image_info[image_id]["path"]

    def summary(self, config=None, image_ids=None, progress=True):
        """Reads all masks, prints what there is, and returns it; `.plot()` of it draws a figure.

        Args:
            config: Config, or None. With one also: boxes after resizing, mini masks, anchors' recall.
            image_ids: ids of the images to look at; None: all.
            progress: bool. Show a bar.

        Returns:
            `data.summary.DatasetSummary`.

        Raises:
            ValueError: `prepare()` wasn't called, there is no such image, or an image's masks don't fit.
        """
        from mrcnn.data.summary import summarize

        summary = summarize(self, config, image_ids, progress)
        print(summary)
        return summary

    # ---- Reading -------------------------------------------------------------------------------------------------
    def load_image(self, image_id):
        """Reads an image: [H, W, 3] uint8, RGB. Grey ones get three equal channels, alpha is dropped.

        Override it for other channels or sources.

        Raises:
            FileNotFoundError, ValueError: naming the file.
        """
        path = self.image_info[image_id]["path"]
        if path is None:
            raise ValueError(
                f"Image {image_id} of {type(self).__name__} has no path; expected a file's path in add_image, or a"
                " load_image() of your own."
            )
        return read_image(path)

    def load_mask(self, image_id):
        """Reads the masks of an image's objects. Override it; this one knows of no objects.

        Returns:
            masks: [H, W, N] bool, one channel per object, of the image's size.
            class_ids: [N] int32, as given by `map_source_class_id`; negative for a crowd of that class.
        """
        return np.zeros((*image_size(self, image_id), 0), bool), np.zeros(0, np.int32)


def describe_image(dataset: Dataset, image_id: int) -> str:
    """An image's name in error messages: its id, its id in its source, and its file if it has one.

    Example:
        >>> dataset = Dataset()
        >>> dataset.add_image("coco", 397133, "val2017/000000397133.jpg")
        >>> describe_image(dataset, 0)
        'image 0 (coco.397133, val2017/000000397133.jpg)'
    """
    info = dataset.image_info[image_id]
    file = f", {info['path']}" if info.get("path") else ""
    return f"image {image_id} ({info['source']}.{info['id']}{file})"


def image_size(dataset: Dataset, image_id: int) -> tuple[int, int]:
    """Height and width of an image in pixels: from its `image_info` if they are there, else from the loaded image."""
    info = dataset.image_info[image_id]
    if info.get("height") and info.get("width"):
        return int(info["height"]), int(info["width"])
    height, width = dataset.load_image(image_id).shape[:2]
    return int(height), int(width)


def read_image(path):
    """Reads an image file as it lies there (an EXIF rotation isn't applied: masks are drawn on the stored pixels).

    Args:
        path: str or Path; also a URL.

    Returns:
        [H, W, 3] uint8, RGB. Grey is repeated, alpha is dropped, 16 bits are scaled to 8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or is broken.
    """
    image = None
    if not is_url(path):
        # Not cv2.imread: it can't open every path on Windows, and hides why it failed.
        data = np.fromfile(path, np.uint8)
        if _is_whole(data):
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is not None:
        return image
    try:  # scikit-image knows more formats, and says what is wrong with a broken file
        return _to_rgb(skimage.io.imread(str(path)))
    except Exception as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error


def is_url(path):
    """Whether an image's path leads to the network."""
    return str(path).startswith(("http://", "https://", "ftp://"))


def _is_whole(data):
    """Whether a JPEG has its end marker after the start of its last scan; older OpenCVs fill a cut one up with grey."""
    if data[:2].tobytes() != JPEG_START or data[-2:].tobytes() == JPEG_END:
        return data.size > 0
    content = data.tobytes()
    return content.rfind(JPEG_END) > content.rfind(JPEG_SCAN)


def _to_rgb(image):
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    elif image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"it holds an array of shape {image.shape} and type {image.dtype}; expected one grey, RGB or RGBA image of"
            " 8 or 16 bits"
        )
    color = image[..., :1] if image.shape[-1] < 3 else image[..., :3]
    return np.ascontiguousarray(np.broadcast_to(color, (*image.shape[:2], 3)))


def _members(class_info):
    """(source, own id) of all the source classes that a class stands for."""
    return class_info.get("members", [(class_info["source"], class_info["id"])])
