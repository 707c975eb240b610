"""Run a model on a video, a folder of frames or a webcam; each tracked object keeps its color.

    python samples/video.py clip.mp4 --weights shapes          writes clip_detected.mp4; 10 frames per second
    python samples/video.py frames/ --weights last --fps 12    writes frames_detected.mp4; last: newest run
    python samples/video.py --webcam 0 --weights coco          writes webcam0_detected.mp4, until Ctrl-C

The 10 frames per second are for a clip of 384 x 384 pixels on 3 busy CPU cores (60 frames in 14 s, half of it start-up
time); the small network of balloon.py, at 512 pixels, reaches 2. docs/video.png shows four frames of that clip.

`--weights` is coco, balloon, shapes, last, or a file. The sample it belongs to (classes and settings) is read from the
file name, mask_rcnn_<sample>_0014.h5; for other names use `--sample`. To use any other model, in Python:

    from mrcnn.video import annotate_video
    annotate_video(model, "clip.mp4", "found.mp4", dataset.class_names)
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars

from mrcnn import weights
from mrcnn.model import MaskRCNN
from mrcnn.video import annotate_video
from samples.common import LOGS, class_names_of, find_weights

SAMPLES = ("balloon", "coco", "digits", "nucleus", "open_images", "pedestrians", "shapes")


# ---- Command ---------------------------------------------------------------------------------------------------------
def open_model(
    weights: str, sample: str | None = None, class_names: Sequence[str] | None = None, logs: str | Path = LOGS
) -> tuple[MaskRCNN, list[str]]:
    """Opens a model trained by one of the samples.

    Args:
        weights: `--weights`.
        sample: one of `SAMPLES`; None: from the name of the weights.
        class_names: without the background; None: those stored in the checkpoint, or else the sample's.
        logs: folder of the run folders, for "last".

    Returns:
        (`MaskRCNN` in inference mode, class names by class id).

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the sample or the classes are unknown.
    """
    sample, weights = (sample, weights) if sample else sample_of(weights, logs)
    module = importlib.import_module(f"samples.{sample}")
    if class_names:
        names = ["BG", *class_names]
    else:
        names = class_names_of(find_weights(weights, sample, logs)) or getattr(module, "CLASS_NAMES", None)
    if not names:
        raise ValueError(f"The classes of {weights} are unknown; give them with --classes, in order of their ids.")
    return module.trained_model(weights, logs), names


def sample_of(weights: str, logs: str | Path) -> tuple[str, str]:
    """Returns (sample, weights) for a value of `--weights`; "last" is the newest run of all samples."""
    if weights.lower() == "last":
        newest = max(filter(None, (_last(logs, sample) for sample in SAMPLES)), default=None)
        if newest is None:
            raise FileNotFoundError(f"--weights last: no checkpoint of {', '.join(SAMPLES)} under {logs}.")
        return newest[1:]
    match = re.fullmatch(rf"(?:mask_rcnn_)?({'|'.join(SAMPLES)})(?:_\d+)?", Path(weights).stem.lower())
    if match is None:
        raise ValueError(
            f"--weights {weights}: the name does not contain a sample, as in mask_rcnn_balloon_0014.h5; give"
            f" --sample with one of {', '.join(SAMPLES)}."
        )
    return match[1], weights


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
