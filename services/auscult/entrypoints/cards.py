"""The models' cards, for services that show them while others run the models."""

from __future__ import annotations

import logging
import threading

from auscult.inference.sources import bucket
from auscult.platform.settings import Settings

_LOG = logging.getLogger("auscult.cards")


def follow_cards(settings: Settings, stop: threading.Event) -> None:
    """Where models come from an object store, bring their cards to `settings.models`, and again as they change.

    Where the store is away the cards that were brought before are there.
    """
    store = bucket(settings)
    if store is None:
        return

    def fetch() -> None:
        try:
            store.fetch_cards()
        except OSError as error:
            _LOG.warning("the cards stay as they are: %s", error)

    def follow() -> None:
        while not stop.wait(settings.inference_poll_seconds):
            fetch()

    fetch()
    threading.Thread(target=follow, name="cards", daemon=True).start()
