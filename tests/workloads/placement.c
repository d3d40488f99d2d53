// A process whose memory the tests arrange line by line.
//
// One command a line on stdin, one answer a line on stdout: `ok [values]` or `err ERRNO COMMAND`. An answer is
// written when the command is complete; from then until the next command the process sleeps in read(2) and its
// memory does not change: lines live in static buffers that were touched at the start, and nothing here uses
// stdio or the allocator. Numbers are decimal or 0x hexadecimal; names of files are hexadecimal bytes, so
// that any name can be given.
//
// Memory is addressed by slot: slot S covers the GiB at SLOTS + S GiB, so an address never depends on what
// happened before, and stays aligned for every page size. Descriptors are numbered by slot as well.
//
// What each system call makes of pages is the kernel's affair; the program only makes the calls. Flags and modes
// are numbers chosen by the test.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"
#include "userfault.h"

#define PAGE 4096UL
#define REGION (2UL << 20)
#define SLOTS 0x100000000000UL
#define SLOT_BYTES (1UL << 30)
#define BALLAST_SLOT 4095
#define BALLAST_BYTES (128UL << 20)
#define BALLAST_STEP (128UL << 10)
#define FIRST_FD 100
#define MAX_ARGS 10
#define MAX_PAGES 2048
#define MAX_THREADS 16
#define MAX_NODES 64
#define LINE 8192

// include/uapi/linux/mempolicy.h
#define MPOL_MF_MOVE 2

// asm/unistd_64.h, since 5.17
#ifndef SYS_set_mempolicy_home_node
#define SYS_set_mempolicy_home_node 450
#endif

// include/uapi/linux/prctl.h, since 5.17
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

struct line {
    char text[LINE];
    size_t length;
};

static struct line command, answer, relayed;
static char name[LINE / 2];
static void *page_list[MAX_PAGES];
static int node_list[MAX_PAGES], status_list[MAX_PAGES];
static unsigned long counts[MAX_NODES + 1];

static char **arguments_of_main;
static int child_pid, child_in = -1, child_out = -1;
static cpu_set_t processors; // that the process may use, as it was started

static int serve(void);

// --- lines -------------------------------------------------------------------------------------------------------

static void append(struct line *line, const char *text)
{
    while (*text && line->length < LINE - 1)
        line->text[line->length++] = *text++;
}

static void append_number(struct line *line, unsigned long number)
{
    char digits[24];
    int at = sizeof digits - 1;

    digits[at] = 0;
    do
        digits[--at] = '0' + number % 10;
    while (number /= 10);
    append(line, digits + at);
}

static int send_line(int fd, struct line *line)
{
    size_t sent = 0;

    line->text[line->length++] = '\n';
    while (sent < line->length) {
        ssize_t n = write(fd, line->text + sent, line->length - sent);

        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0)
            sent += n;
    }
    return 0;
}

// One line at a time is under way in either direction, so a read never returns more than one.
static int receive_line(int fd, struct line *line)
{
    line->length = 0;
    for (;;) {
        ssize_t n = read(fd, line->text + line->length, LINE - line->length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        line->length += n;
        if (line->text[line->length - 1] == '\n') {
            line->text[--line->length] = 0;
            return 0;
        }
        if (line->length == LINE)
            return -1;
    }
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static unsigned long number_of(const char *text)
{
    unsigned long number = 0, base = 10;

    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    for (; *text && hex_digit(*text) >= 0; text++)
        number = number * base + hex_digit(*text);
    return number;
}

static const char *bytes_of(const char *hex)
{
    size_t n = 0;

    for (; hex[0] && hex[1] && n < sizeof name - 1; hex += 2)
        name[n++] = hex_digit(hex[0]) * 16 + hex_digit(hex[1]);
    name[n] = 0;
    return name;
}

// --- commands ----------------------------------------------------------------------------------------------------

struct call {
    const char *word[MAX_ARGS];
    unsigned long number[MAX_ARGS];
};

static char *address(unsigned long slot, unsigned long offset)
{
    return (char *)(SLOTS + slot * SLOT_BYTES + offset);
}

// The first two words: slot and offset, or `at` and an address that the kernel chose.
static char *place(const struct call *c)
{
    return strcmp(c->word[0], "at") ? address(c->number[0], c->number[1]) : (char *)c->number[1];
}

static int outcome(long result)
{
    return result < 0 ? -errno : 0;
}

static int do_open(const struct call *c)
{
    int fd = open(bytes_of(c->word[1]), c->number[2] | O_CLOEXEC, 0600);

    if (fd < 0)
        return -errno;
    if (dup3(fd, FIRST_FD + c->number[0], O_CLOEXEC) < 0)
        return -errno;
    return outcome(close(fd));
}

static int do_memfd(const struct call *c)
{
    int fd = memfd_create(bytes_of(c->word[1]), c->number[2] | MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, c->number[3]) < 0)
        return -errno;
    if (dup3(fd, FIRST_FD + c->number[0], O_CLOEXEC) < 0)
        return -errno;
    return outcome(close(fd));
}

static int do_close(const struct call *c)
{
    return outcome(close(FIRST_FD + c->number[0]));
}

static int do_truncate(const struct call *c)
{
    return outcome(ftruncate(FIRST_FD + c->number[0], c->number[1]));
}

// The last two words: the slot whose descriptor is mapped, or `none`, and the offset in the file.
static int do_map(const struct call *c)
{
    int fd = strcmp(c->word[5], "none") ? (int)(FIRST_FD + c->number[5]) : -1;
    int where = c->number[4] & MAP_FIXED ? 0 : MAP_FIXED_NOREPLACE;
    char *at = place(c);
    char *got = mmap(at, c->number[2], c->number[3], c->number[4] | where, fd, c->number[6]);

    if (got == MAP_FAILED)
        return -errno;
    return got == at ? 0 : -EFAULT;
}

// Where the kernel wants it; answers the address.
static int do_mapany(const struct call *c)
{
    char *got = mmap(NULL, c->number[0], PROT_READ | PROT_WRITE, c->number[1], -1, 0);

    if (got == MAP_FAILED)
        return -errno;
    append_number(&answer, (unsigned long)got);
    return 0;
}

// System V segment, marked for removal at once: it lives as long as it is attached.
static int do_shm(const struct call *c)
{
    int id = shmget(IPC_PRIVATE, c->number[2], c->number[3] | IPC_CREAT | 0600);
    int result;

    if (id < 0)
        return -errno;
    result = outcome((long)shmat(id, place(c), 0));
    shmctl(id, IPC_RMID, NULL);
    return result;
}

static int do_write(const struct call *c)
{
    for (unsigned long done = 0; done < c->number[2]; done += c->number[3])
        ((volatile char *)place(c))[done] = 1;
    return 0;
}

static int do_read(const struct call *c)
{
    char seen = 0;

    for (unsigned long done = 0; done < c->number[2]; done += c->number[3])
        seen |= ((volatile char *)place(c))[done];
    append_number(&answer, (unsigned char)seen);
    return 0;
}

static int do_unmap(const struct call *c)
{
    return outcome(munmap(place(c), c->number[2]));
}

static int do_protect(const struct call *c)
{
    return outcome(mprotect(place(c), c->number[2], c->number[3]));
}

static int do_advise(const struct call *c)
{
    return outcome(madvise(place(c), c->number[2], c->number[3]));
}

static int do_name(const struct call *c)
{
    return outcome(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, place(c), c->number[2], bytes_of(c->word[3])));
}

// Changes that last long enough to be looked at meanwhile: all pages written, every second stretch of 16 discarded.
static int do_churn(const struct call *c)
{
    struct call all = *c;

    all.number[3] = PAGE;
    for (unsigned long round = 0; round < c->number[3]; round++) {
        do_write(&all);
        for (unsigned long at = round % 2 * 16 * PAGE; at < c->number[2]; at += 32 * PAGE)
            if (madvise(place(c) + at, 16 * PAGE, MADV_DONTNEED) < 0)
                return -errno;
    }
    return 0;
}

static int do_lock(const struct call *c)
{
    return outcome(mlock(place(c), c->number[2]));
}

static int do_unlock(const struct call *c)
{
    return outcome(munlock(place(c), c->number[2]));
}

static int do_lockall(const struct call *c)
{
    return outcome(c->number[0] ? mlockall(c->number[0]) : munlockall());
}

// From (slot, offset, old length) to (slot, offset, new length); the flags decide whether the place is taken.
static int do_remap(const struct call *c)
{
    char *to = address(c->number[3], c->number[4]);
    char *got = mremap(place(c), c->number[2], c->number[5], c->number[6], to);

    if (got == MAP_FAILED)
        return -errno;
    if ((c->number[6] & MREMAP_FIXED) && got != to)
        return -EFAULT;
    return 0;
}

static int do_bind(const struct call *c)
{
    unsigned long mask = c->number[4];

    return outcome(syscall(SYS_mbind, place(c), c->number[2], c->number[3], mask ? &mask : NULL,
                           mask ? MAX_NODES + 1 : 0, c->number[5]));
}

static int do_home(const struct call *c)
{
    return outcome(syscall(SYS_set_mempolicy_home_node, place(c), c->number[2], c->number[3], 0));
}

static int do_policy(const struct call *c)
{
    unsigned long mask = c->number[1];

    return outcome(syscall(SYS_set_mempolicy, c->number[0], mask ? &mask : NULL, mask ? MAX_NODES + 1 : 0));
}

static int do_migrate(const struct call *c)
{
    long left = syscall(SYS_migrate_pages, 0, MAX_NODES + 1, &c->number[0], &c->number[1]);

    if (left >= 0)
        append_number(&answer, left);
    return outcome(left);
}

static int list_pages(const struct call *c)
{
    unsigned long pages = c->number[2] / PAGE;

    if (pages > MAX_PAGES)
        return -E2BIG;
    for (unsigned long i = 0; i < pages; i++)
        page_list[i] = place(c) + i * PAGE;
    return pages;
}

static int do_move(const struct call *c)
{
    int pages = list_pages(c);

    for (int i = 0; i < pages; i++)
        node_list[i] = c->number[3];
    return pages < 0 ? pages
                     : outcome(syscall(SYS_move_pages, 0, pages, page_list, node_list, status_list, MPOL_MF_MOVE));
}

// Where the kernel says that the pages are: pairs of node and pages, the last one is "absent".
static int do_where(const struct call *c)
{
    int pages = list_pages(c);

    if (pages < 0)
        return pages;
    if (syscall(SYS_move_pages, 0, pages, page_list, NULL, status_list, 0) < 0)
        return -errno;
    memset(counts, 0, sizeof counts);
    for (int i = 0; i < pages; i++)
        counts[status_list[i] >= 0 && status_list[i] < MAX_NODES ? status_list[i] : MAX_NODES]++;
    for (int node = 0; node < MAX_NODES; node++) {
        if (!counts[node])
            continue;
        append_number(&answer, node);
        append(&answer, "=");
        append_number(&answer, counts[node]);
        append(&answer, " ");
    }
    append(&answer, "absent=");
    append_number(&answer, counts[MAX_NODES]);
    return 0;
}

static int do_readfile(const struct call *c)
{
    return outcome(pread(FIRST_FD + c->number[3], place(c), c->number[2], c->number[4]));
}

// By io_uring; the last word is one of enum ring_way.
static int do_ring(const struct call *c)
{
    return ring_read(FIRST_FD + c->number[3], place(c), c->number[2], c->number[4], c->number[5]);
}

// The descriptor of the slot, and what faults on these pages waits for it.
static int do_userfault(const struct call *c)
{
    int fd = userfault_open();

    if (fd < 0)
        return fd;
    if (dup3(fd, FIRST_FD + c->number[0], O_CLOEXEC) < 0)
        return -errno;
    close(fd);
    return userfault_register(FIRST_FD + c->number[0], place(c), c->number[2]);
}

// The last word is one of enum userfault_way.
static int do_fill(const struct call *c)
{
    return userfault_fill(FIRST_FD + c->number[0], place(c), address(c->number[0], c->number[3]), c->number[2],
                          c->number[4]);
}

static int do_brk(const struct call *c)
{
    unsigned long now = syscall(SYS_brk, 0);
    unsigned long wanted = c->word[0][0] == '-' ? now - number_of(c->word[0] + 1) : now + c->number[0];

    if ((unsigned long)syscall(SYS_brk, wanted) != wanted)
        return -ENOMEM;
    for (unsigned long at = now; at < wanted; at += PAGE)
        *(volatile char *)at = 1;
    return 0;
}

// Below everything in use; the kernel lets a stack grow to any address within its limit.
static int do_stack(const struct call *c)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);

    for (unsigned long below = REGION / 16; below < c->number[0]; below += PAGE)
        *(volatile char *)(here - below) = 1;
    return 0;
}

static int write_pages(char *start, unsigned long bytes)
{
    for (unsigned long at = 0; at < bytes; at += PAGE)
        ((volatile char *)start)[at] = 1;
    return 0;
}

static int read_pages(char *start, unsigned long bytes)
{
    char seen = 0;

    for (unsigned long at = 0; at < bytes; at += PAGE)
        seen |= ((volatile char *)start)[at];
    return seen;
}

struct part {
    char *start;
    unsigned long bytes;
    int processor;
};

static void *touch_part(void *argument)
{
    struct part *part = argument;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(part->processor, &set);
    sched_setaffinity(0, sizeof set, &set);
    write_pages(part->start, part->bytes);
    return NULL;
}

static int nth_processor(const cpu_set_t *set, unsigned long n)
{
    int processor = -1;

    n %= CPU_COUNT(set);
    do
        while (!CPU_ISSET(++processor, set))
            ;
    while (n--);
    return processor;
}

// Each thread touches its share, on the next CPU that the process may use.
static int do_threads(const struct call *c)
{
    static pthread_t thread[MAX_THREADS];
    static struct part part[MAX_THREADS];
    unsigned long wanted = c->number[3], started = 0;
    cpu_set_t set;
    int failed = 0;

    if (wanted == 0 || wanted > MAX_THREADS)
        return -E2BIG;
    sched_getaffinity(0, sizeof set, &set);
    for (; started < wanted && !failed; started += !failed) {
        part[started].bytes = c->number[2] / wanted;
        part[started].start = place(c) + started * part[started].bytes;
        part[started].processor = nth_processor(&set, started);
        failed = pthread_create(&thread[started], NULL, touch_part, &part[started]);
    }
    for (unsigned long i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    return -failed;
}

// A kernel that changes the word meanwhile, or a signal, is no reason to go on: callers look at the word again.
static void futex_wait(int *word, int while_it_is)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_it_is, NULL, NULL, 0);
}

static void set_word(int *word, int value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static int word_is(int *word, int value)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST) == value;
}

// Confined to its CPU before its first instruction, so that all its page faults are taken there.
static int start_on(unsigned long processor, pthread_t *thread, void *(*run)(void *), void *argument)
{
    pthread_attr_t attributes;
    cpu_set_t set;
    int failed;

    if (processor >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    pthread_attr_init(&attributes);
    pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    failed = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return -failed;
}

// A thread that has touched its pages, and now waits until it may end.
struct pinned {
    pthread_t thread;
    const struct call *call;
    int (*touch)(char *start, unsigned long bytes);
    int tid, touched;
};

static struct pinned pinned[MAX_THREADS];
static int pinned_threads, pinned_may_end;

static void *touch_and_wait(void *argument)
{
    struct pinned *self = argument;

    self->tid = syscall(SYS_gettid);
    self->touch(place(self->call), self->call->number[2]);
    futex_wait(&pinned_may_end, 1); // returns at once; what it needs of the stack is touched before the answer
    set_word(&self->touched, 1);
    while (!word_is(&pinned_may_end, 1))
        futex_wait(&pinned_may_end, 0);
    return NULL;
}

static int start_pinned(const struct call *c, int (*touch)(char *start, unsigned long bytes))
{
    struct pinned *next = &pinned[pinned_threads];
    int failed;

    if (pinned_threads == MAX_THREADS)
        return -E2BIG;
    *next = (struct pinned){.call = c, .touch = touch};
    pinned_may_end = 0;
    failed = start_on(c->number[3], &next->thread, touch_and_wait, next);
    if (failed)
        return failed;
    pinned_threads++;
    while (!word_is(&next->touched, 1))
        futex_wait(&next->touched, 0);
    append_number(&answer, next->tid);
    return 0;
}

static int do_pinned(const struct call *c)
{
    return start_pinned(c, write_pages);
}

static int do_pinnedread(const struct call *c)
{
    return start_pinned(c, read_pages);
}

static int do_join(const struct call *c)
{
    (void)c;
    set_word(&pinned_may_end, 1);
    append_number(&answer, pinned_threads);
    while (pinned_threads)
        pthread_join(pinned[--pinned_threads].thread, NULL);
    return 0;
}

static int do_pin(const struct call *c)
{
    cpu_set_t set;

    if (c->number[0] >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET(c->number[0], &set);
    return outcome(sched_setaffinity(0, sizeof set, &set));
}

static int do_unpin(const struct call *c)
{
    (void)c;
    return outcome(sched_setaffinity(0, sizeof processors, &processors));
}

// Two threads that want the same pages near them. NUMA balancing moves a page after two faults from one node in a
// row, so they take turns, each long enough to be scanned twice; the other one sleeps. Without turns both go at once.
struct contest {
    const struct call *call;
    unsigned long end, turn_ms;
    int turn;
};

struct fighter {
    struct contest *contest;
    int number;
    unsigned long passes;
};

static unsigned long milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000UL + now.tv_nsec / 1000000;
}

static int goes_on(const struct contest *contest)
{
    return milliseconds() < __atomic_load_n(&contest->end, __ATOMIC_SEQ_CST);
}

static void *fight(void *argument)
{
    struct fighter *self = argument;
    struct contest *contest = self->contest;
    const struct call *c = contest->call;

    while (goes_on(contest)) {
        unsigned long turn_end = milliseconds() + contest->turn_ms;

        if (contest->turn_ms && !word_is(&contest->turn, self->number)) {
            futex_wait(&contest->turn, !self->number);
            continue;
        }
        for (; goes_on(contest) && (!contest->turn_ms || milliseconds() < turn_end); self->passes++)
            write_pages(place(c), c->number[2]);
        set_word(&contest->turn, !self->number);
    }
    set_word(&contest->turn, !self->number);
    return NULL;
}

static int do_fight(const struct call *c)
{
    struct contest contest = {.call = c, .end = milliseconds() + c->number[5] * 1000, .turn_ms = c->number[6]};
    struct fighter fighter[2] = {{&contest, 0, 0}, {&contest, 1, 0}};
    pthread_t thread[2];
    int started = 0, failed = 0;

    for (; started < 2 && !failed; started += !failed)
        failed = start_on(c->number[3 + started], &thread[started], fight, &fighter[started]);
    if (failed) {
        __atomic_store_n(&contest.end, 0, __ATOMIC_SEQ_CST);
        set_word(&contest.turn, 0);
    }
    for (int i = 0; i < started; i++) {
        pthread_join(thread[i], NULL);
        append_number(&answer, fighter[i].passes);
        append(&answer, " ");
    }
    return failed;
}

// Another process that shares this memory: it touches, and ends while the parent waits for it.
static int do_vfork(const struct call *c)
{
    unsigned long at;
    int pid = vfork();

    if (pid == 0) {
        for (at = 0; at < c->number[2]; at += PAGE)
            ((volatile char *)place(c))[at] = 1;
        _exit(0);
    }
    return pid < 0 ? -errno : outcome(waitpid(pid, NULL, 0));
}

static int do_fork(const struct call *c)
{
    int to_child[2], from_child[2];

    (void)c;
    if (child_pid)
        return -EBUSY;
    if (pipe2(to_child, O_CLOEXEC) < 0 || pipe2(from_child, O_CLOEXEC) < 0)
        return -errno;
    child_pid = fork();
    if (child_pid < 0) {
        child_pid = 0;
        return -errno;
    }
    if (child_pid == 0) {
        dup2(to_child[0], 0);
        dup2(from_child[1], 1);
        close(to_child[0]);
        close(to_child[1]);
        close(from_child[0]);
        close(from_child[1]);
        _exit(serve());
    }
    close(to_child[0]);
    close(from_child[1]);
    child_in = to_child[1];
    child_out = from_child[0];
    if (receive_line(child_out, &relayed) < 0)
        return -EPIPE;
    append_number(&answer, child_pid);
    return 0;
}

static int do_reap(const struct call *c)
{
    (void)c;
    if (!child_pid)
        return -ECHILD;
    close(child_in);
    close(child_out);
    waitpid(child_pid, NULL, 0);
    child_pid = 0;
    return 0;
}

static int do_exec(const struct call *c)
{
    (void)c;
    execv("/proc/self/exe", arguments_of_main);
    return -errno;
}

// Gives every second page back, so that physical memory is left with as many holes.
static int do_sieve(const struct call *c)
{
    for (unsigned long at = PAGE; at < c->number[2]; at += 2 * PAGE)
        if (madvise((char *)place(c) + at, PAGE, MADV_DONTNEED) < 0)
            return -errno;
    return 0;
}

// A pipe that nobody reads takes references to the pages, so that they cannot be moved.
static int do_vmsplice(const struct call *c)
{
    static int held[2] = {-1, -1};
    struct iovec part = {place(c), c->number[2]};

    if (held[0] >= 0) {
        close(held[0]);
        close(held[1]);
    }
    if (pipe2(held, O_CLOEXEC) < 0)
        return -errno;
    return outcome(vmsplice(held[1], &part, 1, 0) == (ssize_t)part.iov_len ? 0 : -1);
}

static int do_pid(const struct call *c)
{
    (void)c;
    append_number(&answer, getpid());
    return 0;
}

static const struct {
    const char *name;
    int arguments;
    int (*run)(const struct call *);
} commands[] = {
    {"open", 3, do_open},         // slot name flags
    {"memfd", 4, do_memfd},       // slot name flags size
    {"close", 1, do_close},       // slot
    {"truncate", 2, do_truncate}, // slot size
    {"map", 7, do_map},           // slot offset length prot flags slot-of-descriptor|none file-offset
    {"mapany", 2, do_mapany},     // length flags
    {"shm", 4, do_shm},           // slot offset length flags
    {"write", 4, do_write},       // slot offset length step
    {"read", 4, do_read},         // slot offset length step
    {"unmap", 3, do_unmap},       // slot offset length
    {"protect", 4, do_protect},   // slot offset length prot
    {"advise", 4, do_advise},     // slot offset length advice
    {"name", 4, do_name},         // slot offset length name
    {"churn", 4, do_churn},       // slot offset length rounds
    {"lock", 3, do_lock},         // slot offset length
    {"unlock", 3, do_unlock},     // slot offset length
    {"lockall", 1, do_lockall},   // flags of mlockall, or 0 to unlock
    {"remap", 7, do_remap},       // slot offset length to-slot to-offset to-length flags
    {"bind", 6, do_bind},         // slot offset length mode nodes flags
    {"home", 4, do_home},         // slot offset length node
    {"policy", 2, do_policy},     // mode nodes
    {"migrate", 2, do_migrate},   // from-nodes to-nodes
    {"move", 4, do_move},         // slot offset length node
    {"where", 3, do_where},       // slot offset length
    {"readfile", 5, do_readfile}, // slot offset length slot-of-descriptor file-offset
    {"ring", 6, do_ring},         // slot offset length slot-of-descriptor file-offset way
    {"userfault", 3, do_userfault}, // slot offset length; the descriptor gets the slot's number
    {"fill", 5, do_fill},         // slot offset length from-offset way
    {"brk", 1, do_brk},           // [-]bytes
    {"stack", 1, do_stack},       // bytes below the present frame
    {"threads", 4, do_threads},   // slot offset length threads
    {"pinned", 4, do_pinned},     // slot offset length processor; answers the id of the thread, which waits
    {"pinnedread", 4, do_pinnedread}, // the same, reading
    {"join", 0, do_join},         // ends those threads; answers how many
    {"pin", 1, do_pin},           // processor; for the main thread
    {"unpin", 0, do_unpin},
    {"fight", 7, do_fight},       // slot offset length processor processor seconds milliseconds-a-turn; answers passes
    {"vfork", 3, do_vfork},       // slot offset length
    {"sieve", 3, do_sieve},       // slot offset length
    {"vmsplice", 3, do_vmsplice}, // slot offset length; the same pages as before are let go
    {"fork", 0, do_fork},         // answers the child's pid
    {"reap", 0, do_reap},         // ends the child
    {"exec", 0, do_exec},         // answered by the new program's first line
    {"pid", 0, do_pid},
};

static int run(char *text)
{
    struct call call = {0};
    char *word = text, *rest = NULL;
    int given = 0;

    word = strtok_r(text, " ", &rest);
    if (!word)
        return -EINVAL;
    for (char *next = strtok_r(NULL, " ", &rest); next && given < MAX_ARGS; next = strtok_r(NULL, " ", &rest)) {
        call.word[given] = next;
        call.number[given++] = number_of(next);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(word, commands[i].name))
            return given == commands[i].arguments ? commands[i].run(&call) : -EINVAL;
    return -ENOSYS;
}

// `child COMMAND...` is carried out by the forked child, whose answer is passed on.
static int relay(void)
{
    static const char prefix[] = "child ";

    if (strncmp(command.text, prefix, sizeof prefix - 1))
        return 0;
    relayed.length = 0;
    append(&relayed, command.text + sizeof prefix - 1);
    answer.length = 0;
    if (child_pid && !send_line(child_in, &relayed) && !receive_line(child_out, &relayed))
        append(&answer, relayed.text);
    else
        append(&answer, "err 10 child");
    return 1;
}

static int serve(void)
{
    answer.length = 0;
    child_pid = 0;
    pinned_threads = 0; // a fork takes none of them along
    append(&answer, "ready ");
    append_number(&answer, getpid());
    while (!send_line(1, &answer) && !receive_line(0, &command)) {
        int failed;

        if (relay())
            continue;
        answer.length = 0;
        append(&answer, "ok ");
        failed = run(command.text);
        if (failed) {
            answer.length = 0;
            append(&answer, "err ");
            append_number(&answer, -failed);
            append(&answer, " ");
            append(&answer, command.text);
        }
    }
    return 0;
}

// Memory that nothing touches after the start: who reads it again although it did not change reads too much.
static int map_ballast(void)
{
    char *at = address(BALLAST_SLOT, 0);

    if (mmap(at, BALLAST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
        return -1;
    if (madvise(at, BALLAST_BYTES, MADV_NOHUGEPAGE) < 0 && errno != EINVAL) // EINVAL: no THP in this kernel
        return -1;
    for (unsigned long done = 0; done < BALLAST_BYTES; done += BALLAST_STEP)
        ((volatile char *)at)[done] = 1;
    return 0;
}

int main(int argc, char **argv)
{
    (void)argc;
    arguments_of_main = argv;
    memset(&command, 1, sizeof command);
    memset(&answer, 1, sizeof answer);
    memset(&relayed, 1, sizeof relayed);
    memset(name, 1, sizeof name);
    memset(page_list, 1, sizeof page_list);
    memset(node_list, 1, sizeof node_list);
    memset(status_list, 1, sizeof status_list);
    memset(counts, 1, sizeof counts);
    sched_getaffinity(0, sizeof processors, &processors);
    if (map_ballast() < 0)
        return 1;
    return serve();
}
