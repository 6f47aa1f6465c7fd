"""DICOM in: the DIMSE services, DICOMweb, and the assembler that says when a study is complete."""

from __future__ import annotations

from auscult.bus.factory import open_bus
from auscult.entrypoints.service import ready, service
from auscult.imaging.sandbox import sandbox
from auscult.imaging.store import ImageStore
from auscult.listen.assembler import Assembler
from auscult.listen.dicom_scp import DicomScp
from auscult.listen.dicomweb_server import DicomwebServer

NAME = "listen"


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop):
        bus = open_bus(settings.bus)
        store = ImageStore(settings.images, min_free_bytes=settings.min_free_bytes)
        scp = DicomScp(settings, bus, store)
        web = DicomwebServer(settings, bus, store)
        scp.start()
        web.start()
        sandbox().warm()
        ready(settings, NAME)
        try:
            Assembler(settings, bus, store).run(stop)
        finally:
            web.stop()
            scp.stop()
            bus.close()
