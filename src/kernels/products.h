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

FSM_INLINE wide wide_add_doubles(wide w, doubles a) { return wide_add(w, a.part[0]); }

/* As wide_add, but a*b is not rounded where what the sum lacks is found, and some of what units for
 * sums do there is left to those for products. */
FSM_INLINE wide wide_add_products(wide w, doubles a, doubles b) {
  dvec one = d_set1(1), minus = d_set1(-1), x = a.part[0], y = b.part[0];
  dvec hi = d_add(w.hi, d_mul(x, y)), added = d_sub(hi, w.hi);
  dvec rest = d_add(d_sub(w.hi, d_mul_add(added, minus, hi)), d_fms(x, y, added));
  return (wide){hi, d_mul_add(rest, one, w.lo)};
}

/* Add the products, which are not negative, of two vectors each. They are added in real: that costs
 * the sum a unit in its last place at most. */
FSM_INLINE wide wide_add_two(wide w, const doubles a[2], const doubles b[2]) {
  dvec first = d_mul(a[0].part[0], b[0].part[0]);
  return wide_add(w, d_fma(a[1].part[0], b[1].part[0], first));
}

FSM_INLINE wide wide_join(wide a, wide b) {
  wide sum = wide_add(a, b.hi);
  return (wide){sum.hi, d_add(sum.lo, b.lo)};
}

/* An infinite sum is hi alone. */
FSM_INLINE wide wide_end(wide w) { return (wide){w.hi, v_select(v_finite(w.hi), w.lo, v_set1(0))}; }

FSM_INLINE vec wide_value(wide w) { return d_add(w.hi, w.lo); }
FSM_INLINE dvec_pair wide_part(const wide *w, int part) { return (void)part, *w; }

#else

FSM_INLINE wide wide_add_doubles(wide w, doubles a) { return doubles_add(w, a); }

FSM_INLINE wide wide_add_products(wide w, doubles a, doubles b) {
  for (int p = 0; p < PARTS; p++) w.part[p] = d_fma(a.part[p], b.part[p], w.part[p]);
  return w;
}

FSM_INLINE wide wide_add_two(wide w, const doubles a[2], const doubles b[2]) {
  for (size_t k = 0; k < 2; k++) w = wide_add_products(w, a[k], b[k]);
  return w;
}

FSM_INLINE wide wide_join(wide a, wide b) { return doubles_add(a, b); }

FSM_INLINE wide wide_end(wide w) { return w; }

FSM_INLINE vec wide_value(wide w) { return v_join(w.part); }
FSM_INLINE dvec_pair wide_part(const wide *w, int part) {
  return (dvec_pair){w->part[part], d_set1(0)};
}

#endif

#endif
