/* SPDX-License-Identifier: Apache-2.0
 *
 * hold MIB 4k|thp: maps MIB MiB of anonymous memory, touches every page, prints "ready" and holds it.
 *
 * Then, for each line on stdin, answered by "done":
 *   discard K   gives back the first page of each of the first K regions (2 MiB each)
 *   touch K     writes to the first page of each of the first K regions
 * End of input ends it. The area starts on a region boundary, so K regions are K page tables.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define REGION (2UL << 20)

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static char *map_area(size_t bytes, int advice)
{
	char *area = mmap(NULL, bytes + REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap");
	area = (char *)(((uintptr_t)area + REGION - 1) & ~(REGION - 1));
	if (madvise(area, bytes, advice))
		fail("madvise");
	for (size_t at = 0; at < bytes; at += PAGE)
		*(volatile char *)(area + at) = 1;
	return area;
}

static void change_regions(char *area, size_t regions, int discard)
{
	for (size_t i = 0; i < regions; i++) {
		char *page = area + i * REGION;

		if (!discard)
			*(volatile char *)page = 1;
		else if (madvise(page, PAGE, MADV_DONTNEED))
			fail("madvise");
	}
}

int main(int argc, char **argv)
{
	size_t mib = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	char line[64], command[16];
	size_t regions;
	char *area;

	if (!mib || (strcmp(argv[2], "4k") && strcmp(argv[2], "thp"))) {
		fprintf(stderr, "usage: hold MIB 4k|thp\n");
		return 2;
	}
	area = map_area(mib << 20, strcmp(argv[2], "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%15s %zu", command, &regions) != 2 || regions * REGION > mib << 20 ||
		    (strcmp(command, "discard") && strcmp(command, "touch"))) {
			fprintf(stderr, "hold: cannot do: %s", line);
			return 2;
		}
		change_regions(area, regions, !strcmp(command, "discard"));
		puts("done");
	}
	return 0;
}
