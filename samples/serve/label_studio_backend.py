"""A Label Studio ML backend that asks a running `mrcnn serve`.

    MRCNN_URL=http://127.0.0.1:8000 LABEL_STUDIO_URL=http://127.0.0.1:8080 LABEL_STUDIO_TOKEN=... \
        uvicorn label_studio_backend:app --port 9090

Then add http://127.0.0.1:9090 as a model in the project's settings. The labeling interface needs <Image> and
<PolygonLabels> whose labels have the names of the model's classes. Needs `pip install 'mrcnn[serve]'`.

Label Studio posts {"tasks": [...], "label_config": XML} to /predict and expects {"results": [...]}, one prediction for
each task; points are percent of the image. Images are fetched from Label Studio only.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

VERSION = "mrcnn"
SECONDS = 60


@dataclass(frozen=True)
class Interface:
    """Names used in the labeling interface.

    Attributes:
        labels: Name of the tag <PolygonLabels>.
        image: Name of the tag <Image>.
        key: The field of a task's data with the image.
        classes: Labels that the interface has.
    """

    labels: str
    image: str
    key: str
    classes: frozenset[str]

    @classmethod
    def read(cls, text: str) -> Interface:
        """Reads the XML of a project. Raises ValueError without <Image> and <PolygonLabels>."""
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise ValueError(f"label_config is no XML: {error}") from error
        image, labels = root.find(".//Image"), root.find(".//PolygonLabels")
        if image is None or labels is None:
            raise ValueError("The labeling interface needs <Image> and <PolygonLabels>.")
        classes = frozenset(label.get("value", "") for label in labels.findall(".//Label"))
        return cls(labels.get("name", ""), labels.get("toName", ""), image.get("value", "").lstrip("$"), classes)


def fetch(address: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(address, body, headers or {})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return answer.read()


def read_photo(place: str) -> bytes:
    """The image of a task, which must be on Label Studio's host. Raises ValueError for another one."""
    home = os.environ.get("LABEL_STUDIO_URL", "http://127.0.0.1:8080")
    address = urljoin(home, place)
    if urlsplit(address)[:2] != urlsplit(home)[:2]:
        raise ValueError("The image is not on Label Studio's host; import it there.")
    token = os.environ.get("LABEL_STUDIO_TOKEN")
    return fetch(address, headers={"Authorization": f"Token {token}"} if token else {})


def detect(photo: bytes) -> dict:
    """Asks the server for polygons."""
    headers = {"Content-Type": "application/octet-stream"}
    if token := os.environ.get("MRCNN_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    address = os.environ.get("MRCNN_URL", "http://127.0.0.1:8000").rstrip("/")
    return json.loads(fetch(f"{address}/detect?output=polygons", photo, headers))


def prediction(found: dict, interface: Interface) -> dict:
    """The answer of /detect as a prediction of Label Studio: a region for each outline."""
    height, width = found["image"]["height"], found["image"]["width"]
    regions = []
    for item in found["objects"]:
        if item["class_name"] not in interface.classes:
            continue
        for outline in item["segmentation"]:
            points = [[100 * x / width, 100 * y / height] for x, y in zip(outline[::2], outline[1::2])]
            regions.append({
                "from_name": interface.labels, "to_name": interface.image, "type": "polygonlabels",
                "original_width": width, "original_height": height, "image_rotation": 0, "score": item["score"],
                "value": {"points": points, "polygonlabels": [item["class_name"]], "closed": True},
            })  # fmt: skip
    scores = [region["score"] for region in regions]
    return {"result": regions, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": VERSION}


def predict(request_body: dict) -> dict:
    interface = Interface.read(request_body["label_config"])
    tasks = [read_photo(str(task["data"][interface.key])) for task in request_body["tasks"]]
    return {"results": [prediction(detect(photo), interface) for photo in tasks]}


async def on_predict(request: Request) -> JSONResponse:
    from starlette.concurrency import run_in_threadpool

    try:
        return JSONResponse(await run_in_threadpool(predict, await request.json()))
    except urllib.error.HTTPError as error:
        return JSONResponse({"error": f"{error.code}: {error.read(500).decode(errors='replace')}"}, 502)
    except OSError as error:
        return JSONResponse({"error": str(error)}, 502)
    except (ValueError, KeyError, TypeError) as error:
        return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)


async def on_health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "UP", "model_class": VERSION})


async def on_setup(request: Request) -> JSONResponse:
    return JSONResponse({"model_version": VERSION})


app = Starlette(routes=[
    Route("/predict", on_predict, methods=["POST"]),
    Route("/setup", on_setup, methods=["POST"]),
    Route("/health", on_health),
    Route("/", on_health),
])  # fmt: skip
