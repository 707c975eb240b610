"""Checks a checkpoint of torchvision or detectron2: `python -m mrcnn.verify FILE`.

1. Prints the network in the file and its settings, arrays without a place, and whether all numbers are finite.
2. Loads the file, converts the weights back, and compares them with the file, bit by bit.
3. Runs an image through a network with the same parts and compares each stage, from the resized image to the masks,
   with results of the original project, which are recorded in the package. The record was made with weights from a
   formula, because the package can't include trained weights, so the same weights are used here.

With `--torchvision`, the weights in the file are used instead: an image runs through torchvision's network (which must
be installed) and through this package's. With `--record RECORD.npz`, the record belongs to the weights in the file.

    python -m mrcnn.verify maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth
    python -m mrcnn.verify maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth --torchvision --image photo.jpg

Takes half a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mrcnn.data.image_reading import read_image
from mrcnn.weights import read_state_dict, state_dict_of, write_state_dict
from mrcnn.weights.golden.formula import formula_state, formula_weight
from mrcnn.weights.golden.records import GOLDEN, golden_of, golden_picture, golden_record, read_record
from mrcnn.weights.golden.stages import StagedNetwork
from mrcnn.weights.golden.torchvision_run import run_torchvision
from mrcnn.weights.layouts import Network, layout_of
from mrcnn.weights.presets import PRESETS, preset_of
from mrcnn.weights.readers import open_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if nothing is wrong, 1 otherwise."""
    about, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn.verify", description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", help=".pth, .pkl or .safetensors")
    parser.add_argument("--record", help="record of the original project for the weights in the file, .npz")
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
    if not (options.record or options.torchvision):
        return verify_golden(options.file) and fine
    if not options.image:
        raise ValueError("--record and --torchvision need --image, the picture that runs through the network.")
    image = np.load(options.image) if options.image.endswith(".npy") else read_image(options.image)
    settings = dict(pair.split("=", 1) for pair in options.set)
    numbers = {name: float(value) if "." in value else int(value) for name, value in settings.items()}
    return verify_stages(options.file, options.record, image, **numbers) and fine


def verify_arrays(path: str) -> bool:
    """Prints what is in a file; returns whether each array has a place, none is missing, and all numbers are finite."""
    with open_weights(path) as file:
        if file.network is None:
            raise ValueError(f"{path} is a file of Keras, which has no names to convert; load_weights checks it.")
        arrays = [array for stored in file.layers.values() for array in stored]
        pieces = layout_of(file.network).pieces(file.network)
        found = {(array.piece.layer, array.piece.kind) for array in arrays}
        missing = [piece.source for piece in pieces if (piece.layer, piece.kind) not in found]
        wrong = [array.piece.source for array in arrays if not np.isfinite(array.read()).all()]
    print(f"{path}: {len(arrays)} arrays of a network of {file.network.convention or file.network.backbone}.")
    for name, value in file.network.settings().items():
        print(f"  {name} = {value!r}")
    for names, what in (
        (missing, "are missing"),
        (file.unused, "have no place"),
        (wrong, "have NaN or infinite values"),
    ):
        print(f"  {len(names)} arrays {what}{': ' if names else ''}{', '.join(names[:12])}")
    return not (missing or file.unused or wrong)


def verify_golden(path: str) -> bool:
    """Converts the weights in both directions and runs the golden image; returns whether everything agrees.

    The golden network has the weights of the file if those follow the formula, and other weights otherwise.
    """
    with open_weights(path) as file:
        network = file.network
    if not network.classes:
        print("  a backbone alone: nothing to run")
        return True
    name = golden_of(network)
    ignores = layout_of(network).ignores  # counters of training steps, ...
    state = {key: array for key, array in read_state_dict(path).items() if not ignores(key)}
    is_golden = name is not None and has_formula_weights(state, name)
    model = _build_model(path, network, **(GOLDEN[name].settings if is_golden else {}))
    back = state_dict_of(model, network=network)
    changed = changed_tensors(state, {key: array for key, array in back.items() if not ignores(key)})
    if network.pixel_std:  # one convolution was divided by it, so its last bit may differ
        changed = [key for key in changed if not np.allclose(state.get(key, np.nan), back.get(key, np.nan), 2**-23, 0)]
    print(f"  {len(changed)} tensors differ when converted back{': ' if changed else ''}{', '.join(changed[:12])}")
    if name is None:
        print("  The package has no record of a network with these parts.")
        return not changed
    if not is_golden:
        print(f"  Stages of {name} with weights by formula:")
        model = golden_model(name)
    errors = StagedNetwork(model).errors(golden_picture(), golden_record(name))
    return _print_errors(errors, f"{name}, as recorded") and not changed


def has_formula_weights(state: dict[str, np.ndarray], name: str) -> bool:
    """Whether a state dict has the weights of `formula_state(..., name)`. Stops at the first difference."""
    return all(np.array_equal(array, formula_weight(key, array.shape, state, name)) for key, array in state.items())


def changed_tensors(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """Names of the tensors that two state dicts do not share bit for bit."""
    names = [*before, *(name for name in after if name not in before)]
    return [n for n in names if n not in before or n not in after or not np.array_equal(before[n], after[n])]


def golden_model(name: str) -> Any:
    """A network of `GOLDEN` with the weights of the formula."""
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN

    golden = GOLDEN[name]
    with tempfile.TemporaryDirectory() as folder:
        config = Config(NAME="golden", **{**PRESETS[golden.preset].settings, **golden.settings})
        model = MaskRCNN("inference", config, folder)
        shapes = {key: array.shape for key, array in state_dict_of(model).items()}
        path = f"{folder}/formula.pth"
        write_state_dict(path, formula_state(shapes, name))
        model.load_weights(path)
    return model


def verify_stages(path: str, record: str | None, image: np.ndarray, **settings: float) -> bool:
    """Prints the error of each stage, with the weights in the file; returns whether all are small.

    Args:
        path: The checkpoint.
        record: `.npz` with the parts of each stage that `mrcnn.weights.golden.records` describes. None: torchvision
            computes them now.
        image: [height, width, 3] uint8, the image of the record.
        **settings: Of `Config`, as in the record.
    """
    with open_weights(path) as file:
        network = file.network
    if record is None and network.convention != "torchvision":
        raise ValueError(f"{path} is of {network.convention}, which torchvision can't run; give --record.")
    model = _build_model(path, network, **settings)
    if record is None:
        sides = model.config.IMAGE_MIN_DIM, model.config.IMAGE_MAX_DIM
        expected = run_torchvision(path, network, image, *sides, model.config.BATCH_NORM_EPS)
    else:
        expected = read_record(record, image)
    return _print_errors(StagedNetwork(model).errors(image, expected), Path(record).name if record else "torchvision")


def _build_model(path: str, network: Network, **settings: Any) -> Any:
    """The network in a file, with its weights."""
    from mrcnn.model import MaskRCNN

    return MaskRCNN.from_preset(preset_of(network), weights=path, **settings)


def _print_errors(errors: list, title: str) -> bool:
    table = Table("stage", "error", "limit", "", title=title)
    for error in errors:
        verdict = error.unit if error.small else f"{error.unit} TOO LARGE"
        table.add_row(error.stage, f"{error.error:.1e}", f"{error.limit:.0e}", verdict)
    Console().print(table)
    return all(error.small for error in errors)


if __name__ == "__main__":
    sys.exit(main())
