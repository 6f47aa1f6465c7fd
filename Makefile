# Two commands: `make demo` shows the product, `make test` proves it. Both set up what they need.
#   make demo DICOM=path/   your own CT series (and its RTSTRUCT or SEG, if there is one)
#   make demo SEED=3        another phantom; REGION=seg takes the phantom's own outline, LATER=150 shows growth
PYTHON ?= python3
SEED ?= 1
REGION ?= auto

# Compiled code is kept, whatever the shell says: without it each process compiles every library that it imports.
export PYTHONDONTWRITEBYTECODE :=

# Where there is a GPU: that models give the CPU's results on it. Writes the table in docs/gpu.md.
.PHONY: gpu
gpu:
	@AUSCULT_TEST_WRITE_GPU_TABLE=1 .venv/bin/pytest integration/test_gpu.py

.PHONY: demo test setup lint types unit golden conformance benchmarks lock clean

setup:
	@PYTHON=$(PYTHON) sh scripts/setup.sh

demo: setup
	@.venv/bin/auscult demo --seed $(SEED) --region $(REGION) $(if $(LATER),--later $(LATER)) $(if $(DICOM),--dicom "$(DICOM)")

test: setup lint types unit

lint:
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

types:
	@.venv/bin/mypy

unit:
	@.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not golden"

# Writes the tables in docs/performance.md; integration/peers/prepare.sh fetches the peers of the inference service.
benchmarks: setup
	@.venv/bin/pytest tests/benchmarks -o python_files='bench_*.py' --benchmark-json=.cache/benchmarks.json \
	--benchmark-columns=min,median,iqr,rounds
	@.venv/bin/python tests/benchmarks/table.py .cache/benchmarks.json docs/performance.md

# The long suites: every published radiomics value, and an unmodified Triton client. CI runs them, too.
golden: setup
	@.venv/bin/pytest tests -m golden

# The IBSI's consensus values beside ours, each with its verdict; the table is stored in .cache/conformance.csv, too.
conformance: setup
	@.venv/bin/pytest tests/radiomics/test_conformance.py -q

# Writes the locks again: newest versions that pyproject.toml allows, with the hashes of all their files.
lock: setup
	@sh scripts/lock.sh

clean:
	@rm -rf .venv .cache .auscult
