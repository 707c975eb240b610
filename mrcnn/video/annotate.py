"""Draws the detections of a model on each frame of a video; tracked objects keep their color.

Shapes: H x W pixels of a frame, n detections on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrcnn.drawing import palette
from mrcnn.drawing.renderer import draw_instances
from mrcnn.inference.results import Detections
from mrcnn.video.frames import VideoFile, read_video
from mrcnn.video.tracking import Tracker

logger = logging.getLogger(__name__)
PROGRESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"  # always frames per second
PROGRESS_TO_NO_END = "{n_fmt} frames [{elapsed}, {rate_noinv_fmt}]"


def draw_frame(frame: np.ndarray, found: dict, numbers: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Draws masks, outlines, boxes and captions "name score", in a color for each object number.

    Args:
        frame: [H, W, 3] uint8 RGB; not modified.
        found: one result of `MaskRCNN.detect`; sorted by score, so the best is drawn last.
        numbers: [n] int, of `Tracker`.
        class_names: names by class id, "BG" first.

    Returns:
        [H, W, 3] uint8.
    """
    captions = [f"{class_names[c]} {score:.2f}" for c, score in zip(found["class_ids"], found["scores"])]
    colors = palette.class_colors(numbers)
    masks = found[::-1].crops() if isinstance(found, Detections) else found["masks"][..., ::-1]
    return draw_instances(frame, found["rois"][::-1], masks, captions[::-1], colors[::-1])


def annotate_video(
    model: Any,
    source: str | Path | int,
    output: str | Path,
    class_names: Sequence[str],
    *,
    tracker: Tracker | None = None,
    rate: float | None = None,
    limit: int | None = None,
    progress: bool = True,
    report: Callable[[int, dict, np.ndarray], None] | None = None,
) -> Path:
    """Writes a video with the detections on another video.

    Args:
        model: `MaskRCNN`; detects `config.BATCH_SIZE` frames at a time.
        source: path of a video or of a folder of images, or the number of a camera (recorded until Ctrl-C).
        output: path that ends in .mp4 or .avi; see `mrcnn.video.frames`.
        class_names: names by class id, "BG" first, as `Dataset.class_names`.
        tracker: `Tracker`, or an object with its `update` method; None creates one.
        rate: frames per second; None uses the rate of the source.
        limit: maximum number of frames; None means all.
        progress: whether to show a progress bar with the frames per second, and a summary at the end.
        report: called for each frame with its number (from 0), its result of `detect`, and the objects' numbers [n].

    Returns:
        `output`.

    Raises:
        ValueError: the number of class names differs from the model's number of classes.
        See also `frames.read_video` and `frames.VideoFile`.
    """
    if len(class_names) != model.config.NUM_CLASSES:
        raise ValueError(
            f"{len(class_names)} class names for a model of {model.config.NUM_CLASSES} classes; expected one for each,"
            f' "BG" (the background) first: got {", ".join(class_names)}.'
        )
    video, tracker = read_video(source, rate), tracker or Tracker()
    batch_size = 1 if video.live else model.config.BATCH_SIZE
    total = min(filter(None, (video.count, limit)), default=None)
    bar_format = PROGRESS if total else PROGRESS_TO_NO_END
    bar = tqdm(total=total, unit=" frames", bar_format=bar_format, disable=not progress)
    with VideoFile(output, video.rate, video.live) as file, bar:
        try:
            for batch in _batches(islice(video.frames, limit), batch_size):
                for frame, found in zip(batch, model.detect(batch)):
                    numbers = tracker.update(found["rois"], found["class_ids"])
                    if report:
                        report(file.count, found, numbers)
                    file.write(draw_frame(frame, found, numbers, class_names))
                    bar.update()
        except KeyboardInterrupt:
            logger.warning("Stopped after %d frames.", file.count)
    if progress:
        tqdm.write(f"{output}: {file.count} frames of {video.name}, {file.codec}")
    return Path(output)


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    return iter(lambda: list(islice(frames, size)), [])
