/* A pool of threads that wait for work. It is made by the first call that needs it, and again by
 * the first one in a forked child, where none of its threads exist.
 *
 * It is not OpenMP's own, for two reasons. That waits at the end for each of its threads, which
 * takes milliseconds where another process has the processor; here nobody waits for a thread that
 * has not begun. And GNU's hangs in a forked child. But OpenMP's limit, which threadpoolctl and
 * joblib set, holds here too. Windows, which has neither fork nor POSIX threads, does use OpenMP.
 */
#define _DEFAULT_SOURCE /* for what is POSIX's, not C's */
#include "threads.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#ifdef _WIN32

#include <intrin.h>

static volatile long busy;
static int busy_add(int n) { return (int)_InterlockedExchangeAdd(&busy, n); }

static int processors(void) {
#ifdef _OPENMP
  return omp_get_num_procs();
#else
  return 1;
#endif
}

static int thread_number(void) {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

bool fsm_help_is_near(void) { return true; } /* OpenMP decides */

void fsm_do_all(fsm_task *task, void *work, int tasks, int threads, bool wakes) {
  (void)threads, (void)wakes; /* unused without OpenMP */
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic)
#endif
  for (int k = 0; k < tasks; k++) task(work, k, thread_number());
}

#else

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

/* A call that wants help. It lives on the stack of its caller. */
typedef struct job {
  fsm_task *task;
  void *work;
  int tasks;
  atomic_int next;         /* task that nobody has taken */
  int wanted;              /* threads that may still come */
  atomic_int helping;      /* threads that are there */
  pthread_cond_t all_left; /* helping is 0 */
  fenv_t rounding;         /* of the caller, and whatever else would change a result */
  struct job *after;
} job;

/* All but the atomic ones is guarded by the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanting = PTHREAD_COND_INITIALIZER; /* a job has come */
static job *jobs;
static int helpers, spinning, sleeping;
static double last_end;  /* of a job */
static atomic_int calls; /* for help, so far; it may wrap around */
static atomic_int busy;
static int busy_add(int n) { return atomic_fetch_add(&busy, n); }

static int processors(void) {
#ifdef _OPENMP
  return omp_get_num_procs(); /* by affinity */
#else
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

/* The thread that forked is the only one, and it is in no job. */
static void after_fork_in_child(void) {
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&wanting, NULL);
  jobs = NULL;
  helpers = spinning = sleeping = 0;
  atomic_store(&busy, 0);
}

/* Before there is any thread that could fork while another holds the lock. */
static bool watches_forks;
__attribute__((constructor)) static void watch_forks(void) {
  watches_forks = pthread_atfork(before_fork, after_fork, after_fork_in_child) == 0;
}

static void take_tasks(job *j, int thread) {
  int k;
  while ((k = atomic_fetch_add(&j->next, 1)) < j->tasks) j->task(j->work, k, thread);
}

static job *job_that_wants(void) {
  job *j = jobs;
  while (j && j->wanted == 0) j = j->after;
  return j;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds between calls that follow each other: about twice what it takes to wake a thread. */
#define SERIES 100e-6

/* Whether the number changes within about the time that it takes to put a thread to sleep and wake
 * it. Whoever waits for the processor meanwhile gets it: that may be the thread to change it. */
static bool changes_soon(atomic_int *number, int from) {
  double end = seconds() + 50e-6;
  do {
    for (int k = 0; k < 16; k++) {
      if (atomic_load(number) != from) return true;
      relax();
    }
    sched_yield();
  } while (seconds() < end);
  return false;
}

/* A job, when there is one; the lock is held before and after. */
static job *wait_for_job(void) {
  job *j = job_that_wants();
  if (j) return j;
  int seen = atomic_load(&calls);
  spinning++;
  pthread_mutex_unlock(&lock);
  changes_soon(&calls, seen);
  pthread_mutex_lock(&lock);
  spinning--;
  while (!(j = job_that_wants())) {
    sleeping++;
    pthread_cond_wait(&wanting, &lock);
    sleeping--;
  }
  return j;
}

static void *help(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  for (;;) {
    job *j = wait_for_job();
    int thread = j->wanted--;
    atomic_fetch_add(&j->helping, 1);
    pthread_mutex_unlock(&lock);
    fesetenv(&j->rounding);
    take_tasks(j, thread);
    pthread_mutex_lock(&lock);
    if (atomic_fetch_sub(&j->helping, 1) == 1) pthread_cond_signal(&j->all_left);
  }
  return NULL;
}

/* Those signals that are not about what the thread itself does. */
static sigset_t signals_of_others(void) {
  static const int own[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
  sigset_t others;
  sigfillset(&others);
  for (size_t k = 0; k < sizeof own / sizeof *own; k++) sigdelset(&others, own[k]);
  return others;
}

/* One helper more, if the system grants it. Signals are left to the threads of the program, but for
 * those of its own mistakes, which the program may want to report. */
static bool add_helper(void) {
  enum { STACK = 1 << 21 }; /* the default is less than the kernels may need, on some systems */
  pthread_t thread;
  pthread_attr_t attributes;
  sigset_t others = signals_of_others(), before;
  if (pthread_attr_init(&attributes)) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  bool is_made = pthread_create(&thread, &attributes, help, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return is_made;
}

/* So many helpers more, up to one for each processor, or as many as are wanted. */
static void add_helpers(int missing, int wanted) {
  if (missing <= 0) return; /* processors are counted by a system call */
  int most = processors() - 1;
  if (most < wanted) most = wanted;
  for (; missing > 0 && helpers < most && add_helper(); missing--) helpers++;
}

static void call_for_help(job *j, bool wakes) {
  pthread_mutex_lock(&lock);
  if (!watches_forks) j->wanted = 0;
  bool is_in_series = seconds() - last_end < SERIES;
  if (!wakes && !is_in_series && j->wanted > spinning) j->wanted = spinning;
  j->after = jobs;
  jobs = j;
  atomic_fetch_add(&calls, 1);
  int missing = j->wanted - spinning, to_wake = missing < sleeping ? missing : sleeping;
  add_helpers(missing - to_wake, j->wanted);
  pthread_mutex_unlock(&lock);
  for (; to_wake > 0; to_wake--) pthread_cond_signal(&wanting);
}

/* From here on nobody else comes; wait for those that are there. */
static void dismiss(job *j) {
  pthread_mutex_lock(&lock);
  job **place = &jobs;
  while (*place != j) place = &(*place)->after;
  *place = j->after;
  pthread_mutex_unlock(&lock);
  int helping;
  while ((helping = atomic_load(&j->helping)) > 0 && changes_soon(&j->helping, helping)) {
  }
  /* Not before the last of them has given up the lock, and with it the job. */
  pthread_mutex_lock(&lock);
  while (atomic_load(&j->helping) > 0) pthread_cond_wait(&j->all_left, &lock);
  last_end = seconds();
  pthread_mutex_unlock(&lock);
}

bool fsm_help_is_near(void) {
  pthread_mutex_lock(&lock);
  bool is_near = spinning > 0 || seconds() - last_end < SERIES;
  pthread_mutex_unlock(&lock);
  return is_near;
}

void fsm_do_all(fsm_task *task, void *work, int tasks, int threads, bool wakes) {
  job j = {.task = task, .work = work, .tasks = tasks, .wanted = threads - 1};
  atomic_init(&j.next, 0);
  atomic_init(&j.helping, 0);
  fegetenv(&j.rounding);
  pthread_cond_init(&j.all_left, NULL);
  call_for_help(&j, wakes);
  take_tasks(&j, 0);
  dismiss(&j);
  pthread_cond_destroy(&j.all_left);
}

#endif

int fsm_enter(int workers) {
#ifdef _OPENMP
  int limit = omp_get_max_threads();
  if (workers > limit) workers = limit;
#endif
  int others = busy_add(0);
  if (others > 0 && workers > processors() - others) workers = processors() - others;
  if (workers < 1) workers = 1;
  busy_add(workers);
  return workers;
}

void fsm_leave(int threads) { busy_add(-threads); }
