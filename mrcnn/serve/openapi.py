"""The OpenAPI description of the server: `GET /openapi.json`.

Reference: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Sequence

from mrcnn import __version__
from mrcnn.serve.answers import OUTPUTS
from mrcnn.serve.limits import Limits

REASONS = {
    "400": "The image can't be read, or a parameter is wrong; `error` says what was expected.",
    "401": "The token is missing or wrong.",
    "403": "The host or the origin of the request is not allowed.",
    "408": "The body did not arrive in time.",
    "413": "The image has too many bytes or pixels.",
    "415": "The body is neither an image nor a form.",
    "429": "Too many requests; try again after the seconds in `Retry-After`.",
    "503": "There was no result in time, or the server is stopping.",
}
NUMBER, INTEGER, TEXT = {"type": "number"}, {"type": "integer"}, {"type": "string"}
BOX = {"type": "array", "items": NUMBER, "minItems": 4, "maxItems": 4, "description": "[x, y, width, height], pixels"}
OBJECT = {
    "type": "object",
    "required": ["class_id", "class_name", "score", "bbox", "area"],
    "properties": {
        "class_id": INTEGER,
        "class_name": TEXT,
        "score": NUMBER,
        "bbox": BOX,
        "area": {"type": "integer", "description": "Pixels of the mask."},
        "segmentation": {
            "description": "Run lengths as of COCO (pycocotools reads them), or polygons.",
            "oneOf": [
                {"type": "object", "properties": {"size": {"type": "array", "items": INTEGER}, "counts": TEXT}},
                {"type": "array", "items": {"type": "array", "items": NUMBER}},
            ],
        },
    },
}
SCHEMAS = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": TEXT}},
    "Object": OBJECT,
    "Detections": {
        "type": "object",
        "required": ["image", "objects"],
        "properties": {
            "image": {"type": "object", "properties": {"height": INTEGER, "width": INTEGER}},
            "objects": {"type": "array", "items": {"$ref": "#/components/schemas/Object"}},
        },
    },
}


def describe(limits: Limits, class_names: Sequence[str], needs_token: bool) -> dict:
    """The description as a dict, ready for JSON.

    Args:
        limits: Their values are part of the descriptions.
        class_names: By class id.
        needs_token: Whether requests need a token.
    """
    security = {"security": [{"token": []}]} if needs_token else {}
    image = {
        "required": True,
        "description": f"An image of at most {limits.max_bytes} bytes and {limits.max_pixels} pixels: JPEG, PNG, TIFF,"
        " WebP, BMP, GIF, JPEG 2000 or PPM; turned upright as its EXIF data say.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
            },
        },
    }
    found = {"application/json": {"schema": {"$ref": "#/components/schemas/Detections"}}}
    picture = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    paths = {
        "/detect": {"post": {
            "summary": "Find objects in an image", "operationId": "detect", "parameters": _parameters(class_names),
            "requestBody": image,
            "responses": _responses("The objects, best score first.", found | picture, REASONS), **security,
        }},
        "/inspect": {"post": {
            "summary": "Show the steps of the network for an image", "operationId": "inspect", "requestBody": image,
            "responses": _responses("The steps.", _json_object(), REASONS), **security,
        }},
        "/model": {"get": {
            "summary": "Classes and settings of the model", "operationId": "model",
            "responses": _responses("The model.", _json_object(), ("401", "403")), **security,
        }},
        "/metrics": {"get": {
            "summary": "Counts and times for Prometheus", "operationId": "metrics",
            "responses": _responses("The numbers.", {"text/plain": {"schema": TEXT}}, ("401", "403")), **security,
        }},
        "/health": {"get": {
            "summary": "Whether the server answers", "operationId": "health",
            "responses": _responses("It does.", _json_object(), ("503",)),
        }},
    }  # fmt: skip
    components = {"schemas": SCHEMAS}
    if needs_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0", "info": {"title": "mrcnn", "version": __version__}, "paths": paths, "components": components
    }  # fmt: skip


def _parameters(class_names: Sequence[str]) -> list[dict]:
    classes = ", ".join(class_names[1:6]) + (", ..." if len(class_names) > 6 else "")
    described = {
        "output": ("Form of the masks, or a PNG: the picture with the objects, or their numbers in 16 bits.",
                   {"type": "string", "enum": list(OUTPUTS), "default": "rle"}),
        "min_score": ("Leave out objects with a lower score.", {"type": "number", "minimum": 0, "maximum": 1}),
        "classes": (f"Only objects of these classes, names separated by commas: {classes}.", TEXT),
        "max_objects": ("Maximum number of objects, best first.", {"type": "integer", "minimum": 1}),
    }  # fmt: skip
    return [
        {"name": name, "in": "query", "description": description, "schema": schema}
        for name, (description, schema) in described.items()
    ]


def _json_object() -> dict:
    return {"application/json": {"schema": {"type": "object"}}}


def _responses(description: str, content: dict, errors) -> dict:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refused = {status: {"description": REASONS[status], "content": error} for status in errors}
    return {"200": {"description": description, "content": content}, **refused}
