/* Sums of terms that lose nothing, however long the slice is and however its terms differ: they are
 * kept in lanes of double for float, and for double in hi + lo lanes that also take in what
 * rounding cost the term. */
#ifndef FSM_KERNELS_SUM_H
#define FSM_KERNELS_SUM_H

/* The lanes of a vec as doubles. */
typedef struct {
  dvec part[PARTS];
} doubles;

FSM_INLINE doubles widen(vec a) {
  doubles d;
  for (int p = 0; p < PARTS; p++) d.part[p] = v_part(a, p);
  return d;
}

FSM_INLINE doubles doubles_set1(double a) {
  doubles d;
  for (int p = 0; p < PARTS; p++) d.part[p] = d_set1(a);
  return d;
}

FSM_INLINE void doubles_store(doubles d, double lanes[LANES]) {
  for (int p = 0; p < PARTS; p++) d_store(lanes + p * DOUBLE_LANES, d.part[p]);
}

FSM_INLINE doubles doubles_load(const double lanes[LANES]) {
  doubles d;
  for (int p = 0; p < PARTS; p++) d.part[p] = d_load(lanes + p * DOUBLE_LANES);
  return d;
}

/* The exact sum of a and b as hi + lo (Knuth, The Art of Computer Programming 2, section 4.2.2). */
typedef struct {
  dvec hi, lo;
} dvec_pair;

FSM_INLINE dvec_pair add_exactly(dvec a, dvec b) {
  dvec hi = d_add(a, b), of_b = d_sub(hi, a);
  dvec_pair sum = {hi, d_add(d_sub(a, d_sub(hi, of_b)), d_sub(b, of_b))};
  return sum;
}

/* Add (*hi, *lo) and (b_hi, b_lo) into the former. */
static inline void add_to_pair(double *hi, double *lo, double b_hi, double b_lo) {
  double sum = *hi + b_hi, of_b = sum - *hi;
  *lo += b_lo + ((*hi - (sum - of_b)) + (b_hi - of_b));
  *hi = sum;
}

#ifdef FSM_REAL_DOUBLE

typedef dvec_pair wide;

FSM_INLINE wide wide_zero(void) {
  wide w = {d_set1(0), d_set1(0)};
  return w;
}

/* Add a term, of the given rounded value, where `skip` is not set. */
FSM_INLINE wide wide_add_unless(mask skip, wide w, exp_term t, vec value) {
  dvec_pair sum = add_exactly(w.hi, v_zero_where(skip, value));
  vec rounded_off = v_zero_where(skip, v_fma(t.rise, t.slope, v_sub(t.scale, value)));
  wide result = {sum.hi, d_add(w.lo, d_add(sum.lo, rounded_off))};
  return result;
}

FSM_INLINE void wide_store(wide w, double hi[LANES], double lo[LANES]) {
  d_store(hi, w.hi);
  d_store(lo, w.lo);
}

FSM_INLINE wide wide_load(const double hi[LANES], const double lo[LANES]) {
  wide w = {d_load(hi), d_load(lo)};
  return w;
}

/* The sum over all lanes, in every lane. */
FSM_INLINE wide wide_reduce(wide w) {
  double hi[LANES], lo[LANES];
  wide_store(w, hi, lo);
  for (size_t width = LANES / 2; width > 0; width /= 2)
    for (size_t k = 0; k < width; k++) add_to_pair(&hi[k], &lo[k], hi[k + width], lo[k + width]);
  for (size_t k = 1; k < LANES; k++) {
    hi[k] = hi[0];
    lo[k] = lo[0];
  }
  return wide_load(hi, lo);
}

#else

typedef doubles wide;

FSM_INLINE wide wide_zero(void) { return doubles_set1(0); }

/* The rounding error of one term is below that of the result. */
FSM_INLINE wide wide_add_unless(mask skip, wide w, exp_term t, vec value) {
  (void)t;
  doubles addend = widen(v_zero_where(skip, value));
  for (int p = 0; p < PARTS; p++) w.part[p] = d_add(w.part[p], addend.part[p]);
  return w;
}

FSM_INLINE void wide_store(wide w, double hi[LANES], double lo[LANES]) {
  doubles_store(w, hi);
  memset(lo, 0, LANES * sizeof *lo);
}

FSM_INLINE wide wide_load(const double hi[LANES], const double lo[LANES]) {
  return (void)lo, doubles_load(hi);
}

FSM_INLINE wide wide_reduce(wide w) {
  double lanes[DOUBLE_LANES], sum = 0;
  d_store(lanes, d_add(w.part[0], w.part[1]));
  for (size_t k = 0; k < DOUBLE_LANES; k++) sum += lanes[k];
  return doubles_set1(sum);
}

#endif

/* The terms of a slice. Those equal to the maximum are counted instead of added: what they sum to
 * is known to more than the precision of the others, so the error of the sum is only that of its
 * lesser part, and a sum that is nearly 1 keeps the digits of its logarithm. */
typedef struct {
  doubles ties;
  wide rest;
} term_sum;

#endif
