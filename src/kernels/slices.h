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
  if (s->where_stride == 0)
    return count > 0 && *where ? v_equal(v_set1(0), v_set1(0)) : v_unordered(v_set1(0), v_set1(0));
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

/* Which lanes of `count` vectors, 1 or an even number, hold a NaN. */
FSM_INLINE mask nan_among(const vec *x, const size_t count) {
  mask nan = v_unordered(x[0], x[count - 1]);
  for (size_t k = 1; k + 1 < count; k += 2) nan = v_or(nan, v_unordered(x[k], x[k + 1]));
  return nan;
}

/* Whether an element that takes part is NaN. */
FSM_INLINE bool has_nan(const line *s, const bool masked) {
  size_t i = 0, length = s->length;
  for (; i + 4 * LANES <= length; i += 4 * LANES) {
    vec x[4];
    for (size_t k = 0; k < 4; k++) x[k] = line_load(s, i + k * LANES, LANES, masked);
    if (v_count_true(nan_among(x, 4))) return true;
  }
  for (; i < length; i += LANES) {
    vec x = line_load(s, i, length - i < LANES ? length - i : LANES, masked);
    if (v_count_true(nan_among(&x, 1))) return true;
  }
  return false;
}

/* What stands for log_of_sum where the maximum is not finite: NaN if an element that takes part is,
 * and otherwise 0, with which max + 0 and (x - max) - 0 come out as they should for +inf and for
 * -inf. */
FSM_INLINE double log_of_nonfinite_sum(const line *s, const bool masked) {
  return has_nan(s, masked) ? NAN : 0;
}

static inline bool is_finite(real a) { return fabs((double)a) <= (double)REAL_MAX; }

FSM_INLINE mask v_finite(vec a) {
  return v_less(v_max(a, v_sub(v_set1(0), a)), v_set1((real)INFINITY));
}
FSM_INLINE bool all_finite(vec a) { return v_all(v_finite(a)); }

/* To find a frame of. That of a maximum that is not finite is of no use, but NaN in it would make
 * the pass over the terms longer. */
FSM_INLINE vec finite_or_0(vec max) {
  return all_finite(max) ? max : v_select(v_finite(max), max, v_set1(0));
}

/* The log_of_sum of slices, of which some have a maximum that is not finite. */
FSM_INLINE doubles log_of_nonfinite_sums(doubles log_sum, vec max, mask nan) {
  const doubles instead = widen(v_select(nan, v_set1((real)NAN), v_set1(0)));
  for (int p = 0; p < PARTS; p++)
    log_sum.part[p] = v_select_part(v_finite(max), p, log_sum.part[p], instead.part[p]);
  return log_sum;
}

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

static inline tempering row_tempering(const fsm_slices *s, size_t outer) {
  if (!s->temperature) return untempered();
  return load_tempering(temperature_of(s, outer, 0), 0, LANES);
}

/* Whether the row `outer` may have another temperature than the rows before, or is the first. */
static inline bool has_new_tempering(const fsm_slices *s, size_t outer) {
  return s->temperature && (outer == 0 || s->temperature_outer != 0);
}

#endif
