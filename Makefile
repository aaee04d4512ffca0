# The project's commands. Each installs what it needs (tests/lab/install) and runs as root on Debian 12.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
MVN := mvn -q -B -ntp
TOOLS := $(CARGO_TARGET_DIR)/tools
CARGO_DENY := 0.20.2

.PHONY: build demo test lint install

build: install
	cargo build --release
	$(MVN) package -DskipTests -Dnative.bundle=$(CARGO_TARGET_DIR)/release

demo: install
	cargo build
	$(MVN) package -DskipTests
	tests/lab/run java -Djava.library.path=$(CARGO_TARGET_DIR)/debug \
		-cp java/nasbackup/target/classes:java/nasbackup/target/test-classes org.nasbackup.lab.Demo

# The library with test-hooks first: the tests of the C ABI and of Java load it.
test: install lint
	cargo build --features test-hooks
	cargo test --features test-hooks
	tests/lab/run $(MVN) verify -Dnative.dir=$(CARGO_TARGET_DIR)/debug
	@echo "make test: all of it passed"

lint: install $(TOOLS)/bin/cargo-deny
	cargo fmt --check
	cargo clippy --all-targets --all-features -- -D warnings
	$(TOOLS)/bin/cargo-deny --log-level error check licenses bans sources
	$(MVN) spotless:check

# Without its network features and without optimization it is built in a fraction of the time.
$(TOOLS)/bin/cargo-deny:
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$(TOOLS)/build cargo install --quiet --locked --debug --no-default-features \
		--version $(CARGO_DENY) --root $(TOOLS) cargo-deny
	rm -rf $(TOOLS)/build

install:
	@tests/lab/install
