"""HL7 v2 messages: what is read of them, how they are answered, and where they are kept until they are handled.

Read by the `hl7` library; character sets by MSH-18 (table 0211); errors by table 0357. A message names people, so it
never travels on the bus: it is kept in a folder by its SHA-256, and the event refers to it (claim check).
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import hl7

from auscult.platform.errors import AuscultError, Refused, Retry

CHARSETS = {
    "": "utf-8",  # ASCII by the standard; what its senders send beyond that is mostly UTF-8
    "ASCII": "ascii",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "ISO IR6": "ascii",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "UNICODE UTF-8": "utf-8",
}
"""Python's codecs by HL7 table 0211. UTF-16 and UTF-32 cannot be framed by MLLP."""
KINDS = frozenset({"ADT^A01", "ADT^A03", "ADT^A04", "ADT^A08", "ADT^A40", "ORU^R01"})

MISSING, TYPE, WRONG_TYPE, EVENT, PROCESSING, CHARSET = "101", "102", "200", "201", "202", "102"
"""Conditions of table 0357: required field missing, data type error, unsupported message type, event code,
processing id; an unknown character set is a data type error of MSH-18."""
INTERNAL = "207"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class NotTaken(AuscultError):
    """The message is answered with AR, or AE where it may be sent again. `condition`: of table 0357."""

    def __init__(self, reason: str, message: str, *, condition: str, again: bool = False) -> None:
        super().__init__(reason, message)
        self.condition = condition
        self.again = again


@dataclass(frozen=True, slots=True)
class Header:
    """What MSH says, as far as an answer needs it."""

    application: str = ""
    facility: str = ""
    kind: str = ""
    """`ADT^A01`."""
    control: str = ""
    processing: str = ""
    version: str = ""
    accept: str = ""
    """MSH-15: when an accept acknowledgement is wanted; this and the next are empty in original mode."""
    reply: str = ""
    """MSH-16: when an application acknowledgement is wanted."""
    charset: str = ""


@dataclass(frozen=True, slots=True)
class PatientName:
    """One identifier of a patient: CX, its id and the assigning authority's names (namespace, universal id)."""

    value: str
    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What is read of a message. PHI: never logged, never on the bus."""

    header: Header
    identifiers: tuple[PatientName, ...]
    """PID-3."""
    prior: tuple[PatientName, ...]
    """MRG-1: what the patient was known by before a merge."""
    birth_date: date | None
    sex: str


def header_of(frame: bytes) -> Header:
    """Read MSH; NotTaken where there is none."""
    line = frame.lstrip(b"\r\n").partition(b"\r")[0].decode("latin-1")
    if not line.startswith("MSH") or len(line) < 8 or line[3].isalnum() or "\n" in line:
        raise NotTaken("hl7-no-header", "a message begins with an MSH segment, and CR ends segments", condition=TYPE)
    fields = [line[3], *line.split(line[3])[1:]]
    component = line[4]

    def at(number: int) -> str:
        return fields[number - 1].strip() if number <= len(fields) else ""

    kind = at(9).split(component)
    return Header(
        application=at(3),
        facility=at(4),
        kind="^".join(kind[:2]),
        control=at(10),
        processing=at(11).partition(component)[0],
        version=at(12).partition(component)[0],
        accept=at(15).upper(),
        reply=at(16).upper(),
        charset=at(18).partition(line[5])[0].strip().upper(),
    )


def read(frame: bytes) -> Message:
    """Read a message. NotTaken says what of it is not as HL7 v2 says."""
    header = header_of(frame)
    codec = CHARSETS.get(header.charset)
    if codec is None:
        raise NotTaken("hl7-charset", "the character set in MSH-18 is not read; use UNICODE UTF-8", condition=CHARSET)
    try:
        parsed: Any = hl7.parse(frame.lstrip(b"\r\n").decode(codec))
    except UnicodeDecodeError:
        raise NotTaken("hl7-charset", "the text is not in the character set of MSH-18", condition=CHARSET) from None
    except Exception:  # noqa: BLE001 - the library fails in any way on what is no message
        raise NotTaken("hl7-malformed", "the message is not HL7 v2 with vertical bars", condition=TYPE) from None
    pid = _segments(parsed, "PID")
    if len(pid) != 1:
        raise NotTaken("hl7-pid", "the message needs one PID segment", condition=MISSING)
    identifiers = _identifiers(parsed, pid[0], 3)
    merged = [_identifiers(parsed, segment, 1) for segment in _segments(parsed, "MRG")]
    if not identifiers or (header.kind == "ADT^A40" and (len(merged) != 1 or not merged[0])):
        raise NotTaken("hl7-no-patient", "PID-3, and MRG-1 of a merge, name the patient", condition=MISSING)
    born = _text(pid[0], 7)[:8]
    return Message(
        header, identifiers, merged[0] if merged else (), _date(born), _text(pid[0], 8).strip().upper()[:1]
    )


def _segments(parsed: Any, name: str) -> list[Any]:
    return [segment for segment in parsed if str(segment[0]) == name]


def _text(segment: Any, number: int) -> str:
    try:
        return str(segment[number])
    except (LookupError, TypeError):
        return ""


def _identifiers(parsed: Any, segment: Any, number: int) -> tuple[PatientName, ...]:
    component, repetition, subcomponent = str(parsed[0][2])[0], str(parsed[0][2])[1], str(parsed[0][2])[-1]
    found = []
    for text in _text(segment, number).split(repetition):
        parts = [part.strip() for part in text.split(component)]
        value = str(parsed.unescape(parts[0]))
        names = parts[3].split(subcomponent) if len(parts) > 3 else []
        if value and value != '""':
            found.append(PatientName(value, tuple(str(parsed.unescape(name)) for name in names[:2] if name)))
    return tuple(found)


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return None


def answers(header: Header, problem: NotTaken | None) -> list[bytes]:
    """Return the acknowledgements that the sender wants, without frames (HL7 v2.5.1, 2.9).

    Original mode: AA, AE or AR. Enhanced mode: CA, CE or CR as MSH-15 wants, then AA, AE or AR as MSH-16 does.
    """
    letter = "A" if problem is None else "E" if problem.again else "R"
    enhanced = bool(header.accept or header.reply)
    if not enhanced:
        return [_answer(header, f"A{letter}", problem)]
    wanted = {"AL": True, "NE": False, "SU": problem is None, "ER": problem is not None}
    codes = [
        f"{mode}{letter}"
        for mode, condition in (("C", header.accept), ("A", header.reply))
        if wanted.get(condition or "NE", True)
    ]
    return [_answer(header, code, problem) for code in codes]


def _answer(header: Header, code: str, problem: NotTaken | None) -> bytes:
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
    event = header.kind.partition("^")[2]
    version = header.version or "2.5.1"
    control = _clean(header.control)
    kind, processing = f"ACK^{_clean(event)}" if event else "ACK", _clean(header.processing) or "P"
    receiver = f"{_clean(header.application)}|{_clean(header.facility)}"
    lines = [
        f"MSH|^~\\&|AUSCULT||{receiver}|{now}||{kind}|{uuid.uuid4().hex[:20]}|{processing}|{_clean(version)}",
        f"MSA|{code}|{control}" + (f"|{_clean(str(problem.args[0]))}" if problem and version < "2.5" else ""),
    ]
    if problem:
        lines.append(f"ERR|||{problem.condition}^^HL70357|E||||{_clean(str(problem.args[0]))}")
    return "".join(f"{line}\r" for line in lines).encode("ascii", errors="replace")


def _clean(text: str) -> str:
    """Return a text that cannot become another field, segment or frame."""
    return re.sub(r"[\x00-\x1f\x7f|]", " ", text)[:199]


class MessageStore:
    """A folder of messages by their digest. PHI at rest: have it on an encrypted disk; what was handled goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, frame: bytes) -> str:
        """Keep a message, durably; return its name. Refused never; Retry where the disk does not take it."""
        name = hashlib.sha256(frame).hexdigest()
        path, draft = self._folder / name, self._folder / f".{name}.{uuid.uuid4().hex}"
        try:
            if path.exists():
                return name
            with draft.open("xb") as file:
                file.write(frame)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise Retry(
                "message-store-failed", f"a message could not be kept ({type(error).__name__}); check the disk"
            ) from None
        return name

    def get(self, name: str) -> bytes | None:
        """Return a message; None where it was handled. Refused where `name` is none of ours."""
        if not _DIGEST.fullmatch(name):
            raise Refused("message-name", "a message is named by its SHA-256", status=400)
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Retry("message-store-failed", f"a message cannot be read ({type(error).__name__})") from None

    def drop(self, name: str) -> None:
        """Forget a message that was handled."""
        if _DIGEST.fullmatch(name):
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
