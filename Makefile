# make demo     a real image from a real registry, mounted, compared, unmounted (root)
# make test     everything that must pass (root, /dev/fuse)
# make bench    the measurements of docs/benchmarks.md, side by side (root)
# make install  program, mount helper, manual, completions, units and the commented configuration, below DESTDIR and PREFIX
SHELL = /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
# Not below PREFIX: mount(8) looks for its helpers here alone, systemd and oncefs for theirs here.
SBINDIR ?= /sbin
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
MANDIR ?= $(PREFIX)/share/man
# What is installed, built: target/debug for the tests.
BUILT ?= target/release
TOOLS = $(CURDIR)/target/tools
export PATH := $(TOOLS)/bin:$(PATH)
export FSCK_EROFS = $(TOOLS)/fsck.erofs
export DUMP_EROFS = $(TOOLS)/dump.erofs

.PHONY: all build packages packages-demo demo test lint unit model deny docs fuzz bench install install-built uninstall clean

all: build

build:
	$(CARGO) build --release --locked

packages:
	tests/packages.sh

packages-demo:
	tests/packages.sh demo

demo: packages-demo build
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
	$(CARGO) fmt --all --check
	$(CARGO) test --locked --test tidy
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Unit, integration and documentation tests; those with containerd once more with a 2.x.
unit:
	$(CARGO) test --locked
	CONTAINERD_PROGRAMS=$(TOOLS)/containerd-2 $(CARGO) test --locked --test integration containerd::

# The flight and the gate under the model checker.
model:
	$(CARGO) test --locked --features shuttle --lib model::

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
	$(CARGO) bench --locked --bench snapshots -- $(CURDIR)/target
	$(CARGO) bench --locked --bench takeover
	benches/load.py

install: build install-built

UNITS = $(wildcard systemd/*.service systemd/*.socket)
EXAMPLES = $(wildcard systemd/*.mount systemd/*.automount)
COMPLETIONS = bash-completion/completions/oncefs zsh/site-functions/_oncefs fish/vendor_completions.d/oncefs.fish

install-built:
	install -D -m 755 $(BUILT)/oncefs $(DESTDIR)$(PREFIX)/bin/oncefs
	install -D -m 755 $(BUILT)/mount-oncefs $(DESTDIR)$(SBINDIR)/mount.oncefs
	install -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5
	$(BUILT)/oncefs man $(DESTDIR)$(MANDIR)/man1
	mv $(DESTDIR)$(MANDIR)/man1/oncefs.toml.5 $(DESTDIR)$(MANDIR)/man5/oncefs.toml.5
	install -D -m 644 docs/mount.oncefs.8 $(DESTDIR)$(MANDIR)/man8/mount.oncefs.8
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,$(dir $(COMPLETIONS)))
	for file in $(COMPLETIONS); do $(BUILT)/oncefs completions $${file%%[-/]*} >$(DESTDIR)$(PREFIX)/share/$$file || exit; done
	for unit in $(UNITS); do install -D -m 644 $$unit $(DESTDIR)$(UNITDIR)/$${unit##*/} || exit; \
	    sed -i 's|/usr/local/bin/oncefs|$(PREFIX)/bin/oncefs|' $(DESTDIR)$(UNITDIR)/$${unit##*/} || exit; done
	install -D -m 644 docs/config.toml $(DESTDIR)$(PREFIX)/share/doc/oncefs/config.toml
	for unit in $(EXAMPLES); do install -D -m 644 $$unit $(DESTDIR)$(PREFIX)/share/doc/oncefs/$${unit##*/} || exit; done
	# What somebody has configured stays.
	[ -e $(DESTDIR)$(SYSCONFDIR)/oncefs/config.toml ] || install -D -m 644 docs/config.toml $(DESTDIR)$(SYSCONFDIR)/oncefs/config.toml

# Leaves the configuration, and the store.
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/oncefs $(DESTDIR)$(SBINDIR)/mount.oncefs
	rm -f $(DESTDIR)$(MANDIR)/man1/oncefs.1 $(DESTDIR)$(MANDIR)/man1/oncefs-*.1
	rm -f $(DESTDIR)$(MANDIR)/man5/oncefs.toml.5 $(DESTDIR)$(MANDIR)/man8/mount.oncefs.8
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETIONS)) $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/oncefs

clean:
	$(CARGO) clean
