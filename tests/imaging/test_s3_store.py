"""What a sender is told when the bucket does not take an object; the store's contract runs on a real S3 server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from auscult.imaging.header import InstanceHeader
from auscult.imaging.stores import open_images
from auscult.platform.errors import Refused
from auscult.platform.settings import Settings
from dicom_factory import ct_series, encode


@contextmanager
def bucket_that_answers(status: int, body: bytes) -> Iterator[str]:
    """Run a bucket that has nothing and answers each upload with `status`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (507, b"", "out-of-space"),
        (403, b"<Error><Code>QuotaExceeded</Code></Error>", "out-of-space"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", "store-unavailable"),
    ],
)
def test_the_reason_is_what_the_bucket_answered(
    status: int, body: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full bucket is named so; digits of an address, a tenant or a UID that look like its status are not one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    dataset = ct_series()[0]
    dataset.SOPInstanceUID = "1.2.507.507"
    file = encode(dataset)
    with bucket_that_answers(status, body) as endpoint:
        store = open_images(
            Settings(home=tmp_path, image_store="s3://507", s3_endpoint=endpoint, s3_region="x", min_free_bytes=0)
        )
        with pytest.raises(Refused) as caught:
            store.put("QuotaExceeded", InstanceHeader.read(file), file)
    assert (caught.value.reason, caught.value.status) == (reason, 0xA700)
