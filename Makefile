# Two commands are the quickstart: `make demo` and `make test`. Each installs what it needs first; `make help` lists the rest.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.moontide-runtime
DEV := $(VENV)/.moontide-dev
SETUP := scripts/setup.sh
NATIVE := $(wildcard native/*)
KAFKA := build/kafka/checked
KAFKA_PORT ?= 9092
KAFKA_DATA ?= build/kafka/data
DEMO_OUT ?= build/demo
PYTEST := $(BIN)/python -m pytest
PYTEST_ARGS ?=
# DuckDB's binding lists its own leaked objects at interpreter exit: a hundred lines after the summary.
NANOBIND := '^(nanobind:| - (leaked|\.\.\. skipped)|See https://nanobind)'
QUIET_EXIT := 2> >(grep --line-buffered -vE $(NANOBIND) >&2)
LEVELS := $(wildcard $(addprefix tests/,unit golden architecture contract parity integration e2e faults))
BESIDE := $(filter tests/integration tests/e2e,$(LEVELS))
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

.PHONY: help setup setup-dev java redis chromium kafka kafka-stop lock lint types layers unit contract architecture integration properties test test-faults demo bench bench-serving train-small ranking spark-zip clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

# The development set is a superset of the runtime set, so either stamp will do for the demo.
$(RUNTIME): lock/runtime.txt pyproject.toml $(SETUP) $(NATIVE)
	@for made_of in lock/dev.txt pyproject.toml $(NATIVE); do [[ $(DEV) -nt $$made_of ]] || exec $(SETUP) python runtime; done; touch $@

$(DEV): lock/dev.txt pyproject.toml $(SETUP) $(NATIVE)
	@$(SETUP) python dev

$(KAFKA): scripts/kafka.sh scripts/kafka/pom.xml scripts/kafka/jars.sha256 | java
	@$(SETUP) kafka
	@scripts/kafka.sh fetch

setup: $(RUNTIME) java $(KAFKA) ## install what the demo, the jobs and serving need
setup-dev: $(DEV) java redis chromium $(KAFKA) ## the same, with training and the test tools (about 3 GB to download)

java:
	@$(SETUP) java

redis:
	@$(SETUP) redis

chromium:
	@$(SETUP) chromium

kafka: setup ## start a Kafka broker on loopback with the topics; KAFKA_PORT and KAFKA_DATA choose where
	@scripts/kafka.sh start --port $(KAFKA_PORT) --data $(KAFKA_DATA)
	@$(BIN)/python -m streaming.topics --servers 127.0.0.1:$(KAFKA_PORT)

kafka-stop: ## stop it; its data stays
	@scripts/kafka.sh stop --data $(KAFKA_DATA)

lock: $(DEV) ## resolve the dependencies again, keeping locked versions where they still fit
	$(UV_COMPILE) --extra spark --extra stream pyproject.toml -o lock/runtime.txt
	$(UV_COMPILE) --extra dev pyproject.toml -o lock/dev.txt

lint: $(DEV) ## ruff: style, imports, security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## mypy, strict, on floors 0 and 1
	$(BIN)/mypy --strict moontide

layers: $(DEV) ## import-linter: imports go down the floors only
	$(BIN)/lint-imports

unit: setup-dev ## the tests that need no service
	$(PYTEST) -m "unit or golden or architecture" $(PYTEST_ARGS) $(QUIET_EXIT)

contract: setup-dev ## one suite over every store
	$(PYTEST) -m "contract or parity" $(PYTEST_ARGS) $(QUIET_EXIT)

integration: setup-dev ## real Redis, Milvus, Spark and Feast; whole commands; kills
	$(PYTEST) -m "integration or e2e or faults" $(PYTEST_ARGS) $(QUIET_EXIT)

test-faults: setup-dev ## every fault of the consumer at full size, three seeds each, and of serving, about 50 minutes; writes docs/fault-report.md
	$(BIN)/python tests/faults/stream/run.py --seeds 3 --out docs/fault-report.md
	$(BIN)/python -m tests.faults.serving.run --out docs/fault-report.md

properties: setup-dev ## every property again, under examples that were never tried; a finding becomes an @example
	$(PYTEST) --hypothesis-profile search tests/unit tests/contract tests/parity $(PYTEST_ARGS) $(QUIET_EXIT)

# Half of the time of the levels with services is waiting for them, so they run beside the others; what they say comes after.
test: setup-dev lint types layers ## every check and every test
	@mkdir -p build; $(PYTEST) -q $(BESIDE) $(PYTEST_ARGS) > build/test-beside.log 2>&1 & beside=$$!; failed=0; \
	$(PYTEST) -q $(filter-out $(BESIDE),$(LEVELS)) $(PYTEST_ARGS) $(QUIET_EXIT) || failed=$$?; \
	wait $$beside || failed=$$?; grep -vE $(NANOBIND) build/test-beside.log; exit $$failed

demo: setup ## the main job on the shipped data, then Kafka and the consumer; ends with a table and build/demo/report.html
	$(BIN)/moontide demo --out $(DEMO_OUT)

bench: setup-dev ## the short benchmarks of docs/benchmarks.md, which names the long ones too
	$(BIN)/python -m benchmarks.packed_read
	$(BIN)/python -m benchmarks.backfill speed
	$(BIN)/python -m benchmarks.freshness

# One thread for numpy's product, ours and the peers' alike.
bench-serving: setup-dev ## serving beside raw Redis, DuckDB and Feast, about 15 minutes; writes its section of docs/benchmarks.md
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.serving --docs docs/benchmarks.md $(QUIET_EXIT)

train-small: setup-dev ## train the shipped encoder again into build/moon_v2 and compare its figures with the shipped ones
	$(BIN)/python -m encoders.train --config small --data training/data/clothing training/data/luma training/data/online_retail \
	  --cutoff 2011-07-01 --version 2 --out build/moon_v2 --checkpoints build/train --features-cache build/features --threads 2
	$(BIN)/python -m encoders.study reproduce build/moon_v2 --shipped artifacts/moon_v2 --spread docs/models/moon_v2_seeds.json

# A text-only space learnt before July, its catalog encoded into the offline log, a training set joined point in time, models compared.
RANKING := build/ranking
RETAIL := training/data/online_retail
RANKING_ARGS ?= --lengths 50 --seeds 1 --models simtier make simtier_make similarity
ranking: setup-dev ## the tables of docs/results.md on the shipped data, under fewer seeds: RANKING_ARGS says which; ends in build/ranking/table.md
	$(BIN)/python -m encoders.lexical --data $(RETAIL) --cutoff 2011-07-01 --out $(RANKING)/moontext_v1
	$(BIN)/python -m ranking.text_svd --data $(RETAIL) --dim 128 --out $(RANKING)/charsvd.npz
	$(BIN)/python examples/retail_site.py --data $(RETAIL) --artifact $(RANKING)/moontext_v1 --home $(RANKING)/home
	$(BIN)/python -m jobs.backfill_embeddings --home $(RANKING)/home --catalog $(RANKING)/home/catalog.parquet --space moontext_v1 \
	  --history --skip-index
	$(BIN)/python -m jobs.training_set --home $(RANKING)/home --purchases $(RETAIL) --variant new --seed 7 --space moontext_v1 --length 1000 \
	  --tiers 40 --out $(RANKING)/set --overwrite
	$(BIN)/python -m ranking.compare --data $(RANKING)/set --spaces moon=set charsvd=$(RANKING)/charsvd.npz $(RANKING_ARGS) --out $(RANKING)/runs

spark-zip: setup ## dist/moontide.zip for spark-submit --py-files (Spark takes no .whl on executors)
	$(BIN)/python -m jobs.package --out dist/moontide.zip

clean: ## remove build outputs; the virtual environment stays
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache spark-warehouse metastore_db
