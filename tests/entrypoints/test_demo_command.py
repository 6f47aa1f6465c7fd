"""`auscult demo`, as `make demo` calls it, up to where the services start."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from auscult.entrypoints.cli import main
from auscult.entrypoints.demo import run


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {"seed": 1, "with_seg": False, "later": 0}),
        (["--seed", "3", "--region", "seg", "--later", "150"], {"seed": 3, "with_seg": True, "later": 150}),
    ],
)
def test_the_options_are_those_of_the_makefile(
    monkeypatch: pytest.MonkeyPatch, options: list[str], asked: dict[str, Any]
) -> None:
    """Without an option one study is sent, whose outline is the model's."""
    called: list[tuple[object, dict[str, Any]]] = []
    monkeypatch.setattr(run, "run", lambda dicom, **more: called.append((dicom, more)))
    outcome = CliRunner().invoke(main, ["demo", *options])
    assert outcome.exit_code == 0, outcome.output
    assert called == [(None, asked)]
