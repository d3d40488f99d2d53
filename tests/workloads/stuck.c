// Threads whose page faults do not come to an end until they are told to: they wait for userfaultfd.
//
// One command a line on stdin, one answer a line on stdout: `ok [value]` or `err ERRNO`; all numbers are decimal. Memory
// is 64 regions of 2 MiB at AREA, one page of each is of interest: page N lies in region N. When a command is answered,
// all threads sleep.
//
//   stick N     a new thread writes page N; answered as soon as it waits there
//   fill N      page N comes, and the thread that waits for it goes on to its end
//   end N       a signal ends the thread that waits for page N; the page does not come
//   touch N     writes a page beside page N, where nothing waits, from the first thread
//   drop N      page N and the one beside it are given back
//   exec        executes this program anew; answered by its first line

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "userfault.h"

#define PAGE 4096UL
#define REGION (2UL << 20)
#define REGIONS 64
#define AREA 0x300000000000UL
#define SOURCE (AREA - REGION)
#define PLAIN_PAGES 256UL // of each region; what is behind them waits

static pthread_t waiting[REGIONS];
static int fd;

static char *page(unsigned long n)
{
    return (char *)(AREA + n * REGION + PLAIN_PAGES * PAGE);
}

static void *stick(void *address)
{
    *(volatile char *)address = 1;
    return NULL;
}

static void end_thread(int number)
{
    (void)number;
    syscall(SYS_exit, 0);
}

static int start(unsigned long n)
{
    struct uffd_msg message;
    int failed = pthread_create(&waiting[n], NULL, stick, page(n));

    while (!failed && read(fd, &message, sizeof message) != sizeof message)
        if (errno != EAGAIN && errno != EINTR)
            failed = errno;
    return -failed;
}

static int fill(unsigned long n)
{
    int failed = userfault_fill(fd, page(n), (void *)SOURCE, PAGE, USERFAULT_COPY);

    if (!failed && waiting[n])
        pthread_join(waiting[n], NULL);
    waiting[n] = 0;
    return failed;
}

static int end(unsigned long n)
{
    int failed = pthread_kill(waiting[n], SIGUSR1);

    if (!failed)
        pthread_join(waiting[n], NULL);
    waiting[n] = 0;
    return -failed;
}

static int prepare(void)
{
    char *area = mmap((char *)SOURCE, (REGIONS + 1) * REGION, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    struct sigaction action = {.sa_handler = end_thread};

    sigaction(SIGUSR1, &action, NULL);
    fd = userfault_open();
    if (area == MAP_FAILED || fd < 0)
        return -1;
    fcntl(fd, F_SETFL, 0); // its messages are waited for
    madvise(area, (REGIONS + 1) * REGION, MADV_NOHUGEPAGE);
    memset(area, 1, PAGE);
    for (unsigned long n = 0; n < REGIONS; n++)
        if (userfault_register(fd, page(n), REGION - PLAIN_PAGES * PAGE))
            return -1;
    return 0;
}

static int run(const char *line, char **arguments)
{
    unsigned long n;
    char word[16];

    if (!strncmp(line, "exec", 4))
        return execv("/proc/self/exe", arguments) ? -errno : 0;
    if (sscanf(line, "%15s %lu", word, &n) != 2 || n >= REGIONS)
        return -EINVAL;
    if (!strcmp(word, "stick"))
        return start(n);
    if (!strcmp(word, "fill"))
        return fill(n);
    if (!strcmp(word, "end"))
        return end(n);
    if (!strcmp(word, "drop"))
        return madvise(page(n) - PAGE, 2 * PAGE, MADV_DONTNEED) ? -errno : 0;
    if (strcmp(word, "touch"))
        return -EINVAL;
    *(volatile char *)(page(n) - PAGE) = 1;
    return 0;
}

int main(int argc, char **argv)
{
    static char line[128], answer[64];
    ssize_t got;

    (void)argc;
    if (prepare())
        return 1;
    memset(line, 1, sizeof line);
    int length = snprintf(answer, sizeof answer, "ready %d\n", getpid());

    while (write(1, answer, length) == length && (got = read(0, line, sizeof line - 1)) > 0) {
        line[got] = 0;
        int failed = run(line, argv);

        length = failed ? snprintf(answer, sizeof answer, "err %d\n", -failed) : snprintf(answer, sizeof answer, "ok\n");
    }
    return 0;
}
