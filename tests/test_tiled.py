"""Detection on tiles: reading images by regions, joining what seams cut, and the laws that results obey.

At scale, the network is replaced by a formula: objects are areas of one color, and `detect_colors` finds them exactly.
"""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from mrcnn.config import Config
from mrcnn.inference.result_masks import RleMasks
from mrcnn.inference.results import Detections
from mrcnn.inference.tile_merging import SeamJoiner
from mrcnn.inference.tiled_detection import View, detect_augmented, detect_tiled, views_of
from mrcnn.ops.rle import decode_crops, encode_masks, encode_runs
from mrcnn.ops.runs import area_of_runs, clip_runs, common_area, draw_runs, region_of_runs, runs_of_crop, union_of_runs

CONFIG = Config(NUM_CLASSES=4, IMAGES_PER_GPU=3)


# ---- The formula detector --------------------------------------------------------------------------------------------
def detect_colors(tiles):
    """Each connected area of one color is an object: red is its score / 255, and blue % 3 + 1 its class."""
    return [detections_in(tile) for tile in tiles]


def detections_in(tile):
    values = tile.astype(np.int64) @ [1, 256, 65536]
    boxes, class_ids, scores, masks = [], [], [], []
    for value in np.unique(values[values > 0]):
        parts, count = ndimage.label(values == value, np.ones((3, 3)))
        for i, (rows, columns) in enumerate(ndimage.find_objects(parts, count)):
            boxes.append((rows.start, columns.start, rows.stop, columns.stop))
            class_ids.append(value // 65536 % 3 + 1)
            scores.append(value % 256 / 255)
            masks.append(encode_runs(runs_of_crop(parts[rows, columns] == i + 1, boxes[-1][:2]), tile.shape))
    order = np.argsort(-np.array(scores), kind="stable")
    arrays = (np.array(values)[order] for values in (np.array(boxes).reshape(-1, 4), class_ids, scores))
    return Detections(*arrays, RleMasks([masks[i] for i in order], tile.shape))


def paint(image, mask_or_slices, number):
    """Gives an object a color of its own."""
    rng = np.random.default_rng(number)
    image[mask_or_slices] = rng.integers(100, 256), number % 256, 1 + number // 256


def as_set(found):
    """Objects that can be compared: class, score, box, mask."""
    rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.rois.tolist(), found.rle)
    return sorted((class_id, round(score, 6), box, rle["counts"]) for class_id, score, box, rle in rows)


def tiled(image, detect=detect_colors, config=CONFIG, **options):
    return detect_tiled(detect, image, config=config, progress=False, **{"tile": 64, "overlap": 16, **options})


def shapes_at(rng, side):
    """A mask [side, side] of a disc, a ring, a bar, a U or a spiral."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(y, x) / (side / 2)
    kind = rng.integers(5)
    if kind == 0:
        return radius <= 1
    if kind == 1:
        return (radius <= 1) & (radius > 0.6)
    if kind == 2:
        return np.abs(y) < side / 8
    third = side / 6
    u = (np.abs(x) > third) | (y > third)
    return u if kind == 3 else (radius <= 1) & ((radius > 0.7) | (y > 0)) & ~((np.abs(x) < 2) & (y < side / 4))


def scene(side, cell, count, seed=0):
    """An image [side, side, 3] with objects, at most one in each cell of a grid, and their masks as run lengths."""
    rng = np.random.default_rng(seed)
    image, masks = np.zeros((side, side, 3), np.uint8), []
    cells = rng.permutation((side // cell) ** 2)[:count]
    for number, place in enumerate(cells.tolist()):
        size = int(rng.integers(cell // 2, cell - 1))
        y, x = (int(n) * cell + int(rng.integers(0, cell - 1 - size + 1)) for n in divmod(place, side // cell))
        mask = shapes_at(rng, size)
        mask = ndimage.rotate(mask, 90 * int(rng.integers(4)), order=0)
        paint(image[y : y + size, x : x + size], mask, number)
        masks.append(encode_runs(runs_of_crop(mask, (y, x)), image.shape)["counts"])
    return image, masks


# ---- Run lengths -----------------------------------------------------------------------------------------------------
def test_arithmetic_on_runs_equals_that_on_pixels():
    rng = np.random.default_rng(0)
    for _ in range(200):
        h, w = rng.integers(1, 9, 2)
        a, b = rng.random((2, h, w)) < rng.choice([0.2, 0.6, 1.0])
        runs_a, runs_b = runs_of_crop(a), runs_of_crop(b)
        assert np.array_equal(draw_runs(runs_a, (0, 0, h, w)), a)
        assert np.array_equal(draw_runs(union_of_runs([runs_a, runs_b]), (0, 0, h, w)), a | b)
        assert (area_of_runs(runs_a), common_area(runs_a, runs_b)) == (a.sum(), (a & b).sum())
        y1, x1 = rng.integers(0, h), rng.integers(0, w)
        y2, x2 = rng.integers(y1, h + 1), rng.integers(x1, w + 1)
        clipped = np.zeros_like(a)
        clipped[y1:y2, x1:x2] = a[y1:y2, x1:x2]
        assert np.array_equal(draw_runs(clip_runs(runs_a, (y1, x1, y2, x2)), (0, 0, h, w)), clipped)
        rle = encode_runs(runs_a, (h, w))
        assert rle == encode_masks(a[..., None])[0]
        ((region, pixels),) = decode_crops([rle])
        assert region == region_of_runs(runs_a)
        assert np.array_equal(pixels, a[region[0] : region[2], region[1] : region[3]])


def test_the_union_of_no_masks_is_empty():
    assert union_of_runs([]).shape == (0, 3)
    assert encode_runs(union_of_runs([]), (3, 4)) == encode_masks(np.zeros((3, 4, 1), bool))[0]


# ---- Grids -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 64), (200, 333), (30, 500)])
@pytest.mark.parametrize("scales", [(1,), (0.5, 2)])
def test_tiles_cover_every_pixel_have_one_size_and_overlap(shape, scales):
    for scale in scales:
        views = views_of(shape, 64, 16, scales=(scale,))
        covered = np.zeros(shape, int)
        for y1, x1, y2, x2 in (view.region for view in views):
            assert 0 <= y1 < y2 <= shape[0] and 0 <= x1 < x2 <= shape[1]
            covered[y1:y2, x1:x2] += 1
        assert covered.min() == 1
        assert {view.shape for view in views} == {(min(64, shape[0]), min(64, shape[1]))}
        assert len({(y2 - y1, x2 - x1) for y1, x1, y2, x2 in (view.region for view in views)}) == 1
        columns = sorted({view.region[1] for view in views})
        assert all(b - a <= 48 / scale for a, b in pairwise(columns))


# ---- Laws ------------------------------------------------------------------------------------------------------------
def test_an_image_of_one_tile_gives_what_detect_gives():
    image, _ = scene(60, 12, 20)
    (direct,) = detect_colors([image])
    found = tiled(image)
    assert found == direct and found.rois.dtype == np.int32


def test_two_thousand_objects_across_seams_come_out_whole_and_once():
    image, masks = scene(1500, 30, 2000)
    found = tiled(image, tile=128, overlap=20)
    texts = [rle["counts"] for rle in found.rle]
    assert len(texts) == len(set(texts))
    assert len(set(texts) & set(masks)) >= 0.99 * len(masks)
    assert len(found) == len(masks)
    pieces = tiled(image, tile=128, overlap=20, merge="none")
    assert len(pieces) > 1.3 * len(masks)  # so many were cut or seen twice


@pytest.mark.parametrize("shift", [(7, 0), (0, 31), (19, 45)])
def test_shifting_the_grid_changes_no_object(shift):
    image, _ = scene(400, 25, 150)
    moved = tiled(np.pad(image, [(shift[0], 0), (shift[1], 0), (0, 0)]))
    back = moved.rois - np.tile(shift, 2)
    expected = tiled(image)
    assert len(expected) > 100
    assert keys(moved.class_ids, moved.scores, back, moved) == keys(
        expected.class_ids, expected.scores, expected.rois, expected
    )


def keys(class_ids, scores, boxes, found):
    """Objects without their place in the image: class, score, box and the pixels in it."""
    pixels = [crop.tobytes() for _, crop in found.crops()]
    return sorted(zip(class_ids.tolist(), scores.tolist(), boxes.tolist(), pixels))


def test_a_ring_and_a_bar_over_many_tiles_are_one_object_each():
    image = np.zeros((700, 700, 3), np.uint8)
    y, x = np.mgrid[:700, :700]
    radius = np.hypot(y - 350, x - 350)
    ring, bar = (radius < 320) & (radius > 290), np.abs(y - 350) < 5
    bar &= (x > 100) & (x < 600)
    paint(image, ring, 1)
    paint(image, bar, 2)
    found = tiled(image)
    assert len(found) == 2
    assert {rle["counts"] for rle in found.rle} == {e["counts"] for e in encode_masks(np.dstack([ring, bar]))}
    assert sorted(found.rois.tolist()) == [[31, 31, 670, 670], [346, 101, 355, 600]]


def test_two_legs_in_one_tile_join_through_the_tile_that_sees_both():
    image = np.zeros((112, 60, 3), np.uint8)
    u = np.zeros((112, 60), bool)
    u[20:100, 10:20] = u[20:100, 40:50] = u[90:100, 10:50] = True
    paint(image, u, 5)
    assert len(detect_colors([image[:64]])[0]) == 2  # the first tile has the legs
    (rle,) = tiled(image).rle
    assert rle == encode_masks(u[..., None])[0]


def test_a_small_object_on_a_large_one_of_its_class_stays_at_a_seam():
    """The part of the small one inside the large one is no reason to join them."""
    joiner = SeamJoiner((40, 100))
    large, small = np.ones((30, 90), bool), np.ones((4, 20), bool)  # the large one spans both tiles
    for x1, x2 in ((0, 60), (40, 100)):
        parts = [(5, max(5, x1), 35, min(95, x2)), (10, max(45, x1), 14, min(65, x2))]
        crops = [(box, mask[: box[2] - box[0], : box[3] - box[1]]) for box, mask in zip(parts, (large, small))]
        joiner.add((0, x1, 40, x2), parts, [1, 1], [0.9, 0.8], crops)
    boxes, _, scores, _ = joiner.objects()
    assert boxes.tolist() == [[5, 5, 35, 95], [10, 45, 14, 65]] and np.allclose(scores, [0.9, 0.8])


def test_neighbors_of_one_class_that_touch_in_the_zone_are_not_joined():
    joiner = SeamJoiner((20, 100))
    joiner.add((0, 0, 20, 60), [[5, 30, 10, 50]], [1], [0.9], [((5, 30, 10, 50), np.ones((5, 20), bool))])
    joiner.add((0, 40, 20, 100), [[5, 50, 10, 90]], [1], [0.8], [((5, 50, 10, 90), np.ones((5, 40), bool))])
    assert len(joiner.objects()[0]) == 2


@pytest.mark.parametrize(("nms", "count"), [("class", 2), ("all", 1), ([["a", "b"]], 1), ([["a", "c"]], 2)])
def test_classes_that_drop_each_other_are_joined(nms, count):
    box, mask = (5, 45, 15, 55), np.ones((10, 10), bool)
    tiles = iter([(1, 0.7), (2, 0.9)])

    def detect(shown):
        found = []
        for _ in shown:
            class_id, score = next(tiles)
            place = (5, 45, 15, 55) if class_id == 1 else (5, 9, 15, 19)  # in its tile
            found.append(Detections([place], [class_id], [score], RleMasks(
                [encode_runs(runs_of_crop(mask, place[:2]), (20, 64))], (20, 64))))  # fmt: skip
        return found

    config = Config(NUM_CLASSES=4, DETECTION_NMS=nms)
    image = np.zeros((20, 100, 3), np.uint8)
    found = tiled(image, detect, config, class_names=["BG", "a", "b", "c"], overlap=28)
    assert len(found) == count and found.class_ids[0] == 2 and found.scores[0] == np.float32(0.9)
    assert found.rois[0].tolist() == list(box)


@pytest.mark.parametrize(("score", "left"), [(0.9, [1]), (0.7, [1, 2])])
def test_a_cut_piece_that_looks_like_another_class_is_dropped(score, left):
    """The network took the part of a square at a tile's edge for a circle, and both were in the result."""
    joiner = SeamJoiner((20, 100))
    joiner.add((0, 0, 20, 60), [[5, 42, 10, 60]], [2], [0.8], [((5, 42, 10, 60), np.ones((5, 18), bool))])
    joiner.add((0, 40, 20, 100), [[5, 42, 10, 65]], [1], [score], [((5, 42, 10, 65), np.ones((5, 23), bool))])
    assert sorted(joiner.objects()[1].tolist()) == left


def test_an_object_that_one_tile_has_whole_keeps_its_mask_and_the_best_score():
    joiner = SeamJoiner((20, 100))
    joiner.add((0, 0, 20, 60), [[5, 42, 16, 60]], [1], [0.95], [((5, 42, 16, 60), np.ones((11, 18), bool))])  # cut
    joiner.add((0, 40, 20, 100), [[5, 42, 15, 65]], [1], [0.8], [((5, 42, 15, 65), np.ones((10, 23), bool))])
    boxes, _, scores, rles = joiner.objects()
    assert boxes.tolist() == [[5, 42, 15, 65]] and scores.tolist() == [np.float32(0.95)]
    assert decode_crops(rles)[0][0] == (5, 42, 15, 65)


def test_joining_takes_no_memory_of_the_whole_image():
    """1,000 objects of 200 pixels on 8,000 x 8,000: their masks as arrays would be 64 GB."""
    joiner = SeamJoiner((8000, 8000))
    disc = np.hypot(*(np.mgrid[:200, :200] - 99.5)) < 100
    corners = np.random.default_rng(0).integers(0, 7800, (1000, 2))
    boxes = np.concatenate([corners, corners + 200], axis=1)
    for region in ((0, 0, 8000, 8000), (0, 0, 8000, 8000)):  # two views
        crops = [(tuple(box), disc) for box in boxes.tolist()]
        joiner.add(region, boxes, np.arange(1000) % 3 + 1, np.linspace(1, 0.5, 1000), crops)
    assert len(joiner.objects()[0]) >= 950  # objects of one class that overlap by chance may be joined


def test_nothing_in_any_tile_is_an_empty_result():
    found = tiled(np.zeros((200, 100, 3), np.uint8))
    assert len(found) == 0 and found.image_shape == (200, 100) and found.masks.shape == (200, 100, 0)


# ---- Views -----------------------------------------------------------------------------------------------------------
def detect_light(tiles):
    """Every light area is an object."""
    return detect_colors([np.where(tile > 99, 200, 0).astype(np.uint8) for tile in tiles])


@pytest.mark.parametrize("flips", ["horizontal", "vertical", "both"])
@pytest.mark.parametrize("scales", [(1,), (1, 2), (0.5,), (0.5, 1, 2)])
def test_all_views_of_rectangles_on_even_pixels_agree(flips, scales):
    rng, image = np.random.default_rng(1), np.zeros((96, 128, 3), np.uint8)
    for y, x in 16 * np.argwhere(np.ones((6, 8))):
        height, width = 2 * rng.integers(2, 7, 2)
        image[y : y + height, x : x + width] = 200
    (direct,) = detect_light([image])
    (found,) = detect_augmented(detect_light, [image], config=CONFIG, flips=flips, scales=scales)
    assert as_set(found) == as_set(direct) and len(found) == 48


def test_results_of_mirrored_views_are_those_of_the_mirrored_image():
    image, _ = scene(150, 30, 20)
    for flips, mirrored in (("horizontal", image[:, ::-1]), ("vertical", image[::-1])):
        (one,) = detect_augmented(detect_colors, [image], config=CONFIG, flips=flips)
        (other,) = detect_augmented(detect_colors, [mirrored], config=CONFIG, flips=flips)
        axis = 1 if flips == "horizontal" else 0
        assert np.array_equal(np.flip(one.masks, axis).any(axis=2), other.masks.any(axis=2))
        assert len(one) == len(other) == 20 and np.array_equal(one.scores, other.scores)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64, bool, np.int32])
def test_a_view_magnifies_every_number_type(dtype):
    view = View((0, 0, 10, 12), (20, 24), 2.0, (False, True))
    shown = view.show(np.ones((10, 12, 5), dtype))
    assert shown.shape == (20, 24, 5) and (shown == (255 if dtype is bool else 1)).all()


# ---- Wrong arguments -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "box"}, "merge is 'box'; expected one of 'mask', 'none'"),
        ({"flips": True}, "flips is True; expected one of None, 'horizontal'"),
        ({"scales": (1, 0)}, r"scales is \(1, 0\)"),
        ({"tile": 0}, "tile is 0"),
        ({"overlap": 64}, "tile is 64 and overlap is 64"),
        ({"level": 1}, "level is 1, but the image is an array"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiled(np.zeros((80, 80, 3), np.uint8), **options)


def test_an_image_too_large_for_run_lengths_is_refused_before_detection():
    huge = SimpleNamespace(shape=(70_000, 70_000, 3))
    with pytest.raises(ValueError, match=r"70000 x 70000 pixels.*level=1"):
        tiled(huge)


def test_an_error_in_a_tile_names_the_image_and_the_tile(tmp_path):
    values = np.full((100, 64), 200.0, np.float32)
    values[90, 3] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)

    def detect(tiles):
        for values in tiles:
            if np.isnan(values).any():
                raise ValueError("images[0] has NaN")
        return detect_colors([np.zeros((*tile.shape[:2], 3), np.uint8) for tile in tiles])

    with pytest.raises(ValueError, match=r"a\.tif, tiles .*\(36, 0, 100, 64\): images\[0\] has NaN"):
        tiled(tmp_path / "a.tif", detect)


# ---- The shapes model ------------------------------------------------------------------------------------------------
def photo_of_shapes(columns, rows):
    """A square and a circle in each 128 x 128 pixels."""
    image = np.full((128, 128, 3), (40, 90, 160), np.uint8)
    cv2.rectangle(image, (15, 20), (55, 60), (230, 200, 40), -1)
    cv2.circle(image, (90, 85), 22, (200, 40, 60), -1)
    return np.tile(image, (rows, columns, 1))


@pytest.fixture(scope="module")
def shapes_model():
    from mrcnn.model import MaskRCNN

    return MaskRCNN("inference", weights="shapes")


def test_one_tile_gives_what_the_network_gives(shapes_model):
    for shape in ((128, 128), (100, 128)):
        image = photo_of_shapes(1, 1)[: shape[0], : shape[1]]
        (direct,) = shapes_model.detect([image])
        found = shapes_model.detect_tiled(image, tile=128, progress=False)
        assert len(direct) == 2 and found == direct and found.names == direct.names


def test_the_network_finds_each_object_of_a_large_image_once(shapes_model, tmp_path):
    image = photo_of_shapes(4, 3)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(128, 128), compression="zlib")
    for options in ({}, {"flips": "horizontal"}):
        found = shapes_model.detect_tiled(tmp_path / "a.tif", overlap=48, progress=False, **options)
        assert sorted(found.names) == ["circle"] * 12 + ["square"] * 12 and found.path == str(tmp_path / "a.tif")
        errors = (image != (40, 90, 160)).any(axis=2) ^ found.masks.any(axis=2)
        assert errors.mean() < 0.02


def test_mirrored_views_of_the_network_give_mirrored_results(shapes_model):
    image = photo_of_shapes(1, 1)
    (one,) = shapes_model.detect_augmented([image])
    (other,) = shapes_model.detect_augmented([image[:, ::-1]])
    assert len(one) == len(other) == 2
    assert np.allclose(one.scores, other.scores)
    assert np.array_equal(one.masks.any(axis=2)[:, ::-1], other.masks.any(axis=2))
