// What each example stands on: its options, its phases and what it tells of itself, memory at known addresses, and
// memory policies as plain system calls (no libnuma).
//
// A run prints a line `phase NAME: WORDS` before each phase. With --step it then waits for a line on stdin, so that
// somebody can look at the process meanwhile; with --pause S it sleeps S seconds instead. When it has come to rest it
// prints its facts, which it knows from what it did and not from any measurement unless the example says so:
//
//   area name=N start=0xS end=0xE pages=P verdict=V      memory, and the verdict that numatrace must give
//   cause name=N start=0xS end=0xE cause=C pages=P       of the pages in this part of it, how many lie elsewhere, and why
//   thread name=N id=TID
//   ready pid=PID
//
// and waits for a line or the end of stdin, or for the seconds given by --seconds. Exit status: 0, 2 for options that
// it does not know, 3 where this machine or kernel cannot show the mistake, with the reason on stderr.

#ifndef STAGE_H
#define STAGE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdnoreturn.h>

#define PAGE_SHIFT 12
#define HUGE_SHIFT 21
#define PAGE (1UL << PAGE_SHIFT)
#define HUGE_PAGE (1UL << HUGE_SHIFT)
#define MAX_NODES 1024

// include/uapi/linux/mempolicy.h; the headers of a distribution may be older than its kernel.
#define MPOL_DEFAULT 0
#define MPOL_PREFERRED 1
#define MPOL_BIND 2
#define MPOL_INTERLEAVE 3
#define MPOL_WEIGHTED_INTERLEAVE 6

// Of NUMA nodes, ids ascending.
struct nodes {
    int count;
    int id[MAX_NODES];
};

struct stage {
    unsigned long bytes; // how much memory, whole huge pages
    struct nodes nodes;  // that this process may use and that have memory
    int home;            // node of the CPU that the main thread is confined to, one of `nodes`
    int home_cpu;
    int far;             // another one of `nodes`, the last; `home` where there is no other
};

extern struct stage stage;

// --- the run ---

// Reads the options, gives up an inherited policy, confines the main thread to a CPU of a node with memory.
// mib: the size unless [MiB] is given. extra: called with each option that is not common to all and with its value;
// returns whether it knows it; may be NULL. usage: what of it the usage line shows.
void stage_open(int argc, char **argv, unsigned long mib, const char *usage, int (*extra)(const char *, const char *));

// For stage_open(), where an example waits for the kernel: --patience SECONDS, into `patience`, 120 without it.
#define PATIENCE_USAGE "[--patience SECONDS]"
extern double patience;
int take_patience(const char *option, const char *value);

void phase(const char *name, const char *words, ...) __attribute__((format(printf, 2, 3)));

// Tells that all is done, and waits; returns main()'s exit status.
int ready(void);

// Ends with exit status 3.
noreturn void cannot(const char *words, ...) __attribute__((format(printf, 1, 2)));

// Ends with exit status 1 and the system's reason.
noreturn void fail(const char *what);

// --- facts ---

void tell_area(const char *name, const char *start, unsigned long bytes, const char *verdict);
void tell_cause(const char *name, const char *start, unsigned long bytes, const char *cause, unsigned long pages);
void tell_thread(const char *name, int tid);

// Verdict of an interleave of which so many pages lie elsewhere. It can do nothing where there is only one node.
const char *spread_verdict(unsigned long elsewhere);

// --- memory ---

// An address of its own for each number, far from all others, so that no mapping is merged with another.
char *place(int number);

// Private memory there, in small pages. prot, flags: as in mmap(2), beside MAP_PRIVATE | MAP_ANONYMOUS.
char *map_small(int number, unsigned long bytes, int prot, int flags);

void write_pages(char *start, unsigned long bytes);
void read_pages(const char *start, unsigned long bytes);

// --- policies ---

void bind_memory(const char *start, unsigned long bytes, int mode, const struct nodes *nodes); // mbind(2), no flags
int try_bind_memory(const char *start, unsigned long bytes, int mode, const struct nodes *nodes); // 0, or errno
void set_policy(int mode, const struct nodes *nodes);                                             // set_mempolicy(2)
struct nodes only(int node);

// The node to which interleaving gives the page at this address of private memory that was never moved by mremap(2):
// its number in the address space, modulo the number of nodes. shift: PAGE_SHIFT or HUGE_SHIFT, as it was allocated.
int interleaved(const char *address, int shift, const struct nodes *nodes);

// The same for weighted interleave. weights: one for each of `nodes`.
int weighted(const char *address, int shift, const struct nodes *nodes, const unsigned *weights);

// How many small pages interleaving would not have put on the one node where they all lie.
unsigned long not_on(int node, const char *start, unsigned long bytes);

// How many small pages do not lie where interleaving puts them, by move_pages(2), which is only asked, moves nothing.
unsigned long elsewhere_now(const char *start, unsigned long bytes);

// The node of each page, or a negative errno, by move_pages(2). node: of bytes / PAGE elements.
void nodes_of(const char *start, unsigned long bytes, int *node);

// --- threads ---

// A thread that is there before it has work, as those of a pool are.
struct worker {
    pthread_t thread;
    sem_t go, done;
    void (*job)(void *argument);
    void *argument;
    int cpu, tid;
};

// Confined to a CPU from its first instruction on. It has the policy that its creator has now.
void worker_start(struct worker *worker, int cpu);
void worker_do(struct worker *worker, void (*job)(void *argument), void *argument); // returns when it is done

// A job for a worker: to write to pages.
struct span {
    char *start;
    unsigned long bytes;
};
void write_span(void *span);

// --- the machine ---

// The number in a file of the kernel; -1 where there is none.
long number_in(const char *path, ...) __attribute__((format(printf, 1, 2)));

#endif
