"""Routes of the server, and the checks that every request must pass first."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mrcnn.serve.answers import Wanted, as_data_url, as_json, as_png, read_number
from mrcnn.serve.glass_box import model_json
from mrcnn.serve.limits import Limits, Refused
from mrcnn.serve.openapi import describe
from mrcnn.serve.service import Service

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

PAGE_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
OPEN_PATHS = ("/health",)  # besides the page: its files are public, its requests are not
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; connect-src 'self' data:; img-src 'self' blob: data:;"
    " media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        token: Requests need the header `Authorization: Bearer <token>`. None: no token.
        hosts: Names that the server is called by, checked against the header Host, which keeps other websites from
            reaching a server on localhost under their own name (DNS rebinding). None: any.
    """

    token: str | None = None
    hosts: tuple[str, ...] | None = LOOPBACK

    def check(self, headers: Headers, is_open: bool) -> None:
        """Raises `Refused` (400, 401 or 403) for a request that is not allowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, asking = urlsplit(f"//{host}").hostname or "", urlsplit(origin or "").netloc
        except ValueError as error:
            raise Refused(400, "The header Host or Origin is broken.") from error
        if self.hosts is not None and name not in self.hosts:
            raise Refused(403, "This server does not answer to that host name.")
        if origin is not None and asking != host:
            raise Refused(403, "Requests from pages of other hosts are not allowed.")
        if self.token is None or is_open:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise Refused(401, "A token is needed: Authorization: Bearer <token>.", {"www-authenticate": "Bearer"})


class Guard:
    """Checks access, adds headers, answers errors, and counts the answer. An ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, access: Access, service: Service, paths: set[str], open_paths: set[str]):
        self.app, self.access, self.service = app, access, service
        self.paths, self.open_paths = paths, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.monotonic(), None

        async def send_with_headers(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        path = scope["path"]
        try:
            self.access.check(Headers(scope=scope), path in self.open_paths)
            await self.app(scope, receive, send_with_headers)
        except Refused as refused:
            await refusal_answer(refused)(scope, receive, send_with_headers)
        except Exception:
            logger.exception("An error in %s %s", scope["method"], path)
            if status is None:
                failure = JSONResponse({"error": "An error in the server; its log has the details."}, 500)
                await failure(scope, receive, send_with_headers)
        known = path if path in self.paths else "other"
        self.service.metrics.count_request(known, status or 500, time.monotonic() - started)


def refusal_answer(refused: Refused) -> JSONResponse:
    return JSONResponse({"error": refused.reason}, refused.status, refused.headers)


def create_app(
    model: MaskRCNN, token: str | None = None, limits: Limits | None = None, hosts: tuple[str, ...] | None = LOOPBACK
) -> Starlette:
    """The server as an ASGI application.

    Args:
        model: `MaskRCNN`; its config's `BATCH_SIZE` becomes `limits.batch`.
        token, hosts: See `Access`.
        limits: None: the defaults of `Limits`.

    Returns:
        A Starlette application. Its `state.service` is the `Service`.
    """
    limits = limits or Limits()
    service = Service(model, limits)
    page = read_page()
    names = service.class_names
    routes = [
        *(Route(path, _page_route(content, kind)) for path, (content, kind) in page.items()),
        *_api_routes(service, names),
        Route("/openapi.json", _json_route(describe(limits, names, token is not None))),
    ]
    paths = {route.path for route in routes}
    guard = Middleware(
        Guard, access=Access(token, hosts), service=service, paths=paths, open_paths={*page, *OPEN_PATHS}
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    handlers = {Refused: _on_refused, HTTPException: _on_http_error, ClientDisconnect: _on_leave}
    app = Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app


def read_page() -> dict[str, tuple[bytes, str]]:
    """The files of the page by path: content and type. "/" is index.html."""
    folder = resources.files("mrcnn.serve") / "page"
    files = {}
    for file in folder.iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in PAGE_TYPES:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            files[path] = file.read_bytes(), PAGE_TYPES[suffix]
    return files


def _page_route(content: bytes, kind: str):
    async def page(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page


def _json_route(content: dict):
    async def describe_it(request: Request) -> Response:
        return JSONResponse(content)

    return describe_it


def _api_routes(service: Service, names: list[str]) -> list[Route]:
    description = model_json(service.model, names)

    async def detect(request: Request) -> Response:
        wanted = Wanted.read(request.query_params, names)

        def encode(photo, found):
            found = wanted.choose(found)
            service.metrics.count_objects(len(found))
            if wanted.output in ("png", "instances"):
                return Response(as_png(photo, found, wanted.output), media_type="image/png")
            return JSONResponse(as_json(found, names, wanted.output))

        return await service.answer(request, service.model.detect, encode)

    async def inspect(request: Request) -> Response:
        with_photo = read_number(request.query_params, "photo", 0, int, 0, 1)

        def encode(photo, steps):
            content = service.glass_box.as_json(steps)
            return JSONResponse({**content, "photo": as_data_url(photo)} if with_photo else content)

        return await service.answer(request, service.glass_box.run, encode)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "stopping" if service.stopping else "ok"}, 503 if service.stopping else 200)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(
            service.metrics.text(service.waiting, service.admitted), media_type="text/plain; version=0.0.4"
        )

    return [
        Route("/detect", detect, methods=["POST"]),
        Route("/inspect", inspect, methods=["POST"]),
        Route("/model", _json_route(description)),
        Route("/health", health),
        Route("/metrics", metrics),
    ]  # fmt: skip


async def _on_refused(request: Request, error: Refused) -> Response:
    return refusal_answer(error)


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    reason = {404: "There is nothing at this path.", 405: "This path does not take that method."}
    return JSONResponse({"error": reason.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def _on_leave(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it
