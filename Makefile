# Everything a newcomer needs. `make` alone lists it. Needs git, a C compiler and Rust; dev/stack
# brings the servers.

.DEFAULT_GOAL := help
.PHONY: help demo test chaos limits scale e2e month bench peers soak curves profile fuzz dictionary settings security upgrade monitoring backup-test image env compose chart lint build stack stack-down

# Not by `cargo run -p`: with one package's features alone most dependencies would be built once more.
BUILD := cargo build --workspace --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/debug

# Speed is that of release builds. Reads RUNS, JSON, and BEFORE: a directory with other programs to measure in turn.
RELEASE := cargo build --release --locked -p worker -p coordinator -p cli -p load-tests
BENCH := $(TARGET)/release/bench $(if $(JSON),--json)

SCRIPTS := dev/stack dev/demo dev/check-export dev/dictionary dev/e2e dev/fuzz dev/security dev/upgrade dev/monitoring dev/backup-test dev/image dev/env dev/broker-users dev/peers dev/profile dev/compose dev/chart dev/lib.sh monitoring/alertmanager/configure .ci/run

help: ## This list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

demo: ## Two batches over a simulated market, proven equal (LIVE=1: one small batch over the real exchange)
	@LIVE=$(LIVE) dev/demo

test: ## All tests, against servers of this clone that are stopped again if they were not running
	@dev/stack run sh -c 'cargo test --workspace --locked && $(BIN)/chaos --short && $(BIN)/month --days 3 --ads 1500 --fiats 12 --plans-only --database p2p_short'

chaos: ## Faults at every step of a batch (SEED=7 ROUNDS=3 ONLY=redis), about 40 minutes a round
	@$(BUILD)
	@dev/stack run $(BIN)/chaos

limits: ## Proof that the fleet finds an exchange's limit, uses it, and is not refused: about four minutes
	@$(BUILD) --quiet
	@dev/stack run $(BIN)/limits

scale: ## A thousand workers on one limiter and one queue, and what that costs Redis and RabbitMQ: about two minutes
	@$(BUILD) --quiet
	@dev/stack run $(BIN)/scale

e2e: ## Status page in a real Chromium, dashboards and alerts in a real Prometheus (PARTS="alerts --every-alert")
	@dev/stack run dev/e2e $(PARTS)

month: ## 30 days of the whole market in a database, and every documented question timed (DAYS=30)
	@$(BUILD)
	@dev/stack run $(BIN)/month --days $(or $(DAYS),30)

bench: ## Ads a second from end to end, CPU by process, floors and storage (RUNS=3, JSON=1, BEFORE=directory of other programs)
	@$(RELEASE)
	@dev/stack run $(BENCH) suite --runs $(or $(RUNS),3) $(if $(BEFORE),--beside $(BEFORE))

peers: ## The same beside Celery and asyncio, which are installed into target/peers from PyPI (RUNS=3, PEERS="--peer NAME=COMMAND" for others)
	@$(RELEASE)
	@dev/peers
	@dev/stack run $(BENCH) peers --runs $(or $(RUNS),3) $(PEERS)

soak: ## 50 batches by the same processes after 24 that fill caches, their memory looked at (BATCHES=50); ends with an error if it grows: four minutes. Ten times the market, not judged: LOAD="--ads 300000 --fiats 110" BATCHES=3
	@$(RELEASE)
	@dev/stack run $(BENCH) soak --batches $(or $(BATCHES),50) $(LOAD)

curves: ## Throughput, close, plan and questions as they grow, drawn into docs/: nine minutes
	@$(RELEASE)
	@dev/stack run $(BENCH) curves

profile: ## Where a worker spends its time: shares by library and by symbol, by perf (LOAD="--ads 30000 --batches 5")
	@$(RELEASE)
	@dev/stack run dev/profile $(LOAD)

fuzz: ## Fuzz targets of the parser (SECONDS=60, in all); ends with an error if one finds something
	@dev/fuzz $(or $(SECONDS),60)

dictionary: ## Make docs/data-dictionary.md from the comments of the schema
	@cargo build -p cli --locked --quiet
	@dev/stack run dev/dictionary

backup-test: ## Point-in-time recovery on a server of its own (dumps are tested by make test)
	@$(BUILD) --quiet
	@dev/stack run dev/backup-test

monitoring: ## Check alert rules, dashboards, Alertmanager's configuration and runbook; starts nothing
	@dev/monitoring

image: ## Build the container image and try it: user, version, health, a batch in containers
	@dev/stack run dev/image

env: ## Random passwords for Docker Compose into .env, which is never changed if it is there
	@dev/env

compose: ## Have the real Compose read docker-compose.yml, and judge what it made of it
	@dev/compose

chart: ## Render the Helm chart with Helm 3 and 4 and judge the objects, hostile values included
	@dev/chart

settings: ## Make docs/CONFIGURATION.md and .env.example from what the programs read
	@cargo build -p cli --locked --quiet
	@$(BIN)/p2p settings > docs/CONFIGURATION.md
	@{ $(BIN)/p2p settings --env; echo; sed -n '/^# --- alerts ---/,$$p' .env.example; } > .env.example.new
	@mv .env.example.new .env.example

security: ## Dependencies, advisories, SBOM, secrets, SQL made of strings; says what could not be checked
	@dev/security

upgrade: ## Programs of an earlier version (FROM=, else the last tag) beside these, proven equal
	@dev/stack run dev/upgrade $(FROM)

lint: ## Formatting, clippy with warnings as errors, shellcheck if it is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x $(SCRIPTS); else echo 'shellcheck is not installed: scripts not checked'; fi

build: ## Release binaries in target/release
	cargo build --release --locked

stack: ## Start this clone's PostgreSQL, Redis and RabbitMQ
	@dev/stack up

stack-down: ## Stop them (dev/stack down --purge also deletes their data)
	@dev/stack down
