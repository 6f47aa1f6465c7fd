"""The reference models, for pathways without a server between."""

from __future__ import annotations

import pytest

from auscult.models.build import build_repository
from local_models import MODELS, LocalModels


@pytest.fixture
def models() -> LocalModels:
    """Return the reference models, built where they were not."""
    build_repository(MODELS, if_changed=True)
    return LocalModels(MODELS)
