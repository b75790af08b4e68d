/* 16 floats or 8 doubles in a register: AVX-512 F, DQ, BW and VL. The operations are those of
 * vec/scalar.h. */
#ifndef FSM_VEC_AVX512_H
#define FSM_VEC_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

typedef __m512d dvec;
enum { DOUBLE_LANES = 8 };

/* How many vectors to work on at a time: a power of two, as many as the registers hold. */
enum { BLOCK = 8 };

static inline dvec d_set1(double a) { return _mm512_set1_pd(a); }
static inline dvec d_load(const double *p) { return _mm512_loadu_pd(p); }
static inline void d_store(double *p, dvec a) { _mm512_storeu_pd(p, a); }
static inline dvec d_add(dvec a, dvec b) { return _mm512_add_pd(a, b); }
static inline dvec d_sub(dvec a, dvec b) { return _mm512_sub_pd(a, b); }
static inline dvec d_mul(dvec a, dvec b) { return _mm512_mul_pd(a, b); }
static inline dvec d_div(dvec a, dvec b) { return _mm512_div_pd(a, b); }
static inline dvec d_fma(dvec a, dvec b, dvec c) { return _mm512_fmadd_pd(a, b, c); }
static inline dvec d_fms(dvec a, dvec b, dvec c) { return _mm512_fmsub_pd(a, b, c); } /* a*b - c */
static inline dvec d_mul_add(dvec a, dvec b, dvec c) { return _mm512_fmadd_pd(a, b, c); }
static inline double d_reduce_add(dvec a) { return _mm512_reduce_add_pd(a); }

static inline __m512i bits_of(dvec a) { return _mm512_castpd_si512(a); }
static inline dvec with_bits(__m512i bits) { return _mm512_castsi512_pd(bits); }
static inline __m512i bits_set1(uint64_t b) { return _mm512_set1_epi64((long long)b); }
static inline dvec d_bits_add(dvec a, uint64_t b) {
  return with_bits(_mm512_add_epi64(bits_of(a), bits_set1(b)));
}
static inline dvec d_bits_sub(dvec a, dvec b) {
  return with_bits(_mm512_sub_epi64(bits_of(a), bits_of(b)));
}
static inline dvec d_bits_or(dvec a, uint64_t b) {
  return with_bits(_mm512_or_si512(bits_of(a), bits_set1(b)));
}
static inline dvec d_bits_left(dvec a, unsigned n) {
  return with_bits(_mm512_slli_epi64(bits_of(a), n));
}
static inline dvec d_bits_right(dvec a, unsigned n) {
  return with_bits(_mm512_srli_epi64(bits_of(a), n));
}

#ifndef FSM_FLOAT64

typedef float real;
typedef __m512 vec;
typedef __mmask16 mask;
typedef __m512i vcount;

enum { LANES = 16, PARTS = 2 };

static inline mask lanes_below(size_t n) { return (mask)((1u << n) - 1); }

static inline vec v_set1(real a) { return _mm512_set1_ps(a); }
static inline vec v_load_real(const real *p) { return _mm512_loadu_ps(p); }
static inline void v_store_real(real *p, vec a) { _mm512_storeu_ps(p, a); }

#if defined FSM_FLOAT32

typedef float storage;
enum { KEEPS_TERMS = 1 };

static inline vec v_load(const storage *p) { return _mm512_loadu_ps(p); }
static inline dvec d_load_storage(const storage *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
static inline void v_store(storage *p, vec a) { _mm512_storeu_ps(p, a); }
static inline vec v_stored(vec a) { return a; }
static inline void v_stream(storage *p, vec a) { _mm512_stream_ps(p, a); }
/* A load that merges is several times as slow on AMD Zen 4 as one that clears and a blend. */
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  return _mm512_mask_mov_ps(fill, lanes_below(n), _mm512_maskz_loadu_ps(lanes_below(n), p));
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  _mm512_mask_storeu_ps(p, lanes_below(n), a);
}

#else /* 16 bits, float while they are worked on */

typedef uint16_t storage;
enum { KEEPS_TERMS = 0 };

#if defined FSM_FLOAT16
static inline vec widened(__m256i a) { return _mm512_cvtph_ps(a); }
static inline __m256i narrowed(vec a) {
  return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else /* FSM_BFLOAT16: the upper half of a float */
static inline vec widened(__m256i a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
/* To nearest, ties to even; a NaN stays one. */
static inline __m256i narrowed(vec a) {
  __m512i bits = _mm512_castps_si512(a), upper = _mm512_srli_epi32(bits, 16);
  __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  __m512i nearest = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  mask is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_or_epi32(nearest, is_nan, upper, _mm512_set1_epi32(0x40)));
}
#endif

static inline vec v_load(const storage *p) {
  return widened(_mm256_loadu_si256((const __m256i *)p));
}
static inline void v_store(storage *p, vec a) { _mm256_storeu_si256((__m256i *)p, narrowed(a)); }
static inline vec v_stored(vec a) { return a; }
static inline void v_stream(storage *p, vec a) { v_store(p, a); }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  vec a = widened(_mm256_maskz_loadu_epi16(lanes_below(n), p));
  return _mm512_mask_mov_ps(fill, lanes_below(n), a);
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  _mm256_mask_storeu_epi16(p, lanes_below(n), narrowed(a));
}

#endif

static inline vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec v_mul_add(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }

#define TABLE_BITS 4
static inline vec v_lookup(const uint32_t table[16], vec index) {
  return _mm512_permutexvar_ps(_mm512_castps_si512(index), _mm512_loadu_ps(table));
}
static inline vec v_shift_to_exponent(vec a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23 - TABLE_BITS));
}
static inline vec v_bits_add(vec a, vec b) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline mask v_equal(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline mask v_less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline mask v_unordered(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
static inline mask v_or(mask a, mask b) { return (mask)(a | b); }
static inline vec v_zero_where(mask m, vec a) { return _mm512_maskz_mov_ps((mask)~m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm512_mask_mov_ps(b, m, a); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  return _mm512_mask_mov_pd(b, (__mmask8)(m >> part * DOUBLE_LANES), a);
}
static inline bool v_all(mask m) { return m == 0xffff; }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  __m128i bytes = _mm_maskz_loadu_epi8(lanes_below(n), p);
  return _mm_test_epi8_mask(bytes, bytes);
}

static inline real v_first(vec a) { return _mm512_cvtss_f32(a); }
static inline real v_reduce_max(vec a) {
  __m256 m = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_max_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
}

static inline dvec v_part(vec a, int part) {
  return _mm512_cvtps_pd(part ? _mm512_extractf32x8_ps(a, 1) : _mm512_castps512_ps256(a));
}
static inline vec v_join(const dvec parts[PARTS]) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(parts[0])),
                            _mm512_cvtpd_ps(parts[1]), 1);
}

static inline vcount v_count_zero(void) { return _mm512_setzero_si512(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm512_mask_add_epi32(count, m, count, _mm512_set1_epi32(1));
}
static inline uint64_t v_bits(mask m) { return m; }
static inline size_t v_count_true(mask m) { return (size_t)_mm_popcnt_u32(m); }
static inline dvec v_count_part(vcount count, int part) {
  return _mm512_cvtepu32_pd(part ? _mm512_extracti32x8_epi32(count, 1)
                                 : _mm512_castsi512_si256(count));
}

/* The transposes of four vectors' quarters, in place. */
FSM_INLINE void transpose_quarters(vec a[4]) {
  vec pair[4];
  for (int k = 0; k < 4; k += 2) {
    pair[k] = _mm512_unpacklo_ps(a[k], a[k + 1]);
    pair[k + 1] = _mm512_unpackhi_ps(a[k], a[k + 1]);
  }
  for (int i = 0; i < 2; i++) {
    a[2 * i] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0x44);
    a[2 * i + 1] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0xee);
  }
}

/* The transpose of LANES vectors, in place. */
FSM_INLINE void v_transpose(vec a[LANES]) {
  vec half[LANES];
  for (int k = 0; k < 16; k += 4) transpose_quarters(a + k);
  for (int k = 0; k < 16; k += 8)
    for (int i = 0; i < 4; i++) {
      half[k + i] = _mm512_shuffle_f32x4(a[k + i], a[k + i + 4], 0x88);
      half[k + i + 4] = _mm512_shuffle_f32x4(a[k + i], a[k + i + 4], 0xdd);
    }
  for (int i = 0; i < 8; i++) {
    a[i] = _mm512_shuffle_f32x4(half[i], half[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_f32x4(half[i], half[i + 8], 0xdd);
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
  for (int k = 0; k < 4; k++) {
    const storage *low = p + k * stride, *high = low + 8 * stride;
    __m256 half = load_halves(high + 4 * stride, high);
    a[k] = _mm512_castps256_ps512(load_halves(low + 4 * stride, low));
    a[k] = _mm512_insertf32x8(a[k], half, 1);
  }
  transpose_quarters(a);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  transpose_quarters(a);
  for (int k = 0; k < 4; k++) {
    storage *low = p + k * stride, *high = low + 8 * stride;
    store_halves(low + 4 * stride, low, _mm512_castps512_ps256(a[k]));
    store_halves(high + 4 * stride, high, _mm512_extractf32x8_ps(a[k], 1));
  }
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
typedef __mmask8 mask;
typedef __m512i vcount;

static inline mask lanes_below(size_t n) { return (mask)((1u << n) - 1); }

static inline vec v_load(const storage *p) { return _mm512_loadu_pd(p); }
static inline dvec d_load_storage(const storage *p) { return d_load(p); }
static inline void v_store(storage *p, vec a) { _mm512_storeu_pd(p, a); }
static inline vec v_stored(vec a) { return a; }
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  return _mm512_mask_mov_pd(fill, lanes_below(n), _mm512_maskz_loadu_pd(lanes_below(n), p));
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  _mm512_mask_storeu_pd(p, lanes_below(n), a);
}

static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_pd(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm512_max_pd(a, b); }

#define TABLE_BITS 4
static inline vec v_lookup(const uint64_t table[16], vec index) {
  return _mm512_permutex2var_pd(_mm512_loadu_pd(table), bits_of(index), _mm512_loadu_pd(table + 8));
}
static inline vec v_shift_to_exponent(vec a) { return d_bits_left(a, 52 - TABLE_BITS); }
static inline vec v_bits_add(vec a, vec b) {
  return with_bits(_mm512_add_epi64(bits_of(a), bits_of(b)));
}

static inline mask v_equal(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
static inline mask v_less(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
static inline mask v_unordered(vec a, vec b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
static inline mask v_or(mask a, mask b) { return (mask)(a | b); }
static inline vec v_zero_where(mask m, vec a) { return _mm512_maskz_mov_pd((mask)~m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm512_mask_mov_pd(b, m, a); }
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) {
  return (void)part, v_select(m, a, b);
}
static inline bool v_all(mask m) { return m == 0xff; }
static inline void v_stream(storage *p, vec a) { _mm512_stream_pd(p, a); }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  __m128i bytes = _mm_maskz_loadu_epi8(lanes_below(n), p);
  return (mask)_mm_test_epi8_mask(bytes, bytes);
}

static inline real v_first(vec a) { return _mm512_cvtsd_f64(a); }
static inline real v_reduce_max(vec a) {
  __m256d m = _mm256_max_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
  __m128d n = _mm_max_pd(_mm256_castpd256_pd128(m), _mm256_extractf128_pd(m, 1));
  return _mm_cvtsd_f64(_mm_max_sd(n, _mm_unpackhi_pd(n, n)));
}

static inline vcount v_count_zero(void) { return _mm512_setzero_si512(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm512_mask_add_epi64(count, m, count, _mm512_set1_epi64(1));
}
static inline uint64_t v_bits(mask m) { return m; }
static inline size_t v_count_true(mask m) { return (size_t)_mm_popcnt_u32(m); }
static inline dvec v_count_part(vcount count, int part) {
  return (void)part, _mm512_cvtepi64_pd(count);
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
  vec rows[2];
  for (int k = 0; k < 2; k++) {
    const storage *low = p + k * stride, *high = low + 4 * stride;
    __m256d half = load_halves(high + 2 * stride, high);
    rows[k] = _mm512_castpd256_pd512(load_halves(low + 2 * stride, low));
    rows[k] = _mm512_insertf64x4(rows[k], half, 1);
  }
  a[0] = _mm512_unpacklo_pd(rows[0], rows[1]);
  a[1] = _mm512_unpackhi_pd(rows[0], rows[1]);
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  vec rows[2] = {_mm512_unpacklo_pd(a[0], a[1]), _mm512_unpackhi_pd(a[0], a[1])};
  for (int k = 0; k < 2; k++) {
    storage *low = p + k * stride, *high = low + 4 * stride;
    store_halves(low + 2 * stride, low, _mm512_castpd512_pd256(rows[k]));
    store_halves(high + 2 * stride, high, _mm512_extractf64x4_pd(rows[k], 1));
  }
}

FSM_INLINE void v_transpose(vec a[LANES]) {
  vec pair[LANES], half[LANES];
  for (int k = 0; k < 8; k += 2) {
    pair[k] = _mm512_unpacklo_pd(a[k], a[k + 1]);
    pair[k + 1] = _mm512_unpackhi_pd(a[k], a[k + 1]);
  }
  for (int k = 0; k < 8; k += 4)
    for (int i = 0; i < 2; i++) {
      half[k + i] = _mm512_shuffle_f64x2(pair[k + i], pair[k + i + 2], 0x88);
      half[k + i + 2] = _mm512_shuffle_f64x2(pair[k + i], pair[k + i + 2], 0xdd);
    }
  for (int i = 0; i < 4; i++) {
    a[i] = _mm512_shuffle_f64x2(half[i], half[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_f64x2(half[i], half[i + 4], 0xdd);
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
