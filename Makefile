# One command from a fresh machine: `make demo` or `make test`. Both build on `make install`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OPEN ?= 1
PORT ?= 8080
DEMO_SCENE := scenes/sample_room
STAMP := $(VENV)/.installed

.PHONY: install test test-all lint demo clean

install: $(STAMP)

# torch comes first and from the constraints file, so that no other package pulls in a CUDA build.
$(STAMP): pyproject.toml CMakeLists.txt constraints-ci.txt $(wildcard ltgs/native/src/*.cpp ltgs/native/src/*.h)
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-ci.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-ci.txt -e '.[dev]'
	touch $(STAMP)

test: install
	$(BIN)/python -m pytest -m "not slow and not gpu and not bench" tests

test-all: install
	$(BIN)/python -m pytest tests

lint: install
	$(BIN)/ruff check ltgs viewer tests
	$(BIN)/mypy

demo: install
	$(BIN)/ltgs reconstruct datasets/sample_room/photos -o $(DEMO_SCENE) --preset cpu_small --holdout-every 8 --resume
	$(BIN)/ltgs info $(DEMO_SCENE)
	$(BIN)/ltgs eval $(DEMO_SCENE)
	@if [ "$(OPEN)" != "0" ]; then $(BIN)/ltgs view $(DEMO_SCENE) --port $(PORT); fi

clean:
	rm -rf build $(DEMO_SCENE)
