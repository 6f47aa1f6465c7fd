"""How the tests are shared out: by file, and some folders to one worker each."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

# A busy machine is no fault of a property; CI looks longer than a developer's run does.
hypothesis.settings.register_profile(
    "auscult",
    max_examples=100 if os.environ.get("CI") else 30,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("auscult")


SHARING = ("tests/end_to_end/", "tests/models/")
"""Folders whose tests share what is dear to make: the running product, and all models."""


class ByProduct(LoadFileScheduling):
    """Keeps together what shares a fixture that is dear to make."""

    def _split_scope(self, nodeid: str) -> str:
        folder = next(filter(nodeid.startswith, SHARING), None)
        return folder or str(super()._split_scope(nodeid))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is kept together, the longest, so that the workers end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(SHARING))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByProduct:
    """Give xdist the scheduler; `--dist loadgroup` does not see groups with this pytest."""
    return ByProduct(config, log)
