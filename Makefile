# make demo     a real image from a real registry, mounted, compared, unmounted (root)
# make test     everything that must pass (root, /dev/fuse)
# make bench    the measurements of docs/benchmarks.md, side by side (root)
# make install  the program, below PREFIX
SHELL = /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
TOOLS = $(CURDIR)/target/tools
export PATH := $(TOOLS)/bin:$(PATH)
export FSCK_EROFS = $(TOOLS)/fsck.erofs
export DUMP_EROFS = $(TOOLS)/dump.erofs

.PHONY: all build packages demo test lint unit model deny docs fuzz bench install clean

all: build

build:
	$(CARGO) build --release --locked

packages:
	tests/packages.sh

demo: packages build
	tests/demo.sh

# Cheapest first; the first failure ends it.
test: packages
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit
	$(MAKE) --no-print-directory model
	$(MAKE) --no-print-directory docs
	$(MAKE) --no-print-directory deny
	$(MAKE) --no-print-directory build
	tests/demo.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) test --locked --test tidy
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Unit, integration and documentation tests; those with containerd once more with a 2.x.
unit:
	$(CARGO) test --locked
	CONTAINERD_PROGRAMS=$(TOOLS)/containerd-2 $(CARGO) test --locked --test integration containerd::

# The flight under the model checker.
model:
	$(CARGO) test --locked --features shuttle --lib flight::model

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

# Licences, sources and duplicate bans always; advisories where their database can be reached.
deny:
	tests/deny.sh

# Each parser of outside bytes, one after the other: make fuzz SECONDS=60
SECONDS ?= 60
fuzz:
	tests/fuzz.sh $(SECONDS)

bench: packages build
	benches/run.py
	benches/containerd.py

install: build
	install -D -m 755 target/release/oncefs $(DESTDIR)$(PREFIX)/bin/oncefs

clean:
	$(CARGO) clean
