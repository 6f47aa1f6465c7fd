"""Query and retrieve SCP (PS3.4, Annex C) over the image store: C-FIND, C-MOVE and C-GET."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context

from auscult.imaging import part10
from auscult.imaging.sandbox import sandbox
from auscult.listen import identifier
from auscult.listen.archive import LEVELS, Archive, Level, dataset, tag, value
from auscult.listen.reception import COMMENT_LENGTH
from auscult.platform.errors import AuscultError, Refused

FIND = (UID("1.2.840.10008.5.1.4.1.2.1.1"), UID("1.2.840.10008.5.1.4.1.2.2.1"))
"""Patient Root and Study Root, FIND (PS3.4, C.6)."""
MOVE = (UID("1.2.840.10008.5.1.4.1.2.1.2"), UID("1.2.840.10008.5.1.4.1.2.2.2"))
GET = (UID("1.2.840.10008.5.1.4.1.2.1.3"), UID("1.2.840.10008.5.1.4.1.2.2.3"))
PENDING, CANCEL = 0xFF00, 0xFE00
IDENTIFIER_DOES_NOT_MATCH = 0xA900
MOST_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8, 9.3.2.2)."""
_UNIQUE = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_NO_KEYS = {"", "QueryRetrieveLevel", "SpecificCharacterSet"}

_log = logging.getLogger(__name__)


class QueryRetrieve:
    """Handles one association's queries. `destinations`: AE title to `HOST:PORT`, for C-MOVE."""

    def __init__(self, archive: Archive, destinations: Mapping[str, str]) -> None:
        self._archive, self._destinations = archive, destinations

    def bind(self, association: Association) -> None:
        """Bind the handlers."""
        association.bind(evt.EVT_C_FIND, lambda event: _guarded(self._on_find(event)))
        association.bind(evt.EVT_C_MOVE, lambda event: _guarded(self._on_move(event)))
        association.bind(evt.EVT_C_GET, lambda event: _guarded(self._on_get(event)))

    def _on_find(self, event: Event) -> Iterator[tuple[int | Dataset, Dataset | None]]:
        try:
            query = _query(event)
        except Refused as problem:
            _log.warning("a query was refused: %s", problem)
            status = Dataset()
            status.Status, status.ErrorComment = problem.status, str(problem)[:COMMENT_LENGTH]
            yield status, None
            return
        level = _level(query)
        if level is None:
            yield IDENTIFIER_DOES_NOT_MATCH, None
            return
        for found in self._archive.find(level, _keys(query)):
            if event.is_cancelled:
                yield CANCEL, None
                return
            yield PENDING, _answer(query, found, level)

    def _on_move(self, event: Event) -> Iterator[Any]:
        place = self._destinations.get(str(event.move_destination or "").strip(), "")
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal():
            _log.warning("a C-MOVE names a destination that AUSCULT_DICOM_DESTINATIONS does not have")
            yield None, None
            return
        files = self._wanted(_query(event))
        yield host.strip("[]"), int(port), {"contexts": _contexts(files)}
        yield from _sent(event, files)

    def _on_get(self, event: Event) -> Iterator[Any]:
        taken = {
            (str(each.abstract_syntax), str(each.transfer_syntax[0]))
            for each in event.assoc.accepted_contexts
            if each.as_scu and each.abstract_syntax
        }
        yield from _sent(event, self._wanted(_query(event)), lambda file: _as_taken(file, taken))

    def _wanted(self, query: Dataset) -> list[Path]:
        """Return the files that a retrieve request names by UIDs or by a patient (PS3.4, C.4.2.1.4); else none."""
        keys = _keys(query)
        unique = {key: keys[key] for key in _UNIQUE if keys.get(key)}
        found = self._archive.find("IMAGE", unique) if unique else ()
        places = [[value(each, key) for key in _UNIQUE[1:]] for each in found]
        return [file for place in places for file in self._archive.files(*place)]


def preferred(association: Association) -> None:
    """Let a peer that retrieves by C-GET choose how it takes instances: in the order of its own transfer syntaxes."""
    asked = getattr(association.requestor.primitive, "presentation_context_definition_list", [])
    wanted: dict[str, list[UID]] = {}
    for each in asked:
        wanted.setdefault(str(each.abstract_syntax), []).extend(each.transfer_syntax)
    if wanted.keys().isdisjoint(GET):
        return
    offered = []
    for own in association.acceptor.supported_contexts:
        if own.abstract_syntax in wanted:
            order = [each for each in wanted[own.abstract_syntax] if each in own.transfer_syntax]
            context = build_context(own.abstract_syntax, [*dict.fromkeys(order or own.transfer_syntax)])
            context.scu_role, context.scp_role = own.scu_role, own.scp_role
            offered.append(context)
    association.acceptor.supported_contexts = offered


def _query(event: Event) -> Dataset:
    """Return the request's identifier. Refused as by `identifier.query`."""
    return identifier.query(getattr(event.request, "Identifier", None), event.context.transfer_syntax)


def _guarded(answers: Iterator[Any]) -> Iterator[Any]:
    """Log what goes wrong without its text, which pynetdicom would write and which may quote a patient."""
    try:
        yield from answers
    except Refused as problem:
        _log.warning("a query was refused: %s", problem)
        raise
    except RecursionError:
        _log.warning("a query was refused: it has deeper sequences than any known one")
        raise
    except Exception as bug:
        _log.error("a query could not be answered: unexpected %s; report it", type(bug).__name__)
        raise


def _contexts(files: Sequence[Path]) -> list[PresentationContext]:
    """Return a presentation context for each SOP class and transfer syntax, as many as an association may have."""
    kinds = {
        (framed.text("MediaStorageSOPClassUID"), framed.transfer_syntax) for framed in map(part10.framing, files)
    }
    return [build_context(*kind) for kind in sorted(kinds)][:MOST_CONTEXTS]


def _sent(event: Event, files: Sequence[Path], read: Callable[[Path], Dataset] = dcmread) -> Iterator[Any]:
    yield len(files)
    for file in files:
        if event.is_cancelled:
            yield CANCEL, None
            return
        yield PENDING, read(file)


def _as_taken(file: Path, taken: AbstractSet[tuple[str, str]]) -> Dataset:
    """Return an instance as it is stored; uncompressed where its peer takes its class in no other form."""
    framed = part10.framing(file)
    sop_class, syntax = framed.text("MediaStorageSOPClassUID"), framed.transfer_syntax
    plain = any((sop_class, each) in taken for each in (ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    if syntax.is_compressed and (sop_class, syntax) not in taken and plain:
        try:
            return dcmread(BytesIO(sandbox().call("explicit", file, answer=bytes)))
        except AuscultError as problem:
            _log.warning("an instance cannot be given uncompressed: %s", problem)
    return dcmread(file)


def _level(query: Dataset) -> Level | None:
    told = str(query.get("QueryRetrieveLevel", "")).strip()
    return next((level for level in LEVELS if level == told), "STUDY" if told == "PATIENT" else None)


def _keys(query: Dataset) -> dict[str, str]:
    """Return the query's values by keyword, sequences left out."""
    found = {}
    for element in query:
        if (
            element.keyword
            and element.VR != "SQ"
            and element.keyword not in {"QueryRetrieveLevel", "SpecificCharacterSet"}
        ):
            values = element.value if element.VM > 1 else [element.value]
            found[element.keyword] = "\\".join("" if each is None else str(each) for each in values)
    return found


def _answer(query: Dataset, found: dict[str, Any], level: Level) -> Dataset:
    """Return what was asked for, as far as it is known; all text in UTF-8."""
    asked = {tag(element.keyword) for element in query if element.keyword}
    answer = dataset({key: each for key, each in found.items() if key in asked})
    for element in query:
        if element.tag not in answer and element.VR != "SQ":
            answer.add_new(element.tag, element.VR, None)
    answer.SpecificCharacterSet = "ISO_IR 192"
    answer.QueryRetrieveLevel = level
    return answer
