"""Code for old environments: graphs and sessions of TF1, web servers with several threads, `clear_session`."""

from __future__ import annotations

import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import keras
import numpy as np
import pytest
from kit import Squares, photo, tiny_model

PHOTOS = [photo(40 + 8 * i, 64, seed=i) for i in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model("inference", tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def expected(model):
    return [model.detect([image])[0] for image in PHOTOS]


def assert_same(result, wanted):
    np.testing.assert_array_equal(result["class_ids"], wanted["class_ids"])
    np.testing.assert_array_equal(result["rois"], wanted["rois"])
    np.testing.assert_array_equal(result["masks"], wanted["masks"])
    np.testing.assert_allclose(result["scores"], wanted["scores"], rtol=1e-5)


@pytest.fixture
def tf():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("an idiom of TensorFlow")
    return pytest.importorskip("tensorflow")


# ---- Threads --------------------------------------------------------------------------------------------------------
def test_issue_1887_concurrent_detect_calls_do_not_mix(model, expected):
    turns = [i % len(PHOTOS) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: model.detect([PHOTOS[i]])[0], turns))
    for i, result in zip(turns, results):
        assert_same(result, expected[i])


def test_issue_2045_the_first_detect_may_come_from_a_thread(expected, tmp_path):
    fresh = tiny_model("inference", tmp_path)  # as at the start of a server: built here, used there
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: fresh.detect([image])[0], PHOTOS))
    for result, wanted in zip(results, expected):
        assert_same(result, wanted)


def test_issue_2690_a_web_server_answers_requests_in_threads(model, expected, tf):
    graph = tf.compat.v1.get_default_graph()  # what servers kept from the main thread

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with graph.as_default():
                r = model.detect([PHOTOS[int(self.path[1:])]])[0]
            content = json.dumps(r["rois"].tolist()).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            """Silent."""

    def ask(i):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/{i}", timeout=60) as answer:
            return json.load(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, [0, 1, 2, 3, 0, 1, 2, 3]))
        server.shutdown()
    assert answers == [r["rois"].tolist() for r in expected] * 2


def test_settings_may_change_while_other_threads_detect(model, expected):
    def detect(i):
        model.config.DETECTION_MAX_INSTANCES = 6 - i % 2
        return model.detect([PHOTOS[0]])[0]

    with ThreadPoolExecutor(4) as pool:
        counts = {len(r["rois"]) for r in pool.map(detect, range(8))}
    model.config.DETECTION_MAX_INSTANCES = 6
    assert counts <= {len(expected[0]["rois"]), min(5, len(expected[0]["rois"]))}


# ---- Graphs and sessions of TF1 -------------------------------------------------------------------------------------
def test_a_whole_script_runs_inside_a_graph(tf, tmp_path):
    toys = Squares(2)
    with tf.Graph().as_default():
        model = tiny_model("training", tmp_path)
        model.train(toys, None, learning_rate=0.001, epochs=1, layers="heads")
        model.keras_model.save_weights(str(tmp_path / "mask_rcnn_toys.h5"))
        finder = tiny_model("inference", tmp_path, seed=7)
        finder.load_weights(str(tmp_path / "mask_rcnn_toys.h5"), by_name=True)
        inside = finder.detect([PHOTOS[0]])[0]
        pillar = finder.keras_model.get_layer("ROI").output
        steps = [("refined", finder.ancestor(pillar, "ROI/refined_anchors:0"))]
        assert finder.run_graph([PHOTOS[0]], steps)["refined"].shape[-1] == 4
        assert not tf.executing_eagerly()  # the script's own graph is as it was
    assert_same(finder.detect([PHOTOS[0]])[0], inside)


def test_detect_runs_inside_the_graph_and_session_of_another_model(model, expected, tf):
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        assert session.run(tf.constant(2) + 3) == 5  # what a script's other network does
        assert_same(model.detect([PHOTOS[1]])[0], expected[1])
        assert session.run(tf.constant(2) + 3) == 5
    with tf.device("/gpu:0"):
        assert_same(model.detect([PHOTOS[2]])[0], expected[2])


def test_graphs_in_threads(model, expected, tf):
    graph = tf.Graph()

    def answer(i):
        with graph.as_default():
            return model.detect([PHOTOS[i]])[0]

    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(pool.map(answer, range(4))):
            assert_same(result, expected[i])


# ---- clear_session --------------------------------------------------------------------------------------------------
def test_clear_session_keeps_models_usable_and_layer_names_stable(model, expected, tmp_path):
    keras.backend.clear_session()
    assert_same(model.detect([PHOTOS[0]])[0], expected[0])
    again = tiny_model("inference", tmp_path)
    assert {"conv1", "rpn_model", "ROI", "mrcnn_mask", "mrcnn_detection"} <= {layer.name for layer in again.layers}
    assert_same(again.detect([PHOTOS[0]])[0], expected[0])


@pytest.mark.parametrize("memory", ["set_memory_growth", "Session with GPUOptions"])
def test_session_memory_settings_have_no_effect(memory, model, expected, tf):
    if memory == "set_memory_growth":
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
    else:
        options = tf.compat.v1.ConfigProto(gpu_options=tf.compat.v1.GPUOptions(per_process_gpu_memory_fraction=0.5))
        session = tf.compat.v1.Session(config=options)
        backend = pytest.importorskip("tensorflow.python.keras.backend")
        backend.set_session(session)
    assert_same(model.detect([PHOTOS[3]])[0], expected[3])
