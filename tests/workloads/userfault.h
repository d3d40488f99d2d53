// Pages by userfaultfd(2), put in place by the process itself.

#ifndef USERFAULT_H
#define USERFAULT_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// include/uapi/linux/userfaultfd.h, since 6.8
#ifndef UFFDIO_MOVE
struct uffdio_move {
    __u64 dst, src, len, mode;
    __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif

enum userfault_way { USERFAULT_COPY, USERFAULT_ZERO, USERFAULT_MOVE };

static int userfault_open(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return -errno;
    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    close(fd);
    return -EINVAL;
}

// From now on, whoever touches a page that is not there waits until it has been filled.
static int userfault_register(int fd, void *start, unsigned long bytes)
{
    struct uffdio_register all = {{(unsigned long)start, bytes}, UFFDIO_REGISTER_MODE_MISSING, 0};

    return ioctl(fd, UFFDIO_REGISTER, &all) < 0 ? -errno : 0;
}

// Fills pages that are not there; `from` is not used for zeroes. A kernel without UFFDIO_MOVE says EINVAL.
static int userfault_fill(int fd, void *to, void *from, unsigned long bytes, enum userfault_way way)
{
    unsigned long start = (unsigned long)to, source = (unsigned long)from;
    struct uffdio_copy copy = {start, source, bytes, 0, 0};
    struct uffdio_zeropage zero = {{start, bytes}, 0, 0};
    struct uffdio_move move = {start, source, bytes, 0, 0};
    int result = way == USERFAULT_COPY   ? ioctl(fd, UFFDIO_COPY, &copy)
                 : way == USERFAULT_ZERO ? ioctl(fd, UFFDIO_ZEROPAGE, &zero)
                                         : ioctl(fd, UFFDIO_MOVE, &move);

    return result < 0 ? -errno : 0;
}

#endif
