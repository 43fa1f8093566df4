# make run serves the product; make test passes the whole suite; both install what is missing. make model trains anew.
.PHONY: run test conformance soak bench bench-quick bench-settings bench-steps scaling lint model nginx test-tools

export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin
DATA ?= ../shared/data

run: .venv/serving nginx
	@exec ./entrypoint.sh

test: .venv/dev nginx test-tools
	pytest

# IMAGE=name: one that is built already, with whatever model.sav.
conformance: .venv/dev
	pytest -q tests/test_conformance.py

soak: .venv/dev nginx
	pytest tests/test_scorer.py --texts 1000000
	pytest tests/test_hostile.py -k generated --requests 100000
	pytest tests/test_stop.py -k under_load --stops 5
	pytest tests/test_faults.py tests/test_limits.py tests/test_overload.py --minutes 10

bench bench-quick: .venv/dev nginx
	@./install wrk wrk
	python -m benchmarks.run $(if $(filter bench-quick,$@),--quick)

bench-settings bench-steps: .venv/dev nginx
	@./install wrk wrk
	python -m benchmarks.$(@:bench-%=%)

scaling: .venv/dev
	@./install wrk wrk
	python -m benchmarks.scaling

lint: .venv/dev
	ruff check . && ruff format --check .
	mypy .
	./install shellcheck shellcheck
	shellcheck entrypoint.sh install .ci/run .ci/lint-nginx .ci/pin-hashes
	hadolint Dockerfile
	cc -std=c11 -O2 -fsyntax-only -Wall -Wextra -Wconversion -Wshadow -Wvla -Werror scorer.c
	./.ci/lint-nginx

# The fit stops before it has converged, so that sums in another order, as other kernels for this processor would have them, give
# another model (with AVX-512 four of the book's names fewer are right): here those that every x86-64 of today has.
model: export OPENBLAS_CORETYPE = Haswell
model: export NPY_DISABLE_CPU_FEATURES = X86_V4 AVX512_ICL AVX512_SPR
model: .venv/dev
	python -m training.train --data $(DATA) $(if $(filter no,$(BOOK)),--no-book)

nginx:
	@./install nginx nginx

test-tools:
	@./install chromium chromium
	@./install curl curl
	@./install ps procps
	@./install ss iproute2
	@./install jq jq

# Two marks, so that `make run` does not install what only tests need.
.venv/serving: requirements.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 must be 3.11 or newer")'
	@./install ensurepip python3-venv
	@./install cc gcc libc6-dev
	@echo "installing the Python packages that serving needs into .venv"
	@python3 -m venv .venv && pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && touch $@

.venv/dev: requirements-dev.txt .venv/serving
	@echo "installing the Python packages that tests and training need into .venv"
	@pip install --quiet --disable-pip-version-check -r requirements-dev.txt && touch $@
