/* How the elements of slices are read and written. */
#ifndef FSM_KERNELS_SLICES_H
#define FSM_KERNELS_SLICES_H

#include "fastsoftmax.h"

/* A line of elements that are contiguous, with its part of the mask. */
typedef struct {
  const storage *x;
  size_t length;
  const unsigned char *where;
  ptrdiff_t where_stride;
} line;

/* Which of `count` elements from i on take part. */
static inline mask line_mask(const line *s, size_t i, size_t count) {
  const unsigned char *where = s->where + (ptrdiff_t)i * s->where_stride;
  if (s->where_stride == 1) return v_load_mask(where, count);
  unsigned char gathered[LANES];
  for (size_t k = 0; k < count; k++) gathered[k] = where[(ptrdiff_t)k * s->where_stride];
  return v_load_mask(gathered, count);
}

/* `count` elements from i on; lanes past them, and elements that take no part, hold -inf. */
FSM_INLINE vec line_load(const line *s, size_t i, size_t count, const bool masked) {
  vec nothing = v_set1(-(real)INFINITY);
  vec x = count == LANES ? v_load(s->x + i) : v_load_part(s->x + i, count, nothing);
  return masked ? v_select(line_mask(s, i, count), x, nothing) : x;
}

FSM_INLINE vec load_or_0(const storage *x, size_t i, size_t width) {
  return width == LANES ? v_load(x + i) : v_load_part(x + i, width, v_set1(0));
}

/* Store `count` results from i on, with `absent` for elements that take no part. */
FSM_INLINE void line_store(const line *s, storage *out, size_t i, size_t count, vec y, real absent,
                           const bool masked) {
  if (masked) y = v_select(line_mask(s, i, count), y, v_set1(absent));
  if (count == LANES)
    v_store(out + i, y);
  else if (count > 0)
    v_store_part(out + i, count, y);
}

/* Whether an element that takes part is NaN. */
FSM_INLINE bool has_nan(const line *s, const bool masked) {
  bool is_number = true;
  for (size_t i = 0; i < s->length; i += LANES) {
    vec x = line_load(s, i, s->length - i < LANES ? s->length - i : LANES, masked);
    is_number &= v_all(v_equal(x, x));
  }
  return !is_number;
}

/* What stands for log_of_sum where the maximum is not finite: NaN if an element that takes part is,
 * and otherwise 0, with which max + 0 and (x - max) - 0 come out as they should for +inf and for
 * -inf. */
FSM_INLINE double log_of_nonfinite_sum(const line *s, const bool masked) {
  return has_nan(s, masked) ? NAN : 0;
}

static inline bool is_finite(real a) { return fabs((double)a) <= (double)REAL_MAX; }

/* Of the array, of which other threads may have the rest. */
static inline size_t array_bytes(const fsm_slices *s) {
  size_t here = s->outer * s->length * s->inner;
  return (s->elements > here ? s->elements : here) * sizeof(storage);
}

/* Do the parts of a long slice: with the threads of the team that the slices belong to, if any. */
static void do_parts(const fsm_slices *s, fsm_task *task, void *work, int parts) {
  if (s->each)
    s->each(s->team, task, work, parts);
  else
    for (int k = 0; k < parts; k++) task(work, k, 0);
}

static inline const double *temperature_of(const fsm_slices *s, size_t outer, size_t inner) {
  return s->temperature + (ptrdiff_t)outer * s->temperature_outer +
         (ptrdiff_t)inner * s->temperature_inner;
}

#endif
