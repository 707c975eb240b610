"""What a server accepts, and the error for what it does not."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Limits of a server. All of them together bound its memory.

    Attributes:
        max_bytes: Bytes of a request's body; larger ones get 413.
        max_pixels: Height x width of a photo, read from its header before it is decoded; larger ones get 413.
        max_requests: Requests with a photo that are in the server at once; further ones get 429.
        max_decoded_pixels: Pixels of all decoded photos that wait or run. Requests wait for their share, so that many
            large photos at once cost time, not memory.
        upload_seconds: Time for a body to arrive, else 408.
        seconds: Time from the photo's arrival to its answer, else 503.
        stop_seconds: Time that running requests get to finish when the server stops.
        batch: Maximum number of photos per call of the network. With 1, every answer equals `model.detect([photo])` bit
            for bit. With more, it equals `model.detect(photos)` for the photos that ran together, and scores can differ
            in the last bits from those of one photo (docs/serve.md).
        batch_seconds: How long a photo waits for others to fill the batch.

    Raises:
        ValueError: for a limit that is not a positive number, or limits that contradict each other.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_requests: int = 32
    max_decoded_pixels: int = 150_000_000
    upload_seconds: float = 30
    seconds: float = 60
    stop_seconds: float = 30
    batch: int = 1
    batch_seconds: float = 0.005

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type == "int"
            if not isinstance(value, (int, np.integer) if whole else (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{field.name} is {value!r}; expected a positive {'whole ' if whole else ''}number.")
        if self.max_decoded_pixels < self.max_pixels:
            raise ValueError(
                f"max_decoded_pixels is {self.max_decoded_pixels}; expected at least max_pixels = {self.max_pixels}."
            )


class Refused(Exception):
    """A request that gets an error as its answer.

    Args:
        status: HTTP status, 4xx or 503.
        reason: One sentence for the client. It must not contain paths or names of the server.
        headers: Of the answer.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers or {}
