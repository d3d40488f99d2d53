// Mistake: the policy is set on a mapping of a file, whose pages were read in by somebody else.
//
// The pages of a file on a disk belong to the page cache. It was the task that read or wrote them first that decided
// about them (filemap_alloc_folio()), here another process without a policy; mbind(2) on a mapping is no more than a note.
//
// numatrace must say: cannot apply; cause page-cache, as many pages as interleaving would have put on other nodes.
// Remedy: read the file in under the policy (numactl --interleave=all cat FILE >/dev/null, after dropping it from the
// cache), or copy it into private memory.
//
// The file is made in the current directory, or where --directory says, and has no name any more when the first phase is
// over. On tmpfs the pages are shared memory, which policies do govern: see shared_memory.c.

#define _GNU_SOURCE
#include "stage.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *directory = ".";

static int extra(const char *option, const char *value)
{
    if (strcmp(option, "--directory"))
        return 0;
    directory = value;
    return 1;
}

static int open_file(void)
{
    struct statfs kind;
    char path[4096];
    int file;

    snprintf(path, sizeof path, "%s/page_cache.XXXXXX", directory);
    file = mkstemp(path);
    if (file < 0)
        fail(path);
    unlink(path);
    if (fstatfs(file, &kind) < 0)
        fail("fstatfs");
    if (kind.f_type == TMPFS_MAGIC || kind.f_type == RAMFS_MAGIC || kind.f_type == HUGETLBFS_MAGIC)
        cannot("%s is in memory, not on a disk: name another one by --directory", directory);
    return file;
}

// What another process does that has no policy: the pages are where it runs, and stay in the cache when it ends.
static void write_file(int file)
{
    char block[64 << 10];
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child) {
        int status;

        if (waitpid(child, &status, 0) < 0 || status)
            fail("the other process");
        return;
    }
    memset(block, 'x', sizeof block);
    for (unsigned long done = 0; done < stage.bytes; done += sizeof block)
        if (write(file, block, sizeof block) != sizeof block)
            _exit(1);
    _exit(fsync(file) < 0);
}

int main(int argc, char **argv)
{
    char *start;
    unsigned long elsewhere = 0;
    int file;

    stage_open(argc, argv, 16, "[--directory DIRECTORY]", extra);
    file = open_file();
    phase("cache", "another process without a policy writes a file, on node %d", stage.home);
    write_file(file);
    phase("policy", "the file is mapped, and mbind(MPOL_INTERLEAVE) called on the mapping");
    start = mmap(place(0), stage.bytes, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    if (start != place(0))
        fail("mmap");
    bind_memory(start, stage.bytes, MPOL_INTERLEAVE, &stage.nodes);
    phase("touch", "every page is read");
    read_pages(start, stage.bytes);

    // By the page of the file, which is that of the mapping: it begins at offset 0.
    for (unsigned long page = 0; page < stage.bytes / PAGE; page++)
        elsewhere += stage.nodes.id[page % stage.nodes.count] != stage.home;
    tell_area("file", start, stage.bytes, "cannot-apply");
    tell_cause("file", start, stage.bytes, "page-cache", elsewhere);
    return ready();
}
