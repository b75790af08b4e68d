/* Log-sum-exp with weights: the logarithm of the magnitude of sum(weight exp(x)), and its sign.
 *
 * Two passes: one for the largest x whose weight is not 0, and one for the sum, of which the
 * weights of the largest are a part of their own, as ties are without weights. Memory touched per
 * element: four reads, two of them from cache for rows that fit one. */
#ifndef FSM_KERNELS_WEIGHTED_H
#define FSM_KERNELS_WEIGHTED_H

/* What weighs no more and no less may stand beside terms that count for nothing (FLOOR), which
 * then still do. */
#define MOST_WEIGHT 0x1p40
#define LEAST_WEIGHT 0x1p-40

typedef struct {
  vec x, weight; /* -inf where the latter is 0 */
} weighted;

FSM_INLINE weighted weighted_load(const slice *s, size_t i, size_t width) {
  vec x = line_load(&s->x, i, width, false), weight = load_or_0(s->other, i, width);
  return (weighted){v_select(v_equal(weight, v_set1(0)), v_set1(-(real)INFINITY), x), weight};
}

/* What a row's elements are like, in some lane. */
typedef struct {
  vec max;
  vec most, minus_least; /* weights that are not 0, without their signs */
  mask nan;
} survey;

FSM_INLINE void survey_vector(survey *v, const slice *s, size_t i, size_t width) {
  weighted e = weighted_load(s, i, width);
  vec minus = v_sub(v_set1(0), e.weight), magnitude = v_max(minus, e.weight);
  v->nan = v_or(v->nan, v_unordered(e.x, e.weight));
  v->max = v_max(e.x, v->max);
  v->most = v_max(magnitude, v->most);
  vec least = v_select(v_equal(e.weight, v_set1(0)), v_set1(1), magnitude);
  v->minus_least = v_max(v_sub(v_set1(0), least), v->minus_least);
}

/* The largest x that has a weight; NaN for a row that is left to the caller, because of an infinity,
 * NaN or a weight that is none of those above. */
static real weighted_max(const slice *s) {
  size_t i = 0, length = s->x.length;
  survey v = {v_set1(-(real)INFINITY), v_set1(1), v_set1(-1), v_unordered(v_set1(0), v_set1(0))};
  for (; i + LANES <= length; i += LANES) survey_vector(&v, s, i, LANES);
  if (i < length) survey_vector(&v, s, i, length - i);
  bool is_moderate = v_reduce_max(v.most) <= (real)MOST_WEIGHT &&
                     v_reduce_max(v.minus_least) <= -(real)LEAST_WEIGHT;
  real max = v_reduce_max(v.max);
  return v_bits(v.nan) || !is_moderate || max > REAL_MAX ? (real)NAN : max;
}

/* Sums of weights, those of the largest elements, and of weighted terms, those of the others. */
typedef struct {
  wide ties, rest;
} weighted_sum;

/* Add `count` vectors from i on, of `width` elements each. */
FSM_INLINE void add_weighted(weighted_sum *sum, const slice *s, const exp_frame *f, vec max,
                             size_t i, const size_t count, size_t width) {
  weighted e[ROW_BLOCK];
  vec shifted[ROW_BLOCK];
  exp_term term[ROW_BLOCK];
  for (size_t k = 0; k < count; k++) {
    e[k] = weighted_load(s, i + k * LANES, width);
    shifted[k] = v_sub(e[k].x, f->origin);
  }
  exp_terms(term, shifted, f, count);
  for (size_t k = 0; k < count; k++) {
    mask tie = v_equal(e[k].x, max);
    vec value = v_zero_where(tie, v_sub(exp_term_value(&term[k]), f->floor_term));
    doubles weights = wide_load_or_0(s->other, i + k * LANES, width);
    sum->rest = wide_add_products(sum->rest, widen(value), weights);
    sum->ties = wide_add_doubles(sum->ties, widen(v_select(tie, e[k].weight, v_set1(0))));
  }
}

/* sum(weight exp(x - max)), as hi + lo. */
static void sum_of_weighted(const slice *s, real maximum, double total[2]) {
  enum { STEP = ROW_BLOCK * LANES };
  size_t i = 0, length = s->x.length;
  vec max = v_set1(maximum);
  tempering t = untempered();
  exp_frame f = frame_of(max, &t);
  weighted_sum sum = {wide_zero(), wide_zero()};
  for (; i + STEP <= length; i += STEP) add_weighted(&sum, s, &f, max, i, ROW_BLOCK, LANES);
  for (; i + LANES <= length; i += LANES) add_weighted(&sum, s, &f, max, i, 1, LANES);
  if (i < length) add_weighted(&sum, s, &f, max, i, 1, length - i);
  double rest[2], hi[LANES], lo[LANES];
  wide_total(sum.ties, total);
  wide_total(sum.rest, rest);
  wide_store(largest_term(max, &f), hi, lo);
  double ratio = rest[0] / hi[0];
  double left = fma(-ratio, hi[0], rest[0]) + fma(-ratio, lo[0], rest[1]);
  add_to_pair(&total[0], &total[1], ratio, left / hi[0]);
}

/* log|hi + lo| */
static double log_of_magnitude(double hi, double lo) {
  double sum = hi + lo, rest = (hi - sum) + lo;
  if (sum < 0) rest = -rest;
  sum = fabs(sum);
  return sum > 0.5 && sum < 2 ? log1p((sum - 1) + rest) : log(sum);
}

FSM_APART void weighted_slice(const slice *s) {
  real max = weighted_max(s);
  double total[2] = {0, 0}, log = 0;
  if (max >= -REAL_MAX) {
    sum_of_weighted(s, max, total);
    log = log_of_magnitude(total[0], total[1]);
  }
  double sum = total[0] + total[1];
  *result_of(s) = (storage)(max + log);
  *index_of(s) = max != max ? FSM_UNKNOWN_SIGN : (sum > 0) - (sum < 0);
}

static void weighted_rows(const fsm_call *c) {
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    weighted_slice(&s);
  }
}

static void weighted_logsumexp(const fsm_call *c) { as_rows(c, weighted_rows); }

#endif
