"""Where calls are answered: in gRPC's own thread what takes no time, the rest in the pool's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from auscult.inference import calls
from auscult.inference.calls import SMALL, Calls, Later, hurried
from auscult.inference.repository import Repository


def where(message: bytes, call: Any) -> bytes:
    """Answer with the name of the thread; `long` cannot be answered at once, `wrong` not at all."""
    if message == b"long" and hurried():
        raise Later
    if message == b"wrong":
        call.abort(grpc.StatusCode.NOT_FOUND, "it is wrong")
    if message == b"defect":
        raise RuntimeError("a defect")
    return threading.current_thread().name.encode()


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """Return a channel to a server of the above."""
    pool = Calls(2, thread_name_prefix="pool")
    vars(where)["experimental_thread_pool"] = pool
    with ThreadPoolExecutor(1, thread_name_prefix="other") as other:
        server = grpc.server(other)
        handler = grpc.unary_unary_rpc_method_handler(where)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Where": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        server.stop(None).wait()
        pool.shutdown()


@pytest.fixture
def ask(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """Return what asks that server."""
    return channel.unary_unary("/t.T/Where")


@pytest.mark.parametrize(("message", "pooled"), [(b"quick", False), (b"long", True), (b"x" * (SMALL + 1), True)])
def test_thread_is_chosen_by_what_a_call_takes(ask: Any, message: bytes, pooled: bool) -> None:
    """No thread of a pool is waited for by a small call, and gRPC's is kept free of others."""
    name = ask(message, timeout=30)
    assert name.startswith(b"pool") == pooled
    assert not name.startswith(b"other")


def test_errors_are_told_from_either_thread(ask: Any) -> None:
    """A status and a defect reach the caller, and the next call is answered."""
    for message, code in ((b"wrong", grpc.StatusCode.NOT_FOUND), (b"defect", grpc.StatusCode.UNKNOWN)):
        with pytest.raises(grpc.RpcError) as failure:
            ask(message, timeout=30)
        assert failure.value.code() == code
    assert ask(b"quick", timeout=30)


def test_call_without_a_message_is_refused(channel: grpc.Channel) -> None:
    """A caller that closes before it sends a message is told so."""
    nothing = channel.stream_unary("/t.T/Where")
    with pytest.raises(grpc.RpcError) as failure:
        nothing(iter(()), timeout=30)
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "missing", ["_receive_message", "_CLOSED", "_abort", "_RECEIVE_MESSAGE_TOKEN", "_unary_response_in_pool"]
)
def test_other_insides_of_grpc_make_it_a_plain_pool(ask: Any, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Where a version of gRPC lacks a name that this leans on, calls are answered, in the pool's threads."""
    other = {name: value for name, value in vars(calls.grpc_server).items() if name != missing}
    monkeypatch.setattr(calls, "grpc_server", SimpleNamespace(**other))
    assert ask(b"quick", timeout=30).startswith(b"pool")


def test_other_work_goes_to_the_threads() -> None:
    """Called in any other way than gRPC's server does, it is a plain pool."""
    with Calls(1) as pool:
        assert pool.submit(lambda *given: sum(given), *range(7)).result() == 21


def test_only_graphs_without_loops_are_quick(repository: Repository) -> None:
    """Values may not decide how long gRPC's thread is kept."""
    assert repository.models["pick"].bounded
    assert not repository.models["endless"].bounded
