# Two commands: `make demo` shows the product, `make test` proves it. Both set up what they need.
#   make demo DICOM=path/   your own CT series (and its RTSTRUCT or SEG, if there is one)
#   make demo SEED=3        another phantom; REGION=seg takes the phantom's own outline
PYTHON ?= python3
SEED ?= 1
REGION ?= auto

.PHONY: demo test setup lint types unit benchmarks lock clean

setup:
	@PYTHON=$(PYTHON) sh scripts/setup.sh

demo: setup
	@.venv/bin/auscult demo --seed $(SEED) --region $(REGION) $(if $(DICOM),--dicom "$(DICOM)")

test: setup lint types unit

lint:
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

types:
	@.venv/bin/mypy

unit:
	@.venv/bin/pytest -n 2 --dist loadgroup

# Writes the locks again: newest versions that pyproject.toml allows, with the hashes of all their files.
lock: setup
	@sh scripts/lock.sh

clean:
	@rm -rf .venv .cache .auscult
