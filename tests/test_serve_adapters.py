"""The CVAT function and the Label Studio backend of samples/serve, with stand-ins of CVAT and Label Studio."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("httpx2", reason="Starlette's TestClient needs it")

from serve_kit import StandIn, image_file, running
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from mrcnn.serve import create_app

SAMPLES = Path(__file__).resolve().parents[1] / "samples" / "serve"
INTERFACE = """<View>
  <Image name="photo" value="$picture"/>
  <PolygonLabels name="outline" toName="photo"><Label value="square"/><Label value="cat"/></PolygonLabels>
</View>"""


def sample(name: str):
    spec = importlib.util.spec_from_file_location(name, SAMPLES / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def address():
    with running(create_app(StandIn(), token="secret")) as (url, _):
        yield url


@pytest.fixture
def settings(address, monkeypatch):
    monkeypatch.setenv("MRCNN_URL", address)
    monkeypatch.setenv("MRCNN_TOKEN", "secret")


# ---- CVAT ------------------------------------------------------------------------------------------------------------
def call_cvat(body: dict):
    """What Nuclio does: init_context once, then handler with an event; returns the response's arguments."""
    function = sample("cvat_function")
    context = types.SimpleNamespace(user_data=types.SimpleNamespace(), Response=lambda **options: options)
    function.init_context(context)
    return function.handler(context, types.SimpleNamespace(body=body))


def test_cvat_gets_masks(settings):
    response = call_cvat({"image": base64.b64encode(image_file()).decode(), "threshold": 0.6})
    assert response["status_code"] == 200 and response["content_type"] == "application/json"
    (found,) = json.loads(response["body"])
    assert found["label"] == "square" and float(found["confidence"]) == pytest.approx(0.9)
    assert found["type"] == "mask"
    left, top, right, bottom = found["mask"][-4:]
    assert (left, top, right, bottom) == (2, 1, 7, 4)  # right and bottom inclusive
    pixels = np.array(found["mask"][:-4]).reshape(bottom - top + 1, right - left + 1)
    assert pixels.all() and found["points"][:2] == [2, 1]


def test_cvat_gets_the_reason_of_an_error(settings):
    response = call_cvat({"image": base64.b64encode(b"%PDF-1.7").decode()})
    assert response["status_code"] == 400 and "not an image" in response["body"]


def test_masks_with_holes_are_decoded_like_pycocotools():
    from mrcnn.ops.rle import encode_masks

    mask = np.random.default_rng(0).random((37, 53)) > 0.6
    mask[5:20, 8:30] = True
    mask[10:13, 12:20] = False
    rle = encode_masks(mask[..., None])[0]
    rows = sample("cvat_function").decode_mask({"size": rle["size"], "counts": rle["counts"].decode()})
    assert np.array_equal(np.array([list(row) for row in rows]), mask)


def test_the_function_yaml_names_the_handler():
    content = yaml.safe_load((SAMPLES / "function.yaml").read_text())
    module, function = content["spec"]["handler"].split(":")
    assert callable(getattr(sample(module), function))
    labels = json.loads(content["metadata"]["annotations"]["spec"])
    assert all({"id", "name", "type"} == set(label) for label in labels)


# ---- Label Studio ----------------------------------------------------------------------------------------------------
@pytest.fixture
def studio(settings, monkeypatch):
    """A Label Studio that hands out one photo to whoever has the token."""

    async def photo(request):
        allowed = request.headers.get("authorization") == "Token studio"
        return Response(image_file(), media_type="image/png") if allowed else Response(status_code=401)

    with running(Starlette(routes=[Route("/data/upload/1/a.png", photo)])) as (url, _):
        monkeypatch.setenv("LABEL_STUDIO_URL", url)
        monkeypatch.setenv("LABEL_STUDIO_TOKEN", "studio")
        yield url


@pytest.fixture
def backend():
    return TestClient(sample("label_studio_backend").app)


def tasks(*places: str) -> dict:
    return {"tasks": [{"id": i, "data": {"picture": p}} for i, p in enumerate(places)], "label_config": INTERFACE}


def test_label_studio_gets_outlines_in_percent(studio, backend):
    assert backend.get("/health").json()["status"] == "UP"
    assert backend.post("/setup", json={"project": "1"}).json() == {"model_version": "mrcnn"}
    answer = backend.post("/predict", json=tasks("/data/upload/1/a.png", f"{studio}/data/upload/1/a.png"))
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert first == second
    (region,) = first["result"]  # the interface has no label "disc"
    assert (region["from_name"], region["to_name"], region["type"]) == ("outline", "photo", "polygonlabels")
    assert (region["original_width"], region["original_height"]) == (64, 64)
    assert region["value"]["polygonlabels"] == ["square"]
    points = np.array(region["value"]["points"]) * 64 / 100
    assert points.min(axis=0) == pytest.approx([2, 1], abs=1) and points.max(axis=0) == pytest.approx([8, 5], abs=1)
    assert first["score"] == pytest.approx(0.9)


def test_images_of_other_hosts_are_not_fetched(studio, backend):
    for place in ("http://169.254.1.1/secret", "file:///etc/passwd", "//evil.example/a.png"):
        answer = backend.post("/predict", json=tasks(place))
        assert answer.status_code == 400 and "not on Label Studio's host" in answer.json()["error"]


@pytest.mark.parametrize("text", ["<View/>", "no XML", "<View><Image name='a' value='$b'/></View>"])
def test_a_labeling_interface_without_tags_is_named(studio, backend, text):
    answer = backend.post("/predict", json={**tasks("/data/upload/1/a.png"), "label_config": text})
    assert answer.status_code == 400 and "label" in answer.json()["error"]


def test_a_missing_image_is_a_gateway_error(studio, backend):
    assert backend.post("/predict", json=tasks("/data/upload/1/gone.png")).status_code == 502
