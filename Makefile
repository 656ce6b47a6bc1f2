# The commands a person needs. On a fresh Debian or Ubuntu each of them installs what it lacks first.

PYTHON  ?= /usr/bin/python3
FAULT   ?= crash
DRIVER  ?= podman
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
VENV    := .venv
BIN     := $(VENV)/bin
OBJECT  := dma/capture/flows.bpf.o
SYSTEM  := /usr/lib/python3/dist-packages

# Build: clang compiles the BPF object. Run: libbpf loads it. Lab: podman with its network, images by mmdebstrap;
# a name server, and clients that begin to speak in their own ways.
PACKAGES := python3-venv clang llvm libbpf-dev libbpf1 linux-libc-dev python3-bpfcc iproute2 nftables procps \
            podman runc conmon netavark aardvark-dns iptables mmdebstrap debian-archive-keyring ca-certificates \
            python3-libvirt qemu-utils systemd-container dnsmasq-base openssl openssh-client postgresql-client
# Beyond these the VM lab needs a hypervisor, and what writes the guests' disk.
VM_PACKAGES := libvirt-daemon libvirt-clients dnsmasq-base qemu-system-x86 e2fsprogs
VAGRANT_PACKAGES := vagrant vagrant-libvirt
# What the capture is measured beside.
BENCH_PACKAGES := bpftrace conntrack tcpdump

.PHONY: demo test test-vm test-vagrant test-vagrant-sample fuzz soak bench-rollback bench-revert bench-blame bench-graph bench-capture bench-capture-guest figures check format stubs lock build clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready $(if $(filter libvirt,$(DRIVER)),$(VENV)/vm-packages) $(OBJECT)
	@$(SUDO) $(BIN)/python -m tests.demo --driver $(DRIVER) --fault $(FAULT)

test: check
	$(SUDO) $(BIN)/python -m pytest $(ARGS)

# Bytes from strangers, many more of them than a test run tries.
fuzz: $(VENV)/ready
	FUZZ_INPUTS=1000000 $(BIN)/python -m pytest -q tests/dma/naming/test_fuzz.py

# Every fault of the demo, RUNS times in a row; results below build/bench.
RUNS    ?= 10
soak: $(if $(filter libvirt,$(DRIVER)),bench-revert,bench-rollback)
	$(SUDO) $(BIN)/python -m tests.bench.faults --driver $(DRIVER) $(RUNS)

bench-rollback: $(VENV)/ready $(OBJECT)
	$(SUDO) $(BIN)/python -m tests.bench.rollback

test-vm: $(VENV)/ready $(VENV)/vm-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m pytest -m vm $(ARGS)

test-vagrant: $(VENV)/ready $(VENV)/vm-packages $(VENV)/vagrant-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m pytest -m vagrant tests/vm/test_vagrant.py $(ARGS)

# Six machines, which take a while where processors are emulated.
test-vagrant-sample: $(VENV)/ready $(VENV)/vm-packages $(VENV)/vagrant-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m pytest -m vagrant tests/vm/test_vagrant_shop.py $(ARGS)

bench-revert: $(VENV)/ready $(VENV)/vm-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m tests.bench.revert

# TOPOLOGIES names a directory of other dependency graphs.
bench-blame: $(VENV)/ready
	$(BIN)/python -m tests.bench.blame $(if $(TOPOLOGIES),--topologies $(TOPOLOGIES))

bench-capture: $(VENV)/ready $(VENV)/bench-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m tests.bench.capture $(ARGS)

bench-capture-guest: $(VENV)/ready $(VENV)/vm-packages $(OBJECT)
	$(SUDO) $(BIN)/python -m tests.bench.capture.guest $(ARGS)

# What judging costs in large stacks; takes four gigabytes and some minutes.
bench-graph: $(VENV)/ready
	$(BIN)/python -m tests.bench.graph

# The README's table, from the results of the benchmarks.
figures: $(VENV)/ready
	$(BIN)/python -m tests.bench.table

check: $(VENV)/ready $(OBJECT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint proto

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: $(VENV)/ready
	$(BIN)/python -m tests.stubs

$(OBJECT): $(wildcard bpf/*.c bpf/*.h) bpf/build.py $(VENV)/ready
	$(BIN)/python bpf/build.py

build: $(VENV)/ready
	$(BIN)/pip wheel --no-deps --no-build-isolation --wheel-dir dist .

lock:
	uv pip compile --quiet --python $(PYTHON) --extra dm --extra idm --extra dev --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock
	uv pip compile --quiet --python $(PYTHON) --extra dm --extra idm --generate-hashes \
	    --no-emit-index-url --no-annotate --no-header -c requirements.lock pyproject.toml -o runtime.lock

$(VENV)/packages: WANTED := $(PACKAGES)
$(VENV)/vm-packages: WANTED := $(VM_PACKAGES)
$(VENV)/vagrant-packages: WANTED := $(VAGRANT_PACKAGES)
$(VENV)/bench-packages: WANTED := $(BENCH_PACKAGES)
$(VENV)/packages $(VENV)/vm-packages $(VENV)/vagrant-packages $(VENV)/bench-packages: Makefile
	@missing=$$(for p in $(WANTED); do \
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "install the equivalents of: $$missing"; exit 1; }; \
	    $(SUDO) apt-get update -q && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; fi
	@mkdir -p $(VENV) && touch $@

# bcc exists only as the distribution's package, and libvirt's binding belongs to the distribution's library; links to
# just these keep the rest of the system's Python out.
$(VENV)/ready: requirements.lock pyproject.toml $(VENV)/packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@mkdir -p $(VENV)/system && ln -sfn -t $(VENV)/system $(SYSTEM)/bcc $(SYSTEM)/libvirt*.py $(SYSTEM)/libvirtmod*.so
	@echo $(abspath $(VENV)/system) > $$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/system.pth
	@touch $@

include install.mk

clean:
	rm -rf $(VENV) build dist $(OBJECT)
