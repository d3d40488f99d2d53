/* SPDX-License-Identifier: Apache-2.0
 *
 * forkstorm CHILDREN PAGES: storms of short-lived children, one per line read from stdin.
 *
 * Maps PAGES pages of 4 KiB, touches them, prints "ready" and waits. "run" forks CHILDREN times, one after the other:
 * each child writes one byte to each of the pages, which it shares with its parent until then, and ends, and the
 * parent waits for it. Answers "<cpu ns> <elapsed ns> <children>": CPU time of the parent and all children, from
 * fork to wait. End of input ends the process.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

/* In steps of a microsecond for each child. */
static uint64_t cpu_of_children(void)
{
	struct rusage used;

	if (getrusage(RUSAGE_CHILDREN, &used))
		fail("getrusage");
	return (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000ULL +
	       (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000ULL;
}

static void touch(char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		*(volatile char *)(area + i * PAGE) = 1;
}

static void one_child(char *area, size_t pages)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid == 0) {
		touch(area, pages);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		fail("a child");
}

static void run(char *area, size_t pages, size_t children)
{
	uint64_t elapsed = nanoseconds(CLOCK_MONOTONIC);
	uint64_t cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) + cpu_of_children();

	for (size_t i = 0; i < children; i++)
		one_child(area, pages);
	cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) + cpu_of_children() - cpu;
	elapsed = nanoseconds(CLOCK_MONOTONIC) - elapsed;
	printf("%llu %llu %zu\n", (unsigned long long)cpu, (unsigned long long)elapsed, children);
}

int main(int argc, char **argv)
{
	size_t children = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	size_t pages = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	char line[32];
	char *area;

	if (!children || !pages) {
		fprintf(stderr, "usage: forkstorm CHILDREN PAGES\n");
		return 2;
	}
	area = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	if (madvise(area, pages * PAGE, MADV_NOHUGEPAGE))
		fail("madvise");
	touch(area, pages);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (strcmp(line, "run\n")) {
			fprintf(stderr, "forkstorm: cannot do: %s", line);
			return 2;
		}
		run(area, pages, children);
	}
	return 0;
}
