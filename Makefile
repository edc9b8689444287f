# Two commands do everything: `make demo` (the main job, on a real VM) and `make test`.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n $(shell echo $$(($$(nproc) + 1)))
OWN_PROCESSES := $(if $(filter 0,$(shell id -u)),unshare --mount --pid --fork --mount-proc --kill-child sh -c '"$$@"; exit $$?' reaper)
TWO_GUESTS := QUIESCE_LAB_GUESTS=2 $(BIN)/pytest -n 2 --dist loadfile
STAMP := $(VENV)/.installed

.PHONY: azurite demo test lint unit fuzz fuzz-deep root qemu e2e e2e-part e2e-agent e2e-agent-part bench-vault vault-proof bench-scale bench-freeze bench-agents bench-routes bench-diagnosis four-families system-demo system-test system-bench system-wine wine clean docs

demo: system-demo $(STAMP)  ## back up and restore a real VM; EXIT=1 ends it instead of staying up
	$(BIN)/python -m quiesce.lab.demo $(if $(EXIT),--exit)

test: system-test lint unit fuzz root qemu wine e2e-part e2e-agent-part  ## everything that CI checks

lint: $(STAMP)  ## format, style, types, and the arrows between the rooms
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy src
	$(BIN)/lint-imports

unit: $(STAMP) $(VENV)/azurite/.installed  ## needs neither root nor a guest
	$(BIN)/pytest $(SIDE_BY_SIDE) --dist loadfile tests/unit

root: system-test $(STAMP)  ## freezes loop-mounted file systems, among processes of its own: needs root
	$(OWN_PROCESSES) $(BIN)/pytest $(SIDE_BY_SIDE) --dist worksteal -m "not alone" tests/root
	$(OWN_PROCESSES) $(BIN)/pytest -m alone tests/root

wine: system-wine $(STAMP)  ## the lines for Windows guests against Wine's registry and services
	$(BIN)/pytest tests/wine

qemu: system-test $(STAMP)  ## a QEMU without an operating system
	$(BIN)/pytest $(SIDE_BY_SIDE) --dist worksteal tests/qemu

e2e: system-test $(STAMP)  ## real guests
	$(BIN)/pytest tests/e2e

e2e-part: system-test $(STAMP)  ## of these, what CI has time for: all but the lab's own proofs
	$(TWO_GUESTS) -m "not long" tests/e2e

e2e-agent: system-test $(STAMP)  ## the stock Azure Linux agent on real guests, a line per scenario
	$(BIN)/pytest tests/agent

e2e-agent-part: system-test $(STAMP)  ## of these, what CI has time for
	$(TWO_GUESTS) -m "not long" tests/agent

fuzz: $(STAMP)  ## hostile guests, 5 s per test; QUIESCE_FUZZ_SECONDS, QUIESCE_FUZZ_SEED
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/fuzz

fuzz-deep: $(VENV)/.fuzz  ## the same led by coverage, in process; SECONDS=60 per target, TARGETS="storage report"
	$(BIN)/python tests/fuzz/deep_fuzz.py --seconds $(or $(SECONDS),60) $(TARGETS)

docs: $(STAMP)  ## regenerate what is generated in docs/
	$(BIN)/python -m quiesce.cli.main explain --reference > docs/reference/failures.md

vault-proof: $(STAMP)  ## nothing committed is ever lost: every sweep, and random histories; SECONDS=600, ONLY="collection"
	PYTHONPATH=tests/unit/vault $(BIN)/python tests/bench/vault_proof.py build/bench --seconds $(or $(SECONDS),600) $(if $(ONLY),--only "$(ONLY)")

bench-vault: system-bench $(STAMP)  ## beside restic, borg, casync, qemu-img, zstd; QUICK=1: 1 GB, minutes
	$(BIN)/python tests/bench/bench_vault.py build/bench $(if $(QUICK),--mib 1024)

bench-scale: $(STAMP)  ## index, GC, prune and verify plans of 10^6 to 10^8 chunks; QUICK=1: to 10^7
	$(BIN)/python tests/bench/bench_scale.py build/bench $(if $(QUICK),--chunks 1000000 10000000)

bench-freeze: system-test $(STAMP)  ## the server killed while a guest is frozen, ten times, a line each
	@QUIESCE_TRIES=$(or $(TRIES),10) $(BIN)/pytest -q -s -p no:warnings tests/e2e/test_bad_luck_freeze.py -k killed

bench-routes: system-test $(STAMP)  ## freeze and duration of both routes side by side; TRIES=10
	PYTHONPATH=tests/e2e:tests/agent $(BIN)/python tests/bench/bench_routes.py build/bench --tries $(or $(TRIES),10)

bench-diagnosis: system-test $(STAMP)  ## every fault of the lab, and the cause that is found; ONLY="name…"
	PYTHONPATH=tests/support:tests/e2e:tests/agent $(BIN)/python tests/bench/bench_diagnosis.py $(if $(ONLY),--only $(ONLY),--page docs/explanation/diagnosis-scoreboard.md)

four-families: system-test $(STAMP)  ## one failure of each family, as its owner sees it: a page of the docs
	PYTHONPATH=tests/support:tests/e2e:tests/agent $(BIN)/python tests/bench/four_families.py docs/explanation/four-families.md

bench-agents: $(STAMP)  ## 1,000 polling agents against one server; QUICK=1: 200 for 20 s
	$(BIN)/python tests/bench/bench_agents.py $(if $(QUICK),--agents 200 --seconds 20)

system-demo system-test system-bench system-wine: system-%:
	@./.ci/system $*

$(STAMP): pyproject.toml constraints.txt
	./.ci/python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Microsoft's emulator of Azure Blob Storage, for the tests of vaults in the cloud.
$(VENV)/azurite/.installed: $(STAMP)
	npm install --prefix $(VENV)/azurite --no-save --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel error azurite@3.37.0
	@touch $@

azurite: $(VENV)/azurite/.installed

$(VENV)/.fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@touch $@

clean:  ## what building left here; not the cache of guest images
	rm -rf $(VENV) build
