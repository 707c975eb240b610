"""The endless stream of training samples: which image is at which position, and how it is augmented there.

The stream has no state: a sample depends only on the seed and its position. So any worker can make any sample, training
can resume at any position, and the samples don't depend on the number of workers.

    place p -> epoch p // n, and in it the image at position p % n of a permutation drawn from (seed, epoch)

Shapes:
    n      images of the dataset
    P, Q   anchors chosen as positive and as negative, see `rpn_targets.choose_anchors`
    G      objects, at most config.MAX_GT_INSTANCES
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn.config import Config
from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.data.augment import AugmentationError, check_augmentation
from mrcnn.data.augment_by_settings import AugmentBySettings, Loaded
from mrcnn.data.dataset import Dataset, describe_image
from mrcnn.data.formats.broken import BrokenAnnotation
from mrcnn.data.repeat_sampling import classes_in_images, repeat_factors, repeated_order
from mrcnn.data.rpn_targets import choose_anchors
from mrcnn.data.training_sample import active_classes, mold_sample, read_sample
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.meta import SHAPE

SAMPLE, ORDER, ROIS = 0, 1, 2  # purposes of random numbers, part of their seeds: makes them independent
DRAWS = 50  # how often each image is cropped and augmented before a sample is given up
SHAPES_KEPT = 8  # anchor indices in memory; one takes about 20 MB at 1024 x 1024


class Sample(NamedTuple):
    """One training sample."""

    image: np.ndarray  # [H, W, C] uint8 or float32, mean not subtracted
    image_meta: np.ndarray  # [12 + classes]
    class_ids: np.ndarray  # [G] int32, negative for a crowd
    boxes: np.ndarray  # [G, (y1, x1, y2, x2)] int32 pixels
    masks: np.ndarray  # mini masks [h, w, G] bool, or [H, W, G]
    anchors: int  # number of anchors of an image of this shape
    positive: np.ndarray  # [P] int, indices of the anchors that match an object
    negative: np.ndarray  # [Q] int, indices of the background anchors
    rpn_bbox: np.ndarray  # [P, 4] deltas of the positive anchors
    seed: int  # for choosing the anchors again, see `SampleStream.to_one_shape`


class SampleStream:
    """Samples by their place in the stream.

    Args:
        dataset: prepared Dataset.
        config: Config.
        shuffle: False: each epoch has the order of dataset.image_ids.
        seed: int >= 0.
        augmentations: list of augmentations, see `augment.augment_sample`.
        no_augmentation_sources: names of sources whose images aren't augmented, or None.

    Attributes:
        replaced: int, how many images without objects this process has replaced.

    Raises:
        ValueError, TypeError: dataset, config and augmentations don't fit together.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        shuffle: bool,
        seed: int,
        augmentations: Sequence[Any] = (),
        no_augmentation_sources: Iterable[str] | None = None,
    ):
        _check_dataset(dataset, config)
        for augmentation in augmentations:
            check_augmentation(augmentation)
        self.dataset, self.config, self.shuffle, self.seed = dataset, config, shuffle, seed
        self.augmentations = list(augmentations)
        self.no_augmentation_sources = set(no_augmentation_sources or ())
        self.replaced = 0
        self._without_objects: set[int] = set()  # image ids
        self._broken: set[int] = set()  # image ids that can't be loaded
        self._orders: dict[tuple[int, bool], np.ndarray] = {}  # by epoch, and whether REPEAT_THRESHOLD counts
        self._factors: np.ndarray | None = None  # of the images, see `repeat_sampling`
        self._indices: dict[tuple[int, ...], AnchorIndex] = {}  # by (H, W)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:  # for worker processes, without what can be recomputed
        state = dict(self.__dict__, _orders={}, _indices={})
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        """Images of an epoch."""
        return len(self.dataset.image_ids)

    def image_id(self, place: int, by_settings: bool = True) -> int:
        """The image at a place; `by_settings=False`: each image once in an epoch, whatever REPEAT_THRESHOLD is."""
        epoch, position = divmod(place, len(self))
        if not self.shuffle:
            return self.dataset.image_ids[position]
        key = epoch, by_settings and self.config.REPEAT_THRESHOLD > 0
        order = self._orders.get(key)
        if order is None:
            rng = np.random.default_rng((self.seed, ORDER, epoch))
            ids = self.dataset.image_ids
            order = ids[repeated_order(self.repeat_factors(), rng)] if key[1] else rng.permutation(ids)
            with self._lock:
                self._orders = {k: o for k, o in self._orders.items() if abs(k[0] - epoch) < 2} | {key: order}
        return order[position]

    def repeat_factors(self) -> np.ndarray:
        """`repeat_sampling.repeat_factors` of the images; reads the classes of all images once."""
        with self._lock:
            if self._factors is None:
                self._factors = repeat_factors(classes_in_images(self.dataset), self.config.REPEAT_THRESHOLD)
        return self._factors

    def rng(self, place: int, purpose: int = SAMPLE) -> np.random.Generator:
        """The source of all randomness at a place."""
        return np.random.default_rng((self.seed, purpose, place))

    def sample(self, place: int, by_settings: bool = True) -> Sample:
        """The sample at a place; `by_settings=False`: without the augmentation that settings ask for, for validation.

        An image without objects is replaced with the next one that has some, unless config.TRAIN_ON_EMPTY_IMAGES; so is
        one whose objects are lost in a random crop, and one that the user's own `Dataset` can't load.

        Raises:
            ValueError: an image of a known format can't be loaded (the message names it), more images than
                `config.MAX_BROKEN_IMAGES` can't be loaded, no image has an object, or all objects are always lost.
        """
        rng = self.rng(place)
        for offset in range(len(self) * DRAWS):  # a crop that misses all objects is drawn again
            if offset >= len(self) and len(self._without_objects | self._broken) == len(self):
                break
            image_id = self.image_id(place + offset % len(self), by_settings)
            if image_id in self._broken:
                continue
            loaded = None if image_id in self._without_objects else self._load(image_id, rng, by_settings)
            if loaded is not None:
                return self._with_targets(*loaded, rng)
            if image_id not in self._broken:
                self._count_replaced(image_id)
        if len(self._without_objects | self._broken) < len(self):
            raise ValueError(
                f"{DRAWS} random crops or augmentations of each image of {type(self.dataset).__name__} lost all"
                " objects. Use larger crops (IMAGE_MIN_DIM), or a weaker augmentation."
            )
        raise ValueError(
            f"None of the {len(self)} images of {type(self.dataset).__name__} has an object. Check its load_mask(),"
            " or set Config.TRAIN_ON_EMPTY_IMAGES = True if this is intended."
        )

    def _load(self, image_id: int, rng: np.random.Generator, by_settings: bool) -> tuple[np.ndarray, ...] | None:
        """What `load_image_gt` returns; None if an object is required and there is none, not counting crowds."""
        dataset, config = self.dataset, self.config
        augmented = dataset.image_info[image_id]["source"] not in self.no_augmentation_sources
        augmentations = self.augmentations if augmented else []
        read = self._read(image_id)
        if read is None:
            return None
        image, masks, class_ids = read
        settings = AugmentBySettings(config, lambda rng: self._another(image_id, rng))
        try:
            if not config.TRAIN_ON_EMPTY_IMAGES and not (class_ids > 0).any():
                self._without_objects.add(image_id)
                return None
            loaded = mold_sample(
                dataset, config, image_id, image, masks, class_ids, augmentations, config.USE_MINI_MASK, rng,
                settings if augmented and by_settings else None,
            )  # fmt: skip
        except Exception as error:
            failed = "augment" if isinstance(error, AugmentationError) else "load"
            raise ValueError(f"Can't {failed} {describe_image(dataset, image_id)}: {error}") from error
        return loaded if config.TRAIN_ON_EMPTY_IMAGES or (loaded[2] > 0).any() else None

    def _read(self, image_id: int) -> Loaded | None:
        """What `read_sample` returns; None, after a warning, for an image that can't be loaded."""
        try:
            return read_sample(self.dataset, self.config, image_id)
        except BrokenAnnotation:
            raise
        except Exception as error:
            self._leave_out(image_id, error)
            return None

    def _another(self, image_id: int, rng: np.random.Generator) -> Loaded | None:
        """Another image, chosen at random, without crowds and classes that the source of `image_id` doesn't have.

        None if that image has no other objects. A dataset of one image gives the same image again.
        """
        ids = self.dataset.image_ids
        other = ids[(image_id + 1 + rng.integers(max(len(ids) - 1, 1))) % len(ids)]
        read = None if other in self._broken or other in self._without_objects else self._read(other)
        if read is None:
            return None
        image, masks, class_ids = read
        active = active_classes(self.dataset, self.config, image_id)
        usable = np.isin(class_ids, np.flatnonzero(active)) & (class_ids > 0) & (masks != 0).any(axis=(0, 1))
        return (image, masks[..., usable], class_ids[usable]) if usable.any() else None

    def _leave_out(self, image_id: int, error: Exception) -> None:
        """Warns once about an image that can't be loaded, and raises if there are too many of them."""
        text = f"Can't load {describe_image(self.dataset, image_id)}: {type(error).__name__}: {error}"
        with self._lock:
            self._broken.add(image_id)
        share = self.config.MAX_BROKEN_IMAGES
        if len(self._broken) > share * len(self):
            raise ValueError(
                f"{text}\n{len(self._broken)} of {len(self)} images can't be loaded; Config.MAX_BROKEN_IMAGES = {share}"
                " is the largest share that training continues with."
            ) from error
        warnings.warn(f"{text}\nTraining continues without it.", stacklevel=2)

    def _with_targets(self, image, image_meta, class_ids, boxes, masks, rng: np.random.Generator) -> Sample:
        index = self.anchor_index(image.shape)
        anchors = choose_anchors(index, class_ids, boxes, self.config, rng)
        if len(class_ids) > self.config.MAX_GT_INSTANCES:
            kept = rng.choice(len(class_ids), self.config.MAX_GT_INSTANCES, replace=False)
            class_ids, boxes, masks = class_ids[kept], boxes[kept], masks[..., kept]
        seed = int(rng.integers(2**31))
        return Sample(image, image_meta, class_ids, boxes, masks, len(index), *anchors, seed)

    def to_one_shape(self, samples: Sequence[Sample]) -> list[Sample]:
        """Pads images on the right and below to the largest of them, and chooses their anchors again."""
        height, width = np.max([sample.image.shape[:2] for sample in samples], axis=0)
        index = self.anchor_index((height, width))
        return [self._padded(sample, int(height), int(width), index) for sample in samples]

    def _padded(self, sample: Sample, height: int, width: int, index: AnchorIndex) -> Sample:
        grown = [(0, height - sample.image.shape[0]), (0, width - sample.image.shape[1]), (0, 0)]
        meta = sample.image_meta.copy()
        meta[SHAPE] = (height, width, sample.image.shape[2])
        masks = sample.masks if self.config.USE_MINI_MASK else np.pad(sample.masks, grown)
        rng = np.random.default_rng(sample.seed)
        positive, negative, rpn_bbox = choose_anchors(index, sample.class_ids, sample.boxes, self.config, rng)
        return sample._replace(
            image=np.pad(sample.image, grown), image_meta=meta, masks=masks, anchors=len(index),
            positive=positive, negative=negative, rpn_bbox=rpn_bbox,
        )  # fmt: skip

    def anchor_index(self, image_shape: Sequence[int]) -> AnchorIndex:
        """The anchors of an image of this shape, in pixels; computed once per shape."""
        shape = tuple(int(side) for side in image_shape[:2])
        index = self._indices.get(shape)
        if index is None:
            index = AnchorIndex(anchors_of_image(shape, **self.config.anchor_settings()))
            with self._lock:
                self._indices = dict(list(self._indices.items())[1 - SHAPES_KEPT :]) | {shape: index}
        return index

    def _count_replaced(self, image_id: int) -> None:
        with self._lock:
            self.replaced += 1
            first = self.replaced == 1
        if first:
            warnings.warn(
                f"{describe_image(self.dataset, image_id)} has no object and is replaced with the next image that has"
                " one, as is every other image without objects. Set Config.TRAIN_ON_EMPTY_IMAGES = True to train on"
                " such images, too.",
                stacklevel=2,
            )


def _check_dataset(dataset: Dataset, config: Config) -> None:
    name = type(dataset).__name__
    if not len(dataset.image_ids):
        if dataset.image_info:
            raise ValueError(f"{name} is not prepared; call its prepare() after the last add_image().")
        raise ValueError(f"{name} has no images; expected at least one add_image() and then prepare().")
    if dataset.num_classes > config.NUM_CLASSES:
        raise ValueError(
            f"{name} has {dataset.num_classes} classes including the background ({', '.join(dataset.class_names)}), but"
            f" {type(config).__name__}.NUM_CLASSES is {config.NUM_CLASSES}. Set it to {dataset.num_classes}."
        )
