"""What the routes of `app.py` call: admits requests, decodes photos, and waits for the network within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.requests import Request

from mrcnn.serve import uploads
from mrcnn.serve.batch_runner import BatchRunner
from mrcnn.serve.glass_box import GlassBox
from mrcnn.serve.limits import Limits, Refused
from mrcnn.serve.metrics import Metrics

if TYPE_CHECKING:
    from mrcnn.model import MaskRCNN

DECODERS = 2  # threads that decode photos and encode answers; the network has another thread
RETRY = {"retry-after": "1"}


class Service:
    """A model and its queue.

    Args:
        model: `MaskRCNN`. The server sets its `BATCH_SIZE` to `limits.batch`.
        limits: See `Limits`.

    Attributes:
        metrics: Counts for /metrics.
        admitted: Requests with a photo that are in the server now.
        stopping: Whether new requests are refused.
    """

    def __init__(self, model: MaskRCNN, limits: Limits):
        self.model, self.limits = model, limits
        model.config.BATCH_SIZE = limits.batch
        self.metrics = Metrics()
        self.glass_box = GlassBox(model)
        self.admitted, self.stopping = 0, False
        self._decoded = 0  # pixels of all decoded photos
        self._room: asyncio.Condition | None = None
        self._decoders = ThreadPoolExecutor(DECODERS, "mrcnn-photos")
        self._runner = BatchRunner(limits.batch, limits.batch_seconds, self.metrics.count_batch)

    @property
    def waiting(self) -> int:
        """Photos that wait for the network."""
        return len(self._runner)

    @property
    def class_names(self) -> list[str]:
        """Name of each class id; "class 3" where the model doesn't know them."""
        names = self.model.class_names or []
        return [*names, *(f"class {i}" for i in range(len(names), self.model.config.NUM_CLASSES))]

    def warm_up(self) -> None:
        """Runs the network once for each kind of request, which compiles it; batches of 2 compile it for all sizes."""
        side, batch = self.model.config.IMAGE_MAX_DIM, self.limits.batch
        photo = np.zeros((side, side, self.model.config.IMAGE_CHANNEL_COUNT), np.uint8)
        for size in sorted({1, min(2, batch), batch}):
            self.model.detect([photo] * size)
        if self.model.stages is not None:
            self.glass_box.run([photo])

    def close(self) -> None:
        """Finishes running requests and refuses new ones."""
        self.stopping = True
        self._runner.close()
        self._decoders.shutdown()

    # ---- One request -------------------------------------------------------------------------------------------------
    async def answer(self, request: Request, work: Callable, encode: Callable[[np.ndarray, Any], Any]) -> Any:
        """Reads the photo of a request, runs `work` on it in the network's thread, and encodes the result.

        Args:
            request: With an image as its body or in a form.
            work: Photos -> results, such as `model.detect`.
            encode: Photo and result -> answer; runs in a thread.

        Raises:
            Refused: the request gets 4xx, or 503 if it takes too long or the server is stopping.
        """
        if self.stopping:
            raise Refused(503, "The server is stopping.")
        if self.admitted >= self.limits.max_requests:
            await uploads.drain(request, self.limits)
            raise Refused(429, "The server is busy; try again in a second.", RETRY)
        self.admitted += 1
        try:
            data = await uploads.read_body(request, self.limits)
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await self._compute(data, work, encode)
            except TimeoutError:
                raise Refused(503, f"There was no result within {self.limits.seconds} s.", RETRY) from None
        finally:
            self.admitted -= 1

    async def _compute(self, data: bytes, work: Callable, encode: Callable) -> Any:
        pixels = await self._in_thread(uploads.count_pixels, data, self.limits)
        async with self._memory_for(pixels):
            photo = await self._in_thread(uploads.decode_photo, data)
            del data
            try:
                job = self._runner.submit(work, photo, self.batch_key(photo), self.limits.seconds)
            except RuntimeError:
                raise Refused(503, "The server is stopping.") from None
            try:
                result = await asyncio.wrap_future(job)
            except ValueError as error:  # an image that this model does not take, such as one of five bands
                raise Refused(400, uploads.reason_of(error).replace("images[0]", uploads.NAME)) from error
            return await self._in_thread(encode, photo, result)

    def batch_key(self, photo: np.ndarray) -> Hashable:
        """Photos with the same key have the same molded shape."""
        square = self.model.config.IMAGE_RESIZE_MODE == "square"
        return "square" if square else photo.shape

    @asynccontextmanager
    async def _memory_for(self, pixels: int) -> AsyncIterator[None]:
        """Waits until the decoded photos leave room for one more."""
        self._room = self._room or asyncio.Condition()
        async with self._room:
            await self._room.wait_for(lambda: self._decoded + pixels <= self.limits.max_decoded_pixels)
            self._decoded += pixels
        try:
            yield
        finally:
            self._decoded -= pixels
            async with self._room:
                self._room.notify_all()

    async def _in_thread(self, function: Callable, *args) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *args)
