// Mistake: memory that is spread over the nodes is given to KSM, which keeps one page for all that are equal.
//
// The page that is kept is one of them, on its node, and all others are mapped there. As many pages as KSM lets share one
// (max_page_sharing) have the same contents here. Which of them is kept is KSM's business, so where they lie in the end is
// asked of move_pages(2).
//
// numatrace must say: skewed; cause merged, all pages whose turn was another node's.
// Remedy: madvise(MADV_UNMERGEABLE) on the memory; or echo 0 >/sys/kernel/mm/ksm/merge_across_nodes, while nothing is merged.
//
// KSM is switched on for this, which needs root, and back when it has done it, or not done it for --patience seconds.

#include "stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define KSM "/sys/kernel/mm/ksm"

static const char *const names[] = {"pages_to_scan", "sleep_millisecs", "run"};
static long found[3];
static void put(const char *name, long number)
{
    char path[128];
    FILE *file;
    int failed = 1;

    snprintf(path, sizeof path, KSM "/%s", name);
    file = fopen(path, "w");
    if (file) {
        failed = fprintf(file, "%ld", number) < 0;
        failed |= fclose(file) < 0;
    }
    if (failed)
        cannot("%s: %s; this needs root", path, strerror(errno));
}

static void put_back(void)
{
    for (int i = 0; i < 3; i++)
        put(names[i], found[i]);
}

static void merge(unsigned long pages)
{
    const struct timespec moment = {0, 20000000};
    long merged = 0;

    if (patience <= 0)
        cannot("no time to wait for KSM");
    put("pages_to_scan", 10000);
    put("sleep_millisecs", 0);
    put("run", 1);
    for (time_t end = time(NULL) + (time_t)patience; merged < (long)pages && time(NULL) < end;) {
        nanosleep(&moment, NULL);
        merged = number_in("/proc/self/ksm_merging_pages");
    }
    put_back();
    if (merged < (long)pages)
        cannot("KSM has merged %ld of %lu pages within %.0f s", merged, pages, patience);
}

int main(int argc, char **argv)
{
    unsigned long pages, elsewhere;
    char *table;

    stage_open(argc, argv, 2, PATIENCE_USAGE, take_patience);
    for (int i = 0; i < 3; i++)
        if ((found[i] = number_in(KSM "/%s", names[i])) < 0)
            cannot("this kernel has no KSM");
    if (number_in(KSM "/merge_across_nodes") != 1)
        cannot("KSM is told to keep the pages of each node apart");
    pages = number_in(KSM "/max_page_sharing");
    table = map_small(0, pages * PAGE, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_INTERLEAVE)");
    bind_memory(table, pages * PAGE, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "%lu pages, all equal", pages);
    write_pages(table, pages * PAGE);
    phase("merge", "madvise(MADV_MERGEABLE), and KSM goes over them");
    if (madvise(table, pages * PAGE, MADV_MERGEABLE) < 0)
        cannot("madvise(MADV_MERGEABLE): %s", strerror(errno));
    merge(pages);

    elsewhere = elsewhere_now(table, pages * PAGE);
    tell_area("table", table, pages * PAGE, spread_verdict(elsewhere));
    tell_cause("table", table, pages * PAGE, "merged", elsewhere);
    return ready();
}
