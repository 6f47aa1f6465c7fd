"""Untrusted files are parsed in children that can be killed: a crash, a bomb or a loop costs a child, nothing else.

A child has `MEMORY` bytes of address space and `SECONDS` for one task, may write no file and dump no core. It lives
on from task to task. What it answers is decoded by type (msgspec), never unpickled: a child may be its file's.
"""

from __future__ import annotations

import atexit
import os
import queue
import socket
import struct
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from auscult.imaging.part10 import CANNOT_UNDERSTAND
from auscult.platform.errors import AuscultError, DeadLetter, Refused

MEMORY = 512 * 2**20
"""Bytes of address space of one child, its libraries' 200 MB included."""
SECONDS = 30.0
"""From a task's start to its end, waiting for an idle child left out."""
STARTING = 60.0
"""Seconds for a child to start, which is no object's fault."""
IDLE = "idle"
"""The task that does nothing."""
LARGEST_ANSWER = 400 * 2**20
"""Bytes; a child has not more to say than it may hold."""
HEADER = struct.Struct(">Q")
"""A message's length, before it."""

T = TypeVar("T")


class Request(msgspec.Struct, array_like=True):
    """One task: its name in `sandbox_child.TASKS`, and its arguments."""

    task: str
    arguments: list[Any]


class Answer(msgspec.Struct, array_like=True):
    """What became of it. `problem`: empty, `refused`, `dead-letter`, `memory` or an exception's type."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    problem: str = ""
    reason: str = ""
    message: str = ""
    status: int = CANNOT_UNDERSTAND


class Sandbox:
    """Up to `size` children, each started when it is first needed. Safe for several threads."""

    def __init__(
        self,
        size: int,
        *,
        memory: int = MEMORY,
        seconds: float = SECONDS,
        program: str = "auscult.imaging.sandbox_child",
    ) -> None:
        self._memory, self._seconds, self._program = memory, seconds, program
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        self._size = size
        for _ in range(size):
            self._idle.put(None)

    def call(self, task: str, *arguments: Any, answer: type[T]) -> T:
        """Run one task of `sandbox_child` and return its value.

        What the task raised is raised again (Refused, DeadLetter). Refused, too: `parser-memory`, `parser-timeout`,
        `parser-crashed`, and `undecodable-attribute` where the parser raised what it does not document.
        """
        request = msgspec.msgpack.encode(
            Request(task, [os.fspath(a) if isinstance(a, Path) else a for a in arguments])
        )
        child = self._idle.get()
        try:
            if child is None or not child.alive:
                child = _Child(self._program, self._memory)
            reply = child.ask(request, self._seconds)
        except BaseException:
            if child is not None:
                child.kill()
            child = None
            raise
        finally:
            self._idle.put(child)
        if reply.problem:
            raise _problem(reply)
        return msgspec.msgpack.decode(reply.value, type=answer)

    def warm(self) -> None:
        """Start one child now, so that the first object that needs one does not wait for its imports."""
        self.call(IDLE, answer=type(None))

    def close(self) -> None:
        """End the children, once each is idle; the next call would start new ones."""
        for child in [self._idle.get() for _ in range(self._size)]:
            if child is not None:
                child.kill()
            self._idle.put(None)


class _Child:
    def __init__(self, program: str, memory: int) -> None:
        self._line, theirs = socket.socketpair()
        # One thread per child: each of a BLAS's threads would take address space.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", program, str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        self.ask(msgspec.msgpack.encode(Request(IDLE, [])), STARTING)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes, seconds: float) -> Answer:
        end = time.monotonic() + seconds
        try:
            self._line.settimeout(seconds)
            self._line.sendall(HEADER.pack(len(request)))
            self._line.sendall(request)
            (length,) = HEADER.unpack(self._read(HEADER.size, end))
            if length > LARGEST_ANSWER:
                raise _refused("parser-crashed", "the parser's answer is longer than it may be")
            return msgspec.msgpack.decode(self._read(length, end), type=Answer)
        except TimeoutError:
            message = f"the object took more than {seconds:.0f} s to parse; check the file with dciodvfy"
            raise _refused("parser-timeout", message) from None
        except (OSError, EOFError, msgspec.MsgspecError):
            raise _refused("parser-crashed", "the object ended the parser; check the file with dciodvfy") from None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._line.close()

    def _read(self, size: int, end: float) -> bytearray:
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            self._line.settimeout(max(0.001, end - time.monotonic()))
            count = self._line.recv_into(view[filled:])
            if not count:
                raise EOFError
            filled += count
        return data


def _problem(told: Answer) -> AuscultError:
    if told.problem == "dead-letter":
        return DeadLetter(told.reason, told.message)
    if told.problem == "refused":
        return Refused(told.reason, told.message, status=told.status)
    if told.problem == "memory":
        return _refused(
            "parser-memory", "the object needs more memory to parse than any known object; send the original"
        )
    return _refused(
        "undecodable-attribute", f"an attribute cannot be decoded ({told.problem}); check the file with dciodvfy"
    )


def _refused(reason: str, message: str) -> Refused:
    return Refused(reason, message, status=CANNOT_UNDERSTAND)


@cache
def sandbox() -> Sandbox:
    """Return this process's children: one for each core, at least two, so that one bomb does not hold up all."""
    shared = Sandbox(max(2, min(4, os.cpu_count() or 2)))
    atexit.register(shared.close)
    return shared
