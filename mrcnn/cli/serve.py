"""`mrcnn serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from mrcnn.cli import options, output


def serve(
    weights: options.WeightsOption = "shapes",
    host: Annotated[str, typer.Option(help="Address to listen on; others than 127.0.0.1 need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="MRCNN_TOKEN", help="What clients send as `Authorization: Bearer <token>`.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of photos per call of the network.")] = 1,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest image file.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Largest photo.")] = 50,
    max_requests: Annotated[int, typer.Option(min=1, help="Most requests at once; others get status 429.")] = 32,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request without a result fails.")] = 60,
) -> None:
    """Serve a web page and an HTTP API that find objects in photos.

    The page is at the address that is printed. docs/serve.md describes the API, POST /detect. Needs the extra: pip
    install 'mrcnn[serve]'. Ctrl+C and SIGTERM stop the server after the running requests. A token in the environment
    variable MRCNN_TOKEN, unlike one on the command line, cannot be seen by other users of the machine.
    """
    from mrcnn.serve import Limits, run
    from mrcnn.serve.server import check_access, check_port, require_extra

    require_extra()
    check_access(host, token)
    check_port(host, port)
    pixels = round(max_megapixels * 1e6)
    limits = Limits(
        max_bytes=round(max_megabytes * 1e6), max_pixels=pixels, max_requests=max_requests, seconds=timeout,
        batch=batch, max_decoded_pixels=max(3 * pixels, Limits.max_decoded_pixels),
    )  # fmt: skip
    from mrcnn.cli.models import open_model

    model = open_model(weights)
    with output.prints_to_stderr():
        shown = f"[{host}]" if ":" in host else host
        output.note(f"Serving {weights} on http://{shown}:{port}")
        run(model, host, port, token, limits)
