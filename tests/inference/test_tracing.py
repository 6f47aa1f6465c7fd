"""Which requests are traced and which records are logged, as the settings say."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from auscult.inference.parameters import InvalidRequestError
from auscult.inference.tracing import LogLevels, Tracing


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [True, False, False, False]),
        ({"trace_rate": ["2"]}, [True, False, True, False]),
        ({"trace_rate": ["1"], "trace_count": ["3"]}, [True, True, True, False]),
        ({"trace_rate": ["1"], "trace_count": ["0"]}, [False] * 4),
        ({"trace_level": ["OFF"]}, [False] * 4),
    ],
)
def test_rate_and_count_choose(settings: Mapping[str, list[str]], expected: list[bool]) -> None:
    """Every nth request, at most so many, or none; for one model as for all."""
    for model in ("", "m"):
        tracing = Tracing()
        tracing.change(model, settings)
        assert [tracing.wanted("m", traced=False) for _ in range(4)] == expected


def test_callers_trace_goes_on() -> None:
    """A request that is part of a trace is traced whatever the rate, unless all tracing is off."""
    tracing = Tracing()
    assert all(tracing.wanted("m", traced=True) for _ in range(4))
    tracing.change("m", {"trace_level": ["OFF"]})
    assert not tracing.wanted("m", traced=True)
    assert tracing.wanted("other", traced=True)


def test_wrong_setting_changes_nothing() -> None:
    """Of several settings one is wrong: none is taken."""
    tracing = Tracing()
    with pytest.raises(InvalidRequestError, match="trace_count: one number, at least -1"):
        tracing.change("", {"trace_rate": ["7"], "trace_count": ["many"]})
    assert tracing.settings()["trace_rate"] == ("1000",)


def test_levels_are_logged_each_by_itself() -> None:
    """Warnings may be off while information is on."""
    levels = LogLevels()
    levels.change({"log_warning": False})
    written = [
        levels.filter(logging.LogRecord("auscult.inference", level, "", 0, "", None, None))
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    ]
    assert written == [False, True, False, True]
    with pytest.raises(InvalidRequestError, match="log_info: a value of type bool"):
        levels.change({"log_info": 1})
