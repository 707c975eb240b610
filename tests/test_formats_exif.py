"""Rotated phone photos: all formats use one rule for whether annotations refer to the upright or the stored photo."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from formats_kit import jpeg_with_orientation, photo
from PIL import Image, ImageOps

from mrcnn.data.format_detection import open_dataset
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.exif import upright_size

H, W = 30, 40  # as stored
PATCH = (4, 3, 20, 12)  # y1, x1, y2, x2 of the one object, which fits into both


def patch(height, width):
    mask = np.zeros((height, width), bool)
    mask[PATCH[0] : PATCH[2], PATCH[1] : PATCH[3]] = True
    return mask


def polygon():
    y1, x1, y2, x2 = PATCH
    return [x1, x1, x2, x2], [y1, y2, y2, y1]


# ---- One object in each format; `size` is what the file says, where the format has it --------------------------------
def coco(folder, size):
    xs, ys = polygon()
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [sum(zip(xs, ys), ())]}],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def labelme(folder, size):
    shape = {"label": "cat", "points": list(zip(*polygon())), "shape_type": "polygon"}
    content = {"imagePath": "a.jpg", "shapes": [shape], "imageHeight": size[0], "imageWidth": size[1]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder


def voc(folder, size):
    y1, x1, y2, x2 = PATCH
    box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    (folder / "a.xml").write_text(
        f"<annotation><filename>a.jpg</filename><size><width>{size[1]}</width><height>{size[0]}</height></size>"
        f"<object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    return folder


def mask_png(folder, size):
    for name in ("images", "masks"):
        (folder / "one" / name).mkdir(parents=True)
    (folder / "a.jpg").rename(folder / "one" / "images" / "a.jpg")
    Image.fromarray(patch(*size).astype(np.uint8) * 255).save(folder / "one" / "masks" / "1.png")
    return folder


def via(folder, size):
    xs, ys = polygon()
    if size == (H, W):
        xs, ys = [*xs, W], [*ys, 1]  # only the stored pixels hold this point
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    entry = {"filename": "a.jpg", "regions": [{"shape_attributes": shape, "region_attributes": {"name": "cat"}}]}
    (folder / "via_region_data.json").write_text(json.dumps([entry]))
    return folder / "via_region_data.json"


def yolo(folder, size):
    y1, x1, y2, x2 = np.array(PATCH) / [*size, *size]
    (folder / "a.txt").write_text(f"0 {x1} {y1} {x1} {y2} {x2} {y2} {x2} {y1}")
    (folder / "classes.txt").write_text("cat")
    (folder / "labels").mkdir()
    (folder / "images").mkdir()
    (folder / "a.txt").rename(folder / "labels" / "a.txt")
    (folder / "a.jpg").rename(folder / "images" / "a.jpg")
    return folder / "labels"


WITH_SIZE = [coco, labelme, voc, mask_png, via]


def opened(form, folder, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return open_dataset(form(folder, size))


@pytest.mark.parametrize("form", [*WITH_SIZE, yolo])
@pytest.mark.parametrize("orientation", [6, 7])
def test_annotations_of_the_upright_photo_match_it(tmp_path, form, orientation):
    # VIA gave a mask on the stored pixels, or of none; COCO's size was an error that didn't say why.
    file = photo(tmp_path / "a.jpg", H, W, orientation)
    with Image.open(file) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
    dataset = opened(form, tmp_path, (W, H))
    assert (dataset.image_info[0]["height"], dataset.image_info[0]["width"]) == (W, H)
    np.testing.assert_allclose(dataset.load_image(0), expected, atol=6)  # two JPEG decoders
    mask = dataset.load_mask(0)[0][..., 0]
    assert mask.shape == (W, H) and np.count_nonzero(mask != patch(W, H)) <= 2 * (16 + 9 + 2)  # borders of polygons


@pytest.mark.parametrize("form", WITH_SIZE)
def test_annotations_of_the_stored_pixels_match_them(tmp_path, form):
    file = photo(tmp_path / "a.jpg", H, W, 6)
    with Image.open(file) as picture:
        expected = np.asarray(picture).astype(int)
    dataset = opened(form, tmp_path, (H, W))
    assert (dataset.image_info[0]["height"], dataset.image_info[0]["width"]) == (H, W)
    np.testing.assert_allclose(dataset.load_image(0), expected, atol=6)
    assert dataset.load_mask(0)[0].shape == (H, W, 1)


@pytest.mark.parametrize("form", [coco, labelme, voc])
def test_a_size_mismatch_error_explains_the_exif_orientation(tmp_path, form):
    photo(tmp_path / "a.jpg", H, W, 6)
    expected = rf"{W} x {H} \(height x width\), as EXIF orientation 6 turns it, or {H} x {W}, as stored, got '77 x 40'"
    with pytest.raises(BrokenAnnotation, match=expected):
        opened(form, tmp_path, (77, 40))


@pytest.mark.parametrize(("height", "width", "orientation"), [(30, 30, 6), (30, 40, 3)])
@pytest.mark.parametrize("form", [coco, via, mask_png])
def test_photos_of_ambiguous_size_are_read_upright_with_a_warning(tmp_path, form, height, width, orientation):
    photo(tmp_path / "a.jpg", height, width, orientation)
    with pytest.warns(UserWarning, match="taken as upright"):
        dataset = open_dataset(form(tmp_path, (height, width - 1) if form is via else (height, width)))
    with Image.open(dataset.image_info[0]["path"]) as picture:
        np.testing.assert_allclose(
            dataset.load_image(0), np.asarray(ImageOps.exif_transpose(picture)).astype(int), atol=6
        )


def test_tools_known_to_rotate_photos_give_no_warning(tmp_path, recwarn):
    file = photo(tmp_path / "a.jpg", 30, 30, 6)
    assert upright_size(file, ("a.json", "the image")) == (30, 30)
    assert open_dataset(voc(tmp_path, (30, 30))).num_images == 1
    assert not [warning for warning in recwarn if "EXIF" in str(warning.message)]


def test_invalid_orientations_are_ignored(tmp_path):
    # experiencor/kangaroo, 00103.jpg: Pillow reads the orientation 65537, and the size was refused.
    jpeg_with_orientation(tmp_path / "a.jpg", np.zeros((H, W, 3), np.uint8), 4, 1, b"\x00\x01\x00\x01")
    with pytest.warns(UserWarning, match=r"a\.jpg: the EXIF orientation is 65537.*ignored"):
        dataset = open_dataset(voc(tmp_path, (H, W)))
    assert dataset.load_image(0).shape == (H, W, 3)
    np.testing.assert_array_equal(dataset.load_mask(0)[0][..., 0], patch(H, W))
