# Every command sets its environment up by itself, in .venv/VERSION, where that is missing or out of date.
# Another Python: make PYTHON=python3.12 run       Some lessons only: make LESSONS=05 run
# The solutions of the exercises: make LESSONS=solutions run
PYTHON ?= python3
LESSONS ?=

# The version of $(PYTHON), short and whole, and where it is installed; nothing if it does not start.
PYTHON_IS := $(shell "$(PYTHON)" -c 'import sys; v = sys.version_info; print("%d.%d" % v[:2], "%d.%d.%d" % v[:3], sys.base_prefix)' 2>/dev/null)
VERSION := $(firstword $(PYTHON_IS))
SUPPORTED := 3.11 3.12 3.13
VENV := .venv/$(VERSION)
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check -qq install --constraint constraints.txt
export PYTHON PYTHON_IS REPOSITORY

# What an environment is made from; it is made anew when any of this has changed.
MADE_FROM := { pwd; echo "$$PYTHON_IS"; cat pyproject.toml constraints.txt; }

# Two lessons, or tests, at a time: threads of both on the same processors would wait for each other, and spin.
run test outputs: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: run test lab outputs site publish curves record bench dist peers help clean environment

run: environment  ## execute every lesson, print a table, leave HTML under build/
	@$(RUN) notebooks/run.py $(LESSONS)

test: environment  ## run every test, the notebooks' cells among them, in two processes
	@$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lab: environment  ## open JupyterLab on the lessons
	@$(RUN) -m jupyterlab --notebook-dir=notebooks $$([ "$$(id -u)" != 0 ] || echo --allow-root)

outputs: environment  ## execute the lessons in place, their outputs ready to be committed
	@$(RUN) notebooks/run.py --write $(LESSONS)
	@$(RUN) notebooks/minutes.py

site: environment  ## build the course as a site under build/site, out of what is committed
	@$(RUN) notebooks/pages.py

publish: environment  ## write where the lessons live on GitHub into all that names it: make publish REPOSITORY=owner/name
	@$(RUN) notebooks/publish.py "$$REPOSITORY"

curves: environment  ## record anew the learning curves that all comparisons replay, in about two hours
	@$(RUN) data/record_mnist_cnn_curves.py

record: environment  ## record anew what lesson 05 reads from data/, in about 15 minutes
	@$(RUN) data/record_lesson_05.py

bench: environment  ## compare methods over many seeds, and measure what an epoch and starting a job cost
	@$(RUN) benchmarks/methods.py
	@$(RUN) benchmarks/epoch_speed.py
	@$(RUN) benchmarks/local_launcher.py
	@$(RUN) benchmarks/rehearsal.py

dist: environment  ## make what a release hands out, under dist/: wheel, sources, and a bundle that installs without a network
	@$(RUN) notebooks/dist.py

peers: environment  ## compare with other tuning libraries, each in its own environment, in about two hours
	@$(RUN) benchmarks/peers.py

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

clean:  ## remove the environments and everything built
	rm -rf .venv build dist .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# MXNet 1.9.1 asks for NumPy below 2 but works with what is there: where pip's own resolution leaves it out (Python 3.13
# has no such NumPy), the last line adds it. hpo_helpers/mxnet_compat.py does the rest.
environment:
	@test -n "$(VERSION)" || { echo "make: '$$PYTHON' does not start; install Python 3.11, 3.12 or 3.13, or name one that is installed: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -n "$(filter $(VERSION),$(SUPPORTED))" || { echo "make: '$$PYTHON' is Python $(VERSION); install Python 3.11, 3.12 or 3.13, and name it: make PYTHON=python3.12" >&2; exit 1; }
	@"$$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || { echo "make: '$$PYTHON' lacks its venv module; install it (Debian, Ubuntu: apt install python$(VERSION)-venv)" >&2; exit 1; }
	@$(MADE_FROM) | cmp -s - $(VENV)/made-from || { set -e; \
		echo "Setting up Python $(VERSION) in $(VENV): two to four minutes, once."; \
		"$$PYTHON" -m venv --clear $(VENV); \
		$(PIP) --editable '.[mxnet,evolution,cluster,aws,azure,dev]'; \
		$(PIP) --no-deps "mxnet; sys_platform == 'linux' or (sys_platform == 'darwin' and platform_machine == 'x86_64')"; \
		$(MADE_FROM) > $(VENV)/made-from; }
