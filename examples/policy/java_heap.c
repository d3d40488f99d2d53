// Mistake: a heap is reserved early and touched in advance, before the policy comes, and its helpers have policies of
// their own. That is how a Java virtual machine with -XX:+AlwaysPreTouch, and an agent that sets a policy, go together.
//
// Reserved addresses have no pages and no node. The first half of the heap is committed and touched by the main thread
// while that has no policy yet; then the thread gets one, by set_mempolicy(2), and the heap grows: a quarter is touched by
// the main thread, which is right, and a quarter by a thread for the collection of garbage, which is bound to a node.
//
// numatrace must say: skewed; causes before-task, for the first half, and other-task, for the last quarter.
// Remedy: start the program under numactl, so that every thread has the policy before it touches anything, or mbind the
// whole reservation before it is committed.

#include "stage.h"

#include <sys/mman.h>

#define RESERVATION (4UL << 30)

static void bind_to_far(void *unused)
{
    struct nodes far = only(stage.far);

    (void)unused;
    set_policy(MPOL_BIND, &far);
}

static void commit(char *start, unsigned long bytes)
{
    if (mprotect(start, bytes, PROT_READ | PROT_WRITE) < 0)
        fail("mprotect");
}

int main(int argc, char **argv)
{
    struct worker collector;
    struct span last;
    unsigned long half, quarter, before, others;
    char *heap;

    stage_open(argc, argv, 32, "", NULL);
    if (stage.bytes > RESERVATION)
        cannot("the heap is at most %lu MiB", RESERVATION >> 20);
    half = stage.bytes / 2;
    quarter = stage.bytes / 4;
    worker_start(&collector, stage.home_cpu);
    worker_do(&collector, bind_to_far, NULL);

    phase("reserve", "%lu MiB of addresses, without pages", RESERVATION >> 20);
    heap = map_small(0, RESERVATION, PROT_NONE, MAP_NORESERVE);
    phase("pretouch", "the main thread commits and touches the first half of the heap, on node %d", stage.home);
    commit(heap, half);
    write_pages(heap, half);
    phase("policy", "set_mempolicy(MPOL_INTERLEAVE) in the main thread");
    set_policy(MPOL_INTERLEAVE, &stage.nodes);
    phase("grow", "the main thread commits the rest, and touches a quarter of the heap");
    commit(heap + half, stage.bytes - half);
    write_pages(heap + half, quarter);
    phase("collect", "a thread that is bound to node %d touches the last quarter", stage.far);
    last = (struct span){heap + half + quarter, stage.bytes - half - quarter};
    worker_do(&collector, write_span, &last);

    before = not_on(stage.home, heap, half);
    others = not_on(stage.far, last.start, last.bytes);
    tell_thread("collector", collector.tid);
    tell_area("heap", heap, stage.bytes, spread_verdict(before + others));
    tell_cause("heap", heap, half, "before-task", before);
    tell_cause("heap", last.start, last.bytes, "other-task", others);
    return ready();
}
