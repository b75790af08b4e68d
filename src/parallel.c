/* Slices, shared out among threads. The kernels above which this stands know of none.
 *
 * Which slices a kernel is handed together never changes a bit of their results, if they are cut
 * as here; so the number of threads does not either. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "fastsoftmax.h"
#include "threads.h"

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Some of the slices. */
typedef struct {
  size_t outer, outers; /* the first, and how many */
  size_t inner, inners;
} block;

/* Work on slices, and how they are cut into parts along one of their axes. */
typedef struct {
  size_t outer, length, inner;
  size_t columns;      /* that stay together, along the inner axis */
  size_t share;        /* elements for each thread */
  size_t scratch_size; /* bytes that each thread needs beside the calling one, which has its own */
  void (*run)(const void *work, const block *part, void *scratch);
  const void *work;
  /* What follows from these: */
  bool is_inner; /* the axis is the inner one */
  size_t unit;   /* indices of the axis that stay together */
  int parts;
  char *scratch; /* of the other threads */
} division;

static size_t extent(const division *d) { return d->is_inner ? d->inner : d->outer; }

/* What is left over belongs to the last unit, so that no part is smaller than a unit: a single row
 * or column would be worked on in another way than together with others. */
static size_t units(const division *d) { return larger(1, extent(d) / d->unit); }

/* Where a part begins, along the axis that is cut. */
static size_t begin(const division *d, int part) {
  if (part == d->parts) return extent(d);
  /* Without the product of both, which could overflow. */
  size_t n = units(d), parts = (size_t)d->parts, k = (size_t)part;
  return (n / parts * k + n % parts * k / parts) * d->unit;
}

enum {
  /* Short rows are taken together, as many as a vector has lanes, which is not done with a few
   * alone; rows that are longer than this are not short for any kernel. */
  MOST_LANES = 16,
  SHORT_FOR_SURE = 256,
  /* Parts of columns begin a whole number of cache lines, which is as many vectors, apart. The rows
   * of FSM_NARROW columns or fewer may be fused, in which case all columns belong together. */
  LINE_BYTES = 64,
  PARTS_PER_THREAD = 4,
  RUNS_PER_THREAD = 8,
  WORTH_WAKING = 8, /* shares */
};

static void cut_outer(division *d, size_t parts) {
  d->is_inner = false;
  d->unit = d->inner == 1 && d->length <= SHORT_FOR_SURE ? MOST_LANES : 1;
  d->parts = (int)smaller(units(d), parts);
}

static void cut_inner(division *d, size_t parts) {
  d->is_inner = true;
  d->unit = d->columns;
  d->parts = (int)smaller(units(d), parts);
}

/* The slices of the largest part, which is the last. */
static size_t largest_part(const division *d) {
  return (extent(d) - begin(d, d->parts - 1)) * (d->is_inner ? d->outer : d->inner);
}

/* Cut for so many threads, along the axis by which they get the most even shares. */
static void cut(division *d, int threads) {
  size_t parts = (size_t)threads;
  cut_inner(d, parts);
  size_t by_inner = largest_part(d);
  cut_outer(d, parts);
  /* Several for each thread, so that one that began late leaves the rest to the others; but only
   * as many as have whole tiles of columns. */
  size_t most = PARTS_PER_THREAD * parts;
  if (largest_part(d) <= by_inner)
    cut_outer(d, most);
  else
    cut_inner(d, larger(parts, smaller(most, d->inner / FSM_TILE)));
}

static void run_part(void *work, int k, int thread) {
  const division *d = work;
  size_t from = begin(d, k), count = begin(d, k + 1) - from;
  block part = {0, d->outer, 0, d->inner};
  if (d->is_inner) {
    part.inner = from;
    part.inners = count;
  } else {
    part.outer = from;
    part.outers = count;
  }
  void *scratch = NULL;
  if (d->scratch && thread > 0) scratch = d->scratch + (size_t)(thread - 1) * d->scratch_size;
  d->run(d->work, &part, scratch);
}

/* In one thread if there is no memory for the scratch of others. */
static void run(division *d, int workers) {
  size_t shares = d->outer * d->length * d->inner / d->share;
  int threads = fsm_enter((int)smaller(shares, (size_t)workers));
  cut(d, threads);
  if (threads > d->parts) {
    fsm_leave(threads - d->parts);
    threads = d->parts;
  }
  if (threads > 1 && d->scratch_size) d->scratch = malloc((size_t)(threads - 1) * d->scratch_size);
  if (threads > 1 && (d->scratch || !d->scratch_size)) {
    bool wakes = shares >= WORTH_WAKING;
    if (!wakes && !fsm_help_is_near()) d->parts = 1; /* many would take longer, and for nobody */
    fsm_do_all(run_part, d, d->parts, threads, wakes);
  } else {
    block all = {0, d->outer, 0, d->inner};
    d->run(d->work, &all, NULL);
  }
  free(d->scratch);
  fsm_leave(threads);
}

typedef struct {
  fsm_kernel *kernel;
  const fsm_slices *slices;
  size_t itemsize;
} slices_work;

static void run_slices(const void *work, const block *part, void *unused) {
  (void)unused;
  const slices_work *w = work;
  const fsm_slices *s = w->slices;
  ptrdiff_t size = (ptrdiff_t)w->itemsize, o = (ptrdiff_t)part->outer, i = (ptrdiff_t)part->inner;
  fsm_slices some = *s;
  some.outer = part->outers;
  some.inner = part->inners;
  some.elements = s->outer * s->length * s->inner;
  some.columns = s->inner;
  some.x = (const char *)s->x + (o * s->x_outer + i) * size;
  some.out = (char *)s->out + (o * s->out_outer + i) * size;
  if (s->temperature)
    some.temperature = s->temperature + o * s->temperature_outer + i * s->temperature_inner;
  if (s->where) some.where = s->where + o * s->where_outer + i * s->where_inner;
  w->kernel(&some);
}

/* Tasks that follow each other, done by one thread: each finds near it what the one before has
 * fetched. */
typedef struct {
  fsm_task *task;
  void *work;
  int tasks, runs;
} task_runs;

static void do_run(void *work, int k, int thread) {
  const task_runs *r = work;
  int first = (int)((long long)r->tasks * k / r->runs);
  int end = (int)((long long)r->tasks * (k + 1) / r->runs);
  for (int task = first; task < end; task++) r->task(r->work, task, thread);
}

static void each_in_team(void *team, fsm_task *task, void *work, int tasks) {
  int threads = *(const int *)team;
  task_runs r = {task, work, tasks, (int)smaller((size_t)tasks, RUNS_PER_THREAD * (size_t)threads)};
  fsm_do_all(do_run, &r, r.runs, threads, true);
}

/* Slices that are long and too few for even shares: the threads do one after another, together. */
static bool run_long_slices(fsm_kernel *kernel, const fsm_slices *slices, int workers) {
  if (!fsm_is_long(slices)) return false;
  fsm_slices all = *slices;
  all.elements = slices->outer * slices->length * slices->inner;
  /* They meet after each pass, so each needs the more to do. */
  size_t shares = all.elements / (2 * FSM_SHARE);
  int threads = fsm_enter((int)smaller(shares, (size_t)workers));
  bool is_for_team = threads > 1 && slices->outer < PARTS_PER_THREAD * (size_t)threads &&
                     (all.elements / FSM_SHARE >= WORTH_WAKING || fsm_help_is_near());
  if (is_for_team) {
    all.each = each_in_team;
    all.team = &threads;
    kernel(&all);
  }
  fsm_leave(threads);
  return is_for_team;
}

void fsm_run(fsm_kernel *kernel, const fsm_slices *slices, size_t itemsize, int workers) {
  if (run_long_slices(kernel, slices, workers)) return;
  slices_work w = {kernel, slices, itemsize};
  division d = {
      .outer = slices->outer,
      .length = slices->length,
      .inner = slices->inner,
      .columns = slices->inner > FSM_NARROW ? LINE_BYTES / itemsize : slices->inner,
      .share = FSM_SHARE,
      .run = run_slices,
      .work = &w,
  };
  run(&d, workers);
}

typedef struct {
  fsm_call_kernel *kernel;
  const fsm_call *call;
  size_t itemsize;
} call_work;

static fsm_array array_from(fsm_array a, size_t itemsize, const block *part) {
  ptrdiff_t o = (ptrdiff_t)part->outer, i = (ptrdiff_t)part->inner;
  if (a.data) a.data = (char *)a.data + (o * a.outer + i * a.inner) * (ptrdiff_t)itemsize;
  return a;
}

static void run_call(const void *work, const block *part, void *scratch) {
  const call_work *w = work;
  const fsm_call *c = w->call;
  size_t size = w->itemsize;
  fsm_call some = *c;
  some.outer = part->outers;
  some.inner = part->inners;
  some.elements = c->outer * c->length * c->inner;
  some.x = array_from(c->x, size, part);
  some.other = array_from(c->other, size, part);
  some.where = array_from(c->where, 1, part);
  some.label = array_from(c->label, sizeof(int64_t), part);
  some.weight = array_from(c->weight, sizeof(double), part);
  some.out = array_from(c->out, size, part);
  some.hess = array_from(c->hess, size, part);
  some.slices = array_from(c->slices, size, part);
  some.values = array_from(c->values, size, part);
  some.index = array_from(c->index, sizeof(ptrdiff_t), part);
  if (scratch) some.scratch = scratch;
  w->kernel(&some);
}

void fsm_run_call(fsm_call_kernel *kernel, const fsm_call *call, size_t itemsize, int workers) {
  call_work w = {kernel, call, itemsize};
  /* Where nothing but indices is asked for, no exponential is computed: an element costs a fourth
   * or less of what it costs elsewhere. */
  bool only_compares = !call->out.data && !call->slices.data && !call->values.data;
  division d = {
      .outer = call->outer,
      .length = call->length,
      .inner = call->inner,
      .columns = FSM_COLUMNS,
      .share = only_compares ? 4 * FSM_SHARE : FSM_SHARE,
      .scratch_size = call->inner > 1 ? fsm_scratch(call) * itemsize : 0,
      .run = run_call,
      .work = &w,
  };
  run(&d, workers);
}
