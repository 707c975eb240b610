"""Starts the server."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mrcnn.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from mrcnn.model import MaskRCNN

IDLE_SECONDS = 5  # for which an idle connection is kept open
MOST_CONNECTIONS = 1000


def create_app(model: MaskRCNN, token: str | None = None, limits: Limits | None = None, **options: Any) -> Starlette:
    """`mrcnn.serve.app.create_app`, for any ASGI server.

    Raises:
        ImportError: the extra `serve` is not installed.
    """
    require_extra()
    from mrcnn.serve import app

    return app.create_app(model, token, limits, **options)


def require_extra() -> None:
    """Raises ImportError if the extra `serve` is not installed."""
    missing = [name for name in ("starlette", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise ImportError(f"mrcnn serve needs {', '.join(missing)}: pip install 'mrcnn[serve]'")


def run(
    model: MaskRCNN,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    *,
    warm_up: bool = True,
) -> None:
    """Serves a model until SIGTERM or Ctrl+C, then finishes the running requests. Returns after SIGTERM.

    Args:
        model: `MaskRCNN` in the mode "inference".
        host: Address to listen on. Any other than those of this machine (127.0.0.1, ::1, localhost) needs a token.
        port: TCP port.
        token: If given, requests need the header `Authorization: Bearer <token>`.
        limits: See `Limits`.
        warm_up: Run the network once before the server listens, so that the first request is as fast as the others.

    Raises:
        ValueError: no token, and an address that other machines reach.
        ImportError: the extra `serve` is not installed.
    """
    check_access(host, token)
    limits = limits or Limits()
    local = {} if is_loopback(host) else {"hosts": None}
    app = create_app(model, token, limits, **local)
    import uvicorn

    if warm_up:
        app.state.service.warm_up()
    server = uvicorn.Server(uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False,
        timeout_keep_alive=IDLE_SECONDS, limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
    ))  # fmt: skip
    before = None
    if threading.current_thread() is threading.main_thread():  # uvicorn ends with the signal that stopped it
        before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def check_access(host: str, token: str | None) -> None:
    """Raises ValueError for a server that anybody in the network could use."""
    if token is None and not is_loopback(host):
        raise ValueError(
            f"host is {host!r}, which other machines reach; expected a token as well (--token, or MRCNN_TOKEN), or the"
            " host 127.0.0.1."
        )
    if token is not None and (not token.isascii() or not token.strip() or token != token.strip()):
        raise ValueError("token is empty, or has spaces around it or characters other than ASCII; expected plain text.")


def check_port(host: str, port: int) -> None:
    """Raises OSError if a server can't listen there, for example because another program does. Loads no model."""
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(f"{host}, port {port}: {error.strerror}. Choose another --port or --host.") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Example:

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
