/* Sums of terms that lose nothing, however long the slice is and however its terms differ: they are
 * kept in double lanes for float, and for double in hi + lo lanes that also take in what rounding
 * cost the term. */
#ifndef FSM_KERNELS_SUM_H
#define FSM_KERNELS_SUM_H

/* A slice's sum as hi + lo; lo is 0 for float. */
typedef struct {
  double hi, lo;
} total;

/* The exact sum of two doubles as hi + lo (Knuth, The Art of Computer Programming 2,
 * section 4.2.2). */
static inline total add_exactly(double a, double b) {
  double hi = a + b, of_b = hi - a;
  total t = {hi, (a - (hi - of_b)) + (b - of_b)};
  return t;
}

#ifdef FSM_REAL_DOUBLE

typedef struct {
  vec hi, lo;
} wide;

static inline wide wide_zero(void) {
  wide w = {v_set1(0), v_set1(0)};
  return w;
}

/* Add a term, of the given value, where `skip` is not set: Knuth's sum as in add_exactly, with the
 * rounding error of the term itself added to lo. */
FSM_INLINE wide wide_add_unless(mask skip, wide w, exp_term t, vec value) {
  value = v_zero_where(skip, value);
  vec hi = v_add(w.hi, value), of_value = v_sub(hi, w.hi);
  vec error = v_add(v_sub(w.hi, v_sub(hi, of_value)), v_sub(value, of_value));
  vec of_term = v_zero_where(skip, v_fma(t.rise, t.slope, v_sub(t.scale, value)));
  wide sum = {hi, v_add(w.lo, v_add(error, of_term))};
  return sum;
}

static inline void wide_store(wide w, total lanes[LANES]) {
  real hi[LANES], lo[LANES];
  v_store_real(hi, w.hi);
  v_store_real(lo, w.lo);
  for (size_t k = 0; k < LANES; k++) {
    lanes[k].hi = hi[k];
    lanes[k].lo = lo[k];
  }
}

#else

typedef struct {
  half low, high;
} wide;

static inline wide wide_zero(void) {
  wide w = {half_zero(), half_zero()};
  return w;
}

FSM_INLINE wide wide_add_unless(mask skip, wide w, exp_term t, vec value) {
  (void)t; /* its rounding error is below that of the result */
  value = v_zero_where(skip, value);
  wide sum = {half_add(w.low, v_low_half(value)), half_add(w.high, v_high_half(value))};
  return sum;
}

static inline void wide_store(wide w, total lanes[LANES]) {
  double values[LANES];
  half_store(values, w.low);
  half_store(values + LANES / 2, w.high);
  for (size_t k = 0; k < LANES; k++) {
    lanes[k].hi = values[k];
    lanes[k].lo = 0;
  }
}

#endif

static inline total wide_reduce(wide w) {
  total lanes[LANES];
  wide_store(w, lanes);
  for (size_t width = LANES / 2; width > 0; width /= 2)
    for (size_t k = 0; k < width; k++) {
      total sum = add_exactly(lanes[k].hi, lanes[k + width].hi);
      sum.lo += lanes[k].lo + lanes[k + width].lo;
      lanes[k] = sum;
    }
  return lanes[0];
}

#endif
