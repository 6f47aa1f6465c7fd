"""Sends a hook's calls over kept connections and tells how long each took: one thread, no event loop, no library.

`python hook_load.py PORT CONNECTIONS COUNT RATE`, with one JSON object a line on its input: `path`, `body` and
`token`, sent in turn. At RATE 0 each connection asks again when it is answered. Else calls are due at that rate
whatever the server does, and a call's time counts from when it was due, also where all connections were busy: a
server that stops for a second is not asked less (no coordinated omission). It prints one JSON object.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

LOST = 30.0
"""Seconds after which an answer is not awaited any more."""


@dataclass
class Connection:
    """One connection, which has at most one call in the air."""

    socket: socket.socket
    due: float = 0.0
    answer: bytearray = field(default_factory=bytearray)

    def fileno(self) -> int:
        """Return what `select` waits for."""
        return self.socket.fileno()

    def answered(self) -> int:
        """Take what has come; return the status when the answer is whole, else 0."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the server closed a connection")
        self.answer += part
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end:
            return 0
        length = next(
            int(value)
            for name, _, value in (line.partition(b":") for line in head.lower().split(b"\r\n"))
            if name == b"content-length"
        )
        return int(head.split(b" ", 2)[1]) if len(body) >= length else 0


def requests(lines: list[str]) -> list[bytes]:
    """Return the calls as they are sent."""
    made = []
    for line in lines:
        told = json.loads(line)
        body = told["body"].encode()
        token = f"Authorization: Bearer {told['token']}\r\n" if told.get("token") else ""
        head = (
            f"POST {told['path']} HTTP/1.1\r\nHost: hooks.example.org\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\n{token}User-Agent: load\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def run(port: int, connections: int, count: int, rate: float, calls: list[bytes]) -> dict[str, object]:
    """Send `count` calls; return the ms of each, how many had another status than 200, and the seconds in all."""
    idle = deque(Connection(socket.create_connection(("127.0.0.1", port))) for _ in range(connections))
    for each in idle:
        each.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    busy: list[Connection] = []
    took: list[float] = []
    sent = failed = 0
    began = time.perf_counter()
    while len(took) < count:
        now = time.perf_counter()
        while idle and sent < count and (not rate or began + sent / rate <= now):
            one = idle.popleft()
            one.due = began + sent / rate if rate else time.perf_counter()
            one.answer.clear()
            one.socket.sendall(calls[sent % len(calls)])
            busy.append(one)
            sent += 1
        wait = max(0.0, began + sent / rate - now) if rate and idle and sent < count else LOST
        ready, _, _ = select.select(busy, [], [], wait)
        for one in ready:
            if status := one.answered():
                took.append((time.perf_counter() - one.due) * 1e3)
                failed += status != 200
                busy.remove(one)
                idle.append(one)
        if not ready and wait == LOST:
            raise TimeoutError("the server does not answer")
    seconds = time.perf_counter() - began
    for each in idle:
        each.socket.close()
    return {"ms": took, "failed": failed, "seconds": seconds}


if __name__ == "__main__":
    port, connections, count, rate = sys.argv[1:]
    made = requests(sys.stdin.readlines())
    json.dump(run(int(port), int(connections), int(count), float(rate), made), sys.stdout)
