"""`Detections` in the formats of other programs: functions that are methods of the class, and its reader of COCO.

H0, W0      size of the image, pixels
n           objects
box         (y1, x1, y2, x2) pixels; y2 and x2 exclusive
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.ops.outlines import trace_polygons
from mrcnn.ops.rle import to_rle

if TYPE_CHECKING:
    import pandas
    import supervision

    from mrcnn.inference.results import Detections


# ---- COCO ------------------------------------------------------------------------------------------------------------
def to_coco(
    found: Detections,
    image_id: int | str | None = None,
    polygons: bool = False,
    category_ids: Sequence[int] | dict[int, int] | None = None,
) -> list[dict]:
    """The objects as COCO results, ready for `json.dump`.

    Args:
        image_id: Id of the image; None: the name of its file, or 0 if it has none.
        polygons: Whether to write outlines instead of run lengths. COCO has no polygons with holes, so objects with
            holes have run lengths in any case; both are exact.
        category_ids: Category of each class id; None: the class id.

    Returns:
        n dicts with "image_id", "category_id", "bbox" [x, y, width, height], "score" and "segmentation", made of
        Python's own types.
    """
    if image_id is None:
        image_id = 0 if found.path is None else Path(found.path).name
    boxes = np.asarray(found.rois)[:, [1, 0, 3, 2]]
    boxes[:, 2:] -= boxes[:, :2]
    class_ids, scores = np.asarray(found.class_ids).tolist(), np.asarray(found.scores).tolist()
    masks = _polygons_or_rles(found) if polygons else map(_as_json, found.rle)
    return [
        {
            "image_id": image_id,
            "category_id": class_id if category_ids is None else category_ids[class_id],
            "bbox": box,
            "score": score,
            "segmentation": mask,
        }
        for class_id, box, score, mask in zip(class_ids, boxes.tolist(), scores, masks)
    ]


def _as_json(rle: dict) -> dict:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def _polygons_or_rles(found: Detections) -> Iterator[list | dict]:
    for polygons, rle in zip(_outlines(found), found.rle):
        if polygons and all(len(rings) == 1 for rings in polygons):
            yield [ring.astype(float).ravel().tolist() for (ring,) in polygons]
        else:
            yield _as_json(rle)


def _outlines(found: Detections) -> Iterator[list[list[np.ndarray]]]:
    """The polygons of each object, in pixels of the image; see `trace_polygons`."""
    for (y1, x1, *_), pixels in found.crops():
        yield [[ring + (x1, y1) for ring in rings] for rings in trace_polygons(pixels)]


def read_coco(results: Sequence[dict], image_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """COCO results of one image, see `Detections.from_coco`.

    Returns:
        rois [n, 4] int32, or float32 if a box isn't whole; class_ids [n]; scores [n]; n RLE dicts. Best score first.
    """
    height, width = (int(side) for side in image_shape[:2])
    rois, rles = [], []
    for i, entry in enumerate(results):
        missing = [name for name in ("category_id", "score") if name not in entry]
        box, mask = entry.get("bbox"), entry.get("segmentation")
        if not box and not mask:
            missing.append('bbox" or "segmentation')
        if missing:
            raise ValueError(f'results[{i}] has no "{missing[0]}"; it has {sorted(entry)}.')
        x, y, w, h = box or (0, 0, 0, 0)
        try:
            rles.append(to_rle(mask or [[x, y, x + w, y, x + w, y + h, x, y + h]], height, width))
        except ValueError as error:
            raise ValueError(f"results[{i}]: {error}.") from error
        if not box:
            x, y, w, h = coco_mask.toBbox(rles[-1]).tolist()
        rois.append((y, x, y + h, x + w))
    scores = np.array([entry["score"] for entry in results], np.float32)
    class_ids = np.array([entry["category_id"] for entry in results], np.int32)
    rois = np.array(rois, np.float64).reshape(-1, 4)
    rois = rois.astype(np.int32 if np.array_equal(rois, np.rint(rois)) else np.float32)
    order = np.argsort(-scores, kind="stable")
    return rois[order], class_ids[order], scores[order], [rles[i] for i in order]


# ---- Annotation tools ------------------------------------------------------------------------------------------------
def to_labelme(found: Detections, image_path: str | Path | None = None) -> dict:
    """The content of a labelme file, for correcting the objects by hand; masks are kept pixel for pixel.

    Objects become polygons through their outer pixels; those with holes, and others that no polygon holds, become mask
    shapes (labelme 5 or newer). The description of a shape is its score. Objects without a pixel are left out.

    Args:
        image_path: Path of the image as seen from the file's folder; None: the name of the image's file.

    Raises:
        ValueError: The image has no path.
    """
    from mrcnn.data.formats.labelme_shapes import as_file, shapes_of

    if image_path is None and found.path is None:
        raise ValueError("to_labelme needs image_path: detect got an array, and not the path of a file.")
    name = Path(found.path).name if image_path is None else Path(image_path).as_posix()
    shapes = []
    for i, ((region, pixels), label, score) in enumerate(zip(found.crops(), found.names, found.scores)):
        if pixels.any():
            shapes += shapes_of(pixels, i + 1, region[:2], label=label, flags={}, description=f"{score:.3f}")
    return as_file(shapes, name, found.image_shape)


def to_yolo(found: Detections) -> str:
    """The text of a YOLO-seg label file: a line "class x1 y1 x2 y2 ..." for each object, with classes from 0.

    Coordinates are shares of the image's width and height. Several parts and holes are joined to one polygon by
    bridges, which `open_dataset` takes out again. Objects without a pixel are left out.
    """
    from mrcnn.data.formats.yolo_writer import row_of

    crops = zip(found.crops(), np.asarray(found.class_ids).tolist())
    rows = [row_of(pixels, i, region[:2], found.image_shape) for (region, pixels), i in crops if pixels.any()]
    return "".join(f"{row}\n" for row in rows)


# ---- Other programs --------------------------------------------------------------------------------------------------
def to_geojson(found: Detections, transform: Sequence[float] | None = None) -> dict:
    """The objects as a GeoJSON `FeatureCollection` with exact outlines and holes, for QGIS, PostGIS or shapely.

    Args:
        transform: (a, b, c, d, e, f) from pixels to coordinates, x' = a x + b y + c and y' = d x + e y + f: the order
            of `affine.Affine` and of rasterio's `dataset.transform`. None: `found.transform`, which `detect_tiled`
            reads from a GeoTIFF; without one, pixels, x to the right and y downwards.

    Returns:
        A feature for each object, with a Polygon or MultiPolygon (None for an empty mask) and the properties
        "class_id", "class_name" and "score". As RFC 7946 asks, outer rings are counterclockwise. If `found.crs` is
        known, it is the member "crs", which QGIS and GDAL read; RFC 7946 has only longitude and latitude (EPSG:4326).

    Raises:
        ValueError: `transform` has another length, or no inverse.
    """
    transform = found.transform if transform is None else transform
    a, b, c, d, e, f = (1.0, 0, 0, 0, 1, 0) if transform is None else [float(v) for v in list(transform)[:6]]
    determinant = a * e - b * d
    if not np.isfinite(determinant) or determinant == 0:
        raise ValueError(f"transform is {tuple(transform)}, which has no inverse; expected (a, b, c, d, e, f).")
    matrix, offset = np.array([[a, d], [b, e]]), np.array([c, f])

    def place(ring: np.ndarray) -> list[list[float]]:
        corners = (ring @ matrix + offset)[:: 1 if determinant > 0 else -1]
        return [*corners.tolist(), corners[0].tolist()]

    features = []
    rows = zip(_outlines(found), np.asarray(found.class_ids).tolist(), found.names, np.asarray(found.scores).tolist())
    for polygons, class_id, name, score in rows:
        placed = [[place(ring) for ring in rings] for rings in polygons]
        kind = "Polygon" if len(placed) == 1 else "MultiPolygon"
        features.append(
            {
                "type": "Feature",
                "properties": {"class_id": class_id, "class_name": name, "score": score},
                "geometry": {"type": kind, "coordinates": placed[0] if len(placed) == 1 else placed}
                if placed
                else None,
            }
        )
    system = {"name": f"urn:ogc:def:crs:{found.crs.replace(':', '::')}"} if found.crs else None
    return {
        "type": "FeatureCollection",
        **({"crs": {"type": "name", "properties": system}} if system else {}),
        "features": features,
    }


def to_supervision(found: Detections) -> supervision.Detections:
    """The objects as `supervision.Detections`, for its trackers, zones and annotators.

    Masks are a `CompactMask` where the installed supervision has it, otherwise [n, H0, W0] bool. Class names are in
    `data["class_name"]`.

    Raises:
        ImportError: supervision is not installed.
    """
    import supervision

    boxes = np.asarray(found.rois, np.float32)[:, [1, 0, 3, 2]]
    return supervision.Detections(
        xyxy=boxes,
        mask=_supervision_masks(supervision, found),
        confidence=np.asarray(found.scores, np.float32),
        class_id=np.asarray(found.class_ids, int),
        data={"class_name": np.array(found.names, dtype=str)},
    )


def _supervision_masks(supervision: Any, found: Detections) -> Any:
    """A `CompactMask`, or [n, H0, W0] bool with versions of supervision that have none."""
    compact = getattr(supervision, "CompactMask", None)
    if not hasattr(compact, "from_coco_rle"):
        return np.moveaxis(found.masks, -1, 0)
    regions = np.array([region for region, _ in found.crops()], int).reshape(-1, 4)
    corners = regions[:, [1, 0, 3, 2]] - [0, 0, 1, 1]  # supervision's x2 and y2 are inside
    return compact.from_coco_rle(found.rle, corners, found.image_shape)


def to_pandas(found: Detections) -> pandas.DataFrame:
    """A row for each object: class_id, class_name, score, y1, x1, y2, x2 and area, the number of pixels of its mask.

    Raises:
        ImportError: pandas is not installed.
    """
    import pandas

    columns = {"class_id": found.class_ids, "class_name": found.names, "score": found.scores}
    boxes = dict(zip(("y1", "x1", "y2", "x2"), np.asarray(found.rois).T))
    area = np.array([np.count_nonzero(pixels) for _, pixels in found.crops()], np.int64)
    return pandas.DataFrame({**columns, **boxes, "area": area})
