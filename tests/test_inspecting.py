"""`run_graph` and `ancestor`: outputs of layers by name, and named steps of the layers that select boxes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from kit import TWO_IMAGES, make_batch, photo, tiny_model

from mrcnn.inference import activations


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model("inference", tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def molded(model):
    images, metas, _ = model.mold_inputs([photo(), photo(40, 64, seed=1)])
    return images, metas


STEPS = ["ROI/pre_nms_anchors:0", "ROI/refined_anchors:0", "ROI/refined_anchors_clipped:0",
         "ROI/rpn_non_max_suppression:0", "mrcnn_detection/refined_rois:0", "mrcnn_detection/class_ids:0",
         "mrcnn_detection/class_scores:0", "mrcnn_detection/keep:0"]  # fmt: skip


@pytest.fixture(scope="module")
def found(model, molded):
    """All steps and the layers around them, of a batch of two."""
    images, metas = molded
    names = [*STEPS, "ROI", "mrcnn_detection", "anchors", "rpn_class", "rpn_bbox", "mrcnn_class", "mrcnn_bbox"]
    outputs = [(name.removesuffix(":0"), model.ancestor(None, name)) for name in names]
    return model.run_graph(images, outputs, image_metas=metas)


# ---- Layers ----------------------------------------------------------------------------------------------------------
def test_a_layers_output_is_what_the_model_computes(model, molded, found):
    images, metas = molded
    outputs = model.predict_on_batch([images, metas.astype("float32")])
    np.testing.assert_allclose(found["mrcnn_detection"], outputs[0], atol=1e-4)
    np.testing.assert_allclose(found["ROI"], outputs[4], atol=1e-5)


@pytest.mark.parametrize("name", ["fpn_p2", "/fpn_p2", "fpn_p2/", "fpn_p2/BiasAdd:0", "fpn_p2:0"])
def test_spellings_of_a_name(model, name):
    assert model.ancestor(model.get_layer("ROI").output, name) is model.get_layer("fpn_p2").output


@pytest.mark.parametrize("name", ["fpn_p7", "ROI/nothing:0", "", "mrcnn_detection/pre_nms_anchors:0"])
def test_an_unknown_name_gives_none(model, name):
    assert model.ancestor(None, name) is None


def test_run_graph_names_an_output_that_is_none(model):
    with pytest.raises(ValueError, match=r"None.* for where;"):
        model.run_graph([photo()], [("p2", model.get_layer("fpn_p2").output), ("where", model.ancestor(None, "x"))])


def test_run_graph_molds_photos_and_logs_its_outputs(model, molded, capsys):
    output = [("p3", model.get_layer("fpn_p3").output), ("image", model.get_layer("input_image").output)]
    capsys.readouterr()
    by_photos = model.run_graph([photo(), photo(40, 64, seed=1)], output)
    lines = capsys.readouterr().out.splitlines()
    assert list(by_photos) == ["p3", "image"] and by_photos["p3"].shape == (2, 8, 8, 16)
    assert [line.split()[0] for line in lines] == ["p3", "image"] and "shape: (2, 8, 8, 16)" in lines[0]
    images, metas = molded
    np.testing.assert_array_equal(by_photos["image"], images)
    np.testing.assert_allclose(model.run_graph(images, output, image_metas=metas)["p3"], by_photos["p3"], atol=1e-5)


def test_run_graph_sets_the_anchors_of_its_images(model):
    model.get_anchors((128, 128, 3))
    model.run_graph([photo()], [("p2", model.get_layer("fpn_p2").output)])
    assert len(model.anchors) == 1023


def test_a_single_output(model, molded):
    images, metas = molded
    assert model.run_graph(images, [("c", model.get_layer("mrcnn_class").output)], metas)["c"].shape == (2, 20, 3)


def test_users_can_build_on_a_tensor(model, molded):
    """Feature maps summed over their channels, as notebooks do."""
    images, metas = molded
    p2 = model.get_layer("fpn_p2").output
    found = model.run_graph(images, [("p2", p2), ("sum", keras.ops.sum(p2, axis=-1))], metas)
    np.testing.assert_allclose(found["sum"], found["p2"].sum(axis=-1), rtol=1e-3, atol=1e-2)


# ---- Steps -----------------------------------------------------------------------------------------------------------
def test_the_proposal_steps_are_available(found):
    anchors, refined, clipped = (
        found[f"ROI/{n}"] for n in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped")
    )
    assert anchors.shape == refined.shape == clipped.shape == (2, 100, 4)
    for i in range(2):  # the best 100 by score, with their anchors
        best = np.argsort(-found["rpn_class"][i, :, 1], kind="stable")[:100]
        np.testing.assert_allclose(anchors[i], found["anchors"][0, best], atol=1e-6)
    np.testing.assert_allclose(clipped, np.clip(refined, 0, 1), atol=1e-6)
    keep = found["ROI/rpn_non_max_suppression"]
    assert keep.ndim == 1 and keep.dtype == np.int32 and (keep >= 0).all() and len(set(keep)) == len(keep)
    np.testing.assert_allclose(found["ROI"][0, : len(keep)], clipped[0, keep], atol=1e-6)


def test_the_detection_steps_are_available(found):
    class_ids, scores, refined = (found[f"mrcnn_detection/{n}"] for n in ("class_ids", "class_scores", "refined_rois"))
    np.testing.assert_array_equal(class_ids, found["mrcnn_class"].argmax(axis=-1))
    np.testing.assert_allclose(scores, found["mrcnn_class"].max(axis=-1), atol=1e-6)
    assert refined.shape == (2, 20, 4)
    keep, detections = found["mrcnn_detection/keep"], found["mrcnn_detection"][0]
    assert keep.ndim == 1 and len(keep) == np.count_nonzero(detections[:, 4])
    expected = np.column_stack([refined[0, keep], class_ids[0, keep], scores[0, keep]])
    np.testing.assert_allclose(detections[: len(keep)], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ROI/rpn_non_max_suppression:0",
                                  "ROI/rpn_non_max_suppression/NonMaxSuppressionV2:0",
                                  "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0"])  # fmt: skip
def test_the_notebooks_names_for_nms_work(model, molded, found, name):
    images, metas = molded
    tensor = model.ancestor(model.get_layer("ROI").output, name)
    np.testing.assert_array_equal(
        model.run_graph(images, [("nms", tensor)], metas)["nms"], found["ROI/rpn_non_max_suppression"]
    )


def test_every_step_named_in_the_docstring_exists(model):
    listed = [word for word in activations.__doc__.split() if word.endswith(":0")]
    assert len(listed) >= 7
    for name in listed:
        if "/" in name:
            assert model.ancestor(None, name) is not None, name


# ---- A model for training --------------------------------------------------------------------------------------------
def test_a_training_model_can_be_inspected_too(tmp_path):
    model = tiny_model("training", tmp_path)
    model.detect([photo()])  # its layers are then in two graphs
    outputs = [("P2", model.get_layer("fpn_p2").output), ("nms", model.ancestor(None, "ROI/rpn_non_max_suppression:0"))]
    found = model.run_graph([photo()], outputs)
    assert found["P2"].shape == (1, 16, 16, 16) and 0 < len(found["nms"]) <= 40

    # What follows from the truth needs the truth; `activations.run` takes it.
    batch = make_batch(model.config, TWO_IMAGES)
    names = ("output_rois", "target_class_ids")
    found = activations.run(model, batch, {name: model.output[name] for name in names})
    assert found["output_rois"].shape == (2, 16, 4) and found["target_class_ids"].shape == (2, 16)
