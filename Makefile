# make demo   a first look: sets up .venv, builds the native core, trains LeNet-5 on handwritten digits
# make test   the same set-up with the test tools, then the suite: at most 6 GB of memory and 12 minutes on two cores
# make nightly  the same set-up, then the tests that take longer or more memory, or repeat what the suite samples: once before an issue is resolved; writes docs/ecosystem-networks.md
# make bench  the benchmarks                  make asan   the native tests under AddressSanitizer, LeakSanitizer and UBSan
# make lint   ruff, clang-format and mypy    make clean  forgets everything that was built
# TORCH=2.14.1 behind any of them: with that torch, in an environment of its own (a CUDA build takes 5.5 GB of disk)
.PHONY: demo test nightly bench asan lint clean
.DELETE_ON_ERROR:

PYTHON ?= python3
PINNED := $(patsubst torch==%,%,$(filter torch==%,$(shell cat constraints.txt)))
TORCH ?= $(PINNED)
OTHER := $(filter-out $(PINNED),$(TORCH))
VENV := .venv$(OTHER:%=-torch-%)
BIN := $(VENV)/bin
CONSTRAINTS := $(if $(OTHER),build/constraints-torch-$(TORCH).txt,constraints.txt)
INSTALL := $(BIN)/pip install --quiet --no-build-isolation $(OTHER:%=--config-settings=build-dir=build/torch-%)
SOURCES := $(shell find csrc src -type f -name '*.[ch]*' -o -type f -name '*.def' -o -type f -name '*.py' -path 'src/*') CMakeLists.txt pyproject.toml $(CONSTRAINTS)
TWO := -n 2 --dist worksteal  # processes that share the tests: most tests use one core
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# also for the packages a build fetches for itself
export PIP_CONSTRAINT := $(CURDIR)/$(CONSTRAINTS)

demo: $(VENV)/.installed
	$(BIN)/striate train

test: $(VENV)/.tested lint
	$(BIN)/python -m pytest $(TWO)

nightly: $(VENV)/.tested
	$(BIN)/python -m pytest $(TWO) -m nightly -rs
	$(BIN)/python -m pytest $(TWO) tests/test_published.py -k a_network  # the small ones, which are in the report too
	$(BIN)/python tests/published.py

bench: $(VENV)/.tested
	$(BIN)/python benchmarks/run.py pool
	$(BIN)/python benchmarks/run.py norm
	$(BIN)/python benchmarks/run.py conv
	$(BIN)/python benchmarks/run.py gemm
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/inspection.py
	$(BIN)/python benchmarks/import_time.py
	$(INSTALL) -e '.[bench]'
	$(BIN)/python benchmarks/networks.py train
	$(BIN)/python benchmarks/networks.py infer
	$(BIN)/python benchmarks/networks.py memory

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc benchmarks -name '*.h' -o -name '*.cpp')
	$(BIN)/mypy $(OTHER:%=--no-warn-unused-ignores)  # torch annotates other functions in other versions

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and on its own: the build of striate finds it there instead of fetching a second copy
$(VENV)/.torch: $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/pip install --quiet torch==$(TORCH) numpy scikit-build-core cmake ninja
	touch $@

build/constraints-torch-%.txt: constraints.txt
	mkdir -p build
	sed 's/^torch==.*/torch==$*/' $< > $@

$(VENV)/.installed: $(SOURCES) $(VENV)/.torch
	$(INSTALL) -e '.[train]'
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) -e '.[test]'
	$(BIN)/pip install --quiet --no-deps timm==1.0.31 pytorchcv==0.0.74 monai==1.6.1 einops==0.8.2  # alone: two ask for torchvision, which needs another torch (tests/adapted.py)
	touch $@

# A core of its own in build/asan: the installed one stays. Leaks fail it where the core made them: tests/leaks.py, which also says why
# Python takes its memory from malloc here and why LeakSanitizer does not wait for the exit.
asan: $(VENV)/.tested
	$(BIN)/cmake -S . -B build/asan -G Ninja -DSTRIATE_SANITIZE=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
	$(BIN)/cmake --build build/asan
	STRIATE_CORE=$(CURDIR)/build/asan/_core.so LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=1:leak_check_at_exit=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONMALLOC=malloc PYTHONPATH=tests \
	  $(BIN)/python -m pytest -p leaks tests/test_operators.py tests/test_pool.py tests/test_norm.py tests/test_conv.py tests/test_winograd.py \
	  tests/test_implicit_gemm.py tests/test_local.py tests/test_linear.py tests/test_gemm.py tests/test_activation.py tests/test_machine.py -k "not quarter and not 2_to_the_31 and not compile and not export and not bytes and not keep_no_memory"

clean:
	rm -rf .venv .venv-torch-* build dist runs
