# Everything sets itself up in .venv/; nothing is installed outside it and the cache (~/.cache/edgebench).
PYTHON ?= python3
PYTEST_ARGS ?=
DB := edgebench.sqlite

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENGINE := $(VENV)/.engine
ROOMS := quantize runners devices results

.DEFAULT_GOAL := help
.PHONY: help check setup demo phone test lint types docs wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s  %s\n", $$1, $$2 }' Makefile

check: ## is everything there that can't be installed into .venv?
	@python=; venv=; compiler=; then=; \
	if ! command -v $(PYTHON) >/dev/null; then python=python3; venv=python3-venv; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		python=python3.11; venv=python3.11-venv; then='  # then: make PYTHON=python3.11'; \
	elif ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then venv=$(notdir $(PYTHON))-venv; fi; \
	found() { for name; do command -v "$$name" >/dev/null && return; done; return 1; }; \
	found $${CC:-cc gcc clang} && found $${CXX:-c++ g++ clang++} || compiler=g++; \
	found make gmake && make= || make=make; \
	if [ -n "$$python$$venv$$compiler$$make" ]; then \
		if found brew && ! found apt-get; then \
			[ -z "$$python$$venv" ] || python=python@3.13; [ -z "$$compiler" ] || compiler=gcc; \
			echo brew install $$python $$make $$compiler; \
		else echo "sudo apt install" $$python $$venv $$make $$compiler $${then:+"$$then"}; fi; \
		exit 1; \
	fi

setup: $(ENGINE) ## .venv with edgebench, its tools and the engine (built from source once: 6 to 15 minutes)

$(INSTALLED): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(ENGINE): $(INSTALLED)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m edgebench.runners.engine_build
	@touch $@

demo: $(ENGINE) ## measure six levels of a small model on this computer: edgebench.sqlite and pareto.png
	$(BIN)/edgebench run --device local -m smollm2-135m --quant f16,q8_0,q5_0,q4_1,q4_0,q2_k \
		--suite everyday --scorer cloze --noise-floor --db $(DB)
	$(BIN)/edgebench pareto --db $(DB) --x decode_tokens_per_s --y acc --out pareto.png

phone: $(INSTALLED) ## a stand-in phone for the tests that need one: made once, on Debian 12 as root (1 minute)
	@cd tests/phone && "$(CURDIR)/$(BIN)/python" -m stand_in

test: $(ENGINE) ## all tests; PYTEST_ARGS="-m 'not slow'" for the quick ones
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(INSTALLED) ## docs/cli.md and docs/schema.md from the code
	$(BIN)/python docs/generate.py

types: $(INSTALLED) ## mypy --strict, on a tree where the rooms stand inside edgebench/ as they do when installed
	@rm -rf build/types && mkdir -p build/types/edgebench
	@for path in edgebench/* $(ROOMS); do ln -s "$(CURDIR)/$$path" build/types/edgebench/; done
	cd build/types && MYPYPATH=. "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" -p edgebench

# What a wheel may lack although the checkout works: modules, data files, a name of its own in site-packages.
define WHEEL_CHECK
import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

source = Path(sys.argv[1])
taken = [name for name in "$(ROOMS)".split() if importlib.util.find_spec(name)]
patterns = ("edgebench/suites/data/*.toml", "edgebench/suites/data/*.jsonl", "edgebench/py.typed",
            "devices/profiles/*.toml", "quantize/*.toml", "quantize/data/*.txt", "edgebench/core/environments/*.txt")
modules = ["edgebench/**/*.py", *(f"{room}/**/*.py" for room in "$(ROOMS)".split())]
absent = [pattern for pattern in patterns if not any(source.glob(pattern))]
for pattern in (*patterns, *modules):
    for file in source.glob(pattern):
        inside = file.relative_to(source).as_posix().removeprefix("edgebench/")
        if not (files("edgebench") / inside).is_file():
            absent.append(inside)
print("the wheel has all modules and data" if not absent else f"the wheel lacks: {absent}")
sys.exit(f"the wheel takes the names {taken}" if taken else bool(absent))
endef
export WHEEL_CHECK

wheel: $(INSTALLED) ## build the wheel, install it outside the tree, try it
	@rm -rf build/lib build/bdist.* build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	@unset PYTHONPATH; folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder/venv" && \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel/*.whl && \
	cd "$$folder" && for words in --version --help "runners list"; do \
		echo "edgebench $$words"; venv/bin/edgebench $$words || exit 1; \
	done && venv/bin/python -I -c "$$WHEEL_CHECK" "$(CURDIR)"

clean: ## remove .venv and build products; results and the cache stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find edgebench $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +
