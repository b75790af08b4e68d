/* 8 floats or 4 doubles in a register: AVX2 with FMA. The operations are those of vec/scalar.h. */
#ifndef FSM_VEC_AVX2_H
#define FSM_VEC_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"
#include "vec/bytes.h"

typedef __m256d dvec;
enum { DOUBLE_LANES = 4 };

/* How many vectors to work on at a time: a power of two, as many as the registers hold. */
enum { BLOCK = 4 };

static inline dvec d_set1(double a) { return _mm256_set1_pd(a); }
static inline dvec d_load(const double *p) { return _mm256_loadu_pd(p); }
static inline void d_store(double *p, dvec a) { _mm256_storeu_pd(p, a); }
static inline dvec d_add(dvec a, dvec b) { return _mm256_add_pd(a, b); }
static inline dvec d_sub(dvec a, dvec b) { return _mm256_sub_pd(a, b); }
static inline dvec d_mul(dvec a, dvec b) { return _mm256_mul_pd(a, b); }
static inline dvec d_div(dvec a, dvec b) { return _mm256_div_pd(a, b); }
static inline dvec d_fma(dvec a, dvec b, dvec c) { return _mm256_fmadd_pd(a, b, c); }
static inline dvec d_fms(dvec a, dvec b, dvec c) { return _mm256_fmsub_pd(a, b, c); } /* a*b - c */
static inline dvec d_mul_add(dvec a, dvec b, dvec c) { return _mm256_fmadd_pd(a, b, c); }
static inline double d_reduce_add(dvec a) {
  __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

static inline __m256i bits_of(dvec a) { return _mm256_castpd_si256(a); }
static inline dvec with_bits(__m256i bits) { return _mm256_castsi256_pd(bits); }
static inline __m256i bits_set1(uint64_t b) { return _mm256_set1_epi64x((long long)b); }
static inline dvec d_bits_add(dvec a, uint64_t b) {
  return with_bits(_mm256_add_epi64(bits_of(a), bits_set1(b)));
}
static inline dvec d_bits_sub(dvec a, dvec b) {
  return with_bits(_mm256_sub_epi64(bits_of(a), bits_of(b)));
}
static inline dvec d_bits_or(dvec a, uint64_t b) {
  return with_bits(_mm256_or_si256(bits_of(a), bits_set1(b)));
}
static inline dvec d_bits_left(dvec a, int n) {
  return with_bits(_mm256_slli_epi64(bits_of(a), n));
}
static inline dvec d_bits_right(dvec a, int n) {
  return with_bits(_mm256_srli_epi64(bits_of(a), n));
}

/* In a mask, lanes are all ones or all zeros. */

#ifndef FSM_FLOAT64

typedef float real;
typedef __m256 vec;
typedef __m256 mask;
typedef __m256i vcount;

enum { LANES = 8, PARTS = 2 };

static inline vec v_set1(real a) { return _mm256_set1_ps(a); }
static inline vec v_load_real(const real *p) { return _mm256_loadu_ps(p); }
static inline void v_store_real(real *p, vec a) { _mm256_storeu_ps(p, a); }

/* Lanes below n, for n in 0..8: a window into eight set and eight clear words. */
static inline __m256i lanes_below(size_t n) {
  static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}

#if defined FSM_FLOAT32

typedef float storage;
enum { KEEPS_TERMS = 1 };

static inline vec v_load(const storage *p) { return _mm256_loadu_ps(p); }
static inline dvec d_load_storage(const storage *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
static inline void v_store(storage *p, vec a) { _mm256_storeu_ps(p, a); }
static inline vec v_stored(vec a) { return a; }
static inline void v_stream(storage *p, vec a) { _mm256_stream_ps(p, a); }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  __m256i valid = lanes_below(n);
  return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, valid), _mm256_castsi256_ps(valid));
}
/* In pieces: a masked store costs tens of cycles on several AMD processors. */
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n & 8) {
    _mm256_storeu_ps(p, a);
    return;
  }
  __m128 rest = _mm256_castps256_ps128(a);
  if (n & 4) {
    _mm_storeu_ps(p, rest);
    rest = _mm256_extractf128_ps(a, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi((__m64 *)p, rest);
    rest = _mm_movehl_ps(rest, rest);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, rest);
}

#else /* 16 bits, float while they are worked on */

typedef uint16_t storage;
enum { KEEPS_TERMS = 0 };

#if defined FSM_FLOAT16
static inline vec widened(__m128i a) { return _mm256_cvtph_ps(a); }
static inline __m128i narrowed(vec a) {
  return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else /* FSM_BFLOAT16: the upper half of a float */
static inline vec widened(__m128i a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16));
}
/* To nearest, ties to even; a NaN stays one. */
static inline __m128i narrowed(vec a) {
  __m256i bits = _mm256_castps_si256(a), upper = _mm256_srli_epi32(bits, 16);
  __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  __m256i words = _mm256_blendv_epi8(nearest, nan, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
#endif

static inline vec v_load(const storage *p) { return widened(_mm_loadu_si128((const __m128i *)p)); }
static inline void v_store(storage *p, vec a) { _mm_storeu_si128((__m128i *)p, narrowed(a)); }
static inline vec v_stored(vec a) { return a; }
static inline void v_stream(storage *p, vec a) { v_store(p, a); }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  size_t low = n < 4 ? n : 4;
  __m128i a = _mm_set_epi64x((long long)load_bytes(p + low, 2 * (n - low)),
                             (long long)load_bytes(p, 2 * low));
  return _mm256_blendv_ps(fill, widened(a), _mm256_castsi256_ps(lanes_below(n)));
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  __m128i rest = narrowed(a);
  if (n & 8) {
    _mm_storeu_si128((__m128i *)p, rest);
    return;
  }
  if (n & 4) {
    _mm_storel_epi64((__m128i *)p, rest);
    rest = _mm_srli_si128(rest, 8);
    p += 4;
  }
  if (n & 2) {
    const int two = _mm_cvtsi128_si32(rest);
    memcpy(p, &two, sizeof two);
    rest = _mm_srli_si128(rest, 4);
    p += 2;
  }
  if (n & 1) *p = (storage)_mm_cvtsi128_si32(rest);
}

#endif

static inline vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec v_mul_add(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }

#define TABLE_BITS 2
static inline vec v_lookup(const uint32_t table[4], vec index) {
  return _mm256_permutevar_ps(_mm256_broadcast_ps((const __m128 *)table),
                              _mm256_castps_si256(index));
}
static inline vec v_shift_to_exponent(vec a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23 - TABLE_BITS));
}
static inline vec v_bits_add(vec a, vec b) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline mask v_equal(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline mask v_less(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline mask v_unordered(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
static inline mask v_or(mask a, mask b) { return _mm256_or_ps(a, b); }
static inline vec v_zero_where(mask m, vec a) { return _mm256_andnot_ps(m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm256_blendv_ps(b, a, m); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  __m128 half = part == 0 ? _mm256_castps256_ps128(m) : _mm256_extractf128_ps(m, 1);
  return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm_castps_si128(half))));
}
static inline bool v_all(mask m) { return _mm256_movemask_ps(m) == 0xff; }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)load_bytes(p, n)));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(wide, _mm256_setzero_si256()));
}

static inline real v_first(vec a) { return _mm256_cvtss_f32(a); }
static inline real v_reduce_max(vec a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* The lanes as doubles, in PARTS vectors. */
static inline dvec v_part(vec a, int part) {
  return _mm256_cvtps_pd(part ? _mm256_extractf128_ps(a, 1) : _mm256_castps256_ps128(a));
}
static inline vec v_join(const dvec parts[PARTS]) {
  return _mm256_set_m128(_mm256_cvtpd_ps(parts[1]), _mm256_cvtpd_ps(parts[0]));
}

static inline vcount v_count_zero(void) { return _mm256_setzero_si256(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm256_sub_epi32(count, _mm256_castps_si256(m));
}
static inline uint64_t v_bits(mask m) { return (unsigned)_mm256_movemask_ps(m); }
static inline size_t v_count_true(mask m) { return (size_t)_mm_popcnt_u64(v_bits(m)); }
static inline dvec v_count_part(vcount count, int part) {
  return _mm256_cvtepi32_pd(part ? _mm256_extracti128_si256(count, 1)
                                 : _mm256_castsi256_si128(count));
}

/* The transposes of four vectors' halves, in place. */
FSM_INLINE void transpose_halves(vec a[4]) {
  vec pair[4];
  for (int k = 0; k < 4; k += 2) {
    pair[k] = _mm256_unpacklo_ps(a[k], a[k + 1]);
    pair[k + 1] = _mm256_unpackhi_ps(a[k], a[k + 1]);
  }
  for (int i = 0; i < 2; i++) {
    a[2 * i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    a[2 * i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
  }
}

/* The transpose of LANES vectors, in place. */
FSM_INLINE void v_transpose(vec a[LANES]) {
  transpose_halves(a);
  transpose_halves(a + 4);
  for (int k = 0; k < 4; k++) {
    vec first = a[k];
    a[k] = _mm256_permute2f128_ps(first, a[k + 4], 0x20);
    a[k + 4] = _mm256_permute2f128_ps(first, a[k + 4], 0x31);
  }
}

#ifdef FSM_FLOAT32
/* 128 bits each, at two places. */
static inline __m256 load_halves(const storage *high, const storage *low) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
static inline void store_halves(storage *high, storage *low, __m256 a) {
  _mm_storeu_ps(low, _mm256_castps256_ps128(a));
  _mm_storeu_ps(high, _mm256_extractf128_ps(a, 1));
}

enum { STRIP = 4 };
FSM_INLINE void v_load_strip(vec a[STRIP], const storage *p, ptrdiff_t stride) {
  for (int k = 0; k < 4; k++) a[k] = load_halves(p + (k + 4) * stride, p + k * stride);
  transpose_halves(a);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  transpose_halves(a);
  for (int k = 0; k < 4; k++) store_halves(p + (k + 4) * stride, p + k * stride, a[k]);
}
#else
enum { STRIP = LANES };
FSM_INLINE void v_load_strip(vec a[STRIP], const storage *p, ptrdiff_t stride) {
  for (int k = 0; k < LANES; k++) a[k] = v_load(p + k * stride);
  v_transpose(a);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  v_transpose(a);
  for (int k = 0; k < LANES; k++) v_store(p + k * stride, a[k]);
}
#endif

#else /* FSM_FLOAT64 */

#include "vec/double.h"

typedef double storage;
enum { KEEPS_TERMS = 1 };
typedef __m256d mask;
typedef __m256i vcount;

static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
static inline vec v_load(const storage *p) { return _mm256_loadu_pd(p); }
static inline dvec d_load_storage(const storage *p) { return d_load(p); }
static inline void v_store(storage *p, vec a) { _mm256_storeu_pd(p, a); }
static inline vec v_stored(vec a) { return a; }

static inline __m256i lanes_below(size_t n) {
  static const int64_t window[8] = {-1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(window + 4 - n));
}
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  __m256i valid = lanes_below(n);
  return _mm256_blendv_pd(fill, _mm256_maskload_pd(p, valid), _mm256_castsi256_pd(valid));
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n & 4) {
    _mm256_storeu_pd(p, a);
    return;
  }
  __m128d rest = _mm256_castpd256_pd128(a);
  if (n & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd(a, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, rest);
}

static inline vec v_max(vec a, vec b) { return _mm256_max_pd(a, b); }

#define TABLE_BITS 2
/* In halves: words 2*index and 2*index + 1 of the table. */
static inline vec v_lookup(const uint64_t table[4], vec index) {
  __m256i twice = _mm256_add_epi32(bits_of(index), bits_of(index));
  __m256i first = _mm256_shuffle_epi32(twice, 0xa0);
  __m256i words = _mm256_or_si256(first, bits_set1((uint64_t)1 << 32));
  return with_bits(_mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)table), words));
}
static inline vec v_shift_to_exponent(vec a) { return d_bits_left(a, 52 - TABLE_BITS); }
static inline vec v_bits_add(vec a, vec b) {
  return with_bits(_mm256_add_epi64(bits_of(a), bits_of(b)));
}

static inline mask v_equal(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
static inline mask v_less(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
static inline mask v_unordered(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_UNORD_Q); }
static inline mask v_or(mask a, mask b) { return _mm256_or_pd(a, b); }
static inline vec v_zero_where(mask m, vec a) { return _mm256_andnot_pd(m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm256_blendv_pd(b, a, m); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  return (void)part, v_select(m, a, b);
}
static inline bool v_all(mask m) { return _mm256_movemask_pd(m) == 0xf; }
static inline void v_stream(storage *p, vec a) { _mm256_stream_pd(p, a); }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi64_si128((long long)load_bytes(p, n)));
  return with_bits(_mm256_cmpgt_epi64(wide, _mm256_setzero_si256()));
}

static inline real v_first(vec a) { return _mm256_cvtsd_f64(a); }
static inline real v_reduce_max(vec a) {
  __m128d m = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)));
}

static inline vcount v_count_zero(void) { return _mm256_setzero_si256(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm256_sub_epi64(count, bits_of(m));
}
static inline uint64_t v_bits(mask m) { return (unsigned)_mm256_movemask_pd(m); }
static inline size_t v_count_true(mask m) { return (size_t)_mm_popcnt_u64(v_bits(m)); }
/* Exact below 2^52: the count is made the mantissa of 2^52 + count. */
static inline dvec v_count_part(vcount count, int part) {
  (void)part;
  return d_sub(d_bits_or(with_bits(count), 0x4330000000000000), d_set1(0x1p52));
}

/* 128 bits each, at two places. */
static inline __m256d load_halves(const storage *high, const storage *low) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(low)), _mm_loadu_pd(high), 1);
}
static inline void store_halves(storage *high, storage *low, __m256d a) {
  _mm_storeu_pd(low, _mm256_castpd256_pd128(a));
  _mm_storeu_pd(high, _mm256_extractf128_pd(a, 1));
}

enum { STRIP = 2 };
FSM_INLINE void v_load_strip(vec a[STRIP], const storage *p, ptrdiff_t stride) {
  vec even = load_halves(p + 2 * stride, p);
  vec odd = load_halves(p + 3 * stride, p + stride);
  a[0] = _mm256_unpacklo_pd(even, odd);
  a[1] = _mm256_unpackhi_pd(even, odd);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  store_halves(p + 2 * stride, p, _mm256_unpacklo_pd(a[0], a[1]));
  store_halves(p + 3 * stride, p + stride, _mm256_unpackhi_pd(a[0], a[1]));
}

FSM_INLINE void v_transpose(vec a[LANES]) {
  vec pair[LANES];
  for (int k = 0; k < 4; k += 2) {
    pair[k] = _mm256_unpacklo_pd(a[k], a[k + 1]);
    pair[k + 1] = _mm256_unpackhi_pd(a[k], a[k + 1]);
  }
  for (int k = 0; k < 2; k++) {
    a[k] = _mm256_permute2f128_pd(pair[k], pair[k + 2], 0x20);
    a[k + 2] = _mm256_permute2f128_pd(pair[k], pair[k + 2], 0x31);
  }
}

#endif

static inline size_t lowest_bit(uint64_t bits) {
  return (size_t)_mm_popcnt_u64((bits & (0 - bits)) - 1);
}
enum { STREAMS = 1 };
static inline void v_finish_streams(void) { _mm_sfence(); }
/* Always inlined: GCC 12 drops calls of functions that do nothing else. */
FSM_INLINE void v_fetch(const storage *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
FSM_INLINE void v_fetch_farther(const storage *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#endif
