# `make build`, `make run`, `make test`, `make conformance`, `make bench`;
# `make fuzz` with FUZZ_SECONDS for each of FUZZ_TARGETS;
# `make conf` after a change to the directive table;
# `make install` with PREFIX (default /usr) and DESTDIR.

CARGO ?= cargo
PREFIX ?= /usr
BINDIR ?= $(PREFIX)/bin
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
DOCDIR ?= $(PREFIX)/share/doc/varve
CONFDIR ?= /etc/varve
TARGET ?= $(or $(CARGO_TARGET_DIR),target)

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= resp rdb restore aof manifest index lz4history config psync

.PHONY: build run test conformance bench fuzz conf install

build:
	$(CARGO) build --release

run:
	$(CARGO) run --release --

# The tests compare with Redis and use its tools: what is missing is installed first.
test:
	tests/install-tools
	$(CARGO) test --workspace

# Redis's own tests against the release build, for as long as they take (tests/conformance/run).
conformance: build
	tests/conformance/run

bench:
	$(CARGO) bench --workspace

# Coverage comes from flags that a stable compiler takes only when told to; there is no sanitizer on one.
fuzz:
	$(CARGO) fuzz --version || $(CARGO) install cargo-fuzz --locked
	cd fuzz && $(CARGO) run --example seeds -- corpus
	for target in $(FUZZ_TARGETS); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 || exit 1; \
	done

conf:
	$(CARGO) build --bin varved
	$(TARGET)/debug/varved --print-default-config > packaging/varve.conf
	$(TARGET)/debug/varved --print-config-manual > docs/configuration.md

# What `make build` made: root, who installs, need not have cargo, and should not write to the target folder.
# An existing configuration is the administrator's: the new default goes beside it.
install:
	@test -e $(TARGET)/release/varved || { echo "There is no $(TARGET)/release/varved: \`make build\` comes first." >&2; exit 1; }
	install -D -m 755 $(TARGET)/release/varved $(DESTDIR)$(BINDIR)/varved
	install -D -m 755 $(TARGET)/release/varve $(DESTDIR)$(BINDIR)/varve
	install -d -m 755 $(DESTDIR)$(UNITDIR)
	sed 's|@BINDIR@|$(BINDIR)|; s|@CONFDIR@|$(CONFDIR)|; s|@DOCDIR@|$(DOCDIR)|' packaging/varved.service.in \
		> $(DESTDIR)$(UNITDIR)/varved.service
	chmod 644 $(DESTDIR)$(UNITDIR)/varved.service
	install -D -m 644 packaging/varve.sysusers $(DESTDIR)$(SYSUSERSDIR)/varve.conf
	install -D -m 644 packaging/varve.tmpfiles $(DESTDIR)$(TMPFILESDIR)/varve.conf
	install -D -m 644 packaging/varve.sysctl $(DESTDIR)$(DOCDIR)/60-varve.conf
	install -D -m 644 packaging/varve.conf $(DESTDIR)$(DOCDIR)/varve.conf
	install -D -m 644 docs/configuration.md $(DESTDIR)$(DOCDIR)/configuration.md
	if [ ! -e $(DESTDIR)$(CONFDIR)/varve.conf ]; then \
		install -D -m 640 packaging/varve.conf $(DESTDIR)$(CONFDIR)/varve.conf; \
	elif ! cmp -s packaging/varve.conf $(DESTDIR)$(CONFDIR)/varve.conf; then \
		install -m 640 packaging/varve.conf $(DESTDIR)$(CONFDIR)/varve.conf.new; \
	fi
