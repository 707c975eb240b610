"""Pictures of instances for reports and TensorBoard: masks, contours, labels on the image. Needs no screen.

`mrcnn.visualize` is for people at work in a notebook; this makes small pictures by the hundred.
"""

from __future__ import annotations

import cv2
import numpy as np

from mrcnn.ops.images import to_rgb_uint8

FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5


def draw_instances(image, instances, captions, colors, side: int = 480, alpha: float = 0.35) -> np.ndarray:
    """Draws instances on an image.

    Args:
        image: [H, W] or [H, W, channels].
        instances: of the image; boxes are drawn where there are no masks.
        captions: n strings.
        colors: n colours, RGB 0..255.
        side: longer side of the picture, pixels.
        alpha: how much of a mask's colour covers the image, 0 to 1.

    Returns:
        [h, w, 3] uint8.
    """
    picture = to_rgb_uint8(image)
    scale = side / max(picture.shape[:2])
    shape = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    masks = instances.masks() if instances.rles else None
    for i in range(len(instances)):
        if masks is None:
            x, y, width, height = (round(float(v) * scale) for v in instances.boxes[i])
            cv2.rectangle(picture, (x, y), (x + width, y + height), colors[i], 2)
            continue
        mask = cv2.resize(masks[..., i].view(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
        inside = mask.astype(bool)
        picture[inside] = (picture[inside] * (1 - alpha) + np.array(colors[i]) * alpha).astype(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, contours, -1, colors[i], 1, cv2.LINE_AA)
    for i in np.argsort(-instances.areas, kind="stable"):  # labels of small ones lie on top
        x, y = (round(float(v) * scale) for v in instances.boxes[i, :2])
        _label(picture, captions[i], x, y, colors[i])
    return picture


def _label(picture: np.ndarray, text: str, x: int, y: int, color) -> None:
    if not text:
        return
    text = text.encode("ascii", "replace").decode()  # OpenCV's letters are ASCII
    (width, height), base = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    x = min(max(x, 0), max(picture.shape[1] - width - 2, 0))
    y = min(max(y, height + base), picture.shape[0] - 1)
    cv2.rectangle(picture, (x, y - height - base), (x + width + 2, y), color, -1)
    dark = 0.3 * color[0] + 0.6 * color[1] + 0.1 * color[2] > 130
    cv2.putText(
        picture, text, (x + 1, y - base + 1), FONT, FONT_SCALE, (0, 0, 0) if dark else (255, 255, 255), 1, cv2.LINE_AA
    )


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of the same height next to each other."""
    gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def encode(picture: np.ndarray, kind: str = ".jpg") -> bytes:
    """[h, w, 3] RGB uint8 as the bytes of a file, ".jpg" or ".png"."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 85] if kind == ".jpg" else []
    return cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
