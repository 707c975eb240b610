"""A Keras callback that computes average precision during training, for other callbacks to monitor."""

from __future__ import annotations

import importlib.util
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.drawing.palette import class_colors
from mrcnn.drawing.renderer import encode, side_by_side
from mrcnn.evaluation.evaluate import MIN_SCORE, NUMBERS, evaluate_dataset
from mrcnn.evaluation.instance_images import PICTURE_SIDE, picture_of
from mrcnn.evaluation.instances import Instances, truth_of
from mrcnn.io import replacing, write_errors

logger = logging.getLogger(__name__)


class EvaluateDataset(keras.callbacks.Callback):
    """Evaluates the model during training: adds val_box_ap, val_mask_ap and val_mask_ap50 to the logs of an epoch.

    Put it before the callbacks that monitor these numbers, because Keras calls callbacks in order.

    Example:

        fit(..., callbacks=[
            EvaluateDataset(dataset_val, every=5),
            keras.callbacks.ModelCheckpoint("best.weights.h5", monitor="val_mask_ap", mode="max", save_best_only=True),
            keras.callbacks.EarlyStopping(monitor="val_mask_ap", mode="max", patience=20),
        ])

    The first and the last epoch of a run are always evaluated. In other epochs, the logs repeat the last values, so
    that `patience` counts epochs, and a CSV file has all columns from its first line.

    Args:
        dataset: A prepared `Dataset`.
        every: Evaluate every `every` epochs.
        images: The images to use: None for all, an int for the first ones, or a list of the dataset's image ids.
        pictures: Number of images to draw at each evaluation, with the ground truth on the left and the detections on
            the right. 0: none.
        log_dir: Pictures are written to its folder "validation_pictures", as TensorBoard events if TensorFlow is
            installed, otherwise as PNG files. None: the model's `log_dir`; without one, no pictures are written.
        min_score: AP counts detections with at least this score, whatever `DETECTION_MIN_CONFIDENCE` is; see
            `evaluate_dataset`.
        progress: Whether to show a progress bar.
        picture_min_score: Detections with a lower score are not drawn.

    Attributes:
        report: `Report` of the last evaluation, or None.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(
        self,
        dataset: Dataset,
        every: int = 1,
        images: int | Sequence[int] | None = None,
        pictures: int = 4,
        log_dir: str | Path | None = None,
        min_score: float | None = MIN_SCORE,
        progress: bool = False,
        picture_min_score: float = 0.5,
    ):
        super().__init__()
        if not isinstance(every, (int, np.integer)) or every < 1:
            raise ValueError(f"EvaluateDataset: every is {every!r}; expected a whole number of epochs, 1 or more.")
        if isinstance(images, (int, np.integer)) and images < 1:
            raise ValueError(f"EvaluateDataset: images is {images}; expected 1 or more, a list of images, or None.")
        self.dataset = dataset
        self.every = every
        self.images = images
        self.pictures = pictures
        self.log_dir = log_dir
        self.min_score = min_score
        self.progress = progress
        self.picture_min_score = picture_min_score
        self.report = None
        self._logs = None
        self._writer = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._logs = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last = epoch + 1 == (self.params or {}).get("epochs")
        if self._logs is None or last or (epoch + 1) % self.every == 0:
            self._evaluate(epoch)
        if logs is not None:
            logs.update(self._logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def image_ids(self) -> list[int]:
        """Ids of the images that are evaluated."""
        if self.images is None:
            return [int(i) for i in self.dataset.image_ids]
        if isinstance(self.images, (int, np.integer)):
            return [int(i) for i in self.dataset.image_ids[: self.images]]
        return [int(i) for i in self.images]

    def _evaluate(self, epoch: int) -> None:
        ids = self.image_ids()
        self.report = evaluate_dataset(
            self.model, self.dataset, ids, min_score=self.min_score, boundary=False, progress=self.progress
        )
        self._logs = {f"val_{name}": self.report.numbers[name] for name in NUMBERS}
        folder = self.log_dir or getattr(self.model, "log_dir", None)
        if folder and self.pictures:
            folder = Path(folder) / "validation_pictures"
            try:
                self._write(folder, epoch, ids[: self.pictures])
            except write_errors() as error:
                logger.warning("%s is not written: %s. Training continues.", folder, str(error).splitlines()[0])

    def _write(self, folder: Path, epoch: int, image_ids: list[int]) -> None:
        pictures = {f"image_{i}": encode(self.picture(i), ".png") for i in image_ids}
        if importlib.util.find_spec("tensorflow") is None:
            for name, png in pictures.items():
                _save(folder / f"{name}_epoch_{epoch + 1:04d}.png", png)
            return
        if self._writer is None:
            self._writer = _EventFile(folder)
        for name, png in pictures.items():
            self._writer.add_picture(name, png, epoch)

    def picture(self, image_id: int) -> np.ndarray:
        """[h, w, 3] uint8: an image with its ground truth, next to the same image with its detections."""
        image = self.dataset.load_image(image_id)
        truth = truth_of(self.dataset, image_id)
        found = self.report.predictions.detections(image_id, image.shape[:2])
        found = found.take(np.flatnonzero(found.scores >= self.picture_min_score))
        return side_by_side(self._draw(image, truth), self._draw(image, found))

    def _draw(self, image, instances: Instances) -> np.ndarray:
        captions = [self.dataset.class_names[c] for c in instances.class_ids]
        if instances.scores is not None and len(instances.scores) == len(captions):
            captions = [f"{name} {score:.2f}" for name, score in zip(captions, instances.scores)]
        return picture_of(image, instances, captions, class_colors(instances.class_ids), PICTURE_SIDE)


class _EventFile:
    """A file of TensorBoard events, written record by record.

    `tf.summary` would allocate memory on the GPU, which the training needs, on any backend.
    """

    def __init__(self, folder: Path):
        import tensorflow as tf

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = tf.compat.v1.Event, tf.compat.v1.Summary
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._records = tf.io.TFRecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")

    def _write(self, **content) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def add_picture(self, name: str, png: bytes, step: int) -> None:
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # where PNG has them
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._write(step=step, summary=self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        self._records.close()


def _save(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
