// Mistake: one of the nodes is full.
//
// The nodes of an interleave policy are those that are tried first. Where the node whose turn it is has no page above its
// watermark, the next one in its zone list gives one, without a word. Here another process fills a node, and then memory
// is interleaved over all.
//
// numatrace must say: skewed; cause node-full, as many pages as do not lie where it was their turn. That is nearly every
// page of the full node's share; a few may get in, so the example counts them by move_pages(2).
// Remedy: make room on the node (numastat -m; a cache, huge pages in reserve, another process), or leave the node out.
//
// It fills a node of your machine: it does so only where no more than --most MiB of it are free (4096 by default).

#define _GNU_SOURCE
#include "stage.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK (64 * PAGE)
#define LEFT_FOR_SMALL_PAGES (64UL << 20)

static unsigned long most = 4096; // MiB

static int extra(const char *option, const char *value)
{
    char *end;

    if (strcmp(option, "--most"))
        return 0;
    most = strtoul(value, &end, 10);
    return !*end;
}

static unsigned long free_bytes(int node)
{
    char path[64], line[128];
    unsigned long kib = 0;
    FILE *file;

    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
    file = fopen(path, "r");
    if (!file)
        fail(path);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Node %*d MemFree: %lu kB", &kib) == 1)
            break;
    fclose(file);
    return kib << 10;
}

// Whether no page of a block came to this node.
static int all_elsewhere(const char *block, int node)
{
    int where[BLOCK / PAGE];

    nodes_of(block, BLOCK, where);
    for (unsigned i = 0; i < BLOCK / PAGE; i++)
        if (where[i] == node)
            return 0;
    return 1;
}

// The other process.
struct hog {
    pid_t pid;
    int ask, told; // pipes
};

// Small pages until a whole block of them comes to other nodes.
static char *fill_up(char *at, const char *end, int node)
{
    do {
        if (at + BLOCK > end)
            _exit(1);
        write_pages(at, BLOCK);
        at += BLOCK;
    } while (!all_elsewhere(at - BLOCK, node));
    return at;
}

// Huge pages until little is free, then small ones; and once more whenever it is asked. It prefers the node and is not
// bound to it: a process that is bound would be killed when the node is full.
static noreturn void be_hog(int node, int asked, int told)
{
    unsigned long bytes = most << 20, free = free_bytes(node);
    struct nodes nodes = only(node);
    char *start = map_small(9, bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE), *at = start, c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_policy(MPOL_PREFERRED, &nodes);
    if (free > LEFT_FOR_SMALL_PAGES) {
        unsigned long huge = (free - LEFT_FOR_SMALL_PAGES) & ~(HUGE_PAGE - 1);

        madvise(start, huge, MADV_HUGEPAGE);
        write_pages(start, huge);
        at += huge;
    }
    while (read(asked, &c, 1) == 1) {
        at = fill_up(at, start + bytes, node);
        if (write(told, &c, 1) != 1)
            break;
    }
    _exit(0);
}

static void fill(const struct hog *hog)
{
    char c = 0;

    if (write(hog->ask, &c, 1) != 1 || read(hog->told, &c, 1) != 1)
        cannot("node %d does not get full", stage.far);
}

static struct hog start_hog(void)
{
    int ask[2], told[2];
    struct hog hog;

    fflush(stdout);
    if (pipe(ask) < 0 || pipe(told) < 0)
        fail("pipe");
    hog = (struct hog){fork(), ask[1], told[0]};
    if (hog.pid < 0)
        fail("fork");
    if (!hog.pid) {
        close(ask[1]);
        close(told[0]);
        be_hog(stage.far, ask[0], told[1]);
    }
    close(ask[0]);
    close(told[1]);
    return hog;
}

int main(int argc, char **argv)
{
    unsigned long elsewhere;
    char *table;
    struct hog hog;
    int status;

    stage_open(argc, argv, 16, "[--most MiB]", extra);
    if (stage.nodes.count < 2)
        cannot("there is one node: no other one could give pages");
    if (free_bytes(stage.far) >> 20 > most)
        cannot("more than %lu MiB of node %d are free: allow it by --most", most, stage.far);
    phase("fill", "another process fills node %d", stage.far);
    signal(SIGPIPE, SIG_IGN);
    hog = start_hog();
    fill(&hog);
    table = map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_INTERLEAVE)");
    bind_memory(table, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "%lu pages, of which every %dth should lie on node %d", stage.bytes / PAGE, stage.nodes.count,
          stage.far);
    fill(&hog); // again: pages that a CPU kept in its own list are free now
    write_pages(table, stage.bytes);

    elsewhere = elsewhere_now(table, stage.bytes);
    tell_area("table", table, stage.bytes, spread_verdict(elsewhere));
    tell_cause("table", table, stage.bytes, "node-full", elsewhere);
    status = ready();
    close(hog.ask);
    waitpid(hog.pid, NULL, 0);
    return status;
}
