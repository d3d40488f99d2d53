// Mistake, or rather a surprise: small pages are made huge ones later, and these lie where most of the small ones lay.
//
// khugepaged does it by itself where huge pages are enabled, and madvise(MADV_COLLAPSE) at once (Linux 6.1). Here only
// those pages were touched that interleaving had put on one node, so that all of each huge page goes there, whichever
// node it would have been given as a huge page.
//
// numatrace must say: skewed; cause collapsed, all pages of the huge pages whose turn was another node's.
// Remedy: madvise(MADV_NOHUGEPAGE) on memory that shall stay spread by small pages, or touch it with huge pages enabled.

#include "stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define COLLAPSE 25 // MADV_COLLAPSE, include/uapi/asm-generic/mman-common.h

int main(int argc, char **argv)
{
    unsigned long elsewhere = 0;
    char *table;

    stage_open(argc, argv, 32, "", NULL);
    table = map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_INTERLEAVE)");
    bind_memory(table, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "the pages whose turn is node %d", stage.home);
    for (unsigned long at = 0; at < stage.bytes; at += PAGE)
        if (interleaved(table + at, PAGE_SHIFT, &stage.nodes) == stage.home)
            table[at] = 1;
    phase("collapse", "madvise(MADV_COLLAPSE)");
    if (madvise(table, stage.bytes, MADV_HUGEPAGE) < 0 || madvise(table, stage.bytes, COLLAPSE) < 0)
        cannot("madvise(MADV_COLLAPSE): %s", strerror(errno));

    for (unsigned long at = 0; at < stage.bytes; at += HUGE_PAGE)
        if (interleaved(table + at, HUGE_SHIFT, &stage.nodes) != stage.home)
            elsewhere += HUGE_PAGE / PAGE;
    tell_area("collapsed", table, stage.bytes, spread_verdict(elsewhere));
    tell_cause("collapsed", table, stage.bytes, "collapsed", elsewhere);
    return ready();
}
