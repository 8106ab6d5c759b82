# make run    executes every lesson into build/ and prints what came out     make test       everything CI checks
# make lab    opens JupyterLab                                               make test-long  the slow checks too
# make refresh  re-executes the lessons in place (stored outputs)             make bench      our speed against torchvision's
# make exercises  executes the solutions, writes the students' copies         make mutants    plants faults, counts those that tests catch
# make html   the course as pages in build/site   make test-browser  JupyterLab and the pages in a real Chromium
# make badges SLUG=owner/repository  points badges and first cells at a fork (default: git's origin); installs nothing
#
# Every target makes .venv and installs what is missing. PyTorch from PyPI brings CUDA on Linux (5 GB); a laptop takes the
# CPU build instead:   make run TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
READY := $(VENV)/ready

# Windows, too, reads and prints UTF-8
export PYTHONUTF8 = 1

.PHONY: run test test-long mutants lab refresh bench exercises images badges html test-browser clean
.DEFAULT_GOAL := run

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PY) -m pip install --disable-pip-version-check --index-url $(TORCH_INDEX) $(shell grep -E '^torch' requirements.txt))
	$(PY) -m pip install --disable-pip-version-check --progress-bar off -r requirements.txt
	@$(PY) -c "open('$(READY)', 'w').close()"

run: $(READY)
	$(PY) tests/lessons.py run

test: $(READY)
	$(PY) -m ruff check .
	$(PY) -m pytest -m "not long"

test-long: $(READY)
	$(PY) -m pytest

mutants: $(READY)
	$(PY) tests/mutants.py

lab: $(READY)
	$(PY) -m jupyter lab notebooks/01_residual_learning.ipynb

refresh: $(READY)
	$(PY) tests/lessons.py refresh

exercises: $(READY)
	$(PY) tests/exercises.py

bench: $(READY)
	$(PY) tests/bench.py

html: $(READY)
	$(PY) tests/pages.py $(SLUG)

test-browser: $(READY)
	$(PY) -m pytest -rs tests/browser.py -p no:nbval --override-ini=addopts=

images: $(READY)
	$(PY) images/draw.py

badges:
	$(PYTHON) tests/badges.py "$(SLUG)"

clean:
	rm -rf build $(VENV)
