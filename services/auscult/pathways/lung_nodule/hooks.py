"""The pathway's CDS Hooks services: at orders, and at a nodule that someone else found."""

from __future__ import annotations

from collections.abc import Sequence

from auscult.cds_hooks.services import Service
from auscult.pathways.lung_nodule import follow_up, recorded
from auscult.pathways.services import Tools


def services(tools: Tools) -> Sequence[Service]:
    """Return them."""
    return (follow_up.service(tools.store), recorded.service(tools))
