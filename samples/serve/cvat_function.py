"""A CVAT function (Nuclio, type "detector") that asks a running `mrcnn serve`.

The container only needs Python, because the network runs on the server. List your model's classes in function.yaml
beside this file and deploy with it. Environment: MRCNN_URL, such as http://server:8000, and MRCNN_TOKEN.

CVAT sends {"image": base64, "threshold": number} and expects a list of objects; a mask is the list of its pixels
inside its box, row by row, and the corners of the box: left, top, right, bottom, the last two inclusive. It also
requires a polygon; the box is sufficient.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request

SECONDS = 60


def init_context(context) -> None:
    """Called once by Nuclio, before the first event."""
    context.user_data.address = os.environ["MRCNN_URL"].rstrip("/")
    context.user_data.token = os.environ.get("MRCNN_TOKEN")


def handler(context, event):
    """Answers one request of CVAT."""
    body = event.body if isinstance(event.body, dict) else json.loads(event.body)
    query = urllib.parse.urlencode({"min_score": float(body.get("threshold", 0.5))})
    headers = {"Content-Type": "application/octet-stream"}
    if context.user_data.token:
        headers["Authorization"] = f"Bearer {context.user_data.token}"
    address = f"{context.user_data.address}/detect?{query}"
    request = urllib.request.Request(address, base64.b64decode(body["image"]), headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            objects = json.load(answer)["objects"]
    except urllib.error.HTTPError as error:  # its body is JSON with the reason
        return context.Response(
            body=error.read().decode(), headers={}, content_type="application/json", status_code=error.code
        )
    results = [cvat_object(found) for found in objects if found["area"]]
    return context.Response(
        body=json.dumps(results), headers={}, content_type="application/json", status_code=200
    )  # fmt: skip


def cvat_object(found: dict) -> dict:
    """An object of /detect in CVAT's form."""
    rows = decode_mask(found["segmentation"])
    inside = [(y, x) for y, row in enumerate(rows) for x, value in enumerate(row) if value]
    top, bottom = inside[0][0], inside[-1][0]
    left, right = min(x for _, x in inside), max(x for _, x in inside)
    pixels = [value for row in rows[top : bottom + 1] for value in row[left : right + 1]]
    return {
        "confidence": str(found["score"]), "label": found["class_name"], "type": "mask",
        "points": [left, top, right, top, right, bottom, left, bottom], "mask": [*pixels, left, top, right, bottom],
    }  # fmt: skip


def decode_mask(segmentation: dict) -> list[bytearray]:
    """COCO's compressed run lengths -> rows of 0 and 1, without other packages."""
    height, width = segmentation["size"]
    runs, value, shift = [], 0, 0
    for character in segmentation["counts"].encode():
        group = character - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    columns = b"".join(bytes([i % 2]) * run for i, run in enumerate(runs))  # the mask column by column
    return [bytearray(columns[y::height]) for y in range(height)] if width else []
