# Two commands: `make demo` shows the product, `make test` proves it. Both set up what they need.
PYTHON ?= python3


.PHONY: demo test setup lint types unit benchmarks lock clean

setup:
	@PYTHON=$(PYTHON) sh scripts/setup.sh

demo: setup
	@.venv/bin/auscult demo $(if $(DICOM),--dicom "$(DICOM)")

test: setup lint types unit

lint:
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

types:
	@.venv/bin/mypy

unit:
	@.venv/bin/pytest -n 2 --dist worksteal
