# Targets for people; `make` alone lists them.
PYTHON ?= python3.11
VENV ?= .venv
DATA ?=
RUN ?= runs/demo
# TensorFlow leaves oneDNN off on CPUs without AVX-512, which makes 3D convolutions many times slower.
export TF_ENABLE_ONEDNN_OPTS ?= 1
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Where this is set and the packages came without bytecode, every process compiles TensorFlow's sources again, which
# takes longer than the rest of its import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo lint test test-all test-lowest fuzz docs bench package constraints clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -e '.[dev]'
	touch $@

install: $(VENV)/.installed ## Create the virtual environment and install everything

demo: install ## Phantom CTs (or DATA=<LiTS folder>) to data set, training on a 2x2 mesh, evaluation and report; VERBOSE=1 shows all
	$(VENV)/bin/python -m pipelines demo --run-dir $(RUN) $(if $(DATA),--data '$(DATA)') $(if $(VERBOSE),--verbose)

lint: install ## Style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

test: install ## The quick tests: the core on meshes, without processes, pipelines and examples
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/engine tests/rules tests/layers tests/model/test_fit.py tests/model/test_never_whole.py tests/model/test_bad_input.py tests/planning --ignore tests/layers/test_keras_own_cases.py --ignore tests/rules/test_random_configurations.py

# A process keeps something of every network that it has traced, plain Keras's too, which in the end fills a machine of
# 24 GB: each part of the suite has processes of its own. All parts run though one fails. Where a few files have nearly
# all tests of a part, its tests are dealt out one by one.
PARTS = 'tests/conformance --dist worksteal' 'tests/ecosystem --dist worksteal' 'tests --ignore=tests/conformance --ignore=tests/ecosystem'

test-all: install lint ## Lint, types and the whole test suite: what CI runs
	@failed=0; for part in $(PARTS); do $(VENV)/bin/python -m pytest -n 2 --dist loadfile $$part || failed=1; done; exit $$failed

test-lowest: ## The tests of files, metrics, data, commands and the core with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile tests/volumes tests/evaluation tests/data tests/commands tests/datasets tests/components/test_report_page.py tests/engine tests/model/test_fit.py tests/objective

fuzz: install ## Damage volumes, data sets, backups, settings and names at random: MINUTES=60 for an hour a property
	KERAS_SPATIAL_FUZZ_MINUTES=$(or $(MINUTES),0) $(VENV)/bin/python -m pytest tests/fuzz

docs: install ## The documentation site, warnings as errors, in site/
	$(VENV)/bin/python docs/generate_errors.py
	$(VENV)/bin/python docs/generate_benchmarks.py
	$(VENV)/bin/python -m mkdocs build --strict

bench: install ## All benchmarks, one after the other; JAX=<python> and TORCH=<python> add these peers
	for name in layers networks inference planner input; do $(VENV)/bin/python -m benchmarks.$$name --save || exit 1; done
	$(VENV)/bin/python -m benchmarks.faults --rounds 100 --save
	$(VENV)/bin/python -m benchmarks.trace --save $(if $(JAX),--jax-python $(JAX))
	$(VENV)/bin/python -m benchmarks.step --save $(if $(JAX),--jax-python $(JAX)) $(if $(TORCH),--torch-python $(TORCH))
	$(VENV)/bin/python -m benchmarks.scaling --save

package: install ## The wheel and the source distribution, in dist/
	$(VENV)/bin/python -m build

constraints: install ## Pin the packages of the container image again
	$(VENV)/bin/uv pip compile --quiet --python-version 3.11 --extra app --extra stores --extra cuda --no-emit-package keras-spatial --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean: ## Remove the virtual environment and the runs
	rm -rf $(VENV) runs site dist build
