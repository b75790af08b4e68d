/* Where real is double, the operations on vec are those on dvec, the lanes of double. */
#ifndef FSM_VEC_DOUBLE_H
#define FSM_VEC_DOUBLE_H

typedef double real;
#define FSM_REAL_DOUBLE
typedef dvec vec;
enum { LANES = DOUBLE_LANES, PARTS = 1 };

static inline vec v_set1(real a) { return d_set1(a); }
static inline vec v_load_real(const real *p) { return d_load(p); }
static inline void v_store_real(real *p, vec a) { d_store(p, a); }
static inline vec v_add(vec a, vec b) { return d_add(a, b); }
static inline vec v_sub(vec a, vec b) { return d_sub(a, b); }
static inline vec v_mul(vec a, vec b) { return d_mul(a, b); }
static inline vec v_mul_add(vec a, vec b, vec c) { return d_mul_add(a, b, c); }
static inline dvec v_part(vec a, int part) { return (void)part, a; }
static inline vec v_join(const dvec parts[PARTS]) { return parts[0]; }

#endif
