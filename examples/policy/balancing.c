// Mistake: memory is interleaved by one thread's policy, used by threads without one, and NUMA balancing is on.
//
// The policy of the thread that touched the memory is not that of the memory. NUMA balancing asks the thread that uses
// it: one without a policy may have pages moved to it (vma_policy_mof()). Here a worker reads and writes everything, and
// the spread turns into a heap on the node of its CPU.
//
// numatrace must say: skewed; cause moved, with the reason numa_misplaced, as many pages as are not where interleaving
// put them. How many that are the kernel decides; the example counts them by move_pages(2).
// Remedy: set the policy on the memory, by mbind(2): balancing leaves that alone; or switch balancing off
// (kernel.numa_balancing).

#include "stage.h"

#include <sys/mman.h>
#include <time.h>

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// Until half of what can be moved here is here.
static void use(void *argument)
{
    const struct span *span = argument;
    unsigned long enough = not_on(stage.home, span->start, span->bytes) / 2;
    double end = now() + patience;

    while (elsewhere_now(span->start, span->bytes) < enough && now() < end)
        for (int pass = 0; pass < 20; pass++)
            write_pages(span->start, span->bytes);
}

int main(int argc, char **argv)
{
    struct worker worker;
    struct span span;
    unsigned long elsewhere;

    stage_open(argc, argv, 16, PATIENCE_USAGE, take_patience);
    if (stage.nodes.count < 2)
        cannot("there is one node: nothing can be moved to another");
    if (number_in("/proc/sys/kernel/numa_balancing") <= 0)
        cannot("NUMA balancing is off: echo 1 >/proc/sys/kernel/numa_balancing");
    worker_start(&worker, stage.home_cpu);
    phase("policy", "set_mempolicy(MPOL_INTERLEAVE) in the main thread; a worker is there already");
    set_policy(MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "by the main thread, so that the pages are spread");
    span = (struct span){map_small(0, stage.bytes, PROT_READ | PROT_WRITE, 0), stage.bytes};
    write_pages(span.start, span.bytes);
    phase("use", "by the worker, on node %d, until half of the pages of other nodes have come there", stage.home);
    worker_do(&worker, use, &span);

    elsewhere = elsewhere_now(span.start, span.bytes);
    if (!elsewhere)
        cannot("nothing was moved in %g seconds", patience);
    tell_thread("worker", worker.tid);
    tell_area("table", span.start, span.bytes, spread_verdict(elsewhere));
    tell_cause("table", span.start, span.bytes, "moved", elsewhere);
    return ready();
}
