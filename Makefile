# Every target makes the environment it needs; nothing is installed by hand.
PYTHON ?= python3
LOGDIR ?= runs
REPORT ?= report
DATA_DIR ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements/dev.txt
COMPILE := build/lock/bin/uv pip compile setup.cfg --quiet --python-version=3.11 --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command="make lock"
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help run test slow lowest soak fuzz check format bench report dashboard lock clean

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(READY): $(LOCK) setup.cfg pyproject.toml
	@echo "Making $(VENV) (several minutes the first time) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed. Received: %d.%d. Name one with make PYTHON=python3.11" % v)'
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings=editable_mode=compat --editable .
	@touch $@

run: $(READY)  ## Train the paper's MLP without and with BN, draw Fig. 1
	$(BIN)/python train.py --recipe=fig1_baseline --logdir=$(LOGDIR) --overwrite
	$(BIN)/python train.py --recipe=fig1_bn --logdir=$(LOGDIR) --overwrite
	@$(MAKE) --no-print-directory report
	@echo "See every curve of the two runs: make dashboard"

test: $(READY)  ## Run the tests
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m 'not slow'

slow: $(READY)  ## Run the slow tests, some with real processes
	$(BIN)/python -m pytest -m slow

lowest:  ## Run the tests with the oldest versions that setup.cfg allows
	@$(MAKE) --no-print-directory test VENV=.venv-lowest LOCK=requirements/lowest.txt

soak: $(READY)  ## Kill a run 300 times; compare it with an uninterrupted one
	$(BIN)/python -m tests.faults.soak

fuzz: $(READY)  ## Draw 2,000 new examples for the property tests
	$(BIN)/python -m pytest tests/test_properties.py --hypothesis-profile=nightly

check: $(READY)  ## Check format, lint, types, imports between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## Measure speed, memory and precision against the peers
	$(BIN)/python -m benchmarks.layer
	$(BIN)/python -m benchmarks.blocks
	$(BIN)/python -m benchmarks.small_inference
	$(BIN)/python -m benchmarks.operations
	$(BIN)/python -m benchmarks.sums
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.compilation
	$(BIN)/python -m benchmarks.import_time
	$(BIN)/python -m benchmarks.training $(if $(DATA_DIR),--data_dir=$(DATA_DIR))
	$(BIN)/python -m benchmarks.collectives
	$(if $(DATA_DIR),$(BIN)/python -m benchmarks.input_pipeline --data_dir=$(DATA_DIR))
	$(if $(DATA_DIR),$(BIN)/python -m benchmarks.analysis --data_dir=$(DATA_DIR) --presets=economy --presets=standard)
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.folding --architectures=MobileNetV2,ResNet50,DenseNet121,NASNetMobile

report: $(READY)  ## Draw the figures of the runs in LOGDIR into REPORT
	$(BIN)/python -m analysis.report --logdir=$(LOGDIR) --output=$(REPORT)

dashboard: $(READY)  ## Show LOGDIR in TensorBoard, on this machine only
	$(BIN)/tensorboard --logdir=$(LOGDIR) --host=localhost --samples_per_plugin=images=100,scalars=10000

lock:  ## Resolve setup.cfg's version ranges again, with hashes
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet uv
	$(COMPILE) --upgrade --universal --generate-hashes --extra=dev --output-file=requirements/dev.txt
	$(COMPILE) --upgrade --universal --generate-hashes --output-file=requirements/run.txt
	@# Later versions lack pkg_resources, or warn about what the oldest do.
	printf 'setuptools <82\npyparsing <3.3\n' > build/lock/bounds.txt
	$(COMPILE) --resolution=lowest-direct --constraint=build/lock/bounds.txt --output-file=build/lock/lowest.txt
	$(COMPILE) --upgrade --generate-hashes --extra=dev --constraint=build/lock/lowest.txt --output-file=requirements/lowest.txt

clean:  ## Remove what was built; runs and reports stay
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
