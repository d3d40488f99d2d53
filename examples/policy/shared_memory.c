// Mistake: the policy is set on shared memory that another process has filled.
//
// The policy of shared memory (tmpfs, memfd, System V) belongs to the memory itself, so mbind(2) on a mapping governs what
// any process allocates in it from then on. Pages that are there stay where the process that touched them had them.
//
// numatrace must say: skewed; cause shared, as many pages as interleaving would have put on other nodes.
// Remedy: set the policy where the memory is made, before anybody touches it (tmpfs: mount -o mpol=interleave).

#define _GNU_SOURCE
#include "stage.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *map_shared(int memory)
{
    char *start = mmap(place(0), stage.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, memory, 0);

    if (start != place(0))
        fail("mmap");
    return start;
}

static void fill(int memory)
{
    pid_t child = fork();
    int status;

    if (child < 0)
        fail("fork");
    if (!child) {
        write_pages(map_shared(memory), stage.bytes);
        _exit(0);
    }
    if (waitpid(child, &status, 0) < 0 || status)
        fail("the other process");
}

int main(int argc, char **argv)
{
    struct stat stat;
    char *start;
    unsigned long elsewhere = 0;
    int memory;

    stage_open(argc, argv, 16, "", NULL);
    memory = memfd_create("shared_memory", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, stage.bytes) < 0 || fstat(memory, &stat) < 0)
        fail("memfd_create");
    phase("fill", "another process without a policy writes to shared memory, on node %d", stage.home);
    fill(memory);
    phase("policy", "the memory is mapped, and mbind(MPOL_INTERLEAVE) called on it");
    start = map_shared(memory);
    bind_memory(start, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "every page is read");
    read_pages(start, stage.bytes);

    // By the page of the memory and the number of its inode (shmem_alloc_folio(), shmem_get_pgoff_policy()).
    for (unsigned long page = 0; page < stage.bytes / PAGE; page++)
        elsewhere += stage.nodes.id[(stat.st_ino + page) % stage.nodes.count] != stage.home;
    tell_area("memory", start, stage.bytes, spread_verdict(elsewhere));
    tell_cause("memory", start, stage.bytes, "shared", elsewhere);
    return ready();
}
