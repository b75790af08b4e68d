/* The exponential shared by every kernel: the terms of a slice, without forming x - max.
 *
 * With rate = log2(e)/temperature and N = round(max*rate), an element contributes
 *
 *     n = round(x*rate)     r = x*rate - n     term = 2^r * 2^(n - N)
 *
 * where n and N are multiples of 1/size, size being that of a table of 2^(j/size) that fits a
 * register or two. n - N is exact, so nothing is lost however far x lies from max. The
 * terms differ from exp((x - max)/temperature) by a factor that is common to the slice. To compute
 * exp(x - max) in floating point would cost |x - max|/2 units in the last place before the
 * exponential has begun.
 *
 * Adding ANCHOR = 1.5 * 2^(mantissa bits)/size rounds to a multiple of 1/size and leaves it in the
 * low bits of the sum. The anchor of a slice has the exponent's bias and -N added to it beforehand,
 * so those low bits are the exponent of the term and an index into the table. It has SPARE added as
 * well: all terms are 2^SPARE times as large, and no step meets a subnormal number, which would be
 * slow on some processors, before the share of a term in the sum is one itself.
 *
 * Since a common factor cancels, the table holds TABLE_FACTOR * 2^(j/size), with a factor for which
 * all entries lie near a number of real's precision, and the largest terms, which have j = 0 and
 * decide the sum, just below a power of two, where rounding costs least.
 *
 * Relative error of a term, in units u of 2^-24 (2^-53): the table's entry, at most 0.3; r and the
 * polynomial, 0.1; the last step, at most 1, or 0.6 for the largest terms.
 *
 * Over all finite float32 x, the worst errors of softmax([x, 0]) are 2.41 ULP with AVX-512, 2.37
 * with AVX2 and 1.49 without either, and those of logsumexp 1.45, 1.47 and 0.51; in rows of
 * 1024, 2.11, 2.17, 2.04 and 0.82, 0.75, 0.51 (benchmarks/sweep.py).
 */
#ifndef FSM_KERNELS_EXP_H
#define FSM_KERNELS_EXP_H

#include <math.h>

#include "inline.h"

enum { TABLE_SIZE = 1 << TABLE_BITS };

#ifdef FSM_REAL_DOUBLE
#define WHOLE 0x1.8p52
#define REAL_MAX 0x1.fffffffffffffp1023
enum { EXPONENT_BIAS = 1023 };
#else
#define WHOLE 0x1.8p23f
#define REAL_MAX 0x1.fffffep127f
enum { EXPONENT_BIAS = 127 };
#endif
#define ANCHOR (WHOLE / TABLE_SIZE)

/* An element whose share of its slice is below 2^FLOOR counts for nothing: 2^30 of them do not come
 * to the smallest subnormal number. None has a term above NEGLIGIBLE_TERM, 2^(FLOOR + SPARE + 1).
 * Terms are stored in the dtype of the array. */
#ifndef FSM_FLOAT64
enum { SPARE = 64, FLOOR = -180 };
#define SPARE_SCALE 0x1p64
#define NEGLIGIBLE_TERM 0x1p-115
#else
enum { SPARE = 512, FLOOR = -1135 };
#define SPARE_SCALE 0x1p512
#define NEGLIGIBLE_TERM 0x1p-622
#endif

#define LOG2_E_HI 0x1.71547652b82fep+0
#define LOG2_E_LO 0x1.777d0ffda0d24p-56
#define LOG_2 0x1.62e42fefa39efp-1
#define LOG_2_HI 0x1.62e42ffp-1 /* short: its product with any exponent is exact */
#define LOG_2_LO -0x1.718432a1b0e26p-35

/* Beyond |max*rate| = 2^14, n is no longer small beside ANCHOR; but then every x that counts lies
 * within a factor of 2 of max, x - max is exact, and the slice is shifted by it. */
#define EXACT_RATE_PRODUCT 0x1p14

/* q of 2^r = 1 + r*q(r) for |r| <= 1/2/TABLE_SIZE, and the bits of the table's entries less those
 * that n adds to them. Regenerate these, and the bound on the relative error of 2^r given with
 * each, with tools/coefficients.py. */
#if defined FSM_REAL_DOUBLE && TABLE_BITS == 4 /* 2^-57.0 */
static const real SLOPE[] = {0x1.62e42fefa39fdp-1, 0x1.ebfbdff82c55dp-3,  0x1.c6b08d6e8b6a1p-5,
                             0x1.3b2ab6fdc045ap-7, 0x1.5d89be5f90441p-10, 0x1.43085b81c1cdbp-13};
#define TABLE_FACTOR 0x1.e8011dd93e9bbp+0
static const uint64_t TABLE[] = {
    0x000e8011dd93e9bb, 0x000ed9c337cceca0, 0x000ea161576a409d, 0x000e5ddedd73325f,
    0x000e22b4c12e957a, 0x000df041985f3685, 0x000dc6e828d0c9a6, 0x000da70f97ce7406,
    0x000d91239bb34884, 0x000d8594afac88d7, 0x000d84d849c68a41, 0x000d8f69135e36d1,
    0x000da5c724124a9d, 0x000dc8783f509fc0, 0x000df808149d1cf4, 0x000e350882b129cb};
#elif defined FSM_REAL_DOUBLE /* 2 bits, 2^-57.9 */
static const real SLOPE[] = {0x1.62e42fefa39edp-1,  0x1.ebfbdff82c597p-3,  0x1.c6b08d7050e8ap-5,
                             0x1.3b2ab6fb995a6p-7,  0x1.5d87fdb98fe5fp-10, 0x1.430913ff2d143p-13,
                             0x1.ffeb2e2e95468p-17, 0x1.62b99454c2e9cp-20};
#define TABLE_FACTOR 0x1.c91280ceea48bp+0
static const uint64_t TABLE[] = {0x000c91280ceea48b, 0x000cfc6dc877c352, 0x000c332eb95abf53,
                                 0x000c059b6705c4d2};
#elif TABLE_BITS == 4 /* 2^-29.2 */
static const real SLOPE[] = {0x1.62e43p-1f, 0x1.ebfffep-3f, 0x1.c6ace8p-5f};
#define TABLE_FACTOR 0x1.e16380p+0
static const uint32_t TABLE[] = {
    0x0070b1c0, 0x007359cd, 0x00733d51, 0x00710ccc, 0x006f1e22, 0x006d743e, 0x006c122b, 0x006afb17,
    0x006a3254, 0x0069bb5a, 0x006999c8, 0x0069d165, 0x006a6625, 0x006b5c27, 0x006cb7ba, 0x006e7d5c};
#else /* 2 bits, 2^-28.2 */
static const real SLOPE[] = {0x1.62e42cp-1f, 0x1.ebfbe2p-3f, 0x1.c6e9c2p-5f, 0x1.3b329cp-7f};
#define TABLE_FACTOR 0x1.c856a0p+0
static const uint32_t TABLE[] = {0x00642b50, 0x0067ab93, 0x00615709, 0x005fdddd};
#endif
enum { SLOPE_DEGREE = sizeof SLOPE / sizeof SLOPE[0] - 1 };

/* a*b where it may underflow. Zen 5 takes its time for such a product, unless an addition follows
 * in the same instruction: see docs/design.md. */
FSM_INLINE vec v_mul_small(vec a, vec b) { return v_mul_add(a, b, v_set1(0)); }
FSM_INLINE dvec d_mul_small(dvec a, dvec b) { return d_mul_add(a, b, d_set1(0)); }

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

/* That of temperature 1, which nearly all slices have. */
static inline tempering untempered(void) {
  const real hi = (real)LOG2_E_HI, lo = (real)((LOG2_E_HI - (double)hi) + LOG2_E_LO);
  return (tempering){{v_set1(hi), v_set1(lo)}, {v_set1(1), v_set1(0)}, v_set1((real)LOG_2)};
}

/* hi + lo in real's precision. */
static inline vec_pair pair_of(const dvec hi[PARTS], const dvec lo[PARTS]) {
  vec first = v_join(hi);
  dvec rest[PARTS];
  for (int p = 0; p < PARTS; p++) rest[p] = d_add(d_sub(hi[p], v_part(first, p)), lo[p]);
  return (vec_pair){first, v_join(rest)};
}

/* Those of LANES slices, of which only `count` have a temperature, `stride` apart. */
FSM_APART tempering load_tempering(const double *temperature, ptrdiff_t stride, size_t count) {
  double lanes[LANES];
  dvec rate[2][PARTS], inverse[2][PARTS], period[PARTS], zero = d_set1(0), one = d_set1(1);
  for (size_t k = 0; k < LANES; k++) lanes[k] = k < count ? temperature[(ptrdiff_t)k * stride] : 1;
  for (int p = 0; p < PARTS; p++) {
    dvec t = d_load(lanes + p * DOUBLE_LANES), log2_e = d_set1(LOG2_E_HI);
    rate[0][p] = d_div(log2_e, t);
    inverse[0][p] = d_div(one, t);
    dvec rest = d_fma(d_sub(zero, rate[0][p]), t, log2_e);
    rate[1][p] = d_mul(d_add(rest, d_set1(LOG2_E_LO)), inverse[0][p]);
    inverse[1][p] = d_mul(d_fma(d_sub(zero, inverse[0][p]), t, one), inverse[0][p]);
    period[p] = d_mul(t, d_set1(LOG_2));
  }
  return (tempering){pair_of(rate[0], rate[1]), pair_of(inverse[0], inverse[1]), v_join(period)};
}

/* What the exponentials of a slice share, in each lane. */
typedef struct {
  vec_pair rate;
  vec anchor; /* ANCHOR + bias + SPARE - N */
  vec floor;  /* an x from here down has the term of this one (floor_term) */
  vec origin; /* subtracted from x beforehand: 0, or max where that is exact */
} exp_frame;

/* TABLE_FACTOR * 2^(x*rate - N + SPARE) as scale * 2^r. NaN for NaN. */
typedef struct {
  vec scale, r;
} exp_reduced;

/* The same as scale + rise*slope. */
typedef struct {
  vec scale, rise, slope;
} exp_term;

/* Both are found of `count` vectors, at most BLOCK, step by step for all of them: the steps of one
 * depend on each other, and a processor that is handed them one vector at a time runs out of room
 * to look ahead. */

FSM_INLINE void exp_reduce(exp_reduced *reduced, const vec *x, const exp_frame *f,
                           const size_t count) {
  vec y[BLOCK], t[BLOCK], r[BLOCK];
  for (size_t k = 0; k < count; k++) y[k] = v_max(f->floor, x[k]);
  for (size_t k = 0; k < count; k++) t[k] = v_mul_add(y[k], f->rate.hi, f->anchor);
  for (size_t k = 0; k < count; k++) r[k] = v_sub(f->anchor, t[k]); /* -n */
  for (size_t k = 0; k < count; k++) r[k] = v_fma(y[k], f->rate.hi, r[k]);
  for (size_t k = 0; k < count; k++) r[k] = v_mul_add(y[k], f->rate.lo, r[k]);
  for (size_t k = 0; k < count; k++) {
    vec scale = v_bits_add(v_lookup(TABLE, t[k]), v_shift_to_exponent(t[k]));
    reduced[k] = (exp_reduced){scale, r[k]};
  }
}

FSM_INLINE void exp_expand(exp_term *term, const exp_reduced *reduced, const size_t count) {
  vec q[BLOCK];
  for (size_t k = 0; k < count; k++) q[k] = v_set1(SLOPE[SLOPE_DEGREE]);
  for (int j = SLOPE_DEGREE - 1; j >= 0; j--)
    for (size_t k = 0; k < count; k++) q[k] = v_mul_add(q[k], reduced[k].r, v_set1(SLOPE[j]));
  for (size_t k = 0; k < count; k++) {
    vec scale = reduced[k].scale;
    term[k] = (exp_term){scale, v_mul(scale, reduced[k].r), q[k]};
  }
}

FSM_INLINE void exp_terms(exp_term *term, const vec *x, const exp_frame *f, const size_t count) {
  exp_reduced reduced[BLOCK];
  exp_reduce(reduced, x, f, count);
  exp_expand(term, reduced, count);
}

FSM_INLINE vec exp_term_value(const exp_term *t) { return v_mul_add(t->rise, t->slope, t->scale); }

/* Of no use where max is not finite. `rounding` is ANCHOR, or WHOLE to round N to a whole number:
 * the same x then has the same term in another such frame, but for a power of two (and the largest
 * terms are rounded like others). */
FSM_INLINE exp_frame frame_rounded(vec max, const tempering *t, const real rounding) {
  exp_frame f;
  vec product = v_mul(max, t->rate.hi), magnitude = v_max(v_sub(v_set1(0), product), product);
  f.rate = t->rate;
  f.origin = v_zero_where(v_less(magnitude, v_set1(EXACT_RATE_PRODUCT)), max);
  vec n = v_mul_add(v_sub(max, f.origin), t->rate.hi, v_set1(rounding));
  n = v_sub(n, v_set1(rounding));
  f.anchor = v_sub(v_set1(ANCHOR + EXPONENT_BIAS + SPARE), n);
  /* Not where r is nearly 0, and its product with the smallest scale subnormal. */
  f.floor = v_mul(v_add(n, v_set1(FLOOR + (real)0.25 / TABLE_SIZE)), t->period);
  return f;
}

FSM_INLINE exp_frame frame_of(vec max, const tempering *t) { return frame_rounded(max, t, ANCHOR); }

/* The term of what is clamped, which is as good as 0, and is made 0 by the last pass (share). */
FSM_INLINE vec floor_term(const exp_frame *f) {
  exp_term term;
  exp_terms(&term, &f->floor, f, 1);
  return v_stored(exp_term_value(&term));
}

#endif
