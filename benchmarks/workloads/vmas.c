/* SPDX-License-Identifier: Apache-2.0
 *
 * vmas COUNT: makes COUNT VMAs of two pages each, readable and not in turns, so that none merges with the next, touches
 * the first page of each readable one, prints "ready" and holds them.
 *
 * Then, for each line on stdin:
 *   change    changes the protection of one page in the midst of them, back and forth; answers "done"
 *   churn MS  maps, protects, moves and unmaps elsewhere for MS milliseconds; answers "CHANGES NANOSECONDS", the time by
 *             the clock of the CPU
 * End of input ends it.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096UL
#define SLOT (1UL << 20)
#define SLOTS 64
#define BURST 256 /* changes between two looks at the clock */

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned long now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static char *reserve(unsigned long bytes)
{
	char *area = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap");
	return area;
}

static char *make_vmas(unsigned long count)
{
	char *area = reserve(count * 2 * PAGE);

	for (unsigned long i = 0; i < count; i += 2) {
		if (mprotect(area + i * 2 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE))
			fail("mprotect (is vm.max_map_count large enough?)");
		area[i * 2 * PAGE] = 1;
	}
	return area;
}

/* Four changes of the list: a mapping comes, is split in three, moves and grows, and goes. */
static void turn(char *slot)
{
	if (mmap(slot, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != slot)
		fail("mmap");
	*(volatile char *)slot = 1;
	if (mprotect(slot + 4 * PAGE, PAGE, PROT_READ))
		fail("mprotect");
	if (mremap(slot, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, slot + SLOT / 2) == MAP_FAILED)
		fail("mremap");
	if (munmap(slot, SLOT))
		fail("munmap");
}

static void churn(char *place, unsigned long milliseconds)
{
	unsigned long turns = 0, end = now(CLOCK_MONOTONIC) + milliseconds * 1000000;
	unsigned long began = now(CLOCK_THREAD_CPUTIME_ID);

	do {
		for (int i = 0; i < BURST / 4; i++, turns++)
			turn(place + turns % SLOTS * SLOT);
	} while (now(CLOCK_MONOTONIC) < end);
	printf("%lu %lu\n", turns * 4, now(CLOCK_THREAD_CPUTIME_ID) - began);
}

int main(int argc, char **argv)
{
	unsigned long count = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	char line[64], *area, *place;
	int prot = PROT_READ;

	if (!count) {
		fprintf(stderr, "usage: vmas COUNT\n");
		return 2;
	}
	area = make_vmas(count);
	place = reserve(SLOTS * SLOT);
	munmap(place, SLOTS * SLOT);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		if (!strncmp(line, "churn ", 6)) {
			churn(place, strtoul(line + 6, NULL, 10));
			continue;
		}
		if (mprotect(area + count / 4 * 4 * PAGE, PAGE, prot))
			fail("mprotect");
		prot ^= PROT_WRITE;
		puts("done");
	}
	return 0;
}
