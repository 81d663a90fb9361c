# pastfs: `make` lists what there is to make. Everything is built in the release profile, so that RocksDB is
# compiled once, for tests and for use.

SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
# Outside the clone: a second clone needs no second quarter of an hour.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pastfs-build
PASTFS := $(CARGO_TARGET_DIR)/release/pastfs

.DEFAULT_GOAL := help
.PHONY: help deps note build test demo install man fuzz soak bench bench-parts bench-scale

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r n t; do printf '  make %-11s %s\n' "$$n" "$$t"; done

build: deps note ## build the program (into CARGO_TARGET_DIR, by default ~/.cache/pastfs-build)
	$(CARGO) build --release --locked

test soak: NEEDED += $(NEEDED_BY_TESTS)
test: deps note ## formatting, clippy without warnings, and all tests that take minutes
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) test --release --locked

demo: build ## back up a real tree twice, mount it, copy it out, compare, and tell what was proven
	PASTFS="$(PASTFS)" ./demo.sh

# mount(8) looks for its helpers in /sbin alone.
install: build ## install the program and its manual pages below PREFIX (/usr/local), and /sbin/mount.fuse.pastfs
	install -D -m 755 $(PASTFS) $(DESTDIR)$(PREFIX)/bin/pastfs
	for section in 1 5 7; do \
	  install -d $(DESTDIR)$(PREFIX)/share/man/man$$section && \
	  install -m 644 man/*.$$section $(DESTDIR)$(PREFIX)/share/man/man$$section/ || exit 1; \
	done
	install -d $(DESTDIR)/sbin
	ln -sf $(PREFIX)/bin/pastfs $(DESTDIR)/sbin/mount.fuse.pastfs

man: deps note ## write the manual pages of the commands anew
	PASTFS_BLESS=1 $(CARGO) test --release --locked --test main manual

FUZZ_SECONDS ?= 60
fuzz: deps note ## fuzz every decoder, and what repositories live through, FUZZ_SECONDS (60) each; needs a nightly toolchain and cargo-fuzz
	cd fuzz && for target in $$($(CARGO) +nightly fuzz list); do \
	  echo "== $$target"; \
	  CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
	LIVES_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --release --locked --test main -- --ignored --nocapture lives_by_scripts

soak: deps note ## the tests that take long: SOAK_MINUTES (10; 1440 are a day) of a mount, KILLS (600), LIVES (100), CROWD_MINUTES (3)
	$(CARGO) test --release --locked -- --ignored --nocapture

bench: build ## backup, restore and check beside restic, borg, rustic and bupstash, on data it makes (BENCH_MB) or on TREE and TREE2
	PASTFS="$(PASTFS)" benches/whole.sh $(TREE) $(TREE2)

bench-parts: deps note ## what each part costs by itself (criterion)
	$(CARGO) bench --locked --bench parts

bench-scale: deps note ## what starts cost in large repositories; for other growth see benches/README.md
	$(CARGO) bench --locked --bench scale

# What is missing, and nothing else, is installed; where that is not possible it is named.
# command or file : package
NEEDED := cc:gcc g++:g++ make:make clang:clang fusermount3:fuse3 rsync:rsync getfattr:attr setfacl:acl \
  /usr/share/zoneinfo/Europe/Berlin:tzdata
# Where systemd runs, the packages samba and openssh-server would start servers for all the network: there the test of Samba
# says that it was not run, and those of SFTP fail until you install an sshd. The others start nothing.
NEEDED_BY_TESTS := strace:strace curl:curl openssl:openssl ssh:openssh-client /usr/sbin/apache2:apache2-bin \
  /usr/lib/*/faketime/libfaketime.so.1:libfaketime \
  ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw ceph:ceph-common \
  $(if $(wildcard /run/systemd/system),,/usr/sbin/sshd:openssh-server /usr/sbin/smbd:samba smbclient:smbclient \
  /usr/lib/*/samba/vfs/shadow_copy2.so:samba-vfs-modules)
deps:
	@missing=(); \
	for pair in $(NEEDED); do \
	  what="$${pair%%:*}"; \
	  command -v "$$what" >/dev/null || compgen -G "$$what" >/dev/null || missing+=("$${pair#*:}"); \
	done; \
	ls /usr/lib/llvm-*/lib/libclang.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 || [ -n "$${LIBCLANG_PATH:-}" ] || missing+=(libclang-dev); \
	command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs, then run this again" >&2; exit 1; }; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "installing what is missing: $${missing[*]}"; \
	  command -v apt-get >/dev/null || { echo "there is no apt-get here: install $${missing[*]} by hand" >&2; exit 1; }; \
	  sudo=(); [ "$$(id -u)" = 0 ] || sudo=(sudo); \
	  if [ "$${#sudo[@]}" -gt 0 ] && ! command -v sudo >/dev/null; then \
	    echo "there is no sudo here: as root, run: apt-get install $${missing[*]}" >&2; exit 1; fi; \
	  "$${sudo[@]}" apt-get update -qq && \
	  "$${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$${missing[@]}"; \
	fi

# Says so at once where RocksDB is not built yet.
note: deps
	@ls -d $(CARGO_TARGET_DIR)/release/build/librocksdb-sys-*/out/librocksdb.a >/dev/null 2>&1 || \
	  echo "The first build compiles RocksDB: that takes about a quarter of an hour, once."
