"""Checks a checkpoint of torchvision or detectron2: `python -m mrcnn.verify FILE`.

Prints the network in the file and its settings, arrays without a place, and whether all numbers are finite.

With `--torchvision`, a picture runs through torchvision's network (which must be installed) and through ours. With
`--record RECORD.npz`, the record says what the original project computed for the same weights and picture
(tests/golden/torch). The error of each stage is printed: the largest difference, divided by the largest value of the
stage. Errors above 1e-4 mean another network or another setting.

    python -m mrcnn.verify maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth --torchvision --image photo.jpg

Takes 5 s, with a picture 20 s.
"""

from __future__ import annotations

import argparse
import io
import sys
import zlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mrcnn.data.image_reading import read_image
from mrcnn.weights.readers import open_weights
from mrcnn.weights.torchvision_record import torchvision_record

LARGEST_ERROR = 1e-4
MOST_CHANNELS, MOST_CELLS = 16, 12  # of a map in a record, and of its rows and columns


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if nothing is wrong, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m mrcnn.verify", description=__doc__.split("\n")[0])
    parser.add_argument("file", help=".pth, .pkl or .safetensors")
    parser.add_argument("--record", help="record of the original project for the same weights, .npz")
    parser.add_argument("--torchvision", action="store_true", help="compare with torchvision, which must be installed")
    parser.add_argument("--image", help="the picture: an image file, or .npy, [height, width, 3] uint8 RGB")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="a setting")
    options = parser.parse_args(arguments)
    try:
        return 0 if _verify(options) else 1
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1


def _verify(options: argparse.Namespace) -> bool:
    fine = verify_arrays(options.file)
    if options.record or options.torchvision:
        if not options.image:
            raise ValueError("--record and --torchvision need --image, the picture that runs through the network.")
        image = np.load(options.image) if options.image.endswith(".npy") else read_image(options.image)
        settings = dict(pair.split("=", 1) for pair in options.set)
        numbers = {name: float(value) if "." in value else int(value) for name, value in settings.items()}
        fine &= verify_stages(options.file, options.record, image, **numbers)
    return fine


def verify_arrays(path: str) -> bool:
    """Prints what is in a file; returns whether each array has a place, none is missing, and all numbers are finite."""
    from mrcnn.weights.layouts import LAYOUTS

    with open_weights(path) as file:
        if file.network is None:
            raise ValueError(f"{path} is a file of Keras, which has no names to convert; load_weights checks it.")
        arrays = [array for stored in file.layers.values() for array in stored]
        pieces = LAYOUTS[file.network.convention].pieces(file.network)
        found = {(array.piece.layer, array.piece.kind) for array in arrays}
        missing = [piece.source for piece in pieces if (piece.layer, piece.kind) not in found]
        wrong = [array.piece.source for array in arrays if not np.isfinite(array.read()).all()]
    print(f"{path}: {len(arrays)} arrays of a network of {file.network.convention}.")
    for name, value in file.network.settings().items():
        print(f"  {name} = {value!r}")
    for names, what in (
        (missing, "are missing"),
        (file.unused, "have no place"),
        (wrong, "have NaN or infinite values"),
    ):
        print(f"  {len(names)} arrays {what}{': ' if names else ''}{', '.join(names[:12])}")
    return not (missing or file.unused or wrong)


def verify_stages(path: str, record: str | None, image: np.ndarray, **settings: float) -> bool:
    """Prints the error of each stage against a record; returns whether all are small.

    Args:
        path: The checkpoint.
        record: `.npz` with maps of image 0, thinned as tests/golden/torch/formula.py does, and its detections. None:
            torchvision computes them now.
        image: [height, width, 3] uint8, image 0 of the record.
        **settings: Of `Config`, as in the record.
    """
    from mrcnn.model import MaskRCNN

    with open_weights(path) as file:
        network = file.network
    if record is None and network.convention != "torchvision":
        raise ValueError(f"{path} is of {network.convention}, which torchvision can't run; give --record.")
    if network.convention == "torchvision":
        word = "torchvision_v2" if network.head_norm else "torchvision"
    else:
        word = f"detectron2/mask_rcnn_R_50_{'C4' if network.box_head == 'c4' else 'FPN'}_3x"
    model = MaskRCNN.from_preset(word, weights=path, **settings)
    if record is None:
        sides = model.config.IMAGE_MIN_DIM, model.config.IMAGE_MAX_DIM
        expected = torchvision_record(path, network, image, *sides, model.config.BATCH_NORM_EPS)
        expected = {name: _thinned(a.transpose(1, 2, 0)) if a.ndim == 3 else a for name, a in expected.items()}
    else:
        expected = _read_record(record, image)
    errors = _stage_errors(model, image, expected) | _detection_errors(model.detect([image])[0], expected)
    table = Table("stage", "error", title=Path(record).name if record else "torchvision")
    for stage, error in errors.items():
        table.add_row(stage, f"{error:.1e}" + ("" if error <= LARGEST_ERROR else "  above 1e-4"))
    Console().print(table)
    return all(error <= LARGEST_ERROR for error in errors.values())


def _read_record(path: str, image: np.ndarray) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        expected = {name: data[name] for name in data.files}
    if "image_crc32" in expected and int(np.ravel(expected["image_crc32"])[0]) != zlib.crc32(image.tobytes()):
        raise ValueError(f"{path} was made from another image: the CRC-32 differs.")
    return expected


def _stage_errors(model, image: np.ndarray, expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The error of C2..C5 and P2..P6, as far as the network and the record have them."""
    names = {layer.name for layer in model.layers}
    norm = "_bn" if model.config.FPN_NORM else ""
    outputs = {i: [name for name in names if name.startswith(f"res{i}") and name.endswith("_out")] for i in range(2, 6)}
    layers = {f"C{i}": max(blocks) for i, blocks in outputs.items() if blocks}  # C4 networks have stage 5 in the head
    layers |= {f"P{i}": f"fpn_p{i}{norm if i < 6 else ''}" for i in range(2, 7)}
    wanted = {s: layer for s, layer in layers.items() if layer in names and f"{s}_0" in expected}
    with redirect_stdout(io.StringIO()):  # `run_graph` prints each map, as matterport's
        maps = model.run_graph([image], [(stage, model.get_layer(layer).output) for stage, layer in wanted.items()])
    return {stage: _error(_thinned(maps[stage][0]), expected[f"{stage}_0"]) for stage in wanted}


def _detection_errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    boxes = expected["boxes_0"][:, [1, 0, 3, 2]]  # x, y in a record
    if len(boxes) != len(found["rois"]):
        raise ValueError(f"The network finds {len(found['rois'])} objects, and the record has {len(boxes)}.")
    return {"boxes": _error(found["rois"], boxes), "scores": _error(found["scores"], expected["scores_0"])}


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))


def _thinned(feature: np.ndarray) -> np.ndarray:
    """[h, w, C] -> the part of a map that a record holds, [channels, rows, columns]."""
    height, width, channels = feature.shape
    rows, columns = (np.arange(m := min(n, MOST_CELLS)) * (n - 1) // max(m - 1, 1) for n in (height, width))
    return feature.transpose(2, 0, 1)[:: max(1, channels // MOST_CHANNELS)][:, rows][:, :, columns]


if __name__ == "__main__":
    sys.exit(main())
