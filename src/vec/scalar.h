/* One lane in portable C: the vec operations where no instruction set is known, and the reference
 * for the others. float32 is computed in double, which needs no fused multiply-add to reduce its
 * range exactly. */
#ifndef FSM_VEC_SCALAR_H
#define FSM_VEC_SCALAR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef FSM_FLOAT32
typedef float storage;
#else
typedef double storage;
#endif
typedef double real;
#define FSM_REAL_DOUBLE
typedef double vec;
typedef int mask;
typedef int64_t vcount;

enum { LANES = 1 };

static inline vec v_set1(real a) { return a; }
static inline vec v_load(const storage *p) { return *p; }
static inline void v_store(storage *p, vec a) { *p = (storage)a; }
static inline vec v_load_part(const storage *p, size_t n, vec fill) { return n ? *p : fill; }
static inline void v_store_part(storage *p, size_t n, vec a) {
  if (n) *p = (storage)a;
}
static inline vec v_load_real(const real *p) { return *p; }
static inline void v_store_real(real *p, vec a) { *p = a; }

static inline vec v_add(vec a, vec b) { return a + b; }
static inline vec v_sub(vec a, vec b) { return a - b; }
static inline vec v_mul(vec a, vec b) { return a * b; }
static inline vec v_max(vec a, vec b) { return a > b ? a : b; }
/* a*b + c: v_fma rounds once, v_mul_add may round the product too. */
static inline vec v_mul_add(vec a, vec b, vec c) { return a * b + c; }
#ifdef FSM_FLOAT32
/* Rounding the product of a float below 2^14 and a rate errs by 2^-39 at most: no fusion needed. */
static inline vec v_fma(vec a, vec b, vec c) { return a * b + c; }
#else
static inline vec v_fma(vec a, vec b, vec c) { return fma(a, b, c); }
#endif

static inline vec v_shift_to_exponent(vec a) {
  uint64_t bits;
  memcpy(&bits, &a, sizeof bits);
  bits <<= 52;
  memcpy(&a, &bits, sizeof bits);
  return a;
}

static inline mask v_equal(vec a, vec b) { return a == b; }
static inline vec v_zero_where(mask m, vec a) { return m ? 0 : a; }
static inline vec v_select(mask m, vec a, vec b) { return m ? a : b; }
static inline mask v_load_mask(const unsigned char *p, size_t n) { return n && *p; }

static inline real v_first(vec a) { return a; }
static inline real v_reduce_max(vec a) { return a; }

static inline vcount v_count_zero(void) { return 0; }
static inline vcount v_count_add(vcount count, mask m) { return count + m; }
static inline double v_count_reduce(vcount count) { return (double)count; }
static inline void v_count_store(vcount count, double *p) { *p = (double)count; }

#endif
