"""Run a model on a video, a folder of frames or a webcam; each tracked object keeps its color.

    python samples/video.py clip.mp4 --weights shapes          writes clip_detected.mp4; 10 frames per second
    python samples/video.py frames/ --weights last --fps 12    writes frames_detected.mp4; last: newest run
    python samples/video.py --webcam 0 --weights coco          writes webcam0_detected.mp4, until Ctrl-C

The 10 frames per second are for a clip of 384 x 384 pixels on 3 busy CPU cores (60 frames in 14 s, half of it start-up
time); the small network of balloon.py, at 512 pixels, reaches 2. docs/video.png shows four frames of that clip.

`--weights` is coco, balloon, shapes, last, or a file. The sample it belongs to (classes and settings) is read from the
file name, mask_rcnn_<sample>_0014.h5; for other names use `--sample`. To use any other model, in Python:

    from samples.video import annotate_video
    annotate_video(model, "clip.mp4", "found.mp4", dataset.class_names)

Shapes: H x W pixels of a frame, n detections on it, T tracked objects; boxes (y1, x1, y2, x2) pixels.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars

import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from mrcnn import weights
from mrcnn.drawing import palette
from mrcnn.drawing.instances import draw_instances
from mrcnn.model import MaskRCNN
from mrcnn.ops.boxes import compute_overlaps
from samples.common import LOGS, class_names_of, find_weights
from samples.frames import VideoFile, read_video

SAMPLES = ("balloon", "coco", "digits", "nucleus", "open_images", "pedestrians", "shapes")
PROGRESS = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"  # always frames per second
PROGRESS_TO_NO_END = "{n_fmt} frames [{elapsed}, {rate_noinv_fmt}]"


# ---- Which object is which -------------------------------------------------------------------------------------------
class Tracker:
    """Assigns a number to each object of a video that stays the same from frame to frame.

    The position of each object is extrapolated from its last motion. Detections are assigned to objects of the same
    class so that the sum of box IoUs is maximal (Hungarian method); unassigned detections become new objects. An object
    that is not detected keeps its number for some frames and is then dropped.

    Args:
        min_iou: least IoU of a detection with the expected box of its object.
        max_missed: number of consecutive frames without the object before it is dropped.

    Reference: Bewley et al., "Simple Online and Realtime Tracking", which predicts with a Kalman filter.
    """

    SMOOTHING = 0.5  # weight of the newest step in the motion; lower is smoother but slower to react

    def __init__(self, min_iou: float = 0.3, max_missed: int = 10):
        self.min_iou, self.max_missed = min_iou, max_missed
        self._last_number = 0
        self._numbers = np.zeros(0, int)  # [T]
        self._class_ids = np.zeros(0, int)  # [T]
        self._boxes = np.zeros((0, 4))  # [T, 4] last detected box
        self._steps = np.zeros((0, 4))  # [T, (dy, dx, dy, dx)] of a frame
        self._missed = np.zeros(0, int)  # [T] frames since

    def update(self, boxes, class_ids) -> np.ndarray:
        """Returns the numbers of the detections in the next frame.

        Args:
            boxes: [n, 4]; may be an empty list.
            class_ids: [n].

        Returns:
            [n] int, starting at 1; no number occurs twice.
        """
        boxes, class_ids = np.asarray(boxes, float).reshape(-1, 4), np.asarray(class_ids, int).reshape(-1)
        objects, found = self._match(boxes, class_ids)
        self._missed += 1
        self._follow(objects, boxes[found])
        numbers = np.zeros(len(boxes), int)
        numbers[found] = self._numbers[objects]
        new = np.flatnonzero(numbers == 0)
        numbers[new] = self._last_number + 1 + np.arange(len(new))
        self._last_number += len(new)
        self._keep(self._missed <= self.max_missed)
        self._add(numbers[new], class_ids[new], boxes[new])
        return numbers

    def _match(self, boxes, class_ids) -> tuple[np.ndarray, np.ndarray]:
        """Returns indices of objects and of the detections assigned to them."""
        expected = self._boxes + self._steps * (self._missed + 1)[:, np.newaxis]
        ious = compute_overlaps(expected, boxes)  # [T, n]
        ious[(ious < self.min_iou) | (self._class_ids[:, np.newaxis] != class_ids)] = 0
        objects, found = linear_sum_assignment(ious, maximize=True)
        real = ious[objects, found] > 0
        return objects[real], found[real]

    def _follow(self, objects, boxes) -> None:
        centre_moved = (boxes - self._boxes[objects]).reshape(-1, 2, 2).mean(axis=1)  # [found objects, (dy, dx)]
        steps = np.tile(centre_moved / self._missed[objects, np.newaxis], 2)
        self._steps[objects] += self.SMOOTHING * (steps - self._steps[objects])
        self._boxes[objects], self._missed[objects] = boxes, 0

    def _keep(self, kept) -> None:
        for name in ("_numbers", "_class_ids", "_boxes", "_steps", "_missed"):
            setattr(self, name, getattr(self, name)[kept])

    def _add(self, numbers, class_ids, boxes) -> None:
        self._numbers = np.concatenate([self._numbers, numbers])
        self._class_ids = np.concatenate([self._class_ids, class_ids])
        self._boxes = np.concatenate([self._boxes, boxes])
        self._steps = np.concatenate([self._steps, np.zeros((len(boxes), 4))])
        self._missed = np.concatenate([self._missed, np.zeros(len(boxes), int)])


# ---- Drawing ---------------------------------------------------------------------------------------------------------
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
    return draw_instances(frame, found["rois"][::-1], found["masks"][..., ::-1], captions[::-1], colors[::-1])


# ---- A video ---------------------------------------------------------------------------------------------------------
def annotate_video(
    model: MaskRCNN,
    source: str | Path | int,
    output: str | Path,
    class_names: Sequence[str],
    *,
    tracker: Tracker | None = None,
    rate: float | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes a video with the detections on another video.

    Args:
        model: `MaskRCNN`; detects `config.BATCH_SIZE` frames at a time.
        source: path of a video or of a folder of images, or the number of a camera (recorded until Ctrl-C).
        output: path that ends in .mp4 or .avi; see `samples.frames`.
        class_names: names by class id, "BG" first, as `Dataset.class_names`.
        tracker: `Tracker`, or an object with its `update` method; None creates one.
        rate: frames per second; None uses the rate of the source.
        limit: maximum number of frames; None means all.
        progress: whether to show a progress bar with the frames per second.

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
                    file.write(draw_frame(frame, found, numbers, class_names))
                    bar.update()
        except KeyboardInterrupt:
            print(f"Stopped after {file.count} frames.")
    if progress:
        print(f"{output}: {file.count} frames of {video.name}, {file.codec}")
    return Path(output)


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    return iter(lambda: list(islice(frames, size)), [])


# ---- Command ---------------------------------------------------------------------------------------------------------
def open_model(
    word: str, sample: str | None = None, class_names: Sequence[str] | None = None, logs: str | Path = LOGS
) -> tuple[MaskRCNN, list[str]]:
    """Opens a model trained by one of the samples.

    Args:
        word: `--weights`.
        sample: one of `SAMPLES`; None: from the name of the weights.
        class_names: without the background; None: those stored in the checkpoint, or else the sample's.
        logs: folder of the run folders, for "last".

    Returns:
        (`MaskRCNN` in inference mode, class names by class id).

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the sample or the classes are unknown.
    """
    sample, word = (sample, word) if sample else sample_of(word, logs)
    module = importlib.import_module(f"samples.{sample}")
    if class_names:
        names = ["BG", *class_names]
    else:
        names = class_names_of(find_weights(word, sample, logs)) or getattr(module, "CLASS_NAMES", None)
    if not names:
        raise ValueError(f"The classes of {word} are unknown; give them with --classes, in order of their ids.")
    return module.trained_model(word, logs), names


def sample_of(word: str, logs: str | Path) -> tuple[str, str]:
    """Returns (sample, weights) for a value of `--weights`; "last" is the newest run of all samples."""
    if word.lower() == "last":
        newest = max(filter(None, (_last(logs, sample) for sample in SAMPLES)), default=None)
        if newest is None:
            raise FileNotFoundError(f"--weights last: no checkpoint of {', '.join(SAMPLES)} under {logs}.")
        return newest[1:]
    match = re.fullmatch(rf"(?:mask_rcnn_)?({'|'.join(SAMPLES)})(?:_\d+)?", Path(word).stem.lower())
    if match is None:
        raise ValueError(
            f"--weights {word}: the name does not contain a sample, as in mask_rcnn_balloon_0014.h5; give"
            f" --sample with one of {', '.join(SAMPLES)}."
        )
    return match[1], word


def _last(logs, sample: str) -> tuple[float, str, str] | None:
    """Returns (time, sample, path) of the last checkpoint of a sample, or None."""
    try:
        path = str(weights.find_last(logs, sample))
    except FileNotFoundError:
        return None
    return os.path.getmtime(path), sample, path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", nargs="?", help="video file, or folder of images")
    parser.add_argument("--webcam", type=int, metavar="NUMBER", help="record from this camera instead, until Ctrl-C")
    parser.add_argument("--weights", required=True, help="coco, balloon, shapes, last, or a file")
    parser.add_argument(
        "--sample", choices=SAMPLES, help="sample that the weights belong to (default: from the file name)"
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="class names of the weights (default: the sample's)"
    )
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--output", help="video to write, .mp4 or .avi (<source>_detected.mp4)")
    parser.add_argument("--fps", type=float, help="frames per second (the source's; 25 for folders)")
    parser.add_argument("--limit", type=int, help="maximum number of frames")
    parser.add_argument("--batch", type=int, help="frames per batch (default: the sample's IMAGES_PER_GPU)")
    parser.add_argument("--confidence", type=float, help="minimum score (default: the sample's)")
    args = parser.parse_args(arguments)
    if (args.source is None) == (args.webcam is None):
        parser.error("give either a source or --webcam")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    source = args.webcam if args.source is None else Path(args.source)
    name = f"webcam{source}" if args.source is None else source.with_suffix("")
    model, class_names = open_model(args.weights, args.sample, args.classes, args.logs)
    model.config.BATCH_SIZE = args.batch or model.config.BATCH_SIZE
    if args.confidence is not None:
        model.config.DETECTION_MIN_CONFIDENCE = args.confidence
    output = args.output or f"{name}_detected.mp4"
    annotate_video(model, source, output, class_names, rate=args.fps, limit=args.limit)


if __name__ == "__main__":
    main()
