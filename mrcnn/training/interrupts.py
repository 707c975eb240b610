"""Ctrl-C and SIGTERM during a training: they take effect between two steps, so that its state can be saved."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

logger = logging.getLogger(__name__)


class Interrupts:
    """A context in which Ctrl-C and SIGTERM (of Slurm, Kubernetes, `kill`) wait for the end of a step.

    `check` raises KeyboardInterrupt or SystemExit if one has come. A second signal takes effect at once. Outside of the
    main thread, and where a program ignores a signal, nothing is changed.
    """

    def __init__(self):
        self.waits = False  # whether a signal waits for `check`
        self._came = None
        self._previous = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if error is None:
            self.check()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets signals wait for the end of this block."""
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before

    def check(self, agree: Callable[[int], int] = int) -> None:
        """Raises what the signal means, if one has come.

        Args:
            agree: with several processes, returns the signal that any of them has got, from this one's; 0 is none.
        """
        number = agree(self._came or 0)
        if not number:
            return
        self._came = None
        previous = self._previous.get(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if callable(previous):
            previous(number, None)
            return
        raise SystemExit(128 + number)

    def _on_signal(self, number, frame) -> None:
        at_once = self._came is not None or not self.waits
        self._came = number
        if at_once:
            self.check()
        else:
            logger.warning("%s: stopping after this step.", signal.Signals(number).name)
