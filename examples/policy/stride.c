// Mistake, or rather a surprise: interleaving goes by address, and only some addresses are touched.
//
// A matrix whose rows are as many pages long as there are nodes, of which only the first column is used: the first page
// of each row has the same node, so that all of them lie on one, and each just where the policy puts it.
//
// numatrace must say: skewed; cause pattern, as many pages as that node has more than its share.
// Remedy: touch all pages, or pad the rows so that they do not begin on the same node.

#include "stage.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
    unsigned long row, pages, share;
    char *matrix;

    stage_open(argc, argv, 32, "", NULL);
    row = stage.nodes.count * PAGE;
    pages = stage.bytes / row;
    matrix = map_small(0, pages * row, PROT_READ | PROT_WRITE, 0);
    phase("policy", "mbind(MPOL_INTERLEAVE)");
    bind_memory(matrix, pages * row, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "the first of each %d pages", stage.nodes.count);
    for (unsigned long i = 0; i < pages; i++)
        matrix[i * row] = 1;

    // Pages that are left when they are shared out go one each to the first nodes.
    share = pages / stage.nodes.count;
    if (interleaved(matrix, PAGE_SHIFT, &stage.nodes) == stage.nodes.id[0] && pages % stage.nodes.count)
        share++;
    tell_area("matrix", matrix, pages * row, spread_verdict(pages - share));
    tell_cause("matrix", matrix, pages * row, "pattern", pages - share);
    return ready();
}
