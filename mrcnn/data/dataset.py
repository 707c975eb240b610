"""`Dataset`: a list of images and classes, and methods that read an image and its masks.

Subclass it, register classes and images, and override `load_mask`; the class docstring has an example.

There are two kinds of ids. A *source* ("coco", "balloon") numbers its classes and images in its own way. `prepare()`
assigns the ids used everywhere else: images are 0..num_images-1 and classes 0..num_classes-1, where 0 is the background
"BG". Several sources can share a dataset: a class counts in the loss of an image only if the image's source has it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.data.image_reading import is_url as is_url
from mrcnn.data.image_reading import read_image
from mrcnn.data.user_warnings import warn

if TYPE_CHECKING:
    from mrcnn.config import Config
    from mrcnn.data.summary import DatasetSummary


class Dataset:
    """Images, classes and masks of one or more sources. Override `load_mask` and, where needed, the other methods.

    Args:
        class_map: dict as in `prepare`, or None. Anything that isn't a dict counts as None: matterport ignored this
            argument, and existing scripts pass all kinds of values.

    Attributes:
        download: bool, whether `load_image` downloads images whose path is a URL. False, the default: that is an error.
        image_info: list of dicts with "id", "source", "path" and the keywords given to `add_image`.
        class_info: list of dicts with "source", "id", "name".
        num_images: int. This and the following attributes are valid after `prepare()`.
        num_classes: int, including the background.
        image_ids: [num_images] int, 0, 1, 2, ...
        class_ids: [num_classes] int, 0, 1, 2, ...
        class_names: list of str, "BG" first.
        class_from_source_map: dict from "source.id" to class id.
        image_from_source_map: dict from "source.id" to image id.
        sources: list of str; "" is the source of the background.
        source_class_ids: dict from source to the sorted list of its class ids, including 0.

    Example:
        >>> class Squares(Dataset):
        ...     def load_image(self, image_id):
        ...         return np.zeros((64, 64, 3), np.uint8)
        ...
        ...     def load_mask(self, image_id):
        ...         masks = np.zeros((64, 64, 1), bool)  # [height, width, objects]
        ...         masks[8:24, 8:24, 0] = True
        ...         return masks, np.array([self.map_source_class_id("toys.1")], np.int32)
        >>> dataset = Squares()
        >>> dataset.add_class("toys", 1, "square")
        >>> dataset.add_image("toys", image_id="first", path=None)
        >>> dataset.prepare()
        >>> dataset.class_names, dataset.num_images
        (['BG', 'square'], 1)
        >>> masks, class_ids = dataset.load_mask(0)
        >>> masks.shape, class_ids.tolist()
        ((64, 64, 1), [1])
    """

    download = False
    num_images: int
    num_classes: int
    class_ids: np.ndarray
    class_names: list[str]
    class_from_source_map: dict[str, int]
    image_from_source_map: dict[str, int]
    sources: list[str]

    def __init__(self, class_map: Mapping[str, str] | None = None):
        self.class_map = class_map if isinstance(class_map, Mapping) else None
        self._image_ids = np.zeros(0, np.int64)
        self.image_info: list[dict[str, Any]] = []
        self.class_info: list[dict[str, Any]] = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids: dict[str, list[int]] = {}

    # ---- Registering ---------------------------------------------------------------------------------------------
    def add_class(self, source: str, class_id: Hashable, class_name: str) -> None:
        """Registers a class of a source. Registering it again has no effect; another name for it gives a warning.

        Args:
            source: name of the source, without a dot, because "source.id" identifies a class.
            class_id: the source's id of the class, usually 1, 2, ...
            class_name: name of the class.

        Raises:
            ValueError: the source's name contains a dot.
        """
        if "." in source:
            raise ValueError(f"The source {source!r} has a dot in its name; expected a name without one.")
        for known in self.class_info:
            if known["source"] == source and known["id"] == class_id:
                if known["name"] != class_name:
                    warn(
                        f"Class {source}.{class_id} is already {known['name']!r}; the name {class_name!r} is ignored."
                        " Give each class of a source its own id."
                    )
                return
        self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source: str, image_id: Hashable, path: str | Path | None, **kwargs: Any) -> None:
        """Registers an image. All keywords are kept in its `image_info`, for `load_mask` and other methods.

        Args:
            source: name of the source, as in `add_class`.
            image_id: the source's id of the image, of any type.
            path: path of the image file; None if `load_image` doesn't read one.
        """
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map: Mapping[str, str] | None = None) -> None:
        """Assigns image and class ids. Call it after registering everything, and again after adding more.

        Args:
            class_map: dict from "source.id" to a name, or None. Classes with the same name become one class that their
                sources share: `{"via.1": "balloon", "toys.7": "balloon"}`.

        Raises:
            ValueError: class_map has a class that isn't registered.
        """
        class_map = self.class_map if class_map is None else class_map
        if class_map:
            self._merge_classes(class_map)
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [str(c["name"]).split(",")[0] for c in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)

        members = [
            (i, source, own_id) for i, info in enumerate(self.class_info) for source, own_id in _source_classes(info)
        ]
        self.class_from_source_map = {f"{source}.{own_id}": i for i, source, own_id in members}
        self.image_from_source_map = {f"{info['source']}.{info['id']}": i for i, info in enumerate(self.image_info)}
        self.sources = list(dict.fromkeys(source for _, source, _ in members))
        self.source_class_ids = {source: [] for source in self.sources}
        for source, ids in self.source_class_ids.items():
            ids.extend(sorted({0} | {i for i, other, _ in members if other == source}))
        self._warn_of_duplicates()

    def _merge_classes(self, class_map: Mapping[str, str]) -> None:
        if not isinstance(class_map, Mapping):
            raise ValueError(f'class_map is {class_map!r}; expected a dict such as {{"via.1": "balloon"}}.')
        known = {f"{source}.{own_id}" for info in self.class_info for source, own_id in _source_classes(info)}
        unknown = sorted(str(key) for key in class_map if key not in known)
        if unknown:
            raise ValueError(f"class_map names {', '.join(unknown)}; registered are {', '.join(sorted(known))}.")
        merged = {}  # from name to class for those in class_map; other classes are kept under their own key
        for info in self.class_info:
            for source, own_id in _source_classes(info):
                name = class_map.get(f"{source}.{own_id}")
                if name is None:
                    merged[source, own_id] = info
                elif name in merged:
                    merged[name]["members"].append((source, own_id))
                else:
                    merged[name] = {"source": source, "id": own_id, "name": name, "members": [(source, own_id)]}
        self.class_info = list({id(info): info for info in merged.values()}.values())

    def _warn_of_duplicates(self) -> None:
        if len(self.image_from_source_map) == self.num_images:
            return
        seen, repeated = set(), []
        for info in self.image_info:
            key = f"{info['source']}.{info['id']}"
            (repeated.append if key in seen else seen.add)(key)
        shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        warn(
            f"{len(repeated)} images are registered more than once and count more than once: {shown}. Give each image"
            " its own id in add_image."
        )

    # ---- Looking up ----------------------------------------------------------------------------------------------
    @property
    def image_ids(self) -> np.ndarray:
        """Ids of all images, [num_images] int; empty before `prepare()`."""
        return self._image_ids

    def map_source_class_id(self, source_class_id: str) -> int:
        """Class id of a source's class: `map_source_class_id("coco.44")`.

        Raises:
            KeyError: there is no such class; the message lists the registered ones.
        """
        try:
            return self.class_from_source_map[source_class_id]
        except KeyError:
            known = ", ".join(self.class_from_source_map)
            raise KeyError(f"No class {source_class_id!r} ('source.id') is registered; there are: {known}.") from None

    def get_source_class_id(self, class_id: int, source: str) -> Hashable:
        """The source's own id of a class; the inverse of `map_source_class_id`.

        Raises:
            ValueError: the source doesn't have the class.
        """
        info = self.class_info[class_id]
        for other, own_id in _source_classes(info):
            if other == source:
                return own_id
        raise ValueError(f"Class {class_id} ({info['name']!r}) is of source {info['source']!r}, not of {source!r}.")

    def image_reference(self, image_id: int) -> str:
        """A link or text that helps to find the image in its source, for display only. Override it."""
        return ""

    def source_image_link(self, image_id: int) -> str | Path | None:
        """Path or URL of the image."""
        return self.image_info[image_id]["path"]

    def summary(
        self, config: Config | None = None, image_ids: Sequence[int] | None = None, progress: bool = True
    ) -> DatasetSummary:
        """Reads all masks, prints statistics of them, and returns these; `.plot()` draws them.

        Args:
            config: Config, or None. With one, the statistics include the boxes after resizing, the mini masks and the
                recall of the anchors.
            image_ids: ids of the images to read; None: all.
            progress: whether to show a progress bar.

        Raises:
            ValueError: `prepare()` wasn't called, an image id doesn't exist, or masks don't fit their image.
        """
        from mrcnn.data.summary import summarize  # not at the top, because it imports this module

        summary = summarize(self, config, image_ids, progress)
        print(summary)
        return summary

    # ---- Reading -------------------------------------------------------------------------------------------------
    def load_image(self, image_id: int) -> np.ndarray:
        """Reads an image with `image_reading.read_image`: [H, W, 3] RGB, uint8 for photos.

        Override it for other channels or sources.

        Raises:
            FileNotFoundError, ValueError: the file can't be read; the message names it.
        """
        path = self.image_info[image_id]["path"]
        if path is None:
            raise ValueError(
                f"Image {image_id} of {type(self).__name__} has no path; expected the path of a file in add_image, or a"
                " subclass that overrides load_image."
            )
        return read_image(path, download=self.download)

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads the masks of an image's objects. Override it; the base class returns no objects.

        Returns:
            masks: [H, W, N] bool, of the size of the image, one channel per object.
            class_ids: [N] int32, as returned by `map_source_class_id`; negative for a crowd of that class.
        """
        return np.zeros((*image_size(self, image_id), 0), bool), np.zeros(0, np.int32)

    def load_class_ids(self, image_id: int) -> np.ndarray:
        """The class ids that `load_mask` returns, [N]. Override it where they are known without drawing masks."""
        return np.asarray(self.load_mask(image_id)[1])


def _source_classes(class_info: dict[str, Any]) -> list[tuple[str, Hashable]]:
    """(source, own id) of all source classes that were merged into a class."""
    return class_info.get("members", [(class_info["source"], class_info["id"])])


# ---- Images of a dataset ---------------------------------------------------------------------------------------------
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
