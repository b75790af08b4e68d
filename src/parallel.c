/* Slices, shared out among threads. The kernels above which this stands know of none.
 *
 * Which slices a kernel is handed together never changes a bit of their results, if they are cut
 * as here; so the number of threads does not either. */
#include <stdbool.h>

#include "fastsoftmax.h"
#include "threads.h"

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Slices, and how they are cut into parts along one of their axes. */
typedef struct {
  fsm_kernel *kernel;
  const fsm_slices *slices;
  size_t itemsize;
  bool is_inner; /* the axis is the inner one */
  size_t unit;   /* indices of the axis that stay together */
  int parts;
} division;

static size_t extent(const division *d) {
  return d->is_inner ? d->slices->inner : d->slices->outer;
}

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
  /* Short rows are taken together, as many as a vector has lanes, which is not done with one alone;
   * rows that are longer than this are not short for any kernel. */
  MOST_LANES = 16,
  SHORT_FOR_SURE = 256,
  /* Parts of columns begin a whole number of cache lines, which is as many vectors, apart. The rows
   * of this many columns or fewer may be fused, in which case all columns belong together. */
  LINE_BYTES = 64,
  MOST_FUSED = 128,
  TILE = 256, /* columns that a kernel takes together */
  PARTS_PER_THREAD = 4,
};

static division divide_outer(const fsm_slices *s, size_t itemsize) {
  size_t unit = s->inner == 1 && s->length <= SHORT_FOR_SURE ? MOST_LANES : 1;
  return (division){.slices = s, .itemsize = itemsize, .is_inner = false, .unit = unit};
}

static division divide_inner(const fsm_slices *s, size_t itemsize) {
  size_t unit = s->inner > MOST_FUSED ? LINE_BYTES / itemsize : s->inner;
  return (division){.slices = s, .itemsize = itemsize, .is_inner = true, .unit = unit};
}

/* What the largest of so many parts, which is the last, amounts to in elements of each slice. */
static size_t largest_part(division d, size_t parts) {
  d.parts = (int)smaller(units(&d), parts);
  size_t other = d.is_inner ? d.slices->outer : d.slices->inner;
  return (extent(&d) - begin(&d, d.parts - 1)) * other;
}

/* The division for so many threads: along the axis by which they get the most even shares. */
static division divide(fsm_kernel *kernel, const fsm_slices *s, size_t itemsize, int threads) {
  division outer = divide_outer(s, itemsize), inner = divide_inner(s, itemsize);
  size_t parts = (size_t)threads;
  division d = largest_part(outer, parts) <= largest_part(inner, parts) ? outer : inner;
  d.kernel = kernel;
  /* Several for each thread, so that one that began late leaves the rest to the others; but only
   * as many as have whole tiles of columns. */
  size_t most = PARTS_PER_THREAD * parts;
  if (d.is_inner) most = larger(parts, smaller(most, s->inner / TILE));
  d.parts = (int)smaller(units(&d), most);
  return d;
}

/* The slices from `outer` and `inner` on. */
static fsm_slices slices_from(const fsm_slices *s, size_t itemsize, size_t outer, size_t inner) {
  ptrdiff_t size = (ptrdiff_t)itemsize, o = (ptrdiff_t)outer, i = (ptrdiff_t)inner;
  fsm_slices from = *s;
  from.x = (const char *)s->x + (o * s->x_outer + i) * size;
  from.out = (char *)s->out + (o * s->out_outer + i) * size;
  if (s->temperature)
    from.temperature = s->temperature + o * s->temperature_outer + i * s->temperature_inner;
  if (s->where) from.where = s->where + o * s->where_outer + i * s->where_inner;
  return from;
}

static void run_part(const void *work, int k) {
  const division *d = work;
  size_t from = begin(d, k), count = begin(d, k + 1) - from;
  fsm_slices part;
  if (d->is_inner) {
    part = slices_from(d->slices, d->itemsize, 0, from);
    part.inner = count;
  } else {
    part = slices_from(d->slices, d->itemsize, from, 0);
    part.outer = count;
  }
  d->kernel(&part);
}

void fsm_run(fsm_kernel *kernel, const fsm_slices *slices, size_t itemsize, int workers) {
  size_t shares = slices->outer * slices->length * slices->inner / FSM_SHARE;
  int threads = fsm_enter((int)smaller(shares, (size_t)workers));
  division d = divide(kernel, slices, itemsize, threads);
  if (threads > 1 && d.parts > 1)
    fsm_do_all(run_part, &d, d.parts, threads);
  else
    kernel(slices);
  fsm_leave(threads);
}
