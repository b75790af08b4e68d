/* What is decided once for a slice, from its maximum and its sum. */
#ifndef FSM_KERNELS_SLICES_H
#define FSM_KERNELS_SLICES_H

#include <stdbool.h>

#include "fastsoftmax.h"

enum { MAX_LANES = 16 };

static inline bool is_finite(real a) { return fabs((double)a) <= (double)REAL_MAX; }

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
  unsigned char gathered[MAX_LANES];
  for (size_t k = 0; k < count; k++) gathered[k] = where[(ptrdiff_t)k * s->where_stride];
  return v_load_mask(gathered, count);
}

/* `count` elements from i on; lanes past them, and elements that take no part, hold -inf. */
FSM_INLINE vec line_load(const line *s, size_t i, size_t count, const bool masked) {
  vec nothing = v_set1(-(real)INFINITY);
  vec x = count == LANES ? v_load(s->x + i) : v_load_part(s->x + i, count, nothing);
  return masked ? v_select(line_mask(s, i, count), x, nothing) : x;
}

/* Store `count` results from i on, with `absent` for elements that take no part. */
FSM_INLINE void line_store(const line *s, storage *out, size_t i, size_t count, vec y, real absent,
                           const bool masked) {
  if (masked) y = v_select(line_mask(s, i, count), y, v_set1(absent));
  if (count == LANES)
    v_store(out + i, y);
  else
    v_store_part(out + i, count, y);
}

/* log_of_sum where the maximum is not finite: NaN if an element that takes part is, and otherwise
 * 0, with which max + 0 and (x - max) - 0 come out as they should for +inf and for -inf. */
static inline double log_of_nonfinite_sum(const storage *x, ptrdiff_t stride,
                                          const unsigned char *where, ptrdiff_t where_stride,
                                          size_t length) {
  bool has_nan = false;
  for (size_t i = 0; i < length; i++) {
    real value = x[(ptrdiff_t)i * stride];
    has_nan |= (value != value) & (!where || where[(ptrdiff_t)i * where_stride]);
  }
  return has_nan ? NAN : 0;
}

/* The largest term of a slice, to more than the precision of the others: 2^(x*rate - N + SPARE) at
 * x = max, evaluated in double, where the last rounding and that of r are kept in lo. */
static inline total largest_term(real max, const exp_frame *f) {
  double x = (double)max - f->origin, hi = f->rate.hi, lo = f->rate.lo;
  double n = (double)ANCHOR + (EXPONENT_BIAS + SPARE) - f->anchor;
  double reduced = fma(x, hi, -n);
  double r = fma(x, lo, reduced), r_lo = fma(x, lo, reduced - r);
  double slope = exp2_slope_of(r);
  double rise = r * slope, rise_lo = fma(r, slope, -rise);
  total t = {1 + rise, 0};
  t.lo = (1 - t.hi) + rise + (rise_lo + r_lo * LOG_2 * t.hi);
  t.hi *= SPARE_SCALE;
  t.lo *= SPARE_SCALE;
  return t;
}

/* The sum of a slice's terms. Those equal to the maximum are counted instead of added: what they
 * sum to is known to twice the precision, so the error of the sum is only that of its lesser part,
 * and a sum that is nearly 1 keeps the digits of its logarithm. */
typedef struct {
  double ties;
  total rest;
} term_sum;

/* The reciprocal of the sum: softmax's scale. Where nothing adds to the largest terms, it is that
 * of their rounded value, so that they come out as exactly 1 over their number. */
static inline real_pair scale_of(term_sum sum, real max, const exp_frame *f) {
  if (sum.rest.hi == 0) {
    vec_frame v = spread(f);
    vec x = v_set1(max - f->origin);
    exp_term term;
    exp_terms(&term, &x, &v, 1);
    return reciprocal(sum.ties * v_first(exp_term_value(term)), 0);
  }
  total largest = largest_term(max, f);
  double product = sum.ties * largest.hi;
  total t = add_exactly(product, sum.rest.hi);
  t.lo += sum.rest.lo + fma(sum.ties, largest.hi, -product) + sum.ties * largest.lo;
  return reciprocal(t.hi, t.lo);
}

/* log(sum of exp((x - max)/temperature)). */
static inline double log_of_sum(term_sum sum, real max, const exp_frame *f) {
  total largest = largest_term(max, f);
  double ratio = sum.rest.hi / largest.hi;
  double remainder = fma(-ratio, largest.hi, sum.rest.hi) + sum.rest.lo - ratio * largest.lo;
  total all = add_exactly(sum.ties - 1, ratio);
  double rest = remainder / largest.hi + all.lo;
  return log1p(all.hi) + rest / (1 + all.hi);
}

/* What a slice's log-softmax shares: (x - max)*inverse - log_sum, inverse being 1/temperature. */
typedef struct {
  real max;
  real_pair inverse;
  real minus_log_sum;
} log_frame;

static inline log_frame log_frame_of(real max, double temperature, double log_sum) {
  log_frame f = {max, reciprocal(temperature, 0), (real)-log_sum};
  return f;
}

/* 0.5 u for x - max, and 0.5 u each for log_sum and the last step; all three have one sign. */
static inline vec log_share(vec x, vec max, vec inverse_hi, vec inverse_lo, vec minus_log_sum) {
  vec d = v_sub(x, max);
  /* inverse_lo is 0 for temperature 1, and 0 * -inf must not arise. */
  vec rest = v_mul_add(v_max(v_set1(-REAL_MAX), d), inverse_lo, minus_log_sum);
  return v_mul_add(d, inverse_hi, rest);
}

/* The temperature of one slice. */
static inline double temperature_of(const fsm_slices *s, size_t outer, size_t inner) {
  if (!s->temperature) return 1;
  return s->temperature[(ptrdiff_t)outer * s->temperature_outer +
                        (ptrdiff_t)inner * s->temperature_inner];
}

#endif
