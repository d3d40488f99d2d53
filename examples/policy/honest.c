// No mistake: each policy set before the first touch, on memory that it governs, by the thread that touches it.
//
// numatrace must say: as promised, of each. With --many N it makes as many small areas as well, of random sizes and
// policies, some of them touched in part only, from the random numbers that --seed says (the seed is printed): none of
// them may be called skewed.

#define _GNU_SOURCE
#include "stage.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_PAGES 200
#define FIRST_OF_MANY 16

static unsigned long many, seed = 1;

static int extra(const char *option, const char *value)
{
    char *end;
    unsigned long number = strtoul(value, &end, 10);

    if (*end || (strcmp(option, "--many") && strcmp(option, "--seed")))
        return 0;
    *(strcmp(option, "--many") ? &seed : &many) = number;
    return 1;
}

// splitmix64, by Sebastiano Vigna: the same numbers everywhere.
static unsigned long random_below(unsigned long limit)
{
    static uint64_t state;
    uint64_t z;

    if (!state)
        state = seed << 32 | 1;
    z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % limit;
}

static int number_of_areas;

// Memory with a policy of its own, then touched.
static void honest(const char *name, int mode, const struct nodes *nodes)
{
    char *start = map_small(number_of_areas++, stage.bytes, PROT_READ | PROT_WRITE, 0);

    errno = try_bind_memory(start, stage.bytes, mode, nodes);
    if (errno == EINVAL && mode == MPOL_WEIGHTED_INTERLEAVE)
        return; // a kernel before 6.9
    if (errno)
        fail("mbind");
    write_pages(start, stage.bytes);
    tell_area(name, start, stage.bytes, mode == MPOL_BIND || mode == MPOL_PREFERRED ? "as-promised" : spread_verdict(0));
}

// The same of shared memory, which the policy itself belongs to.
static void honest_shared(void)
{
    int memory = memfd_create("honest", MFD_CLOEXEC);
    char *start = place(number_of_areas++);

    if (memory < 0 || ftruncate(memory, stage.bytes) < 0)
        fail("memfd_create");
    if (mmap(start, stage.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, memory, 0) != start)
        fail("mmap");
    bind_memory(start, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);
    write_pages(start, stage.bytes);
    tell_area("shared", start, stage.bytes, spread_verdict(0));
}

// The same by the policy of the thread that touches it.
static void honest_task(void)
{
    char *start = map_small(number_of_areas++, stage.bytes, PROT_READ | PROT_WRITE, 0);

    set_policy(MPOL_INTERLEAVE, &stage.nodes);
    write_pages(start, stage.bytes);
    tell_area("task", start, stage.bytes, spread_verdict(0));
}

// Some of the nodes, at least one.
static struct nodes random_nodes(void)
{
    struct nodes some = {0};

    while (!some.count)
        for (int i = 0; i < stage.nodes.count; i++)
            if (random_below(2))
                some.id[some.count++] = stage.nodes.id[i];
    return some;
}

static void honest_small(unsigned long number)
{
    static const int modes[] = {MPOL_INTERLEAVE, MPOL_INTERLEAVE, MPOL_WEIGHTED_INTERLEAVE, MPOL_BIND, MPOL_PREFERRED};
    struct nodes nodes = random_nodes();
    int mode = modes[random_below(sizeof modes / sizeof *modes)];
    unsigned long pages = 1 + random_below(MOST_PAGES), in_part = random_below(3);
    // Two of them begin in different places of the order of nodes.
    char *start = place(FIRST_OF_MANY) + number * 2 * HUGE_PAGE + random_below(64) * PAGE;
    char name[32];

    if (mode == MPOL_PREFERRED)
        nodes = only(nodes.id[0]);
    if (mmap(start, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) !=
        start)
        fail("mmap");
    errno = try_bind_memory(start, pages * PAGE, mode, &nodes);
    if (errno == EINVAL && mode == MPOL_WEIGHTED_INTERLEAVE)
        errno = try_bind_memory(start, pages * PAGE, MPOL_INTERLEAVE, &nodes);
    if (errno)
        fail("mbind");
    start[0] = 1;
    for (unsigned long page = 1; page < pages; page++)
        if (in_part || random_below(2))
            start[page * PAGE] = 1;
    snprintf(name, sizeof name, "small-%lu", number);
    tell_area(name, start, pages * PAGE, "not-skewed");
}

int main(int argc, char **argv)
{
    struct nodes two, one = {0};

    stage_open(argc, argv, 16, "[--many N] [--seed SEED]", extra);
    one = only(stage.far);
    two = only(stage.home);
    if (stage.far != stage.home)
        two = stage.home < stage.far ? (struct nodes){2, {stage.home, stage.far}}
                                     : (struct nodes){2, {stage.far, stage.home}};
    phase("touch", "memory under each policy, and %lu small areas from seed %lu", many, seed);
    honest("interleave", MPOL_INTERLEAVE, &stage.nodes);
    honest("weighted", MPOL_WEIGHTED_INTERLEAVE, &stage.nodes);
    honest("bind", MPOL_BIND, &two);
    honest("prefer", MPOL_PREFERRED, &one);
    honest_shared();
    for (unsigned long i = 0; i < many; i++)
        honest_small(i);
    honest_task();
    return ready();
}
