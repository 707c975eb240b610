"""`mrcnn detect --tiled`: photos, TIFF and Zarr images of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.cli import output

if TYPE_CHECKING:
    import numpy as np

    from mrcnn.cli.inputs import OutputNames, Source
    from mrcnn.cli.models import ChosenClasses
    from mrcnn.inference.results import Detections

PICTURE_SIDE = 4096  # pixels


def detect_large(
    model: ChosenClasses, sources: Sequence[Source], names: OutputNames, broken: list[str], **options: Any
) -> Iterator[tuple[Source, None, Detections]]:
    """Yields each image with its objects, and writes those of a GeoTIFF in its coordinates to `<name>.geojson`.

    Args:
        broken: Gets the names of the images that can't be read.
        **options: Of `MaskRCNN.detect_tiled`.
    """
    from mrcnn.cli.detect import report_broken
    from mrcnn.io import replacing

    for source in sources:
        try:
            found = model.detect_tiled(source.read() if source.path is None else source.path, **options)
        except (OSError, ValueError) as error:
            report_broken(broken, source, error)
            continue
        if found.transform is not None:
            with replacing(names.path(source, ".geojson")) as unfinished:
                Path(unfinished).write_text(json.dumps(found.to_geojson()), encoding="utf-8")
        yield source, None, found


def save_picture(found: Detections, path: Path, image: np.ndarray | None) -> None:
    """Writes the picture of a photo, or a smaller one of an image that was read by tiles, unless it is too large."""
    from mrcnn.data import image_reading
    from mrcnn.inference.tiles import open_tiled

    if image is not None:
        found.save(path, image)
        return
    if found.path is None:
        return
    height, width = found.image_shape
    if height * width > image_reading.MAX_PIXELS:
        output.note(f"note: {found.path} has {height} x {width} pixels: too many for a picture of its objects.")
        return
    with open_tiled(found.path) as opened:
        found.save(path, opened.read((0, 0, height, width)), side=min(max(height, width), PICTURE_SIDE))
