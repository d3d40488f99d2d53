// A process with very many VMAs, which it changes one by one on demand, or all the time.
//
// One command a line on stdin, one answer a line on stdout: `ok [value]` or `err ERRNO COMMAND`. Numbers are decimal or
// 0x hexadecimal. An answer is written when the command is complete; from then on, unless `churn` is under way, both
// threads sleep and the memory stays as it is.
//
//   call NUMBER ARGUMENT...   a system call, by number, with up to six arguments; answers its result
//   put ADDRESS HEX           writes bytes, for calls that want a string or a mask
//   touch ADDRESS LENGTH STEP writes a byte at every STEP
//   many ADDRESS COUNT        COUNT VMAs of two pages, readable and not in turns so that none merges with the next; the
//                             first page of each readable one is touched
//   stack BYTES               grows the stack
//   churn ADDRESS             from now on maps, protects, moves and unmaps at ADDRESS (64 MiB), at full speed
//   rest                      ends that; answers how many changes it made, and in how many nanoseconds

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define AREA (64UL << 20)
#define SLOTS 64
#define LINE 8192

static char line[LINE], answer[128];
static sem_t begin, end;
static atomic_bool busy;
static char *place;
static unsigned long changes, nanoseconds;

static unsigned long now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000UL + t.tv_nsec;
}

// Four changes of the list in a slot of 1 MiB: the mapping comes, is split in three, moves and grows, and goes.
static void turn(char *slot)
{
    char *moved = slot + (AREA / SLOTS / 2);

    mmap(slot, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    *(volatile char *)slot = 1;
    mprotect(slot + 4 * PAGE, PAGE, PROT_READ);
    mremap(slot, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved);
    munmap(slot, AREA / SLOTS);
    changes += 4;
}

static void *churn(void *unused)
{
    for (;;) {
        while (sem_wait(&begin))
            ;
        unsigned long began = now();
        changes = 0;
        for (unsigned long i = 0; atomic_load(&busy); i = (i + 1) % SLOTS)
            turn(place + i * (AREA / SLOTS));
        nanoseconds = now() - began;
        sem_post(&end);
    }
    return unused;
}

static int many(char *at, unsigned long count)
{
    for (unsigned long i = 0; i < count; i++, at += 2 * PAGE) {
        int prot = i & 1 ? PROT_NONE : PROT_READ | PROT_WRITE;

        if (mmap(at, 2 * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            return -1;
        if (!(i & 1))
            *(volatile char *)at = 1;
    }
    return 0;
}

static void __attribute__((noinline)) stack(unsigned long bytes)
{
    volatile char *lowest = __builtin_alloca(bytes);

    for (unsigned long at = bytes; at >= PAGE; at -= PAGE)
        lowest[at - PAGE] = 1;
}

static void put(char *at, const char *hex)
{
    unsigned byte;

    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        *at++ = byte;
}

static long run(char *word, unsigned long *a, const char *text)
{
    if (!strcmp(word, "call"))
        return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
    if (!strcmp(word, "many"))
        return many((char *)a[0], a[1]);
    errno = 0;
    if (!strcmp(word, "put")) {
        put((char *)a[0], text);
    } else if (!strcmp(word, "touch")) {
        for (unsigned long at = a[0]; at < a[0] + a[1]; at += a[2])
            *(volatile char *)at = 1;
    } else if (!strcmp(word, "stack")) {
        stack(a[0]);
    } else if (!strcmp(word, "churn")) {
        place = (char *)a[0];
        atomic_store(&busy, 1);
        sem_post(&begin);
    } else if (!strcmp(word, "rest")) {
        atomic_store(&busy, 0);
        while (sem_wait(&end))
            ;
        return changes;
    } else {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

static void carry_out(void)
{
    unsigned long a[7] = {0};
    char *rest, *last = NULL, *word = strtok_r(line, " \n", &rest);
    int n = 0;

    for (char *next; n < 7 && (next = strtok_r(NULL, " \n", &rest)); n++) {
        a[n] = strtoul(next, NULL, 0);
        last = next;
    }
    long result = run(word ? word : "", a, last ? last : "");
    if (result == -1 && errno)
        n = snprintf(answer, sizeof answer, "err %d %s\n", errno, word ? word : "");
    else
        n = snprintf(answer, sizeof answer, "ok %ld %lu\n", result, nanoseconds);
    if (write(1, answer, n) != n)
        exit(1);
}

int main(void)
{
    pthread_t thread;

    sem_init(&begin, 0, 0);
    sem_init(&end, 0, 0);
    // Kilobytes of stack of our own, and no buffers of stdio: what a line needs is mapped and touched from here on.
    memset(line, 1, sizeof line);
    if (pthread_create(&thread, NULL, churn, NULL))
        return 1;
    int n = snprintf(answer, sizeof answer, "ready %d\n", getpid());
    if (write(1, answer, n) != n)
        return 1;
    for (size_t length = 0;;) {
        ssize_t got = read(0, line + length, sizeof line - 1 - length);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        length += got;
        line[length] = 0;
        if (line[length - 1] != '\n')
            continue;
        carry_out();
        length = 0;
    }
}
