# `make run` and `make test` do everything on a machine that has Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check format install clean image sbom licences

run: install
	$(BIN)/rayml run jobs/digits.yaml

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed

# The lock names a sha256 for every file of every dependency; pip refuses anything else.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("rayml needs Python 3.11 to 3.14, this is %d.%d; set PYTHON=..." % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# docs/image.md: TARGET=cpu or cuda. The digest of the base lies in cluster/image/base.digest once you have put it there.
TARGET ?= cpu
IMAGE ?= my-rayml
BASE_IMAGE := docker.io/library/python
BASE_DIGEST ?= $(shell cat cluster/image/base.digest 2>/dev/null)
ENGINE ?= $(shell command -v docker || command -v podman)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
export SOURCE_DATE_EPOCH

image:
	@case '$(TARGET)' in cpu|cuda) ;; *) echo 'error: TARGET=$(TARGET) is not cpu or cuda' >&2; exit 2;; esac
	@printf '%s\n' '$(BASE_DIGEST)' | grep -Eqx 'sha256:[0-9a-f]{64}' || { echo "error: BASE_DIGEST='$(BASE_DIGEST)' is no digest, and a tag is not enough: docker buildx imagetools inspect $(BASE_IMAGE):3.11-slim-bookworm --format '{{.Manifest.Digest}}' > cluster/image/base.digest" >&2; exit 2; }
	@test -f cluster/image/torch-$(TARGET).lock || { echo 'error: there is no cluster/image/torch-$(TARGET).lock: docs/image.md says how to make it' >&2; exit 2; }
	@test -n '$(ENGINE)' || { echo 'error: neither docker nor podman is here: install one, or name another with ENGINE=' >&2; exit 2; }
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) --file cluster/image/Dockerfile --target $(TARGET) \
	  --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg BASE_DIGEST=$(BASE_DIGEST) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(REVISION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(BUILD_ARGS) --tag $(IMAGE) .

# docs/supply-chain.md: what is installed here, and what goes into an image.
sbom: install
	mkdir -p build/sbom
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 --output-reproducible --output-file build/sbom/environment.cdx.json $(BIN)/python
	$(BIN)/python cluster/image/sbom.py --target $(TARGET) --base-digest '$(BASE_DIGEST)' --output build/sbom/image-$(TARGET).cdx.json

licences: install
	$(BIN)/python cluster/image/licences.py

clean:
	rm -rf $(VENV) .rayml build
