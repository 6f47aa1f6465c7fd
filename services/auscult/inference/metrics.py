"""Prometheus metrics over HTTP, under Triton's names, so that its dashboards and autoscalers work unchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from auscult.inference.statistics import Failure, Statistics, VersionStatistics
from auscult.platform.errors import RefuseToStart

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CLOSES_WITHIN = 0.05
"""Seconds; http.server looks so often whether it is to end."""

Number = Callable[[VersionStatistics], float]

_COUNTERS: tuple[tuple[str, str, Number], ...] = (
    ("nv_inference_request_success", "Inference requests that were answered", lambda it: it.success.count),
    ("nv_inference_count", "Inferences: batch elements that ran", lambda it: it.inferences),
    ("nv_inference_exec_count", "Runs of the model", lambda it: it.executions),
    (
        "nv_inference_request_duration_us",
        "Cumulative time of requests, in microseconds",
        lambda it: (it.success.ns + it.fail.ns) // 1000,
    ),
    ("nv_inference_queue_duration_us", "Cumulative time in the queue", lambda it: it.queue.ns // 1000),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative time of preparing inputs",
        lambda it: it.requests.compute_input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative time of running the model",
        lambda it: it.requests.compute_infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative time of making responses",
        lambda it: it.requests.compute_output.ns // 1000,
    ),
    (
        "auscult_inference_cpu_fallback_count",
        "Runs on the CPU because the GPU's memory did not suffice",
        lambda it: it.fallbacks,
    ),
)
_GAUGES: tuple[tuple[str, str, Number], ...] = (
    ("nv_inference_pending_request_count", "Requests that wait in the queue now", lambda it: it.pending),
)


def render(statistics: Statistics) -> str:
    """Return the metrics in Prometheus' text format."""
    versions = [(f'model="{_escaped(name)}",version="{version}"', it) for name, version, it in statistics.all()]
    lines: list[str] = []
    for kind, metrics in (("counter", _COUNTERS), ("gauge", _GAUGES)):
        for name, help_, number in metrics:
            lines += _head(name, help_, kind)
            lines += [f"{name}{{{labels}}} {number(it)}" for labels, it in versions]
    name = "nv_inference_request_failure"
    lines += _head(name, "Inference requests that were not answered", "counter")
    lines += [
        f'{name}{{{labels},reason="{reason}"}} {it.failures[reason]}' for labels, it in versions for reason in Failure
    ]
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Answers `GET /metrics` at `address` (`host:port`) in threads of its own, until it is closed."""

    def __init__(self, address: str, statistics: Statistics) -> None:
        host, _, port = address.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            """Answers one connection's requests."""

            timeout = 10.0

            def do_GET(self) -> None:
                """Answer with the metrics."""
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                body = render(statistics).encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write nothing: a scraper asks every few seconds."""

        try:
            self._server = ThreadingHTTPServer((host, int(port)), Handler)
        except (OSError, ValueError) as error:
            raise RefuseToStart(
                "metrics-address", f"cannot listen on {address!r} for metrics; is it host:port and free? ({error})"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_CLOSES_WITHIN,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _head(name: str, help_: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
