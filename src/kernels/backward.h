/* Gradients through softmax and log-softmax.
 *
 * Two passes: a sum, and the result. Memory touched per element: four reads and one write, all but
 * two reads from cache for rows that fit one. */
#ifndef FSM_KERNELS_BACKWARD_H
#define FSM_KERNELS_BACKWARD_H

/* Sums that are made side by side, for their latency to overlap. */
enum { SUMS = 2 };

FSM_INLINE wide sum_vector(wide sum, const storage *a, const storage *b, size_t i, size_t width) {
  doubles x = wide_load_or_0(a, i, width);
  return b ? wide_add_products(sum, x, wide_load_or_0(b, i, width)) : wide_add_doubles(sum, x);
}

/* The sum of a, or of a*b unless b is NULL, as hi + lo; an infinite one is hi alone. */
FSM_INLINE void sum_of(const storage *a, const storage *b, size_t length, double sum[2]) {
  wide lanes[SUMS];
  size_t i = 0;
  for (size_t k = 0; k < SUMS; k++) lanes[k] = wide_zero();
  for (; i + SUMS * LANES <= length; i += SUMS * LANES)
    for (size_t k = 0; k < SUMS; k++) lanes[k] = sum_vector(lanes[k], a, b, i + k * LANES, LANES);
  for (; i + LANES <= length; i += LANES) lanes[0] = sum_vector(lanes[0], a, b, i, LANES);
  if (i < length) lanes[1] = sum_vector(lanes[1], a, b, i, length - i);
  wide_total(wide_join(lanes[0], lanes[1]), sum);
  if (!isfinite(sum[0])) sum[1] = 0; /* where it has no lower part */
}

/* What its last pass takes. */
typedef struct {
  const slice *s;
  vec inner; /* sum(grad y) */
} softmax_gradient;

FSM_INLINE vec softmax_gradient_at(const softmax_gradient *g, size_t i, size_t width) {
  vec y = load_or_0(g->s->x.x, i, width), grad = load_or_0(g->s->other, i, width);
  return v_mul_small(y, v_sub(grad, g->inner));
}
FSM_INLINE void softmax_gradient_step(vec *result, const void *work, size_t i, const size_t count) {
  for (size_t k = 0; k < count; k++) result[k] = softmax_gradient_at(work, i + k * LANES, LANES);
}

/* y (grad - sum(grad y)). */
FSM_INLINE void softmax_backward_slice(const slice *s) {
  size_t length = s->x.length;
  double sum[2];
  sum_of(s->other, s->x.x, length, sum);
  softmax_gradient g = {s, v_set1((real)(sum[0] + sum[1]))};
  if (length >= LANES)
    store_row(s->out, length, softmax_gradient_step, &g);
  else
    v_store_part(s->out, length, softmax_gradient_at(&g, 0, length));
}

/* grad - y sum(grad) with y = exp(log_y), as grad (1 - y) - y (sum(grad) - grad), which keeps its
 * digits where y is nearly 1. */
static double log_softmax_gradient(double grad, double log_y, const double sum[2]) {
  return -expm1(log_y) * grad - exp(log_y) * ((sum[0] - grad) + sum[1]);
}

/* Of a log_y from here on, 1 - y cannot be had from y; of one above 0, which no log-softmax has,
 * the exponential is not that of exp.h. Both go to the C library. */
#define NEARLY_CERTAIN ((real) - 0.6875)

/* What its last pass takes. */
typedef struct {
  const slice *s;
  const double *sum; /* sum(grad) as hi + lo */
  vec minus_total;
  exp_frame frame;
  vec scale; /* of a term, to be a share */
} log_softmax_gradients;

/* The results of a vector which were found without the C library, and have to be found with it. */
FSM_APART vec nearly_certain_gradients(vec result, vec grad, vec log_y, const double sum[2]) {
  real log_values[LANES], grads[LANES], results[LANES];
  v_store_real(log_values, log_y);
  v_store_real(grads, grad);
  v_store_real(results, result);
  for (size_t k = 0; k < LANES; k++)
    if (log_values[k] > NEARLY_CERTAIN)
      results[k] = (real)log_softmax_gradient(grads[k], log_values[k], sum);
  return v_load_real(results);
}

/* The results of `count` vectors from element i on, ROW_BLOCK or 1, of `width` elements each. */
FSM_INLINE void log_softmax_gradients_at(vec *result, const log_softmax_gradients *g, size_t i,
                                         const size_t count, size_t width) {
  vec log_y[ROW_BLOCK], grad[ROW_BLOCK];
  exp_term term[ROW_BLOCK];
  for (size_t k = 0; k < count; k++) {
    log_y[k] = line_load(&g->s->x, i + k * LANES, width, false);
    grad[k] = load_or_0(g->s->other, i + k * LANES, width);
  }
  exp_terms(term, log_y, &g->frame, count);
  vec largest = v_set1(-(real)INFINITY); /* and not NaN, whatever is in the lane */
  for (size_t k = 0; k < count; k++) {
    vec value = v_sub(v_stored(exp_term_value(&term[k])), g->frame.floor_term);
    vec y = v_mul_small(value, g->scale);
    result[k] = v_mul_add(y, g->minus_total, grad[k]);
    largest = v_max(log_y[k], largest);
  }
  if (v_count_true(v_less(v_set1(NEARLY_CERTAIN), largest)))
    for (size_t k = 0; k < count; k++)
      result[k] = nearly_certain_gradients(result[k], grad[k], log_y[k], g->sum);
}
FSM_INLINE void log_softmax_gradient_step(vec *result, const void *work, size_t i,
                                          const size_t count) {
  log_softmax_gradients_at(result, work, i, count, LANES);
}

FSM_INLINE void log_softmax_backward_slice(const slice *s) {
  size_t length = s->x.length;
  double sum[2];
  sum_of(s->other, NULL, length, sum);
  tempering t = untempered();
  log_softmax_gradients g = {.s = s, .sum = sum, .minus_total = v_set1((real) - (sum[0] + sum[1]))};
  g.frame = frame_of(v_set1(0), &t);
  g.scale = v_set1((real)(1 / (TABLE_FACTOR * SPARE_SCALE)));
  if (length >= LANES) {
    store_row(s->out, length, log_softmax_gradient_step, &g);
  } else if (length > 0) {
    vec result;
    log_softmax_gradients_at(&result, &g, 0, 1, length);
    v_store_part(s->out, length, result);
  }
}

static void softmax_backward_rows(const fsm_call *c) {
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    softmax_backward_slice(&s);
  }
}
static void log_softmax_backward_rows(const fsm_call *c) {
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    log_softmax_backward_slice(&s);
  }
}

static void softmax_backward(const fsm_call *c) { as_rows(c, softmax_backward_rows); }
static void log_softmax_backward(const fsm_call *c) { as_rows(c, log_softmax_backward_rows); }

#endif
