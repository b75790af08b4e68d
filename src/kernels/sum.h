/* Sums of terms that lose nothing, however long the slice is and however its terms differ: they are
 * kept in lanes of double for float, and for double in hi + lo lanes. */
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

/* The count over all lanes. */
FSM_INLINE double count_total(vcount count) {
  dvec total = v_count_part(count, 0);
  for (int p = 1; p < PARTS; p++) total = d_add(total, v_count_part(count, p));
  return d_reduce_add(total);
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

/* The lanes of a vec as such sums. */
typedef struct {
  dvec_pair part[PARTS];
} pairs;

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

FSM_INLINE wide wide_add(wide w, vec a) {
  dvec_pair sum = add_exactly(w.hi, a);
  wide result = {sum.hi, d_add(w.lo, sum.lo)};
  return result;
}

/* The sum of all terms begins above anything that is added to it. What an addition rounds off is
 * then found in two steps instead of five (T. J. Dekker, "A floating-point technique for extending
 * the available precision", Numer. Math. 18, 1971), and the excess comes off exactly in the end.
 * (Terms without the largest may come to less than what is rounded off beside the excess.) */
#define ABOVE_TERMS (8 * SPARE_SCALE)

FSM_INLINE wide terms_begin(void) {
  wide w = {d_set1(ABOVE_TERMS), d_set1(0)};
  return w;
}

FSM_INLINE wide terms_add(wide w, vec a) {
  dvec sum = d_add(w.hi, a);
  wide result = {sum, d_add(w.lo, d_sub(a, d_sub(sum, w.hi)))};
  return result;
}

FSM_INLINE wide terms_end(wide w) {
  w.hi = d_sub(w.hi, d_set1(ABOVE_TERMS));
  return w;
}

/* Add `count` vectors, two at a time in real: that costs the sum half a unit in its last place at
 * most, and nothing where they are equal or 0, and all errors would have one sign. */
FSM_INLINE wide terms_add_values(wide w, const vec *a, const size_t count, const bool by_fours) {
  (void)by_fours;
  for (size_t k = 0; k + 2 <= count; k += 2) w = terms_add(w, v_add(a[k], a[k + 1]));
  return count % 2 ? terms_add(w, a[count - 1]) : w;
}

/* Add the terms of `count` vectors, with what rounding them to their values has cost. */
FSM_INLINE wide wide_add_terms(wide w, const vec *value, const exp_term *t, const size_t count,
                               const bool by_pairs) {
  (void)by_pairs;
  for (size_t k = 0; k < count; k++) {
    vec rounded_off = v_fma(t[k].rise, t[k].slope, v_sub(t[k].scale, value[k]));
    w = wide_add(w, value[k]);
    w.lo = d_add(w.lo, rounded_off);
  }
  return w;
}

FSM_INLINE void wide_store(wide w, double hi[LANES], double lo[LANES]) {
  d_store(hi, w.hi);
  d_store(lo, w.lo);
}

FSM_INLINE wide wide_load(const double hi[LANES], const double lo[LANES]) {
  wide w = {d_load(hi), d_load(lo)};
  return w;
}

/* The sum over all lanes, as hi + lo. */
FSM_INLINE void wide_total(wide w, double total[2]) {
  double hi[LANES], lo[LANES];
  wide_store(w, hi, lo);
  for (size_t width = LANES / 2; width > 0; width /= 2)
    for (size_t k = 0; k < width; k++) add_to_pair(&hi[k], &lo[k], hi[k + width], lo[k + width]);
  total[0] = hi[0];
  total[1] = lo[0];
}

FSM_INLINE wide wide_set1(const double total[2]) {
  wide w = {d_set1(total[0]), d_set1(total[1])};
  return w;
}

#else

typedef doubles wide;

FSM_INLINE wide wide_zero(void) { return doubles_set1(0); }

FSM_INLINE wide wide_add(wide w, vec a) {
  doubles addend = widen(a);
  for (int p = 0; p < PARTS; p++) w.part[p] = d_add(w.part[p], addend.part[p]);
  return w;
}

FSM_INLINE wide terms_begin(void) { return wide_zero(); }
FSM_INLINE wide terms_end(wide w) { return w; }

/* Add `count` vectors, a multiple of 4 if it is `by_fours`; otherwise two at a time. So many are
 * added in real: that costs the sum half a unit in its last place for two, one for four, and
 * nothing where they are equal and fill their vectors, and all errors would have one sign. The few
 * terms that decide the sum of a short slice do not average it: by fours, one of a million of its
 * shares is more than 3 units off. */
FSM_INLINE wide terms_add_values(wide w, const vec *a, const size_t count, const bool by_fours) {
  for (size_t k = 0; by_fours && k < count; k += 4)
    w = wide_add(w, v_add(v_add(a[k], a[k + 1]), v_add(a[k + 2], a[k + 3])));
  if (by_fours) return w;
  for (size_t k = 0; k + 2 <= count; k += 2) w = wide_add(w, v_add(a[k], a[k + 1]));
  return count % 2 ? wide_add(w, a[count - 1]) : w;
}

/* Add the terms of `count` vectors, one by one or, of an even number, two at a time in real: that
 * costs the sum half a unit in its last place. A logarithm shows it where two or three elements
 * have nearly all of the softmax: of its 2 units there, by fours it took 2.7, by pairs 2.2 in short
 * rows and 1.9 in others. */
FSM_INLINE wide wide_add_terms(wide w, const vec *value, const exp_term *t, const size_t count,
                               const bool by_pairs) {
  (void)t;
  if (by_pairs && count % 2 == 0)
    for (size_t k = 0; k < count; k += 2) w = wide_add(w, v_add(value[k], value[k + 1]));
  else
    for (size_t k = 0; k < count; k++) w = wide_add(w, value[k]);
  return w;
}

FSM_INLINE void wide_store(wide w, double hi[LANES], double lo[LANES]) {
  doubles_store(w, hi);
  memset(lo, 0, LANES * sizeof *lo);
}

FSM_INLINE wide wide_load(const double hi[LANES], const double lo[LANES]) {
  return (void)lo, doubles_load(hi);
}

FSM_INLINE void wide_total(wide w, double total[2]) {
  total[0] = d_reduce_add(d_add(w.part[0], w.part[1]));
  total[1] = 0;
}

FSM_INLINE wide wide_set1(const double total[2]) { return doubles_set1(total[0]); }

#endif

/* The sum over all lanes, in every lane. */
FSM_INLINE wide wide_reduce(wide w) {
  double total[2];
  wide_total(w, total);
  return wide_set1(total);
}

/* The sum of a slice's terms. For a logarithm, those equal to the maximum are counted instead of
 * added: what they sum to is known to more than the precision of the others, so the error of the
 * sum is only that of its lesser part, and a sum that is nearly 1 keeps the digits of its
 * logarithm. Softmax takes all terms as it has stored them, so that equal ones get exactly equal
 * shares of 1. */
typedef struct {
  doubles ties;
  wide rest;
} term_sum;

/* Where `tie` is set, a term that adds nothing to the rest: one that has not been expanded, and one
 * whose value is known. */
FSM_INLINE void drop_reduced(exp_reduced *reduced, mask tie) {
  reduced->scale = v_zero_where(tie, reduced->scale);
}
FSM_INLINE void drop_term(vec *value, exp_term *term, mask tie) {
  *value = v_zero_where(tie, *value);
  term->scale = v_zero_where(tie, term->scale);
  term->rise = v_zero_where(tie, term->rise);
}

#endif
