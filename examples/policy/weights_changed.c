// Mistake: the weights of weighted interleave are changed after the memory was touched.
//
// MPOL_WEIGHTED_INTERLEAVE (Linux 6.9) reads the weights when it allocates a page. Whoever compares the spread with the
// weights of today compares it with the wrong ones. Here the first node has weight 5 and the others 1, and later all 1.
//
// numatrace must say: skewed; cause weights, as many pages as the weights of today would have put on other nodes.
// Remedy: set the weights before the program starts; or move the pages: mbind with MPOL_MF_MOVE goes by those of today.
//
// The weights are the machine's (/sys/kernel/mm/mempolicy/weighted_interleave), so this needs root; they are put back at
// the end.

#include "stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define WEIGHTS "/sys/kernel/mm/mempolicy/weighted_interleave"

static unsigned found[MAX_NODES], first[MAX_NODES], then[MAX_NODES];
static int automatic;

static int put(const char *file, const char *text)
{
    FILE *stream = fopen(file, "w");
    int failed;

    if (!stream)
        return errno;
    failed = fputs(text, stream) < 0;
    failed |= fclose(stream) < 0;
    return failed ? errno : 0;
}

static void set_weights(const unsigned *weights)
{
    char file[256], text[16];

    for (int i = 0; i < stage.nodes.count; i++) {
        snprintf(file, sizeof file, WEIGHTS "/node%d", stage.nodes.id[i]);
        snprintf(text, sizeof text, "%u", weights[i]);
        errno = put(file, text);
        if (errno)
            cannot("%s: %s; this needs root", file, strerror(errno));
    }
}

// Since 6.16 the kernel may choose the weights by itself, until somebody sets one.
static int were_automatic(void)
{
    FILE *file = fopen(WEIGHTS "/auto", "r");
    int letter = file ? fgetc(file) : 0;

    if (file)
        fclose(file);
    return letter == 't';
}

static void keep_weights(void)
{
    automatic = were_automatic();
    for (int i = 0; i < stage.nodes.count; i++) {
        long weight = number_in(WEIGHTS "/node%d", stage.nodes.id[i]);

        if (weight < 0)
            cannot("this kernel has no weighted interleave (Linux 6.9 has)");
        found[i] = weight;
        first[i] = i ? 1 : 5;
        then[i] = 1;
    }
}

int main(int argc, char **argv)
{
    unsigned long elsewhere = 0;
    char *table;
    int status;

    stage_open(argc, argv, 32, "", NULL);
    keep_weights();
    table = map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_WEIGHTED_INTERLEAVE), with weight 5 for node %d and 1 for others", stage.nodes.id[0]);
    set_weights(first);
    bind_memory(table, stage.bytes, MPOL_WEIGHTED_INTERLEAVE, &stage.nodes);
    phase("touch", "%lu pages", stage.bytes / PAGE);
    write_pages(table, stage.bytes);
    phase("weights", "are set to 1 for all nodes");
    set_weights(then);

    for (unsigned long at = 0; at < stage.bytes; at += PAGE)
        elsewhere += weighted(table + at, PAGE_SHIFT, &stage.nodes, first) !=
                     weighted(table + at, PAGE_SHIFT, &stage.nodes, then);
    tell_area("table", table, stage.bytes, spread_verdict(elsewhere));
    tell_cause("table", table, stage.bytes, "weights", elsewhere);
    status = ready();
    set_weights(found);
    if (automatic)
        put(WEIGHTS "/auto", "true");
    return status;
}
