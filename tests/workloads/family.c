// A tree of processes that the tests grow, change and cut line by line.
//
// The first process is the hub. It prints `ready PID`; then each line on stdin, `PID COMMAND [ARGUMENTS]`, tells one
// living process of the family what to do, and is answered on stdout by `ok [VALUES] live PID...` or
// `err ERRNO live PID...`, which names all living processes of the family, the hub first. An answer is written when
// everything is done: from then until the next line all of them sleep in recv(2) or read(2), and nobody's memory
// changes. Numbers are decimal. End of input ends the whole family, and the hub last.
//
//   map SLOT BYTES             anonymous memory at the start of a slot: slot S is the GiB at SLOTS + S GiB
//   write SLOT OFFSET BYTES    one byte of each page; read likewise
//   read SLOT OFFSET BYTES
//   unmap SLOT OFFSET BYTES
//   small SLOT                 no transparent huge pages in the memory of a slot
//   pin CPU
//   pid
//   fork LEVELS                a child, its child, and so on; answers their PIDs, the eldest first
//   vforkexec                  a child by vfork, which executes this program anew; answers its PID
//   exec TIMES                 executes this program anew, and that again, TIMES in all. Not for the hub
//   threadexec                 the same once, by another thread than the first one. Not for the hub
//   storm CHILDREN K PAGES     that many children, K at once, which touch PAGES pages each and end; every second one
//                              executes this program before that, every fourth one is made by vfork
//   exit                       ends, and is waited for by its parent, or by the hub if that has ended. Also for a
//                              process that was killed from outside, which is named as living until then and stays
//                              a zombie; of several, the eldest first. Not for the hub
//
// The hub speaks with every other process through a socket of its own, which that one connects to an abstract
// address as soon as it exists; who executes a program connects again. The hub is the reaper of all orphans.

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define SLOTS 0x100000000000UL
#define SLOT_BYTES (1UL << 30)
#define BURDEN_BYTES (32 * PAGE)
#define MAX_MEMBERS 512
#define MAX_AT_ONCE 256
#define MAX_ARGUMENTS 4
#define LINE 8192

struct member {
    pid_t pid, parent;
    int connection; // of the hub's, -1 for its own entry
};

static struct member members[MAX_MEMBERS];
static int member_count;
static int listener = -1;

static char program[LINE], hub_name[16], count_text[24];
static struct sockaddr_un hub_address;
static socklen_t hub_address_length;
static char line[LINE], packet[LINE], answer[LINE];
static char burden[BURDEN_BYTES];
static pid_t storm_child[MAX_AT_ONCE];

// --- what every process can do -----------------------------------------------------------------------------------

static char *address(unsigned long slot, unsigned long offset)
{
    return (char *)(SLOTS + slot * SLOT_BYTES + offset);
}

static void say(const char *format, unsigned long number)
{
    size_t length = strlen(answer);

    snprintf(answer + length, sizeof answer - length, format, number);
}

static int outcome(long result)
{
    return result < 0 ? -errno : 0;
}

static void write_pages(char *start, unsigned long bytes)
{
    for (unsigned long at = 0; at < bytes; at += PAGE)
        ((volatile char *)start)[at] = 1;
}

static int do_map(const unsigned long *number)
{
    char *at = address(number[0], 0);
    char *got = mmap(at, number[1], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    return outcome(got == MAP_FAILED ? -1 : 0);
}

static int do_write(const unsigned long *number)
{
    write_pages(address(number[0], number[1]), number[2]);
    return 0;
}

static int do_read(const unsigned long *number)
{
    for (unsigned long at = 0; at < number[2]; at += PAGE)
        (void)*(volatile char *)address(number[0], number[1] + at);
    return 0;
}

static int do_unmap(const unsigned long *number)
{
    return outcome(munmap(address(number[0], number[1]), number[2]));
}

static int do_small(const unsigned long *number)
{
    int result = outcome(madvise(address(number[0], 0), SLOT_BYTES, MADV_NOHUGEPAGE));

    // ENOMEM: the slot has holes, and what is there was advised. EINVAL: no transparent huge pages in this kernel.
    return result == -ENOMEM || result == -EINVAL ? 0 : result;
}

static int do_pin(const unsigned long *number)
{
    cpu_set_t set;

    if (number[0] >= CPU_SETSIZE)
        return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET(number[0], &set);
    return outcome(sched_setaffinity(0, sizeof set, &set));
}

static int do_pid(const unsigned long *number)
{
    (void)number;
    say(" %lu", getpid());
    return 0;
}

// --- new processes and programs ----------------------------------------------------------------------------------

static void be_member(void) __attribute__((noreturn));

// The descriptors of its parent, the sockets of the hub among them, are none of its business.
static int do_fork(const unsigned long *number)
{
    pid_t pid;

    (void)number;
    pid = fork();
    if (pid == 0) {
        close_range(3, ~0U, 0);
        be_member();
    }
    say(" %lu", pid);
    return outcome(pid);
}

static int execute(const char *role, unsigned long count)
{
    char *arguments[] = {program, (char *)role, hub_name, count_text, NULL};

    snprintf(count_text, sizeof count_text, "%lu", count);
    execv(program, arguments);
    return -errno;
}

static int do_vforkexec(const unsigned long *number)
{
    char *arguments[] = {program, "member", hub_name, "0", NULL};
    pid_t pid;

    (void)number;
    pid = vfork();
    if (pid == 0) {
        execv(program, arguments);
        _exit(127);
    }
    say(" %lu", pid);
    return outcome(pid);
}

static int do_exec(const unsigned long *number)
{
    return number[0] ? execute("member", number[0] - 1) : -EINVAL;
}

static void *execute_once(void *failed)
{
    *(int *)failed = execute("member", 0);
    return NULL;
}

static int do_threadexec(const unsigned long *number)
{
    pthread_t thread;
    int failed = 0, not_started;

    (void)number;
    not_started = pthread_create(&thread, NULL, execute_once, &failed);
    if (not_started)
        return -not_started;
    pthread_join(thread, NULL);
    return failed;
}

// The short life of one child of a storm: it touches its pages and ends.
static int be_brief(unsigned long pages)
{
    char *at = mmap(NULL, pages * PAGE + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return 1;
    write_pages(at, pages * PAGE);
    return 0;
}

static pid_t start_brief(unsigned long which, unsigned long pages)
{
    char *arguments[] = {program, "brief", hub_name, count_text, NULL};
    pid_t pid;

    if (which % 4 == 3) {
        pid = vfork();
        if (pid == 0) {
            execv(program, arguments);
            _exit(127);
        }
        return pid;
    }
    pid = fork();
    if (pid == 0) {
        if (which % 2)
            execv(program, arguments);
        _exit(which % 2 ? 127 : be_brief(pages));
    }
    return pid;
}

// EIO: it did not end well.
static int wait_for(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status ? -EIO : 0;
}

static int do_storm(const unsigned long *number)
{
    unsigned long children = number[0], at_once = number[1], waited = 0, started = 0;
    int failed = 0;

    if (at_once == 0 || at_once > MAX_AT_ONCE)
        return -E2BIG;
    snprintf(count_text, sizeof count_text, "%lu", number[2]);
    while (waited < started || (started < children && !failed)) {
        int ended;

        if (started < children && !failed && started - waited < at_once) {
            pid_t pid = start_brief(started, number[2]);

            storm_child[started % at_once] = pid;
            failed = outcome(pid);
            started += !failed;
            continue;
        }
        ended = wait_for(storm_child[waited++ % at_once]);
        failed = failed ? failed : ended;
    }
    say(" %lu", waited);
    return failed;
}

// The hub's own word to a parent whose child has ended; by what it ended is no matter.
static int do_reap(const unsigned long *number)
{
    int result = wait_for(number[0]);

    return result == -EIO ? 0 : result;
}

static int do_exit(const unsigned long *number)
{
    (void)number;
    _exit(0);
}

static const struct {
    const char *name;
    int arguments;
    int (*run)(const unsigned long *number);
} commands[] = {
    {"map", 2, do_map},       {"write", 3, do_write}, {"read", 3, do_read},
    {"unmap", 3, do_unmap},   {"small", 1, do_small}, {"pin", 1, do_pin},
    {"pid", 0, do_pid},       {"fork", 0, do_fork},   {"vforkexec", 0, do_vforkexec},
    {"storm", 3, do_storm},   {"exec", 1, do_exec},   {"threadexec", 0, do_threadexec},
    {"reap", 1, do_reap},     {"exit", 0, do_exit},
};

// The values of the answer are left in `answer`.
static int run(char *text)
{
    unsigned long number[MAX_ARGUMENTS] = {0};
    char *rest = NULL, *name = strtok_r(text, " ", &rest);
    int given = 0;

    answer[0] = 0;
    for (char *word; given < MAX_ARGUMENTS && (word = strtok_r(NULL, " ", &rest));)
        number[given++] = strtoul(word, NULL, 10);
    for (size_t i = 0; name && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(name, commands[i].name))
            return given == commands[i].arguments ? commands[i].run(number) : -EINVAL;
    return -ENOSYS;
}

// --- a process that is not the hub -------------------------------------------------------------------------------

static void set_hub_address(void)
{
    hub_address.sun_family = AF_UNIX;
    memcpy(hub_address.sun_path + 1, hub_name, strlen(hub_name)); // abstract: the first byte is 0
    hub_address_length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(hub_name);
}

static void be_member(void)
{
    int hub = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int length = snprintf(line, sizeof line, "hello %d %d", getpid(), getppid());
    ssize_t got;

    if (connect(hub, (struct sockaddr *)&hub_address, hub_address_length) < 0)
        _exit(1);
    for (;;) {
        int failed;

        if (send(hub, line, length, MSG_NOSIGNAL) < 0)
            _exit(1);
        got = recv(hub, packet, sizeof packet - 1, 0);
        if (got <= 0)
            _exit(0);
        packet[got] = 0;
        failed = run(packet);
        length = failed ? snprintf(line, sizeof line, "err %d", -failed) : snprintf(line, sizeof line, "ok%s", answer);
    }
}

// --- the hub -----------------------------------------------------------------------------------------------------

static struct member *find(pid_t pid)
{
    for (int i = 0; i < member_count; i++)
        if (members[i].pid == pid)
            return &members[i];
    return NULL;
}

static int is_hub(const struct member *member)
{
    return member == members;
}

// A new process, or one that executes a program and has connected again, says who it is.
static int expect_hello(pid_t pid)
{
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ssize_t got = recv(connection, packet, sizeof packet - 1, 0);
    struct member *member = find(pid);
    int said, parent;

    packet[got < 0 ? 0 : got] = 0;
    if (sscanf(packet, "hello %d %d", &said, &parent) != 2 || said != pid)
        return -EPROTO;
    if (!member && member_count == MAX_MEMBERS)
        return -E2BIG;
    if (member)
        close(member->connection);
    else
        member = &members[member_count++];
    *member = (struct member){pid, parent, connection};
    return 0;
}

// EPIPE: its socket was closed, because it ended or executes a program.
static int tell(struct member *member, const char *text)
{
    ssize_t got;

    if (is_hub(member)) {
        snprintf(packet, sizeof packet, "%s", text);
        return run(packet);
    }
    if (send(member->connection, text, strlen(text), MSG_NOSIGNAL) < 0)
        return -errno;
    got = recv(member->connection, packet, sizeof packet - 1, 0);
    if (got <= 0)
        return -EPIPE;
    packet[got] = 0;
    snprintf(answer, sizeof answer, "%s", strncmp(packet, "ok", 2) ? "" : packet + 2);
    return strncmp(packet, "err ", 4) ? 0 : -atoi(packet + 4);
}

static int let_beget(struct member *parent, const char *how, unsigned long levels)
{
    static char pids[LINE];

    pids[0] = 0;
    for (unsigned long level = 0; level < levels; level++) {
        int failed = tell(parent, how);
        pid_t pid = failed ? 0 : atoi(answer);

        failed = failed ? failed : expect_hello(pid);
        if (failed)
            return failed;
        snprintf(pids + strlen(pids), sizeof pids - strlen(pids), " %d", pid);
        parent = find(pid);
    }
    strcpy(answer, pids);
    return 0;
}

static int let_execute(struct member *member, const char *text)
{
    int failed = tell(member, text);

    answer[0] = 0;
    return failed == -EPIPE ? expect_hello(member->pid) : failed ? failed : -EPROTO;
}

static int let_end(struct member *member)
{
    struct member ended = *member;
    char text[32];

    if (tell(member, "exit") != -EPIPE)
        return -EPROTO;
    close(ended.connection);
    member_count--;
    memmove(member, member + 1, (members + member_count - member) * sizeof *member);
    for (int i = 1; i < member_count; i++)
        if (members[i].parent == ended.pid)
            members[i].parent = members[0].pid;
    snprintf(text, sizeof text, "reap %d", ended.pid);
    return tell(find(ended.parent), text);
}

static int obey(struct member *member, const char *text)
{
    unsigned long levels;

    if (sscanf(text, "fork %lu", &levels) == 1)
        return let_beget(member, "fork", levels);
    if (!strcmp(text, "vforkexec"))
        return let_beget(member, text, 1);
    if (strncmp(text, "exec ", 5) && strcmp(text, "threadexec") && strcmp(text, "exit"))
        return tell(member, text);
    if (is_hub(member))
        return -EPERM;
    return strcmp(text, "exit") ? let_execute(member, text) : let_end(member);
}

static int read_line(void)
{
    size_t length = 0;

    while (length == 0 || line[length - 1] != '\n') {
        ssize_t got = read(0, line + length, sizeof line - length);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        length += got;
    }
    line[length - 1] = 0;
    return 0;
}

static int write_answer(int failed)
{
    int length = failed ? snprintf(line, sizeof line, "err %d live", -failed)
                        : snprintf(line, sizeof line, "ok%s live", answer);

    for (int i = 0; i < member_count; i++)
        length += snprintf(line + length, sizeof line - length, " %d", members[i].pid);
    line[length++] = '\n';
    return write(1, line, length) == length ? 0 : -1;
}

static int listen_for_members(void)
{
    hub_address.sun_family = AF_UNIX;
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    // Nothing but the family: the kernel chooses an abstract name of five digits (unix(7), autobind).
    if (bind(listener, (struct sockaddr *)&hub_address, sizeof(sa_family_t)) < 0 || listen(listener, 16) < 0)
        return -1;
    hub_address_length = sizeof hub_address;
    if (getsockname(listener, (struct sockaddr *)&hub_address, &hub_address_length) < 0)
        return -1;
    memcpy(hub_name, hub_address.sun_path + 1, hub_address_length - offsetof(struct sockaddr_un, sun_path) - 1);
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

static void serve(void)
{
    while (read_line() == 0) {
        int at = 0;
        pid_t pid;
        struct member *member = sscanf(line, "%d %n", &pid, &at) == 1 ? find(pid) : NULL;

        if (write_answer(member ? obey(member, line + at) : -ESRCH) < 0)
            return;
    }
}

static int be_hub(void)
{
    memset(members, 0, sizeof members);
    memset(line, 1, sizeof line);
    memset(packet, 1, sizeof packet);
    memset(answer, 1, sizeof answer);
    memset(storm_child, 1, sizeof storm_child);
    if (listen_for_members() < 0)
        return 1;
    members[member_count++] = (struct member){getpid(), getppid(), -1};
    if (dprintf(1, "ready %d\n", getpid()) > 0)
        serve();
    for (int i = 1; i < member_count; i++)
        close(members[i].connection);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 0;
}

int main(int argc, char **argv)
{
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return 1;
    if (argc == 1)
        return be_hub();
    if (argc != 4)
        return 2;
    strncpy(hub_name, argv[2], sizeof hub_name - 1);
    set_hub_address();
    if (!strcmp(argv[1], "brief"))
        return be_brief(strtoul(argv[3], NULL, 10));
    write_pages(burden, sizeof burden);
    if (strtoul(argv[3], NULL, 10))
        return -execute("member", strtoul(argv[3], NULL, 10) - 1);
    be_member();
}
