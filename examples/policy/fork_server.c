// Mistake: a server warms up without a policy, and its children set one.
//
// fork(2) copies no memory: the child has its parent's pages, where the parent put them. Its own policy decides only about
// pages that it writes to, for these are copied then. Here the child writes to a quarter before it sets its policy, to a
// quarter afterwards, which is right, and only reads the other half.
//
// numatrace must say of the child: skewed; causes inherited, for the half, and copied, for the first quarter.
// Remedy: set the policy before the parent warms up (numactl before exec), or move the pages in the child
// (migrate_pages(2), which moves shared pages for root only).

#include "stage.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int serve(char *table, unsigned long quarter)
{
    unsigned long copied, inherited;

    phase("early", "the child writes to a quarter of it");
    write_pages(table, quarter);
    phase("policy", "set_mempolicy(MPOL_INTERLEAVE) in the child");
    set_policy(MPOL_INTERLEAVE, &stage.nodes);
    phase("late", "the child writes to another quarter, and reads the rest");
    write_pages(table + quarter, quarter);
    read_pages(table + 2 * quarter, stage.bytes - 2 * quarter);

    copied = not_on(stage.home, table, quarter);
    inherited = not_on(stage.home, table + 2 * quarter, stage.bytes - 2 * quarter);
    tell_area("table", table, stage.bytes, spread_verdict(copied + inherited));
    tell_cause("table", table + 2 * quarter, stage.bytes - 2 * quarter, "inherited", inherited);
    tell_cause("table", table, quarter, "copied", copied);
    return ready();
}

int main(int argc, char **argv)
{
    char *table;
    pid_t child;
    int status;

    stage_open(argc, argv, 32, "", NULL);
    phase("warm", "the parent fills a table without a policy, on node %d", stage.home);
    table = map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0);
    write_pages(table, stage.bytes);
    fflush(stdout);
    child = fork();
    if (child < 0)
        fail("fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return serve(table, stage.bytes / 4);
    }
    if (waitpid(child, &status, 0) < 0)
        fail("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
