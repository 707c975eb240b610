"""The batches that `fit` and `evaluate` take."""

from __future__ import annotations

import keras

from mrcnn.data.generator import DataGenerator


def stream_of(batches, devices):
    """What `fit` can take in place of a `DataGenerator`, and how many steps an epoch has.

    In the resize modes "none" and "pad64" batches differ in size. Under TensorFlow Keras would settle their shape by
    the first two of an epoch and fail at a third one, so they go through a `tf.data.Dataset` that leaves it open.

    Args:
        batches: of `fit` or `evaluate`.
        devices: `devices.Devices` that will share them.

    Returns:
        (batches, None) as given, where nothing needs to be done; or (tf.data.Dataset without end, steps).
    """
    if not isinstance(batches, DataGenerator):
        return batches, None
    devices.check_batches(batches)
    fixed = batches.stream.config.IMAGE_RESIZE_MODE in ("square", "crop")
    if fixed or keras.backend.backend() != "tensorflow":
        return batches, None
    import tensorflow as tf

    def open_shape(name, array):
        sizes = list(array.shape)
        whole_masks = name == "input_gt_masks" and not batches.stream.config.USE_MINI_MASK
        for axis in {"input_image": (0, 1, 2), "input_rpn_match": (0, 1)}.get(name, (0, 1, 2) if whole_masks else (0,)):
            sizes[axis] = None
        return tf.TensorSpec(sizes, array.dtype)

    def endless():
        while True:
            for i in range(len(batches)):
                yield batches[i]
            batches.on_epoch_end()

    signature = ({name: open_shape(name, array) for name, array in batches[0][0].items()},)
    return tf.data.Dataset.from_generator(endless, output_signature=signature).prefetch(2), len(batches)
