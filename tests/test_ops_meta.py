"""The image_meta vector: composing and parsing it, as in the reference."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn.ops.meta import compose_image_meta, parse_image_meta, parse_image_meta_graph

PARTS = {
    "image_id": 7,
    "original_image_shape": (60, 97, 3),
    "image_shape": (128, 128, 3),
    "window": (24, 0, 103, 128),
    "scale": 1.5,
    "active_class_ids": [1, 0, 1, 0],
}


def test_meta_round_trip():
    meta = compose_image_meta(**PARTS)
    assert meta.shape == (12 + 4,) and meta.dtype == np.float64
    for name, value in parse_image_meta(meta[None]).items():
        np.testing.assert_array_equal(value[0], PARTS[name], err_msg=name)
        assert value.dtype == (np.float32 if name == "scale" else np.int32)


def test_no_images_and_no_classes():
    parts = parse_image_meta(np.zeros((0, 12)))
    assert parts["window"].shape == (0, 4) and parts["active_class_ids"].shape == (0, 0)
    assert parse_image_meta(compose_image_meta(**PARTS))["window"].shape == (4,)  # one row without a batch


def test_the_graph_form_has_the_same_parts():
    meta = np.stack([compose_image_meta(**PARTS), compose_image_meta(**{**PARTS, "image_id": 8})])
    parts, twin = parse_image_meta(meta), parse_image_meta_graph(meta.astype("float32"))
    assert list(parts) == list(twin)
    for name in parts:
        np.testing.assert_array_equal(parts[name], twin[name], err_msg=name)


@pytest.mark.parametrize("name", ["original_image_shape", "image_shape", "window"])
def test_parts_of_the_wrong_length_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is .* entries"):
        compose_image_meta(**{**PARTS, name: (60, 97)})


def test_results_equal_the_reference(golden):
    data = golden("utils_golden.npz")
    meta = data["meta_out"]
    parts = parse_image_meta(np.stack([meta, meta]))
    for name, value in parts.items():
        expected = data[f"meta_parse_{name}"]
        np.testing.assert_array_equal(value, expected, err_msg=name)
        assert value.dtype == expected.dtype
    window, shape, scale = parts["window"][0], parts["image_shape"][0], meta[11]
    again = compose_image_meta(7, parts["original_image_shape"][0], shape, window, scale, meta[12:])
    np.testing.assert_array_equal(again, meta)
