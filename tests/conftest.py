"""How the tests are shared out: by file, and the end-to-end tests to one worker, as they share one product."""

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


class ByProduct(LoadFileScheduling):
    """Keeps together what shares a fixture that is dear to make."""

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/end_to_end"
        return folder if nodeid.startswith(folder) else str(super()._split_scope(nodeid))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the end-to-end tests, the longest, so that the workers end together."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/end_to_end"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByProduct:
    """Give xdist the scheduler; `--dist loadgroup` does not see groups with this pytest."""
    return ByProduct(config, log)
