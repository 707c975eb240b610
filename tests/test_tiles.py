"""Reading images by regions: TIFF, Zarr and plain files, what limits protect, and the coordinates of GeoTIFF."""

from __future__ import annotations

import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_tiled import detect_colors

from mrcnn.config import Config
from mrcnn.data import image_reading
from mrcnn.data.geotiff import geo_reference
from mrcnn.inference.result_masks import RleMasks
from mrcnn.inference.results import Detections
from mrcnn.inference.tiled_detection import detect_tiled
from mrcnn.inference.tiles import open_tiled

CONFIG = Config(NUM_CLASSES=4)


def tiled(image, detect=detect_colors, **options):
    return detect_tiled(detect, image, config=CONFIG, progress=False, **{"tile": 64, "overlap": 16, **options})


# ---- Reading ---------------------------------------------------------------------------------------------------------
REGIONS = ((0, 0, 90, 70), (0, 0, 1, 1), (10, 5, 43, 38), (64, 33, 90, 70), (31, 31, 33, 33))


def assert_reads_as(path, whole, tolerance=0):
    with open_tiled(path) as opened:
        assert opened.shape == whole.shape[:2]
        for y1, x1, y2, x2 in REGIONS:
            found = opened.read((y1, x1, y2, x2))
            found = np.repeat(found[..., None], 3, axis=-1) if found.ndim == 2 else found
            assert found.dtype == whole.dtype
            assert np.abs(found.astype(float) - whole[y1:y2, x1:x2]).max() <= tolerance


def noise(shape=(90, 70, 3), dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (noise(), {"tile": (32, 16), "compression": "zlib"}),
        (noise(), {"tile": (32, 16), "compression": "zlib", "predictor": True}),
        (noise(), {"tile": (32, 16)}),
        (noise(), {"rowsperstrip": 7, "compression": "zlib"}),
        (noise(), {"rowsperstrip": 7}),
        (noise(), {}),  # one strip, which is mapped
        (noise(), {"byteorder": ">"}),
        (noise(dtype=np.uint16), {"byteorder": ">"}),
        (noise(dtype=np.uint16), {"tile": (32, 32), "byteorder": ">", "compression": "zlib"}),
        (noise((90, 70)), {"tile": (32, 32), "compression": "zlib"}),
        (noise((90, 70)), {"photometric": "miniswhite"}),
        (noise((90, 70), bool), {"photometric": "minisblack"}),
        (noise((90, 70), np.float32), {"rowsperstrip": 20, "compression": "zlib"}),
        (noise((3, 90, 70)), {"planarconfig": "separate", "tile": (32, 32), "compression": "zlib"}),
        (noise((3, 90, 70)), {"planarconfig": "separate"}),
        (noise((90, 70, 5)), {"photometric": "minisblack", "planarconfig": "contig", "tile": (32, 32)}),
        (noise((90, 70)), {"photometric": "palette", "colormap": noise((3, 256), np.uint16) * 257, "tile": (32, 32)}),
    ],
)  # fmt: skip
def test_regions_of_a_tiff_are_those_of_the_decoded_image(tmp_path, values, options):
    order = {"byteorder": options.pop("byteorder")} if "byteorder" in options else {}
    with tifffile.TiffWriter(tmp_path / "a.tif", **order) as file:
        file.write(values, **{"photometric": "rgb" if 3 in values.shape else None, **options})
    assert_reads_as(tmp_path / "a.tif", image_reading.read_image(tmp_path / "a.tif", upright=True))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_of_a_turned_tiff_are_upright(tmp_path, orientation):
    shape = (90, 70, 3) if orientation <= 4 else (70, 90, 3)
    tag = (274, "H", 1, orientation, True)
    options = {"tile": (32, 16), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", noise(shape), extratags=[tag], **options)
    assert_reads_as(tmp_path / "a.tif", image_reading.read_image(tmp_path / "a.tif", upright=True))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "jpeg_inside.tif"])
def test_regions_of_a_plain_file_are_those_of_the_photo(tmp_path, name):
    photo = np.kron(noise((9, 7, 3)), np.ones((10, 10, 1), np.uint8))
    options = {"compression": "jpeg"} if name.endswith("tif") else {}
    Image.fromarray(photo).save(tmp_path / name, **options)
    assert_reads_as(tmp_path / name, image_reading.read_image(tmp_path / name), tolerance=3)  # decoders of JPEG differ


def test_arrays_lists_and_sliced_things_are_read():
    values = noise()
    sliced = SimpleNamespace(shape=values.shape)  # has a shape, and is no array
    assert open_tiled(values.tolist()).shape == open_tiled(sliced).shape == (90, 70)
    with pytest.raises(ValueError, match=r"shape \(2, 90, 70, 3\); expected \[height, width\]"):
        open_tiled(np.stack([values, values]))


def pyramid(path, **options):
    values = np.kron(noise((32, 32, 3)), np.ones((4, 4, 1), np.uint8))
    with tifffile.TiffWriter(path) as file:
        common = {"tile": (32, 32), "photometric": "rgb", "compression": "zlib"}
        file.write(values, subifds=2, **common, **options)
        for step in (2, 4):
            file.write(values[::step, ::step], subfiletype=1, **common)
    return values


def test_levels_of_a_pyramid(tmp_path):
    values = pyramid(tmp_path / "a.tif")
    for level, step in enumerate((1, 2, 4)):
        with open_tiled(tmp_path / "a.tif", level) as opened:
            assert np.array_equal(opened.read((0, 0, *opened.shape)), values[::step, ::step])
    with pytest.raises(ValueError, match=r"level is 3, but .*a\.tif has 3; expected 0 to 2"):
        open_tiled(tmp_path / "a.tif", 3)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is no pyramid"):
        open_tiled(tmp_path / "a.png", 1)


def sparse_tiff(path, side, tile=1024):
    """A TIFF of which the file holds only the first tile."""
    tiles = (np.full((tile, tile, 3), 9, np.uint8) if i == 0 else None for i in range((-(-side // tile)) ** 2))
    options = {"compression": "zlib", "tile": (tile, tile), "photometric": "rgb"}
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, **options)


def test_memory_is_that_of_tiles_and_not_of_the_image(tmp_path):
    """The decoded image would take 1.2 GB, and is above the limit for plain files."""
    sparse_tiff(tmp_path / "a.tif", 20_000)
    with pytest.raises(image_reading.TooManyPixels):
        image_reading.read_image(tmp_path / "a.tif")

    def detect(tiles):
        return [Detections([], [], [], RleMasks([], tile.shape)) for tile in tiles]

    tracemalloc.start()
    found = tiled(tmp_path / "a.tif", detect, tile=2048, overlap=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.image_shape == (20_000, 20_000) and peak < 120e6


@pytest.mark.parametrize("form", ["png", "one strip"])
def test_what_must_be_decoded_at_once_has_a_limit(tmp_path, monkeypatch, form):
    monkeypatch.setattr(image_reading, "MAX_PIXELS", 5000)
    path = tmp_path / ("a.png" if form == "png" else "a.tif")
    if form == "png":
        Image.fromarray(noise()).save(path)
    else:
        tifffile.imwrite(path, noise(), compression="zlib", photometric="rgb", rowsperstrip=90)
    with pytest.raises(image_reading.TooManyPixels, match="90 x 70 pixels"):
        open_tiled(path)


def test_a_tile_that_inflates_to_more_than_a_tile_is_refused(tmp_path):
    options = {"tile": (16, 16), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", noise((32, 32, 3)), **options)
    bomb = zlib.compress(bytes(10_000_000), 9)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        page = file.pages[0]
        end = file.filehandle.size
        page.tags["TileOffsets"].overwrite([*page.dataoffsets[:3], end])
        page.tags["TileByteCounts"].overwrite([*page.databytecounts[:3], len(bomb)])
        file.filehandle.seek(end)
        file.filehandle.write(bomb)
    with open_tiled(tmp_path / "a.tif") as opened:
        assert opened.read((0, 0, 16, 16)).shape == (16, 16, 3)
        with pytest.raises(image_reading.UnreadableImage, match="holds far more"):
            opened.read((20, 20, 30, 30))


@pytest.mark.parametrize("content", [b"", b"II*\x00", b"II*\x00\x08\x00\x00\x00\x01\x00"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(image_reading.UnreadableImage, match=r"a\.tif"):
        open_tiled(tmp_path / "a.tif")


def test_a_folder_and_a_url_are_no_images(tmp_path):
    with pytest.raises(image_reading.UnreadableImage, match=r"folder without zarr\.json"):
        open_tiled(tmp_path)
    with pytest.raises(image_reading.UnreadableImage, match="is a URL"):
        open_tiled("https://example.org/a.tif")
    with pytest.raises(FileNotFoundError):
        open_tiled(tmp_path / "a.tif")


def test_regions_of_a_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    values = noise()
    zarr.save_array(str(tmp_path / "a.zarr"), values)
    assert_reads_as(tmp_path / "a.zarr", values)
    assert np.array_equal(open_tiled(zarr.open(str(tmp_path / "a.zarr"))).read((2, 3, 40, 50)), values[2:40, 3:50])
    with pytest.raises(ValueError, match="one array and no pyramid"):
        open_tiled(tmp_path / "a.zarr", 1)
    zarr.save_array(str(tmp_path / "b.zarr"), noise((4, 90, 70, 3)))
    with pytest.raises(image_reading.UnreadableImage, match=r"shape \(4, 90, 70, 3\)"):
        open_tiled(tmp_path / "b.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_and_axes_of_an_ome_zarr(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    values = noise()
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    axes = [{"name": name} for name in "tczyx"]
    for name, step in (("0", 1), ("1", 2)):
        stored = np.moveaxis(values[::step, ::step], -1, 0)[None, :, None]
        group.create_array(name, data=stored, chunks=(1, 1, 1, 32, 32))
    entry = [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
    group.attrs.update({"multiscales": entry} if version == "0.4" else {"ome": {"multiscales": entry}})
    assert_reads_as(tmp_path / "a.zarr", values)
    with open_tiled(tmp_path / "a.zarr", 1) as opened:
        assert np.array_equal(opened.read((0, 0, *opened.shape)), values[::2, ::2])


# ---- Coordinates -----------------------------------------------------------------------------------------------------
def geo_tags(*, point=False, matrix=None, projected=32633):
    keys = [(1024, 0, 1, 1), (1025, 0, 1, 2 if point else 1), (3072, 0, 1, projected)]
    directory = [1, 1, 0, len(keys), *(number for key in keys for number in key)]
    place = [(33550, "d", 3, (0.5, 0.25, 0), True), (33922, "d", 6, (0, 0, 0, 448000, 5411000, 0), True)]
    if matrix is not None:
        place = [(34264, "d", 16, matrix, True)]
    return [*place, (34735, "H", len(directory), directory, True)]


def test_coordinates_of_a_geotiff_reach_geojson(tmp_path):
    image = np.zeros((128, 128, 3), np.uint8)
    image[10:20, 40:80] = 200, 0, 1
    for name, level in (("a.tif", 0), ("b.tif", 0), ("b.tif", 1)):
        options = {"photometric": "rgb", "tile": (32, 32), "extratags": geo_tags()}
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(image, subifds=int(name == "b.tif"), **options)
            if name == "b.tif":
                file.write(image[::2, ::2], subfiletype=1, photometric="rgb", tile=(32, 32))
        found = tiled(tmp_path / name, level=level)
        assert found.crs == "EPSG:32633"
        geojson = found.to_geojson()
        assert geojson["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
        (feature,) = geojson["features"]
        corners = np.array(feature["geometry"]["coordinates"][0])
        assert corners.min(axis=0).tolist() == [448000 + 40 * 0.5, 5411000 - 20 * 0.25]
        assert corners.max(axis=0).tolist() == [448000 + 80 * 0.5, 5411000 - 10 * 0.25]
    assert found[0].transform == found.transform  # selections keep it
    assert tiled(image).to_geojson().keys() == {"type", "features"}


@pytest.mark.parametrize(
    ("tags", "transform", "crs"),
    [
        ({"point": True}, (0.5, 0, 448000 - 0.25, 0, -0.25, 5411000 + 0.125), "EPSG:32633"),
        ({"matrix": (3, 1, 0, 100, -1, -3, 0, 200, *8 * [0])}, (3, 1, 100, -1, -3, 200), "EPSG:32633"),
        ({"projected": 32767}, (0.5, 0, 448000, 0, -0.25, 5411000), None),
    ],
)
def test_transforms_of_a_geotiff(tmp_path, tags, transform, crs):
    tifffile.imwrite(tmp_path / "a.tif", noise(), photometric="rgb", extratags=geo_tags(**tags))
    with open_tiled(tmp_path / "a.tif") as opened:
        assert (opened.transform, opened.crs) == (transform, crs)


def test_what_a_geotiff_does_not_say_is_unknown():
    assert geo_reference(None) == (None, None)
    assert geo_reference({"ModelTiepoint": [[0] * 6, [1] * 6]}) == (None, None)
    assert geo_reference({"GeographicTypeGeoKey": 4326}) == (None, "EPSG:4326")
