"""Reads images by regions: arrays, TIFF (tiles, strips, pyramids), Zarr, and plain files, which are decoded whole.

Of a TIFF or Zarr, only the parts of the file that a region touches are decoded; the last ones are cached for
neighboring regions. `image_reading.MAX_PIXELS` limits what is decoded at once: a plain file, or one part of a TIFF or
Zarr. The size of the whole image is not limited.

PNG and JPEG have no parts: none of the libraries that this package uses decodes them by strips. They take the memory of
the decoded image.

region      (y1, x1, y2, x2) int pixels of the upright image; y2 and x2 exclusive
H0, W0      size of the image, pixels
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.data.geotiff import Transform, geo_reference, scale_transform
from mrcnn.data.image_reading import (
    TIFF_STARTS,
    UnreadableImage,
    check_pixels,
    is_url,
    name_errors,
    read_image,
    turn_upright,
)
from mrcnn.ops.runs import Region

if TYPE_CHECKING:
    import tifffile

CACHE_BYTES = 192 * 2**20  # of decoded parts: strips of an image 60,000 pixels wide, as high as a tile
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
INSTALL = "pip install 'mrcnn[large]'"
TURNS_ROWS, TURNS_COLUMNS = (3, 4, 6, 7), (2, 3, 7, 8)  # EXIF orientations whose rows or columns are stored backwards


class TiledImage:
    """An image that is read by regions, from an array or anything that can be sliced like one.

    Args:
        values: [H0, W0] or [H0, W0, bands]: an array, a memory map, a `zarr.Array`, a dataset of h5py.
        path: File of the image, or None.
        transform: From pixels to coordinates of a map, see `data.geotiff`; None: unknown.
        crs: The system of these coordinates, such as "EPSG:32633"; None: unknown.

    Raises:
        ValueError: The array has another number of dimensions.

    Example:

    >>> image = TiledImage(np.zeros((50, 70, 3), np.uint8))
    >>> image.shape, image.read((10, 20, 14, 25)).shape
    ((50, 70), (4, 5, 3))
    """

    def __init__(
        self, values: Any, path: str | None = None, transform: Transform | None = None, crs: str | None = None
    ):
        if len(values.shape) not in (2, 3) or 0 in values.shape:
            raise ValueError(
                f"{path or 'the image'} has the shape {tuple(values.shape)}; expected [height, width] or"
                " [height, width, bands] with at least one pixel."
            )
        self._values = values
        self.path, self.transform, self.crs = path, transform, crs
        self.shape = int(values.shape[0]), int(values.shape[1])

    def read(self, region: Region) -> np.ndarray:
        """The pixels of a region, [y2 - y1, x2 - x1] or [y2 - y1, x2 - x1, bands], of the image's number type."""
        y1, x1, y2, x2 = region
        return np.asarray(self._values[y1:y2, x1:x2])

    def close(self) -> None:
        """Closes the file."""

    def __enter__(self) -> TiledImage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_tiled(image: Any, level: int = 0) -> TiledImage:
    """Opens an image for reading by regions.

    Args:
        image: What `TiledImage` takes, or a path: a TIFF, the folder of a Zarr array or of an OME-Zarr image, or any
            other image file. A `TiledImage` is returned as it is.
        level: Level of a pyramid; 0 is the largest.

    Raises:
        FileNotFoundError: The path does not exist.
        UnreadableImage: A ValueError that names the file and says what is wrong with it.
        ImportError: It is a Zarr, and zarr is not installed.
    """
    if isinstance(image, TiledImage):
        return image
    if not isinstance(image, (str, Path)):
        if level:
            raise ValueError(f"level is {level}, but the image is an array; expected 0.")
        return TiledImage(image if hasattr(image, "shape") else np.asarray(image))
    if is_url(image):
        raise UnreadableImage(f"{image} is a URL; expected a file. Download it first.")
    path = Path(image)
    if path.is_dir():
        return _open_zarr(path, level)
    with open(path, "rb") as file:
        is_tiff = file.read(4) in TIFF_STARTS
    if is_tiff:
        return _open_tiff(path, level)
    if level:
        raise ValueError(f"level is {level}, but {path} is no pyramid; expected 0.")
    return TiledImage(read_image(path, upright=True), str(path))


def _at_level(levels: Sequence, level: int, name: str) -> Any:
    if not 0 <= level < len(levels):
        raise ValueError(f"level is {level}, but {name} has {len(levels)}; expected 0 to {len(levels) - 1}.")
    return levels[level]


# ---- TIFF ------------------------------------------------------------------------------------------------------------
def _open_tiff(path: Path, level: int) -> TiledImage:
    """A `TiffTiles`; or the decoded image, if tifffile doesn't decode this kind and OpenCV or Pillow do."""
    opened = TiffTiles(path, level)
    problem = opened.problem()
    if problem is None:
        return opened
    opened.close()
    if level == 0:
        try:
            return TiledImage(read_image(path, upright=True), str(path), opened.transform, opened.crs)
        except UnreadableImage as error:
            raise UnreadableImage(
                f"{path} can't be read by tiles ({problem}; {INSTALL}), nor whole: {error}"
            ) from error
    raise UnreadableImage(f"{path} can't be read by tiles: {problem}. {INSTALL} may help.")


class TiffTiles(TiledImage):
    """A TIFF of which each region decodes only the tiles or strips that it touches.

    Args:
        path: The file.
        level: Of its pyramid.

    Raises:
        UnreadableImage: It is damaged, holds several images, or its parts have more than `MAX_PIXELS` pixels.
    """

    def __init__(self, path: Path, level: int = 0):
        import tifffile

        from mrcnn.data import tiff

        self.path, self._cache, self._cached_bytes = str(path), OrderedDict(), 0
        with name_errors(self.path):
            self._file = tifffile.TiffFile(path)
            try:
                largest = tiff.only_image(self._file, self.path)
                series = _at_level(largest.levels, level, self.path)
                header = tiff.header_of(series, self.path)
                self._orientation = tiff.header_of(largest, self.path).orientation
                self._pages = [page.aspage() for page in series.pages]
                self._stored = header.stored
                self.shape = header.stored[::-1] if self._orientation > 4 else header.stored
                self.transform, self.crs = self._reference(largest)
                for page in self._pages:
                    if not page.is_memmappable:
                        check_pixels(*_part_shape(page), f"a part of {self.path}")
            except BaseException:
                self._file.close()
                raise

    def _reference(self, largest: tifffile.TiffPageSeries) -> tuple[Transform | None, str | None]:
        transform, crs = geo_reference(largest.keyframe.geotiff_tags)
        if self._orientation != 1:  # the tags are about the stored pixels
            return None, crs
        height, width = (largest.shape[largest.axes.index(axis)] for axis in "YX")
        return scale_transform(transform, height / self.shape[0], width / self.shape[1]), crs

    def problem(self) -> str | None:
        """Why tifffile can't decode this file, or None."""
        page = self._pages[0]
        stored = next((i for i, count in enumerate(page.databytecounts) if count), None)
        if page.photometric.name == "SEPARATED":
            return "its colors are CMYK"
        if stored is None or page.is_memmappable:
            return None
        try:
            with name_errors(self.path):
                self._decode(page, stored)
        except UnreadableImage as error:
            cause = error.__cause__
            if isinstance(cause, NotImplementedError) or "imagecodecs" in str(cause):
                return str(cause)
            raise
        return None

    def read(self, region: Region) -> np.ndarray:
        from mrcnn.data import tiff

        with name_errors(self.path):
            stored = self._stored_region(region)
            values = np.concatenate([self._read_page(page, stored) for page in self._pages], axis=-1)
            page = self._pages[0]
            if not (page.photometric.name == "YCBCR" and page.compression.name.endswith("JPEG")):  # decoded to RGB
                values = tiff.with_meaning(values[..., 0] if values.shape[-1] == 1 else values, page, self.path)
            return turn_upright(values, self._orientation)

    def close(self) -> None:
        self._file.close()
        self._cache.clear()

    def _stored_region(self, region: Region) -> Region:
        """A region of the upright image in the stored one."""
        y1, x1, y2, x2 = region if self._orientation <= 4 else (region[1], region[0], region[3], region[2])
        height, width = self._stored
        if self._orientation in TURNS_ROWS:
            y1, y2 = height - y2, height - y1
        if self._orientation in TURNS_COLUMNS:
            x1, x2 = width - x2, width - x1
        return y1, x1, y2, x2

    def _read_page(self, page: tifffile.TiffPage, region: Region) -> np.ndarray:
        """[h, w, bands], as stored."""
        y1, x1, y2, x2 = region
        if page.is_memmappable:
            # Mapped for each region, as all that was read of a mapped file counts as memory of this process.
            dtype = np.dtype(self._file.byteorder + page.dtype.char)
            mapped = np.memmap(self.path, dtype, "r", page.dataoffsets[0], page.shaped)
            planes = mapped[:, 0, y1:y2, x1:x2].astype(page.dtype)  # [planes, h, w, bands]
        else:
            planes = np.full((page.shaped[0], y2 - y1, x2 - x1, page.shaped[4]), page.nodata, page.dtype)
            for index, (plane, top, left) in _parts_in(page, region):
                part = self._decode(page, index)
                if part is not None:
                    _copy_overlap(part, (top - y1, left - x1), planes[plane])
        return np.moveaxis(planes, 0, -1).reshape(y2 - y1, x2 - x1, -1)

    def _decode(self, page: tifffile.TiffPage, index: int) -> np.ndarray | None:
        """A tile or strip, [h, w, bands]; None if the file leaves it out. Keeps the last ones."""
        from mrcnn.data import tiff

        key = page.index, page.offset, index
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        count = page.databytecounts[index]
        if not count:
            return None
        handle = self._file.filehandle
        handle.seek(page.dataoffsets[index])
        encoded = handle.read(count)
        tiff.check_segment(encoded, page, self.path)
        tables = {}
        if page.compression.name.endswith("JPEG"):
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        part = page.decode(encoded, index, **tables)[0][0]  # one slice of depth
        self._cache[key] = part
        self._cached_bytes += part.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return part


def _part_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """(height, width) of the tiles or strips of a page."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _parts_in(page: tifffile.TiffPage, region: Region) -> list[tuple[int, tuple[int, int, int]]]:
    """The index of each tile or strip that a region touches, and where it begins: (plane, row, column)."""
    height, width = _part_shape(page)
    rows, columns = -(-page.imagelength // height), -(-page.imagewidth // width)
    y1, x1, y2, x2 = region
    return [
        ((plane * rows + row) * columns + column, (plane, row * height, column * width))
        for plane in range(page.shaped[0])
        for row in range(y1 // height, -(-y2 // height))
        for column in range(x1 // width, -(-x2 // width))
    ]


def _copy_overlap(part: np.ndarray, corner: tuple[int, int], target: np.ndarray) -> None:
    """Copies what lies inside of `target` [h, w, bands] of an array that begins at `corner`."""
    inside = tuple(slice(max(0, -at), max(0, size - at)) for at, size in zip(corner, target.shape))
    cut = part[inside]
    y, x = (max(0, at) for at in corner)
    target[y : y + cut.shape[0], x : x + cut.shape[1]] = cut


# ---- Zarr ------------------------------------------------------------------------------------------------------------
class _ZarrImage:
    """An array of Zarr as [H0, W0, bands].

    Args:
        array: `zarr.Array`.
        axes: The name of each of its axes; "y" and "x", perhaps "c", others of length 1.
    """

    def __init__(self, array: Any, axes: Sequence[str]):
        self._array, self._axes = array, list(axes)
        self.shape = tuple(array.shape[axes.index(name)] for name in ("y", "x", "c") if name in axes)

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        wanted = {"y": place[0], "x": place[1], "c": slice(None)}
        values = np.asarray(self._array[tuple(wanted.get(name, 0) for name in self._axes)])
        kept = [name for name in self._axes if name in wanted]
        return np.transpose(values, [kept.index(name) for name in ("y", "x", "c") if name in kept])


def _open_zarr(path: Path, level: int) -> TiledImage:
    if not any((path / name).is_file() for name in ZARR_FILES):
        raise UnreadableImage(f"{path} is a folder without {', '.join(ZARR_FILES)}; expected an image file or a Zarr.")
    try:
        import zarr
    except ImportError as error:
        raise ImportError(f"{path} is a Zarr, and zarr is not installed: {INSTALL}.") from error
    with name_errors(str(path)):
        opened = zarr.open(str(path), mode="r")
        array, axes = (opened, None) if isinstance(opened, zarr.Array) else _image_of_group(opened, level, str(path))
        if axes is None:
            if level:
                raise UnreadableImage(f"level is {level}, but {path} is one array and no pyramid; expected 0.")
            axes = ["y", "x", "c"][: array.ndim]
        lengths = dict(zip(axes, array.shape))
        others = {name: length for name, length in lengths.items() if name not in ("y", "x", "c") and length != 1}
        if len(axes) != array.ndim or not {"y", "x"} <= set(axes) or others:
            raise UnreadableImage(
                f"{path} has the shape {array.shape} and the axes {axes}; expected one image: [height, width], [height,"
                " width, bands], or OME-Zarr's axes with one time and one slice."
            )
        chunk = dict(zip(axes, array.chunks))
        check_pixels(chunk["y"], chunk["x"], f"a chunk of {path}")
        return TiledImage(_ZarrImage(array, axes), str(path))


def _image_of_group(group: Any, level: int, name: str) -> tuple[Any, list[str]]:
    """The array of a level of an OME-Zarr image (0.4 or 0.5), and the names of its axes."""
    attributes = dict(group.attrs)
    images = attributes.get("ome", attributes).get("multiscales")
    if not images:
        raise UnreadableImage(f"{name} is a group of Zarr without OME's multiscales; expected an image or one array.")
    dataset = _at_level(images[0]["datasets"], level, name)
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in images[0]["axes"]]
    return group[dataset["path"]], axes
