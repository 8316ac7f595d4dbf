# One task runner. `make demo` and `make test` set up everything they need by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# systemd-python is built, not downloaded: installed where its headers are, so that the tests of it run.
EXTRAS := $(shell command -v cc pkg-config >/dev/null && pkg-config --exists libsystemd 2>/dev/null && \
  $(PYTHON) -c 'import os.path, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' \
  2>/dev/null && echo test,systemd || echo test)
STAMP  := $(VENV)/.installed-$(EXTRAS)
# The libraries of a release, instead of the newest: see test-versions.
CONSTRAINTS ?=
# Files, tests, or @FILE with one of them a line: run only these.
TESTS       ?=
# Set to anything: `make test` measures the branch coverage, and takes longer.
COVERAGE    ?=
# What the same tree was measured to cover elsewhere: `make coverage` adds it.
COVERED     ?=
# Processes that run tests: twice two cores, for many tests wait. A file runs on one of them.
WORKERS     ?= 4
PARALLEL    := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Tests start hundreds of processes: without its bytecode kept, each would compile the agent again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-agent test-versions test-bare chaos simulate mutants check bench fuzz \
  soak soak-weeks test-system test-machine deb clean tools

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(STAMP) ## a real agent, a simulated reader and a local pipe: watch a swipe become a row
	@$(BIN)/badge-agent demo

test: $(STAMP) ## every test
	@$(BIN)/python -m pytest -q $(PARALLEL) $(if $(COVERAGE),--cov --cov-report= --cov-fail-under=0) $(TESTS)

coverage: ## compare the branch coverage of the last `make COVERAGE=1 test`, which skipped nothing or has what it skipped in COVERED, with its floor
	@$(if $(COVERED),$(BIN)/python -m coverage combine --quiet --keep --append $(COVERED))
	@$(BIN)/python -m coverage report

test-versions: ## the agent's tests once more with the libraries of Debian 12 and of Debian 13
	@set -e; for debian in debian-12 debian-13; do \
	  echo "With the libraries of $$debian:"; \
	  $(MAKE) --no-print-directory VENV=.venv-$$debian CONSTRAINTS=tests/constraints/$$debian.txt \
	    EXTRAS=test-agent,systemd test-agent; \
	done

test-agent: $(STAMP)
	@$(BIN)/python -m pytest -q $(PARALLEL) --ignore=tests/test_architecture.py --ignore=tests/conformance $(TESTS)

chaos: $(STAMP) ## faults, kills and power cuts at length: CHAOS_ROUNDS=20, CHAOS_SEED to see one again
	@CHAOS_ROUNDS=$${CHAOS_ROUNDS:-20} $(BIN)/python -m pytest -s --timeout=0 tests/chaos tests/powercut \
	  tests/outbox/test_flipped_files.py

simulate: $(STAMP) ## a million steps of drawn faults in simulated time, on two cores: SIMULATE="--steps N --seed FIRST"
	@$(BIN)/python -m tests.simulation $(SIMULATE)

mutants: $(STAMP) ## old defects, put back one at a time: how many steps the simulation needs to find each
	@$(BIN)/python -m tests.simulation.mutants $(MUTANTS)

check: $(STAMP) ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## the speed figures, each next to its floor
	@$(BIN)/python -m bench

fuzz: $(STAMP) ## every reader protocol under a coverage-guided fuzzer, for FUZZ_SECONDS (60)
	@$(BIN)/python -m fuzz.protocols $(FUZZ_SECONDS)

soak: $(STAMP) ## the real process for HOURS (4), with outages, replugs and new keys: draws docs/soak.svg
	@$(BIN)/python -m bench.soak $${HOURS:-4}

soak-weeks: $(STAMP) ## the whole agent in simulated time for WEEKS (52), with faults each day: draws docs/soak-weeks.svg
	@$(BIN)/python -m bench.soak_weeks $${WEEKS:-52}

test-system: $(STAMP) ## the package on a real systemd, as root: RELEASES="trixie bookworm", ARCH=arm64
	@[ "$$(id -u)" = 0 ] || { echo "It boots a Debian, which takes root: sudo make test-system"; exit 1; }
	@for tool in debootstrap systemd-nspawn nsenter lintian; do command -v $$tool >/dev/null || { \
	  echo "$$tool is missing. Install it: sudo apt install debootstrap systemd-container util-linux lintian"; \
	  exit 1; }; done
	@$(BIN)/python -m pytest -q tests/system

test-machine: $(STAMP) ## the package on a whole machine in qemu, as root; figures of a small board with ARCH=arm64
	@[ "$$(id -u)" = 0 ] || { echo "It makes a Debian root, which takes root: sudo make test-machine"; exit 1; }
	@for tool in debootstrap qemu-img mke2fs setpriv qemu-system-$(if $(filter arm64,$(ARCH)),aarch64,x86_64); do \
	  command -v $$tool >/dev/null || { echo "$$tool is missing. Install it: sudo apt install debootstrap qemu-utils" \
	  "qemu-system-x86 qemu-system-arm qemu-user-static binfmt-support e2fsprogs util-linux"; exit 1; }; done
	@$(BIN)/python -m pytest -q tests/machine

test-bare: ## the README's commands on a Debian with nothing but its packages, as root: RELEASES="trixie bookworm"
	@for release in $${RELEASES:-trixie}; do .ci/bare-root $$release || exit 1; done

deb: ## the Debian package, in dist/
	@command -v dpkg-checkbuilddeps >/dev/null || { \
	  echo "The package tools are missing. Install them: sudo apt install dpkg-dev debhelper"; exit 1; }
	@dpkg-checkbuilddeps || { echo "Install what is missing: sudo apt build-dep ."; exit 1; }
	@rm -rf build/deb && mkdir -p build/deb/badge-agent dist
	@git ls-files -z --cached --others --exclude-standard | tar c --null -T - | tar x -C build/deb/badge-agent
	@cd build/deb/badge-agent && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || { \
	  tail -n 30 ../build.log; echo; echo "The package was not built. The whole log: build/deb/build.log"; exit 1; }
	@mv build/deb/*.deb dist/ && ls dist/*.deb

clean: ## remove what make made
	rm -rf $(VENV) .venv-debian-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

tools:
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing. Install it: sudo apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "badge-agent needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Debian 12 and Ubuntu 24.04 have it."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "python3-venv is missing. Install it: sudo apt install python3-venv"; exit 1; }

$(STAMP): pyproject.toml agent/__init__.py $(CONSTRAINTS) | tools
	@echo "Setting up $(VENV), once; this takes a minute and needs the package index ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]' \
	  $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
	@touch $@
