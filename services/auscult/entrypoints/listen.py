"""Events in: DICOM by DIMSE and DICOMweb with their assembler, FHIR by subscriptions and polling, HL7 v2 by MLLP."""

from __future__ import annotations

from contextlib import ExitStack

from auscult.bus.factory import open_bus
from auscult.entrypoints.record_in import listen_to_messages, listen_to_record
from auscult.entrypoints.service import ready, service
from auscult.imaging.sandbox import sandbox
from auscult.imaging.stores import open_images
from auscult.listen.assembler import Assembler
from auscult.listen.dicom_scp import DicomScp
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.listen.orthanc import OrthancFollower

NAME = "listen"


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop), ExitStack() as ending:
        bus = open_bus(settings)
        ending.callback(bus.close)
        store = open_images(settings)
        scp = DicomScp(settings, bus, store)
        follower = OrthancFollower(settings, bus, store) if settings.orthanc_url else None
        web = DicomwebServer(settings, bus, store, follower.wake if follower else None)
        scp.start()
        ending.callback(scp.stop)
        web.start()
        ending.callback(web.stop)
        ending.enter_context(listen_to_record(settings, bus, stop))
        ending.enter_context(listen_to_messages(settings, bus))
        sandbox().warm()
        if follower:
            follower.start()
            ending.callback(follower.stop)
        ready(settings, NAME)
        Assembler(settings, bus, store).run(stop)
