// Reads by io_uring, without liburing: a ring of the kernel's for each, gone when it returns.

#ifndef RING_H
#define RING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum ring_way {
    RING_DIRECTLY, // by the thread itself, in io_uring_enter(2)
    RING_WORKER,   // by a thread that the kernel makes for it
    RING_FIXED,    // into a buffer that was registered, which pins its pages
};

struct ring {
    int fd;
    struct io_uring_params params;
    void *submit, *complete, *entries;
    size_t submit_bytes, complete_bytes, entries_bytes;
};

static void *ring_map(const struct ring *ring, size_t bytes, off_t what)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, what);

    return at == MAP_FAILED ? NULL : at;
}

static void ring_close(const struct ring *ring)
{
    if (ring->submit)
        munmap(ring->submit, ring->submit_bytes);
    if (ring->complete)
        munmap(ring->complete, ring->complete_bytes);
    if (ring->entries)
        munmap(ring->entries, ring->entries_bytes);
    close(ring->fd);
}

static int ring_open(struct ring *ring)
{
    memset(ring, 0, sizeof *ring);
    ring->fd = syscall(SYS_io_uring_setup, 1, &ring->params);
    if (ring->fd < 0)
        return -errno;
    ring->submit_bytes = ring->params.sq_off.array + ring->params.sq_entries * sizeof(unsigned);
    ring->complete_bytes = ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
    ring->entries_bytes = ring->params.sq_entries * sizeof(struct io_uring_sqe);
    ring->submit = ring_map(ring, ring->submit_bytes, IORING_OFF_SQ_RING);
    ring->complete = ring_map(ring, ring->complete_bytes, IORING_OFF_CQ_RING);
    ring->entries = ring_map(ring, ring->entries_bytes, IORING_OFF_SQES);
    if (ring->submit && ring->complete && ring->entries)
        return 0;
    ring_close(ring);
    return -ENOMEM;
}

// The bytes that were read, or a negative error number.
static int ring_one_read(const struct ring *ring, int fd, void *buffer, unsigned long bytes, unsigned long offset,
                         enum ring_way way)
{
    struct io_uring_sqe *entry = ring->entries;
    unsigned *tail = (unsigned *)((char *)ring->submit + ring->params.sq_off.tail);
    const struct io_uring_cqe *answers = (void *)((char *)ring->complete + ring->params.cq_off.cqes);
    struct iovec part = {buffer, bytes};

    if (way == RING_FIXED && syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &part, 1) < 0)
        return -errno;
    memset(entry, 0, sizeof *entry);
    entry->opcode = way == RING_FIXED ? IORING_OP_READ_FIXED : IORING_OP_READ;
    entry->flags = way == RING_WORKER ? IOSQE_ASYNC : 0;
    entry->fd = fd;
    entry->addr = (unsigned long)buffer;
    entry->len = bytes;
    entry->off = offset;
    *(unsigned *)((char *)ring->submit + ring->params.sq_off.array) = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        return -errno;
    return answers[0].res;
}

static int ring_read(int fd, void *buffer, unsigned long bytes, unsigned long offset, enum ring_way way)
{
    struct ring ring;
    int result = ring_open(&ring);

    if (result)
        return result;
    result = ring_one_read(&ring, fd, buffer, bytes, offset, way);
    ring_close(&ring);
    return result < 0 ? result : (unsigned long)result == bytes ? 0 : -EIO;
}

#endif
