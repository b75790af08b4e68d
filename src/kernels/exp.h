/* The exponential shared by every kernel: 2^(x*rate - N) for a whole slice, without forming x -
 * max.
 *
 * With rate = log2(e)/temperature and N = round(max*rate), an element contributes
 *
 *     n = round(x*rate)     r = x*rate - n, in [-1/2, 1/2]     term = 2^r * 2^(n - N)
 *
 * n - N is an exact integer, so nothing is lost however far x lies from max; the factor 2^(max*rate
 * - N) by which the terms differ from exp((x - max)/temperature) is common to the slice. Computing
 * exp(x - max) in floating point instead costs |x - max|/2 units in the last place before the
 * exponential has begun.
 *
 * Adding ANCHOR = 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits of the
 * sum. The anchor of a slice has the exponent's bias and -N added to it beforehand, so those low
 * bits, shifted into the exponent field, are 2^(n - N) at no further cost. SPARE more is added to
 * keep terms normal whose share of the sum is subnormal: it is 2^-(mantissa bits + 2) of the
 * largest that rounds to nothing.
 *
 * Relative error of a term, in units u of 2^-24 (2^-53): two roundings of r, 0.17 each; q and the
 * polynomial, below 0.5; the last step, at most 0.71 where those are largest. Together below 1.6.
 */
#ifndef FSM_KERNELS_EXP_H
#define FSM_KERNELS_EXP_H

#include <math.h>

#if defined(_MSC_VER)
#define FSM_INLINE static __forceinline
#else
#define FSM_INLINE static inline __attribute__((always_inline))
#endif

#ifdef FSM_REAL_DOUBLE
#define ANCHOR 0x1.8p52
enum { EXPONENT_BIAS = 1023, SPARE = 54 };
#define SPARE_SCALE 0x1p54
#define REAL_MAX 0x1.fffffffffffffp1023
#else
#define ANCHOR 0x1.8p23f
enum { EXPONENT_BIAS = 127, SPARE = 25 };
#define SPARE_SCALE 0x1p25
#define REAL_MAX 0x1.fffffep127f
#endif

#define LOG2_E_HI 0x1.71547652b82fep+0
#define LOG2_E_LO 0x1.777d0ffda0d24p-56
#define LOG_2 0x1.62e42fefa39efp-1

/* Beyond |max*rate| = 2^14, n is no longer small beside ANCHOR; but then every x that counts lies
 * within a factor of 2 of max, x - max is exact, and the slice is shifted by it. */
#define EXACT_RATE_PRODUCT 0x1p14

/* q of 2^r = 1 + r*q(r); the relative error of the whole is 2^-28.0 (float) and 2^-57.3 (double).
 * Regenerate with tools/exp_coefficients.py. */
#ifdef FSM_REAL_DOUBLE
static const real SLOPE[] = {0x1.62e42fefa39efp-1,  0x1.ebfbdff82c5a5p-3,  0x1.c6b08d704a11dp-5,
                             0x1.3b2ab6fb9ff59p-7,  0x1.5d87fe78a23c6p-10, 0x1.4309130f31da1p-13,
                             0x1.ffcbfc5392fa7p-17, 0x1.62bfc6bb1f85ap-20, 0x1.b5254b0d7b9cap-24,
                             0x1.e61cdd5af930bp-28, 0x1.e936971f5ddc3p-32};
#else
static const real SLOPE[] = {0x1.62e43p-1f,  0x1.ebfbd8p-3f,  0x1.c6af76p-5f,
                             0x1.3b30aap-7f, 0x1.5f0bd8p-10f, 0x1.3f993ep-13f};
#endif
enum { SLOPE_DEGREE = sizeof SLOPE / sizeof SLOPE[0] - 1 };

/* The polynomial for one r. */
static inline double exp2_slope_of(double r) {
  double q = SLOPE[SLOPE_DEGREE];
  for (int k = SLOPE_DEGREE - 1; k >= 0; k--) q = q * r + SLOPE[k];
  return q;
}

/* A number to twice the precision of real: hi + lo. */
typedef struct {
  real hi, lo;
} real_pair;

static inline real_pair pair_of(double hi, double lo) {
  real_pair p = {(real)hi, 0};
  p.lo = (real)((hi - (double)p.hi) + lo);
  return p;
}

/* 1/d, to twice the precision. */
static inline real_pair reciprocal(double hi, double lo) {
  double inverse = 1 / hi;
  return pair_of(inverse, -(fma(inverse, hi, -1) + inverse * lo) * inverse);
}

/* What the exponentials of one slice share. */
typedef struct {
  real_pair rate; /* log2(e) / temperature */
  real anchor;    /* ANCHOR + bias + SPARE - N */
  real floor;     /* an x from here down has a term of exactly 0 */
  real origin;    /* subtracted from x beforehand: 0, or max where that is exact */
} exp_frame;

static inline real_pair rate_of(double temperature) {
  double hi = LOG2_E_HI / temperature;
  return pair_of(hi, (fma(-hi, temperature, LOG2_E_HI) + LOG2_E_LO) / temperature);
}

static inline exp_frame frame_of(real max, real_pair rate) {
  exp_frame f = {rate, 0, 0, 0};
  if (!(fabs((double)max * rate.hi) < EXACT_RATE_PRODUCT)) {
    f.origin = max;
    max = 0;
  }
  real n = (real)(max * rate.hi + ANCHOR) - ANCHOR;
  f.anchor = ANCHOR + (EXPONENT_BIAS + SPARE - n);
  f.floor = (n - EXPONENT_BIAS - SPARE) / rate.hi;
  return f;
}

typedef struct {
  vec rate_hi, rate_lo, anchor, floor;
} vec_frame;

static inline vec_frame spread(const exp_frame *f) {
  vec_frame v = {v_set1(f->rate.hi), v_set1(f->rate.lo), v_set1(f->anchor), v_set1(f->floor)};
  return v;
}

/* 2^(x*rate - N + SPARE) as scale + rise*slope, scale being a power of two: 0 from the floor down,
 * and NaN for NaN. */
typedef struct {
  vec scale, rise, slope;
} exp_term;

/* The terms of `count` vectors, at most BLOCK, step by step for all of them: the steps of one
 * depend on each other, and a processor that is handed them one vector at a time runs out of room
 * to look ahead. */
enum { BLOCK = 4 };

FSM_INLINE void exp_terms(exp_term *term, const vec *x, const vec_frame *f, const size_t count) {
  vec y[BLOCK], t[BLOCK], r[BLOCK], q[BLOCK];
  for (size_t k = 0; k < count; k++) y[k] = v_max(f->floor, x[k]);
  for (size_t k = 0; k < count; k++) t[k] = v_mul_add(y[k], f->rate_hi, f->anchor);
  for (size_t k = 0; k < count; k++) r[k] = v_sub(f->anchor, t[k]); /* -n */
  for (size_t k = 0; k < count; k++) r[k] = v_fma(y[k], f->rate_hi, r[k]);
  for (size_t k = 0; k < count; k++) r[k] = v_mul_add(y[k], f->rate_lo, r[k]);
  for (size_t k = 0; k < count; k++) q[k] = v_set1(SLOPE[SLOPE_DEGREE]);
  for (int j = SLOPE_DEGREE - 1; j >= 0; j--)
    for (size_t k = 0; k < count; k++) q[k] = v_mul_add(q[k], r[k], v_set1(SLOPE[j]));
  for (size_t k = 0; k < count; k++) {
    vec scale = v_shift_to_exponent(t[k]);
    term[k] = (exp_term){scale, v_mul(scale, r[k]), q[k]};
  }
}

FSM_INLINE vec exp_term_value(exp_term t) { return v_mul_add(t.rise, t.slope, t.scale); }

#endif
