"""gRPC's threads for calls of one message; a call that is done in no time is answered where its message came in.

gRPC's server has one thread that tells of all that happens. It gives each call to a pool, where a thread asks for the
message, sleeps until the other one tells that it is there, and only then works. These changes of thread cost more
than a small model's whole request. Here the message is asked for at once, and what can be answered at once is
answered in gRPC's own thread; it says `Later` when it finds that it cannot, and then takes the usual way.

This leans on the insides of `grpc._server`, which the lock pins and tests/inference/test_calls.py watches: where they
lack a name or are called in any other way than expected, it is the plain pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from grpc import _server as grpc_server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

SMALL = 16 * 1024
"""Bytes of a message that may be answered in gRPC's thread; to read more would keep others waiting."""

_DONE: Future[None] = Future()
_DONE.set_result(None)

_here = threading.local()


class Later(BaseException):
    """The call cannot be answered at once. It passes by all that handles errors of a call."""


def hurried() -> bool:
    """Whether this thread is gRPC's own, in which nothing may wait; raise `Later` instead."""
    return getattr(_here, "hurried", False)


class Calls(ThreadPoolExecutor):
    """A pool for the behaviours of calls of one message each way."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Ask for the call's message, and answer the call when it is there."""
        try:
            respond, event, state, behavior, _, decode, encode = args
            call, due = event.call, state.due
            receive = grpc_server._receive_message(state, call, None)  # noqa: SLF001 - see above
            closed, abort = grpc_server._CLOSED, grpc_server._abort  # noqa: SLF001
            token, expected = grpc_server._RECEIVE_MESSAGE_TOKEN, grpc_server._unary_response_in_pool  # noqa: SLF001
            operations = (cygrpc.ReceiveMessageOperation(0),)
        except (AttributeError, TypeError, ValueError):
            expected = None
        if expected is None or respond is not expected:
            return super().submit(fn, *args, **kwargs)

        def answer(message: bytes) -> None:
            fn(respond, event, state, behavior, lambda: message, decode, encode)

        def received(came: Any) -> Any:
            ended = receive(came)
            message, state.request = state.request, None
            if message is None:
                if state.client is closed:
                    details = b"exactly one request message is required"
                    abort(state, call, cygrpc.StatusCode.unimplemented, details)
            elif len(message) > SMALL or not _at_once(answer, message):
                super(Calls, self).submit(answer, message)
            return ended

        call.start_server_batch(operations, received)
        due.add(token)
        return _DONE


def _at_once(answer: Callable[[bytes], None], message: bytes) -> bool:
    _here.hurried = True
    try:
        answer(message)
    except Later:
        return False
    finally:
        _here.hurried = False
    return True
