/* 8 floats or 4 doubles in a register: AVX2 with FMA. The operations are those of vec/scalar.h. */
#ifndef FSM_VEC_AVX2_H
#define FSM_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#ifdef FSM_FLOAT32

typedef float storage;
typedef float real;
typedef __m256 vec;
typedef __m256 mask; /* all ones or all zeros in each lane */
typedef __m256i vcount;

enum { LANES = 8 };

static inline vec v_set1(real a) { return _mm256_set1_ps(a); }
static inline vec v_load(const storage *p) { return _mm256_loadu_ps(p); }
static inline void v_store(storage *p, vec a) { _mm256_storeu_ps(p, a); }

/* Lanes below n, for n in 0..8: a window into eight set and eight clear words. */
static inline __m256i lanes_below(size_t n) {
  static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  __m256i valid = lanes_below(n);
  return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, valid), _mm256_castsi256_ps(valid));
}
/* In pieces of 4, 2 and 1: a masked store costs tens of cycles on several AMD processors. */
static inline void v_store_part(storage *p, size_t n, vec a) {
  __m128 rest = _mm256_castps256_ps128(a);
  if (n & 8) {
    _mm256_storeu_ps(p, a);
    return;
  }
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
static inline vec v_load_real(const real *p) { return _mm256_loadu_ps(p); }
static inline void v_store_real(real *p, vec a) { _mm256_storeu_ps(p, a); }

static inline vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec v_mul_add(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }

static inline vec v_shift_to_exponent(vec a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}

static inline mask v_equal(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline vec v_zero_where(mask m, vec a) { return _mm256_andnot_ps(m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm256_blendv_ps(b, a, m); }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  uint64_t bytes = 0;
  __builtin_memcpy(&bytes, p, n);
  __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(wide, _mm256_setzero_si256()));
}

static inline real v_first(vec a) { return _mm256_cvtss_f32(a); }
static inline real v_reduce_max(vec a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline vcount v_count_zero(void) { return _mm256_setzero_si256(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm256_sub_epi32(count, _mm256_castps_si256(m));
}
static inline double v_count_reduce(vcount count) {
  __m128i c = _mm_add_epi32(_mm256_castsi256_si128(count), _mm256_extracti128_si256(count, 1));
  c = _mm_add_epi32(c, _mm_unpackhi_epi64(c, c));
  return (double)(uint32_t)_mm_cvtsi128_si32(c) + (double)(uint32_t)_mm_extract_epi32(c, 1);
}
static inline void v_count_store(vcount count, double *p) {
  uint32_t values[8];
  _mm256_storeu_si256((__m256i *)values, count);
  for (int k = 0; k < 8; k++) p[k] = values[k];
}

/* The lanes of a vec as doubles, in two halves. */
typedef __m256d half;
static inline half v_low_half(vec a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
static inline half v_high_half(vec a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
static inline half half_zero(void) { return _mm256_setzero_pd(); }
static inline half half_add(half a, half b) { return _mm256_add_pd(a, b); }
static inline void half_store(double *p, half a) { _mm256_storeu_pd(p, a); }

#else /* FSM_FLOAT64 */

typedef double storage;
typedef double real;
#define FSM_REAL_DOUBLE
typedef __m256d vec;
typedef __m256d mask;
typedef __m256i vcount;

enum { LANES = 4 };

static inline vec v_set1(real a) { return _mm256_set1_pd(a); }
static inline vec v_load(const storage *p) { return _mm256_loadu_pd(p); }
static inline void v_store(storage *p, vec a) { _mm256_storeu_pd(p, a); }

static inline __m256i lanes_below(size_t n) {
  static const int64_t window[8] = {-1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(window + 4 - n));
}
static inline vec v_load_part(const storage *p, size_t n, vec fill) {
  __m256i valid = lanes_below(n);
  return _mm256_blendv_pd(fill, _mm256_maskload_pd(p, valid), _mm256_castsi256_pd(valid));
}
static inline void v_store_part(storage *p, size_t n, vec a) {
  __m128d rest = _mm256_castpd256_pd128(a);
  if (n & 4) {
    _mm256_storeu_pd(p, a);
    return;
  }
  if (n & 2) {
    _mm_storeu_pd(p, rest);
    rest = _mm256_extractf128_pd(a, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, rest);
}
static inline vec v_load_real(const real *p) { return _mm256_loadu_pd(p); }
static inline void v_store_real(real *p, vec a) { _mm256_storeu_pd(p, a); }

static inline vec v_add(vec a, vec b) { return _mm256_add_pd(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_pd(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_pd(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
static inline vec v_mul_add(vec a, vec b, vec c) { return _mm256_fmadd_pd(a, b, c); }
static inline vec v_max(vec a, vec b) { return _mm256_max_pd(a, b); }

static inline vec v_shift_to_exponent(vec a) {
  return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), 52));
}

static inline mask v_equal(vec a, vec b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
static inline vec v_zero_where(mask m, vec a) { return _mm256_andnot_pd(m, a); }
static inline vec v_select(mask m, vec a, vec b) { return _mm256_blendv_pd(b, a, m); }
static inline mask v_load_mask(const unsigned char *p, size_t n) {
  uint32_t bytes = 0;
  __builtin_memcpy(&bytes, p, n);
  __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128((int)bytes));
  return _mm256_castsi256_pd(_mm256_cmpgt_epi64(wide, _mm256_setzero_si256()));
}

static inline real v_first(vec a) { return _mm256_cvtsd_f64(a); }
static inline real v_reduce_max(vec a) {
  __m128d m = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
  return _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)));
}

static inline vcount v_count_zero(void) { return _mm256_setzero_si256(); }
static inline vcount v_count_add(vcount count, mask m) {
  return _mm256_sub_epi64(count, _mm256_castpd_si256(m));
}
static inline double v_count_reduce(vcount count) {
  __m128i c = _mm_add_epi64(_mm256_castsi256_si128(count), _mm256_extracti128_si256(count, 1));
  return (double)(_mm_cvtsi128_si64(c) + _mm_extract_epi64(c, 1));
}
static inline void v_count_store(vcount count, double *p) {
  int64_t values[4];
  _mm256_storeu_si256((__m256i *)values, count);
  for (int k = 0; k < 4; k++) p[k] = (double)values[k];
}

#endif
#endif
