# Words: serve, test, lint, image, bench, soak, release, clean, help. `make help` explains them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Debian's and Ubuntu's own place first: a second client on PATH may lack BuildKit.
DOCKER ?= $(if $(wildcard /usr/bin/docker),/usr/bin/docker,docker)
COMPOSE ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
IMAGE ?= ferry:latest
GPU_IMAGE ?= ferry:gpu
BASE_IMAGE ?= python:3.11-slim-bookworm
# linux/amd64 or linux/arm64; the engine's own if empty.
PLATFORM ?=
# Where the source is, for the image's label.
SOURCE ?=
GRPC_PORT ?= 8500
REST_PORT ?= 8501
# Each imports TensorFlow once and has servers of its own: 4 GB of memory a process.
TEST_PROCESSES ?= 3

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SAMPLES := half_plus_two image_classifier text_classifier
BENCH_SAMPLES := resnet50 bert_small
COMPILE := uv pip compile -q --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11
# As old a C library as the base image has.
AMD64 := --python-platform x86_64-manylinux_2_36
ARM64 := --python-platform aarch64-manylinux_2_36
LOCK := $(COMPILE) pyproject.toml --extra all -c requirements/dev.lock
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py)

# The commit's time, in seconds since 1970, and the base image's digest, if it is known.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 315532800)
BASE_DIGEST ?= $(or $(word 2,$(subst @, ,$(BASE_IMAGE))),$(shell $(DOCKER) image inspect \
	--format '{{join .RepoDigests " "}}' $(BASE_IMAGE) 2>/dev/null | sed -n 's/.*@//p'),unknown)

BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build $(if $(PLATFORM),--platform $(PLATFORM)) --build-arg VERSION=$(VERSION) \
	--build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg BASE_DIGEST=$(BASE_DIGEST) \
	--build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(if $(SOURCE),--build-arg SOURCE=$(SOURCE)) \
	--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	--build-arg CREATED=$$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)
LAYERS := $(DOCKER) image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}'

.PHONY: serve test test-container test-gpu lint lock image image-gpu compose-single compose-single-down compose-gpu \
	compose-gpu-down compose-monitoring compose-monitoring-down compose-models compose-models-down compose-tls \
	compose-tls-down compose-s3 compose-s3-down compose-web compose-web-down swarm swarm-down samples bench bench-models \
	soak reproducible audit release clean help
.DEFAULT_GOAL := help

serve: samples ## serve models-sample/half_plus_two: gRPC on 8500, REST on 8501 (GRPC_PORT=, REST_PORT=)
	exec $(RUN) -m app --port=$(GRPC_PORT) --rest_api_port=$(REST_PORT) \
		--model_name=half_plus_two --model_base_path=$(CURDIR)/models-sample/half_plus_two

test: samples ## run every test that needs no Docker Engine (TEST_PROCESSES=3, ARGS="-k word")
	$(RUN) -m pytest -m "not container" --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-container: samples ## build the image and test it in containers (needs a Docker Engine)
	DOCKER=$(DOCKER) $(RUN) -m pytest -m container tests/container $(ARGS)

test-gpu: image-gpu $(READY) ## build that image and test what needs no GPU of it (needs a Docker Engine)
	DOCKER=$(DOCKER) FERRY_TEST_GPU_IMAGE=$(GPU_IMAGE) $(RUN) -m pytest tests/container/test_gpu_image.py $(ARGS)

lint: $(READY) ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

image: ## build the container image (IMAGE=ferry:latest, PLATFORM=linux/arm64)
	$(BUILD) --tag $(IMAGE) .

image-gpu: ## build the image for NVIDIA GPUs, 6 GB, as ferry:gpu (GPU_IMAGE=)
	$(BUILD) --file Dockerfile.gpu --tag $(GPU_IMAGE) .

compose-single: samples image ## start compose/single.yml: one model in a container
	$(COMPOSE) -f compose/single.yml up -d

compose-single-down: ## stop it
	$(COMPOSE) -f compose/single.yml down

compose-gpu: samples image-gpu ## start compose/gpu.yml: one model on all GPUs of this machine
	FERRY_IMAGE=$(GPU_IMAGE) $(COMPOSE) -f compose/gpu.yml up -d

compose-gpu-down: ## stop it
	$(COMPOSE) -f compose/gpu.yml down

compose-monitoring: samples image ## start compose/monitoring.yml: one model, Prometheus, Grafana on port 3000
	$(COMPOSE) -f compose/monitoring.yml up -d

compose-monitoring-down: ## stop them
	$(COMPOSE) -f compose/monitoring.yml down

compose-models: samples image ## start compose/models.yml: the sample models, by a file that is read again
	$(COMPOSE) -f compose/models.yml up -d

compose-models-down: ## stop it
	$(COMPOSE) -f compose/models.yml down

compose-tls: samples image ## start compose/tls.yml: one model with TLS and a token, both made if missing
	compose/tls/prepare
	FERRY_USER=$$(id -u) $(COMPOSE) -f compose/tls.yml up -d

compose-tls-down: ## stop it
	$(COMPOSE) -f compose/tls.yml down

compose-s3: samples image ## start compose/s3.yml: one model from an S3 store
	$(COMPOSE) -f compose/s3.yml up -d

compose-s3-down: ## stop them; what is in the store stays
	$(COMPOSE) -f compose/s3.yml down

compose-web: samples image ## start compose/web.yml: a page on port 8080 that classifies pictures
	$(COMPOSE) -f compose/web.yml up -d

compose-web-down: ## stop it
	$(COMPOSE) -f compose/web.yml down

swarm: samples image ## start compose/swarm.yml on this machine's swarm: replicas behind a balancer
	DOCKER=$(DOCKER) FERRY_IMAGE=$(IMAGE) compose/swarm/deploy

swarm-down: ## stop it
	$(DOCKER) stack rm ferry

bench: samples ## measure what requests, versions, swaps and batches cost, as ratios within one run
	$(RUN) bench/run.py
	$(RUN) bench/lifecycle.py
	$(RUN) bench/batching.py --model image_classifier --clients 32

soak: $(READY) ## load, swap and mistreat a server for SECONDS=1800: nothing may be lost or grow
	$(RUN) bench/soak.py --seconds $(or $(SECONDS),1800)

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

reproducible: ## build the image anew and compare its layers with REFERENCE=ferry:latest, or else build it twice
	$(if $(REFERENCE),,$(BUILD) --no-cache --tag ferry:reproducible .)
	$(BUILD) --no-cache --tag ferry:rebuilt .
	@$(LAYERS) $(or $(REFERENCE),ferry:reproducible) >.layers; $(LAYERS) ferry:rebuilt | diff .layers - >&2; \
		status=$$?; rm .layers; [ $$status = 0 ] && echo "The layers are the same." || exit $$status

audit: $(READY) ## look for known vulnerabilities of the locked packages (status 1: some, 2: not all could be looked up)
	$(RUN) scripts/audit.py

release: $(READY) ## make images, packages, SBOMs, checksums and a tag (GPU=no, REGISTRY=…, AUDIT=report): docs/deploy.md
	+DOCKER=$(DOCKER) TOOLS=$(RUN) GPU=$(GPU) REGISTRY=$(REGISTRY) AUDIT=$(AUDIT) scripts/release

lock: $(READY) ## pin the newest allowed versions of all dependencies (needs uv)
	$(COMPILE) --upgrade pyproject.toml --extra dev $(AMD64) -o requirements/dev.lock
	$(LOCK) --override requirements/image-overrides.txt $(AMD64) -o requirements/image.amd64.lock
	$(LOCK) --override requirements/image-overrides.txt $(ARM64) -o requirements/image.arm64.lock
	$(LOCK) --override requirements/gpu-overrides.txt $(AMD64) -o requirements/gpu.lock
	$(COMPILE) requirements/sbom.in -c requirements/dev.lock $(AMD64) -o requirements/sbom.lock
	@# A wheel with a locked hash has to exist for all of them.
	for lock in image.arm64 sbom; do uv pip install -q --dry-run --no-deps --require-hashes --only-binary :all: \
		$(ARM64) --python-version 3.11 --target build/arm64 -r requirements/$$lock.lock || exit 1; done

clean: ## remove what was built: environment, sample models, caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(addprefix models-sample/,$(SAMPLES) $(BENCH_SAMPLES)) models-sample/.building-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## say what there is
	@echo "make WORD, where WORD is one of:"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
