/* What a slice's last pass needs: the reciprocal of the sum of its terms, or the logarithm.
 * Everything here works on as many slices as there are lanes, in double; where real is double
 * itself, in pairs hi + lo. */
#ifndef FSM_KERNELS_FINISH_H
#define FSM_KERNELS_FINISH_H

/* log((hi + lo)/2^scale) for hi >= 1, to a unit in the last place of the result however close to 0
 * that is.
 *
 * (hi + lo)/2^scale = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2); with s = f/(2 + f) and z =
 * s^2, log(1 + f) = 2 atanh(s) = s (2 + z p(z)) = f - (f^2/2 - s (f^2/2 + z p(z))), where the last
 * form rounds the largest part, f, last (K. C. Ng's arrangement in FDLIBM). The relative error of
 * p's part is 2^-59.4; regenerate it with tools/coefficients.py. */
FSM_INLINE dvec log_of_pair(dvec hi, dvec lo, const int scale) {
  static const double c[] = {0x1.5555555555594p-1, 0x1.999999997f77cp-2, 0x1.2492494235b74p-2,
                             0x1.c71c51dbbbd75p-3, 0x1.746646d7fcebcp-3, 0x1.39a108cae2047p-3,
                             0x1.2f0b96857276dp-3};
  const uint64_t sqrt_half = 0x3fe6a09e667f3bcd, exponent_of_2_52 = 0x4330000000000000;
  dvec k_bits = d_bits_right(d_bits_add(hi, -sqrt_half), 52);
  dvec k = d_sub(d_bits_or(k_bits, exponent_of_2_52), d_set1(0x1p52 + scale));
  dvec k_exponent = d_bits_left(k_bits, 52);
  dvec power = d_bits_sub(d_set1(1), k_exponent); /* 2^-(k + scale) */
  dvec f = d_mul_add(lo, power, d_sub(d_bits_sub(hi, k_exponent), d_set1(1)));
  dvec s = d_div(f, d_add(d_set1(2), f)), z = d_mul_small(s, s);
  enum { DEGREE = sizeof c / sizeof c[0] - 1 };
  dvec p = d_set1(c[DEGREE]);
  for (int j = DEGREE - 1; j >= 0; j--) p = d_mul_add(p, z, d_set1(c[j]));
  dvec half_square = d_mul_small(d_mul(d_set1(0.5), f), f);
  dvec tail = d_mul_add(s, d_mul_add(z, p, half_square), d_mul(k, d_set1(LOG_2_LO)));
  return d_mul_add(k, d_set1(LOG_2_HI), d_sub(f, d_sub(half_square, tail)));
}

/* The polynomial of exp.h at a double r. */
FSM_INLINE dvec exp2_slope(dvec r) {
  dvec q = d_set1(SLOPE[SLOPE_DEGREE]);
  for (int k = SLOPE_DEGREE - 1; k >= 0; k--) q = d_mul_add(q, r, d_set1(SLOPE[k]));
  return q;
}

#ifdef FSM_REAL_DOUBLE

/* The largest term, to more than the precision of the others: the last roundings, and that of r,
 * are in lo. */
FSM_INLINE wide largest_term(vec max, const exp_frame *f) {
  dvec x = d_sub(max, f->origin);
  dvec minus_n = d_sub(f->anchor, d_set1(ANCHOR + EXPONENT_BIAS + SPARE));
  dvec reduced = v_fma(x, f->rate.hi, minus_n);
  dvec r = d_mul_add(x, f->rate.lo, reduced);
  dvec r_lo = d_mul_add(x, f->rate.lo, d_sub(reduced, r));
  dvec slope = exp2_slope(r), rise = d_mul(r, slope),
       rise_lo = d_fma(r, slope, d_sub(d_set1(0), rise));
  dvec one = d_set1(1), hi = d_add(one, rise), lo = d_add(d_sub(one, hi), rise);
  lo = d_add(lo, d_mul_add(r_lo, d_mul(hi, d_set1(LOG_2)), rise_lo));
  dvec factor = d_set1(TABLE_FACTOR * SPARE_SCALE), term = d_mul(hi, factor);
  return (wide){term, d_mul_add(lo, factor, d_fma(hi, factor, d_sub(d_set1(0), term)))};
}

FSM_INLINE vec_pair reciprocal(const wide *sum) {
  dvec_pair total = add_exactly(sum->hi, sum->lo);
  dvec inverse = d_div(d_set1(1), total.hi);
  dvec excess = d_mul_add(inverse, total.lo, d_fma(inverse, total.hi, d_set1(-1)));
  vec_pair result = {inverse, d_mul(d_sub(d_set1(0), inverse), excess)};
  return result;
}

/* sum of exp((x - max)/temperature), given its largest term. */
FSM_INLINE pairs whole_sum(const term_sum *sum, wide largest) {
  dvec ratio = d_div(sum->rest.hi, largest.hi), minus_ratio = d_sub(d_set1(0), ratio);
  dvec remainder = d_add(d_fma(minus_ratio, largest.hi, sum->rest.hi), sum->rest.lo);
  remainder = d_div(d_mul_add(minus_ratio, largest.lo, remainder), largest.hi);
  pairs total = {{add_exactly(sum->ties.part[0], ratio)}};
  total.part[0].lo = d_add(total.part[0].lo, remainder);
  return total;
}

/* The logarithm of that, in two steps. */
typedef dvec_pair log_operand;

FSM_INLINE log_operand operand_of_log(const term_sum *sum, wide largest) {
  return whole_sum(sum, largest).part[0];
}

FSM_INLINE doubles log_of(log_operand total) {
  return (doubles){{log_of_pair(total.hi, total.lo, 0)}};
}

#else

/* The largest term, of which scale is exact and the rest an eighth at most: to an eighth of the
 * error of others. */
FSM_INLINE wide largest_term(vec max, const exp_frame *f) {
  vec x = v_sub(max, f->origin);
  exp_term term;
  exp_terms(&term, &x, f, 1);
  doubles scale = widen(term.scale), rest = widen(v_mul(term.rise, term.slope));
  for (int p = 0; p < PARTS; p++) rest.part[p] = d_add(scale.part[p], rest.part[p]);
  return rest;
}

FSM_INLINE vec_pair reciprocal(const wide *sum) {
  dvec inverse[PARTS], rest[PARTS];
  for (int p = 0; p < PARTS; p++) inverse[p] = d_div(d_set1(1), sum->part[p]);
  vec hi = v_join(inverse);
  for (int p = 0; p < PARTS; p++) rest[p] = d_sub(inverse[p], v_part(hi, p));
  vec_pair result = {hi, v_join(rest)};
  return result;
}

FSM_INLINE pairs whole_sum(const term_sum *sum, wide largest) {
  pairs total;
  for (int p = 0; p < PARTS; p++)
    total.part[p] = add_exactly(sum->ties.part[p], d_div(sum->rest.part[p], largest.part[p]));
  return total;
}

/* The logarithm of that, to float's precision: log_of_pair with a relative error of p of 2^-34.4,
 * and one division, in two steps. With the largest term L and ties L + rest = 2^k L (1 + f), s is
 * f L/(f L + 2 L), and f L is found without a loss where f is small. Only that k follows from the
 * sum beside L's middle makes s up to 2^(1/8) larger. */
typedef struct {
  doubles s, k;
} log_operand;

FSM_INLINE log_operand operand_of_log(const term_sum *sum, wide largest) {
  const double sqrt_half = 0x1.6a09e667f3bcdp-1, middle = TABLE_FACTOR * SPARE_SCALE;
  const uint64_t exponent_of_2_52 = 0x4330000000000000;
  log_operand operand;
  for (int p = 0; p < PARTS; p++) {
    dvec one = largest.part[p], ties = sum->ties.part[p], rest = sum->rest.part[p];
    dvec all = d_mul_add(ties, one, rest);
    dvec k_bits = d_bits_right(d_bits_sub(all, d_set1(sqrt_half * middle)), 52);
    dvec power = d_bits_sub(d_set1(1), d_bits_left(k_bits, 52)); /* 2^-k */
    dvec more = d_sub(d_mul(ties, power), d_set1(1));
    dvec excess = d_mul_add(more, one, d_mul(rest, power));
    operand.k.part[p] = d_sub(d_bits_or(k_bits, exponent_of_2_52), d_set1(0x1p52));
    operand.s.part[p] = d_div(excess, d_add(excess, d_add(one, one)));
  }
  return operand;
}

FSM_INLINE doubles log_of(log_operand operand) {
  static const double c[] = {0x1.55555343fc02bp-1, 0x1.999cfdc13cdb0p-2, 0x1.23b4dbd1bdc81p-2,
                             0x1.f340fa74cd7ddp-3};
  enum { DEGREE = sizeof c / sizeof c[0] - 1 };
  doubles log;
  for (int p = 0; p < PARTS; p++) {
    dvec s = operand.s.part[p], z = d_mul(s, s), q = d_set1(c[DEGREE]);
    for (int j = DEGREE - 1; j >= 0; j--) q = d_mul_add(q, z, d_set1(c[j]));
    q = d_mul_add(q, z, d_set1(2));
    log.part[p] = d_mul_add(s, q, d_mul(operand.k.part[p], d_set1(LOG_2)));
  }
  return log;
}

#endif

FSM_INLINE doubles log_of_sum(const term_sum *sum, vec max, const exp_frame *f) {
  return log_of(operand_of_log(sum, largest_term(max, f)));
}

/* What softmax's last pass takes: (term - floor)*scale. */
typedef struct {
  vec floor;
  vec_pair scale;
} share_frame;

/* NaN where the maximum is not finite. */
FSM_INLINE share_frame share_frame_of(const wide *sum, vec max, vec floor) {
  vec_pair scale = reciprocal(sum);
  vec infinity = v_set1((real)INFINITY), nan = v_set1((real)NAN);
  scale.hi = v_select(v_less(max, infinity), scale.hi, nan);
  scale.hi = v_select(v_less(v_sub(v_set1(0), infinity), max), scale.hi, nan);
  return (share_frame){floor, scale};
}

/* Nothing but a term that is as good as 0 is changed by the subtraction. Its product would be 0
 * without, but many processors take their time to find that out. */
FSM_INLINE vec share(vec term, const share_frame *f) {
  vec value = v_sub(term, f->floor);
  return v_fma(value, f->scale.hi, v_mul_small(value, f->scale.lo));
}

/* What log-softmax's last pass takes: (x - max)*inverse - log_sum. */
typedef struct {
  vec max;
  vec_pair inverse;
  vec minus_log_sum;
  vec least; /* an x - max below it has a result of about -REAL_MAX or -inf */
} log_frame;

FSM_INLINE log_frame log_frame_of(vec max, const tempering *t, doubles log_sum) {
  for (int p = 0; p < PARTS; p++) log_sum.part[p] = d_sub(d_set1(0), log_sum.part[p]);
  vec least = v_max(v_set1(-REAL_MAX), v_mul(v_set1(-REAL_MAX), t->period));
  return (log_frame){max, t->inverse, v_join(log_sum.part), least};
}

/* Half a unit for x - max, and half each for log_sum and the last step; all three have one sign. */
FSM_INLINE vec log_share(vec x, const log_frame *f) {
  vec d = v_sub(x, f->max);
  /* inverse.lo may be 0 or more than 1, and neither 0 * -inf nor +inf must arise. */
  vec rest = v_mul_add(v_max(f->least, d), f->inverse.lo, f->minus_log_sum);
  return v_mul_add(d, f->inverse.hi, rest);
}

/* max + log_sum. */
FSM_INLINE vec log_sum_exp(vec max, doubles log_sum) {
  for (int p = 0; p < PARTS; p++) log_sum.part[p] = d_add(v_part(max, p), log_sum.part[p]);
  return v_join(log_sum.part);
}

#endif
