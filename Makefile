# make demo    install, then audit the bundled model and write its report
# make test    install what the tests need, then run all of them, notebooks included
# make bench   every benchmark in its quick form
# make reproduce   the claims of the paper on the bundled models (or WORLD=, PHOTOS=, LESIONS=), into out/reproduction; resumes
# make reproduce-ci   the same on two bundled models, in less than five minutes
# make lab     the notebooks, in JupyterLab
# make docs    the documentation site, into docs/_build/site
# make data    rebuild the bundled picture world from its seed (long; resumes)
# make lint    ruff, mypy and codespell
# make clean   remove what builds and runs leave behind; the environment stays

VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS = $(wildcard notebooks/*.ipynb)
BENCHMARKS = $(filter-out $(addprefix benchmarks/,results.py pieces.py memory.py baselines.py worlds.py sensitivity.py kinship.py confidence.py cuda.py recovered.py audit_budget.py repair_cases.py repair_ways.py photo_habits.py gate_foreign.py gate_trainings.py gate_judging.py),$(wildcard benchmarks/*.py))

.PHONY: help demo test bench reproduce reproduce-ci lab docs data lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# make/make/p' Makefile

# The first Python on the path that is new enough; PYTHON=... picks another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$p; break; }; done)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "clipattr needs Python 3.11 or later on the path (or PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps make a second call instant; a changed list of dependencies makes it install again.
$(VENV)/.stamp: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.stamp

$(VENV)/.stamp-docs: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/.stamp

demo: $(VENV)/.stamp
	$(BIN)/clipattr demo

# Three runs of pytest: all that needs neither browser nor kernel, then the notebooks, both by WORKERS processes of one thread;
# and one by one the browser tests, which share servers. Notebooks are executed; cells that ask for it (NBVAL_CHECK_OUTPUT)
# have their outputs compared too. A browser test that times out is run once more, and the summary names it. Last the
# coverage of clipattr/, by module where something is missing.
WORKERS ?= 2
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.stamp-dev
	@status=0; \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD) --cov --cov-report= --ignore=tests/browser tests || status=$$?; \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
		--nbval-sanitize-with notebooks/sanitize.cfg $(NOTEBOOKS) || status=$$?; \
		$(BIN)/python -m coverage run --append -m pytest --reruns 1 --only-rerun TimeoutError tests/browser || status=$$?; \
		$(BIN)/python -m coverage report; exit $$status

bench: $(VENV)/.stamp-dev
	@failed=; for file in $(BENCHMARKS); do \
		echo "== $$file"; $(BIN)/python $$file --quick || failed="$$failed $$file"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# FORM=--small takes the sizes for a few thousand pictures (the better part of an hour), FORM= those of the paper.
# WORLD, a name that `benchmarks/worlds.py list` prints, takes the model that it trained and the pictures that it wrote
# into the folder WORLDS; WORLD_MODELS, names separated by commas, takes other models of its kind. PHOTOS is a folder of
# photographs by class, tested with MODELS, EVALUATOR and VOCABULARY (default: the paper's). LESIONS is a folder of skin
# lesions with a table (ISIC, HAM10000).
FORM ?= --quick
WORLDS ?= out/worlds
WORLD_MODELS ?= $(WORLD)
MODELS ?= paper
comma := ,
BUNDLED = --models picture-world-a,picture-world-b,picture-world-c --images picture-world \
	--evaluator picture-world-evaluator --vocabulary picture-world
TRAINED = local-dir:$(WORLDS)/models/
PICTURES = $(WORLDS)/pictures/$(WORLD)
TRUTH = $(wildcard $(WORLDS)/studies/$(WORLD)/truth.json)
FOREIGN = --models $(TRAINED)$(subst $(comma),$(comma)$(TRAINED),$(WORLD_MODELS)) \
	--evaluator $(TRAINED)$(firstword $(subst -, ,$(WORLD)))-evaluator \
	--images $(PICTURES) --table $(PICTURES)/labels.csv --vocabulary $(PICTURES)/vocabulary.txt \
	--prompts $(PICTURES)/prompts.txt $(if $(TRUTH),--truth $(WORLD)=$(TRUTH))
PHOTOGRAPHS = --models $(MODELS) --images $(PHOTOS) $(if $(EVALUATOR),--evaluator $(EVALUATOR)) \
	$(if $(VOCABULARY),--vocabulary $(VOCABULARY))
reproduce: LESIONS ?= $(if $(WORLD)$(PHOTOS),,lesions)
reproduce: $(VENV)/.stamp
	$(BIN)/clipattr reproduce paper --out out/reproduction/$(or $(WORLD),$(if $(PHOTOS),photographs,bundled)) $(FORM) \
		$(if $(WORLD),$(FOREIGN),$(if $(PHOTOS),$(PHOTOGRAPHS),$(BUNDLED))) $(if $(LESIONS),--lesions $(LESIONS))

# Every experiment on two bundled models, in less than five minutes on two cores.
reproduce-ci: $(VENV)/.stamp
	$(BIN)/clipattr reproduce paper --out out/reproduction/ci --quick --lesions lesions \
		--models picture-world-a,picture-world-b --images picture-world \
		--evaluator picture-world-evaluator --vocabulary picture-world

lab: $(VENV)/.stamp-dev
	$(BIN)/jupyter lab notebooks

docs: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -q -W --keep-going -d docs/_build/trees docs docs/_build/site
	@echo "open docs/_build/site/index.html"

data: $(VENV)/.stamp-dev
	$(BIN)/python -m clipattr_data.build

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

clean:
	rm -rf build dist out docs/_build docs/reference docs/_static/reproduction docs/cli docs/course .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
