"""What runs in a process of its own: the barest server of each protocol, and the far end of the bus."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from pynetdicom import AE, evt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.factory import open_bus
from auscult.bus.topics import FINDINGS, Topic
from auscult.inference.protocol import MESSAGE_OPTIONS
from auscult.listen.fhir_subscription import Desk, Secrets, create_app
from auscult.listen.http_server import HttpServer
from auscult.listen.marks import Marks
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.platform import telemetry
from auscult.platform.settings import Settings
from benchmarks.cards_of_many import some_result

THERE, BACK = Topic("benchmark.there"), Topic("benchmark.back")
WATCH = Watch("Observation?code=2160-0")
SHOWN = "a-secret-of-the-record"
"""What the FHIR server shows to who listens to its notifications."""
ECHO = "/bare.Echo/Echo"
"""The bare gRPC server's method."""

_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def elsewhere(serve: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run `serve(line, *arguments)` in another process and give the other end of `line`; end it with the block."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        process.close()
        ours.close()


def event() -> CloudEvent:
    """Return what a stored instance is announced with."""
    stored = events.InstanceStored("default", "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.2", "2.25.3", "a1")
    return CloudEvent.of(events.INSTANCE_STORED, "/default/listen", stored, traceparent=f"00-{1:032x}-{1:016x}-01")


def bus_echo(line: Connection, url: str) -> None:
    """Send an event back for each that comes, as a worker does: publish, then commit."""
    with closing(open_bus(url)) as bus, bus.subscribe(THERE, group="benchmark") as subscription:
        line.send("ready")
        while True:
            if delivery := subscription.poll(1):
                bus.publish(BACK, event(), key="study")
                subscription.commit(delivery)


def findings(line: Connection, url: str, core: int) -> None:
    """Publish a different result again and again on one core, until a word comes; tell how many a second.

    It gives way to the client on its core, whose delays would be taken for the server's.
    """
    os.sched_setaffinity(0, {core})
    os.nice(19)
    chance, count = random.Random(1), 0  # noqa: S311 - no secret
    with closing(open_bus(url)) as bus:
        line.send("ready")
        began = time.perf_counter()
        while not line.poll():
            event = CloudEvent.of(events.RESULT, "/default/pathways", some_result(count, chance))
            bus.publish(FINDINGS, event, key=f"study-{count}")
            count += 1
        line.send(count / (time.perf_counter() - began))
        line.recv()


def pipe_echo(line: Connection) -> None:
    """Send back what comes."""
    line.send("ready")
    while True:
        line.send_bytes(line.recv_bytes())


def grpc_bytes(line: Connection, size: int) -> None:
    """Answer each call with the same `size` bytes; tell the port."""
    answer = bytes(size)
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _call: answer)
    server = grpc.server(ThreadPoolExecutor(4), options=list(MESSAGE_OPTIONS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Echo", {"Echo": handler}),))
    line.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


def http_echo() -> Starlette:
    """Return an application that answers a POST with its own body and a GET with nothing."""

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])


def http_json(answer: dict[str, Any]) -> Starlette:
    """Return an application that reads the JSON of a POST and answers with `answer`."""

    async def post(request: Request) -> Response:
        await request.json()
        return JSONResponse(answer)

    return Starlette(routes=[Route("/{path:path}", post, methods=["POST"])])


def fhir_at_once(entries: int) -> Starlette:
    """Return a FHIR server that holds nothing and confirms each transaction, of `entries` entries, unread.

    What comes before it are searches, told by their length.
    """
    confirmed = {
        "resourceType": "Bundle",
        "type": "transaction-response",
        "entry": [{"response": {"status": "201"}}] * entries,
    }

    nothing = {"resource": {"resourceType": "Bundle", "type": "searchset"}, "response": {"status": "200"}}
    found = {"resourceType": "Bundle", "type": "batch-response", "entry": [nothing] * 2}

    async def root(request: Request) -> Response:
        return JSONResponse(found if len(await request.body()) < 1000 else confirmed)

    async def read(_: Request) -> Response:
        return JSONResponse({"resourceType": "OperationOutcome", "issue": []}, 404)

    return Starlette(routes=[Route("/fhir", root, methods=["POST"]), Route("/fhir/{place:path}", read)])


def http(line: Connection, app: Callable[..., Starlette], *arguments: Any) -> None:
    """Serve `app(*arguments)` by uvicorn as the hooks are served; tell the port."""
    # asyncio sets TCP_NODELAY only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    line.send(listener.getsockname()[1])
    config = uvicorn.Config(app(*arguments), lifespan="off", ws="none", log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def notified(line: Connection, home: str, url: str) -> None:
    """Serve the notifications' endpoint; tell the port, and at each word that comes the CPU seconds spent."""
    settings = Settings(home=Path(home), fhir_notify_port=0)
    telemetry.start("listen", settings)
    secret = Path(home) / "secret"
    secret.write_text(SHOWN)
    with closing(open_bus(url)) as bus, Marks(bus, "default") as marks:
        desk = Desk("default", bus, marks, Own(["http://x/fhir"]), {WATCH.name: WATCH}, Secrets(secret))
        line.send(HttpServer(settings, create_app(desk)).start())
        while True:
            line.recv()
            spent = resource.getrusage(resource.RUSAGE_SELF)
            line.send(spent.ru_utime + spent.ru_stime)


def dicom_scp(line: Connection, sop_class: str, syntax: str) -> None:
    """Answer each C-STORE with success and keep nothing: pynetdicom as it comes; tell the port."""
    ae = AE("BARE")
    ae.add_supported_context(sop_class, syntax)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0x0000)])
    line.send(server.server_address[1])
    threading.Event().wait()
