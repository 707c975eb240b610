"""An array of a layer and the tensor of a state dict that it comes from; conversions exact in both directions.

Shapes: PyTorch stores convolutions as [out, in, h, w] and dense layers as [out, in]; Keras as [h, w, in, out] and
[in, out], transposed convolutions as [h, w, out, in]. Box deltas are (dx, dy, dw, dh) there, (dy, dx, dh, dw) here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]
DENSE = (1, 0)  # permutations of axes
CONV = (2, 3, 1, 0)


class Shaped(Protocol):
    """An array, or a tensor of a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def unchanged(array: np.ndarray) -> np.ndarray:
    return array


@dataclass(frozen=True)
class Piece:
    """An array of a layer.

    Attributes:
        layer: "conv1", or "rpn_model/rpn_conv_shared" in a nested model.
        kind: "kernel", "bias", "gamma", "beta", "moving_mean" or "moving_variance".
        source: Name in the state dict. None: it has no such tensor, and the array is zero.
        to_ours, to_theirs: Convert the array.
        size: Of an array without source.
        change: The conversion in words, for the report.
    """

    layer: str
    kind: str
    source: str | None
    to_ours: Convert = unchanged
    to_theirs: Convert = unchanged
    size: int = 0
    change: str = ""


@dataclass(frozen=True)
class Converted:
    """An array of a layer, read and converted on demand."""

    piece: Piece
    tensor: Any  # None: zeros
    shape: tuple[int, ...]
    in_order: bool = True

    @property
    def name(self) -> str:
        return f"{self.piece.layer.rsplit('/', 1)[-1]}/{self.piece.kind}:0"

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Returns the values, float32."""
        if self.tensor is None:
            return np.zeros(self.shape, "float32")
        values = self.tensor.read() if hasattr(self.tensor, "read") else np.asarray(self.tensor)
        return np.ascontiguousarray(self.piece.to_ours(values.astype("float32", copy=False)))


def to_layers(pieces: Sequence[Piece], state: Mapping[str, Shaped]) -> list[Converted]:
    """The arrays whose tensors exist, in the order of `pieces`.

    Raises:
        ValueError: A tensor has a shape that can't be converted.
    """
    found = []
    for piece in pieces:
        if piece.source is None:
            found.append(Converted(piece, None, (piece.size,)))
        elif piece.source in state:
            tensor = state[piece.source]
            try:
                shape = piece.to_ours(np.zeros(tensor.shape, "float32")).shape
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"{piece.source} has the shape {tuple(tensor.shape)}, which {piece.layer} can't have"
                ) from error
            found.append(Converted(piece, tensor, shape))
    return found


def to_state(pieces: Sequence[Piece], read: Callable[[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """{name: array} of a state dict, from `read(layer, kind)`.

    A bias that the other project doesn't have is subtracted from the mean of the following BatchNorm, which gives the
    same results.

    Raises:
        ValueError: Such a bias isn't zero, and no BatchNorm follows.
    """
    means = {piece.layer for piece in pieces if piece.kind == "moving_mean"}
    biases = {_norm_after(p.layer): (p.layer, read(p.layer, p.kind)) for p in pieces if p.source is None}
    biases = {norm: entry for norm, entry in biases.items() if entry[1].any()}
    for norm, (layer, _) in biases.items():
        if norm not in means:
            raise ValueError(f"{layer} has a bias, for which the layout has no place.")
    state = {}
    for piece in pieces:
        if piece.source is not None:
            values = read(piece.layer, piece.kind)
            if piece.kind == "moving_mean" and piece.layer in biases:
                values = values - biases[piece.layer][1]
            state[piece.source] = np.ascontiguousarray(piece.to_theirs(values))
    return state


def _norm_after(layer: str) -> str:
    """The name of the normalization after a convolution: bn_conv1, bn2a_branch1 of res2a_branch1, mrcnn_mask_bn1."""
    folder, slash, name = layer.rpartition("/")
    if name == "conv1":
        name = "bn_conv1"
    elif name.startswith("res"):
        name = "bn" + name.removeprefix("res")
    else:
        name = name.replace("_conv", "_bn")
    return folder + slash + name


# ---- Layers --------------------------------------------------------------------------------------------------------
def conv(layer: str, source: str, bias: bool | int = True) -> list[Piece]:
    """A convolution. `bias`: True, False, or the size of a bias that only this package has."""
    kernel = Piece(layer, "kernel", f"{source}.weight", _to_hwio, _to_oihw, change="OIHW to HWIO")
    if bias is True:
        return [kernel, Piece(layer, "bias", f"{source}.bias")]
    return [kernel, Piece(layer, "bias", None, size=int(bias), change="zeros")] if bias else [kernel]


def depthwise_conv(layer: str, source: str) -> list[Piece]:
    """A depthwise convolution without bias: [channels, 1, h, w] -> [h, w, channels, 1]."""
    return [Piece(layer, "kernel", f"{source}.weight", _to_hwoi, _from_hwoi, change="O1HW to HWO1")]


def transposed_conv(layer: str, source: str) -> list[Piece]:
    """A transposed convolution: [in, out, h, w] -> [h, w, out, in]."""
    kernel = Piece(layer, "kernel", f"{source}.weight", _to_hwio, _to_oihw, change="IOHW to HWOI")
    return [kernel, Piece(layer, "bias", f"{source}.bias")]


def norm(layer: str, source: str, kind: str = "batch") -> list[Piece]:
    """BatchNorm ("batch") or GroupNorm ("group"). Values are not changed: epsilon is a setting."""
    names = {"gamma": "weight", "beta": "bias"}
    if kind == "batch":
        names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    return [Piece(layer, ours, f"{source}.{theirs}") for ours, theirs in names.items()]


def dense_on_map(layer: str, source: str, channels: int) -> list[Piece]:
    """A dense layer on a flattened map, as a convolution: [out, channels * h * w] -> [h, w, in, out]."""

    def to_ours(weight: np.ndarray) -> np.ndarray:
        side = math.isqrt(weight.shape[1] // channels)
        return weight.reshape(weight.shape[0], channels, side, side).transpose(CONV)

    def to_theirs(kernel: np.ndarray) -> np.ndarray:
        return kernel.transpose(3, 2, 0, 1).reshape(kernel.shape[-1], -1)

    kernel = Piece(layer, "kernel", f"{source}.weight", to_ours, to_theirs, change="O(IHW) to HWIO")
    return [kernel, Piece(layer, "bias", f"{source}.bias")]


def dense_as_conv(layer: str, source: str) -> list[Piece]:
    """A dense layer as a 1 x 1 convolution: [out, in] -> [1, 1, in, out]."""
    kernel = Piece(
        layer, "kernel", f"{source}.weight", lambda w: w.T[None, None], lambda k: k[0, 0].T, change="OI to 11IO"
    )
    return [kernel, Piece(layer, "bias", f"{source}.bias")]


def output(
    layer: str, source: str, axes: Sequence[int], ours: Convert, theirs: Convert, change: str
) -> list[Piece]:  # fmt: skip
    """An output layer, `DENSE` or `CONV`, whose rows are rearranged by `ours` and back by `theirs`."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    kernel = Piece(
        layer, "kernel", f"{source}.weight", lambda w: ours(w).transpose(axes), lambda k: theirs(k.transpose(back)),
        change=("OI to IO" if len(axes) == 2 else "OIHW to HWIO") + (", " if change else "") + change,
    )  # fmt: skip
    return [kernel, Piece(layer, "bias", f"{source}.bias", ours, theirs, change=change)]


def for_rgb(pieces: list[Piece], bgr: bool, std: Sequence[float] | None) -> list[Piece]:
    """The same convolution for images 0..255 in RGB.

    Args:
        pieces: Kernel and bias.
        bgr: It is for BGR images: the input channels of its kernel are reversed.
        std: Of R, G and B; its images are divided by it. The kernel is divided by it instead, which back again is exact
            up to the last bit of float32. None: they are not divided.
    """
    kernel, *rest = pieces
    step = -1 if bgr else 1
    scale = np.float32(1) if std is None else np.array(std, "float32")[:, None]
    change = "OIHW to HWIO" + ", BGR to RGB" * bgr + ", divided by pixel_std" * (std is not None)
    kernel = Piece(
        kernel.layer, "kernel", kernel.source, lambda w: _to_hwio(w)[:, :, ::step] / scale,
        lambda k: _to_oihw((k * scale)[:, :, ::step]), change=change,
    )  # fmt: skip
    return [kernel, *rest]


def swap_xy(rows: np.ndarray) -> np.ndarray:
    """(dx, dy, dw, dh) to (dy, dx, dh, dw) in each group of four rows, and back."""
    return rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape)


def last_to_first(rows: np.ndarray) -> np.ndarray:
    return np.roll(rows, 1, axis=0)


def first_to_last(rows: np.ndarray) -> np.ndarray:
    return np.roll(rows, -1, axis=0)


def zeros_before(count: int) -> tuple[Convert, Convert]:
    """Adds `count` rows of zeros, and removes them."""
    return (
        lambda rows: np.concatenate([np.zeros((count, *rows.shape[1:]), rows.dtype), rows]),
        lambda rows: rows[count:],
    )


def _to_hwio(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(CONV)


def _to_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def _to_hwoi(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 0, 1)


def _from_hwoi(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 0, 1)


def pyramid(fpn_norm: str | None, lateral: str, output: str, first: int, conv_end: str, norm_end: str) -> list[Piece]:
    """The feature pyramid.

    Args:
        fpn_norm: `Config.FPN_NORM`.
        lateral, output: Their names of the 1 x 1 and 3 x 3 convolutions, with {} for the number of the level.
        first: Their number of the level P2.
        conv_end, norm_end: Ends of their names of a convolution and of its normalization.
    """
    found = []
    for level in range(2, 6):
        for layer, source in ((f"fpn_c{level}p{level}", lateral), (f"fpn_p{level}", output)):
            source = source.format(level - 2 + first)
            found += conv(layer, source + conv_end, bias=fpn_norm is None)
            found += norm(f"{layer}_bn", source + norm_end, fpn_norm) if fpn_norm else []
    return found
