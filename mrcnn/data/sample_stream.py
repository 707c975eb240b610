"""The endless stream of training samples: which image comes at which place, and what is done to it there.

The stream has no state: the sample at a place follows from the seed and the place alone. So any worker may make any
sample, training can go on at any place, and however many workers there are, the samples are the same.

    place p -> epoch p // n, and in it the image at p % n of a permutation drawn from (seed, epoch)

Shapes:
    n      images of the data set
    P, Q   anchors chosen as positive and as negative, see `targets.choose_anchors`
    G      objects, at most config.MAX_GT_INSTANCES
"""

from __future__ import annotations

import threading
import warnings
from typing import NamedTuple

import numpy as np

from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.data.augment import check_augmentation
from mrcnn.data.dataset import describe_image
from mrcnn.data.rpn_targets import choose_anchors
from mrcnn.data.training_sample import mold_sample, read_sample
from mrcnn.ops.anchors import anchors_of_image

SAMPLE, ORDER, ROIS = 0, 1, 2  # what chance is drawn for; keeps the draws apart


class Sample(NamedTuple):
    """One training sample."""

    image: np.ndarray  # [H, W, C] uint8 or float32, mean not subtracted
    image_meta: np.ndarray  # [12 + classes]
    class_ids: np.ndarray  # [G] int32, negative for a crowd
    boxes: np.ndarray  # [G, (y1, x1, y2, x2)] int32 pixels
    masks: np.ndarray  # [h, w, G] bool, mini masks or [H, W, G]
    anchors: int  # how many there are at this image's shape
    positive: np.ndarray  # [P] int, anchors that hold an object
    negative: np.ndarray  # [Q] int, anchors that don't
    rpn_bbox: np.ndarray  # [P, 4] deltas of the positive ones


class SampleStream:
    """Samples by their place in the stream.

    Args:
        dataset: prepared Dataset.
        config: Config.
        shuffle: bool. False: each epoch has the order of dataset.image_ids.
        seed: int >= 0.
        augmentations: list of what `augment.augment_sample` takes.
        no_augmentation_sources: names of sources whose images are left as they are; or None.

    Raises:
        ValueError, TypeError: data set, config and augmentation can't work together.
    """

    def __init__(self, dataset, config, shuffle, seed, augmentations=(), no_augmentation_sources=None):
        _check_dataset(dataset, config)
        for augmentation in augmentations:
            check_augmentation(augmentation)
        self.dataset, self.config, self.shuffle, self.seed = dataset, config, shuffle, seed
        self.augmentations = list(augmentations)
        self.no_augmentation_sources = set(no_augmentation_sources or ())
        self.replaced = 0  # images without objects, in this process
        self._empty = set()  # ids of images known to have no objects
        self._orders, self._indices = {}, {}  # permutation by epoch, AnchorIndex by (H, W)
        self._lock = threading.Lock()

    def __getstate__(self):  # for worker processes: what can be made again isn't sent
        state = dict(self.__dict__, _orders={}, _indices={})
        del state["_lock"]
        return state

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self):
        """Images of an epoch."""
        return len(self.dataset.image_ids)

    def image_id(self, place):
        """The image at a place."""
        epoch, position = divmod(place, len(self))
        if not self.shuffle:
            return self.dataset.image_ids[position]
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng((self.seed, ORDER, epoch)).permutation(self.dataset.image_ids)
            with self._lock:
                self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) < 2} | {epoch: order}
        return order[position]

    def rng(self, place, purpose=SAMPLE):
        """A numpy.random.Generator for what is done at a place."""
        return np.random.default_rng((self.seed, purpose, place))

    def sample(self, place):
        """The sample at a place.

        An image without objects gives way to the next one that has some, unless config.TRAIN_ON_EMPTY_IMAGES.

        Raises:
            ValueError: an image can't be loaded (it is named), or there are objects nowhere.
        """
        rng = self.rng(place)
        for offset in range(len(self)):
            image_id = self.image_id(place + offset)
            loaded = None if image_id in self._empty else self._load(image_id, rng)
            if loaded is not None:
                return self._with_targets(*loaded, rng)
            self._tell_replaced(image_id)
        raise ValueError(
            f"None of the {len(self)} images of {type(self.dataset).__name__} has an object. Check its load_mask();"
            " or set Config.TRAIN_ON_EMPTY_IMAGES = True, if that is meant."
        )

    def _load(self, image_id, rng):
        """What `load_image_gt` returns; None if there is no object (crowds don't count) where one is needed."""
        dataset, config = self.dataset, self.config
        source = dataset.image_info[image_id]["source"]
        augmentations = [] if source in self.no_augmentation_sources else self.augmentations
        try:
            image, masks, class_ids = read_sample(dataset, config, image_id)
            if not config.TRAIN_ON_EMPTY_IMAGES and not (class_ids > 0).any():
                self._empty.add(image_id)
                return None
            loaded = mold_sample(
                dataset, config, image_id, image, masks, class_ids, augmentations, config.USE_MINI_MASK, rng
            )
        except Exception as error:
            raise ValueError(f"Can't load {describe_image(dataset, image_id)}: {error}") from error
        return loaded if config.TRAIN_ON_EMPTY_IMAGES or (loaded[2] > 0).any() else None

    def _with_targets(self, image, image_meta, class_ids, boxes, masks, rng):
        index = self.anchor_index(image.shape)
        anchors = choose_anchors(index, class_ids, boxes, self.config, rng)
        if len(class_ids) > self.config.MAX_GT_INSTANCES:
            kept = rng.choice(len(class_ids), self.config.MAX_GT_INSTANCES, replace=False)
            class_ids, boxes, masks = class_ids[kept], boxes[kept], masks[..., kept]
        return Sample(image, image_meta, class_ids, boxes, masks, len(index), *anchors)

    def anchor_index(self, image_shape):
        """The anchors of an image of this shape, in pixels, as an `AnchorIndex`; made once a shape."""
        shape = tuple(int(side) for side in image_shape[:2])
        index = self._indices.get(shape)
        if index is None:
            index = AnchorIndex(anchors_of_image(shape, **self.config.anchor_settings()))
            with self._lock:  # each holds some 20 MB at 1024 x 1024
                self._indices = dict(list(self._indices.items())[-7:]) | {shape: index}
        return index

    def _tell_replaced(self, image_id):
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


def _check_dataset(dataset, config):
    name = type(dataset).__name__
    if not len(dataset.image_ids):
        if dataset.image_info:
            raise ValueError(f"{name} is not prepared; call its prepare() after the last add_image().")
        raise ValueError(f"{name} has no images; expected at least one add_image(), and prepare() after it.")
    if dataset.num_classes > config.NUM_CLASSES:
        raise ValueError(
            f"{name} has {dataset.num_classes} classes with the background ({', '.join(dataset.class_names)}), but"
            f" {type(config).__name__}.NUM_CLASSES is {config.NUM_CLASSES}. Set it to {dataset.num_classes}."
        )
