"""Implements `MaskRCNN.detect`: molds images, runs the network in batches, and pastes the masks.

Shapes: B images in a batch, H x W their molded size, D rows of detections, n of them in use, C classes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from mrcnn.config_checks import warn_of_contradictions
from mrcnn.graph import set_thresholds
from mrcnn.inference import molding
from mrcnn.inference.results import Detections
from mrcnn.keras_private import free_outputs_early
from mrcnn.nn.folding import fold_batchnorm
from mrcnn.nn.in_place import write_into_input
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.images import clear_padding, subtract_mean
from mrcnn.ops.kernels import has_accelerator
from mrcnn.settings import DETECT, DETECT_AND_TRAIN, FixedSettings

if TYPE_CHECKING:
    from mrcnn.config import Config
    from mrcnn.distribution import Devices

CALL_PIXELS = 4 * 512 * 512  # of all images of a call, on a CPU


class Detector:
    """Detects objects with the layers of a model. It has no weights, and several threads can use it at once.

    Args:
        graph: `graph.detector_graph` of the model: a function of the Config that returns inputs and outputs.
        devices: `distribution.Devices` that share a batch.
        image_shape: Initial value of the attribute.

    Attributes:
        image_shape: (height, width, channels) of the last molded image.
    """

    def __init__(self, graph: Callable[[Any], tuple[list, list]], devices: Devices, image_shape: Sequence[int]):
        self.graph = graph
        self.devices = devices
        self.image_shape = tuple(int(n) for n in image_shape)
        self._anchors: tuple = ((), None)  # image shape, anchors
        self._network: keras.Model | None = None
        self._built_with: FixedSettings | None = None
        self._lock = threading.Lock()
        self._memory = threading.local()

    def detect(
        self, images: Any, config: Config, report: Callable | None = None, class_names: Sequence[str] | None = None
    ) -> list[Detections]:
        """`MaskRCNN.detect`. `report` is called with a text, then with the name and array of each input."""
        images = molding.list_photos(images)
        paths = [image if isinstance(image, (str, Path)) else None for image in images]
        found = self.detect_arrays(molding.read_photos(images), config, report, class_names)
        return [Detections(*arrays, class_names=class_names, path=path) for arrays, path in zip(found, paths)]

    def detect_arrays(
        self, images: Any, config: Config, report: Callable | None = None, class_names: Sequence[str] | None = None
    ) -> list[tuple]:
        """`detect` for photos that have been read: boxes, class_ids, scores and `SoftMasks` of each."""
        if not images:
            return []
        resized, metas, windows = molding.resize_inputs(images, config)
        if report:
            report(f"Processing {len(images)} images")
            for name, array in [("image", image) for image in images] + [("image_metas", metas)]:
                report(name, np.asarray(array))
        results = []
        for part in self.parts(resized, config.BATCH_SIZE):
            molded = self.molded(resized[part], config.MEAN_PIXEL)
            if config.convention.pad_with_mean:
                for image, window in zip(molded, windows[part]):
                    clear_padding(image, window)
            detections, masks = self.predict(molded, metas[part], config, class_names)
            for i, image in enumerate(images[part]):
                shapes = np.shape(image), resized[part.start].shape
                places = *shapes, windows[part][i], config.convention
                results.append(molding.place_on_photo(detections[i], masks[i], *places))
        return results

    def parts(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[slice]:
        """The images of each call of the network: of one shape, at most `batch_size`.

        On a CPU they have at most `CALL_PIXELS` pixels together, because larger batches take more memory and no less
        time for each image (docs/performance.md).
        """
        whole = self.devices.count > 1 or has_accelerator()
        return molding.batches_of_one_shape(images, batch_size, np.inf if whole else CALL_PIXELS)

    def detect_molded(
        self,
        molded_images: np.ndarray,
        image_metas: np.ndarray,
        config: Config,
        report: Callable | None = None,
        class_names: Sequence[str] | None = None,
    ) -> list[Detections]:
        """`MaskRCNN.detect_molded`; `report` as of `detect`."""
        molded_images, image_metas = np.asarray(molded_images), np.asarray(image_metas)
        if report:
            report(f"Processing {len(molded_images)} images")
            report("molded_images", molded_images)
        detections, masks = self.predict(molded_images, image_metas, config, class_names)
        shape = molded_images[0].shape
        places = shape, shape, (0, 0, *shape[:2]), config.convention
        found = (molding.place_on_photo(d, m, *places) for d, m in zip(detections, masks, strict=True))
        return [Detections(*arrays, class_names=class_names) for arrays in found]

    def molded(self, images: Any, mean_pixel: ArrayLike) -> np.ndarray:
        """Images of one shape as a batch with the mean subtracted, in memory that this thread reuses."""
        shape = (len(images), *images[0].shape)
        if getattr(self._memory, "batch", np.empty(0)).shape != shape:
            self._memory.batch = np.empty(shape, np.float32)
        for image, place in zip(images, self._memory.batch):
            subtract_mean(image, mean_pixel, out=place)
        return self._memory.batch

    def predict(
        self, images: Any, metas: np.ndarray, config: Config, class_names: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """Images [B, H, W, channels], metas [B, 12 + C] -> detections [B, D, 6], masks [B, n, 28, 28]."""
        inputs = [images.astype(np.float32, copy=False), metas.astype(np.float32)]
        with self._lock:
            outputs = self.devices.predict(self.network(config, class_names), inputs)
            self.image_shape = images.shape[1:]
        return outputs

    def anchors(self, config: Config) -> np.ndarray:
        """[A, 4], pixels: the anchors for `image_shape`, cached until it changes."""
        if self._anchors[0] != self.image_shape:
            self._anchors = self.image_shape, anchors_of_image(self.image_shape, **config.anchor_settings())
        return self._anchors[1]

    def network(self, config: Config, class_names: Sequence[str] | None = None) -> keras.Model:
        """The graph for detection (`graph.detector_graph`), with BatchNorm folded into the convolutions.

        It is rebuilt when a setting changes that is part of the graph. Thresholds are not; they are read at each call.
        """
        if self._network is None or self._built_with.changed(config):
            warn_of_contradictions(config, stacklevel=6)
            self._network = fold_batchnorm(*self.graph(config))
            self._built_with = FixedSettings(config, DETECT, DETECT_AND_TRAIN)
            if keras.backend.backend() == "tensorflow":
                self._network.jit_compile = False
            elif keras.backend.backend() == "torch":
                free_outputs_early(self._network, write_into_input)
        set_thresholds(self._network, config, class_names)
        return self._network
