# Everything runs in the virtual environment `.venv`, which is created if needed. VENV=DIR uses the environment DIR
# instead, and installs nothing.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
ifdef VENV
RUNTIME :=
TOOLS :=
else
VENV := .venv
RUNTIME := $(VENV)/installed-package
TOOLS := $(VENV)/installed-tools
endif
RUN := $(VENV)/bin/python
STACK := $(RUN) -m core.cli stack
TESTS := tests/unit tests/integration tests/matrix tests/faults tests/coherence tests/chaos tests/end_to_end
# The number of test processes. More than the cores is useful, because tests mostly wait for servers. All tests of a
# file run in the same process.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist loadfile
UV ?= uv

.DEFAULT_GOAL := help
.PHONY: help up certs watch pin-images down status logs clean migrate seed backup restore chaos-redis chaos-db chaos-pool chaos-all chaos-failover chaos-sentinel test test-as-app test-docker check lint format bench kill-servers soak reference vulnerabilities sbom lock install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(RUNTIME) ## start the whole stack and load demo data (MODE=local or docker; PROFILE=tls, dev, replica, pooler, scale, sentinel; WORKERS=2 processes of the dashboard; KEEP_DATES=1 for the dates of 2000 to 2013)
	@$(if $(filter command,$(origin WORKERS)),DASHBOARD_WORKERS=$(call quote,$(WORKERS)) )$(STACK) up

certs: $(RUNTIME) ## make and renew the certificates of `make up PROFILE=tls`
	@$(STACK) certs

watch: ## restart the programs of `make up PROFILE=dev` when their sources change, until Ctrl-C
	@$(call if_installed,$(STACK) watch,exit 1)

pin-images: $(RUNTIME) ## write the digests of the images into compose.yaml; needs their registries
	@$(STACK) pin-images

down: ## stop the stack and keep its data
	@$(call if_installed,$(STACK) down)

status: ## show every program and the overall health; fails unless all is healthy
	@$(call if_installed,$(STACK) status,exit 1)

logs: ## show the logs of all programs (NAME=exporter for one, FOLLOW=1 to continue)
	@$(call if_installed,$(STACK) logs $(if $(FOLLOW),--follow) $(NAME))

clean: ## stop the stack and delete its data; asks on a terminal (ARGS=--yes does not)
	@$(call if_installed,$(STACK) clean $(ARGS))

migrate: $(RUNTIME) ## apply pending migrations to the running stack (ARGS=status or down)
	@$(STACK) run migrate $(ARGS)

seed: $(RUNTIME) ## replay price history in the running stack (ARGS="--players 1000 --sessions 250 --replace")
	@$(STACK) run seed $(ARGS)

backup: $(RUNTIME) ## write the running stack's database into backups/ (BACKUP_KEY encrypts it)
	@$(STACK) backup

restore: $(RUNTIME) ## start a stack without data with a backup (FILE=backups/NAME)
	@$(STACK) restore $(or $(FILE),$(error name the backup: make restore FILE=backups/NAME))

chaos-redis: $(RUNTIME) ## drill: pause Valkey of the running stack; fails unless the metrics show exactly that
	@$(STACK) drill redis $(ARGS)

chaos-db: $(RUNTIME) ## drill: shut PostgreSQL of the running stack down for a while
	@$(STACK) drill db $(ARGS)

chaos-pool: $(RUNTIME) ## drill: use up the pool of an additional process
	@$(STACK) drill pool $(ARGS)

chaos-all: $(TOOLS) ## break a stack of its own in every way under load, for six minutes; fails if a write is lost or a read stale
	@$(RUN) -m tests.chaos $(ARGS)

chaos-failover: $(TOOLS) ## promote the standby of a PostgreSQL pair of its own under load; fails if a write is lost or a read stale
	@$(RUN) -m tests.chaos.failover

chaos-sentinel: $(TOOLS) ## drill: failovers by real sentinels under load, on servers of its own; fails if a read is stale
	$(RUN) -m tests.coherence.sentinel_drill $(ARGS)

test: $(TOOLS) ## run all tests but those of containers (ARGS="-k leaderboard" for some)
	$(RUN) -m pytest $(PARALLEL) -m "not docker" $(TESTS) $(ARGS)

test-as-app: $(TOOLS) ## run the integration tests as the role of the application, which owns no table
	TESTS_AS_APP=1 $(RUN) -m pytest $(PARALLEL) -m "not docker" tests/integration $(ARGS)

test-docker: $(TOOLS) ## run the stack in containers and break it, for several minutes; skipped without an engine
	$(RUN) -m pytest -m docker tests/end_to_end/test_containers.py tests/end_to_end/test_container_profiles.py $(ARGS)

check: lint ## run lint and the tests of `make test`, with coverage
	$(RUN) -m pytest $(PARALLEL) -m "not docker" $(TESTS) --cov --cov-report=term $(ARGS)

lint: $(TOOLS) ## check style, formatting, import directions and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy

format: $(TOOLS) ## format the code and apply automatic fixes
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(TOOLS) ## measure against the bare drivers (ARGS="--scale small")
	$(RUN) -m tests.bench $(ARGS)

kill-servers: $(TOOLS) ## SIGKILL for PostgreSQL and Redis of the running containers during writes; fails if one is lost
	$(RUN) -m tests.chaos.containers --seconds $(or $(SECONDS),60) $(ARGS)

soak: $(TOOLS) ## check for stale reads under load (SECONDS=600); fails if there is one
	$(RUN) -m tests.coherence.soak --seconds $(or $(SECONDS),120) $(ARGS)

reference: $(TOOLS) ## write docs/api.md and the table of docs/settings.md from the code
	$(RUN) -m tests.reference

vulnerabilities: $(VENV)/installed-security ## look the locked packages up in public advisories (SOURCE=osv for another database)
	@$(RUN) -m tests.vulnerabilities $(VENV)/security/bin/pip-audit --vulnerability-service $(or $(SOURCE),pypi)

sbom: $(VENV)/installed-security ## write sbom.json: the packages of the image, in CycloneDX form
	@PYTHONWARNINGS=ignore $(VENV)/security/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--mc-type application --output-reproducible --output-file sbom.json
	@echo "wrote sbom.json"

lock: ## write the lock files, with hashes; needs uv
	$(UV) pip compile $(LOCK_OPTIONS) $(addprefix --extra ,dashboard exporter frames simulation) pyproject.toml \
		--output-file requirements.lock
	$(UV) pip compile $(LOCK_OPTIONS) --extra all --group build --constraint requirements.lock pyproject.toml \
		--output-file requirements-local.lock
	$(UV) pip compile $(LOCK_OPTIONS) --extra all --group dev --constraint requirements-local.lock pyproject.toml \
		--output-file requirements-dev.lock
	$(UV) pip compile $(LOCK_OPTIONS) --group pyproject.toml:security --output-file requirements-security.lock

LOCK_OPTIONS := --quiet --no-strip-extras --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'

install: $(TOOLS) ## create the virtual environment only

# quotes a text, so that the shell takes it as one word
quote = '$(subst ','\'',$(1))'

if_installed = if [ -x $(RUN) ]; then $(1); else \
	echo "nothing is installed here, so nothing runs; try make up"; $(or $(2),:); fi

# pip prints a line for every file. This filter prints a line for 20 packages, and everything if pip fails.
define PIP_PROGRESS
/^(Collecting|Requirement already)/ && ++count % 20 == 0 { print "  " count " of " total " packages"; fflush() }
/^Installing collected/ { print "  unpacking"; fflush() }
/^FAILED$$/ { exit status = 1 }
{ lines = lines $$0 "\n" }
END { if (status) printf "%s", lines; exit status }
endef
export PIP_PROGRESS
# pip would compile the byte code on one core, so compileall does it on all cores
install_locked = { $(or $(2),$(RUN)) -m pip install --disable-pip-version-check --progress-bar off --no-compile \
	--require-hashes --requirement $(1) 2>&1 || echo FAILED; } | \
	awk -v total="$$(grep -c == $(1))" "$$PIP_PROGRESS" && $(RUN) -m compileall -q -j 0 -x /tests/ $(VENV)/lib

# the packages that `make up` needs
$(VENV)/installed: requirements-local.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one with PYTHON=/path/to/python"; exit 2; }
	@echo "installing the locked packages into $(VENV)"
	@test -x $(RUN) || $(PYTHON) -m venv --clear $(VENV)
	@$(call install_locked,requirements-local.lock)
	@touch $@

# the checkout itself, as an editable installation: its commands, and the path of its packages
$(VENV)/installed-package: pyproject.toml $(VENV)/installed
	@$(RUN) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# the additional packages of `make test` and `make check`
$(VENV)/installed-tools: requirements-dev.lock $(VENV)/installed-package
	@echo "installing the locked tools into $(VENV)"
	@$(call install_locked,requirements-dev.lock)
	@touch $@

# a separate environment, so that the packages of these tools are not checked too
$(VENV)/installed-security: requirements-security.lock $(VENV)/installed
	@echo "installing the locked security tools into $(VENV)/security"
	@test -x $(VENV)/security/bin/python || $(RUN) -m venv $(VENV)/security
	@$(call install_locked,requirements-security.lock,$(VENV)/security/bin/python)
	@touch $@
