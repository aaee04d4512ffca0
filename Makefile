# The project's commands. On Debian 12 and as root each installs what it needs (tests/lab/install); without root it names what is missing.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
export NATIVE ?= $(CARGO_TARGET_DIR)/release
export DESTDIR LIBDIR WITHOUT
# A JVM of a minute or two: what its optimizing compiler takes of the cores never comes back.
export MAVEN_OPTS ?= -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
MVN := mvn -q -B -ntp -Dstyle.color=never
# What the jars hold of the library in a folder, which they load no other than.
OF_LIBRARY = -Dnative.length=$$(stat --format=%s $(1)/libnasbackup.so) \
	-Dnative.sha256=$$(sha256sum $(1)/libnasbackup.so | cut --delimiter=' ' --fields=1)
# The oldest C library that what is linked against Debian 12's runs with, as docs/install.md says: EL 9's.
GLIBC = 2.34
TOOLS := $(CARGO_TARGET_DIR)/tools
CARGO_DENY := 0.20.2
ZIG := 0.15.2
CARGO_ZIGBUILD := 0.24.1
CYCLONEDX_MAVEN := 2.9.1
CYCLONEDX_CARGO := 0.5.7
ADVISORIES := https://github.com/RustSec/advisory-db

.PHONY: build packages install install-agent install-server uninstall demo quick check test test-binaries nas fuzz soak soak-images \
	bench bench-images bench-night bench-guests figures lint lint-rust lint-java prerequisites build-prerequisites

build: build-prerequisites
	cargo build --release --features command
	tests/no-hooks $(CARGO_TARGET_DIR)/release/libnasbackup.so $(CARGO_TARGET_DIR)/release/nasbackup
	tests/floors $(CARGO_TARGET_DIR)/release/libnasbackup.so $(GLIBC)
	$(MVN) package -DskipTests -Dnative.bundle=$(CARGO_TARGET_DIR)/release $(call OF_LIBRARY,$(CARGO_TARGET_DIR)/release)

# deb and rpm, with what they are made of, in target/packages: one library for all distributions. Minutes, and not part of make test:
# what releases runs it. Two runs on one source give the same bytes. GLIBC is EL 8's.
packages: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
packages: export GLIBC = 2.28
packages: TARGET = $(shell uname -m)-unknown-linux-gnu
packages: export NATIVE = $(CARGO_TARGET_DIR)/$(TARGET)/release
packages: OUT = $(CARGO_TARGET_DIR)/packages
packages: build-prerequisites $(TOOLS)/zig/bin/cargo-zigbuild $(TOOLS)/bin/cargo-cyclonedx
	tests/lab/install packages
	PATH="$(TOOLS)/zig/bin:$$PATH" cargo zigbuild --release --features command --target $(TARGET).$(GLIBC)
	tests/no-hooks $(NATIVE)/libnasbackup.so
	rm -rf java/*/target
	$(MVN) package -DskipTests -Dproject.build.outputTimestamp=$(SOURCE_DATE_EPOCH) $(call OF_LIBRARY,$(NATIVE))
	rm -rf $(OUT) && mkdir -p $(OUT)
	packaging/packages $(OUT)
	$(MVN) org.cyclonedx:cyclonedx-maven-plugin:$(CYCLONEDX_MAVEN):makeAggregateBom -DoutputFormat=json -DoutputDirectory=$(OUT) \
		-DoutputName=nasbackup-jars.cdx -DincludeBomSerialNumber=false -DincludeProvidedScope=false -DincludeTestScope=false
	$(TOOLS)/bin/cargo-cyclonedx cyclonedx --quiet --format json --features command --target $(TARGET) --override-filename nasbackup-crates.cdx
	sed 's|file://$(CURDIR)|file://.|' nasbackup-crates.cdx.json >$(OUT)/nasbackup-crates.cdx.json
	rm nasbackup-crates.cdx.json
	tests/packages $(OUT)

# What make build made, to this machine or below DESTDIR; docs/install.md says what is left to do.
install: install-agent install-server

install-agent:
	@packaging/layout agent

install-server:
	@packaging/layout server

uninstall:
	@packaging/layout remove

demo: prerequisites
	cargo build --features command
	$(MVN) package -DskipTests
	tests/lab/run java -Djava.library.path=$(CARGO_TARGET_DIR)/debug -Dcommand=$(CARGO_TARGET_DIR)/debug/nasbackup \
		-cp java/nasbackup/target/classes:java/nasbackup/target/test-classes org.nasbackup.lab.Demo

# Neither root nor a lab.
quick: build-prerequisites
	tests/run --quick

# One test or a few of each subject.
check: prerequisites
	cargo build --quiet --features test-hooks
	tests/run --check

# WITHOUT="SUITE...": leaves suites out, such as real_nas where tests/vm/install can't make its machine; the end says so.
# Maven and the build of cargo-deny beside cargo, whose own runs in one folder wait for each other.
test:
	$(MAKE) --jobs=3 --output-sync lint test-binaries
	tests/run
	tests/install $(CARGO_TARGET_DIR)/tests/native
	@echo "make test: $(if $(WITHOUT),all of it passed but what was LEFT OUT: $(WITHOUT),all of it passed)"

# The library with test-hooks in the end: the tests of the C ABI and of Java load it. The one without shows that it is so.
test-binaries: prerequisites
	$(if $(filter real_nas,$(WITHOUT)),,tests/vm/install)
	cargo build --quiet --lib --features command
	tests/no-hooks $(CARGO_TARGET_DIR)/debug/libnasbackup.so
	tests/floors $(CARGO_TARGET_DIR)/debug/libnasbackup.so $(GLIBC)
	cargo build --quiet --features test-hooks
	cargo test --quiet --features test-hooks --no-run

# All that there is of tests on real NFS and SMB servers, of which make test runs a few minutes, but for a server that hangs in the
# middle of everything, which make soak has: each of these has the server to itself. Half an hour on 2 idle cores: the others mostly wait,
# so that four at once keep two cores busy.
nas: export NASBACKUP_VM_SECONDS = 5400
nas: prerequisites
	tests/vm/install
	cargo test --features test-hooks --test real_nas -- --include-ignored --skip hangs:: --test-threads 4

# Damaged data from outside for so many seconds each: images, rebased, checked and flattened; domain XML, manifests,
# requests, mount options, texts of log lines, replies of NBD servers, claims of other hosts. What is not survived lies in target/fuzz, and belongs into tests/corpus.
fuzz: SECONDS ?= 60
fuzz: prerequisites
	NASBACKUP_FUZZ_SECONDS=$(SECONDS) cargo test --release --test rebase damaged_images -- --nocapture --test-threads 1
	NASBACKUP_FUZZ_SECONDS=$(SECONDS) cargo test --release --lib -- no_index_makes_a_reader no_claim_makes_its_reader
	NASBACKUP_FUZZ_SECONDS=$(SECONDS) cargo test --release --test outside_data -- --nocapture --test-threads 1

# Kills, power cuts and load, with a table of what came of it in target/soak/report.md, then a server that hangs in the middle of
# everything, waits in full of what make test waits less for, and how backups grow, to the end: about an hour. BACKUPS: how many in a row; HANGS: how often.
soak: export NASBACKUP_SOAK_REPORT = $(CARGO_TARGET_DIR)/soak
soak: export NASBACKUP_VM_SECONDS = 1800
soak: BACKUPS ?= 1000
soak: HANGS ?= 3
soak: prerequisites
	rm -rf $(NASBACKUP_SOAK_REPORT) && mkdir -p $(NASBACKUP_SOAK_REPORT)
	NASBACKUP_SOAK_BACKUPS=$(BACKUPS) cargo test --features test-hooks --no-fail-fast --test crash --test load; tested=$$?; \
		tests/soak-report $(NASBACKUP_SOAK_REPORT) && exit $$tested
	cargo test --features test-hooks --no-fail-fast --test libvirtd --test take_backup --test pull -- --ignored
	for hang in $$(seq $(HANGS)); do cargo test --features test-hooks --test real_nas -- --ignored hangs:: || exit 1; done
	$(MAKE) bench BENCH_SECTIONS=growth BENCH_LONG=1

# Hours: chain repair on far more random chains, cuts and errors than make test tries. CHAINS, CRASHES, ERRORS: how many.
soak-images: CHAINS ?= 500
soak-images: CRASHES ?= 40
soak-images: ERRORS ?= 40
soak-images: prerequisites
	NASBACKUP_SOAK_CHAINS=$(CHAINS) NASBACKUP_SOAK_CRASHES=$(CRASHES) NASBACKUP_SOAK_ERRORS=$(ERRORS) \
		cargo test --release --test rebase -- --nocapture

# As root, half an hour; docs/benchmark.md. SCRIPT=PATH: against an installed script. BENCH_RUNS=1: quick.
bench: prerequisites
	@bench/install
	cargo build --release
	cargo bench --bench restore --bench nas_requests --bench night --no-run
	$(MVN) -Pbench package -DskipTests -pl java/bench -am
	tests/lab/run bench/run $(CARGO_TARGET_DIR)/bench $(SCRIPT)

# Nights of 40 guests, 15 minutes; docs/benchmark.md. NIGHT_GUESTS: another number of them.
bench-night:
	$(MAKE) bench BENCH_SECTIONS=night
	$(MAKE) bench-guests

# A night of 10,000 guests by a virtual clock, with what the last nights have found a backup to take, and what one asks of the database.
bench-guests: PROVIDER = java/cloudstack-provider/target
bench-guests: prerequisites
	$(MVN) test-compile dependency:build-classpath -Dmdep.outputFile=target/test-classpath -DincludeScope=test \
		-DexcludeArtifactIds=cloudstack-stubs-4.22 -pl java/cloudstack-provider -am
	java -Xmx1g -cp $(PROVIDER)/test-classes:$(PROVIDER)/classes:$$(cat $(PROVIDER)/test-classpath) \
		org.apache.cloudstack.backup.ManyGuests $(CARGO_TARGET_DIR)/bench/samples
	bench/report.py $(CARGO_TARGET_DIR)/bench

# What the last make bench has found, into docs/figures and the README.
figures:
	bench/figures $(CARGO_TARGET_DIR)/bench

# Rebase, flatten, check and restore alone, against qemu-img.
bench-images: prerequisites
	cargo bench --bench rebase
	cargo bench --bench restore

lint: lint-rust lint-java

lint-rust: build-prerequisites $(TOOLS)/bin/cargo-deny
	cargo fmt --check
	cargo clippy --quiet --all-targets --all-features -- -D warnings
	$(TOOLS)/bin/cargo-deny --log-level error check licenses bans sources
	@if GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote -q $(ADVISORIES) HEAD >/dev/null 2>&1; \
		then $(TOOLS)/bin/cargo-deny --log-level error check advisories; \
		else echo "make lint: advisories NOT CHECKED, $(ADVISORIES) can't be reached from here" >&2; fi
	tests/named
	tests/circles
	tests/links

# SIGNATURES: what types of CloudStack's versions declare, a file for each, as java/linkcheck reads them; nobody publishes its jars.
lint-java: SIGNATURES ?= ../shared/cloudstack-signatures
lint-java: build-prerequisites
	$(MVN) -Pbench test-compile dependency:analyze-only spotless:check dependency:build-classpath \
		-Dmdep.outputFile=target/classpath -DincludeScope=compile -DexcludeArtifactIds=cloudstack-stubs
	tests/linkcheck $(SIGNATURES)

# Without its network features and without optimization it is built in a fraction of the time.
$(TOOLS)/bin/cargo-deny: VERSION = $(CARGO_DENY)
$(TOOLS)/bin/cargo-cyclonedx: VERSION = $(CYCLONEDX_CARGO)
$(TOOLS)/bin/cargo-deny $(TOOLS)/bin/cargo-cyclonedx: | build-prerequisites
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$(TOOLS)/build cargo install --quiet --locked --debug --no-default-features \
		--version $(VERSION) --root $(TOOLS) $(@F)
	rm -rf $(TOOLS)/build

# The linker that takes no symbol newer than it is told.
$(TOOLS)/zig/bin/cargo-zigbuild:
	tests/lab/install packages
	python3 -m venv $(TOOLS)/zig
	$(TOOLS)/zig/bin/pip --quiet install ziglang==$(ZIG) cargo-zigbuild==$(CARGO_ZIGBUILD)

prerequisites: build-prerequisites
	@tests/lab/install

build-prerequisites:
	@tests/lab/install build
