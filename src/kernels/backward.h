/* Gradients through softmax and log-softmax.
 *
 * Two passes: a sum, and the result. Memory touched per element: four reads and one write, all but
 * two reads from cache for rows that fit one. */
#ifndef FSM_KERNELS_BACKWARD_H
#define FSM_KERNELS_BACKWARD_H

/* Rows up to so many vectors are short enough for what is done once a row to count. */
enum { FEW = 8 };

FSM_INLINE wide sum_vector(wide sum, const storage *a, const storage *b, size_t i, size_t width) {
  doubles x = wide_load_or_0(a, i, width);
  return b ? wide_add_products(sum, x, wide_load_or_0(b, i, width)) : wide_add_doubles(sum, x);
}

/* The sum of a, or of a*b unless b is NULL, in every lane. Unless the row `is_few` vectors, two
 * sums are made side by side, for their latency to overlap. */
FSM_INLINE wide sum_of(const storage *a, const storage *b, size_t length, const bool is_few) {
  const size_t sums = is_few ? 1 : 2;
  wide lanes[2] = {wide_zero(), wide_zero()};
  size_t i = 0;
  for (; i + sums * LANES <= length; i += sums * LANES)
    for (size_t k = 0; k < sums; k++) lanes[k] = sum_vector(lanes[k], a, b, i + k * LANES, LANES);
  if (sums > 1)
    for (; i + LANES <= length; i += LANES) lanes[0] = sum_vector(lanes[0], a, b, i, LANES);
  if (i < length) lanes[sums - 1] = sum_vector(lanes[sums - 1], a, b, i, length - i);
  return wide_end(wide_reduce(sums > 1 ? wide_join(lanes[0], lanes[1]) : lanes[0]));
}

/* What its last pass takes. */
typedef struct {
  const storage *y, *grad;
  vec inner; /* sum(grad y) */
} softmax_gradient;

FSM_INLINE vec softmax_gradient_of(vec y, vec grad, vec inner) {
  return v_mul_small(y, v_sub(grad, inner));
}
FSM_INLINE vec softmax_gradient_at(const softmax_gradient *g, size_t i, size_t width) {
  return softmax_gradient_of(load_or_0(g->y, i, width), load_or_0(g->grad, i, width), g->inner);
}
FSM_INLINE void softmax_gradient_step(vec *result, const void *work, size_t i, const size_t count) {
  for (size_t k = 0; k < count; k++) result[k] = softmax_gradient_at(work, i + k * LANES, LANES);
}

/* y (grad - sum(grad y)). */
FSM_INLINE void softmax_backward_row(const storage *y, const storage *grad, storage *out,
                                     size_t length, const bool is_few) {
  softmax_gradient g = {y, grad, wide_value(sum_of(grad, y, length, is_few))};
  if (length < LANES) {
    v_store_part(out, length, softmax_gradient_at(&g, 0, length));
  } else if (!is_few) {
    store_row(out, length, softmax_gradient_step, &g);
  } else {
    vec last = softmax_gradient_at(&g, length - LANES, LANES);
    for (size_t i = 0; i + LANES <= length; i += LANES)
      v_store(out + i, softmax_gradient_at(&g, i, LANES));
    v_store(out + length - LANES, last);
  }
}

/* Of a log_y from here on, 1 - y cannot be had from y. */
#define NEARLY_CERTAIN ((real) - 0.6875)

/* (e^x - 1)/x from there up to 0. Regenerate it, and the bound on its relative error, with
 * tools/coefficients.py. */
#ifdef FSM_REAL_DOUBLE /* 2^-62.0 */
static const double EXPM1[] = {0x1.0000000000000p+0,  0x1.fffffffffffffp-2,  0x1.55555555554b5p-3,
                               0x1.5555555550e5ap-5,  0x1.1111111013f6fp-7,  0x1.6c16c12a1f2dcp-10,
                               0x1.a019f6c222d46p-13, 0x1.a018d3f12f263p-16, 0x1.71c85a69de172p-19,
                               0x1.26d75b8f5904ep-22, 0x1.9dbd40ef96734p-26, 0x1.a246e8f390e3ep-30};
#else /* 2^-32.3 */
static const double EXPM1[] = {0x1.fffffffe53f42p-1, 0x1.fffffe3558984p-2, 0x1.555503fd3c27ep-3,
                               0x1.554a6562e03e1p-5, 0x1.105bd70cad023p-7, 0x1.5fdd38a127aa9p-10,
                               0x1.342cb2268f9b2p-13};
#endif

/* grad - y sum(grad) with y = exp(log_y), as grad (1 - y) - y (sum(grad) - grad), which keeps its
 * digits where y is nearly 1. */
FSM_INLINE dvec nearly_certain_gradient(dvec grad, dvec log_y, dvec_pair sum) {
  enum { DEGREE = sizeof EXPM1 / sizeof EXPM1[0] - 1 };
  dvec q = d_set1(EXPM1[DEGREE]);
  for (int j = DEGREE - 1; j >= 0; j--) q = d_mul_add(q, log_y, d_set1(EXPM1[j]));
  dvec less = d_mul(log_y, q), y = d_add(d_set1(1), less), own = d_mul(less, grad);
  dvec others = d_add(d_sub(sum.hi, grad), sum.lo);
  return d_sub(d_sub(d_set1(0), own), d_mul(y, others));
}

/* The same for a log_y above 0, which no log-softmax has: its exponential is none of those here. */
static double impossible_gradient(double grad, double log_y, double sum, double sum_lo) {
  return -expm1(log_y) * grad - exp(log_y) * ((sum - grad) + sum_lo);
}

/* What exponentials of log_y take, which are terms of a slice whose maximum is 0. */
typedef struct {
  exp_frame frame;
  vec floor;
} exp_of_logs;

static inline exp_of_logs for_logs(void) {
  tempering t = untempered();
  exp_frame frame = frame_of(v_set1(0), &t);
  return (exp_of_logs){frame, floor_term(&frame)};
}

/* What its last pass takes. */
typedef struct {
  const slice *s;
  const wide *sum; /* sum(grad) */
  vec minus_total;
  const exp_of_logs *exp;
} log_softmax_gradients;

FSM_INLINE log_softmax_gradients log_softmax_gradients_with(const wide *sum,
                                                            const exp_of_logs *exp) {
  return (log_softmax_gradients){
      .sum = sum, .minus_total = v_sub(v_set1(0), wide_value(*sum)), .exp = exp};
}

/* `result`, with those gradients in their places. */
FSM_APART vec nearly_certain_gradients(vec result, vec grad, vec log_y, const wide *sum) {
  doubles of_grad = widen(grad), of_log_y = widen(log_y), found;
  for (int p = 0; p < PARTS; p++)
    found.part[p] = nearly_certain_gradient(of_grad.part[p], of_log_y.part[p], wide_part(sum, p));
  mask is_certain = v_less(v_set1(NEARLY_CERTAIN), log_y);
  result = v_select(is_certain, v_join(found.part), result);
  if (v_count_true(v_less(v_set1(0), log_y)) == 0) return result;
  real log_values[LANES], grads[LANES], results[LANES];
  double hi[LANES], lo[LANES];
  wide_store(*sum, hi, lo);
  v_store_real(log_values, log_y);
  v_store_real(grads, grad);
  v_store_real(results, result);
  for (size_t k = 0; k < LANES; k++)
    if (log_values[k] > 0)
      results[k] = (real)impossible_gradient(grads[k], log_values[k], hi[k], lo[k]);
  return v_load_real(results);
}

/* The results of `count` vectors, at most ROW_BLOCK; returns whether one of them may have to be
 * replaced, as its class is nearly certain. */
FSM_INLINE bool log_softmax_gradients_of(vec *result, const log_softmax_gradients *g,
                                         const vec *log_y, const vec *grad, const size_t count) {
  exp_term term[ROW_BLOCK];
  vec scale = v_set1((real)(1 / (TABLE_FACTOR * SPARE_SCALE))); /* of a term, to be a share */
  exp_terms(term, log_y, &g->exp->frame, count);
  vec largest = v_set1(-(real)INFINITY); /* and not NaN, whatever is in the lane */
  for (size_t k = 0; k < count; k++) {
    vec value = v_sub(v_stored(exp_term_value(&term[k])), g->exp->floor);
    vec y = v_mul_small(value, scale);
    result[k] = v_mul_add(y, g->minus_total, grad[k]);
    largest = v_max(log_y[k], largest);
  }
  return v_count_true(v_less(v_set1(NEARLY_CERTAIN), largest)) > 0;
}

/* Those from element i on, of `width` elements each. */
FSM_INLINE void log_softmax_gradients_at(vec *result, const log_softmax_gradients *g, size_t i,
                                         const size_t count, size_t width) {
  vec log_y[ROW_BLOCK], grad[ROW_BLOCK];
  for (size_t k = 0; k < count; k++) {
    log_y[k] = line_load(&g->s->x, i + k * LANES, width, false);
    grad[k] = load_or_0(g->s->other, i + k * LANES, width);
  }
  if (log_softmax_gradients_of(result, g, log_y, grad, count))
    for (size_t k = 0; k < count; k++)
      result[k] = nearly_certain_gradients(result[k], grad[k], log_y[k], g->sum);
}
FSM_INLINE void log_softmax_gradient_step(vec *result, const void *work, size_t i,
                                          const size_t count) {
  log_softmax_gradients_at(result, work, i, count, LANES);
}

FSM_INLINE void log_softmax_backward_slice(const slice *s, const exp_of_logs *exp) {
  size_t length = s->x.length;
  wide sum = sum_of(s->other, NULL, length, false);
  log_softmax_gradients g = log_softmax_gradients_with(&sum, exp);
  g.s = s;
  if (length >= LANES) {
    store_row(s->out, length, log_softmax_gradient_step, &g);
  } else if (length > 0) {
    vec result;
    log_softmax_gradients_at(&result, &g, 0, 1, length);
    v_store_part(s->out, length, result);
  }
}

/* Slices that lie side by side: columns of a call, or the rows of a batch. */
typedef struct {
  size_t length;
  const storage *y, *grad;
  storage *out;
  ptrdiff_t y_stride, grad_stride, out_stride; /* from one class to the next */
} column_block;

/* Those of class l, `v` vectors further on. */
static inline const storage *y_from(const column_block *b, size_t l, size_t v) {
  return b->y + (ptrdiff_t)l * b->y_stride + v * LANES;
}
static inline const storage *grad_from(const column_block *b, size_t l, size_t v) {
  return b->grad + (ptrdiff_t)l * b->grad_stride + v * LANES;
}
FSM_INLINE void store_at(const column_block *b, size_t l, size_t v, const size_t width,
                         vec result) {
  storage *out = b->out + (ptrdiff_t)l * b->out_stride + v * LANES;
  line_store(NULL, out, 0, width, result, 0, false);
}

/* So many vectors of columns, at most TILE_VECTORS, or one that is `width` wide. */
typedef void columns_backward(const column_block *b, const exp_of_logs *exp, const size_t vectors,
                              const size_t width);

/* Add `count` classes from l on to the sums of grad, or of grad y. */
FSM_INLINE void add_classes(wide *sum, const column_block *b, size_t l, const size_t count,
                            const size_t vectors, const size_t width, const bool of_products) {
  for (size_t v = 0; v < vectors; v++) {
    wide added = sum[v];
    for (size_t k = 0; k < count; k++) {
      const storage *y = of_products ? y_from(b, l + k, v) : NULL;
      added = sum_vector(added, grad_from(b, l + k, v), y, 0, width);
    }
    sum[v] = added;
  }
}

FSM_INLINE void sum_columns(wide *sum, const column_block *b, const size_t vectors,
                            const size_t width, const bool of_products) {
  size_t l = 0;
  for (size_t v = 0; v < vectors; v++) sum[v] = wide_zero();
  for (; l + 4 <= b->length; l += 4) add_classes(sum, b, l, 4, vectors, width, of_products);
  for (; l < b->length; l++) add_classes(sum, b, l, 1, vectors, width, of_products);
  for (size_t v = 0; v < vectors; v++) sum[v] = wide_end(sum[v]);
}

FSM_INLINE void softmax_backward_columns(const column_block *b, const exp_of_logs *exp,
                                         const size_t vectors, const size_t width) {
  (void)exp;
  wide sum[TILE_VECTORS];
  vec inner[TILE_VECTORS];
  sum_columns(sum, b, vectors, width, true);
  for (size_t v = 0; v < vectors; v++) inner[v] = wide_value(sum[v]);
  for (size_t l = 0; l < b->length; l++)
    for (size_t v = 0; v < vectors; v++) {
      vec y = load_or_0(y_from(b, l, v), 0, width), grad = load_or_0(grad_from(b, l, v), 0, width);
      store_at(b, l, v, width, softmax_gradient_of(y, grad, inner[v]));
    }
}

/* Of each column of a vector the class that is nearly certain, if there is one: two would have more
 * than all. What its gradient takes is kept until the others are stored, as it takes so long that
 * it should be found once for a column, and not for each class that is certain in some column. */
typedef struct {
  vec log_y, grad;
  vec class; /* a number, at most MOST_CLASSES */
} certain_class;
enum { MOST_CLASSES = 1 << 24 };

FSM_INLINE void log_softmax_backward_classes(const column_block *b, const wide *sum,
                                             certain_class *certain, const exp_of_logs *exp,
                                             size_t l, const size_t count, const size_t vectors,
                                             const size_t width) {
  for (size_t v = 0; v < vectors; v++) {
    log_softmax_gradients g = log_softmax_gradients_with(&sum[v], exp);
    vec log_y[ROW_BLOCK], grad[ROW_BLOCK], result[ROW_BLOCK];
    for (size_t k = 0; k < count; k++) {
      log_y[k] = load_or_0(y_from(b, l + k, v), 0, width);
      grad[k] = load_or_0(grad_from(b, l + k, v), 0, width);
    }
    if (log_softmax_gradients_of(result, &g, log_y, grad, count))
      for (size_t k = 0; k < count; k++) {
        mask is_certain = v_less(v_set1(NEARLY_CERTAIN), log_y[k]);
        certain[v].log_y = v_select(is_certain, log_y[k], certain[v].log_y);
        certain[v].grad = v_select(is_certain, grad[k], certain[v].grad);
        certain[v].class = v_select(is_certain, v_set1((real)(l + k)), certain[v].class);
        if (v_count_true(v_less(v_set1(0), log_y[k])))
          result[k] = nearly_certain_gradients(result[k], grad[k], log_y[k], &sum[v]);
      }
    for (size_t k = 0; k < count; k++) store_at(b, l + k, v, width, result[k]);
  }
}

/* Store the gradients of nearly certain classes; columns without one store that of class 0 again,
 * as which of them have one cannot be foreseen. */
FSM_APART void store_certain_gradients(const column_block *b, size_t v, const certain_class *c,
                                       const wide *sum, size_t width) {
  storage *out = b->out + v * LANES, result[LANES];
  real class[LANES];
  vec of_class_0 = load_or_0(out, 0, width);
  v_store(result, nearly_certain_gradients(of_class_0, c->grad, c->log_y, sum));
  v_store_real(class, c->class);
  for (size_t k = 0; k < width; k++)
    out[(ptrdiff_t)class[k] * b->out_stride + (ptrdiff_t)k] = result[k];
}

FSM_INLINE void log_softmax_backward_columns(const column_block *b, const exp_of_logs *exp,
                                             const size_t vectors, const size_t width) {
  wide sum[TILE_VECTORS];
  certain_class certain[TILE_VECTORS];
  const vec zero = v_set1(0), nothing = v_set1(-(real)INFINITY);
  sum_columns(sum, b, vectors, width, false);
  for (size_t v = 0; v < vectors; v++) certain[v] = (certain_class){nothing, zero, zero};
  size_t l = 0;
  for (; l + ROW_BLOCK <= b->length; l += ROW_BLOCK)
    log_softmax_backward_classes(b, sum, certain, exp, l, ROW_BLOCK, vectors, width);
  for (; l + 2 <= b->length; l += 2)
    log_softmax_backward_classes(b, sum, certain, exp, l, 2, vectors, width);
  if (l < b->length) log_softmax_backward_classes(b, sum, certain, exp, l, 1, vectors, width);
  for (size_t v = 0; v < vectors; v++)
    if (v_count_true(v_less(v_set1(NEARLY_CERTAIN), certain[v].log_y)))
      store_certain_gradients(b, v, &certain[v], &sum[v], width);
}

/* Rows from `outer` on, LANES at most: returns how many. The result takes the gradient's place. */
FSM_INLINE size_t backward_batch(const fsm_call *c, size_t outer, const exp_of_logs *exp,
                                 columns_backward *columns) {
  batch y, grad;
  call_batch(&y, c, &c->x, outer);
  call_batch(&grad, c, &c->other, outer);
  storage *of_y = columns_of_batch(&y), *of_grad = columns_of_batch(&grad);
  column_block b = {c->length, of_y, of_grad, of_grad, LANES, LANES, LANES};
  columns(&b, exp, 1, LANES);
  store_batch(&grad, c, outer);
  return grad.count;
}
FSM_APART size_t softmax_backward_batch(const fsm_call *c, size_t outer) {
  return backward_batch(c, outer, NULL, softmax_backward_columns);
}
FSM_APART size_t log_softmax_backward_batch(const fsm_call *c, size_t outer,
                                            const exp_of_logs *exp) {
  return backward_batch(c, outer, exp, log_softmax_backward_columns);
}

FSM_INLINE void softmax_backward_each(const fsm_call *c, const bool is_few) {
  const storage *y = c->x.data, *grad = c->other.data;
  storage *out = c->out.data;
  for (size_t outer = 0; outer < c->outer; outer++) {
    softmax_backward_row(y, grad, out, c->length, is_few);
    y += c->x.outer;
    grad += c->other.outer;
    out += c->out.outer;
  }
}

static void softmax_backward_rows(const fsm_call *c) {
  /* Beyond, and where they are whole vectors, to transpose rows costs more than it gains. */
  enum { MOST = LANES + LANES / 2 };
  if (c->length <= MOST && c->length % LANES > 0 && is_short(c->length, c->outer))
    for (size_t outer = 0; outer < c->outer;) outer += softmax_backward_batch(c, outer);
  else if (c->length <= FEW * LANES)
    softmax_backward_each(c, true);
  else
    softmax_backward_each(c, false);
}
static void log_softmax_backward_rows(const fsm_call *c) {
  exp_of_logs exp = for_logs();
  if (is_short(c->length, c->outer)) {
    for (size_t outer = 0; outer < c->outer;) outer += log_softmax_backward_batch(c, outer, &exp);
    return;
  }
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    log_softmax_backward_slice(&s, &exp);
  }
}

/* Columns are worked on where they are, but for few that are long. */
FSM_INLINE void backward(const fsm_call *c, fsm_call_kernel *rows, columns_backward *columns) {
  if (c->inner == 1 || (c->inner < LANES / 2 && c->length > SHORT) || c->length > MOST_CLASSES) {
    as_rows(c, rows);
    return;
  }
  exp_of_logs exp = for_logs();
  for (size_t outer = 0; outer < c->outer; outer++)
    for (size_t inner = 0, done; inner < c->inner; inner += done) {
      size_t left = c->inner - inner, whole = left / LANES;
      size_t vectors = whole < TILE_VECTORS ? whole : TILE_VECTORS;
      column_block b = {c->length,
                        elements_of(&c->x, outer, inner),
                        elements_of(&c->other, outer, inner),
                        elements_of(&c->out, outer, inner),
                        c->x.length,
                        c->other.length,
                        c->out.length};
      if (vectors > 0)
        columns(&b, &exp, vectors, LANES);
      else
        columns(&b, &exp, 1, left);
      done = vectors > 0 ? vectors * LANES : left;
    }
}

static void softmax_backward(const fsm_call *c) {
  backward(c, softmax_backward_rows, softmax_backward_columns);
}
static void log_softmax_backward(const fsm_call *c) {
  backward(c, log_softmax_backward_rows, log_softmax_backward_columns);
}

#endif
