PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: quickstart test faults lint install clean

# Train on the drawn flowers, measure the result, and say where picture and pipeline are.
quickstart: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python train_ldm.py --config configs/quickstart.yaml
	HF_HUB_OFFLINE=1 $(BIN)/ldm adherence runs/quickstart

# Every test that needs no network, no GPU and no patience.
test: $(INSTALLED)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# Kills, full disks, damaged files, hostile input: two hours; prints the table of docs/reliability.md.
faults: $(INSTALLED)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow tests/faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
