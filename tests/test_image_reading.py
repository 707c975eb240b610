"""`image_reading`: image files are read without changes or refused by name; no other format is ever decoded."""

from __future__ import annotations

import functools
import http.server
import io
import lzma
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from formats_kit import jpeg_with_orientation
from PIL import Image

from mrcnn.data import image_reading
from mrcnn.data.dataset import Dataset
from mrcnn.data.dataset import read_image as read_image_as_before
from mrcnn.data.image_reading import UnreadableImage, is_whole_jpeg, read_header, read_image, read_stored_values

COLOR = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)  # RGB
BANDS = np.full((6, 4, 4), (200, 100, 30, 60), np.uint8)
DEEP = np.arange(6 * 4 * 3, dtype=np.uint16).reshape(6, 4, 3) * 57  # 0..4047: 12 bits


# ---- Photos ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COLOR[..., ::-1], COLOR),
        (COLOR[..., 0], np.repeat(COLOR[..., :1], 3, axis=-1)),
        (np.dstack([COLOR[..., ::-1], COLOR[..., 0]]), COLOR),
        (DEEP[..., ::-1], DEEP),
        (np.dstack([DEEP[..., ::-1], DEEP[..., 0]]), DEEP),
        (DEEP[..., 0], np.repeat(DEEP[..., :1], 3, axis=-1)),
    ],
    ids=["RGB", "gray", "RGBA", "16 bits", "16 bits RGBA", "16 bits gray"],
)
def test_a_png_keeps_its_bit_depth(tmp_path, array, expected):
    # Version 1.0 divided 16 bits by 257: 12-bit photos had 17 gray levels.
    path = tmp_path / "ä image.png"
    path.write_bytes(cv2.imencode(".png", array)[1].tobytes())
    image = read_image(path)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == array.dtype


@pytest.mark.parametrize("kind", ["jpg", "bmp", "webp", "gif", "ppm", "tif", "jp2"])
def test_every_supported_format_is_read(tmp_path, kind):
    picture = Image.fromarray(np.repeat(np.repeat(COLOR * 3, 16, axis=0), 16, axis=1))
    options = {"webp": {"lossless": True}, "gif": {"palette": Image.Palette.ADAPTIVE}}
    picture.save(tmp_path / f"a.{kind}", **options.get(kind, {}))
    image = read_image(tmp_path / f"a.{kind}")
    assert image.shape == (96, 64, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.asarray(picture)).mean() < 4
    header = read_header(tmp_path / f"a.{kind}")
    assert header.stored == header.upright == (96, 64) and header.orientation == 1
    assert read_image_as_before is read_image  # the import path of version 1.0


def test_one_bit_images_are_black_and_white(tmp_path):
    bits = COLOR[..., 0] > 30
    for name, options in (("a.png", {}), ("a.tif", {}), ("b.tif", {"compression": "group4"})):
        Image.fromarray(bits).save(tmp_path / name, **options)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 1], bits * 255)
        np.testing.assert_array_equal(read_stored_values(tmp_path / name) != 0, bits)


def test_the_first_frame_of_an_animation_is_read_with_a_warning(tmp_path):
    frames = [Image.new("L", (4, 6), 10 * n) for n in (1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="first frame"):
        assert (read_image(tmp_path / "a.gif") == 10).all()


# ---- TIFF ------------------------------------------------------------------------------------------------------------
def test_a_fourth_band_of_a_tiff_does_not_change_the_colors(tmp_path):
    # OpenCV multiplied colors by it, and read MINISBLACK as gray of the first band: (47, 24, 7).
    writers = {
        "Pillow's RGBA": lambda path: Image.fromarray(BANDS).save(path),
        "compressed": lambda path: Image.fromarray(BANDS).save(path, compression="tiff_lzw"),
        "RGB and infrared": lambda path: tifffile.imwrite(path, BANDS, photometric="rgb"),
        "four gray bands": lambda path: tifffile.imwrite(path, BANDS, photometric="minisblack", planarconfig="contig"),
        "planes": lambda path: tifffile.imwrite(
            path, np.moveaxis(BANDS, -1, 0), photometric="minisblack", planarconfig="separate"
        ),
        "ImageJ's channels": lambda path: tifffile.imwrite(
            path, np.moveaxis(BANDS, -1, 0), imagej=True, metadata={"axes": "CYX"}
        ),
    }
    for name, write in writers.items():
        write(tmp_path / "a.tif")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), BANDS, err_msg=name)
    deep = BANDS.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), deep)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64", "int8"])
def test_a_tiff_keeps_its_number_type(tmp_path, dtype):
    # int16 -300..29998 was cut by >> 8; floats were refused.
    values = np.array([[-300, 29998], [0, 5]], np.float64) / (300 if dtype == "int8" else 1)
    values = values.clip(min=0 if dtype == "uint16" else None).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, np.dstack([values] * 3))


@pytest.mark.parametrize("bands", [2, 5, 12])
def test_many_bands_are_read_unchanged(tmp_path, bands):
    values = np.random.default_rng(0).random((6, 4, bands)).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values)


def test_tiff_color_spaces_are_converted(tmp_path):
    gray = COLOR[..., 0]
    tifffile.imwrite(tmp_path / "white is 0.tif", 255 - gray, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white is 0.tif")[..., 0], gray)
    indexed = Image.fromarray(gray // 30)
    indexed.putpalette([0, 0, 0, 9, 50, 200, 1, 2, 3])
    for options in ({}, {"compression": "tiff_lzw"}):
        indexed.save(tmp_path / "palette.tif", **options)
        np.testing.assert_array_equal(read_image(tmp_path / "palette.tif"), np.asarray(indexed.convert("RGB")))
        np.testing.assert_array_equal(read_stored_values(tmp_path / "palette.tif"), gray // 30)
    picture = Image.fromarray(COLOR).convert("CMYK")
    picture.save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tif"), np.asarray(picture.convert("RGB")))
    Image.new("LAB", (4, 6)).save(tmp_path / "lab.tif")
    with pytest.raises(UnreadableImage, match=r"lab\.tif has CIELAB colors"):
        read_image(tmp_path / "lab.tif")


def test_a_multipage_tiff_is_refused_unless_it_marks_its_image(tmp_path):
    # Three pages were read as gray of the first.
    stack = np.zeros((3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "pages.tif", stack, photometric="minisblack", metadata=None)
    with pytest.raises(UnreadableImage, match=r"pages\.tif holds 3 images.*tifffile.imread"):
        read_image(tmp_path / "pages.tif")
    with pytest.raises(UnreadableImage, match=r"holds 3 images"):
        read_header(tmp_path / "pages.tif")
    with tifffile.TiffWriter(tmp_path / "preview.tif") as writer:
        writer.write(COLOR, photometric="rgb")
        writer.write(COLOR[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "preview.tif"), COLOR)
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as writer:
        writer.write(COLOR, photometric="rgb", metadata=None)
        writer.write(COLOR[:5], photometric="rgb", metadata=None)
    with pytest.warns(UserWarning, match="2 images of different sizes; the first one"):
        np.testing.assert_array_equal(read_image(tmp_path / "sizes.tif"), COLOR)


# ---- EXIF ------------------------------------------------------------------------------------------------------------
def turned(path, tag, **options):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(COLOR).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "lzw.tif"])
def test_exif_orientation_turns_only_on_request(tmp_path, orientation, kind):
    path = turned(tmp_path / f"a.{kind}", orientation, **({"compression": "tiff_lzw"} if kind == "lzw.tif" else {}))
    np.testing.assert_array_equal(read_image(path), COLOR)  # matterport's rule: the stored pixels
    header = read_header(path)
    assert header.stored == (6, 4) and header.orientation == orientation
    upright = {1: COLOR, 2: COLOR[:, ::-1], 3: COLOR[::-1, ::-1], 4: COLOR[::-1], 5: COLOR.swapaxes(0, 1),
               6: np.rot90(COLOR, -1), 7: np.rot90(COLOR, -1)[:, ::-1], 8: np.rot90(COLOR)}[orientation]  # fmt: skip
    if orientation == 7:
        upright = COLOR[::-1, ::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(read_image(path, upright=True), upright)
    assert header.upright == upright.shape[:2]
    np.testing.assert_array_equal(read_image(path, upright=upright.shape[:2]), upright)
    if orientation > 4:
        np.testing.assert_array_equal(read_image(path, upright=(6, 4)), COLOR)


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(4, 1, b"\x00\x01\x00\x01"), (2, 4, b"6ab\x00"), (3, 1, b"\x00\x09\x00\x00")],
    ids=["65537", "a text", "9"],
)
def test_a_malformed_orientation_is_ignored_with_a_warning(tmp_path, kind, count, value):
    # 65537 swapped height and width, a text raised TypeError.
    path = jpeg_with_orientation(tmp_path / "a.jpg", COLOR, kind, count, value)
    with pytest.warns(UserWarning, match=r"a\.jpg: the EXIF orientation is .*ignored"):
        assert read_header(path).upright == (6, 4)
    with pytest.warns(UserWarning, match="ignored"):
        assert read_image(path, upright=True).shape == (6, 4, 3)


# ---- What is refused -------------------------------------------------------------------------------------------------
REFUSED = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\n",
    "EPS ": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "PDF": b"%PDF-1.4",
    "HTML or XML": b"\n<!DOCTYPE html><title>404</title>",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00",
    "empty": b"",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "RIFF": b"RIFF\x00\x00\x00\x00WAVEfmt ",
    "b'hello'": b"hello",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_formats_are_refused_by_name_in_every_reader(tmp_path, kind):
    # Pillow started Ghostscript for `evil.jpg` that is EPS.
    path = tmp_path / "evil.jpg"
    path.write_bytes(REFUSED[kind])
    for read in (read_image, read_stored_values, read_header):
        with pytest.raises(UnreadableImage, match=rf"evil\.jpg is .*{kind.strip()}.*expected JPEG, PNG"):
            read(path)


def test_no_other_decoder_is_loaded(tmp_path):
    """The decoders of formats that aren't read stay unloaded, whatever a file says."""
    (tmp_path / "evil.jpg").write_bytes(REFUSED["EPS"])
    code = (
        "import sys\nfrom mrcnn.data.image_reading import read_image\n"
        "try: read_image(sys.argv[1])\nexcept ValueError: pass\n"
        "print([m for m in sys.modules if m.endswith(('EpsImagePlugin', 'PdfImagePlugin')) or m.startswith('skimage')])"
    )
    made = subprocess.run([sys.executable, "-c", code, str(tmp_path / "evil.jpg")], capture_output=True, text=True)
    assert made.stdout.strip() == "[]", made.stderr


def png_header(height, width):
    """The start of a PNG of this size, with too little data."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    data = zlib.compress(bytes(1000))
    chunks = [chunk, b"IDAT" + data, b"IEND"]
    body = b"".join(len(c[4:]).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    # 1.2 MB of PNG took 2.3 GB.
    (tmp_path / "bomb.png").write_bytes(png_header(50_000, 50_000))
    Image.new("L", (100, 60)).save(tmp_path / "a.tif")
    (tmp_path / "lie.png").write_bytes(png_header(15_000, 15_000))
    for read in (read_image, read_stored_values, read_header):
        with pytest.raises(UnreadableImage, match=r"lie\.png is cut off: its 15000 x 15000 pixels"):
            read(tmp_path / "lie.png")
        with pytest.raises(UnreadableImage, match=r"bomb\.png has 50000 x 50000 pixels.*MAX_PIXELS"):
            read(tmp_path / "bomb.png")
    monkeypatch.setattr(image_reading, "MAX_PIXELS", 5999)
    for read in (read_image, read_stored_values, read_header):
        with pytest.raises(UnreadableImage, match=r"a\.tif has 60 x 100 pixels.*at most 5999"):
            read(tmp_path / "a.tif")
    monkeypatch.setattr(image_reading, "MAX_PIXELS", 6000)
    assert read_image(tmp_path / "a.tif").shape == (60, 100, 3)


@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_a_tiff_that_inflates_to_more_than_its_pixels_is_refused(tmp_path, compression):
    # 100 x 100 pixels whose data inflate to 300 MB
    compress = {"zlib": zlib.compress, "lzma": lzma.compress}[compression]
    pixels = np.zeros((100, 100), np.int16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        counts, offsets = page.tags["StripByteCounts"], page.tags["StripOffsets"]
    bomb = compress(bytes(20_000_000))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for tag, value in ((counts, len(bomb)), (offsets, len(data))):
        size = {3: 2, 4: 4}[tag.dtype]
        data[tag.valueoffset : tag.valueoffset + size] = int(value).to_bytes(size, "little")
    (tmp_path / "a.tif").write_bytes(data + bomb)
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match=r"a\.tif is damaged: a part of 10000 pixels holds far more"):
        read_image(tmp_path / "a.tif")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_images_larger_than_pillows_limit_are_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    Image.new("L", (100, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above, and raises above twice this number
    assert read_image(tmp_path / "a.png").shape == (60, 100, 3) and read_header(tmp_path / "a.png").stored == (60, 100)
    assert not recwarn


@pytest.mark.parametrize("left", [0, 100, 0.5, -3])
@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif", ".webp", ".bmp"])
def test_a_truncated_file_is_named(tmp_path, kind, left):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = cv2.imencode(kind, noise)[1].tobytes()
    path = tmp_path / f"cut{kind}"
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    if left == -3 and kind != ".jpg":
        return  # the last bytes of others carry no pixels, or few
    with pytest.raises(UnreadableImage, match=rf"cut{kind}"):
        read_image(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "gif", "webp", "jp2"])
def test_decoder_errors_name_the_file(tmp_path, kind, monkeypatch):
    # struct.error, SyntaxError, KeyError, cv2.error, zlib.error ... of damaged files
    file, picture = io.BytesIO(), Image.fromarray(np.repeat(np.repeat(COLOR, 8, axis=0), 8, axis=1))
    picture.save(file, {"tif": "TIFF", "jpg": "JPEG", "jp2": "JPEG2000"}.get(kind, kind))
    monkeypatch.setattr(image_reading, "MAX_PIXELS", 10**6)
    data, rng = file.getvalue(), np.random.default_rng(0)
    for _ in range(20):
        broken = bytearray(data)
        for place in rng.integers(0, min(len(data), 200), 3):
            broken[place] = rng.integers(256)
        (tmp_path / f"a.{kind}").write_bytes(broken)
        for read in (read_image, read_stored_values, read_header):
            try:
                read(tmp_path / f"a.{kind}")
            except UnreadableImage as error:
                assert f"a.{kind}" in str(error)


def test_a_jpeg_without_its_end_marker_is_recognized():
    """Older OpenCVs read such a file without an error; newer ones don't, so the check is tested directly."""
    start, scan, end, pixels = b"\xff\xd8", b"\xff\xda", b"\xff\xd9", bytes(range(9))
    preview = start + scan + pixels + end  # in the header, with its own end marker
    assert is_whole_jpeg(start + preview + scan + pixels + end)
    assert is_whole_jpeg(start + preview + scan + pixels + end + pixels)  # trailing bytes are harmless
    assert not is_whole_jpeg(start + preview + scan + pixels)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_image, read_stored_values, read_header):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
            read(tmp_path / "nowhere.jpg")


# ---- URLs ------------------------------------------------------------------------------------------------------------
class Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/slow":
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        for _ in range(40):  # a byte at a time, so that no single wait is long
            time.sleep(0.02)
            self.wfile.write(b"a")

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_url_needs_allowed_downloads(site, monkeypatch):
    dataset = Dataset()
    dataset.add_image("web", 1, f"{site}/a.png")
    for read in (read_image, lambda path: dataset.load_image(0)):
        with pytest.raises(UnreadableImage, match=r"a\.png is a URL.*download=True"):
            read(f"{site}/a.png")
    np.testing.assert_array_equal(read_image(f"{site}/a.png", download=True), COLOR)
    dataset.download = True
    np.testing.assert_array_equal(dataset.load_image(0), COLOR)
    with pytest.raises(UnreadableImage, match="ftp://.*expected http"):
        read_image("ftp://127.0.0.1/a.png", download=True)
    with pytest.raises(UnreadableImage, match=r"b\.png.*404"):
        read_image(f"{site}/b.png", download=True)
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_BYTES", 50)
    with pytest.raises(UnreadableImage, match="more than 50 bytes"):
        read_image(f"{site}/a.png", download=True)
    monkeypatch.setattr(image_reading, "DOWNLOAD_SECONDS", 0.1)
    with pytest.raises(UnreadableImage, match=r"slow took longer than 0\.1 s"):
        read_image(f"{site}/slow", download=True)
