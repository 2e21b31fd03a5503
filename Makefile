# fmalloc: malloc for memory-mapped files.
#
#   make                       the libraries, in build/ (libfmalloc-preload.so: malloc for any program)
#   make demo                  build and run the examples on real input
#   make check                 all tests (installs what only the tests need, see tests/setup)
#   make campaign              the same tests at their large sizes: hours
#   make bars                  the figures that the README and docs promise, on this machine
#   make bench                 measure against glibc, mimalloc, jemalloc, tcmalloc, libpmemobj, Boost.Interprocess and
#                              memkind (see bench/setup), and write docs/performance.md: a quarter of an hour
#   make bench BENCH="mixed larson" ROUNDS=5 MS=400    these alone, written to build/bench/performance.md
#   make bench-commit          commits against LMDB, SQLite, RocksDB and libpmemobj, docs/performance-commit.md: half an hour
#   make bench-commit COMMIT="--ms 400 --rounds 3 commit-1"    these alone, written to build/bench/
#   make install PREFIX= DESTDIR=
#   make SAN=address,undefined or SAN=thread, CC=clang CXX=clang++: other builds, in folders of their own

CC      ?= cc
CXX     ?= c++
AR      ?= ar
LD      ?= ld
OBJCOPY ?= objcopy
PREFIX  ?= /usr/local
DESTDIR ?=
CFLAGS  ?= -O2 -g
CXXFLAGS ?= -O2 -g

VERSION := 0.1.0
SOVERSION := 0
WARN := -Wall -Wextra -Wundef -Wshadow -Wconversion
comma := ,

ifeq ($(origin CC),default)
CC := cc
endif
ifeq ($(origin CXX),default)
CXX := c++
endif

# One folder for each kind of build, so that they stand side by side.
KIND := $(if $(SAN),$(subst $(comma),-,$(SAN)))$(if $(filter clang%,$(notdir $(CC))),$(if $(SAN),-)clang)
B    := build$(if $(KIND),/$(KIND))

SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
C_FLAGS   := -std=gnu11 $(WARN) $(CFLAGS) $(SANFLAGS) -fvisibility=hidden -pthread -MMD -MP
# The library's: threads may have stacks of 32 KiB; two paths fit in a frame. Sanitizers make frames larger.
LIB_FLAGS := $(C_FLAGS) $(if $(SAN),,-Wframe-larger-than=12288)
CXX_FLAGS := -std=c++11 $(WARN) $(CXXFLAGS) $(SANFLAGS) -pthread -MMD -MP

SRC  := $(wildcard src/*/*.c)
OBJ  := $(SRC:src/%.c=$(B)/pic/%.o)
HOOK := $(SRC:src/%.c=$(B)/hook/%.o)

A  := $(B)/libfmalloc.a
INNER := $(B)/inner/libfmalloc.a
SO := $(B)/libfmalloc.so

# The malloc family for programs that know nothing of fmalloc. Its thread-local variables may be used where
# an allocation by the dynamic linker would come back to it; all objects are aligned to 16 bytes. A sanitizer has a malloc of its own.
PRELOAD_OBJ := $(SRC:src/%.c=$(B)/preload/core/%.o) $(patsubst preload/%.c,$(B)/preload/%.o,$(wildcard preload/*.c))
PRELOAD_FLAGS := -fPIC -ftls-model=initial-exec -fno-builtin
PRELOAD     := $(if $(SAN),,$(B)/libfmalloc-preload.so)

TEST_C   := $(wildcard tests/*/*.c)
TEST_CXX := $(wildcard tests/*/*.cpp)
TESTS    := $(TEST_C:tests/%.c=$(B)/tests/%) $(TEST_CXX:tests/%.cpp=$(B)/tests/%)
EXAMPLES := $(B)/examples/list $(B)/examples/list_cpp $(B)/examples/wordcount $(B)/examples/kv

.PHONY: all examples tests demo check campaign bars bench bench-commit install clean
all: $(A) $(SO) $(PRELOAD)
examples: $(EXAMPLES)
tests: $(TESTS)

$(B)/pic/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_FLAGS) -fPIC -c $< -o $@

# The test build: each store of allocator truth calls a hook.
$(B)/hook/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_FLAGS) -DFM_TRUTH_HOOK -c $< -o $@

# One object, whose inner names are its own: a program may use any of them for something else.
$(B)/fmalloc.o: $(OBJ)
	$(LD) -r -o $@ $^
	$(OBJCOPY) --localize-hidden $@

$(A): $(B)/fmalloc.o
	rm -f $@
	$(AR) rcs $@ $^

# For tests of modules.
$(B)/inner/libfmalloc.a: $(OBJ)
	@mkdir -p $(@D)
	rm -f $@
	$(AR) rcs $@ $^

$(B)/hook/libfmalloc.a: $(HOOK)
	rm -f $@
	$(AR) rcs $@ $^

$(SO).$(SOVERSION): $(OBJ) src/fmalloc.map
	$(CC) -shared $(CFLAGS) $(SANFLAGS) -pthread -Wl,-soname,libfmalloc.so.$(SOVERSION) -Wl,-z,nodelete \
		-Wl,--version-script=src/fmalloc.map -o $@ $(OBJ)

$(SO): $(SO).$(SOVERSION)
	ln -sf libfmalloc.so.$(SOVERSION) $@

$(B)/preload/core/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_FLAGS) $(PRELOAD_FLAGS) -DLEAST_ALIGNMENT=16u -c $< -o $@

$(B)/preload/%.o: preload/%.c
	@mkdir -p $(@D)
	$(CC) $(LIB_FLAGS) $(PRELOAD_FLAGS) -Iinclude -c $< -o $@

$(B)/libfmalloc-preload.so: $(PRELOAD_OBJ) preload/preload.map
	$(CC) -shared $(CFLAGS) -pthread -Wl,-soname,libfmalloc-preload.so -Wl,-z,nodelete -Wl,-z,now \
		-Wl,--version-script=preload/preload.map -o $@ $(PRELOAD_OBJ)

$(B)/examples/%_cpp: examples/%.cpp $(A)
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -Iinclude $< $(A) -o $@

$(B)/examples/%: examples/%.c $(A)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -Iinclude $< $(A) -o $@

$(B)/bench/bars: bench/bars.c $(A)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -Iinclude $< $(A) -o $@

# A benchmark program is built once for each allocator that it is asked for (bench/support/heap.h). Compilers
# know what malloc returns and drop pairs: not here.
BENCH_FLAGS := $(C_FLAGS) -fno-builtin-malloc -fno-builtin-free -fno-builtin-realloc -Iinclude -Ibench/support

$(B)/bench/support/%.o: bench/support/%.c
	@mkdir -p $(@D)
	$(CC) $(BENCH_FLAGS) -c $< -o $@

$(B)/bench/support/%.o: bench/support/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -Wno-conversion -Wno-shadow -Ibench/support -c $< -o $@

$(B)/bench/%-ours: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/ours.o $(SO)
	$(CC) $(BENCH_FLAGS) -DHEAP_OURS $(filter-out %.so,$^) -L$(B) -lfmalloc -Wl,-rpath,'$$ORIGIN/..' -o $@

$(B)/bench/%-target: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/ours.o $(SO)
	$(CC) $(BENCH_FLAGS) -DHEAP_TARGET $(filter-out %.so,$^) -L$(B) -lfmalloc -Wl,-rpath,'$$ORIGIN/..' -o $@

$(B)/bench/%-malloc: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/malloc.o
	$(CC) $(BENCH_FLAGS) -DHEAP_MALLOC $^ -o $@

$(B)/bench/%-pmemobj: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/pmemobj.o
	$(CC) $(BENCH_FLAGS) $^ -lpmemobj -o $@

$(B)/bench/%-memkind: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/memkind.o
	$(CC) $(BENCH_FLAGS) $^ -lmemkind -o $@

$(B)/bench/%-boost: bench/%.c $(B)/bench/support/bench.o $(B)/bench/support/boost.o
	$(CC) $(BENCH_FLAGS) $^ -lstdc++ -o $@

$(B)/bench/traverse_cpp.o: bench/traverse_cpp.cpp
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -Iinclude -Ibench/support -c $< -o $@

$(B)/bench/traverse-ours: $(B)/bench/traverse_cpp.o

# Commits: one workload, linked to our heap and to each peer (bench/commit/store.h).
COMMIT_LIBS_ours := -L$(B) -lfmalloc -Wl,-rpath,'$$ORIGIN/../..'
COMMIT_LIBS_lmdb := -llmdb
COMMIT_LIBS_sqlite := -lsqlite3
COMMIT_LIBS_rocksdb := -lrocksdb
COMMIT_LIBS_pmemobj := -lpmemobj

$(B)/bench/commit/%: bench/commit/%.c bench/commit/commit.c bench/commit/store.h bench/support/bench.c bench/support/bench.h $(SO)
	@mkdir -p $(@D)
	$(CC) $(filter-out -MMD -MP,$(C_FLAGS)) -Iinclude -Ibench/support -Ibench/commit $(filter %.c,$^) \
		$(COMMIT_LIBS_$*) -o $@

# Tests that stop at every store of truth.
$(B)/tests/crash/%: tests/crash/%.c $(B)/hook/libfmalloc.a
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -DFM_TRUTH_HOOK -Iinclude -Isrc -Itests/support $< $(B)/hook/libfmalloc.a -lcmocka -o $@

# Tests of modules see the sources.
$(filter $(foreach area,atomic concurrency hostile unit,$(B)/tests/$(area)/%),$(TESTS)): $(B)/tests/%: tests/%.c $(INNER)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -Iinclude -Isrc -Itests/support $< $(INNER) -lcmocka -o $@

# They run with libfmalloc-preload.so, and call malloc where they say so.
$(B)/tests/preload/%: tests/preload/%.c $(A) $(PRELOAD)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -fno-builtin -Iinclude -Itests/support $< $(A) -lcmocka -o $@

$(B)/tests/%: tests/%.c $(A)
	@mkdir -p $(@D)
	$(CC) $(C_FLAGS) -Iinclude -Itests/support $< $(A) -lcmocka -o $@

$(B)/tests/%: tests/%.cpp $(A)
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -Iinclude -Itests/support $< $(A) -lcmocka -o $@

demo: all examples
	sh examples/demo.sh $(B)

# The figures that the README and docs promise, on this machine: minutes, and 20 GB of disk.
bars: $(B)/bench/bars
	@mkdir -p $(B)/bars-files
	$(B)/bench/bars $(B)/bars-files $(BARS)

# bench/run builds the programs that it runs.
ROUNDS ?= 5
MS ?= 400

bench: all
	bench/setup
	bench/run --build $(B) --rounds $(ROUNDS) --ms $(MS) $(BENCH)

# Atomic heaps against LMDB, SQLite, RocksDB, libpmemobj and the device: half an hour, on ext4.
bench-commit: all
	bench/commit/setup
	bench/commit/run --build $(B) $(COMMIT)

check:
	tests/setup
	tests/run

campaign:
	tests/setup
	FM_TIMEOUT=36000 FM_KILLS=1000000 FM_OPS=10000000000 FM_STATES=100000000 FM_COMMIT_STATES=1000000 FM_CUTS=10000 FM_STEP=1 FM_SCALE=1 FM_CONVERT_STATES=20000 FM_LARGE=1 FM_ROUNDS=2000 \
		FM_RANDOM=1000000 FM_FIXED_RUNS=10000 FM_SHORT_RUNS=10000 FM_INTERLEAVINGS=100000000 \
		tests/run api atomic crash concurrency hostile kill lifecycle misuse model regress space unit

install: all
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/share/man/man3 \
		$(DESTDIR)$(PREFIX)/share/man/man7
	install -m 644 include/fmalloc.h include/fmalloc.hpp include/fmptr.hpp $(DESTDIR)$(PREFIX)/include
	install -m 644 $(A) $(DESTDIR)$(PREFIX)/lib
	install -m 755 $(SO).$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libfmalloc.so.$(VERSION)
	ln -sf libfmalloc.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libfmalloc.so.$(SOVERSION)
	ln -sf libfmalloc.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libfmalloc.so
	install -m 755 $(B)/libfmalloc-preload.so $(DESTDIR)$(PREFIX)/lib
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' src/fmalloc.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/fmalloc.pc
	install -m 644 man/*.3 $(DESTDIR)$(PREFIX)/share/man/man3
	install -m 644 man/*.7 $(DESTDIR)$(PREFIX)/share/man/man7

clean:
	rm -rf build

-include $(shell find build -type f -name '*.d' 2>/dev/null)
