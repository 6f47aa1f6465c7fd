"""DICOMweb over the image store: STOW-RS, QIDO-RS and WADO-RS (PS3.18, 10.4 to 10.6)."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from auscult.imaging.header import InstanceHeader
from auscult.imaging.spool import Spool
from auscult.imaging.store import PROCESSING_FAILURE, ImageStore
from auscult.listen import wado
from auscult.listen.archive import Archive, Level, metadata, tag, uids_of
from auscult.listen.multipart import boundary, parts
from auscult.listen.reception import Reception, Taken, as_file
from auscult.platform.errors import AuscultError, Refused
from auscult.platform.settings import Settings

ROOT = "/dicom-web"
JSON = "application/dicom+json"
MOST_REFUSED = 1000
"""Parts of one request that are refused; then no more of it is read: each leaves an outcome for the operator."""
MOST_FOUND = 5000
"""Matches of one answer to a search."""
PIECE_SECONDS = 60.0
"""Of silence in the middle of a request."""
MOST_INCLUDED = 64
"""Attributes that a search may ask for beyond the usual ones."""

_JSON_KINDS = {JSON, "application/json", wado.ANY, "application/*"}
_NOT_FUZZY = '"The fuzzymatching parameter is not supported. Only literal matching has been performed."'
"""As PS3.18, 8.3.4.2 has it."""
_UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID"}


class Dicomweb:
    """The application. `receive`: makes what takes the instances of one request.

    `stable_study`: called when Orthanc says that a study became stable; None where no Orthanc is followed.
    """

    def __init__(
        self,
        settings: Settings,
        store: ImageStore,
        receive: Callable[[], Reception],
        stable_study: Callable[[], None] | None = None,
    ) -> None:
        self._stable_study = stable_study
        self._settings, self._store, self._receive = settings, store, receive
        self._archive = Archive(store, settings.tenant)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Tell no longer what the bus did not take."""
        self._stopping.set()

    def app(self) -> Starlette:
        """Return it for a server."""
        study, series = "/studies/{study}", "/studies/{study}/series/{series}"
        instance = f"{series}/instances/{{instance}}"
        routes = [Route(f"{ROOT}{path}", self._store_instances, methods=["POST"]) for path in ("/studies", study)]
        levels: dict[Level, tuple[str, ...]] = {
            "STUDY": ("/studies",),
            "SERIES": ("/series", f"{study}/series"),
            "IMAGE": ("/instances", f"{study}/instances", f"{series}/instances"),
        }
        for level, paths in levels.items():
            routes += [Route(f"{ROOT}{path}", self._search(level), methods=["GET"]) for path in paths]
        for path in (study, series, instance):
            routes.append(Route(f"{ROOT}{path}/metadata", self._metadata, methods=["GET"]))
            routes.append(Route(f"{ROOT}{path}", self._retrieve, methods=["GET"]))
        routes.append(Route(f"{ROOT}{instance}/frames/{{frames}}", self._frames, methods=["GET"]))
        routes.append(Route(f"{ROOT}{instance}/bulkdata/{{tag}}", self._bulk_data, methods=["GET"]))
        if self._stable_study is not None:
            routes.append(Route("/orthanc/stable-study", self._on_stable_study, methods=["POST"]))
        return Starlette(routes=routes, middleware=[Middleware(_Bearer, token=self._settings.dicomweb_token)])

    async def _on_stable_study(self, _: Request) -> Response:
        """Wake the follower. What the request says is not read: the change feed has it."""
        if self._stable_study is not None:
            self._stable_study()
        return Response(status_code=202)

    async def _store_instances(self, request: Request) -> Response:
        """STOW-RS: take each instance for itself (PS3.18, 10.5)."""
        wanted = request.path_params.get("study", "")
        reception = self._receive()
        taken: list[Taken] = []
        refusals = 0
        spool = Spool(self._store, self._settings.max_object_bytes)
        try:
            async for piece in parts(_steadily(request), boundary(request.headers.get("content-type", ""))):
                if piece is not None:
                    spool.write(piece)
                    continue
                taken.append(await run_in_threadpool(reception.take, as_file(spool), study_uid=wanted))
                spool = Spool(self._store, self._settings.max_object_bytes)
                refusals += taken[-1].problem is not None
                if refusals >= MOST_REFUSED:
                    taken.append(Taken(None, _too_many(), PROCESSING_FAILURE))
                    break
        except Refused as refused:
            if not taken:
                return _said(refused.status, refused)
            # What came before is stored; that not all was taken must be seen from the status.
            taken.append(Taken(None, refused, PROCESSING_FAILURE))
        finally:
            spool.close()
            await run_in_threadpool(reception.end, aborted=False)
            threading.Thread(target=reception.tell_the_rest, args=(self._stopping,), daemon=True).start()
        return self._answer(request, taken)

    def _answer(self, request: Request, taken: Sequence[Taken]) -> Response:
        """Return the Store Instances Response (PS3.18, 10.5.3 and I.2)."""
        stored = [each.header for each in taken if each.problem is None and each.header is not None]
        failed = [each for each in taken if each.problem is not None]
        body: dict[str, Any] = {}
        if stored:
            body[tag("ReferencedSOPSequence")] = {
                "vr": "SQ",
                "Value": [self._reference(request, each) for each in stored],
            }
        if failed:
            body[tag("FailedSOPSequence")] = {"vr": "SQ", "Value": [_failure(each) for each in failed]}
        if not body:
            return _said(400, Refused("no-instances", "the request has no parts", status=400))
        status = 200 if not failed else 202 if stored else 409
        return Response(json.dumps(body), status, media_type=JSON)

    def _reference(self, request: Request, header: InstanceHeader) -> dict[str, Any]:
        url = self._place(request, header.study_uid, header.series_uid, header.sop_instance_uid)
        return _named(header) | {tag("RetrieveURL"): {"vr": "UR", "Value": [url]}}

    def _search(self, level: Level) -> Callable[[Request], Any]:
        async def search(request: Request) -> Response:
            """QIDO-RS (PS3.18, 10.6)."""
            query = {key: text for key, text in request.query_params.items() if tag(key)}
            query |= {_UIDS[key]: uid for key, uid in request.path_params.items()}
            try:
                offset, limit = (
                    max(0, int(request.query_params.get(key, most)))
                    for key, most in (("offset", 0), ("limit", MOST_FOUND))
                )
            except ValueError:
                return _said(400, Refused("bad-query", "offset and limit are numbers", status=400))
            if not any(each.kind in _JSON_KINDS for each in wado.accepted(_accept(request))):
                return _said(406, wado.not_acceptable(f"accept {JSON}"))
            extra = _included(request)
            found = await run_in_threadpool(lambda: list(self._archive.find(level, query)))
            page = found[offset : offset + min(limit, MOST_FOUND)]
            if extra:
                page = await run_in_threadpool(lambda: [self._archive.with_more(each, extra) for each in page])
            answer = Response(json.dumps(page), media_type=JSON)
            left = len(found) - offset - len(page)
            if left > 0:
                answer.headers.append(
                    "Warning", f'299 {ROOT}: "There are {left} additional results that can be requested"'
                )
            if request.query_params.get("fuzzymatching", "").lower() == "true":
                answer.headers.append("Warning", f"299 {ROOT}: {_NOT_FUZZY}")
            return answer

        return search

    def _files(self, request: Request) -> list[Path]:
        try:
            return self._archive.files(*(request.path_params.get(key, "") for key in ("study", "series", "instance")))
        except Refused:
            return []

    async def _metadata(self, request: Request) -> Response:
        """WADO-RS metadata (PS3.18, 10.4.1.1.2)."""
        files = await run_in_threadpool(self._files, request)
        if not files:
            return Response(status_code=404)
        try:
            found = await run_in_threadpool(
                lambda: [metadata(file, self._place(request, *uids_of(file))) for file in files]
            )
        except Refused as refused:
            return _said(500, refused)
        return Response(json.dumps(found), media_type=JSON)

    async def _retrieve(self, request: Request) -> Response:
        """WADO-RS of whole instances (PS3.18, 10.4.1.1.1)."""
        files = await run_in_threadpool(self._files, request)
        if not files:
            return Response(status_code=404)
        try:
            multipart, each = await run_in_threadpool(wado.instances, files, _accept(request))
        except Refused as refused:
            return _said(refused.status, refused)
        return await _streamed(each, wado.DICOM, multipart=multipart)

    async def _frames(self, request: Request) -> Response:
        """WADO-RS of frames (PS3.18, 10.4.1.1.5)."""
        files = await run_in_threadpool(self._files, request)
        if not files:
            return Response(status_code=404)
        try:
            kind, multipart, each = await run_in_threadpool(
                wado.frames, files[0], request.path_params["frames"], _accept(request)
            )
        except Refused as refused:
            return _said(refused.status if refused.status < 600 else 500, refused)
        return await _streamed(each, kind, multipart=multipart)

    async def _bulk_data(self, request: Request) -> Response:
        """WADO-RS of a value that metadata refer to (PS3.18, 10.4.1.1.3)."""
        files = await run_in_threadpool(self._files, request)
        if not files:
            return Response(status_code=404)
        try:
            multipart, data = await run_in_threadpool(
                wado.bulk_data, files[0], request.path_params["tag"], _accept(request)
            )
        except Refused as refused:
            return _said(refused.status if refused.status < 600 else 500, refused)
        return await _streamed([iter([data])], wado.OCTETS, multipart=multipart)

    def _place(self, request: Request, study: str, series: str, instance: str) -> str:
        base = str(request.base_url).rstrip("/")
        return f"{base}{ROOT}/studies/{study}/series/{series}/instances/{instance}"


class _Bearer:
    """Asks for the token, where there is one (RFC 6750)."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if self._wanted and scope["type"] == "http" and not hmac.compare_digest(given, self._wanted):
            await Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _named(header: InstanceHeader) -> dict[str, Any]:
    return {
        tag("ReferencedSOPClassUID"): {"vr": "UI", "Value": [header.sop_class_uid]},
        tag("ReferencedSOPInstanceUID"): {"vr": "UI", "Value": [header.sop_instance_uid]},
    }


def _failure(taken: Taken) -> dict[str, Any]:
    return (_named(taken.header) if taken.header else {}) | {
        tag("FailureReason"): {"vr": "US", "Value": [taken.status]}
    }


def _too_many() -> Refused:
    return Refused("too-many-refused", "the rest of the request was not read; correct what was refused", status=400)


def _said(status: int, refused: Refused) -> JSONResponse:
    return JSONResponse({"reason": refused.reason, "message": str(refused.args[0])}, status)


async def _steadily(request: Request) -> AsyncIterator[bytes]:
    """Yield a body's pieces. Refused (`too-slow`) where none comes for a while: connections are few."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(PIECE_SECONDS):
                piece = await anext(stream, None)
        except TimeoutError:
            raise Refused("too-slow", f"nothing came for {PIECE_SECONDS:.0f} s; send it again", status=408) from None
        if piece is None:
            return
        yield piece


def _included(request: Request) -> list[str]:
    """Return the keywords or tags beyond the usual attributes that a search wants (PS3.18, 8.3.4.3)."""
    asked = [each for given in request.query_params.getlist("includefield") for each in given.split(",")]
    return [each for each in dict.fromkeys(asked) if tag(each)][:MOST_INCLUDED]


def _accept(request: Request) -> str:
    """Return what the client accepts; a query parameter stands for a header that it cannot set (PS3.18, 8.3.3.1)."""
    return request.query_params.get("accept") or request.headers.get("accept", "")


async def _streamed(each: Sequence[Iterator[bytes]], kind: str, *, multipart: bool) -> Response:
    """Send what is asked for, one after the other; what one thing alone cannot be made of is said first."""
    if len(each) == 1:
        try:
            first = await run_in_threadpool(next, each[0], b"")
        except AuscultError as problem:
            return _said(406, Refused(problem.reason, str(problem.args[0]), status=406))
        each = [chain([first], each[0])]
    if not multipart:
        return StreamingResponse(each[0], media_type=kind)
    mark = uuid.uuid4().hex
    media_type = f'multipart/related; type="{kind.partition(";")[0]}"; boundary={mark}'
    return StreamingResponse(_multipart(each, kind, mark), media_type=media_type)


def _multipart(each: Sequence[Iterator[bytes]], kind: str, mark: str) -> Iterator[bytes]:
    for pieces in each:
        yield f"--{mark}\r\nContent-Type: {kind}\r\n\r\n".encode()
        yield from pieces
        yield b"\r\n"
    yield f"--{mark}--\r\n".encode()
