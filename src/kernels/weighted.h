/* Log-sum-exp with weights: the logarithm of the magnitude of sum(weight exp(x)), and its sign.
 *
 * Two passes: one for the largest x whose weight is not 0, and one for the sum, of which the
 * weights of the largest are a part of their own, as ties are without weights. Memory touched per
 * element: four reads, two of them from cache for rows that fit one. */
#ifndef FSM_KERNELS_WEIGHTED_H
#define FSM_KERNELS_WEIGHTED_H

/* A slice whose largest weight lies beyond these, as only a double does, is left to the caller. */
#define LEAST_OF_LARGEST 0x1p-400
#define MOST_OF_LARGEST 0x1p400

/* So is one whose sum is a smaller part of that weight: only beside such a one might it matter what
 * counts for nothing (FLOOR), however it weighs. */
#define LEAST_SUM 0x1p-80

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
  vec highest, minus_lowest; /* of the weights and 0 */
  mask nan;
} survey;

FSM_INLINE survey begin_survey(void) {
  mask none = v_unordered(v_set1(0), v_set1(0));
  return (survey){v_set1(-(real)INFINITY), v_set1(0), v_set1(0), none};
}

FSM_INLINE void survey_add(survey *v, weighted e) {
  v->nan = v_or(v->nan, v_unordered(e.x, e.weight));
  v->max = v_max(e.x, v->max);
  v->highest = v_max(e.weight, v->highest);
  v->minus_lowest = v_max(v_sub(v_set1(0), e.weight), v->minus_lowest);
}

/* The same of all lanes, in every lane. */
FSM_INLINE survey survey_reduce(const survey *v) {
  vec nan = v_set1(v_count_true(v->nan) ? (real)NAN : 0);
  return (survey){v_set1(v_reduce_max(v->max)), v_set1(v_reduce_max(v->highest)),
                  v_set1(v_reduce_max(v->minus_lowest)), v_unordered(nan, nan)};
}

/* Whether a slice that has a sum of terms other than 0 is left to the caller. So is one of floats
 * whose weights have both signs: they may cancel, to what only doubles hold. */
static inline bool is_left(real max, double highest, double minus_lowest, bool has_nan,
                           double sum) {
  double largest = highest > minus_lowest ? highest : minus_lowest;
  bool may_cancel = PARTS > 1 && highest > 0 && minus_lowest > 0;
  bool is_moderate = largest >= LEAST_OF_LARGEST && largest <= MOST_OF_LARGEST;
  bool is_there = fabs(sum) >= largest * LEAST_SUM;
  return has_nan || max > REAL_MAX || may_cancel || !is_moderate || !is_there;
}

/* Sums of the weights of the largest elements, and of the weighted terms of the others. */
typedef struct {
  wide ties, rest;
} weighted_sum;

FSM_INLINE void add_weighted(weighted_sum *sum, const weighted *e, const exp_frame *f, vec floor,
                             vec max, const size_t count) {
  vec shifted[BLOCK];
  exp_term term[BLOCK];
  for (size_t k = 0; k < count; k++) shifted[k] = v_sub(e[k].x, f->origin);
  exp_terms(term, shifted, f, count);
  for (size_t k = 0; k < count; k++) {
    mask tie = v_equal(e[k].x, max);
    vec value = v_zero_where(tie, v_sub(exp_term_value(&term[k]), floor));
    sum->rest = wide_add_products(sum->rest, widen(value), widen(e[k].weight));
    sum->ties = wide_add_doubles(sum->ties, widen(v_select(tie, e[k].weight, v_set1(0))));
  }
}

/* sum(weight exp(x - max)) as hi + lo. */
FSM_INLINE pairs whole_weighted_sum(const weighted_sum *sum, vec max, const exp_frame *f) {
#ifdef FSM_REAL_DOUBLE
  term_sum all = {{{sum->ties.hi}}, sum->rest};
  pairs total = whole_sum(&all, largest_term(max, f));
  total.part[0].lo = d_add(total.part[0].lo, sum->ties.lo);
#else
  term_sum all = {sum->ties, sum->rest};
  pairs total = whole_sum(&all, largest_term(max, f));
#endif
  for (int p = 0; p < PARTS; p++) {
    dvec_pair t = total.part[p];
    total.part[p].hi = d_add(t.hi, t.lo);
    total.part[p].lo = d_add(d_sub(t.hi, total.part[p].hi), t.lo);
  }
  return total;
}

/* Of numbers that are 2^-LEAST_EXPONENT at least, which sums that are not left are. */
enum { LEAST_EXPONENT = 512 };
FSM_INLINE doubles log_of_magnitudes(const pairs *sum) {
  doubles log;
  for (int p = 0; p < PARTS; p++) {
    dvec_pair t = sum->part[p];
    dvec sign_bit = d_bits_left(d_bits_right(t.hi, 63), 63);
    dvec sign = d_bits_or(sign_bit, 0x3ff0000000000000); /* 1 or -1 */
    dvec scale = d_mul(sign, d_set1(0x1p512));
    log.part[p] = log_of_pair(d_mul(t.hi, scale), d_mul(t.lo, scale), LEAST_EXPONENT);
  }
  return log;
}

/* The results of `count` rows from `outer` on, each of which is a lane. */
FSM_INLINE void finish_weighted(const fsm_call *c, size_t outer, size_t count, const survey *v,
                                const weighted_sum *sum, const exp_frame *f) {
  real max[LANES], highest[LANES], minus_lowest[LANES];
  double total[LANES], logs[LANES];
  pairs whole = whole_weighted_sum(sum, finite_or_0(v->max), f);
  doubles hi;
  for (int p = 0; p < PARTS; p++) hi.part[p] = whole.part[p].hi;
  doubles_store(hi, total);
  doubles_store(log_of_magnitudes(&whole), logs);
  v_store_real(max, v->max);
  v_store_real(highest, v->highest);
  v_store_real(minus_lowest, v->minus_lowest);
  for (size_t k = 0; k < count; k++) {
    slice s = slice_of(c, outer + k);
    bool has_nan = v_bits(v->nan) >> k & 1;
    bool has_finite_weights = highest[k] <= REAL_MAX && minus_lowest[k] <= REAL_MAX;
    bool is_empty = !has_nan && max[k] < -REAL_MAX && has_finite_weights;
    bool left = !is_empty && is_left(max[k], highest[k], minus_lowest[k], has_nan, total[k]);
    *result_of(&s) = (storage)(is_empty ? (double)max[k] : (double)max[k] + logs[k]);
    *index_of(&s) = left ? FSM_UNKNOWN_SIGN : is_empty ? 0 : total[k] > 0 ? 1 : -1;
  }
}

FSM_APART void weighted_row(const fsm_call *c, size_t outer) {
  slice s = slice_of(c, outer);
  size_t i = 0, length = s.x.length;
  survey v = begin_survey();
  for (; i + LANES <= length; i += LANES) survey_add(&v, weighted_load(&s, i, LANES));
  if (i < length) survey_add(&v, weighted_load(&s, i, length - i));
  v = survey_reduce(&v);
  tempering t = untempered();
  exp_frame f = frame_of(finite_or_0(v.max), &t);
  vec floor = floor_term(&f);
  weighted_sum sum = {wide_zero(), wide_zero()};
  for (i = 0; i + ROW_BLOCK * LANES <= length; i += ROW_BLOCK * LANES) {
    weighted e[ROW_BLOCK];
    for (size_t k = 0; k < ROW_BLOCK; k++) e[k] = weighted_load(&s, i + k * LANES, LANES);
    add_weighted(&sum, e, &f, floor, v.max, ROW_BLOCK);
  }
  for (; i < length; i += LANES) {
    weighted e = weighted_load(&s, i, length - i < LANES ? length - i : LANES);
    add_weighted(&sum, &e, &f, floor, v.max, 1);
  }
  sum = (weighted_sum){wide_reduce(sum.ties), wide_reduce(sum.rest)};
  finish_weighted(c, outer, 1, &v, &sum, &f);
}

/* Slices from `outer` on, each a lane, that are short. */
FSM_APART void weighted_lanes(const fsm_call *c, size_t outer, size_t count, const weighted *e) {
  survey v = begin_survey();
  for (size_t i = 0; i < c->length; i++) survey_add(&v, e[i]);
  tempering t = untempered();
  exp_frame f = frame_of(finite_or_0(v.max), &t);
  vec floor = floor_term(&f);
  weighted_sum sum = {wide_zero(), wide_zero()};
  size_t i = 0;
  for (; i + COLUMNS_AT_ONCE <= c->length; i += COLUMNS_AT_ONCE)
    add_weighted(&sum, e + i, &f, floor, v.max, COLUMNS_AT_ONCE);
  for (; i < c->length; i++) add_weighted(&sum, e + i, &f, floor, v.max, 1);
  finish_weighted(c, outer, count, &v, &sum, &f);
}

/* Short rows from `outer` on, LANES at most: returns how many. */
static size_t weighted_batch(const fsm_call *c, size_t outer) {
  batch x, weight;
  weighted e[MOST_COLUMNS];
  call_batch(&x, c, &c->x, outer);
  call_batch(&weight, c, &c->other, outer);
  for (size_t i = 0; i < c->length; i++)
    e[i] = weighted_of(v_load_real(x.columns[i]), v_load_real(weight.columns[i]));
  weighted_lanes(c, outer, x.count, e);
  return x.count;
}

/* Short columns, which need not be transposed. */
static void weighted_columns(const fsm_call *c) {
  for (size_t outer = 0; outer < c->outer; outer++)
    for (size_t inner = 0; inner < c->inner; inner += LANES) {
      size_t left = c->inner - inner, count = left < LANES ? left : LANES;
      const storage *x = elements_of(&c->x, outer, inner);
      const storage *weight = elements_of(&c->other, outer, inner);
      weighted e[MOST_COLUMNS];
      for (size_t i = 0; i < c->length; i++, x += c->x.length, weight += c->other.length)
        e[i] = weighted_of(load_or_0(x, 0, count), load_or_0(weight, 0, count));
      fsm_call columns = *c;
      columns.slices = columns_from(c->slices, sizeof(storage), outer, inner);
      columns.index = columns_from(c->index, sizeof(ptrdiff_t), outer, inner);
      weighted_lanes(&columns, 0, count, e);
    }
}

static void weighted_rows(const fsm_call *c) {
  if (is_short(c->length, c->outer))
    for (size_t outer = 0; outer < c->outer;) outer += weighted_batch(c, outer);
  else
    for (size_t outer = 0; outer < c->outer; outer++) weighted_row(c, outer);
}

static void weighted_logsumexp(const fsm_call *c) {
  if (c->inner > 1 && c->inner >= LANES / 2 && c->length <= SHORT)
    weighted_columns(c);
  else
    as_rows(c, weighted_rows);
}

#endif
