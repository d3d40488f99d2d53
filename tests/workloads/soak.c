// Several processes with several threads each that do at random whatever changes pages, and stop together when told to.
//
//   soak SEED DIRECTORY THREADS...    a process for each number, with that many threads; one with a single thread also
//                                     executes this program anew now and then. Files are made in DIRECTORY
//   soak names                        the names of all operations, a line each, in the order of their numbers
//
// The first process is the hub, which only passes commands on. It prints `ready HUB PID...`, and then answers each line
// on stdin by `ok`:
//
//   go COUNT KINDS    every thread does COUNT operations of the kinds in the mask: 1 of its own memory, 2 of memory that
//                     others map as well, 4 on other processes. The answer is written when all threads have done them
//                     and sleep: nobody's memory changes from then until the next line
//
// End of input ends all. What a thread does follows from the seed, its process and its place there, however the threads
// take turns; whether an operation succeeds in memory that several of them use does not. Each thread notes what it did in
// the file of descriptor LEDGER_FD, of which `struct ledger` tells the layout: numbers of success and failure, and the
// last operations.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define REGION_PAGES 512UL
#define ARENAS 0x200000000000UL
#define ARENA_STRIDE (1UL << 30)
#define ARENA_PAGES (24UL << 8)
#define HUGE_OFFSET (512UL << 20)
#define HUGE_COUNT 4
#define HUGE (2UL << 20)
#define FILE_PAGES 2048UL
#define MAX_PROCESSES 8
#define MAX_THREADS 8
#define MAX_OPERATIONS 64
#define KEPT 256
#define ANYWHERE 4
#define LEAP 16
#define LEAPS 12
#define MAX_NODES 64

// Descriptors that every process has.
#define DATA_FD 90
#define DIRECT_FD 91
#define MEMFD_FD 92
#define LEDGER_FD 93
#define IN_FD 94
#define OUT_FD 95

// asm-generic/mman-common.h and linux/mempolicy.h; old C libraries lack some
#define ADVICE_FREE 8
#define ADVICE_COLD 20
#define ADVICE_PAGEOUT 21
#define ADVICE_POPULATE_READ 22
#define ADVICE_POPULATE_WRITE 23
#define ADVICE_DONTNEED_LOCKED 24
#define ADVICE_COLLAPSE 25
#define ADVICE_GUARD_INSTALL 102
#define ADVICE_GUARD_REMOVE 103
#define POLICY_MODES 7
#define POLICY_STATIC (1 << 15)
#define POLICY_MOVE 2
#define REMAP_DONTUNMAP 4
#define LOCK_ONFAULT 1
#define NR_process_madvise 440

enum { LOCAL = 1, SHARING = 2, OUTSIDE = 4 };

// An operation that was done: which one by this thread, what, its result or error number, where.
struct entry {
    uint32_t number, operation;
    int32_t result;
    uint32_t extra;
    uint64_t start, length;
};

struct ledger {
    uint64_t done;
    uint64_t tried[MAX_OPERATIONS], failed[MAX_OPERATIONS];
    struct entry last[KEPT];
};

struct common {
    int32_t pids[MAX_PROCESSES];
    struct ledger ledgers[MAX_PROCESSES][MAX_THREADS];
};

struct worker {
    uint64_t random;
    int thread;
    struct ledger *ledger; // NULL in a child that only lives for a moment
    char *anywhere[ANYWHERE];
    unsigned long anywhere_pages[ANYWHERE];
    unsigned long left;
    pthread_t handle;
};

struct range {
    char *start;
    unsigned long pages;
    unsigned extra; // advice, mode, flags: what else there is to tell
};

static struct common *common;
static struct worker workers[MAX_THREADS];
static int process, threads, round_now, rest, kinds;
static unsigned long count;
static unsigned long node_mask;
static char *heap, *heap_start;
static __thread sigjmp_buf *volatile rescue;

// --- chance ------------------------------------------------------------------------------------------------------

// splitmix64, by Sebastiano Vigna
static uint64_t draw(struct worker *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15UL;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebUL;
    return z ^ z >> 31;
}

static unsigned long below(struct worker *w, unsigned long limit)
{
    return draw(w) % limit;
}

// 1 to 1024 pages; every fourth time whole regions. In memory of this thread, or of all threads of the process.
static void pick(struct worker *w, struct range *r)
{
    unsigned long arena = below(w, 4) ? w->thread : MAX_THREADS;
    unsigned long first = below(w, ARENA_PAGES), pages = 1 + below(w, 1UL << below(w, 11));

    if (!below(w, 4)) {
        first -= first % REGION_PAGES;
        pages += REGION_PAGES - 1;
        pages -= pages % REGION_PAGES;
    }
    if (pages > ARENA_PAGES - first)
        pages = ARENA_PAGES - first;
    r->start = (char *)(ARENAS + arena * ARENA_STRIDE + first * PAGE);
    r->pages = pages;
    r->extra = 0;
}

// One to three whole regions.
static void pick_regions(struct worker *w, struct range *r)
{
    unsigned long arena = below(w, 4) ? w->thread : MAX_THREADS;
    unsigned long first = below(w, ARENA_PAGES / REGION_PAGES) * REGION_PAGES;
    unsigned long pages = (1 + below(w, 3)) * REGION_PAGES;

    r->start = (char *)(ARENAS + arena * ARENA_STRIDE + first * PAGE);
    r->pages = pages > ARENA_PAGES - first ? ARENA_PAGES - first : pages;
    r->extra = 0;
}

static unsigned long some_nodes(struct worker *w)
{
    unsigned long mask = draw(w) & node_mask;

    return mask ? mask : node_mask;
}

static int one_node(struct worker *w)
{
    int node;

    do
        node = below(w, MAX_NODES);
    while (!(node_mask >> node & 1));
    return node;
}

// --- memory ------------------------------------------------------------------------------------------------------

static long outcome(long result)
{
    return result < 0 ? -errno : 0;
}

static long mapped(void *got)
{
    return got == MAP_FAILED ? -errno : 0;
}

static void rescued(int number)
{
    if (!rescue)
        _exit(128 + number);
    siglongjmp(*rescue, 1);
}

// Where there is nothing, or nothing any more, it goes on a little farther, and not for ever.
static long touch(volatile char *start, unsigned long pages, unsigned long step, int writes)
{
    sigjmp_buf here;
    volatile unsigned long at = 0, faults = 0;

    if (sigsetjmp(here, 0)) {
        at += LEAP;
        if (++faults == LEAPS)
            at = pages;
    }
    rescue = &here;
    for (; at < pages; at += step) {
        if (writes)
            start[at * PAGE] = 1;
        else
            (void)start[at * PAGE];
    }
    rescue = NULL;
    return faults ? -EFAULT : 0;
}

static long do_map(struct worker *w, struct range *r)
{
    static const int prots[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ,
                                PROT_NONE};
    int flags = MAP_ANONYMOUS | MAP_FIXED | (below(w, 8) ? MAP_PRIVATE : MAP_SHARED);

    (below(w, 2) ? pick : pick_regions)(w, r);
    flags |= below(w, 6) ? 0 : MAP_POPULATE;
    flags |= below(w, 4) ? 0 : MAP_NORESERVE;
    r->extra = flags;
    return mapped(mmap(r->start, r->pages * PAGE, prots[below(w, 5)], flags, -1, 0));
}

static long do_unmap(struct worker *w, struct range *r)
{
    pick(w, r);
    return outcome(munmap(r->start, r->pages * PAGE));
}

static long do_write(struct worker *w, struct range *r)
{
    pick(w, r);
    return touch(r->start, r->pages, 1, 1);
}

static long do_read(struct worker *w, struct range *r)
{
    pick(w, r);
    return touch(r->start, r->pages, 1, 0);
}

static long do_sprinkle(struct worker *w, struct range *r)
{
    pick(w, r);
    r->extra = 1 + below(w, 600);
    return touch(r->start, r->pages, r->extra, below(w, 3));
}

static long do_protect(struct worker *w, struct range *r)
{
    static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    int prot = prots[below(w, 3)];

    (prot & PROT_WRITE ? pick_regions : pick)(w, r);
    r->extra = prot;
    return outcome(mprotect(r->start, r->pages * PAGE, r->extra));
}

static long remap(struct worker *w, struct range *r, unsigned flags)
{
    struct range to;

    pick(w, r);
    pick(w, &to);
    if (!below(w, 2)) // at the same place within a region, where the kernel moves whole page tables
        to.start = (char *)(((unsigned long)to.start & -HUGE) | ((unsigned long)r->start & (HUGE - 1)));
    if (to.pages > r->pages || flags & REMAP_DONTUNMAP)
        to.pages = r->pages;
    r->extra = (unsigned long)to.start >> 12;
    return mapped(mremap(r->start, r->pages * PAGE, to.pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to.start));
}

static long do_move(struct worker *w, struct range *r)
{
    return remap(w, r, 0);
}

static long do_move_and_keep(struct worker *w, struct range *r)
{
    return remap(w, r, REMAP_DONTUNMAP);
}

static long do_resize(struct worker *w, struct range *r)
{
    pick(w, r);
    r->extra = 1 + below(w, 2 * r->pages);
    return mapped(mremap(r->start, r->pages * PAGE, r->extra * PAGE, 0));
}

// Mappings where the kernel wants them: they come and go at the same places, and merge with others.
static long do_anywhere(struct worker *w, struct range *r)
{
    int at = below(w, ANYWHERE);

    if (w->anywhere[at]) {
        r->start = w->anywhere[at];
        r->pages = w->anywhere_pages[at];
        w->anywhere[at] = NULL;
        return outcome(munmap(r->start, r->pages * PAGE));
    }
    r->pages = 1 + below(w, 700);
    r->start = mmap(NULL, r->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->start == MAP_FAILED)
        return -errno;
    w->anywhere[at] = r->start;
    w->anywhere_pages[at] = r->pages;
    return touch(r->start, r->pages, 1 + below(w, 8), 1);
}

static long do_advise(struct worker *w, struct range *r)
{
    static const int advices[] = {MADV_DONTNEED,         MADV_DONTNEED,        ADVICE_FREE,
                                  MADV_HUGEPAGE,         MADV_HUGEPAGE,        MADV_NOHUGEPAGE,
                                  ADVICE_COLD,           ADVICE_POPULATE_READ, ADVICE_POPULATE_WRITE,
                                  ADVICE_DONTNEED_LOCKED, MADV_DONTFORK,       MADV_DOFORK,
                                  MADV_WIPEONFORK,       MADV_KEEPONFORK,      MADV_WILLNEED};

    int advice = advices[below(w, sizeof advices / sizeof *advices)];

    (advice == MADV_HUGEPAGE ? pick_regions : pick)(w, r);
    r->extra = advice;
    return outcome(madvise(r->start, r->pages * PAGE, r->extra));
}

static long advise(struct worker *w, struct range *r, int advice)
{
    (advice == ADVICE_COLLAPSE || advice == MADV_REMOVE ? pick_regions : pick)(w, r);
    return outcome(madvise(r->start, r->pages * PAGE, r->extra = advice));
}

static long do_collapse(struct worker *w, struct range *r)
{
    return advise(w, r, ADVICE_COLLAPSE);
}

static long do_guard(struct worker *w, struct range *r)
{
    return advise(w, r, below(w, 3) ? ADVICE_GUARD_INSTALL : ADVICE_GUARD_REMOVE);
}

static long do_page_out(struct worker *w, struct range *r)
{
    return advise(w, r, ADVICE_PAGEOUT);
}

static long do_remove(struct worker *w, struct range *r)
{
    return advise(w, r, MADV_REMOVE);
}

static long do_lock(struct worker *w, struct range *r)
{
    pick(w, r);
    return outcome(syscall(SYS_mlock2, r->start, r->pages * PAGE, r->extra = below(w, 2) * LOCK_ONFAULT));
}

static long do_unlock(struct worker *w, struct range *r)
{
    pick(w, r);
    return outcome(munlock(r->start, r->pages * PAGE));
}

static long do_name(struct worker *w, struct range *r)
{
    pick(w, r);
    return outcome(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, r->start, r->pages * PAGE, below(w, 2) ? "soak" : NULL));
}

static long do_heap(struct worker *w, struct range *r)
{
    char *now = heap, *wanted = now + PAGE * below(w, 400) - PAGE * below(w, 400);

    if (w->thread)
        return -EPERM;
    if (wanted < heap_start)
        wanted = heap_start;
    r->start = now;
    r->pages = (wanted > now ? wanted - now : now - wanted) / PAGE;
    r->extra = wanted < now;
    if ((char *)syscall(SYS_brk, wanted) != wanted)
        return -ENOMEM;
    heap = wanted;
    return wanted > now ? touch(now, r->pages, 1 + below(w, 2), 1) : 0;
}

static void __attribute__((noinline)) grow_stack(unsigned long pages)
{
    volatile char *lowest = __builtin_alloca(pages * PAGE);

    for (unsigned long at = pages; at-- > 0;)
        lowest[at * PAGE] = 1;
}

static long do_stack(struct worker *w, struct range *r)
{
    r->pages = 1 + below(w, w->thread ? 16 : 200);
    grow_stack(r->pages);
    return 0;
}

// --- files and shared memory -------------------------------------------------------------------------------------

static long map_file(struct worker *w, struct range *r, int fd)
{
    int shared = below(w, 2);

    pick(w, r);
    r->extra = shared;
    return mapped(mmap(r->start, r->pages * PAGE, PROT_READ | (below(w, 4) ? PROT_WRITE : 0),
                       MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE), fd, below(w, FILE_PAGES) * PAGE));
}

static long do_map_file(struct worker *w, struct range *r)
{
    return map_file(w, r, DATA_FD);
}

static long do_map_memfd(struct worker *w, struct range *r)
{
    return map_file(w, r, MEMFD_FD);
}

static long do_shm(struct worker *w, struct range *r)
{
    long result;
    int id;

    pick(w, r);
    id = shmget(IPC_PRIVATE, r->pages * PAGE, IPC_CREAT | 0600);
    if (id < 0)
        return -errno;
    result = outcome((long)shmat(id, r->start, SHM_REMAP));
    shmctl(id, IPC_RMID, NULL);
    return result;
}

// The kernel writes into memory that nobody has touched, or that has just been made.
static long do_fill(struct worker *w, struct range *r)
{
    pick(w, r);
    if (below(w, 2))
        mmap(r->start, r->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    r->extra = below(w, 3);
    if (r->extra == 2)
        return outcome(syscall(SYS_getrandom, r->start, r->pages * PAGE, 0));
    return outcome(pread(r->extra ? DIRECT_FD : DATA_FD, r->start, r->pages * PAGE, below(w, FILE_PAGES) * PAGE));
}

static long do_write_file(struct worker *w, struct range *r)
{
    pick(w, r);
    if (r->pages > 64)
        r->pages = 64;
    r->extra = below(w, FILE_PAGES - r->pages);
    return outcome(pwrite(below(w, 2) ? DATA_FD : MEMFD_FD, r->start, r->pages * PAGE, r->extra * PAGE));
}

static long do_cut(struct worker *w, struct range *r)
{
    int fd = below(w, 2) ? DATA_FD : MEMFD_FD;

    r->pages = below(w, FILE_PAGES);
    if (ftruncate(fd, r->pages * PAGE) < 0)
        return -errno;
    return outcome(ftruncate(fd, FILE_PAGES * PAGE));
}

static long do_punch(struct worker *w, struct range *r)
{
    r->pages = 1 + below(w, 1UL << below(w, 10));
    r->extra = below(w, FILE_PAGES);
    return outcome(fallocate(below(w, 2) ? DATA_FD : MEMFD_FD, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                             r->extra * PAGE, r->pages * PAGE));
}

static long do_uncache(struct worker *w, struct range *r)
{
    r->pages = 1 + below(w, FILE_PAGES);
    return -posix_fadvise(DATA_FD, 0, r->pages * PAGE, POSIX_FADV_DONTNEED);
}

// --- hugetlb -----------------------------------------------------------------------------------------------------

static long do_huge(struct worker *w, struct range *r)
{
    unsigned long first = below(w, HUGE_COUNT), huge = 1 + below(w, HUGE_COUNT - first);
    int flags = MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB | (below(w, 3) ? MAP_PRIVATE : MAP_SHARED);

    r->start = (char *)(ARENAS + w->thread * ARENA_STRIDE + HUGE_OFFSET + first * HUGE);
    r->pages = huge * REGION_PAGES;
    r->extra = below(w, 5);
    switch (r->extra) {
    case 0:
        return mapped(mmap(r->start, huge * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    case 1:
        return outcome(munmap(r->start, huge * HUGE));
    case 2:
        return outcome(madvise(r->start, huge * HUGE, MADV_DONTNEED));
    }
    return touch(r->start, r->pages, REGION_PAGES, r->extra == 3);
}

// --- policies and migration --------------------------------------------------------------------------------------

static int some_mode(struct worker *w, unsigned long *mask)
{
    int mode = below(w, POLICY_MODES);

    *mask = mode == 0 || mode == 4 ? 0 : some_nodes(w); // default and local take none
    return mode;
}

static long bind(struct worker *w, struct range *r, int flags)
{
    unsigned long mask;
    int mode = some_mode(w, &mask);

    pick(w, r);
    if (mask && !below(w, 4))
        mode |= POLICY_STATIC;
    r->extra = mode | flags << 16;
    return outcome(syscall(SYS_mbind, r->start, r->pages * PAGE, mode, mask ? &mask : NULL, mask ? MAX_NODES + 1 : 0,
                           flags));
}

static long do_bind(struct worker *w, struct range *r)
{
    return bind(w, r, 0);
}

static long do_bind_and_move(struct worker *w, struct range *r)
{
    return bind(w, r, POLICY_MOVE);
}

static long do_policy(struct worker *w, struct range *r)
{
    unsigned long mask;
    int mode = some_mode(w, &mask);

    r->extra = mode;
    return outcome(syscall(SYS_set_mempolicy, mode, mask ? &mask : NULL, mask ? MAX_NODES + 1 : 0));
}

static long move(struct worker *w, struct range *r, int pid)
{
    void *page[64];
    int node[64], status[64], pages;

    pick(w, r);
    pages = r->pages < 64 ? r->pages : 64;
    r->extra = one_node(w);
    for (int i = 0; i < pages; i++) {
        page[i] = r->start + (unsigned long)i * PAGE;
        node[i] = r->extra;
    }
    return outcome(syscall(SYS_move_pages, pid, pages, page, node, status, POLICY_MOVE));
}

static long do_move_pages(struct worker *w, struct range *r)
{
    return move(w, r, 0);
}

static long migrate(struct worker *w, struct range *r, int pid)
{
    unsigned long from = some_nodes(w), to = some_nodes(w);

    r->extra = from << 16 | (to & 0xffff);
    return outcome(syscall(SYS_migrate_pages, pid, MAX_NODES + 1, &from, &to));
}

static long do_migrate(struct worker *w, struct range *r)
{
    return migrate(w, r, 0);
}

// --- what is done to other processes -----------------------------------------------------------------------------

static int another(struct worker *w)
{
    int other, pid;

    do
        other = below(w, MAX_PROCESSES);
    while (!(pid = common->pids[other]));
    return pid;
}

static long do_write_another(struct worker *w, struct range *r)
{
    static char here[64 * PAGE];
    struct iovec local = {here, 0}, remote;
    int pid = another(w);

    pick(w, r);
    remote.iov_base = r->start;
    remote.iov_len = local.iov_len = r->pages < 64 ? r->pages * PAGE : sizeof here;
    return outcome(process_vm_writev(pid, &local, 1, &remote, 1, 0));
}

static long do_advise_another(struct worker *w, struct range *r)
{
    static const int advices[] = {ADVICE_COLD, ADVICE_PAGEOUT, ADVICE_COLLAPSE};
    struct iovec remote;
    int pidfd = syscall(SYS_pidfd_open, another(w), 0);
    long result;

    pick(w, r);
    remote.iov_base = r->start;
    remote.iov_len = r->pages * PAGE;
    r->extra = advices[below(w, 3)];
    result = outcome(syscall(NR_process_madvise, pidfd, &remote, 1, r->extra, 0));
    close(pidfd);
    return result;
}

static long do_move_another(struct worker *w, struct range *r)
{
    return move(w, r, another(w));
}

static long do_migrate_another(struct worker *w, struct range *r)
{
    return migrate(w, r, another(w));
}

// --- threads, processes, programs --------------------------------------------------------------------------------

struct brief {
    char *start;
    unsigned long pages;
};

static void *be_thread(void *argument)
{
    struct brief *brief = argument;

    touch(brief->start, brief->pages, 1, 1);
    return NULL;
}

static long do_thread(struct worker *w, struct range *r)
{
    struct brief brief;
    pthread_t handle;
    int failed;

    pick(w, r);
    brief.start = r->start;
    brief.pages = r->pages;
    failed = pthread_create(&handle, NULL, be_thread, &brief);
    if (!failed)
        pthread_join(handle, NULL);
    return -failed;
}

static long wait_for(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status ? -ECHILD : 0;
}

static void be_child(struct worker *w)
{
    static long (*const parts[])(struct worker *, struct range *) = {do_write, do_write,   do_read, do_sprinkle,
                                                                     do_map,   do_unmap,   do_move, do_protect,
                                                                     do_huge,  do_collapse};
    struct range r;

    for (unsigned long left = below(w, 12); left; left--)
        parts[below(w, sizeof parts / sizeof *parts)](w, &r);
    _exit(0);
}

static long do_fork(struct worker *w, struct range *r)
{
    pid_t pid;

    (void)r;
    draw(w);
    pid = fork();
    if (pid == 0)
        be_child(w);
    return pid < 0 ? -errno : wait_for(pid);
}

static long start_program(struct worker *w, int by_vfork)
{
    static char program[] = "/proc/self/exe";
    char number[24], *words[] = {program, "brief", number, NULL};
    pid_t pid;

    snprintf(number, sizeof number, "%lu", (unsigned long)draw(w));
    pid = by_vfork ? vfork() : fork();
    if (pid == 0) {
        execv(program, words);
        _exit(127);
    }
    return pid < 0 ? -errno : wait_for(pid);
}

static long do_spawn(struct worker *w, struct range *r)
{
    (void)r;
    return start_program(w, 0);
}

static long do_vfork(struct worker *w, struct range *r)
{
    (void)r;
    return start_program(w, 1);
}

// The same thread goes on in a new program, with nothing of its memory.
static long do_execute(struct worker *w, struct range *r)
{
    static char program[] = "/proc/self/exe";
    char text[5][24], *words[] = {program, "again", text[0], text[1], text[2], text[3], text[4], NULL};

    (void)r;
    if (threads > 1)
        return -EPERM;
    snprintf(text[0], sizeof text[0], "%d", process);
    snprintf(text[1], sizeof text[1], "%lu", (unsigned long)w->random);
    snprintf(text[2], sizeof text[2], "%lu", w->left);
    snprintf(text[3], sizeof text[3], "%d", kinds);
    snprintf(text[4], sizeof text[4], "%lu", node_mask);
    execv(program, words);
    return -errno;
}

// --- the loop ----------------------------------------------------------------------------------------------------

static const struct {
    const char *name;
    int kind, weight;
    long (*run)(struct worker *w, struct range *r);
} operations[] = {
    {"mmap", LOCAL, 90, do_map},
    {"munmap", LOCAL, 45, do_unmap},
    {"write", LOCAL, 170, do_write},
    {"read", LOCAL, 70, do_read},
    {"touch some", LOCAL, 70, do_sprinkle},
    {"mprotect", LOCAL, 45, do_protect},
    {"mremap", LOCAL, 55, do_move},
    {"mremap, DONTUNMAP", LOCAL, 12, do_move_and_keep},
    {"mremap in place", LOCAL, 20, do_resize},
    {"mmap anywhere, munmap", LOCAL, 40, do_anywhere},
    {"madvise", LOCAL, 120, do_advise},
    {"MADV_COLLAPSE", LOCAL, 20, do_collapse},
    {"MADV_GUARD_INSTALL, _REMOVE", LOCAL, 10, do_guard},
    {"mlock", LOCAL, 12, do_lock},
    {"munlock", LOCAL, 18, do_unlock},
    {"PR_SET_VMA_ANON_NAME", LOCAL, 8, do_name},
    {"brk", LOCAL, 20, do_heap},
    {"stack", LOCAL, 10, do_stack},
    {"mmap of a file", LOCAL, 30, do_map_file},
    {"mmap of a memfd", LOCAL, 30, do_map_memfd},
    {"shmat", LOCAL, 12, do_shm},
    {"read(2), O_DIRECT, getrandom", LOCAL, 50, do_fill},
    {"hugetlb", LOCAL, 40, do_huge},
    {"mbind", LOCAL, 40, do_bind},
    {"mbind, MPOL_MF_MOVE", LOCAL, 25, do_bind_and_move},
    {"set_mempolicy", LOCAL, 15, do_policy},
    {"move_pages", LOCAL, 25, do_move_pages},
    {"migrate_pages", LOCAL, 4, do_migrate},
    {"thread", LOCAL, 10, do_thread},
    {"fork", LOCAL, 14, do_fork},
    {"fork and exec", LOCAL, 3, do_spawn},
    {"vfork and exec", LOCAL, 3, do_vfork},
    {"exec", LOCAL, 3, do_execute},
    {"write(2) to a file", LOCAL, 15, do_write_file},
    {"MADV_PAGEOUT", SHARING, 30, do_page_out},
    {"MADV_REMOVE", SHARING, 20, do_remove},
    {"ftruncate", SHARING, 10, do_cut},
    {"fallocate, PUNCH_HOLE", SHARING, 20, do_punch},
    {"POSIX_FADV_DONTNEED", SHARING, 10, do_uncache},
    {"process_vm_writev", OUTSIDE, 20, do_write_another},
    {"process_madvise", OUTSIDE, 20, do_advise_another},
    {"move_pages of another", OUTSIDE, 20, do_move_another},
    {"migrate_pages of another", OUTSIDE, 5, do_migrate_another},
};

#define OPERATIONS (sizeof operations / sizeof *operations)

static size_t choose(struct worker *w)
{
    unsigned long total = 0, at;
    size_t chosen = 0;

    for (size_t i = 0; i < OPERATIONS; i++)
        total += operations[i].kind & kinds ? operations[i].weight : 0;
    at = below(w, total);
    for (;; chosen++) {
        unsigned long weight = operations[chosen].kind & kinds ? operations[chosen].weight : 0;

        if (at < weight)
            return chosen;
        at -= weight;
    }
}

// Noted before it begins, for one that executes a program does not come back.
static void operate(struct worker *w)
{
    size_t chosen = choose(w);
    struct ledger *ledger = w->ledger;
    struct entry *entry = &ledger->last[ledger->done % KEPT];
    struct range r = {0};
    long result;

    *entry = (struct entry){.number = ledger->done, .operation = chosen, .result = 1};
    ledger->done++;
    ledger->tried[chosen]++;
    result = operations[chosen].run(w, &r);
    entry->result = result;
    entry->extra = r.extra;
    entry->start = (uint64_t)r.start;
    entry->length = r.pages * PAGE;
    ledger->failed[chosen] += result < 0;
}

static void futex_wait(int *word, int while_it_is)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_it_is, NULL, NULL, 0);
}

static void futex_wake(int *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void work(struct worker *w)
{
    while (w->left) {
        w->left--;
        operate(w);
    }
}

static void *be_worker(void *argument)
{
    struct worker *w = argument;

    for (int seen = 0;; seen++) {
        while (__atomic_load_n(&round_now, __ATOMIC_SEQ_CST) == seen)
            futex_wait(&round_now, seen);
        w->left = count;
        work(w);
        if (__atomic_sub_fetch(&rest, 1, __ATOMIC_SEQ_CST) == 0)
            futex_wake(&rest);
    }
    return NULL;
}

static void all_work(void)
{
    int left;

    __atomic_store_n(&rest, threads - 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&round_now, 1, __ATOMIC_SEQ_CST);
    futex_wake(&round_now);
    work(&workers[0]);
    while ((left = __atomic_load_n(&rest, __ATOMIC_SEQ_CST)))
        futex_wait(&rest, left);
}

struct order {
    unsigned long count, kinds;
};

static void obey(void)
{
    struct order order;
    char done = 1;

    for (;;) {
        if (write(OUT_FD, &done, 1) != 1 || read(IN_FD, &order, sizeof order) != sizeof order)
            _exit(0);
        count = workers[0].left = order.count;
        kinds = order.kinds;
        all_work();
    }
}

// --- beginning ---------------------------------------------------------------------------------------------------

static void find_common(void)
{
    common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, LEDGER_FD, 0);
    if (common == MAP_FAILED)
        exit(1);
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_handler = rescued, .sa_flags = SA_NODEFER};

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

// The allocator's part of the heap is large enough from the start: above it the heap is the operations'.
static void keep_heap(void)
{
    void *volatile first; // or the compiler leaves both calls out

    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    mallopt(M_TOP_PAD, 1 << 20);
    first = malloc(1);
    free(first);
    heap = heap_start = (char *)syscall(SYS_brk, 0);
}

static void map_arenas(int thread)
{
    unsigned long arena[] = {thread, MAX_THREADS};

    for (int i = 0; i < 2; i++)
        mmap((char *)(ARENAS + arena[i] * ARENA_STRIDE), ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void begin_worker(int thread, uint64_t random)
{
    workers[thread] = (struct worker){.random = random, .thread = thread, .ledger = &common->ledgers[process][thread]};
    map_arenas(thread);
}

static void be_process(uint64_t seed)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    catch_faults();
    keep_heap();
    for (int thread = 0; thread < threads; thread++) {
        begin_worker(thread, seed * 1000003 + process * MAX_THREADS + thread);
        if (thread && pthread_create(&workers[thread].handle, NULL, be_worker, &workers[thread]))
            exit(1);
    }
    obey();
}

// The program that the only thread of a process has executed: the rest of its operations, and on.
static int be_again(char **words)
{
    find_common();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    catch_faults();
    keep_heap();
    process = atoi(words[0]);
    threads = 1;
    begin_worker(0, strtoul(words[1], NULL, 10));
    workers[0].left = strtoul(words[2], NULL, 10);
    kinds = atoi(words[3]);
    node_mask = strtoul(words[4], NULL, 10);
    work(&workers[0]);
    obey();
    return 0;
}

// A program of which only its end is awaited.
static int be_brief(uint64_t random)
{
    struct worker w = {.random = random};

    catch_faults();
    map_arenas(0);
    do_write(&w, &(struct range){0});
    do_sprinkle(&w, &(struct range){0});
    return 0;
}

static void learn_nodes(void)
{
    unsigned long allowed[16] = {0};

    syscall(SYS_get_mempolicy, NULL, allowed, 8 * sizeof allowed, NULL, 4); // MPOL_F_MEMS_ALLOWED
    node_mask = allowed[0] ? allowed[0] : 1;
}

static void put(int fd, int place)
{
    if (fd < 0 || dup2(fd, place) < 0)
        exit(1);
    close(fd);
}

static void open_files(const char *directory)
{
    static char path[4096];
    int direct;

    snprintf(path, sizeof path, "%s/soak.%d", directory, getpid());
    put(open(path, O_RDWR | O_CREAT | O_EXCL, 0600), DATA_FD);
    if (ftruncate(DATA_FD, FILE_PAGES * PAGE) < 0)
        exit(1);
    direct = open(path, O_RDONLY | O_DIRECT);
    put(direct < 0 ? open(path, O_RDONLY) : direct, DIRECT_FD);
    unlink(path);
    put(memfd_create("soak", 0), MEMFD_FD);
    put(memfd_create("ledger", 0), LEDGER_FD);
    if (ftruncate(MEMFD_FD, FILE_PAGES * PAGE) < 0 || ftruncate(LEDGER_FD, sizeof *common) < 0)
        exit(1);
}

static int orders[MAX_PROCESSES], answers[MAX_PROCESSES];

static void start_process(int number, int its_threads, uint64_t seed)
{
    int to[2], from[2];
    pid_t pid;

    if (pipe(to) < 0 || pipe(from) < 0)
        exit(1);
    pid = fork();
    if (pid < 0)
        exit(1);
    if (pid == 0) {
        put(to[0], IN_FD);
        put(from[1], OUT_FD);
        close_range(3, DATA_FD - 1, 0);
        close_range(OUT_FD + 1, ~0U, 0);
        put(open("/dev/null", O_RDWR), 0);
        process = number;
        threads = its_threads;
        be_process(seed);
    }
    common->pids[number] = pid;
    close(to[0]);
    close(from[1]);
    orders[number] = to[1];
    answers[number] = from[0];
}

static void await_all(int processes)
{
    char done;

    for (int i = 0; i < processes; i++)
        if (read(answers[i], &done, 1) != 1)
            exit(1);
}

static int be_hub(int processes)
{
    static char line[256];
    struct order order;
    ssize_t got;
    int length = snprintf(line, sizeof line, "ready %d", getpid());

    for (int i = 0; i < processes; i++)
        length += snprintf(line + length, sizeof line - length, " %d", common->pids[i]);
    line[length++] = '\n';
    for (;;) {
        if (write(1, line, length) != length || (got = read(0, line, sizeof line - 1)) <= 0)
            return 0;
        line[got] = 0;
        if (sscanf(line, "go %lu %lu", &order.count, &order.kinds) != 2 || !order.kinds)
            return 2;
        for (int i = 0; i < processes; i++)
            if (write(orders[i], &order, sizeof order) != sizeof order)
                return 1;
        await_all(processes);
        memcpy(line, "ok\n", length = 3);
    }
}

int main(int argc, char **argv)
{
    _Static_assert(OPERATIONS <= MAX_OPERATIONS, "more operations than a ledger has room for");
    if (argc == 2 && !strcmp(argv[1], "names")) {
        for (size_t i = 0; i < OPERATIONS; i++)
            puts(operations[i].name);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "brief"))
        return be_brief(strtoul(argv[2], NULL, 10));
    if (argc == 7 && !strcmp(argv[1], "again"))
        return be_again(argv + 2);
    if (argc < 4 || argc > 3 + MAX_PROCESSES)
        return 2;
    learn_nodes();
    open_files(argv[2]);
    find_common();
    for (int i = 0; i < argc - 3; i++)
        start_process(i, atoi(argv[3 + i]), strtoul(argv[1], NULL, 10));
    await_all(argc - 3);
    return be_hub(argc - 3);
}
