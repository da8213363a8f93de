# The verbs of this repository. `make help` lists them; each calls a small script of scripts/.
SHELL := /bin/sh
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help venv lock build lint fmt types house test test-long bench bench-config bench-healthd demo lab lab-shell lab-down clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## Make .venv from the locks, installing Debian's python3-venv if it is missing
	@sh scripts/setup.sh

lock: ## Make the locks of requirements/ and zipapp.lock anew (the one verb that looks for newer versions)
	@sh scripts/lock.sh

build: venv ## Build dist/ic.pyz
	@$(BIN)/python build_zipapp.py

lint: venv ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

fmt: venv ## Format, and fix what can be fixed by a machine
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: venv ## Check types
	@$(BIN)/basedpyright

house: venv ## Check who imports whom, and that every room has its twin
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/test_house.py

test: ## Everything but the long tests: build, lint, types, house, unit, lab and end-to-end
	@sh scripts/test.sh

test-long: ## Also the long ones: 30 kills, unscaled leases, fresh roots, a musl Python
	@sh scripts/test.sh --long

bench: build ## Timings of apply and down: a table, and JSON in bench/results/
	@$(BIN)/python -m bench

# COMPOSE names a docker compose 2.40.3 to compare with; CPU=1 takes CPU time, where a machine does other things too.
bench-config: build ## Timings of reading compose files; COMPOSE=BINARY compares with docker compose
	@$(BIN)/python -m bench.config $(if $(COMPOSE),--compose $(COMPOSE)) $(if $(CPU),--cpu)

bench-healthd: build ## Timings of the health daemon
	@$(BIN)/python -m bench.healthd

demo: ## Show the main job on this machine's Incus, or in the lab
	@sh scripts/demo.sh

lab: venv ## Bring up a real Incus server for tests
	@$(BIN)/python tests/lab/lab.py up

lab-shell: ## A shell inside the lab
	@$(BIN)/python tests/lab/lab.py shell

lab-down: ## Remove the lab
	@$(BIN)/python tests/lab/lab.py down

clean: ## Remove everything made here, .venv and caches included
	rm -rf .venv .cache build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
