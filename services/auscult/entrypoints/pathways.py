"""The worker that runs the clinical pathways."""

from __future__ import annotations

import threading
from functools import partial

from auscult.bus.consume import consume
from auscult.bus.contract import Bus
from auscult.bus.factory import open_bus
from auscult.bus.switches import POLL, Switches
from auscult.bus.topics import RECORD, STUDIES
from auscult.entrypoints.cards import follow_cards
from auscult.entrypoints.record_in import own_references
from auscult.entrypoints.service import ready, service
from auscult.imaging.store import ImageStore
from auscult.imaging.stores import open_images
from auscult.inference.client import InferenceClient
from auscult.listen.messages import MessageStore
from auscult.listen.priors import Priors
from auscult.pathways.comparisons import Comparisons
from auscult.pathways.earlier import Earlier, studies_of
from auscult.pathways.governed import GovernedModels
from auscult.pathways.joins import Joins
from auscult.pathways.needs import look
from auscult.pathways.pathway import registered
from auscult.pathways.progress import Announcer
from auscult.pathways.radiomics import configured
from auscult.pathways.record_events import RecordEvents
from auscult.pathways.waking import Waker
from auscult.pathways.worker import PathwayWorker, patient_resolver
from auscult.platform.settings import Settings
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.consents import Rules, refusal
from auscult.publish.fhir.patients import survivor
from auscult.publish.fhir.sink import FhirSink
from auscult.publish.fhir.smart import fhir_client
from auscult.publish.pacs.sink import PacsSink, open_archive

NAME = "pathways"
MODELS_READY = 60.0
"""Seconds to wait for the models that the pathways need; then the process ends and is started again."""


def main() -> None:
    """Consume complete studies until SIGTERM."""
    with service(NAME) as (settings, stop):
        pathways = configured(registered(), settings.radiomics_parameters)
        follow_cards(settings, stop)
        models = InferenceClient(settings.inference_target, settings.models)
        needed = sorted({name for pathway in pathways for name in pathway.needs.models})
        models.wait_ready(needed, MODELS_READY)
        for name in needed:
            models.reference(name)  # a model without its card must stop the start, not the first study
        bus = open_bus(settings)
        client = fhir_client(settings)
        switches = Switches()
        store = open_images(settings)
        archive = open_archive(settings)
        rules = Rules.of(settings)
        sink = FhirSink(client, settings.fhir_extras, settings.fhir_ids)
        worker = PathwayWorker(
            pathways=pathways,
            bus=bus,
            store=store,
            models=GovernedModels(models, switches),
            sink=sink,
            patient_of=patient_resolver(client, settings.patient_identifier_systems),
            archiver=PacsSink(archive, store, settings.pacs_objects) if archive else None,
            progress=Announcer(bus),
            comparisons=_comparisons(settings, store, client),
            joins=Joins(bus, partial(look, client)),
            audit_denial=partial(sink.record_denial, purposes=settings.consent_purposes),
            refusal_of=lambda patient: refusal(client, patient.reference, rules),
            survivor_of=partial(survivor, client),
            tenant=settings.tenant,
        )
        follower = threading.Thread(target=switches.follow, args=(bus, stop), name="switches", daemon=True)
        waker = Waker(bus, settings.tenant, settings.join_recheck_seconds)
        news = RecordEvents(
            bus,
            client,
            waker,
            own_references(settings),
            MessageStore(settings.messages),
            settings.patient_identifier_systems,
            stop,
            settings.tenant,
        )
        threads = [
            follower,
            threading.Thread(target=waker.follow, args=(stop,), name="waker", daemon=True),
            threading.Thread(target=_hear, args=(settings, bus, news, stop), name="record", daemon=True),
        ]
        for thread in threads:
            thread.start()
        # What is switched off has to be known before the first study.
        while not (stop.is_set() or switches.ready.wait(POLL)):
            pass
        ready(settings, NAME)
        try:
            consume(
                bus,
                STUDIES,
                group=settings.group(NAME),
                handler=worker.handle,
                source=f"/{settings.tenant}/{NAME}",
                max_tries=settings.max_tries,
                stop=stop,
                on_dead_letter=worker.failed,
            )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            if archive:
                archive.close()
            bus.close()


def _comparisons(settings: Settings, store: ImageStore, client: FhirClient) -> Comparisons | None:
    """Return who compares with earlier studies; None where that is switched off."""
    if not settings.earlier_seconds:
        return None
    return Comparisons(Earlier(Priors(settings, store), studies_of(client)), settings.earlier_seconds)


def _hear(settings: Settings, bus: Bus, news: RecordEvents, stop: threading.Event) -> None:
    """Consume what changes in the record until `stop` is set."""
    consume(
        bus,
        RECORD,
        group=settings.group("record"),
        handler=news.handle,
        source=f"/{settings.tenant}/{NAME}/record",
        max_tries=settings.max_tries,
        stop=stop,
    )
