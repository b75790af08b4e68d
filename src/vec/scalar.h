/* One lane in portable C: the vec operations where no instruction set is known, and the reference
 * for the others. float32 is computed in double, which needs no fused multiply-add to reduce its
 * range exactly. */
#ifndef FSM_VEC_SCALAR_H
#define FSM_VEC_SCALAR_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "inline.h"

/* Lanes of double. */
typedef double dvec;
enum { DOUBLE_LANES = 1 };

/* How many vectors to work on at a time. */
enum { BLOCK = 4 };

static inline dvec d_set1(double a) { return a; }
static inline dvec d_load(const double *p) { return *p; }
static inline void d_store(double *p, dvec a) { *p = a; }
static inline dvec d_add(dvec a, dvec b) { return a + b; }
static inline dvec d_sub(dvec a, dvec b) { return a - b; }
static inline dvec d_mul(dvec a, dvec b) { return a * b; }
static inline dvec d_div(dvec a, dvec b) { return a / b; }
static inline dvec d_fma(dvec a, dvec b, dvec c) { return fma(a, b, c); }
static inline dvec d_fms(dvec a, dvec b, dvec c) { return fma(a, b, -c); } /* a*b - c */
/* As d_fma, but the product may be rounded too. */
static inline dvec d_mul_add(dvec a, dvec b, dvec c) { return a * b + c; }

/* The sum of the lanes. */
static inline double d_reduce_add(dvec a) { return a; }

/* Bit patterns as unsigned integers. */
static inline uint64_t bits_of(double a) {
  uint64_t bits;
  memcpy(&bits, &a, sizeof bits);
  return bits;
}
static inline double with_bits(uint64_t bits) {
  double a;
  memcpy(&a, &bits, sizeof a);
  return a;
}
static inline dvec d_bits_add(dvec a, uint64_t b) { return with_bits(bits_of(a) + b); }
static inline dvec d_bits_sub(dvec a, dvec b) { return with_bits(bits_of(a) - bits_of(b)); }
static inline dvec d_bits_or(dvec a, uint64_t b) { return with_bits(bits_of(a) | b); }
static inline dvec d_bits_left(dvec a, int n) { return with_bits(bits_of(a) << n); }
static inline dvec d_bits_right(dvec a, int n) { return with_bits(bits_of(a) >> n); }

#include "vec/double.h"

/* Whether a term of softmax can be kept where its result will be. */
enum { KEEPS_TERMS = 1 };

#ifdef FSM_FLOAT32
typedef float storage;
/* Rounding the product of a float below 2^14 and a rate errs by 2^-39 at most: no fusion needed. */
static inline vec v_fma(vec a, vec b, vec c) { return a * b + c; }
#else
typedef double storage;
static inline vec v_fma(vec a, vec b, vec c) { return fma(a, b, c); }
#endif
typedef bool mask;
typedef int64_t vcount;

static inline vec v_load(const storage *p) { return *p; }
/* As many elements as there are lanes of double. */
static inline dvec d_load_storage(const storage *p) { return *p; }
static inline void v_store(storage *p, vec a) { *p = (storage)a; }
/* As a store and a load would leave it. */
static inline vec v_stored(vec a) { return (storage)a; }
static inline vec v_load_part(const storage *p, size_t n, vec fill) { return n ? *p : fill; }
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n) *p = (storage)a;
}

/* b where either is NaN. */
static inline vec v_max(vec a, vec b) { return a > b ? a : b; }

/* The low TABLE_BITS bits of `index` choose an entry. */
#define TABLE_BITS 4
static inline vec v_lookup(const uint64_t table[16], vec index) {
  return with_bits(table[bits_of(index) & 15]);
}
/* Move the integer above those bits to the exponent, and those to the top of the mantissa. */
static inline vec v_shift_to_exponent(vec a) { return d_bits_left(a, 52 - TABLE_BITS); }
static inline vec v_bits_add(vec a, vec b) { return with_bits(bits_of(a) + bits_of(b)); }

static inline mask v_equal(vec a, vec b) { return a == b; }
static inline mask v_less(vec a, vec b) { return a < b; }
/* Whether either is NaN. */
static inline mask v_unordered(vec a, vec b) { return a != a || b != b; }
static inline mask v_or(mask a, mask b) { return a || b; }
static inline vec v_zero_where(mask m, vec a) { return m ? 0 : a; }
static inline vec v_select(mask m, vec a, vec b) { return m ? a : b; }
/* Of the doubles that are part `part` of a vec. */
static inline dvec v_select_part(mask m, int part, dvec a, dvec b) { return (void)part, m ? a : b; }
static inline mask v_load_mask(const unsigned char *p, size_t n) { return n && *p; }
static inline bool v_all(mask m) { return m; }

/* Whether there are stores past the caches, to multiples of the vector's size. */
enum { STREAMS = 0 };
static inline void v_stream(storage *p, vec a) { *p = (storage)a; }
static inline void v_finish_streams(void) {}
/* Bring the line of an address, which need not be valid, into the second-level cache. */
static inline void v_fetch(const storage *p) { (void)p; }
static inline void v_fetch_farther(const storage *p) { (void)p; }

FSM_INLINE void v_transpose(vec a[LANES]) { (void)a; }

/* STRIP columns of LANES rows, which are `stride` apart: as many as shuffle fastest. The store
 * leaves a undefined. */
enum { STRIP = 1 };
FSM_INLINE void v_load_strip(vec a[STRIP], const storage *p, ptrdiff_t stride) {
  (void)stride;
  a[0] = *p;
}
FSM_INLINE void v_store_strip(storage *p, ptrdiff_t stride, vec a[STRIP]) {
  (void)stride;
  *p = (storage)a[0];
}

static inline real v_first(vec a) { return a; }
static inline real v_reduce_max(vec a) { return a; }

static inline vcount v_count_zero(void) { return 0; }
static inline vcount v_count_add(vcount count, mask m) { return count + m; }
/* A bit for each lane, and where the lowest bit is of those that are set. */
static inline uint64_t v_bits(mask m) { return m; }
static inline size_t lowest_bit(uint64_t bits) {
  size_t k = 0;
  while (!(bits >> k & 1)) k++;
  return k;
}
static inline size_t v_count_true(mask m) { return m; }
static inline dvec v_count_part(vcount count, int part) { return (void)part, (double)count; }

#endif
