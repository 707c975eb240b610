"""Repairs of imgaug, which is no longer maintained: for NumPy 2, and of the grid of its nearest-neighbor resizing.

`pyimgaug` 0.5.0, which the extra `imgaug` installs, is imgaug's last development state, made importable on NumPy 2.
imgaug 0.4.0, its last release, cannot be imported there without `np.sctypes`.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from mrcnn.ops.interpolation import image_sources


def restore_sctypes() -> None:
    """Gives NumPy the table `np.sctypes` back, so that imgaug 0.4.0 can be imported."""
    if hasattr(np, "sctypes"):
        return
    np.sctypes = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
        "complex": [np.complex64, np.complex128, np.clongdouble],
        "others": [bool, object, bytes, str, np.void],
    }


@functools.cache
def repair_augmenters() -> None:
    """Repairs `Crop`, `CropAndPad`, `RandAugment` and `ElasticTransformation` of pyimgaug 0.5.0, and resizing.

    The first three convert arrays of one element to Python numbers, which NumPy 2.4 refuses; the shifts of the fourth
    are float64 on NumPy 2, which OpenCV refuses. Augmenters that keep the size of images resize them from pixel
    centers, but masks from pixel corners, so that these moved half a pixel.
    """
    import imgaug.imgaug
    from imgaug.augmenters import geometric, size

    imgaug.imgaug.imresize_many_images = functools.partial(_resize_from_centers, imgaug.imgaug.imresize_many_images)

    elastic = geometric.ElasticTransformation
    elastic._map_coordinates = functools.partialmethod(_map_float32, elastic._map_coordinates)
    if hasattr(size, "_prevent_zero_sizes_after_crops_"):
        size._prevent_zero_size_after_crop_ = functools.partial(_crop_of_one_axis, size)


@functools.cache
def uint8_maps() -> type:
    """A class of `SegmentationMapsOnImage` that stay uint8; int32 is interpolated by scikit-image only, slowly."""
    from imgaug.augmentables import segmaps

    class SegmentationMapsOnImage(segmaps.SegmentationMapsOnImage):  # imgaug asks for this name
        def __init__(self, arr, shape):
            super().__init__(arr, shape)
            self.arr = arr

        def copy(self, arr=None, shape=None):
            return type(self)(self.arr if arr is None else arr, self.shape if shape is None else shape)

        def deepcopy(self, arr=None, shape=None):
            return self.copy(np.copy(self.arr if arr is None else arr), shape)

    return SegmentationMapsOnImage


def _resize_from_centers(resize, images, sizes=None, interpolation=None):
    """`imgaug.imresize_many_images`; `resize` is imgaug's own."""
    whole = isinstance(sizes, tuple) and all(isinstance(side, (int, np.integer)) and side > 0 for side in sizes)
    nearest = interpolation in ("nearest", cv2.INTER_NEAREST)
    if not nearest or not whole or not isinstance(images, np.ndarray) or images.ndim not in (3, 4) or 0 in images.shape:
        return resize(images, sizes, interpolation)
    rows, columns = (image_sources(*sides) for sides in zip(images.shape[1:3], sizes))
    return images[:, rows][:, :, columns]


def warp_map_like_image(augmenter: Any, segmaps: Any, random_state: Any, parents: Any, hooks: Any) -> Any:
    """`AffineCv2._augment_segmentation_maps` of one image, with the interpolation and the border of the image."""
    (segmap,) = segmaps
    *placing, _, mode, order = augmenter._draw_samples(1, random_state)
    parts = np.split(segmap.arr, range(4, segmap.arr.shape[-1], 4), axis=-1)  # OpenCV warps four channels at most
    fill = np.zeros((1, 4), np.float32)
    moved = [augmenter._augment_images_by_samples([part], *placing, fill, mode, order)[0] for part in parts]
    segmap.arr = np.concatenate(moved, axis=-1)
    return segmaps


def _map_float32(transformation, map_coordinates, image, dx, dy, **options):
    return map_coordinates(transformation, image, dx.astype(np.float32), dy.astype(np.float32), **options)


def _crop_of_one_axis(size, axis_size, crop_start, crop_end):
    arrays = (np.array([value], np.int32) for value in (axis_size, crop_start, crop_end))
    return (int(values[0]) for values in size._prevent_zero_sizes_after_crops_(*arrays))
