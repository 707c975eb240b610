"""`export_model`: converts, compares with Keras, and only then writes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import keras
import numpy as np

from mrcnn.data.dataset import Dataset
from mrcnn.export import litert, mrcnn_runtime, onnx, openvino, parity, saved_model
from mrcnn.export.export_graphs import Network, detection_network, staged_network
from mrcnn.export.exported_detector import ExportedDetector
from mrcnn.inference.molding import read_photos
from mrcnn.io import replacing
from mrcnn.ops.pixel_values import to_channels

EXPORT_FORMATS: dict[str, ModuleType] = {
    "onnx": onnx, "litert": litert, "saved_model": saved_model, "openvino": openvino,
}  # fmt: skip
KERAS_NAMES = {"tf_saved_model": "saved_model"}
PARITY, RUNTIME = "parity.json", "mrcnn_runtime.py"
CANVAS = {
    "square": 1,
    "pad32": 32,
    "shorter_side": 1,
}  # modes with a largest image, and what its sides are multiples of


class ParityError(ValueError):
    """An exported model differs from Keras by more than is allowed."""


def export_model(
    model: keras.Model, filepath: str | Path, format: str = "onnx", *, images: Sequence | None = None,
    dataset: Dataset | None = None, image_size: tuple[int, int] | None = None, batch_size: int | None = None,
    int8: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes a model for another runtime, if its results are those of Keras.

    The exported model takes images in 0..255, scaled and padded to one size, and two thresholds. It gives boxes, class
    ids, scores and masks. `mrcnn_runtime.py`, which is written beside it, does the rest: photos in, objects out.

    Args:
        model: `MaskRCNN`, under TensorFlow.
        filepath: The file to write; for "saved_model" a folder. Its suffix is added if it is missing.
        format: "onnx", "litert", "saved_model" (also "tf_saved_model", Keras's name) or "openvino".
        images: Photos or paths to compare on; None: 20 drawn ones. With photos of what the model was trained on, more
            objects are compared.
        dataset: Prepared `Dataset`: its AP is measured with Keras and with the exported model.
        image_size: (H, W) of the exported model. None: that of `IMAGE_RESIZE_MODE`, as far as it has a largest one.
        batch_size: Images that the exported model takes at once. None: any number, and 1 for "litert" and "openvino",
            which need a fixed one.
        int8: "litert" only. Convolutions and fully connected layers become int8, with ranges measured on `images`:
            pass photos of what the model was trained on. This changes the results, so AP is what is compared, and
            `dataset` is needed.

    Returns:
        What `parity.json` holds for this file.

    Raises:
        ParityError: The results differ: boxes or scores by more than 1e-4, masks by more than 1e-3 (not with
            `int8`), or AP by more than 0.01. Nothing is written.
        ImportError: The format needs a package that is missing.
        ValueError: The arguments, or settings of the model, cannot be exported; the message says which.
    """
    name = KERAS_NAMES.get(format, format)
    _check(model, name, int8, dataset)
    kind = EXPORT_FORMATS[name]
    path = Path(filepath)
    path = path if path.suffix == kind.SUFFIX or not kind.SUFFIX else path.with_name(path.name + kind.SUFFIX)
    size = tuple(image_size or _image_size(model.config))
    batch_size = 1 if kind.FIXED_SHAPES and batch_size is None else batch_size
    settings = runtime_settings(model, size, batch_size)
    network = detection_network(model, size, batch_size, kind.FIXED_SHAPES)
    fitted = [mrcnn_runtime.fit(photo, settings) for photo in _photos(model.config, images, size)]
    samples = list(parity.make_samples(network.run, fitted, _thresholds(settings)))
    if not any(count for sample in samples for count in sample.counts):
        raise ParityError(
            "The model finds nothing in the images, whatever the threshold, so boxes and masks can't be compared. Pass"
            " photos of its objects: images=[...]."
        )
    options = {"representative": _representative(fitted, settings)} if int8 else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        unfinished = Path(folder) / path.name
        kind.write(network, unfinished, **options)
        unfinished.with_name(path.name + ".json").write_text(json.dumps(settings, indent=1))
        report = _compared(model, kind, network, unfinished, samples, dataset, int8)
        record = {"format": name, "int8": int8, **report}
        _move_into_place(Path(folder), path, record)
    return record


# ---- Before ----------------------------------------------------------------------------------------------------------
def _check(model, format: str, int8: bool, dataset) -> None:
    if format not in EXPORT_FORMATS:
        known = ", ".join(map(repr, [*EXPORT_FORMATS, *KERAS_NAMES]))
        raise ValueError(f"format is {format!r}; expected one of {known}.")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras's backend is {keras.backend.backend()}; exports need TensorFlow. Weights saved under any backend"
            " can be exported in a process with KERAS_BACKEND=tensorflow."
        )
    if model.stages is None:
        raise ValueError("This model's class replaces `build`. Only networks that this package builds can be exported.")
    if model.config.COMPUTE_DTYPE != "float32":
        raise ValueError(
            f"COMPUTE_DTYPE is {model.config.COMPUTE_DTYPE!r}; exports need float32: set it, build the model again and"
            " load the same weights."
        )
    if int8 and format != "litert":
        raise ValueError(f'int8 is for format="litert"; the format is {format!r}.')
    if int8 and dataset is None:
        raise ValueError("int8 changes the results, so AP has to be measured: pass a dataset.")


def _image_size(config) -> tuple[int, int]:
    mode = config.IMAGE_RESIZE_MODE
    if mode not in CANVAS:
        raise ValueError(
            f'IMAGE_RESIZE_MODE is "{mode}", which has no largest image; pass image_size=(height, width), for photos'
            " that are not larger after scaling."
        )
    side = -(-config.IMAGE_MAX_DIM // CANVAS[mode]) * CANVAS[mode]
    return side, side


def runtime_settings(model: keras.Model, image_size: tuple[int, int], batch_size: int | None) -> dict[str, Any]:
    """What `mrcnn_runtime.py` reads: how photos become images, and boxes and masks come back to them."""
    config, rules = model.config, model.config.convention
    multiple = 1 if config.BOX_HEAD == "c4" else rules.size_multiple
    if any(side % multiple for side in image_size):
        raise ValueError(f"image_size is {image_size}; both sides must be multiples of {multiple}.")
    return {
        "image_size": list(image_size), "batch_size": batch_size, "channels": config.IMAGE_CHANNEL_COUNT,
        "class_names": model.class_names,
        "resize": {
            "mode": config.IMAGE_RESIZE_MODE, "min_dim": config.IMAGE_MIN_DIM, "max_dim": config.IMAGE_MAX_DIM,
            "min_scale": config.IMAGE_MIN_SCALE, "rounding": rules.side_rounding, "resampling": rules.resampling,
        },
        "box_offset": rules.box_offset, "whole_pixels": rules.whole_pixels, "mask_paste": rules.mask_paste,
        "min_confidence": config.DETECTION_MIN_CONFIDENCE or 0.0, "nms_threshold": config.DETECTION_NMS_THRESHOLD,
    }  # fmt: skip


def _thresholds(settings: dict) -> tuple[float, float]:
    return settings["min_confidence"], settings["nms_threshold"]


def _representative(fitted: list, settings: dict) -> list[dict[str, np.ndarray]]:
    """The inputs of the model for each photo, in batches of its size, as `litert.write` takes them."""
    thresholds, size = np.float32(_thresholds(settings)), settings["batch_size"]
    return [
        {
            "images": np.repeat(image[None], size, 0),
            "windows": np.repeat(window[None], size, 0),
            "thresholds": thresholds,
        }
        for image, window in fitted
    ]


def _photos(config, images: Iterable | None, size: tuple[int, int]) -> list[np.ndarray]:
    channels = config.IMAGE_CHANNEL_COUNT
    if images is None:
        return parity.drawn_photos(parity.SAMPLES, *size, channels)
    photos = read_photos(images)
    photos = [
        to_channels(x, channels, f"images[{i}]", config.IMAGE_RANGE, config.MEAN_PIXEL) for i, x in enumerate(photos)
    ]
    if not photos:
        raise ValueError("images is empty; expected photos or paths, or None for drawn ones.")
    return photos


# ---- Comparing -------------------------------------------------------------------------------------------------------
def _compared(model, kind: ModuleType, network: Network, path: Path, samples, dataset, int8: bool) -> dict[str, Any]:
    """The record of `parity.json`; raises ParityError."""
    exported = mrcnn_runtime.Model(path)
    record = parity.compare(samples, exported.run)
    wrong = [] if int8 else parity.failures(record["errors"])
    if wrong:
        stage = _find_wrong_stage(model, kind, network, samples[-1])
        where = f'The first stage that differs is "{stage}".' if stage else "Stage by stage there is no difference."
        raise ParityError(
            f"The exported model differs from Keras: {', '.join(wrong)}. {where} Nothing was written. Infinity means"
            " that it finds another number of objects, or other classes."
        )
    if int8:  # other objects may be found, so single errors say nothing
        record["errors"] = {}
    record["tolerances"] = {} if int8 else parity.TOLERANCES
    if dataset is not None:
        detector = ExportedDetector(exported, model.config)
        aps = [m.mask_ap for m in (model.evaluate_dataset(dataset, progress=False), detector.evaluate(dataset))]
        record["mask_ap"] = {"keras": aps[0], "exported": aps[1], "difference": aps[1] - aps[0]}
        if not abs(aps[1] - aps[0]) <= parity.AP_TOLERANCE:
            raise ParityError(
                f"The exported model has a mask AP of {aps[1]:.4f}, Keras {aps[0]:.4f}: a difference of more than"
                f" {parity.AP_TOLERANCE:g}. Nothing was written."
            )
    return record


def _find_wrong_stage(model, kind: ModuleType, network: Network, sample: parity.Sample) -> str | None:
    """Exports the network again with the results of all stages as outputs, and compares them on one image."""
    staged = staged_network(network, model)
    inputs = sample.images[:1], sample.windows[:1], sample.thresholds
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"stages{kind.SUFFIX}"
        kind.write(staged, path)
        run = mrcnn_runtime.load(path)
        return parity.first_wrong_stage(staged.run(*inputs), run(*inputs))


# ---- Writing ---------------------------------------------------------------------------------------------------------
def _move_into_place(folder: Path, path: Path, record: dict) -> None:
    """Moves everything in `folder` beside `path`, replacing what an earlier export wrote."""
    for made in folder.iterdir():
        target = path.parent / made.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(made, target)
    with replacing(path.with_name(RUNTIME)) as unfinished:
        shutil.copyfile(mrcnn_runtime.__file__, unfinished)
    known = path.with_name(PARITY)
    records = json.loads(known.read_text()) if known.exists() else {}
    with replacing(known) as unfinished:
        unfinished.write_text(json.dumps({**records, path.name: record}, indent=1))
