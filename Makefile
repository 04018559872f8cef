# `make` lists what there is. Needs git, make and Python 3.11; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Where everything is installed, and from what: `make newest` puts others in their place.
VENV := .venv
REQUIREMENTS := requirements-dev.in
CONSTRAINTS := constraints-dev.txt
BIN = $(CURDIR)/$(VENV)/bin
PROJECT := {{cookiecutter.project_slug}}
PROJECT_LEFTOVERS := .hypothesis .mypy_cache .pytest_cache .ruff_cache .venv build checkpoints rehearsals runs

# Whatever lies in the folder of the generated project is copied into each new one: tools keep their caches in build/.
export PYTHONDONTWRITEBYTECODE := 1
export RUFF_CACHE_DIR := $(CURDIR)/build/ruff
export MYPY_CACHE_DIR := $(CURDIR)/build/mypy
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/build/hypothesis

# The Python of `make cuda`: one with a CUDA build of torch, pytest and numpy, which .venv need not have.
CUDA_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

# Slow tests, each with a target of its own.
LANES := combinations image newcomer recipes rehearsal survival updates cuda

.PHONY: help venv real demo test lint combinations newest recipes rehearsal picture recording docs survival soak peers benchmarks mutants newcomer image cuda clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-13s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/installed ## set up .venv with everything below

$(VENV)/installed: $(REQUIREMENTS) $(CONSTRAINTS)
	@echo 'Setting up $(VENV); the first time this downloads torch.'
	test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --requirement $(REQUIREMENTS)
	touch $@

real: venv ## install the real cycling_utils, which CYCLING_UTILS=real demands, from its repository
	$(BIN)/python -m pip install --quiet torch==2.13.0 "$$(grep -o 'torchvision==[0-9.]*' '$(PROJECT)/pyproject.toml')"
	$(BIN)/python -m pip install --quiet --no-deps --requirement '$(PROJECT)/requirements-cycling-utils.txt'

demo: venv ## bake a project into build/, train it, kill it, see it go on, rehearse it
	$(BIN)/python tests/demo.py

test: venv ## test the template, and a freshly generated project with its own tests
	$(BIN)/python -m pytest -q -rs --numprocesses=2 --dist=worksteal $(addprefix --ignore=tests/,$(LANES)) tests

lint: venv ## style, types, shell and Dockerfile, of the template and of what it generates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	test ! -d tests/survival || (cd tests/survival && $(BIN)/mypy --config-file ../../pyproject.toml .)
	cd tests/cuda && $(BIN)/mypy --config-file ../../pyproject.toml .
	cd tests/rehearsal && $(BIN)/mypy --config-file ../../pyproject.toml .
	cd tests/recipes && $(BIN)/mypy --config-file ../../pyproject.toml *.py ../baking.py ../../docs/make_recipes_page.py
	cd '$(PROJECT)' && $(BIN)/mypy --strict . && $(BIN)/lint-imports --no-cache
	cd '$(PROJECT)' && $(BIN)/basedpyright --pythonpath $(BIN)/python train.py model.py data.py
	$(BIN)/shellcheck .ci/run '$(PROJECT)/launch.sh'
	$(BIN)/hadolint '$(PROJECT)/Dockerfile'
	$(BIN)/zizmor --offline --quiet .github '$(PROJECT)/.github'

combinations: venv ## bake and check all combinations of the choices; update projects that were changed
	$(BIN)/python -m pytest -q -rs tests/combinations tests/updates

# Exact versions taken away, and the lock renewed: what a project gets that is generated and upgraded today.
newest: ## lint and test with the newest release of everything, in build/newest
	rm -rf build/newest && mkdir -p build/newest
	sed -E 's/==[^ ;#]+//' requirements-dev.in > build/newest/requirements.in
	$(MAKE) venv $(NEWEST)
	build/newest/venv/bin/python -m cookiecutter . --no-input --output-dir build/newest
	$(MAKE) -C build/newest/isc-experiment lock check UPGRADE=1 PYTHON='$(CURDIR)/build/newest/venv/bin/python'
	$(MAKE) lint test $(NEWEST)

NEWEST := VENV=build/newest/venv REQUIREMENTS=build/newest/requirements.in CONSTRAINTS=

recipes: venv ## sixteen trainings that people bring: kill each, resume it, rehearse it
	$(BIN)/python -m pytest -q --numprocesses=auto --dist=loadgroup tests/recipes

rehearsal: venv ## rehearse a project as it is, and with mistakes planted in it
	$(BIN)/python -m pytest -q -rs tests/rehearsal

picture: venv ## draw docs/rehearsal.png anew
	rm -rf build/picture && mkdir -p docs
	$(BIN)/python -m cookiecutter . --no-input --output-dir build/picture
	cd build/picture/isc-experiment && $(BIN)/python -m isc_runtime rehearse --stand-in --procs-per-node 2 \
		--plot '$(CURDIR)/docs/rehearsal.png' -- --save-steps 20

recording: venv ## record `make demo` anew, as docs/demo.svg
	$(BIN)/python docs/make_recording.py

docs: venv ## write what docs/ takes from the code, and build the site, in build/site
	$(BIN)/python docs/make_errors_page.py
	$(BIN)/python docs/make_recipes_page.py
	$(BIN)/python docs/make_diagrams.py
	$(BIN)/python docs/make_site.py
	$(BIN)/zensical build --strict --clean

# What is measured in seconds has the machine for itself; the rest has a process for each core.
survival: venv ## kill a training at every system call, fail its disk, cut its power
	$(BIN)/python -m pytest -q -rs tests/survival/test_agreement.py
	$(BIN)/python -m pytest -q -rs --numprocesses=auto --dist=loadfile --ignore=tests/survival/test_agreement.py tests/survival

peers: venv ## count what the usual recipe and torch.distributed.checkpoint lose; needs root and strace
	$(BIN)/python tests/survival/peers.py

soak: venv ## what is drawn at random twice as often, 16 ranks, 3 GB, a late node: an hour; writes tests/survival/soak.md
	$(BIN)/python tests/survival/soak.py

mutants: venv ## plant small mistakes in isc_runtime and see which ones its own tests notice: half an hour
	$(BIN)/python tests/mutants.py

benchmarks: venv ## measure all that is promised; on a machine that does nothing else, a quarter of an hour
	.venv/bin/python benchmarks/run_all.py

newcomer: venv ## follow both READMEs word for word, in an empty folder
	$(BIN)/python -m pytest -q -rs tests/newcomer

cuda: ## the runtime and its training on CUDA, with the torch that this Python has: skipped with its reason where there is no GPU
	@$(CUDA_PYTHON) tests/cuda/needed.py
	@status=0; \
	$(CUDA_PYTHON) -m pytest -q -rs --durations=10 -p no:cacheprovider --confcutdir=tests/cuda tests/cuda || status=$$?; \
	$(CUDA_PYTHON) benchmarks/cuda.py --if-there-is-one || status=$$?; \
	exit $$status

image: venv ## build the generated image, train in it, look for secrets in it
	.venv/bin/python -m pytest -q -rs tests/image

clean: ## remove what the other targets leave, .venv excepted
	rm -rf build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	cd '$(PROJECT)' && rm -rf $(PROJECT_LEFTOVERS)
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
