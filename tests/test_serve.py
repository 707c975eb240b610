"""`mrcnn serve`: answers equal to `detect`, limits, refusals that tell nothing about the server, and stopping."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from kit import photo, spread_scores, tiny_model
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2", reason="Starlette's TestClient needs it")

import httpx2 as httpx
from serve_kit import CLASSES, StandIn, hostile_bodies, image_file, png_of_size, running
from starlette.testclient import TestClient

from mrcnn.ops.nms import non_max_suppression
from mrcnn.serve import Limits, create_app
from mrcnn.serve.batch_runner import BatchRunner
from mrcnn.serve.server import check_access

INTERNAL = re.compile(r"Traceback|File \"|/\w+/|\\\\|\.py\b|site-packages|mrcnn\.\w+\.")


def client_of(model, **options):
    return TestClient(create_app(model, **options), base_url="http://localhost")


@pytest.fixture
def stand_in():
    return StandIn()


@pytest.fixture
def client(stand_in):
    with client_of(stand_in) as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = tiny_model("inference", tmp_path_factory.mktemp("logs"))
    spread_scores(model)
    model.class_names = CLASSES
    return model


@pytest.fixture(scope="module")
def served(model):
    with client_of(model) as client:
        yield client


# ---- Equal to detect -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(64, 64), (40, 90), (1, 1)])
def test_answers_equal_detect_bit_for_bit(served, model, size):
    image = photo(*size, seed=3)
    answer = served.post("/detect", content=image_file(image)).json()
    found = model.detect([image])[0]
    assert answer["image"] == {"height": size[0], "width": size[1]}
    objects = answer["objects"]
    assert np.array_equal(np.float32([o["score"] for o in objects]), found.scores)
    assert [o["class_id"] for o in objects] == found.class_ids.tolist()
    assert [o["class_name"] for o in objects] == found.names
    boxes = np.array([o["bbox"] for o in objects]).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes[:, 2:] += boxes[:, :2]
    assert np.array_equal(boxes, found.rois)
    for i, item in enumerate(objects):
        mask = coco_mask.decode(item["segmentation"]).astype(bool)
        assert np.array_equal(mask, found.masks[..., i])
        assert item["area"] == mask.sum()


def test_photos_that_share_a_batch_equal_detect_of_that_batch(model):
    photos = [photo(64, 64, seed=i) for i in range(3)]
    model.config.BATCH_SIZE = 3
    expected = model.detect(photos)
    sizes = []
    runner = BatchRunner(3, 5.0, lambda count, seconds: sizes.append(count))
    jobs = [runner.submit(model.detect, image, "square", 60) for image in photos]
    results = [job.result() for job in jobs]
    runner.close()
    model.config.BATCH_SIZE = 1
    assert sizes == [3]
    assert results == expected


def test_simultaneous_requests_run_as_batches_and_get_their_own_answers():
    model = StandIn()
    sizes = [(20 + i, 30) for i in range(8)]
    with client_of(model, limits=Limits(batch=4, batch_seconds=0.2)) as client:
        model.go.clear()

        def ask(size):
            return client.post("/detect", content=image_file(photo(*size))).json()["image"]

        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(ask, size) for size in sizes]
            while client.app.state.service.admitted < 8:
                time.sleep(0.01)
            model.go.set()
            assert [job.result() for job in jobs] == [{"height": h, "width": w} for h, w in sizes]
    assert sum(model.batches) == 8 and 1 < max(model.batches) <= 4


def test_photos_of_other_molded_shapes_run_apart():
    model = StandIn()
    model.config.IMAGE_RESIZE_MODE = "pad64"
    service = create_app(model, limits=Limits(batch=4)).state.service
    keys = {service.batch_key(photo(*size)) for size in ((64, 64), (64, 128), (64, 64))}
    service.close()
    assert len(keys) == 2


def test_an_image_that_fails_does_not_fail_the_others_of_its_batch():
    def detect(photos):
        if any(p.max() > 250 for p in photos):
            raise ValueError("images[0] is too bright")
        return [p.sum() for p in photos]

    runner = BatchRunner(3, 5.0)
    good, bad = np.ones((2, 2)), np.full((2, 2), 255)
    jobs = [runner.submit(detect, p, "square", 60) for p in (good, bad, good)]
    assert jobs[0].result() == jobs[2].result() == 4
    with pytest.raises(ValueError, match="too bright"):
        jobs[1].result()
    runner.close()


def test_photos_are_turned_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = client.post("/detect", content=image_file(photo(20, 40), "JPEG", exif=exif)).json()
    assert answer["image"] == {"height": 40, "width": 20}


# ---- Forms of the answer ---------------------------------------------------------------------------------------------
def test_polygons_and_boxes(client):
    first = client.post("/detect?output=polygons", content=image_file()).json()["objects"][0]
    assert coco_mask.area(coco_mask.frPyObjects(first["segmentation"], 64, 64)).sum() == pytest.approx(24, abs=8)
    first = client.post("/detect?output=boxes", content=image_file()).json()["objects"][0]
    assert first == {
        "class_id": 1,
        "class_name": "square",
        "score": pytest.approx(0.9),
        "bbox": [2, 1, 6, 4],
        "area": 24,
    }


def test_a_picture_and_numbers_of_objects(client):
    answer = client.post("/detect?output=png", content=image_file())
    assert answer.headers["content-type"] == "image/png"
    picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (64, 64, 3) and picture.std() > 0
    content = client.post("/detect?output=instances", content=image_file()).content
    numbers = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16
    assert [(numbers == i).sum() for i in (1, 2)] == [24, 25 - 4]  # the first one is on top


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["square", "disc"]),
        ("min_score=0.6", ["square"]),
        ("classes=disc", ["disc"]),
        ("classes=disc, square&max_objects=1", ["square"]),
        ("classes=disc&max_objects=1", ["disc"]),
        ("min_score=1", []),
    ],
)
def test_objects_can_be_chosen(client, query, names):
    for output in ("rle", "polygons", "boxes", "png", "instances"):
        answer = client.post(f"/detect?{query}&output={output}", content=image_file())
        assert answer.status_code == 200, answer.text
        if output in ("rle", "polygons", "boxes"):
            assert [o["class_name"] for o in answer.json()["objects"]] == names


def test_an_image_can_be_the_body_or_a_form_file(client):
    data = image_file()
    by_body = client.post("/detect", content=data, headers={"content-type": "image/png"}).json()
    by_form = client.post("/detect", files={"image": ("photo.png", data, "image/png")}, data={"note": "x"}).json()
    curl = {"content-type": "application/x-www-form-urlencoded"}  # of `curl --data-binary`
    by_curl = client.post("/detect", content=data, headers=curl).json()
    assert by_body == by_form == by_curl and by_body["objects"]


# ---- Refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("output=gif", "output is 'gif'; expected one of rle"),
        ("min_score=high", "min_score is 'high'; expected a number from 0 to 1"),
        ("min_score=nan", "min_score is 'nan'"),
        ("max_objects=1.5", "expected a whole number"),
        ("max_objects=0", "from 1 to"),
        ("classes=cat", "There is no class 'cat'"),
        ("classes=BG", "There is no class 'BG'"),
        ("clases=disc", "There is no parameter 'clases'"),
    ],
)
def test_a_wrong_parameter_is_named(client, query, reason):
    answer = client.post(f"/detect?{query}", content=image_file())
    assert answer.status_code == 400 and reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"", {}, 400, "no image in the request"),
        (b"{}", {}, 400, "is JSON, not an image"),
        (b"%PDF-1.7", {}, 400, "is PDF, not an image"),
        (image_file(kind="JPEG")[:500], {}, 400, "can't be read|damaged"),
        (image_file()[:60], {}, 400, "can't be read|damaged|cut off"),
        (image_file(), {"content-type": "application/json"}, 415, "Expected an image"),
        (b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"}, 400, "no complete file|can't be read"),
        (png_of_size(60_000, 60_000), {}, 413, "too many pixels; this server takes at most 50000000"),
        (b"\xff" * 20_000_001, {}, 413, "more than 20000000 bytes"),
    ],
)
def test_a_bad_image_gets_an_explanation(client, body, headers, status, reason):
    answer = client.post("/detect", content=body, headers=headers)
    assert answer.status_code == status
    assert re.search(reason, answer.json()["error"])


def test_too_many_pixels_and_bytes_are_refused_in_a_body_a_form_and_chunks(stand_in):
    with client_of(stand_in, limits=Limits(max_bytes=2000, max_pixels=1000)) as client:
        answer = client.post("/detect", content=image_file(np.zeros((40, 50, 3), np.uint8)))
        assert answer.status_code == 413
        assert answer.json()["error"] == "The image has 40 x 50 pixels; this server takes at most 1000."
        assert client.post("/detect", files={"image": b"x" * 2001}).status_code == 413
        assert client.post("/detect", content=iter([b"x" * 1500] * 2)).status_code == 413
        assert client.post("/detect", content=iter([b"x" * 1500] * 9)).status_code == 413


def test_a_tiff_of_many_bands_is_refused_before_it_is_decoded(stand_in, tmp_path):
    import tifffile

    bands = np.zeros((100, 100, 40), np.float64)
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", bands, **options)
    with client_of(stand_in, limits=Limits(max_pixels=20_000)) as client:
        assert client.post("/detect", content=(tmp_path / "a.tif").read_bytes()).status_code == 413


def test_an_image_of_too_many_bands_for_the_model_is_a_bad_request(served, tmp_path):
    import tifffile

    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((20, 30, 7), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    answer = served.post("/detect", content=(tmp_path / "a.tif").read_bytes())
    assert answer.status_code == 400 and "The image has 7 channels" in answer.json()["error"]


def test_hostile_bodies_get_4xx_without_internal_details(client):
    for body, headers in hostile_bodies(90):
        answer = client.post("/detect", content=body, headers={k: v.encode("latin-1") for k, v in headers.items()})
        assert 400 <= answer.status_code < 500, (body[:60], headers, answer.text)
        assert not INTERNAL.search(answer.json()["error"]), answer.text


def test_server_errors_show_no_traceback_or_path(client, stand_in):
    stand_in.error = RuntimeError("/home/me/secret.py broke")
    answer = client.post("/detect", content=image_file())
    assert answer.status_code == 500
    assert "secret" not in answer.text and not INTERNAL.search(answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'path="/detect",status="500"} 1' in client.get("/metrics").text
    stand_in.error = ValueError("images[0] is bad, see /home/me/secret.py")
    answer = client.post("/detect", content=image_file())
    assert answer.status_code == 400 and "secret" not in answer.text
    stand_in.error = None
    assert client.post("/detect", content=image_file()).status_code == 200


def test_unknown_paths_and_methods_get_json(client):
    for method, path, status in (("get", "/no/../etc/passwd", 404), ("get", "/detect", 405), ("post", "/health", 405)):
        answer = getattr(client, method)(path)
        assert answer.status_code == status and "error" in answer.json()
    assert client.get("/%2e%2e/pyproject.toml").status_code == 404


def test_excess_requests_get_a_retry_after(stand_in):
    stand_in.go.clear()
    with client_of(stand_in, limits=Limits(max_requests=2)) as client, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(client.post, "/detect", content=image_file()) for _ in range(2)]
        while client.app.state.service.admitted < 2:
            time.sleep(0.01)
        answer = client.post("/detect", content=image_file())
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        stand_in.go.set()
        assert [job.result().status_code for job in running] == [200, 200]
        assert client.post("/detect", content=image_file()).status_code == 200


def test_large_photos_wait_for_memory_and_all_are_answered(stand_in):
    limits = Limits(max_pixels=64 * 64, max_decoded_pixels=64 * 64)  # one at a time
    with client_of(stand_in, limits=limits) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post("/detect", content=image_file()), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6


def test_a_request_without_a_result_in_time_gets_503(stand_in):
    stand_in.go.clear()
    with client_of(stand_in, limits=Limits(seconds=0.3)) as client:
        answers = [client.post("/detect", content=image_file()) for _ in range(2)]  # the second never starts
        stand_in.go.set()
        assert [answer.status_code for answer in answers] == [503, 503]
        assert client.post("/detect", content=image_file()).status_code == 200
    assert stand_in.batches == [1, 1]


# ---- Access ----------------------------------------------------------------------------------------------------------
def test_requests_need_the_token(stand_in):
    with client_of(stand_in, token="secret") as client:
        for path in ("/model", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 401
        assert client.post("/detect", content=image_file()).status_code == 401
        wrong = {"authorization": "Bearer secre"}
        assert client.post("/inspect", content=image_file(), headers=wrong).status_code == 401
        right = {"authorization": "Bearer secret"}
        assert client.post("/detect", content=image_file(), headers=right).status_code == 200
        assert client.get("/").status_code == client.get("/health").status_code == 200


def test_other_hosts_and_other_websites_are_refused(client):
    assert client.get("/model", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/model", headers={"host": "localhost:8000"}).status_code == 200
    other = {"origin": "http://evil.example"}
    assert client.post("/detect", content=image_file(), headers=other).status_code == 403
    own = {"origin": "http://localhost"}
    assert client.post("/detect", content=image_file(), headers=own).status_code == 200
    for broken in ("http://[", "[::1"):
        assert client.get("/model", headers={"origin": broken}).status_code in (400, 403)
        assert client.get("/model", headers={"host": broken}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_address_needs_a_token(host):
    with pytest.raises(ValueError, match="expected a token"):
        check_access(host, None)
    check_access(host, "secret")
    for token in ("", " a", "ä"):
        with pytest.raises(ValueError, match="token is empty"):
            check_access(host, token)
    for local in ("127.0.0.1", "localhost", "::1"):
        check_access(local, None)


def test_the_command_refuses_before_it_loads_a_model():
    from typer.testing import CliRunner

    from mrcnn.cli import app

    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--weights", "no such file"])
    assert done.exit_code == 1 and "expected a token as well (--token, or MRCNN_TOKEN)" in done.output
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = str(other.getsockname()[1])
    done = CliRunner().invoke(app, ["serve", "--weights", "no such file", "--port", free])
    assert done.exit_code == 1 and "no such file" in done.output
    assert CliRunner().invoke(app, ["serve", "--port", "70000"]).exit_code == 2
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "--port", str(port), "--weights", "no such file"])
    assert done.exit_code == 1 and f"port {port}: Address already in use. Choose another" in done.output


def test_the_command_serves_the_last_checkpoint_of_a_run(tmp_path, monkeypatch):
    """`serve` took fewer weights than `detect`: no run folders, presets and files without settings."""
    from typer.testing import CliRunner

    from mrcnn import serve
    from mrcnn.cli import app
    from mrcnn.serve import server
    from mrcnn.weights import pretrained

    served = []
    monkeypatch.setattr(serve, "run", lambda model, *_: served.append(model))
    shutil.copy(pretrained("shapes"), tmp_path / "mask_rcnn_shapes_0001.h5")
    monkeypatch.setattr(server, "check_port", lambda host, port: None)  # 8000 may be in use here
    done = CliRunner().invoke(app, ["serve", "--weights", str(tmp_path)])
    assert done.exit_code == 0 and served[0].class_names == ["BG", "square", "circle", "triangle"], done.output


@pytest.mark.parametrize("change", [{"batch": 0}, {"seconds": float("nan")}, {"max_bytes": 1.5}, {"max_pixels": 10**9}])
def test_an_invalid_limit_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Limits(**change)


# ---- Description and counts ------------------------------------------------------------------------------------------
def test_openapi_describes_all_routes_and_parameters(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/detect", "/inspect", "/model", "/metrics", "/health"}
    for parameter in document["paths"]["/detect"]["post"]["parameters"]:
        value = {"string": "rle" if parameter["name"] == "output" else "disc", "number": 0.5, "integer": 2}
        query = {parameter["name"]: value[parameter["schema"]["type"]]}
        assert client.post("/detect", params=query, content=image_file()).status_code == 200


def test_metrics_count_requests_batches_and_objects(client):
    client.post("/detect", content=image_file())
    client.post("/detect", content=b"x")
    client.get("/" + "x" * 50)
    text = client.get("/metrics").text
    for line in (
        'mrcnn_requests_total{path="/detect",status="200"} 1', 'mrcnn_requests_total{path="/detect",status="400"} 1',
        'mrcnn_requests_total{path="other",status="404"} 1', 'mrcnn_batch_photos_bucket{le="1"} 1',
        "mrcnn_objects_total 2", "mrcnn_admitted_requests 0", "mrcnn_request_seconds_count 3",
    ):  # fmt: skip
        assert line in text.splitlines()


# ---- The glass box ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nms", ["class", "all"])
def test_candidates_give_the_detections_at_any_threshold(served, model, nms, monkeypatch):
    """The sliders of the page: NMS over the candidates equals a run of the network with other thresholds."""
    image, config = photo(48, 64, seed=5), model.config
    monkeypatch.setattr(config, "DETECTION_NMS", nms)
    steps = served.post("/inspect", content=image_file(image)).json()
    candidates = steps["candidates"]
    assert len(candidates) > 10
    boxes = np.float32([c["nms_box"] for c in candidates])
    scores, groups = np.float32([c["score"] for c in candidates]), np.array([c["group"] for c in candidates])
    for score, iou in ((scores[-1], 0.3), (scores[-1], 0.7), (np.sort(scores)[len(scores) // 2], 0.1)):
        monkeypatch.setattr(config, "DETECTION_MIN_CONFIDENCE", float(score))
        monkeypatch.setattr(config, "DETECTION_NMS_THRESHOLD", iou)
        found = model.detect([image])[0]
        assert len(found) > 1
        rows = np.flatnonzero(scores >= score)
        by_group = [rows[groups[rows] == group] for group in np.unique(groups)]
        kept = [r[non_max_suppression(boxes[r], scores[r], iou)] for r in by_group]
        kept = np.sort(np.concatenate(kept))[: steps["thresholds"]["max_objects"]]
        assert [candidates[i]["class_id"] for i in kept] == found.class_ids.tolist()
        np.testing.assert_allclose(scores[kept], found.scores, rtol=1e-5)
        corners = [c["bbox"][:2] for c in (candidates[i] for i in kept)]
        assert np.abs(np.array(corners)[:, ::-1] - found.rois[:, :2]).max() <= 1


def test_the_inspected_steps_are_consistent(served, model):
    steps = served.post("/inspect", content=image_file(photo(48, 64))).json()
    assert sum(level["anchors"] for level in steps["levels"]) == steps["anchors"]["total"] == len(model.anchors)
    first = steps["levels"][0]
    assert first["shape"] == [16, 16] and len(first["cell"]) == 3 and first["step"] == [4, 4]
    middle = [(a[0] + a[2]) / 2 for a in first["cell"]]
    assert middle == pytest.approx([-8] * 3, abs=0.1)  # the photo begins 8 pixels below the top of the molded image
    kept = [a for a in steps["anchors"]["shown"] if a["kept"]]
    assert kept and len(steps["anchors"]["shown"]) > len(kept)
    shown = steps["proposals"]["shown"]
    assert 0 < len(shown) <= steps["proposals"]["total"]
    for proposal in shown:
        probs = [p for _, p in proposal["classes"]]
        assert probs == sorted(probs, reverse=True) and sum(probs) == pytest.approx(1, abs=1e-3)
    mask = steps["candidates"][0]
    assert mask["mask_shape"] == [8, 8] and mask["segmentation"]["size"] == [48, 64]


def test_a_custom_graph_has_no_steps(client):
    answer = client.post("/inspect", content=image_file())
    assert answer.status_code == 400 and "overrides build()" in answer.json()["error"]


# ---- The page --------------------------------------------------------------------------------------------------------
def test_the_page_names_no_other_host(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    for link in links:
        assert client.get(link).status_code == 200, link
    for link in ["/", *links]:
        text = client.get(link).text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), link
        assert "default-src 'self'" in client.get(link).headers["content-security-policy"]


# ---- A real server ---------------------------------------------------------------------------------------------------
def test_a_stopping_server_finishes_running_requests(stand_in):
    stand_in.go.clear()
    with running(create_app(stand_in)) as (url, server), ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(httpx.post, f"{url}/detect", content=image_file(), timeout=20) for _ in range(2)]
        assert stand_in.started.wait(10)
        while httpx.get(f"{url}/metrics").text.find("mrcnn_admitted_requests 2") < 0:
            time.sleep(0.01)
        server.should_exit = True  # what SIGTERM sets
        threading.Timer(0.3, stand_in.go.set).start()
        assert [len(job.result().json()["objects"]) for job in jobs] == [2, 2]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_body_that_does_not_arrive_gets_408(stand_in):
    with running(create_app(stand_in, limits=Limits(upload_seconds=0.3))) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc")
            assert b" 408 " in connection.recv(1000).split(b"\r\n")[0]
        assert httpx.post(f"{url}/detect", content=image_file()).status_code == 200


def test_a_disconnected_client_frees_its_place(stand_in):
    with running(create_app(stand_in, limits=Limits(max_requests=1))) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        for _ in range(3):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc")
        deadline = time.monotonic() + 5
        while httpx.post(f"{url}/detect", content=image_file()).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
