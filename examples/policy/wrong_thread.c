// Mistake: the policy is set in one thread, and another one touches the memory.
//
// set_mempolicy(2) sets the policy of the calling thread, and of threads that it creates later. The worker here was there
// before, as those of a pool are: it has no policy, and what it touches first lies on the node of its CPU.
//
// numatrace must say: skewed; cause other-task, as many pages as interleaving would have put on other nodes.
// Remedy: set the policy before the threads are created (numactl before exec does), or on the memory, by mbind(2).

#include "stage.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
    struct worker worker;
    struct span span;
    unsigned long elsewhere;

    stage_open(argc, argv, 32, "", NULL);
    worker_start(&worker, stage.home_cpu);
    phase("policy", "set_mempolicy(MPOL_INTERLEAVE) in the main thread; a worker is there already");
    set_policy(MPOL_INTERLEAVE, &stage.nodes);
    span = (struct span){map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0), stage.bytes};
    phase("touch", "by the worker, on node %d", stage.home);
    worker_do(&worker, write_span, &span);

    elsewhere = not_on(stage.home, span.start, span.bytes);
    tell_thread("worker", worker.tid);
    tell_area("table", span.start, span.bytes, spread_verdict(elsewhere));
    tell_cause("table", span.start, span.bytes, "other-task", elsewhere);
    return ready();
}
