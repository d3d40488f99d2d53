/* SPDX-License-Identifier: Apache-2.0
 *
 * storm MIB: page-fault storms over MIB MiB of fresh 4 KiB pages, one per line read from stdin.
 *
 * Prints "ready", then waits. "sequential" or "random" maps a new area, writes one byte to each of its pages in
 * that order and unmaps it, and answers "<thread cpu ns> <elapsed ns> <pages>" for the writes alone. The process stays
 * alive between storms so that a tracer can stay attached to one PID; end of input ends it.
 *
 * Both orders are taken from an array written beforehand, so the loops differ in nothing but the order.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096UL

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		fail("clock_gettime");
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/* Marsaglia's xorshift64: the same permutation in every run. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint32_t *page_order(size_t pages, int shuffled)
{
	uint32_t *order = malloc(pages * sizeof(*order));
	uint64_t state = 88172645463325252ULL;

	if (!order)
		fail("malloc");
	for (size_t i = 0; i < pages; i++)
		order[i] = (uint32_t)i;
	for (size_t i = pages - 1; shuffled && i > 0; i--) {
		size_t j = next_random(&state) % (i + 1);
		uint32_t swapped = order[i];

		order[i] = order[j];
		order[j] = swapped;
	}
	return order;
}

static void storm(const uint32_t *order, size_t pages)
{
	char *area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t cpu, elapsed;

	if (area == MAP_FAILED)
		fail("mmap");
	if (madvise(area, pages * PAGE, MADV_NOHUGEPAGE))
		fail("madvise");
	elapsed = nanoseconds(CLOCK_MONOTONIC);
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	for (size_t i = 0; i < pages; i++)
		*(volatile char *)(area + order[i] * PAGE) = 1;
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	elapsed = nanoseconds(CLOCK_MONOTONIC) - elapsed;
	munmap(area, pages * PAGE);
	printf("%llu %llu %zu\n", (unsigned long long)cpu, (unsigned long long)elapsed, pages);
}

int main(int argc, char **argv)
{
	size_t mib = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	size_t pages = (mib << 20) / PAGE;
	uint32_t *sequential, *shuffled;
	char line[32];

	if (!mib) {
		fprintf(stderr, "usage: storm MIB\n");
		return 2;
	}
	sequential = page_order(pages, 0);
	shuffled = page_order(pages, 1);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "sequential\n")) {
			storm(sequential, pages);
		} else if (!strcmp(line, "random\n")) {
			storm(shuffled, pages);
		} else {
			fprintf(stderr, "storm: unknown order: %s", line);
			return 2;
		}
	}
	return 0;
}
