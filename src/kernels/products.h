/* Sums of numbers, or of products of two, that cancellation leaves more than real's precision: in
 * lanes of double, where products of floats are exact, and where real is double in pairs hi + lo.
 */
#ifndef FSM_KERNELS_PRODUCTS_H
#define FSM_KERNELS_PRODUCTS_H

/* Converted while they are loaded, which is cheaper than to take a register apart. */
FSM_INLINE doubles wide_load_or_0(const storage *x, size_t i, size_t width) {
  if (width < LANES) return widen(load_or_0(x, i, width));
  doubles d;
  for (size_t p = 0; p < PARTS; p++) d.part[p] = d_load_storage(x + i + p * DOUBLE_LANES);
  return d;
}

FSM_INLINE doubles doubles_add(doubles a, doubles b) {
  for (int p = 0; p < PARTS; p++) a.part[p] = d_add(a.part[p], b.part[p]);
  return a;
}

#ifdef FSM_REAL_DOUBLE

typedef dvec_pair sums;

FSM_INLINE sums sums_zero(void) { return (sums){d_set1(0), d_set1(0)}; }

/* As add_exactly, but for the units at work: those for products have less to do here than those for
 * sums, and take some of these over, as products by 1. */
FSM_INLINE sums sums_add_pair(sums sum, dvec a, dvec lo) {
  dvec one = d_set1(1), minus = d_set1(-1);
  dvec hi = d_add(sum.hi, a), of_a = d_sub(hi, sum.hi);
  dvec rest = d_add(d_sub(sum.hi, d_mul_add(of_a, minus, hi)), d_mul_add(of_a, minus, a));
  return (sums){hi, d_add(sum.lo, d_mul_add(rest, one, lo))};
}

FSM_INLINE sums sums_add(sums sum, doubles a) { return sums_add_pair(sum, a.part[0], d_set1(0)); }

FSM_INLINE sums sums_add_products(sums sum, doubles a, doubles b) {
  dvec product = d_mul(a.part[0], b.part[0]);
  dvec rest = d_fma(a.part[0], b.part[0], d_sub(d_set1(0), product));
  return sums_add_pair(sum, product, rest);
}

/* Add the products, which are not negative, of two vectors each. They are added in real: that costs
 * the sum a unit in its last place at most. */
FSM_INLINE sums sums_add_two(sums sum, const doubles a[2], const doubles b[2]) {
  dvec first = d_mul(a[0].part[0], b[0].part[0]);
  return sums_add(sum, (doubles){{d_fma(a[1].part[0], b[1].part[0], first)}});
}

/* The sum of the lanes of all `count`, as hi + lo. */
FSM_INLINE void sums_reduce(const sums *lanes, size_t count, double sum[2]) {
  sum[0] = sum[1] = 0;
  for (size_t k = 0; k < count; k++) {
    double hi[LANES], lo[LANES];
    d_store(hi, lanes[k].hi);
    d_store(lo, lanes[k].lo);
    for (size_t j = 0; j < LANES; j++) add_to_pair(&sum[0], &sum[1], hi[j], lo[j]);
  }
}

#else

typedef doubles sums;

FSM_INLINE sums sums_zero(void) { return doubles_set1(0); }

FSM_INLINE sums sums_add(sums sum, doubles a) { return doubles_add(sum, a); }

FSM_INLINE sums sums_add_products(sums sum, doubles a, doubles b) {
  for (int p = 0; p < PARTS; p++) sum.part[p] = d_fma(a.part[p], b.part[p], sum.part[p]);
  return sum;
}

FSM_INLINE sums sums_add_two(sums sum, const doubles a[2], const doubles b[2]) {
  for (size_t k = 0; k < 2; k++) sum = sums_add_products(sum, a[k], b[k]);
  return sum;
}

FSM_INLINE void sums_reduce(const sums *lanes, size_t count, double sum[2]) {
  sums total = lanes[0];
  for (size_t k = 1; k < count; k++) total = sums_add(total, lanes[k]);
  dvec half = total.part[0];
  for (int p = 1; p < PARTS; p++) half = d_add(half, total.part[p]);
  sum[0] = d_reduce_add(half);
  sum[1] = 0;
}

#endif

#endif
