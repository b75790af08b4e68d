/* Arrays of 16 bits to float and back, for calls whose result has another dtype than their input:
 * rounded to nearest, ties to even, and a NaN stays one. */
#ifndef FSM_KERNELS_CONVERT_H
#define FSM_KERNELS_CONVERT_H

static void to_float(const void *from, float *to, size_t count) {
  const storage *x = from;
  size_t i = 0;
  for (; i + LANES <= count; i += LANES) v_store_real(to + i, v_load(x + i));
  if (i == count) return;
  real last[LANES];
  v_store_real(last, v_load_part(x + i, count - i, v_set1(0)));
  memcpy(to + i, last, (count - i) * sizeof *to);
}

static void from_float(const float *from, void *to, size_t count) {
  storage *out = to;
  size_t i = 0;
  for (; i + LANES <= count; i += LANES) v_store(out + i, v_load_real(from + i));
  if (i == count) return;
  real last[LANES] = {0};
  memcpy(last, from + i, (count - i) * sizeof *from);
  v_store_part(out + i, count - i, v_load_real(last));
}

#endif
