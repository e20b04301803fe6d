PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: bench test core docs gpu env clean
.DELETE_ON_ERROR:

bench: $(STAMP)  ## measure one entry of each kind of backbone on embedded images
	$(BIN)/fcos-zoo bench --suite quick --fresh

test: $(STAMP)  ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Commands and documentation also export models of any image size, which takes a newer torch.
CORE := backbones data fcos fuzz golden reports train weights zoo

core: $(STAMP)  ## only the tests that every supported version of torch passes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(CORE:%=tests/%)

docs: $(STAMP)  ## build the documentation in outputs/docs; broken links are errors
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs . outputs/docs

# Without .venv it takes the Python at hand, for machines that have torch but no package registry.
DEVICE ?= cuda
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

# On a CPU it only rehearses, with the smallest model and one short run of each case.
GPU_BENCH := $(if $(filter cpu,$(DEVICE)),FCOS_shapes_tiny --size 96 128 --limit 1 --runs 1 --seconds 0 --processes 1 --set budget=120)

gpu:  ## check every CUDA path against the CPU and measure; DEVICE=cpu rehearses
	status=0; \
	FCOS_ZOO_TEST_DEVICE=$(DEVICE) $(GPU_PYTHON) -m pytest -m gpu tests/gpu --durations 5 || status=1; \
	$(GPU_PYTHON) -m tools.bench --suite gpu --device $(DEVICE) --fresh \
		--out outputs/gpu/results.jsonl $(GPU_BENCH) || status=1; \
	$(GPU_PYTHON) -m benchmarks.studies.nms_batch --device $(DEVICE) $(if $(filter cpu,$(DEVICE)),--batches 1 2) \
		|| status=1; \
	exit $$status

env: $(STAMP)  ## only create .venv and install

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=23.2"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info outputs
