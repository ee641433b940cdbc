# Words: serve, test, lint, image, bench, clean, help. `make help` explains them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Debian's and Ubuntu's own place first: a second client on PATH may lack BuildKit.
DOCKER ?= $(if $(wildcard /usr/bin/docker),/usr/bin/docker,docker)
COMPOSE ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
IMAGE ?= ferry:latest
BASE_IMAGE ?= python:3.11-slim-bookworm
GRPC_PORT ?= 8500
REST_PORT ?= 8501

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SAMPLES := half_plus_two image_classifier text_classifier
BENCH_SAMPLES := resnet50 bert_small
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py)

.PHONY: serve test test-container lint lock image compose-single compose-single-down samples bench bench-models clean help
.DEFAULT_GOAL := help

serve: samples ## serve models-sample/half_plus_two: gRPC on 8500, REST on 8501 (GRPC_PORT=, REST_PORT=)
	exec $(RUN) -m app --port=$(GRPC_PORT) --rest_api_port=$(REST_PORT) \
		--model_name=half_plus_two --model_base_path=$(CURDIR)/models-sample/half_plus_two

test: samples ## run every test that needs no Docker Engine
	$(RUN) -m pytest -m "not container" $(ARGS)

test-container: samples ## build the image and test it in containers (needs a Docker Engine)
	DOCKER=$(DOCKER) $(RUN) -m pytest -m container tests/container $(ARGS)

lint: $(READY) ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

image: ## build the container image (IMAGE=ferry:latest)
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag $(IMAGE) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		--build-arg CREATED=$$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd) .

compose-single: samples image ## start compose/single.yml: one model in a container
	$(COMPOSE) -f compose/single.yml up -d

compose-single-down: ## stop it
	$(COMPOSE) -f compose/single.yml down

bench: samples ## measure what requests, versions and swaps cost, as ratios within one run
	$(RUN) bench/run.py
	$(RUN) bench/lifecycle.py

bench-models: samples ## measure what making models fast at load gains and costs (MODELS=name …)
	@$(RUN) models-sample/build.py $(BENCH_SAMPLES)
	$(RUN) bench/models.py $(MODELS)

samples: $(READY) ## build the sample models that are missing
	@$(RUN) models-sample/build.py $(SAMPLES)

# The environment is complete when the stamp is newer than the lock.
$(READY): requirements/dev.lock pyproject.toml
	@echo "Setting up $(VENV): TensorFlow and tools, some 300 MB to download the first time."
	@scripts/make-venv $(PYTHON) $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.lock
	$(RUN) -m pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet --editable .
	@touch $@

lock: $(READY) ## pin the newest allowed versions of all dependencies (needs uv)
	uv pip compile -q --upgrade pyproject.toml --extra dev --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --python-version 3.11 -o requirements/dev.lock
	uv pip compile -q pyproject.toml --override requirements/image-overrides.txt --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --python-version 3.11 \
		-c requirements/dev.lock -o requirements/image.lock

clean: ## remove what was built: environment, sample models, caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(addprefix models-sample/,$(SAMPLES) $(BENCH_SAMPLES)) models-sample/.building-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## say what there is
	@echo "make WORD, where WORD is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
