"""Runs an exported Mask R-CNN on photos. This file is all it needs, with NumPy and the runtime of the model's format.

    file             install
    model.onnx       onnxruntime
    model.tflite     ai-edge-litert
    model.xml        openvino
    a SavedModel     tensorflow

`mrcnn export` writes this file beside the model, and `<model>.json` with the settings that it reads. Copy all three.

    from mrcnn_runtime import Model

    model = Model("model.onnx")
    found = model.detect([photo])[0]  # photo: [height, width, 3] uint8, RGB
    found["rois"], found["class_ids"], found["scores"], found["masks"]

As a command, `python mrcnn_runtime.py model.onnx photo.jpg` prints the objects as JSON. It reads .npy and .ppm files;
other kinds of images need Pillow.

Shapes and units:
    B  images     H0 x W0  a photo     H x W  the image that the model takes     n  objects     m x m  masks, 28 x 28
    boxes  (y1, x1, y2, x2); for users in pixels of the photo, y2 and x2 just outside; inside normalized to the image
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

PILLOW_BITS = 22  # Pillow's weights are whole numbers of 1 / 2**22


class Model:
    """An exported model and its settings.

    Args:
        path: The model: `.onnx`, `.tflite`, `.xml`, or the folder of a SavedModel.

    Attributes:
        settings: What `<path>.json` holds.
        class_names: Names by class id, the background's first; None if they are unknown.

    Raises:
        FileNotFoundError: The model or its settings are missing.
        ImportError: The runtime of this format is not installed.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist.")
        settings = path.with_name(path.name + ".json")
        if not settings.exists():
            raise FileNotFoundError(f"{settings} is missing. It was written beside the model: copy it as well.")
        self.settings = json.loads(settings.read_text())
        self.class_names: list[str] | None = self.settings["class_names"]
        self._run_batch = load(path)

    def run(self, images: np.ndarray, windows: np.ndarray, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
        """Runs the model itself.

        Args:
            images: [B, H, W, channels] float32 in 0..255, see `fit`.
            windows: [B, 4] float32, pixels: the part of each image that is not padding.
            thresholds: (min_confidence, nms_threshold).

        Returns:
            `boxes` [B, D, 4] normalized to the image, `class_ids` [B, D] int32, 0 after the last object, `scores`
            [B, D] and `masks` [B, n, m, m] in 0..1.
        """
        size, parts = self.settings["batch_size"] or len(images), []
        for start in range(0, len(images), size):
            rows = np.minimum(np.arange(start, start + size), len(images) - 1)  # the last image fills a fixed batch
            parts.append(self._run_batch(images[rows], windows[rows], np.asarray(thresholds, np.float32)))
        return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}

    def detect(
        self, photos: Sequence[np.ndarray], min_confidence: float | None = None, nms_threshold: float | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Finds objects.

        Args:
            photos: [H0, W0, 3] RGB or [H0, W0] gray, uint8, or float32 in 0..255, of any sizes.
            min_confidence: Objects with a lower score are left out; None: as when the model was exported.
            nms_threshold: IoU above which the lower-scored of two boxes is dropped; None: as when it was exported.

        Returns:
            A dict for each photo: `rois` [n, 4] int32 or float32, `class_ids` [n] int32, `scores` [n] float32, best
            first, `masks` [H0, W0, n] bool.
        """
        if not photos:
            return []
        given = min_confidence, nms_threshold
        exported = self.settings["min_confidence"], self.settings["nms_threshold"]
        photos = [to_channels(photo, self.settings["channels"]) for photo in photos]
        images, windows = zip(*(fit(photo, self.settings) for photo in photos))
        thresholds = [b if a is None else a for a, b in zip(given, exported)]
        found = self.run(np.stack(images), np.stack(windows), thresholds)
        return [
            place({name: x[i] for name, x in found.items()}, windows[i], photo.shape[:2], self.settings)
            for i, photo in enumerate(photos)
        ]


# ---- In and out of the model -----------------------------------------------------------------------------------------
def to_channels(photo: np.ndarray, channels: int) -> np.ndarray:
    """Checks a photo; gray [H0, W0] becomes [H0, W0, channels]."""
    photo = np.asarray(photo)
    photo = photo[..., None] if photo.ndim == 2 else photo
    if photo.ndim == 3 and photo.shape[2] == 1:
        photo = np.repeat(photo, channels, axis=2)
    if photo.ndim != 3 or photo.shape[2] != channels or 0 in photo.shape:
        raise ValueError(f"The photo has shape {photo.shape}; expected [height, width, {channels}].")
    if photo.dtype not in (np.uint8, np.float32):
        raise ValueError(f"The photo has dtype {photo.dtype}; expected uint8, or float32 in 0..255.")
    return photo


def fit(photo: np.ndarray, settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Scales and pads a photo [H0, W0, channels] to the model's size: [H, W, channels] and the window, float32."""
    resize, (height, width) = settings["resize"], settings["image_size"]
    sides = scaled_sides(photo.shape[:2], resize)
    if sides[0] > height or sides[1] > width:
        raise ValueError(
            f"The photo of {photo.shape[0]} x {photo.shape[1]} pixels is scaled to {sides[0]} x {sides[1]}, but the"
            f" model takes {height} x {width}. Export it with a larger image_size, or make the photo smaller."
        )
    if sides != photo.shape[:2]:
        photo = RESIZE[resize["resampling"]](photo, sides)
    centered = resize["mode"] not in ("pad32", "shorter_side")
    top, left = ((a - b) // 2 if centered else 0 for a, b in zip((height, width), sides))
    image = np.zeros((height, width, photo.shape[2]), np.float32)
    image[top : top + sides[0], left : left + sides[1]] = photo
    return image, np.array([top, left, top + sides[0], left + sides[1]], np.float32)


def place(outputs: dict[str, np.ndarray], window: np.ndarray, photo_size: Sequence[int], settings: dict) -> dict:
    """The outputs for one image -> objects on the photo of (H0, W0) pixels, as `Model.detect` returns them."""
    offset, whole = settings["box_offset"], settings["whole_pixels"]
    ends = np.flatnonzero(outputs["class_ids"] == 0)
    count = int(ends[0]) if len(ends) else len(outputs["class_ids"])
    corners = np.array([0, 0, offset, offset])
    extent = np.maximum(np.tile(settings["image_size"], 2) - offset, 1)
    y1, x1, y2, x2 = ((window - corners) / extent).astype(np.float32)
    size = np.array([y2 - y1, x2 - x1, y2 - y1, x2 - x1])
    shares = (outputs["boxes"][:count] - np.array([y1, x1, y1, x1])) / np.where(size > 0, size, 1)
    limits = np.tile(photo_size, 2)
    boxes = np.where(size > 0, shares, [0, 0, 1, 1]) * np.maximum(limits - offset, 1) + corners
    dtype = np.int32 if whole else np.float32
    boxes = np.clip((np.around(boxes) if whole else boxes).astype(dtype), 0, limits).astype(dtype)
    real = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    masks = np.zeros((len(real), *photo_size), bool)
    for canvas, i in zip(masks, real):
        PASTE[settings["mask_paste"]](canvas, outputs["masks"][i].astype(np.float32), boxes[i])
    return {
        "rois": boxes[real],
        "class_ids": outputs["class_ids"][real].astype(np.int32),
        "scores": outputs["scores"][real].astype(np.float32),
        "masks": np.moveaxis(masks, 0, -1),
    }


def scaled_sides(photo_size: Sequence[int], resize: dict) -> tuple[int, int]:
    """The height and width to which a photo is scaled, by the rule that the model was trained with."""
    mode, low, high = resize["mode"], resize["min_dim"], resize["max_dim"]
    shorter, longer = min(photo_size), max(photo_size)
    if mode == "none":
        return tuple(photo_size)
    if mode in ("pad32", "shorter_side"):
        scale = min(low / shorter, high / longer)
        if resize["rounding"] == "half_up":
            exact = [float(low) if side == shorter else low / shorter * side for side in photo_size]
            shrink = high / max(exact) if max(exact) > high else 1.0
            sides = [int(side * shrink + 0.5) for side in exact]
        else:
            sides = [(int if resize["rounding"] == "floor" else round)(side * scale) for side in photo_size]
    else:
        scale = max(1.0, low / shorter if low else 1.0, resize["min_scale"] or 0)
        if mode == "square" and round(longer * scale) > high:
            scale = high / longer
        sides = [round(side * scale) for side in photo_size]
    return max(1, sides[0]), max(1, sides[1])


# ---- Resizing --------------------------------------------------------------------------------------------------------
def blend(x: np.ndarray, axis: int, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each row of the result is a sum of weighted rows of `x`: indices and weights [rows, taps]."""
    shape = [1] * x.ndim
    shape[axis] = -1
    total = np.take(x, indices[:, 0], axis) * weights[:, 0].reshape(shape)
    for tap in range(1, indices.shape[1]):
        total += np.take(x, indices[:, tap], axis) * weights[:, tap].reshape(shape)
    return total


def two_taps(source: int, target: int, dtype: type[np.floating] = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear: the two rows on both sides of each of `target` rows, and their weights, [target, 2] both."""
    position = (dtype(source) / dtype(target) * (np.arange(target) + 0.5) - 0.5).clip(0, source - 1).astype(np.float32)
    low = np.minimum(position.astype(np.int64), max(source - 2, 0))
    share = position - low.astype(np.float32)
    return np.stack([low, np.minimum(low + 1, source - 1)], 1), np.stack([1 - share, share], 1)


def fading(source: int, target: int) -> np.ndarray:
    """[target]: 1; less for rows outside the outermost centers of the source, where the image fades to 0."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    return 1 - np.maximum(np.maximum(-position, position - (source - 1)), 0)


def resize_like_opencv(image: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Bilinear, 0 outside of the image, clipped to its range; bytes in steps of 1 / 256, then truncated."""
    is_bytes = image.dtype == np.uint8
    x = image.astype(np.float32) * (256 if is_bytes else 1)
    low, high = x.min(), x.max()
    order = (1, 0) if sides[1] * image.shape[0] < sides[0] * image.shape[1] else (0, 1)  # first what shrinks
    for axis in order:
        x = blend(x, axis, *two_taps(image.shape[axis], sides[axis]))
    x = np.rint(x) if is_bytes else x
    for axis in (0, 1):
        keep = fading(image.shape[axis], sides[axis])
        edge = np.flatnonzero(keep < 1)
        lanes = x.swapaxes(axis, 0)
        faded = lanes[edge] * keep[edge].astype(np.float32).reshape((-1,) + (1,) * (x.ndim - 1))
        lanes[edge] = np.clip(np.floor(faded) if is_bytes else faded, low, high)
    return np.floor(x / 256) if is_bytes else x


def resize_in_float(image: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Bilinear in float32 with repeated edges, as torchvision's detectors resize."""
    x = image.astype(np.float32)
    for axis in (0, 1):
        x = blend(x, axis, *two_taps(image.shape[axis], sides[axis], np.float32))
    return x


def resize_like_pillow(image: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Antialiased bilinear: columns, then rows, each rounded to bytes."""
    x = image
    for axis in (1, 0):
        source, target = image.shape[axis], sides[axis]
        if source == target:
            continue
        step = source / target
        reach = max(step, 1.0)
        center = (np.arange(target) + 0.5) * step
        first = np.maximum((center - reach + 0.5).astype(int), 0)
        last = np.minimum((center + reach + 0.5).astype(int), source)
        taps = first[:, None] + np.arange((last - first).max())
        weights = np.maximum(1 - np.abs((taps - center[:, None] + 0.5) / reach), 0) * (taps < last[:, None])
        weights /= weights.sum(1, keepdims=True)
        if image.dtype == np.uint8:
            weights = np.floor(weights * 2**PILLOW_BITS + 0.5) / 2**PILLOW_BITS
        x = blend(x.astype(np.float64), axis, np.minimum(taps, source - 1), weights)
        x = np.floor(x + 0.5).clip(0, 255) if image.dtype == np.uint8 else x.astype(np.float32)
    return x


# ---- Masks on the photo ----------------------------------------------------------------------------------------------
def paste_resized(canvas: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """Writes a mask [m, m], resized to its box, to `canvas` [H0, W0] bool; at least 0.5 is the object."""
    y1, x1, y2, x2 = (int(v) for v in box)
    canvas[y1:y2, x1:x2] = resize_like_opencv(mask, (y2 - y1, x2 - x1)) >= 0.5


def paste_padded(canvas: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """The mask with a border of zeros, resized to a box that is larger by as much; more than 0.5 is the object."""
    padded = np.pad(mask, 1)
    weights, places = [], []
    for axis, side in enumerate(canvas.shape):
        middle, half = (box[axis] + box[axis + 2]) * np.float32(0.5), (box[axis + 2] - box[axis]) * np.float32(0.5)
        half = half * np.float32(padded.shape[axis] / mask.shape[axis])
        first, last = int(middle - half), int(middle + half)
        rows = np.arange(max(first, 0), min(last + 1, side))
        position = (rows - first + 0.5) * (padded.shape[axis] / max(last - first + 1, 1)) - 0.5
        weights.append(_tent(position.clip(0, padded.shape[axis] - 1), padded.shape[axis]))
        places.append(rows)
    canvas[np.ix_(*places)] = weights[0] @ padded @ weights[1].T > 0.5


def paste_sampled(canvas: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """The mask sampled at the center of each pixel; at least 0.5 is the object."""
    weights = []
    for axis, side in enumerate(canvas.shape):
        share = (np.arange(side) + 0.5 - box[axis]) / (box[axis + 2] - box[axis])
        weights.append(_tent(share * mask.shape[axis] - 0.5, mask.shape[axis]))
    rows, columns = (np.flatnonzero(w.any(axis=1)) for w in weights)
    canvas[np.ix_(rows, columns)] = weights[0][rows] @ mask @ weights[1][columns].T >= 0.5


def _tent(position: np.ndarray, count: int) -> np.ndarray:
    """[rows, count] float32: the share that each of `count` pixels has at each position."""
    return np.maximum(1 - np.abs(position[:, None] - np.arange(count)), 0).astype(np.float32)


RESIZE = {"opencv": resize_like_opencv, "bilinear": resize_in_float, "pillow": resize_like_pillow}
PASTE = {"resize": paste_resized, "padded_resize": paste_padded, "grid_sample": paste_sampled}


# ---- Runtimes --------------------------------------------------------------------------------------------------------
def _onnx(path: Path) -> Callable:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    inputs, names = [x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]
    return lambda *arrays: dict(zip(names, session.run(names, dict(zip(_in_order(inputs), arrays)))))


def _litert(path: Path) -> Callable:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf  # releases that still have the interpreter

        Interpreter = tf.lite.Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    inputs = _in_order(list(runner.get_input_details()))
    return lambda *arrays: runner(**dict(zip(inputs, arrays)))


def _openvino(path: Path) -> Callable:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # processors with bfloat16 would otherwise use it
    compiled = openvino.Core().compile_model(str(path), "CPU", exact)
    inputs = _in_order([x.any_name for x in compiled.inputs])

    def run(*arrays):
        return {output.any_name: x for output, x in compiled(dict(zip(inputs, arrays))).items()}

    return run


def _saved_model(path: Path) -> Callable:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def run(*arrays, module=loaded):  # without the module, its weights would be freed
        inputs = {name: tf.constant(x) for name, x in zip(_in_order([]), arrays)}
        return {name: x.numpy() for name, x in serve(**inputs).items()}

    return run


def _in_order(names: list[str]) -> list[str]:
    """The names of the inputs in the order images, windows, thresholds."""
    order = ["images", "windows", "thresholds"]
    if names and sorted(names) != sorted(order):
        raise ValueError(f"The model has the inputs {sorted(names)}; expected {sorted(order)}.")
    return order


def load(path: Path) -> Callable:
    """The model in its runtime: a function of images, windows and thresholds that returns the outputs by name."""
    return LOADERS.get(path.suffix, _saved_model)(path)


LOADERS = {".onnx": _onnx, ".tflite": _litert, ".xml": _openvino}


# ---- Command ---------------------------------------------------------------------------------------------------------
def read_photo(path: str) -> np.ndarray:
    """Reads a photo: .npy and binary .ppm with NumPy, other files with Pillow."""
    if path.endswith(".npy"):
        return np.load(path, allow_pickle=False)
    if path.endswith(".ppm"):
        kind, width, height, _, pixels = Path(path).read_bytes().split(maxsplit=4)
        if kind != b"P6":
            raise ValueError(f"{path} begins with {kind!r}; expected P6, a binary PPM.")
        return np.frombuffer(pixels, np.uint8, int(width) * int(height) * 3).reshape(int(height), int(width), 3)
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2:
        print("usage: python mrcnn_runtime.py MODEL PHOTO [PHOTO ...]", file=sys.stderr)
        return 2
    model = Model(arguments[0])
    for path in arguments[1:]:
        found = model.detect([read_photo(path)])[0]
        names = model.class_names or {}
        columns = found["class_ids"].tolist(), found["scores"].tolist(), found["rois"].tolist()
        objects = [
            {"class": names[class_id] if names else class_id, "score": round(score, 4), "box": box, "area": int(area)}
            for class_id, score, box, area in zip(*columns, found["masks"].sum(axis=(0, 1)))
        ]
        print(json.dumps({"photo": path, "objects": objects}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
