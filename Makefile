# `make serve` and `make test` work in a fresh clone with Python 3.11 or newer and make, without
# root. What is made lives in .venv, for `make test-stub` in .venv-gpu.  ONNXRUNTIME=cpu|gpu and
# PYTHON=... choose what goes into .venv.

# Every target works in the one environment, so a parallel make runs them one after the other.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help serve test test-stub check protos bench load image image-test test-gpu bench-gpu \
  bench-autoscaling test-rollout test-monitoring test-manifests dashboard dashboard-picture environment dev

BIN := .venv/bin

# More arguments for the program that a target runs: make test ARGS="-k probe".
ARGS ?=

# How many processes share the tests: as many as CI has cores. Tests of load start more themselves.
WORKERS ?= 2

# Which image: cpu or gpu.
VARIANT ?= cpu

# Where the server listens, from the variables that it reads itself.
HTTP := $(or $(STOKER_HTTP_PORT),8000)
GRPC := $(or $(STOKER_GRPC_PORT),8001)
METRICS := $(or $(STOKER_METRICS_PORT),8002)
LISTENS := $(or $(patsubst --host=%,%,$(filter --host=%,$(subst --host ,--host=,$(ARGS)))),$(STOKER_HOST))
# As a URL has it: an IPv6 address in brackets, and any address by that of this machine.
HOST := $(or $(if $(findstring :,$(LISTENS)),[$(patsubst ::,::1,$(LISTENS))],$(filter-out 0.0.0.0,$(LISTENS))),localhost)

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: environment ## Serve the demo models (ARGS="my/models": yours). Ports: STOKER_HTTP_PORT, ...
	@printf '%s\n' \
	  "REST     http://$(HOST):$(HTTP)/v2" \
	  "gRPC     $(HOST):$(GRPC)" \
	  "metrics  http://$(HOST):$(METRICS)/metrics, with /livez /readyz /startupz" \
	  "" \
	  "Once the server says that it is ready, this asks it for the digit on a picture of a 7:" \
	  "" \
	  "    curl -s http://$(HOST):$(HTTP)/v2/models/digits/infer -d @server/stoker/demo/images/digit-7.json" \
	  ""
	@exec $(BIN)/stoker serve $(ARGS)

# Files stay whole, since their tests share servers, and go out in their order, so that what takes
# long (rollouts, servers) is not left to the end.
test: check ## Linters, types and all tests, in two processes (WORKERS=N).
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-stub: ## Tests of the real CUDA provider without a GPU; the first time downloads 1.6 GB.
	@VENV=.venv-gpu ONNXRUNTIME=gpu scripts/environment dev
	.venv-gpu/bin/pytest tests/stub $(ARGS)

# Ten minutes: each of five rollouts goes on for a minute (ARGS="--rollout-seconds 300" for more).
test-rollout: dev ## Replace and kill replicas behind haproxy under load; writes build/rollout.md.
	$(BIN)/python -m pytest tests/rollout -p tests.rollout.report --rollout-seconds 60 \
	  --rollout-report build/rollout.md $(ARGS)

test-manifests: dev ## Render every overlay and combination; validate, lint, hold them against the server.
	$(BIN)/pytest tests/contract/test_manifests.py tests/contract/test_components.py \
	  tests/contract/test_combinations.py tests/contract/test_cel_rules.py tests/contract/test_pod_security.py \
	  tests/contract/test_network_policy.py tests/contract/test_autoscaling_manifests.py \
	  tests/contract/test_kserve.py tests/contract/test_kserve_server.py tests/contract/test_recipes.py \
	  tests/contract/test_models_download.py tests/contract/test_rendered_server.py \
	  tests/contract/test_probe_budgets.py tests/contract/test_kubernetes_document.py \
	  tests/contract/test_lint_manifests.py $(ARGS)

test-monitoring: dev ## Metrics, rules and dashboard against a real Prometheus and promtool.
	$(BIN)/pytest tests/contract/test_alert_rules.py tests/contract/test_recorded_series.py \
	  tests/contract/test_monitoring.py tests/contract/test_two_deployments.py \
	  tests/contract/test_metrics_table.py tests/contract/test_served_metrics.py \
	  tests/server/test_prometheus.py tests/server/test_dashboard.py tests/server/test_many_models.py \
	  $(ARGS)

check: dev ## Linters and types only.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

protos: dev ## Generate server/stoker/protocol from protos/.
	$(BIN)/python scripts/make_protos.py

dashboard: dev ## Write the Grafana dashboard from scripts/dashboard/.
	$(BIN)/python -m scripts.make_dashboard

dashboard-picture: dev ## Draw the dashboard with data of a server under load (needs chromium).
	$(BIN)/python -m scripts.draw_dashboard $(ARGS)

bench: dev ## Rates, CPU and latencies beside references in one run; takes some 6 minutes.
	@$(BIN)/python -m benchmarks.side_by_side $(ARGS)

bench-autoscaling: dev ## Signals to scale on, simulated; some 10 minutes, build/autoscaling.png.
	@$(BIN)/python -m benchmarks.autoscaling --keep build/autoscaling.jsonl \
	  --plot build/autoscaling.png $(ARGS)

load: dev ## Load the server of `make serve` for 20 s, half REST and half gRPC.
	$(BIN)/locust -f benchmarks/locustfile.py --headless --users 50 --spawn-rate 50 --run-time 20s \
	  --host http://localhost:$(HTTP) --grpc-host localhost:$(GRPC) $(ARGS)

image: dev ## Build the image without a daemon, as root on Debian (VARIANT=gpu: with CUDA).
	$(BIN)/python -m scripts.build_image --variant $(VARIANT) --output .image/$(VARIANT) $(ARGS)

image-test: image ## Build the image, look into it, and run it as a pod does. Takes minutes.
	IMAGE_LAYOUT=.image/$(VARIANT) $(BIN)/pytest tests/image

test-gpu: dev ## The checks on GPU hardware; writes build/gpu-report.md. ONNXRUNTIME=gpu decides.
	$(BIN)/python -m pytest tests/gpu -m gpu -p tests.gpu.report --gpu-report build/gpu-report $(ARGS)

bench-gpu: dev ## What each step of the GPU's path gains; writes build/gpu-bench.md.
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

environment:
	@scripts/environment

dev:
	@scripts/environment dev
