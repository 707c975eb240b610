"""A setting that is changed after the model was built takes effect at the next call, or is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from kit import TWO_IMAGES, Squares, make_batch, model_layer, numpy, photo, spread_scores, tiny_config, tiny_model

from mrcnn.config import Config
from mrcnn.data.generator import DataGenerator
from mrcnn.settings import CALL, COMPILE, DETECT, DETECT_AND_TRAIN, GRAPH, LOSS, TRAINING_GRAPH
from mrcnn.training.schedule import scheduled_rate


class WithEmpty(Squares):
    """The first image has no objects."""

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        count = 0 if image_id == 0 else len(class_ids)
        return masks[:, :, :count], class_ids[:count]


class Flat(WithEmpty):
    """Images of 20 x 32 pixels."""

    def load_image(self, image_id):
        return photo(20, 32, seed=image_id)

    def load_mask(self, image_id):
        masks, class_ids = super().load_mask(image_id)
        return masks[:20, :32], class_ids


@pytest.fixture(scope="module")
def inference(tmp_path_factory):
    model = tiny_model("inference", tmp_path_factory.mktemp("logs"), RPN_CHANNELS=512)
    spread_scores(model)
    return model


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    model = tiny_model("training", tmp_path_factory.mktemp("logs"), ADD_GT_TO_PROPOSALS=True, IMAGE_MIN_DIM=30)
    model.compile()
    return model


@pytest.fixture
def restored(inference, trainer):
    """Both models' settings are put back after the test."""
    before = [model.config for model in (inference, trainer)]
    for model in (inference, trainer):
        model.config = type(model.config)()
    yield
    inference.config, trainer.config = before


# ---- What each setting does ------------------------------------------------------------------------------------------
def batch_of(model):
    """One training batch, whose size, images and targets follow the settings of loading."""
    generator = DataGenerator(Flat(5), model.config, shuffle=False, steps=2, seed=3)
    return {f"{name}{i}": np.array(array) for i in range(2) for name, array in generator[i][0].items()}


def detections_of(model):
    (found,) = model.detect([photo()])
    return {name: found[name] for name in ("rois", "class_ids", "scores")}


def predicted_by(model):
    molded, metas, _ = model.mold_inputs([photo()])
    return {"detections": model.predict([molded, metas], verbose=0)[0]}


def of_two_classes(model):
    """Detections of which none overlap, where half of the proposals are of class 1 and half of class 2."""
    molded, metas, _ = model.mold_inputs([photo()])
    probs = model.predict([molded, metas], verbose=0)[1]
    bias = model_layer(model, "mrcnn_class_logits").weights[1]
    before = np.array(numpy(bias))
    bias.assign(before + [0, 0, np.median(np.log(probs[..., 1] / probs[..., 2]))])
    model.config.DETECTION_NMS_THRESHOLD = 0.0
    result = {**predicted_by(model), **detections_of(model)}
    bias.assign(before)
    return result


def losses_of(model):
    batch = make_batch(model.config, TWO_IMAGES)
    return {"losses": np.array(model.test_on_batch(batch))}


def optimizer_of(model):
    model.compile()
    optimizer = model.optimizer
    rate = float(numpy(optimizer.learning_rate))
    averages = optimizer.ema_momentum if optimizer.use_ema else 0
    momentum = getattr(optimizer, "momentum", 0)  # AdamW has none
    return {"optimizer": np.array([rate, momentum, optimizer.global_clipnorm or 0, averages])}


def order_of(model):
    """The images of an epoch, of which the first has no objects."""
    generator = DataGenerator(WithEmpty(5), model.config, seed=3)
    return {"order": np.array([generator.stream.image_id(place) for place in range(5)])}


def rates_of(model):
    """The learning rate of the steps of a training with the rate 0.1, as `train` would use it."""
    rate = scheduled_rate(model.config, 0.1, steps=10)
    return {"rates": np.array([numpy(rate(step)) if callable(rate) else rate for step in range(11)])}


def steps_of(model):
    """What `train` would run: its generators have as many batches as the settings say."""
    config = model.config
    return {"steps": np.array([len(DataGenerator(WithEmpty(5), config, steps=int(config.STEPS_PER_EPOCH)))])}


NEW = {
    CALL: {
        "GPU_COUNT": (2, batch_of), "IMAGES_PER_GPU": (1, batch_of), "IMAGE_RESIZE_MODE": ("crop", batch_of),
        "IMAGE_MIN_DIM": (40, batch_of), "IMAGE_MAX_DIM": (128, batch_of), "IMAGE_MIN_SCALE": (1.9, batch_of),
        "MEAN_PIXEL": ([1, 2, 3], batch_of), "IMAGE_RANGE": ((0, 511), batch_of), "MAX_GT_INSTANCES": (1, batch_of),
        "RPN_TRAIN_ANCHORS_PER_IMAGE": (8, batch_of), "RPN_POSITIVE_IOU": (0.35, batch_of),
        "RPN_NEGATIVE_IOU": (0.0, batch_of), "TRAIN_ON_EMPTY_IMAGES": (True, batch_of),
        "STEPS_PER_EPOCH": (3, steps_of), "RPN_NMS_THRESHOLD": (0.0, predicted_by),
        "DETECTION_MIN_CONFIDENCE": (0.9999, predicted_by), "DETECTION_NMS_THRESHOLD": (0.0, predicted_by),
        "DETECTION_NMS": ("all", of_two_classes), "RECIPE": ("small-data", batch_of),
        "FLIP_PROBABILITY": (1.0, batch_of), "SCALE_JITTER": ((0.4, 0.6), batch_of),
        "COPY_PASTE_PROBABILITY": (1.0, batch_of), "COLOR_JITTER": (0.5, batch_of),
        "REPEAT_THRESHOLD": (1.0, order_of), "LEARNING_SCHEDULE": ("cosine", rates_of),
        "LEARNING_WARMUP": (0.3, rates_of),
    },
    DETECT: {"DETECTION_MAX_INSTANCES": (1, detections_of), "POST_NMS_ROIS_INFERENCE": (1, detections_of)},
    DETECT_AND_TRAIN: {
        "PRE_NMS_LIMIT": (1, detections_of), "BBOX_STD_DEV": ([1, 1, 2, 2], detections_of),
        "RPN_BBOX_STD_DEV": ([1, 1, 2, 2], detections_of),
    },
    LOSS: {
        "WEIGHT_DECAY": (3.0, losses_of), "LOSS_WEIGHTS": ({"rpn_class_loss": 7.0}, losses_of),
        "WEIGHT_DECAY_PER_SIZE": (False, losses_of), "PADDED_ROIS_IN_CLASS_LOSS": (True, losses_of),
        "SMOOTH_L1_BETA": (0.0, losses_of), "BOX_LOSS_AVERAGE": ("samples", losses_of),
        "CLASS_WEIGHTS": ([1, 5, 20], losses_of), "FOCAL_LOSS_GAMMA": (2.0, losses_of),
    },
    COMPILE: {
        "LEARNING_RATE": (0.5, optimizer_of), "LEARNING_MOMENTUM": (0.5, optimizer_of),
        "GRADIENT_CLIP_NORM": (1.0, optimizer_of), "EMA_MOMENTUM": (0.9, optimizer_of),
        "OPTIMIZER": ("adamw", optimizer_of),
    },
    TRAINING_GRAPH: {
        "POST_NMS_ROIS_TRAINING": (10, None), "USE_MINI_MASK": (False, None), "MINI_MASK_SHAPE": ((6, 6), None),
        "TRAIN_ROIS_PER_IMAGE": (8, None), "ROI_POSITIVE_RATIO": (0.5, None), "USE_RPN_ROIS": (False, None),
        "SEED": (7, None), "ADD_GT_TO_PROPOSALS": (False, None), "FILL_ROIS_WITH_NEGATIVES": (True, None),
        "STOP_PROPOSAL_GRADIENT": (False, None), "ROI_POSITIVE_IOU": (0.6, None),
        "CASCADE_POSITIVE_IOUS": ([0.6, 0.8], None), "PRE_NMS_LIMIT_TRAINING": (50, None),
    },
    GRAPH: {
        "NAME": ("other", None), "RPN_CHANNELS": (8, None), "MASK_HEAD_CHANNELS": (8, None),
        "BACKBONE": ("resnet50", None), "COMPUTE_BACKBONE_SHAPE": (len, None),
        "BACKBONE_STRIDES": ([4, 8, 16, 32, 128], None), "FPN_CLASSIF_FC_LAYERS_SIZE": (16, None),
        "TOP_DOWN_PYRAMID_SIZE": (8, None), "NUM_CLASSES": (9, None), "RPN_ANCHOR_SCALES": ((8, 16, 32, 64, 128), None),
        "RPN_ANCHOR_RATIOS": ([1], None), "RPN_ANCHOR_STRIDE": (2, None), "IMAGE_CHANNEL_COUNT": (1, None),
        "POOL_SIZE": (5, None), "MASK_POOL_SIZE": (7, None), "MASK_SHAPE": ([28, 28], None), "TRAIN_BN": (None, None),
        "COMPUTE_DTYPE": ("mixed_bfloat16", None), "ROI_ALIGN": ("aligned", None), "ROI_ALIGN_SAMPLES": (3, None),
        "CONVENTION": ("torchvision", None), "BACKBONE_STRIDE_IN": ("3x3", None), "BATCH_NORM_EPS": (0.0, None),
        "FPN_NORM": ("batch", None), "RPN_CONVS": (2, None), "BOX_HEAD": ("conv4fc1", None), "HEAD_NORM": (None, None),
        "CLASS_AGNOSTIC_BOX": (True, None), "CLASS_AGNOSTIC_MASK": (True, None),
        "CASCADE_BBOX_STD_DEVS": ([[0.1, 0.1, 0.2, 0.2]], None),
    },
}  # fmt: skip
WITH = {
    "IMAGE_RESIZE_MODE": {"IMAGE_MIN_DIM": 64},
    "MASK_POOL_SIZE": {"MASK_SHAPE": [14, 14]},
    "IMAGE_CHANNEL_COUNT": {"MEAN_PIXEL": [1]},
}  # to be valid
OTHERWISE = {
    "SWA_EPOCHS": "test_recipes.py trains with 2",
    "VALIDATION_STEPS": "test_training.py trains with 1 and with None",
    "NON_FINITE_LOSS": "test_failed_steps.py fits with each value, the model built before",
    "MAX_BROKEN_IMAGES": "test_data_generator.py loads with 0 and with a share",
}
CASES = [(name, effect, *case) for effect, settings in NEW.items() for name, case in settings.items()]


def test_every_setting_has_a_case_for_its_declared_effect():
    declared = {name: setting.effect for name, setting in Config.settings_table.items() if name not in OTHERWISE}
    assert {name: effect for name, effect, *_ in CASES} == declared


def differs(before: dict, after: dict) -> bool:
    return any(before[name].shape != after[name].shape or np.any(before[name] != after[name]) for name in before)


@pytest.mark.parametrize(("name", "effect", "value", "result"), CASES, ids=[case[0] for case in CASES])
def test_a_change_takes_effect_or_is_refused(name, effect, value, result, inference, trainer, restored):
    model = inference if result in (detections_of, predicted_by, of_two_classes) else trainer
    if result is not None:
        before = result(model)
        assert not differs(before, result(model)), "the proof is not repeatable"
    for changed in (inference, trainer):
        for changed_name, changed_value in {name: value, **WITH.get(name, {})}.items():
            setattr(changed.config, changed_name, changed_value)
    if result is not None:
        assert differs(before, result(model))
    if effect in (GRAPH, TRAINING_GRAPH, DETECT_AND_TRAIN):
        with pytest.raises(ValueError, match=rf"{name} (was|is)"):
            trainer.train(Squares(2), None, 0.1, 1, "heads")
    if effect in (GRAPH, DETECT, DETECT_AND_TRAIN):
        with pytest.raises(ValueError, match=rf"{name} (was|is)"):
            predicted_by(inference)
    if effect == GRAPH:
        with pytest.raises(ValueError, match=rf"{name} (was|is)"):
            inference.detect([photo()])


def test_changing_thresholds_does_not_retrace(inference, restored):
    predicted_by(inference), detections_of(inference)
    functions = inference.predict_function, inference.detector().predict_function
    for confidence, iou in ((0.1, 0.5), (0.9, 0.2), (None, 0.7)):
        inference.config.DETECTION_MIN_CONFIDENCE, inference.config.DETECTION_NMS_THRESHOLD = confidence, iou
        inference.config.RPN_NMS_THRESHOLD, inference.config.DETECTION_NMS = iou, [[1, 2]] if iou < 0.4 else "all"
        predicted_by(inference), detections_of(inference)
    assert functions == (inference.predict_function, inference.detector().predict_function)
    if hasattr(functions[0], "experimental_get_tracing_count"):
        assert [function.experimental_get_tracing_count() for function in functions] == [1, 1]


def test_class_names_in_the_nms_setting_are_those_of_the_model(inference, restored):
    """Names come with the weights, so a model is built before they are known."""
    before = inference.class_names, of_two_classes(inference)
    inference.config.DETECTION_NMS = [["cat", "dog"]]
    with pytest.raises(ValueError, match="class 'cat'; .* the model has no class names"):
        inference.detect([photo()])
    inference.class_names = ["BG", "cat", "dog"]
    together = of_two_classes(inference)
    inference.config.DETECTION_NMS = "all"
    assert differs(before[1], together) and not differs(together, of_two_classes(inference))
    inference.class_names = before[0]


def test_detect_predict_and_run_graph_follow_one_threshold(inference, restored):
    """`DETECTION_MIN_CONFIDENCE = 0.9999` once gave no objects from `detect` and six from `predict`."""
    inference.config.DETECTION_MIN_CONFIDENCE = 0.9999
    outputs = [("found", inference.get_layer("mrcnn_detection").output)]
    assert len(inference.detect([photo()])[0]["rois"]) == 0
    assert not predicted_by(inference)["detections"].any()
    assert not inference.run_graph([photo()], outputs)["found"].any()


def test_the_mean_pixel_is_fixed_if_it_is_part_of_the_backbone(tmp_path):
    model = tiny_model("inference", tmp_path, BACKBONE="mobilenet_v2")
    model.config.MEAN_PIXEL = [1, 2, 3]
    with pytest.raises(ValueError, match="MEAN_PIXEL was"):
        model.detect([photo()])


def test_a_loss_passed_to_compile_is_refused(trainer):
    with pytest.raises(ValueError, match=r"compile got loss='mse'; .*LOSS_WEIGHTS"):
        trainer.compile(loss="mse")
    with pytest.raises(ValueError, match="loss_weights"):
        trainer.compile(loss_weights={"rpn_class_loss": 2.0})
    trainer.compile(optimizer="sgd", loss=[None] * len(trainer.outputs))


def test_detections_beyond_the_proposals_warn_when_the_model_is_built(tmp_path):
    with pytest.warns(UserWarning, match="never has more detections than proposals"):
        tiny_model("inference", tmp_path, POST_NMS_ROIS_INFERENCE=4)
    assert not tiny_config().contradictions()
