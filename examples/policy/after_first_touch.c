// Mistake: the policy is set after the memory was touched.
//
// mbind(2) decides about pages that are still to come. Those that are there stay where they are, here on the node of the
// CPU that touched them, unless it is called with MPOL_MF_MOVE.
//
// numatrace must say: skewed; cause before-policy, as many pages as interleaving would have put on other nodes.
// Remedy: call mbind before the first touch, or with MPOL_MF_MOVE.

#include "stage.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
    char *table;
    unsigned long elsewhere;

    stage_open(argc, argv, 32, "", NULL);
    table = map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0);
    phase("touch", "without a policy, on node %d", stage.home);
    write_pages(table, stage.bytes);
    phase("policy", "mbind(MPOL_INTERLEAVE), without MPOL_MF_MOVE");
    bind_memory(table, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);

    elsewhere = not_on(stage.home, table, stage.bytes);
    tell_area("table", table, stage.bytes, spread_verdict(elsewhere));
    tell_cause("table", table, stage.bytes, "before-policy", elsewhere);
    return ready();
}
