// See stage.h.

#define _GNU_SOURCE
#include "stage.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Below 2^44: kernels before 6.7 cut the number of a page to 32 bits before they interleave by it (offset_il_node()).
#define FIRST_PLACE (1UL << 36)
#define PLACE_SHIFT 32
#define WORD_BITS (8 * sizeof(unsigned long))
#define ASK_AT_ONCE 4096 // pages

#define MPOL_F_MEMS_ALLOWED 4

struct stage stage;
double patience = 120;

static int step;
static double pause_seconds, seconds = -1;

// --- the run ---

static noreturn void usage_and_exit(const char *program, const char *usage)
{
    fprintf(stderr, "usage: %s [MiB] [--step] [--pause SECONDS] [--seconds SECONDS]%s%s\n", program, *usage ? " " : "",
            usage);
    exit(2);
}

void fail(const char *what)
{
    perror(what);
    exit(1);
}

void cannot(const char *words, ...)
{
    va_list list;

    va_start(list, words);
    vfprintf(stderr, words, list);
    va_end(list);
    fputc('\n', stderr);
    exit(3);
}

// A number of this kind and nothing after it, or the usage.
static double number(const char *text, const char *program, const char *usage)
{
    char *end;
    double value = text ? strtod(text, &end) : -1;

    if (!text || end == text || *end || value < 0)
        usage_and_exit(program, usage);
    return value;
}

static void read_options(int argc, char **argv, const char *usage, int (*extra)(const char *, const char *))
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (!strcmp(word, "--step"))
            step = 1;
        else if (!strcmp(word, "--pause"))
            pause_seconds = number(value, argv[0], usage), i++;
        else if (!strcmp(word, "--seconds"))
            seconds = number(value, argv[0], usage), i++;
        else if (extra && value && extra(word, value))
            i++;
        else
            stage.bytes = (unsigned long)number(word, argv[0], usage) << 20;
    }
    stage.bytes = (stage.bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (!stage.bytes || stage.bytes >> 30 > 64)
        usage_and_exit(argv[0], usage);
}

int take_patience(const char *option, const char *value)
{
    char *end;

    if (strcmp(option, "--patience"))
        return 0;
    patience = strtod(value, &end);
    return !*end;
}

// cpuset and memory: the nodes on which this process can have pages (mm/mempolicy.c, do_get_mempolicy()).
static void find_nodes(void)
{
    unsigned long mask[MAX_NODES / WORD_BITS] = {0};

    if (syscall(SYS_get_mempolicy, NULL, mask, MAX_NODES + 1, NULL, MPOL_F_MEMS_ALLOWED) < 0)
        cannot("this kernel knows no memory policies: %s", strerror(errno));
    for (int node = 0; node < MAX_NODES; node++)
        if (mask[node / WORD_BITS] >> node % WORD_BITS & 1)
            stage.nodes.id[stage.nodes.count++] = node;
}

static int is_node(int node)
{
    for (int i = 0; i < stage.nodes.count; i++)
        if (stage.nodes.id[i] == node)
            return 1;
    return 0;
}

// The first of the CPUs that this process may use whose node has memory, so that what is touched there lies there.
static void find_home(void)
{
    cpu_set_t may, one;
    unsigned cpu, node;

    if (sched_getaffinity(0, sizeof may, &may) < 0)
        fail("sched_getaffinity");
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &may))
            continue;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0 || syscall(SYS_getcpu, &cpu, &node, NULL) < 0)
            continue;
        if (is_node(node)) {
            stage.home = node;
            stage.home_cpu = i;
            return;
        }
    }
    cannot("no CPU of this process has memory on its own node");
}

void stage_open(int argc, char **argv, unsigned long mib, const char *usage, int (*extra)(const char *, const char *))
{
    stage.bytes = mib << 20;
    read_options(argc, argv, usage, extra);
    set_policy(MPOL_DEFAULT, NULL);
    find_nodes();
    find_home();
    stage.far = stage.nodes.id[stage.nodes.count - 1];
    if (stage.far == stage.home)
        stage.far = stage.nodes.id[0];
}

// Byte by byte, so that nothing is taken that a child process shall read.
static void wait_for_a_line(void)
{
    char c;
    ssize_t n;

    do
        n = read(STDIN_FILENO, &c, 1);
    while (n == 1 ? c != '\n' : n < 0 && errno == EINTR);
}

static void sleep_for(double wanted)
{
    struct timespec left = {(time_t)wanted, (long)((wanted - (time_t)wanted) * 1e9)};

    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

void phase(const char *name, const char *words, ...)
{
    va_list list;

    printf("phase %s: ", name);
    va_start(list, words);
    vprintf(words, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
    if (step)
        wait_for_a_line();
    else
        sleep_for(pause_seconds);
}

int ready(void)
{
    printf("ready pid=%d\n", getpid());
    fflush(stdout);
    if (seconds >= 0)
        sleep_for(seconds);
    else
        wait_for_a_line();
    return 0;
}

// --- facts ---

void tell_area(const char *name, const char *start, unsigned long bytes, const char *verdict)
{
    printf("area name=%s start=%#lx end=%#lx pages=%lu verdict=%s\n", name, (unsigned long)start,
           (unsigned long)start + bytes, bytes >> PAGE_SHIFT, verdict);
}

void tell_cause(const char *name, const char *start, unsigned long bytes, const char *cause, unsigned long pages)
{
    printf("cause name=%s start=%#lx end=%#lx cause=%s pages=%lu\n", name, (unsigned long)start,
           (unsigned long)start + bytes, cause, pages);
}

void tell_thread(const char *name, int tid)
{
    printf("thread name=%s id=%d\n", name, tid);
}

const char *spread_verdict(unsigned long elsewhere)
{
    return stage.nodes.count == 1 ? "cannot-apply" : elsewhere ? "skewed" : "as-promised";
}

// --- memory ---

char *place(int number)
{
    return (char *)(FIRST_PLACE + ((unsigned long)number << PLACE_SHIFT));
}

char *map_small(int number, unsigned long bytes, int prot, int flags)
{
    char *start = mmap(place(number), bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags, -1, 0);

    if (start != place(number))
        fail("mmap");
    // EINVAL: a kernel without huge pages.
    if (madvise(start, bytes, MADV_NOHUGEPAGE) < 0 && errno != EINVAL)
        fail("madvise");
    return start;
}

void write_pages(char *start, unsigned long bytes)
{
    for (unsigned long at = 0; at < bytes; at += PAGE)
        ((volatile char *)start)[at] = 1;
}

void read_pages(const char *start, unsigned long bytes)
{
    for (unsigned long at = 0; at < bytes; at += PAGE)
        (void)((const volatile char *)start)[at];
}

// --- policies ---

struct mask {
    unsigned long word[MAX_NODES / WORD_BITS];
};

static struct mask mask_of(const struct nodes *nodes)
{
    struct mask mask = {{0}};

    for (int i = 0; nodes && i < nodes->count; i++)
        mask.word[nodes->id[i] / WORD_BITS] |= 1UL << nodes->id[i] % WORD_BITS;
    return mask;
}

int try_bind_memory(const char *start, unsigned long bytes, int mode, const struct nodes *nodes)
{
    struct mask mask = mask_of(nodes);

    // The kernel reads one bit less than it is told to (get_nodes()).
    return syscall(SYS_mbind, start, bytes, mode, nodes ? mask.word : NULL, nodes ? MAX_NODES + 1 : 0, 0) < 0 ? errno
                                                                                                              : 0;
}

void bind_memory(const char *start, unsigned long bytes, int mode, const struct nodes *nodes)
{
    errno = try_bind_memory(start, bytes, mode, nodes);
    if (errno)
        fail("mbind");
}

void set_policy(int mode, const struct nodes *nodes)
{
    struct mask mask = mask_of(nodes);

    if (syscall(SYS_set_mempolicy, mode, nodes ? mask.word : NULL, nodes ? MAX_NODES + 1 : 0) < 0)
        errno == ENOSYS ? cannot("this kernel knows no memory policies") : fail("set_mempolicy");
}

struct nodes only(int node)
{
    return (struct nodes){1, {node}};
}

int interleaved(const char *address, int shift, const struct nodes *nodes)
{
    return nodes->id[((unsigned long)address >> shift) % nodes->count];
}

int weighted(const char *address, int shift, const struct nodes *nodes, const unsigned *weights)
{
    unsigned long sum = 0, slot;
    int i = 0;

    for (int j = 0; j < nodes->count; j++)
        sum += weights[j];
    for (slot = ((unsigned long)address >> shift) % sum; slot >= weights[i]; i++)
        slot -= weights[i];
    return nodes->id[i];
}

unsigned long not_on(int node, const char *start, unsigned long bytes)
{
    unsigned long pages = 0;

    for (unsigned long at = 0; at < bytes; at += PAGE)
        pages += interleaved(start + at, PAGE_SHIFT, &stage.nodes) != node;
    return pages;
}

void nodes_of(const char *start, unsigned long bytes, int *node)
{
    const char *page[ASK_AT_ONCE];

    for (unsigned long done = 0, pages = bytes >> PAGE_SHIFT; done < pages; done += ASK_AT_ONCE) {
        unsigned long now = pages - done < ASK_AT_ONCE ? pages - done : ASK_AT_ONCE;

        for (unsigned long i = 0; i < now; i++)
            page[i] = start + ((done + i) << PAGE_SHIFT);
        if (syscall(SYS_move_pages, 0, now, page, NULL, node + done, 0) < 0)
            fail("move_pages");
        // Older kernels (6.1) do not tell where a page is that NUMA balancing has made inaccessible, until it is used.
        for (unsigned long i = 0; i < now; i++)
            if (node[done + i] == -ENOENT) {
                (void)*(const volatile char *)page[i];
                if (syscall(SYS_move_pages, 0, 1, &page[i], NULL, &node[done + i], 0) < 0)
                    fail("move_pages");
            }
    }
}

unsigned long elsewhere_now(const char *start, unsigned long bytes)
{
    unsigned long elsewhere = 0;
    int *node = malloc((bytes >> PAGE_SHIFT) * sizeof *node);

    if (!node)
        fail("malloc");
    nodes_of(start, bytes, node);
    for (unsigned long i = 0; i < bytes >> PAGE_SHIFT; i++)
        elsewhere += node[i] >= 0 && node[i] != interleaved(start + (i << PAGE_SHIFT), PAGE_SHIFT, &stage.nodes);
    free(node);
    return elsewhere;
}

// --- threads ---

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0 && errno == EINTR)
        ;
}

static void *work(void *argument)
{
    struct worker *worker = argument;

    worker->tid = syscall(SYS_gettid);
    for (;;) {
        sem_post(&worker->done);
        wait_for(&worker->go);
        worker->job(worker->argument);
    }
    return NULL;
}

void worker_start(struct worker *worker, int cpu)
{
    pthread_attr_t attributes;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    worker->cpu = cpu;
    sem_init(&worker->go, 0, 0);
    sem_init(&worker->done, 0, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    errno = pthread_create(&worker->thread, &attributes, work, worker);
    if (errno)
        fail("pthread_create");
    pthread_attr_destroy(&attributes);
    wait_for(&worker->done);
}

void worker_do(struct worker *worker, void (*job)(void *argument), void *argument)
{
    worker->job = job;
    worker->argument = argument;
    sem_post(&worker->go);
    wait_for(&worker->done);
}

void write_span(void *argument)
{
    const struct span *span = argument;

    write_pages(span->start, span->bytes);
}

// --- the machine ---

long number_in(const char *path, ...)
{
    char name[256];
    va_list list;
    long value = -1;
    FILE *file;

    va_start(list, path);
    vsnprintf(name, sizeof name, path, list);
    va_end(list);
    file = fopen(name, "r");
    if (file && fscanf(file, "%ld", &value) != 1)
        value = -1;
    if (file)
        fclose(file);
    return value;
}
