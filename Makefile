# `make train` and `make test` work on a fresh clone: they make what is missing first. `make help` lists everything.

PYTHON := .venv/bin/python
TRAIN_ARGS := --configs defaults metaworld small --planner latco
# What a Debian machine needs to render without a screen: EGL, or OSMesa where EGL does not work.
PACKAGES := libegl1 libgl1 libgl1-mesa-dri libosmesa6
# The OpenGL back-end that the check below found, unless the environment names one.
RENDER := MUJOCO_GL=$${MUJOCO_GL:-$$(cat .venv/.rendering)}
export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help train demo test slow lint format lock install gpu rendering

help: ## List the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

train: rendering ## Train; ARGS="--configs ... --key value" replaces the arguments of planning_agent.py
	$(RENDER) $(PYTHON) planning_agent.py $(or $(ARGS),$(TRAIN_ARGS))

demo: rendering ## Act with LatCo and CEM on a shipped model, in one picture and one video; ARGS="--seed 3"
	$(RENDER) $(PYTHON) demo.py $(ARGS)

test: rendering ## Run the tests that take seconds; ARGS="-k replay" goes to pytest
	$(RENDER) $(PYTHON) -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

slow: rendering ## Run the tests that take minutes
	$(RENDER) $(PYTHON) -m pytest -m slow --timeout 7200 $(ARGS)

lint: install ## Check style, formatting, spelling and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m codespell_lib
	$(PYTHON) -m mypy .

format: install ## Format the code and repair what ruff can repair
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

install: .venv/.installed ## Make .venv with the tested version of every package (requirements.lock)

lock: install ## Write the versions in .venv to requirements.lock
	$(PYTHON) -m pip freeze --exclude-editable >requirements.lock

gpu: install ## Add TensorFlow's CUDA libraries to .venv
	$(PYTHON) -m pip install --constraint requirements.lock --editable '.[dev,gpu]'

# `python -m venv` leaves a half-made folder behind where pip is missing, so pip is what decides.
.venv/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -m pip --version >/dev/null 2>&1 && exit 0; \
	for python in python3.11 python3 python; do \
		if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
			echo "Making .venv with $$($$python --version)"; \
			exec $$python -m venv .venv; \
		fi; \
	done; \
	echo "Python 3.11 is needed and was not found: install it (with its venv module) and try again." >&2; \
	exit 2
	$(PYTHON) -m pip install --constraint requirements.lock --editable '.[dev]'
	@touch $@

# The check says what is wrong. As root on Debian, this rule then installs what is missing.
rendering: .venv/.installed
	@$(PYTHON) -m envs.rendering >.venv/.rendering && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing libraries for off-screen rendering: $(PACKAGES)"; \
		apt-get update -qq; \
		for package in $(PACKAGES); do apt-get install -qq --no-install-recommends $$package; done; \
		$(PYTHON) -m envs.rendering >.venv/.rendering && exit 0; \
	fi; \
	exit 2
