/* 4 floats or 2 doubles in a register: Advanced SIMD of AArch64. The operations are those of
 * vec/scalar.h, and the arithmetic is AVX2's: the same terms, bit for bit. */
#ifndef FSM_VEC_NEON_H
#define FSM_VEC_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inline.h"
#include "vec/bytes.h"

typedef float64x2_t dvec;
enum { DOUBLE_LANES = 2 };

/* How many vectors to work on at a time: a power of two, as many as the registers hold. */
enum { BLOCK = 8 };

static inline dvec d_set1(double a) { return vdupq_n_f64(a); }
static inline dvec d_load(const double *p) { return vld1q_f64(p); }
static inline void d_store(double *p, dvec a) { vst1q_f64(p, a); }
static inline dvec d_add(dvec a, dvec b) { return vaddq_f64(a, b); }
static inline dvec d_sub(dvec a, dvec b) { return vsubq_f64(a, b); }
static inline dvec d_mul(dvec a, dvec b) { return vmulq_f64(a, b); }
static inline dvec d_div(dvec a, dvec b) { return vdivq_f64(a, b); }
static inline dvec d_fma(dvec a, dvec b, dvec c) { return vfmaq_f64(c, a, b); }
static inline dvec d_fms(dvec a, dvec b, dvec c) { return d_fma(a, b, vnegq_f64(c)); } /* a*b - c */
static inline dvec d_mul_add(dvec a, dvec b, dvec c) { return d_fma(a, b, c); }
static inline double d_reduce_add(dvec a) { return vaddvq_f64(a); }

static inline uint64x2_t bits_of(dvec a) { return vreinterpretq_u64_f64(a); }
static inline dvec with_bits(uint64x2_t bits) { return vreinterpretq_f64_u64(bits); }
static inline dvec d_bits_add(dvec a, uint64_t b) {
  return with_bits(vaddq_u64(bits_of(a), vdupq_n_u64(b)));
}
static inline dvec d_bits_sub(dvec a, dvec b) {
  return with_bits(vsubq_u64(bits_of(a), bits_of(b)));
}
static inline dvec d_bits_or(dvec a, uint64_t b) {
  return with_bits(vorrq_u64(bits_of(a), vdupq_n_u64(b)));
}
static inline dvec d_bits_left(dvec a, int n) {
  return with_bits(vshlq_u64(bits_of(a), vdupq_n_s64(n)));
}
static inline dvec d_bits_right(dvec a, int n) { return d_bits_left(a, -n); }

/* In a mask, lanes are all ones or all zeros. */

#ifndef FSM_FLOAT64

typedef float real;
typedef float32x4_t vec;
typedef uint32x4_t mask;
typedef uint32x4_t vcount;

enum { LANES = 4, PARTS = 2 };

static inline vec v_set1(real a) { return vdupq_n_f32(a); }
static inline vec v_load_real(const real *p) { return vld1q_f32(p); }
static inline void v_store_real(real *p, vec a) { vst1q_f32(p, a); }
static inline uint32x4_t words_of(vec a) { return vreinterpretq_u32_f32(a); }
static inline vec with_words(uint32x4_t words) { return vreinterpretq_f32_u32(words); }

/* Lanes below n, for n in 0..4: a window into four set and four clear words. */
static inline mask lanes_below(size_t n) {
  static const uint32_t window[8] = {~0u, ~0u, ~0u, ~0u};
  return vld1q_u32(window + 4 - n);
}

#if defined FSM_FLOAT32

typedef float storage;
enum { KEEPS_TERMS = 1 };

static inline vec v_load(const storage *p) { return vld1q_f32(p); }
static inline dvec d_load_storage(const storage *p) { return vcvt_f64_f32(vld1_f32(p)); }
static inline void v_store(storage *p, vec a) { vst1q_f32(p, a); }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  if (n & 4) return v_load(p);
  float32x2_t low = vget_low_f32(fill), high = vget_high_f32(fill);
  if (n & 2) low = vld1_f32(p);
  if (n == 3) high = vld1_lane_f32(p + 2, high, 0);
  if (n == 1) low = vld1_lane_f32(p, low, 0);
  return vcombine_f32(low, high);
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n & 4) v_store(p, a);
  if (n & 2) vst1_f32(p, vget_low_f32(a));
  if (n == 3) vst1q_lane_f32(p + 2, a, 2);
  if (n == 1) vst1q_lane_f32(p, a, 0);
}

#else /* 16 bits, float while they are worked on */

typedef uint16_t storage;
enum { KEEPS_TERMS = 0 };

#if defined FSM_FLOAT16
static inline vec widened(uint16x4_t a) { return vcvt_f32_f16(vreinterpret_f16_u16(a)); }
static inline uint16x4_t narrowed(vec a) { return vreinterpret_u16_f16(vcvt_f16_f32(a)); }
#else /* FSM_BFLOAT16: the upper half of a float */
static inline vec widened(uint16x4_t a) { return with_words(vshll_n_u16(a, 16)); }
/* To nearest, ties to even; a NaN stays one. */
static inline uint16x4_t narrowed(vec a) {
  uint32x4_t bits = words_of(a), upper = vshrq_n_u32(bits, 16);
  uint32x4_t half = vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
  uint32x4_t nan = vorrq_u32(upper, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(a, a), vshrq_n_u32(vaddq_u32(bits, half), 16), nan));
}
#endif

static inline vec v_load(const storage *p) { return widened(vld1_u16(p)); }
static inline void v_store(storage *p, vec a) { vst1_u16(p, narrowed(a)); }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  vec a = widened(vcreate_u16(load_bytes(p, 2 * n)));
  return vbslq_f32(lanes_below(n), a, fill);
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  uint64_t words = vget_lane_u64(vreinterpret_u64_u16(narrowed(a)), 0);
  store_bytes(p, 2 * n, words);
}

#endif

static inline vec v_stored(vec a) { return a; }

static inline vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
static inline vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
static inline vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
static inline vec v_mul_add(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* (The processor's own maximum is NaN where either is.) */
static inline vec v_max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

#define TABLE_BITS 2
/* By bytes: 4*index to 4*index + 3 of the table. */
static inline vec v_lookup(const uint32_t table[4], vec index) {
  uint32x4_t entry = vandq_u32(words_of(index), vdupq_n_u32(3));
  uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100), entry, vdupq_n_u32(0x04040404));
  uint8x16_t entries = vreinterpretq_u8_u32(vld1q_u32(table));
  return vreinterpretq_f32_u8(vqtbl1q_u8(entries, vreinterpretq_u8_u32(bytes)));
}
static inline vec v_shift_to_exponent(vec a) {
  return with_words(vshlq_n_u32(words_of(a), 23 - TABLE_BITS));
}
static inline vec v_bits_add(vec a, vec b) {
  return with_words(vaddq_u32(words_of(a), words_of(b)));
}

static inline mask v_equal(vec a, vec b) { return vceqq_f32(a, b); }
static inline mask v_less(vec a, vec b) { return vcltq_f32(a, b); }
static inline mask v_unordered(vec a, vec b) {
  return vmvnq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b)));
}
static inline mask v_or(mask a, mask b) { return vorrq_u32(a, b); }
static inline vec v_zero_where(mask m, vec a) { return with_words(vbicq_u32(words_of(a), m)); }
static inline vec v_select(mask m, vec a, vec b) { return vbslq_f32(m, a, b); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  int32x4_t words = vreinterpretq_s32_u32(m);
  int64x2_t wide = vmovl_s32(part == 0 ? vget_low_s32(words) : vget_high_s32(words));
  return vbslq_f64(vreinterpretq_u64_s64(wide), a, b);
}
static inline bool v_all(mask m) { return vminvq_u32(m) != 0; }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  uint8x8_t bytes = vcreate_u8(load_bytes(p, n));
  uint32x4_t wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
  return vtstq_u32(wide, wide);
}

static inline real v_first(vec a) { return vgetq_lane_f32(a, 0); }
static inline real v_reduce_max(vec a) { return vmaxvq_f32(a); }

/* The lanes as doubles, in PARTS vectors. */
static inline dvec v_part(vec a, int part) {
  return part == 0 ? vcvt_f64_f32(vget_low_f32(a)) : vcvt_high_f64_f32(a);
}
static inline vec v_join(const dvec parts[PARTS]) {
  return vcvt_high_f32_f64(vcvt_f32_f64(parts[0]), parts[1]);
}

static inline vcount v_count_zero(void) { return vdupq_n_u32(0); }
static inline vcount v_count_add(vcount count, mask m) { return vsubq_u32(count, m); }
static inline uint64_t v_bits(mask m) {
  static const uint32_t bits[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, vld1q_u32(bits)));
}
static inline size_t v_count_true(mask m) { return vaddvq_u32(vshrq_n_u32(m, 31)); }
static inline dvec v_count_part(vcount count, int part) {
  return vcvtq_f64_u64(vmovl_u32(part == 0 ? vget_low_u32(count) : vget_high_u32(count)));
}

/* The transpose of LANES vectors, in place. */
FSM_INLINE void v_transpose(vec a[LANES]) {
  dvec pair[LANES];
  for (int k = 0; k < 4; k += 2) {
    pair[k] = vreinterpretq_f64_f32(vtrn1q_f32(a[k], a[k + 1]));
    pair[k + 1] = vreinterpretq_f64_f32(vtrn2q_f32(a[k], a[k + 1]));
  }
  for (int k = 0; k < 2; k++) {
    a[k] = vreinterpretq_f32_f64(vtrn1q_f64(pair[k], pair[k + 2]));
    a[k + 2] = vreinterpretq_f32_f64(vtrn2q_f64(pair[k], pair[k + 2]));
  }
}

#else /* FSM_FLOAT64 */

#include "vec/double.h"

typedef double storage;
enum { KEEPS_TERMS = 1 };
typedef uint64x2_t mask;
typedef uint64x2_t vcount;

static inline vec v_fma(vec a, vec b, vec c) { return d_fma(a, b, c); }
static inline vec v_load(const storage *p) { return d_load(p); }
static inline dvec d_load_storage(const storage *p) { return d_load(p); }
static inline void v_store(storage *p, vec a) { d_store(p, a); }
static inline vec v_stored(vec a) { return a; }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  if (n & 2) return v_load(p);
  return n == 1 ? vld1q_lane_f64(p, fill, 0) : fill;
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n & 2) v_store(p, a);
  if (n == 1) vst1q_lane_f64(p, a, 0);
}

/* (The processor's own maximum is NaN where either is.) */
static inline vec v_max(vec a, vec b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }

#define TABLE_BITS 2
/* By bytes: 8*index to 8*index + 7 of the table. */
static inline vec v_lookup(const uint64_t table[4], vec index) {
  uint64x2_t entry = vandq_u64(bits_of(index), vdupq_n_u64(3));
  uint8x16_t repeated = vcombine_u8(vcreate_u8(0), vcreate_u8(0x0808080808080808));
  uint8x16_t each = vqtbl1q_u8(vreinterpretq_u8_u64(entry), repeated);
  uint8x16_t in_order = vreinterpretq_u8_u64(vdupq_n_u64(0x0706050403020100));
  uint8x16x2_t entries = {
      {vreinterpretq_u8_u64(vld1q_u64(table)), vreinterpretq_u8_u64(vld1q_u64(table + 2))}};
  return vreinterpretq_f64_u8(vqtbl2q_u8(entries, vsliq_n_u8(in_order, each, 3)));
}
static inline vec v_shift_to_exponent(vec a) {
  return with_bits(vshlq_n_u64(bits_of(a), 52 - TABLE_BITS));
}
static inline vec v_bits_add(vec a, vec b) { return with_bits(vaddq_u64(bits_of(a), bits_of(b))); }

static inline mask v_equal(vec a, vec b) { return vceqq_f64(a, b); }
static inline mask v_less(vec a, vec b) { return vcltq_f64(a, b); }
static inline mask v_unordered(vec a, vec b) {
  uint64x2_t ordered = vandq_u64(vceqq_f64(a, a), vceqq_f64(b, b));
  return veorq_u64(ordered, vdupq_n_u64(~(uint64_t)0));
}
static inline mask v_or(mask a, mask b) { return vorrq_u64(a, b); }
static inline vec v_zero_where(mask m, vec a) { return with_bits(vbicq_u64(bits_of(a), m)); }
static inline vec v_select(mask m, vec a, vec b) { return vbslq_f64(m, a, b); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  return (void)part, v_select(m, a, b);
}
static inline size_t v_count_true(mask m) { return vaddvq_u64(vshrq_n_u64(m, 63)); }
static inline bool v_all(mask m) { return v_count_true(m) == LANES; }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  uint8x8_t bytes = vcreate_u8(load_bytes(p, n));
  uint32x4_t words = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
  uint64x2_t wide = vmovl_u32(vget_low_u32(words));
  return vtstq_u64(wide, wide);
}

static inline real v_first(vec a) { return vgetq_lane_f64(a, 0); }
static inline real v_reduce_max(vec a) { return vmaxvq_f64(a); }

static inline vcount v_count_zero(void) { return vdupq_n_u64(0); }
static inline vcount v_count_add(vcount count, mask m) { return vsubq_u64(count, m); }
static inline uint64_t v_bits(mask m) {
  static const uint64_t bits[2] = {1, 2};
  return vaddvq_u64(vandq_u64(m, vld1q_u64(bits)));
}
static inline dvec v_count_part(vcount count, int part) { return (void)part, vcvtq_f64_u64(count); }

FSM_INLINE void v_transpose(vec a[LANES]) {
  vec first = a[0];
  a[0] = vtrn1q_f64(first, a[1]);
  a[1] = vtrn2q_f64(first, a[1]);
}

#endif

enum { STRIP = LANES };
FSM_INLINE void v_load_strip(vec a[STRIP], const storage *p, ptrdiff_t stride) {
  for (int k = 0; k < LANES; k++) a[k] = v_load(p + k * stride);
  v_transpose(a);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  v_transpose(a);
  for (int k = 0; k < LANES; k++) v_store(p + k * stride, a[k]);
}

static inline size_t lowest_bit(uint64_t bits) { return (size_t)__builtin_ctzll(bits); }

/* Stores of one vector cannot pass the caches. */
enum { STREAMS = 0 };
static inline void v_stream(storage *p, vec a) { v_store(p, a); }
static inline void v_finish_streams(void) {}
FSM_INLINE void v_fetch(const storage *p) { __builtin_prefetch(p, 0, 3); }
FSM_INLINE void v_fetch_farther(const storage *p) { __builtin_prefetch(p, 0, 2); }

#endif
