/* The exponential shared by every kernel: the terms of a slice, without forming x - max.
 *
 * With rate = log2(e)/temperature and N = round(max*rate), an element contributes
 *
 *     n = round(x*rate)     r = x*rate - n, in [-1/2, 1/2]     term = 2^r * 2^(n - N)
 *
 * n - N is an exact integer, so nothing is lost however far x lies from max. The terms differ from
 * exp((x - max)/temperature) by a factor that is common to the slice. To compute exp(x - max) in
 * floating point would cost |x - max|/2 units in the last place before the exponential has begun.
 *
 * Adding ANCHOR = 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits of the
 * sum. The anchor of a slice has the exponent's bias and -N added to it beforehand, so those low
 * bits, shifted into the exponent field, are 2^(n - N) at no further cost. It has SPARE added as
 * well: all terms are 2^SPARE times as large, and those whose share of the sum is subnormal are
 * still normal numbers. What falls below them has a share that rounds to 0.
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
#define LOG_2_HI 0x1.62e42ffp-1 /* short: its product with any exponent is exact */
#define LOG_2_LO -0x1.718432a1b0e26p-35

/* Beyond |max*rate| = 2^14, n is no longer small beside ANCHOR; but then every x that counts lies
 * within a factor of 2 of max, x - max is exact, and the slice is shifted by it. */
#define EXACT_RATE_PRODUCT 0x1p14

/* q of 2^r = 1 + r*q(r); the relative error of the whole is 2^-28.0 (float) and 2^-57.3 (double).
 * Regenerate with tools/coefficients.py. */
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

/* A number to twice the precision of real: hi + lo. */
typedef struct {
  vec hi, lo;
} vec_pair;

/* What follows from the temperature of a slice, in each lane. */
typedef struct {
  vec_pair rate;    /* log2(e) / temperature */
  vec_pair inverse; /* 1 / temperature */
  vec period;       /* 1 / rate, rounded */
} tempering;

/* The same for one temperature. */
typedef struct {
  real rate[2], inverse[2], period;
} scalar_tempering;

static inline void set_pair(real pair[2], double hi, double lo) {
  pair[0] = (real)hi;
  pair[1] = (real)((hi - (double)pair[0]) + lo);
}

static inline scalar_tempering tempering_of(double temperature) {
  scalar_tempering t;
  double rate = LOG2_E_HI / temperature, inverse = 1 / temperature;
  set_pair(t.rate, rate, (fma(-rate, temperature, LOG2_E_HI) + LOG2_E_LO) / temperature);
  set_pair(t.inverse, inverse, fma(-inverse, temperature, 1) / temperature);
  t.period = (real)(temperature * LOG_2);
  return t;
}

static inline tempering tempering_set1(scalar_tempering s) {
  tempering t = {{v_set1(s.rate[0]), v_set1(s.rate[1])},
                 {v_set1(s.inverse[0]), v_set1(s.inverse[1])},
                 v_set1(s.period)};
  return t;
}

/* What the exponentials of a slice share, in each lane. */
typedef struct {
  vec_pair rate;
  vec anchor; /* ANCHOR + bias + SPARE - N */
  vec floor;  /* an x from here down has a term of exactly 0 */
  vec origin; /* subtracted from x beforehand: 0, or max where that is exact */
} exp_frame;

/* Of no use where max is not finite. */
FSM_INLINE exp_frame frame_of(vec max, const tempering *t) {
  exp_frame f;
  vec product = v_mul(max, t->rate.hi), magnitude = v_max(v_sub(v_set1(0), product), product);
  f.rate = t->rate;
  f.origin = v_zero_where(v_less(magnitude, v_set1(EXACT_RATE_PRODUCT)), max);
  vec n = v_mul_add(v_sub(max, f.origin), t->rate.hi, v_set1(ANCHOR));
  n = v_sub(n, v_set1(ANCHOR));
  f.anchor = v_sub(v_set1(ANCHOR + EXPONENT_BIAS + SPARE), n);
  f.floor = v_mul(v_sub(n, v_set1(EXPONENT_BIAS + SPARE)), t->period);
  return f;
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

FSM_INLINE void exp_terms(exp_term *term, const vec *x, const exp_frame *f, const size_t count) {
  vec y[BLOCK], t[BLOCK], r[BLOCK], q[BLOCK];
  for (size_t k = 0; k < count; k++) y[k] = v_max(f->floor, x[k]);
  for (size_t k = 0; k < count; k++) t[k] = v_mul_add(y[k], f->rate.hi, f->anchor);
  for (size_t k = 0; k < count; k++) r[k] = v_sub(f->anchor, t[k]); /* -n */
  for (size_t k = 0; k < count; k++) r[k] = v_fma(y[k], f->rate.hi, r[k]);
  for (size_t k = 0; k < count; k++) r[k] = v_mul_add(y[k], f->rate.lo, r[k]);
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
