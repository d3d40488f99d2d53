/* SPDX-License-Identifier: Apache-2.0
 *
 * threads THREADS PAGES: page-fault storms by many threads at once, one per line read from stdin.
 *
 * Prints "ready", then waits. "run" maps a new area, lets every thread write one byte to each of its PAGES pages of
 * it (4 KiB each, side by side), unmaps it, and answers "<cpu ns> <elapsed ns> <pages>": CPU time of all threads
 * for the writes alone, time from the first write to the last, and pages of all threads. The threads live as long as
 * the process; end of input ends it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096UL

struct worker {
	pthread_t thread;
	size_t number;
	uint64_t cpu, begin, end;
};

static pthread_barrier_t go, done;
static size_t pages;
static char *area;

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

static void *work(void *argument)
{
	struct worker *self = argument;

	for (;;) {
		char *share;

		pthread_barrier_wait(&go);
		share = area + self->number * pages * PAGE;
		self->begin = nanoseconds(CLOCK_MONOTONIC);
		self->cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
		for (size_t i = 0; i < pages; i++)
			*(volatile char *)(share + i * PAGE) = 1;
		self->cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - self->cpu;
		self->end = nanoseconds(CLOCK_MONOTONIC);
		pthread_barrier_wait(&done);
	}
	return NULL;
}

static void run(const struct worker *workers, size_t count)
{
	size_t bytes = count * pages * PAGE;
	uint64_t cpu = 0, begin = UINT64_MAX, end = 0;

	area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	if (madvise(area, bytes, MADV_NOHUGEPAGE))
		fail("madvise");
	pthread_barrier_wait(&go);
	pthread_barrier_wait(&done);
	munmap(area, bytes);
	for (size_t i = 0; i < count; i++) {
		cpu += workers[i].cpu;
		begin = workers[i].begin < begin ? workers[i].begin : begin;
		end = workers[i].end > end ? workers[i].end : end;
	}
	printf("%llu %llu %zu\n", (unsigned long long)cpu, (unsigned long long)(end - begin), count * pages);
}

int main(int argc, char **argv)
{
	size_t count = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	struct worker *workers = calloc(count + 1, sizeof(*workers));
	char line[32];

	pages = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	if (!count || !pages || !workers) {
		fprintf(stderr, "usage: threads THREADS PAGES\n");
		return 2;
	}
	pthread_barrier_init(&go, NULL, count + 1);
	pthread_barrier_init(&done, NULL, count + 1);
	for (size_t i = 0; i < count; i++) {
		workers[i].number = i;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			fail("pthread_create");
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		if (strcmp(line, "run\n")) {
			fprintf(stderr, "threads: cannot do: %s", line);
			return 2;
		}
		run(workers, count);
	}
	return 0;
}
