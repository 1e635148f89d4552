# `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
MICROPYTHON ?= $(VENV)/bin/micropython
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
STUBS := $(addprefix build/stubs/,unix esp32 rp2)

BOARD ?=
PORT ?=
CONFIG ?=
FIRMWARE ?=
FILE ?=
SECONDS ?=
BROKER ?=
PEERS ?=
MINUTES ?= 10
PACKETS ?= 100000
SEED ?= 1

# The wheel of MicroPython is built for a few platforms only: MICROPYTHON= does without it.
READY := $(VENV)/.stamp $(filter $(VENV)/bin/micropython,$(MICROPYTHON))
RUN := $(VENV)/bin/python -m

# What names a board, where it is connected, and its configuration.
BOARD_ := $(if $(BOARD),--board $(BOARD))
PORT_ := $(if $(PORT),--port "$(PORT)")
CONFIG_ := $(if $(CONFIG),--config "$(CONFIG)")
SECONDS_ := $(if $(SECONDS),--seconds $(SECONDS))
BROKER_ := $(if $(BROKER),--broker $(BROKER))

.PHONY: help run build image flash deploy provision monitor doctor fleet desk
.PHONY: test soak fuzz lint format bench size heap clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(READY) ## the firmware on this desk, or from here on a board [BOARD=esp32] [SECONDS=10] [BROKER=host:port]
	@$(RUN) tools run $(BOARD_) $(PORT_) $(CONFIG_) $(SECONDS_) $(BROKER_) \
		--micropython $(MICROPYTHON) $(ARGS)

build: $(READY) ## a board's device tree, as .mpy BOARD=esp32 [CONFIG=file]
	@$(RUN) tools build $(BOARD_) $(CONFIG_) $(ARGS)

image: $(READY) ## one file that takes a bare board to a node BOARD=esp32 [CONFIG=file] [FIRMWARE=file]
	@$(RUN) tools image $(BOARD_) $(CONFIG_) $(if $(FIRMWARE),--firmware "$(FIRMWARE)") $(ARGS)

flash: $(READY) ## write an image to a board, and wait for it BOARD=esp32 [PORT=...] [CONFIG=file]
	@$(RUN) tools flash $(BOARD_) $(PORT_) $(CONFIG_) $(ARGS)

deploy: $(READY) ## the program onto a board: only what changed BOARD=esp32 [PORT=...] [CONFIG=file]
	@$(RUN) tools deploy $(BOARD_) $(PORT_) $(CONFIG_) $(ARGS)

provision: $(READY) ## Wi-Fi, broker and secrets onto a board BOARD=esp32 [PORT=...] [CONFIG=file]
	@$(RUN) tools provision $(BOARD_) $(PORT_) $(CONFIG_) $(ARGS)

monitor: $(READY) ## what devices publish, live [CONFIG=file | BROKER=host:port] [PORT=...]
	@$(RUN) tools monitor $(PORT_) $(CONFIG_) $(SECONDS_) $(BROKER_) $(ARGS)

doctor: $(READY) ## what is wrong with a board, its configuration or its broker BOARD=esp32 [PORT=...]
	@$(RUN) tools doctor $(BOARD_) $(PORT_) $(CONFIG_) $(ARGS)

fleet: $(READY) ## configurations and images of many devices FILE=fleet.csv
	@$(RUN) tools fleet "$(FILE)" $(ARGS)

desk: $(READY) ## a board on this desk, for deploy, provision, run, doctor with BOARD=unix PORT=socket://...
	@$(RUN) tools desk --micropython $(MICROPYTHON) $(ARGS)

test: $(READY) mosquitto $(STUBS:%=%/.stamp) ## every test, under CPython and MicroPython [ARGS=pytest's arguments]
	@MICROPYTHON=$(MICROPYTHON) $(RUN) pytest $(ARGS)

soak: $(READY) mosquitto ## messages both ways while faults strike [MINUTES=10] [SEED=1]
	@MICROPYTHON=$(MICROPYTHON) MINUTES=$(MINUTES) SEED=$(SEED) \
		$(RUN) pytest -q -s tests/faults/test_soak.py

fuzz: $(READY) ## the client against a hostile broker [PACKETS=100000] [SEED=1]
	@MICROPYTHON=$(MICROPYTHON) PACKETS=$(PACKETS) SEED=$(SEED) \
		$(RUN) pytest -q -s tests/fuzz/test_fuzz.py::test_fuzz

lint: $(VENV)/.stamp $(STUBS:%=%/.stamp) ## format, style, and types on each board
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) tools.types

format: $(VENV)/.stamp ## put the code into the form that lint asks for
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

bench: $(READY) ## size, heap, instructions, throughput, and flash [PEERS=folder]
	@$(RUN) tools.bench --micropython $(MICROPYTHON) $(if $(PEERS),--peers $(PEERS))

size: $(READY) ## the size of each file as .mpy
	@$(RUN) tools.size --micropython $(MICROPYTHON)

heap: $(VENV)/.stamp ## the live heap of the whole firmware on a 32-bit port; needs Node.js
	@$(RUN) tools.heap

clean: ## remove all that was made here
	rm -rf $(VENV) build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp: pyproject.toml
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing the host tools in $(VENV)"
	@$(PIP) install pip==26.3
	@$(PIP) install --group dev
	@touch $@

$(VENV)/bin/micropython: $(VENV)/.stamp
	@$(PIP) install --group micropython
	@touch $@

# Each port's stubs bring a whole set of top-level modules, so none can share a folder.
build/stubs/%/.stamp: pyproject.toml | $(VENV)/.stamp
	@rm -rf $(@D)
	@$(PIP) install --group stubs-$* --target $(@D)
	@touch $@

.PHONY: mosquitto
mosquitto:
	@tests/install-mosquitto
