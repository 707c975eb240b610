"""Where a GeoTIFF lies on the map: its affine transform and its coordinate system.

Read are the tags ModelTransformation, or ModelPixelScale with ModelTiepoint, and the EPSG code of the file's projected
or geographic system. Not handled: ground control points (several tie points without a scale), rational polynomials
(RPC), systems that the file defines itself instead of by an EPSG code (`crs` is then None), vertical systems, and
world files (.tfw) beside the image.

transform   (a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f, where (0, 0) is the upper left
            corner of the upper left pixel. The order of `affine.Affine` and of rasterio's `dataset.transform`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Transform = tuple[float, float, float, float, float, float]

POINT = 2  # GTRasterTypeGeoKey: tie points are centers of pixels, not corners
USER_DEFINED = 32767
SYSTEMS = ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey")  # that of the coordinates first


def geo_reference(tags: Mapping[str, Any] | None) -> tuple[Transform | None, str | None]:
    """The transform and the coordinate system, such as "EPSG:32633", of a TIFF; None for what it doesn't say.

    Args:
        tags: `geotiff_tags` of a tifffile page; None: it is no GeoTIFF.

    Example:

    >>> geo_reference({"ModelPixelScale": [0.5, 0.5, 0], "ModelTiepoint": [0, 0, 0, 448000, 5411000, 0]})
    ((0.5, 0.0, 448000.0, 0.0, -0.5, 5411000.0), None)
    """
    if not tags:
        return None, None
    codes = [int(tags[name]) for name in SYSTEMS if name in tags]
    crs = f"EPSG:{codes[0]}" if codes and 0 < codes[0] < USER_DEFINED else None
    transform = _transform(tags)
    if transform is not None and int(tags.get("GTRasterTypeGeoKey", 1)) == POINT:
        a, b, c, d, e, f = transform
        transform = a, b, c - (a + b) / 2, d, e, f - (d + e) / 2
    return transform, crs


def scale_transform(transform: Transform | None, rows: float, columns: float) -> Transform | None:
    """The transform of an image of which each pixel covers `rows` x `columns` pixels of the other one."""
    if transform is None:
        return None
    a, b, c, d, e, f = transform
    return a * columns, b * rows, c, d * columns, e * rows, f


def _transform(tags: Mapping[str, Any]) -> Transform | None:
    matrix, scale, tie = (tags.get(name) for name in ("ModelTransformation", "ModelPixelScale", "ModelTiepoint"))
    if matrix is not None:
        rows = [[float(value) for value in row] for row in _rows_of_four(matrix)]
        return rows[0][0], rows[0][1], rows[0][3], rows[1][0], rows[1][1], rows[1][3]
    if scale is None or tie is None or len(tie) != 6:
        return None
    column, row, x, y = (float(tie[i]) for i in (0, 1, 3, 4))
    width, height = float(scale[0]), float(scale[1])
    return width, 0.0, x - column * width, 0.0, -height, y + row * height


def _rows_of_four(matrix: Sequence) -> Sequence[Sequence[float]]:
    """ModelTransformation as four rows: it may come as 16 numbers, or as rows."""
    return matrix if len(matrix) == 4 else [matrix[i : i + 4] for i in range(0, 16, 4)]
