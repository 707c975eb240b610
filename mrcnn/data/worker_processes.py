"""Processes that prepare batches and hand them over in shared memory.

A worker writes a finished batch into a slot, a part of one anonymous file in memory that all processes have mapped. The
training process copies nothing: the arrays of the batch are that memory, and the slot is free again when nobody holds
them anymore. The file has no name, so the system frees it when the last process has ended, even if it was killed.

    training process       request (number, places, ..., slot)  ->  worker: samples, collated into the slot
                           reply (number, layout)               <-

Where there is no shared memory, a worker sends its samples through a pipe instead, which costs the training process
several milliseconds per image (docs/performance.md, "worker processes").
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import itertools
import math
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import sys
import traceback
import warnings
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from mrcnn.data.collate import Batch, Layout, make_batch
from mrcnn.data.sample_stream import SampleStream

SLOT_BYTES = 2**36  # address range of a slot in the file; only what is written takes memory
ALIGNMENT = 64  # bytes; as TensorFlow and JAX want arrays that they use without a copy
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SPARE_SLOTS = 2  # for batches that training still uses, beside those in its queue


class WorkerProcessError(RuntimeError):
    """A worker process has ended unexpectedly."""


class WorkerProcesses:
    """Prepares batches of a stream in processes. Threads may ask for batches at the same time.

    Args:
        stream: SampleStream.
        workers: int, processes.
        ahead: int, batches that the training process keeps in its queue. They stay in shared memory; of batches that
            are kept beyond that, private copies are made.

    Raises:
        ValueError: the stream can't be sent to another process.
    """

    def __init__(self, stream: SampleStream, workers: int, ahead: int):
        content = _pickled(stream)
        self.stream, self.error = stream, None
        self._numbers = itertools.count()
        kept = ahead + SPARE_SLOTS
        self._memory = self._shared_slots()
        self._shares = self._memory is not None
        self._free = collections.deque(reversed(range(workers + kept)))  # slots; the last one is taken first
        self._may_keep = collections.deque([None] * kept)  # a batch in shared memory takes one out
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.workers = []
        try:
            for _ in range(workers):
                self.workers.append(_Worker(content, self._memory))
                self._idle.put(self.workers[-1])
        finally:  # also if the system refuses a process
            self._close = weakref.finalize(self, _end, self.workers)
            atexit.register(self._close)  # runs before multiprocessing waits for its processes

    def batch(self, places: Sequence[int], by_settings: bool = True) -> Batch:
        """The batch of the samples at these places, see `SampleStream.sample`.

        Raises:
            WorkerProcessError: a worker has ended.
            Exception: whatever the dataset or the augmentation raised in the worker.
        """
        self.check()
        worker = self._idle.get()
        try:
            return self._from_worker(worker, list(places), by_settings)
        finally:
            self._idle.put(worker)

    def check(self) -> None:
        """Raises WorkerProcessError if a worker has ended. Takes microseconds, so it can be called at each step."""
        for worker in self.workers:
            if self.error is None and worker.process.exitcode is not None:
                self.error = _describe(worker.process)
        if self.error is not None:
            raise WorkerProcessError(self.error)

    def close(self) -> None:
        """Ends the processes. Batches that are still held stay valid."""
        self._close()

    def _shared_slots(self) -> SharedSlots | None:
        if not hasattr(os, "memfd_create"):  # it is Linux's
            return None
        try:
            return SharedSlots.create()
        except OSError as error:
            self._stop_sharing(error)

    def _stop_sharing(self, problem: object) -> None:
        self._shares = False
        warnings.warn(
            f"There is no shared memory for batches: {problem}. Worker processes send them through pipes, which is"
            " slower.",
            stacklevel=2,
        )

    def _from_worker(self, worker: _Worker, places: list[int], by_settings: bool) -> Batch:
        if worker.slot is None and self._free:  # there is one for each worker besides those that batches may keep
            worker.slot = self._free.pop()
        try:
            slot = worker.slot if self._shares else None
            kind, content = worker.ask(next(self._numbers), places, by_settings, slot)
        except (EOFError, OSError) as error:
            worker.process.join(1)  # sets its exit code
            self.check()
            raise WorkerProcessError(_describe(worker.process)) from error
        if kind == "error":
            raise content
        if kind == "layout":
            return self._in_shared_memory(worker, content)
        samples, problem = content
        if problem is not None and self._shares:
            self._stop_sharing(problem)
        return make_batch(samples, self.stream)

    def _in_shared_memory(self, worker: _Worker, layout: Layout) -> Batch:
        """The batch in the worker's slot, which it then owns; or a copy, if enough batches are kept already."""
        memory = self._memory.buffer(worker.slot, _bytes_of(layout))
        batch = _arrays(memory, layout)
        try:
            self._may_keep.pop()
        except IndexError:
            return {name: array.copy() for name, array in batch.items()}
        slot, worker.slot = worker.slot, None
        # `memory` lives as long as any array in it. Appending to a deque is safe at any point of the program.
        weakref.finalize(memory, _release, self._free, self._may_keep, slot).atexit = False
        return batch


def _release(free: collections.deque, may_keep: collections.deque, slot: int) -> None:
    free.append(slot)
    may_keep.append(None)


def _end(workers: list[_Worker]) -> None:
    """Kills the workers. They only read files, so nothing is lost."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def _describe(process) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        solution = "If memory ran out, use fewer workers, a smaller batch or smaller images."
    else:
        how = f"ended unexpectedly (exit code {code}); its own message is above"
        solution = (
            'If it mentions bootstrapping, put the training under `if __name__ == "__main__":`. If a class can\'t be'
            " found, define it in a module."
        )
    return f"Worker process {process.pid} {how}. {solution} use_multiprocessing=False uses threads instead."


def _pickled(stream: SampleStream) -> bytes:
    module = type(stream.dataset).__module__
    if module == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(
            f"Other processes can't import {type(stream.dataset).__name__}, because it is defined in a notebook or"
            " shell. Move it to a .py file, or use threads: use_multiprocessing=False."
        )
    try:
        return pickle.dumps(stream)
    except Exception as error:
        raise ValueError(
            f"use_multiprocessing=True needs dataset, config and augmentation to be picklable: {error}. Define"
            " classes and functions at the top level of a module, or use threads: use_multiprocessing=False."
        ) from error


class _Worker:
    """A process, seen from the training process.

    It is started without forking, because a fork of a program that runs TensorFlow can hang.
    """

    def __init__(self, content: bytes, memory: SharedSlots | None):
        context = multiprocessing.get_context("spawn")
        self.slot: int | None = None  # where its next batch goes
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, content, memory is not None), name="mrcnn worker")
        with _blocked_signals():
            self.process.start()
        other.close()
        if memory is not None:
            with contextlib.suppress(OSError):  # it has ended already, as the first request will report
                memory.send(self.connection)

    def ask(self, number: int, places: list[int], by_settings: bool, slot: int | None) -> tuple[str, Any]:
        """The worker's answer: its kind and content."""
        self.connection.send((number, places, by_settings, slot))
        while True:
            answered, kind, content = self.connection.recv()
            if answered == number:  # otherwise Ctrl-C has interrupted the request before
                return kind, content


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Blocks stop signals while a process starts; `_work` then ignores them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- In the worker ---------------------------------------------------------------------------------------------------
def _work(connection: Connection, content: bytes, shared: bool) -> None:
    """The program of a worker. It ends when the training process has closed its end of the connection, or has ended."""
    for number in STOP_SIGNALS:  # sent to all processes of a group; only the training process reacts
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    cv2.setNumThreads(1)  # one thread per process
    memory = SharedSlots.receive(connection) if shared else None
    stream = pickle.loads(content)
    try:
        while True:
            number, places, by_settings, slot = connection.recv()
            connection.send((number, *_answer(stream, places, by_settings, memory, slot)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _answer(
    stream: SampleStream, places: list[int], by_settings: bool, memory: SharedSlots | None, slot: int | None
) -> tuple[str, Any]:
    """Kind and content of the answer to a request; without a slot, the samples themselves."""
    try:
        samples = [stream.sample(place, by_settings) for place in places]
        if slot is None:
            return "samples", (samples, None)
        layout = {}

        def allocate(wanted: Layout) -> Batch:
            layout.update(wanted)
            memory.reserve(slot, _bytes_of(wanted))
            batch = _arrays(memory.buffer(slot, _bytes_of(wanted)), wanted)
            for name in batch.keys() - {"input_image"}:  # which is overwritten in any case
                batch[name][...] = 0
            return batch

        try:
            make_batch(samples, stream, allocate)
        except OSError as error:  # no memory is left
            return "samples", (samples, str(error))
        return "layout", layout
    except Exception as error:
        return "error", _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error with the worker's traceback as a note; a RuntimeError with its text if it can't be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"In a worker process:\n{text}")
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(text)


# ---- Shared memory ---------------------------------------------------------------------------------------------------
class SharedSlots:
    """Memory that processes share: an anonymous file in which slot i begins at byte i * SLOT_BYTES."""

    def __init__(self, file: int):
        self.file = file
        self._reserved: dict[int, int] = {}  # bytes by slot
        self._maps: dict[int, mmap.mmap] = {}  # by slot; as large as the largest batch so far
        weakref.finalize(self, os.close, file)

    @classmethod
    def create(cls) -> SharedSlots:
        """Raises OSError if the system does not allow it."""
        return cls(os.memfd_create("mrcnn batches"))

    def send(self, connection: Connection) -> None:
        """Sends the file to the process at the other end of a connection, which calls `receive` next."""
        with socket.socket(fileno=os.dup(connection.fileno())) as channel:
            socket.send_fds(channel, [b"\0"], [self.file])

    @classmethod
    def receive(cls, connection: Connection) -> SharedSlots:
        """The file sent by `send`."""
        with socket.socket(fileno=os.dup(connection.fileno())) as channel:
            _, files, _, _ = socket.recv_fds(channel, 1, 1)
        return cls(files[0])

    def reserve(self, slot: int, size: int) -> None:
        """Takes memory for the first `size` bytes of a slot.

        Raises:
            OSError: not enough is left. (Without this check, writing would kill the process.)
        """
        if size > self._reserved.get(slot, 0):
            os.posix_fallocate(self.file, slot * SLOT_BYTES, size)
            self._reserved[slot] = size

    def buffer(self, slot: int, size: int) -> ctypes.Array:
        """The first `size` bytes of a slot. They stay mapped while the result or an array of it lives."""
        known = self._maps.get(slot)
        if known is None or len(known) < size:
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            known = self._maps[slot] = mmap.mmap(self.file, size, flags=flags, offset=slot * SLOT_BYTES)
        return (ctypes.c_char * size).from_buffer(known)


def _bytes_of(layout: Layout) -> int:
    return sum(_padded(shape, dtype) for shape, dtype in layout.values())


def _padded(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _arrays(memory: ctypes.Array, layout: Layout) -> Batch:
    """The arrays of a batch, stored one after the other in `memory`."""
    arrays, start = {}, 0
    for name, (shape, dtype) in layout.items():
        arrays[name] = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        start += _padded(shape, dtype)
    return arrays
