"""Traces and logs. One trace runs from C-STORE to card, over Kafka headers, gRPC metadata and HTTP.

Spans are appended as JSON lines to `home/traces`, one file per process, from which `timeline` is drawn;
with an OTLP endpoint they also go there. No attribute or log record contains PHI: identifiers are
written as `domain.identity.pseudonym`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace import TracerProvider as TracerProviderInterface
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from auscult.platform.settings import Settings

_PROPAGATOR = TraceContextTextMapPropagator()


class JsonLinesExporter(SpanExporter):
    """Append finished spans to a file, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write and flush `spans`."""
        for span in spans:
            context, parent = span.context, span.parent
            if context is None:
                continue
            self._file.write(
                json.dumps(
                    {
                        "trace": f"{context.trace_id:032x}",
                        "span": f"{context.span_id:016x}",
                        "parent": f"{parent.span_id:016x}" if parent else None,
                        "service": span.resource.attributes.get("service.name"),
                        "name": span.name,
                        "start": span.start_time,
                        "end": span.end_time,
                        "attributes": dict(span.attributes or {}),
                        "error": None if span.status.is_ok or span.status.is_unset else span.status.description,
                    }
                )
                + "\n"
            )
        self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def start(service: str, settings: Settings) -> None:
    """Set up tracing and logging for this process. Call once, in an entrypoint."""
    logging.basicConfig(
        level=settings.log_level,
        format=f"%(asctime)s %(levelname)s {service} %(name)s %(message)s",
        force=True,
    )
    # These libraries write identifiers of patients or studies at INFO and below.
    for noisy in ("pydicom", "highdicom", "httpx", "httpcore", "kafka"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Its errors quote what peers sent; ours say what happened.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    file = settings.home / "traces" / f"{service}-{os.getpid()}.jsonl"
    provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(file), schedule_delay_millis=200))
    if settings.otlp_endpoint:
        # An optional extra: sites without a collector do not install it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces"))
        )
    trace.set_tracer_provider(provider)


@lru_cache(maxsize=4)
def _tracer(get_tracer: Callable[[str], Tracer], _provider: TracerProviderInterface) -> Tracer:
    """Return our tracer of the present provider: to make one takes longer than the span itself."""
    return get_tracer("auscult")


@contextmanager
def span(
    name: str, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **attributes: AttributeValue
) -> Iterator[Span]:
    """Run a block as a span. `parent`: a W3C traceparent that came in from outside.

    An exception marks the span as failed by its type only; its text is not recorded.
    """
    context = _PROPAGATOR.extract({"traceparent": parent}) if parent else None
    with _tracer(trace.get_tracer, trace.get_tracer_provider()).start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            reason = getattr(error, "reason", type(error).__name__)
            current.set_status(trace.StatusCode.ERROR, str(reason))
            raise


def record(name: str, start: float, end: float, *, parent: str | Span, **attributes: AttributeValue) -> None:
    """Add a span measured elsewhere. `start`, `end`: seconds since the epoch; `parent`: a span or a traceparent."""
    opened = _tracer(trace.get_tracer, trace.get_tracer_provider()).start_span(
        name,
        context=_PROPAGATOR.extract({"traceparent": parent})
        if isinstance(parent, str)
        else trace.set_span_in_context(parent),
        start_time=int(start * 1e9),
        attributes=attributes,
    )
    opened.end(int(end * 1e9))


def begin(name: str, start: float, **attributes: AttributeValue) -> Span:
    """Open the root span of a new trace, for work that ends in another call; the caller ends it.

    `start`: seconds since the epoch.
    """
    return _tracer(trace.get_tracer, trace.get_tracer_provider()).start_span(
        name, context=otel_context.Context(), start_time=int(start * 1e9), attributes=attributes
    )


def traceparent(of: Span | None = None) -> str:
    """Return the span `of`, by default the current one, as a W3C traceparent; empty where there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(of) if of else otel_context.get_current())
    return carrier.get("traceparent", "")


def flush() -> None:
    """Export what is waiting; call before a process ends."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(timeout_millis=2000)


def now() -> float:
    """Seconds since the epoch, for `record`."""
    return time.time()
