# make lab           opens JupyterLab on README, which lists the lessons
# make run           executes every lesson into build/ and prints the results
# make html          the course as a site in build/site, with search; installs docs/requirements.txt
# make test          all checks but the slow ones, in two processes (JOBS=4: in four)
# make test-long     the slow checks too
# make refresh       executes the lessons in place, on CIFAR-10, and redraws the tables
# make tables        redraws the tables of recorded runs
# make exercises     executes the solutions and writes the students' copies
# make images        redraws the diagrams
# make bench         measures our speed beside torchvision's
# make mutants       plants faults: do the tests notice?
# make test-browser  JupyterLab and the pages in a real Chromium
# make badges SLUG=owner/repository   points badges and first cells at a fork; installs nothing
# make clean         deletes build/ and .venv
#
# Every target but badges and clean makes .venv and installs what is missing. PyTorch from PyPI
# brings CUDA on Linux (5 GB); a laptop takes the CPU build instead:
#     make run TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
JOBS ?= 2
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
READY := $(VENV)/ready
SITE_READY := $(VENV)/ready-for-html
PIP := $(PY) -m pip install --disable-pip-version-check
TESTS := $(PY) -m pytest -n $(JOBS) --dist loadfile

# Windows, too, reads and prints UTF-8
export PYTHONUTF8 = 1

.PHONY: run test test-long mutants lab refresh tables bench exercises images badges html \
	test-browser clean
.DEFAULT_GOAL := run

# Threads that spin while they wait make everything several times slower on a busy machine. OpenMP
# reads this when Python starts. `make bench` measures with the default.
run test test-long mutants lab refresh exercises images html test-browser: \
	export OMP_WAIT_POLICY ?= PASSIVE
# one thread for each of the processes that test
test test-long: export OMP_NUM_THREADS = 1

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or \
		sys.exit('Python 3.11 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) $(shell grep -E '^torch' requirements.txt))
	$(PIP) --progress-bar off -r requirements.txt
	@$(PY) -c "open('$(READY)', 'w').close()"

$(SITE_READY): docs/requirements.txt $(READY)
	$(PIP) --progress-bar off -r docs/requirements.txt
	@$(PY) -c "open('$(SITE_READY)', 'w').close()"

run: $(READY)
	$(PY) tools/run_lessons.py run

test: $(READY)
	$(PY) -m ruff check .
	$(TESTS) -m "not long"

test-long: $(READY)
	$(PY) -m ruff check .
	$(TESTS)

mutants: $(READY)
	$(PY) tools/mutants.py

# its settings show Markdown rendered, not as text
lab: $(READY)
	$(PY) -m jupyter lab --LabApp.default_url=/lab/tree/README.md --LabApp.app_settings_dir=docs/jupyterlab

refresh: $(READY)
	$(PY) tools/run_lessons.py refresh

tables: $(READY)
	$(PY) tools/run_lessons.py tables

exercises: $(READY)
	$(PY) tools/release_exercises.py

bench: $(READY)
	$(PY) tools/bench.py

html: $(SITE_READY)
	$(PY) -m sphinx --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site
	@echo "The site is in build/site: open build/site/index.html"

test-browser: $(SITE_READY)
	$(PY) -m pytest -rs tests/support/browser.py -p no:nbval --override-ini=addopts=

images: $(READY)
	$(PY) images/draw.py

badges:
	$(PYTHON) tools/badges.py "$(SLUG)"

clean:
	rm -rf build $(VENV)
