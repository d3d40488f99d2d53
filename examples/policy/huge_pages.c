// Mistake, or rather a surprise: interleaving goes by the pages that are allocated, and huge pages are few.
//
// Memory with huge pages of 2 MiB is spread in steps of 2 MiB. Here there is one huge page more than there are nodes, so
// one node has twice as much as the others; beside it the same amount in small pages is even.
//
// numatrace must say of `huge`: not skewed, since every page lies where the policy puts it and so few cannot be even; cause
// granularity, as many pages as one node has more than its share. Of `small`: as promised.
// Remedy: none is needed for memory of many huge pages; else madvise(MADV_NOHUGEPAGE), or align what is used together.

#include "stage.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

// Private memory from a boundary of huge pages, with the advice to use them.
static char *map_huge(int number, unsigned long bytes)
{
    char *start = map_small(number, bytes, PROT_READ | PROT_WRITE, 0);

    if (madvise(start, bytes, MADV_HUGEPAGE) < 0)
        cannot("this kernel has no transparent huge pages");
    return start;
}

static void require_huge_pages(void)
{
    char enabled[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");

    if (file) {
        if (!fgets(enabled, sizeof enabled, file))
            enabled[0] = 0;
        fclose(file);
    }
    if (!*enabled || strstr(enabled, "[never]"))
        cannot("transparent huge pages are off: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled");
}

// Pages that nodes have above their even share.
static unsigned long excess(const char *start, unsigned long bytes)
{
    unsigned long count[MAX_NODES] = {0}, pages = bytes / PAGE, sum = 0;

    for (unsigned long at = 0; at < bytes; at += HUGE_PAGE)
        count[interleaved(start + at, HUGE_SHIFT, &stage.nodes)] += HUGE_PAGE / PAGE;
    for (int i = 0; i < stage.nodes.count; i++) {
        // What is left when the pages are shared out goes one each to the first nodes.
        unsigned long share = pages / stage.nodes.count + ((unsigned long)i < pages % stage.nodes.count);

        sum += count[stage.nodes.id[i]] > share ? count[stage.nodes.id[i]] - share : 0;
    }
    return sum;
}

int main(int argc, char **argv)
{
    unsigned long bytes;
    char *huge, *small;

    stage_open(argc, argv, 2, "", NULL);
    require_huge_pages();
    bytes = stage.nodes.count == 1 ? 2 * HUGE_PAGE : (stage.nodes.count + 1) * HUGE_PAGE;
    huge = map_huge(0, bytes);
    small = map_small(1, bytes, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_INTERLEAVE) on both");
    bind_memory(huge, bytes, MPOL_INTERLEAVE, &stage.nodes);
    bind_memory(small, bytes, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "%lu huge pages over %d nodes, and the same in small pages", bytes / HUGE_PAGE, stage.nodes.count);
    write_pages(huge, bytes);
    write_pages(small, bytes);

    tell_area("huge", huge, bytes, "not-skewed");
    tell_cause("huge", huge, bytes, "granularity", excess(huge, bytes));
    tell_area("small", small, bytes, spread_verdict(0));
    return ready();
}
