"""matterport's Dataset contract: registering, numbering, looking up, and reading image files."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest

from mrcnn.data.dataset import Dataset, _is_whole, read_image


def make(class_map=None):
    dataset = Dataset()
    dataset.add_class("coco", 1, "person")
    dataset.add_class("coco", 44, "balloon, toy")
    dataset.add_class("via", 1, "balloon")
    dataset.add_image("coco", "a", None, height=3, width=5, note="kept")
    dataset.add_image("via", 7, "b.jpg")
    dataset.prepare(class_map)
    return dataset


# ---- Empty datasets --------------------------------------------------------------------------------------------------
def test_an_empty_dataset_has_only_the_background():
    dataset = Dataset()
    assert len(dataset.image_ids) == 0
    dataset.prepare()
    assert (dataset.num_images, dataset.num_classes, dataset.class_names) == (0, 1, ["BG"])
    assert dataset.source_class_ids == {"": [0]}


def test_base_load_mask_returns_no_objects():
    masks, class_ids = make().load_mask(0)
    assert masks.shape == (3, 5, 0) and masks.dtype == bool
    assert class_ids.shape == (0,) and class_ids.dtype == np.int32


def test_base_load_mask_takes_the_size_from_the_image_when_it_is_not_given():
    class Drawn(Dataset):
        def load_image(self, image_id):
            return np.zeros((4, 6, 3), np.uint8)

        def load_mask(self, image_id):
            return super(self.__class__, self).load_mask(image_id)  # the idiom of 18 of 67 repositories

    dataset = Drawn()
    dataset.add_image("x", 0, None)
    dataset.prepare()
    assert dataset.load_mask(0)[0].shape == (4, 6, 0)


# ---- Numbering -------------------------------------------------------------------------------------------------------
def test_ids_names_and_sources_after_prepare():
    dataset = make()
    assert dataset.image_ids.tolist() == [0, 1] and dataset.class_ids.tolist() == [0, 1, 2, 3]
    assert dataset.class_names == ["BG", "person", "balloon", "balloon"]  # names end at the first comma
    assert dataset.sources == ["", "coco", "via"]
    assert dataset.source_class_ids == {"": [0], "coco": [0, 1, 2], "via": [0, 3]}
    assert dataset.image_from_source_map == {"coco.a": 0, "via.7": 1}
    assert dataset.image_info[0]["note"] == "kept"
    assert dataset.source_image_link(1) == "b.jpg" and dataset.image_reference(1) == ""
    assert dataset.map_source_class_id("coco.44") == 2 and dataset.get_source_class_id(2, "coco") == 44


def test_failed_lookups_list_what_is_registered():
    with pytest.raises(KeyError, match=r"coco\.45.*coco\.44"):
        make().map_source_class_id("coco.45")
    with pytest.raises(ValueError, match="'coco', not of 'via'"):
        make().get_source_class_id(2, "via")


def test_class_map_joins_classes_of_two_sources():
    dataset = make({"coco.44": "balloon", "via.1": "balloon"})
    assert dataset.class_names == ["BG", "person", "balloon"]
    assert dataset.map_source_class_id("coco.44") == dataset.map_source_class_id("via.1") == 2
    assert dataset.source_class_ids == {"": [0], "coco": [0, 1, 2], "via": [0, 2]}
    assert dataset.get_source_class_id(2, "coco") == 44 and dataset.get_source_class_id(2, "via") == 1
    dataset.prepare({"coco.44": "balloon", "via.1": "balloon"})  # again: nothing changes
    assert dataset.class_names == ["BG", "person", "balloon"]
    dataset.prepare()
    assert dataset.source_class_ids["via"] == [0, 2]


def test_class_map_with_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match=r"coco\.45.*registered are"):
        make({"coco.45": "x"})


def test_the_constructor_accepts_what_scripts_pass():
    class Odd(Dataset):
        def __init__(self):
            super().__init__(self)  # seen in a public script

    Odd().prepare()
    joined = Dataset(class_map={"a.1": "x", "b.1": "x"})
    joined.add_class("a", 1, "ax")
    joined.add_class("b", 1, "bx")
    joined.prepare()
    assert joined.class_names == ["BG", "x"]


def test_a_class_registered_twice_is_one_and_a_different_name_gives_a_warning():
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.add_class("coco", 1, "person")
        dataset.add_class("coco", 1, "person")
    with pytest.warns(UserWarning, match=r"coco\.1 is already 'person'.*'car'"):
        dataset.add_class("coco", 1, "car")
    assert len(dataset.class_info) == 2


def test_duplicate_images_are_named():
    dataset = make()
    dataset.add_image("via", 7, "c.jpg")
    with pytest.warns(UserWarning, match=r"1 images.*via\.7"):
        dataset.prepare()
    assert dataset.num_images == 3


def test_a_dot_in_the_source_is_refused():
    with pytest.raises(ValueError, match=r"my\.set"):
        Dataset().add_class("my.set", 1, "x")


# ---- Image files -----------------------------------------------------------------------------------------------------
COLOR = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)  # RGB


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COLOR[..., ::-1], COLOR),
        (COLOR[..., 0], np.repeat(COLOR[..., :1], 3, axis=-1)),
        (np.dstack([COLOR[..., ::-1], COLOR[..., 0]]), COLOR),
        (COLOR[..., ::-1].astype(np.uint16) * 257 + 128, COLOR),  # 257 times as bright, rounded down
        (COLOR[..., ::-1].astype(np.uint16) * 257 - (COLOR[..., ::-1] > 0) * np.uint16(128), COLOR),  # rounded up
    ],
    ids=["RGB", "gray", "RGBA", "16 bits", "16 bits, a little less"],
)
def test_read_image_gives_rgb_uint8(tmp_path, array, expected):
    path = tmp_path / "ä image.png"
    path.write_bytes(cv2.imencode(".png", array)[1].tobytes())
    np.testing.assert_array_equal(read_image(path), expected)


def test_read_image_of_one_bit_gif_and_tiff(tmp_path):
    from PIL import Image

    bits = COLOR[..., 0] > 30
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[..., 1], bits * 255)
    Image.fromarray(COLOR[..., 0]).save(tmp_path / "grey.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.gif")[..., 2], COLOR[..., 0])
    Image.fromarray(COLOR).save(tmp_path / "color.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "color.tif"), COLOR)


def test_read_image_ignores_exif_rotation(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn; masks are drawn on the stored pixels
    Image.fromarray(COLOR).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


@pytest.mark.parametrize("left", [0, 100, 0.5, -3])
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_truncated_file_is_named(tmp_path, kind, left):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = cv2.imencode(kind, noise)[1].tobytes()
    path = tmp_path / f"cut{kind}"
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    if left == -3 and kind == ".png":
        return  # the last bytes of a PNG carry no pixels
    with pytest.raises(ValueError, match=rf"cut{kind}"):
        read_image(path)


def test_a_jpeg_without_its_end_marker_is_recognized():
    """Older OpenCVs read such a file without an error; newer ones don't, so the check is tested directly."""
    start, scan, end = (np.frombuffer(code, np.uint8) for code in (b"\xff\xd8", b"\xff\xda", b"\xff\xd9"))
    pixels = np.arange(9, dtype=np.uint8)
    preview = np.concatenate([start, scan, pixels, end])  # in the header, with its own end marker
    assert _is_whole(np.concatenate([start, preview, scan, pixels, end]))
    assert _is_whole(np.concatenate([start, preview, scan, pixels, end, pixels]))  # trailing bytes are harmless
    assert not _is_whole(np.concatenate([start, preview, scan, pixels]))
    assert not _is_whole(start[:0]) and _is_whole(pixels)  # other formats are left to OpenCV


def test_a_file_of_floats_is_refused_because_their_range_is_unknown(tmp_path):
    cv2.imwrite(str(tmp_path / "depth.tif"), COLOR[..., 0].astype(np.float32))
    with pytest.raises(
        ValueError, match=r"depth\.tif can't be read as an image: it has dtype float32; expected 8 or 16"
    ):
        read_image(tmp_path / "depth.tif")


def test_a_missing_file_and_one_that_is_no_image_are_named(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.jpg"):
        read_image(tmp_path / "page.jpg")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="Image 0 of Dataset has no path"):
        make().load_image(0)
