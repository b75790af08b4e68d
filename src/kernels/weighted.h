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

/* Some elements; those without a weight are -inf. */
typedef struct {
  vec x, weight;
} weighted;

FSM_INLINE weighted weighted_of(vec x, vec weight) {
  return (weighted){v_select(v_equal(weight, v_set1(0)), v_set1(-(real)INFINITY), x), weight};
}

FSM_INLINE weighted weighted_load(const slice *s, size_t i, size_t width) {
  return weighted_of(line_load(&s->x, i, width, false), load_or_0(s->other, i, width));
}

/* What the elements are like, in each lane. */
typedef struct {
  vec max;
  vec most, minus_least; /* weights that are not 0, without their signs */
  mask nan;
} survey;

FSM_INLINE survey begin_survey(void) {
  mask none = v_unordered(v_set1(0), v_set1(0));
  return (survey){v_set1(-(real)INFINITY), v_set1(1), v_set1(-1), none};
}

FSM_INLINE void survey_add(survey *v, weighted e) {
  vec minus = v_sub(v_set1(0), e.weight), magnitude = v_max(minus, e.weight);
  vec least = v_select(v_equal(e.weight, v_set1(0)), v_set1(1), magnitude);
  v->nan = v_or(v->nan, v_unordered(e.x, e.weight));
  v->max = v_max(e.x, v->max);
  v->most = v_max(magnitude, v->most);
  v->minus_least = v_max(v_sub(v_set1(0), least), v->minus_least);
}

/* Whether a slice is left to the caller, for an infinity, NaN or a weight that is none of those
 * above. */
static inline bool is_left(real max, real most, real minus_least, bool has_nan) {
  bool is_moderate = most <= (real)MOST_WEIGHT && minus_least <= -(real)LEAST_WEIGHT;
  return has_nan || !is_moderate || max > REAL_MAX;
}

/* Sums of the weights of the largest elements, and of the weighted terms of the others. */
typedef struct {
  wide ties, rest;
} weighted_sum;

FSM_INLINE void add_weighted(weighted_sum *sum, const weighted *e, const exp_frame *f, vec max,
                             const size_t count) {
  vec shifted[BLOCK];
  exp_term term[BLOCK];
  for (size_t k = 0; k < count; k++) shifted[k] = v_sub(e[k].x, f->origin);
  exp_terms(term, shifted, f, count);
  for (size_t k = 0; k < count; k++) {
    mask tie = v_equal(e[k].x, max);
    vec value = v_zero_where(tie, v_sub(exp_term_value(&term[k]), f->floor_term));
    sum->rest = wide_add_products(sum->rest, widen(value), widen(e[k].weight));
    sum->ties = wide_add_doubles(sum->ties, widen(v_select(tie, e[k].weight, v_set1(0))));
  }
}

/* log|hi + lo| */
static double log_of_magnitude(double hi, double lo) {
  double sum = hi + lo, rest = (hi - sum) + lo;
  if (sum < 0) rest = -rest;
  sum = fabs(sum);
  return sum > 0.5 && sum < 2 ? log1p((sum - 1) + rest) : log(sum);
}

/* A slice's sums and largest term, as hi + lo. */
typedef struct {
  double ties[2], rest[2], largest[2];
} weighted_sums;

static void finish_weighted(const slice *s, real max, const weighted_sums *n) {
  double total[2] = {n->ties[0], n->ties[1]};
  double ratio = n->rest[0] / n->largest[0];
  double left = fma(-ratio, n->largest[0], n->rest[0]) + fma(-ratio, n->largest[1], n->rest[1]);
  add_to_pair(&total[0], &total[1], ratio, left / n->largest[0]);
  double sum = total[0] + total[1];
  *result_of(s) = (storage)((double)max + log_of_magnitude(total[0], total[1]));
  *index_of(s) = (sum > 0) - (sum < 0);
}

/* One that has no sum, or is left to the caller. */
static void leave_weighted(const slice *s, bool left) {
  *result_of(s) = -(storage)INFINITY;
  *index_of(s) = left ? FSM_UNKNOWN_SIGN : 0;
}

FSM_APART void weighted_row(const slice *s) {
  size_t i = 0, length = s->x.length;
  survey v = begin_survey();
  for (; i + LANES <= length; i += LANES) survey_add(&v, weighted_load(s, i, LANES));
  if (i < length) survey_add(&v, weighted_load(s, i, length - i));
  real maximum = v_reduce_max(v.max);
  bool left =
      is_left(maximum, v_reduce_max(v.most), v_reduce_max(v.minus_least), v_count_true(v.nan) > 0);
  if (left || maximum < -REAL_MAX) {
    leave_weighted(s, left);
    return;
  }
  vec max = v_set1(maximum);
  tempering t = untempered();
  exp_frame f = frame_of(max, &t);
  weighted_sum sum = {wide_zero(), wide_zero()};
  for (i = 0; i + ROW_BLOCK * LANES <= length; i += ROW_BLOCK * LANES) {
    weighted e[ROW_BLOCK];
    for (size_t k = 0; k < ROW_BLOCK; k++) e[k] = weighted_load(s, i + k * LANES, LANES);
    add_weighted(&sum, e, &f, max, ROW_BLOCK);
  }
  for (; i < length; i += LANES) {
    weighted e = weighted_load(s, i, length - i < LANES ? length - i : LANES);
    add_weighted(&sum, &e, &f, max, 1);
  }
  weighted_sums n;
  double hi[LANES], lo[LANES];
  wide_total(sum.ties, n.ties);
  wide_total(sum.rest, n.rest);
  wide_store(largest_term(max, &f), hi, lo);
  n.largest[0] = hi[0];
  n.largest[1] = lo[0];
  finish_weighted(s, maximum, &n);
}

/* Short rows from `outer` on, LANES at most: returns how many. */
static size_t weighted_batch(const fsm_call *c, size_t outer) {
  const batch_kind any = {.full = false};
  fsm_slices s = {.outer = c->outer, .length = c->length};
  batch x, weight;
  s.x = c->x.data;
  s.x_outer = x.stride = c->x.outer;
  batch_begin(&x, &s, outer, any);
  s.x = c->other.data;
  s.x_outer = weight.stride = c->other.outer;
  batch_begin(&weight, &s, outer, any);
  weighted e[MOST_COLUMNS];
  survey v = begin_survey();
  for (size_t i = 0; i < c->length; i++) {
    e[i] = weighted_of(v_load_real(x.columns[i]), v_load_real(weight.columns[i]));
    survey_add(&v, e[i]);
  }
  tempering t = untempered();
  exp_frame f = frame_of(finite_or_0(v.max), &t);
  weighted_sum sum = {wide_zero(), wide_zero()};
  size_t i = 0;
  for (; i + COLUMNS_AT_ONCE <= c->length; i += COLUMNS_AT_ONCE)
    add_weighted(&sum, e + i, &f, v.max, COLUMNS_AT_ONCE);
  for (; i < c->length; i++) add_weighted(&sum, e + i, &f, v.max, 1);
  real max[LANES], most[LANES], minus_least[LANES];
  double ties[2][LANES], rest[2][LANES], largest[2][LANES];
  v_store_real(max, v.max);
  v_store_real(most, v.most);
  v_store_real(minus_least, v.minus_least);
  wide_store(sum.ties, ties[0], ties[1]);
  wide_store(sum.rest, rest[0], rest[1]);
  wide_store(largest_term(finite_or_0(v.max), &f), largest[0], largest[1]);
  for (size_t k = 0; k < x.count; k++) {
    slice row = slice_of(c, outer + k);
    bool left = is_left(max[k], most[k], minus_least[k], v_bits(v.nan) >> k & 1);
    weighted_sums n = {{ties[0][k], ties[1][k]},
                       {rest[0][k], rest[1][k]},
                       {largest[0][k], largest[1][k]}};
    if (left || max[k] < -REAL_MAX)
      leave_weighted(&row, left);
    else
      finish_weighted(&row, max[k], &n);
  }
  return x.count;
}

static void weighted_rows(const fsm_call *c) {
  if (is_short(c->length, c->outer)) {
    for (size_t outer = 0; outer < c->outer;) outer += weighted_batch(c, outer);
    return;
  }
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    weighted_row(&s);
  }
}

static void weighted_logsumexp(const fsm_call *c) { as_rows(c, weighted_rows); }

#endif
