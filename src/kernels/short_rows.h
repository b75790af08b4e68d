/* Rows of a few registers or less, many of them: inner == 1 and a small length.
 *
 * As many rows as there are lanes are transposed in registers into a scratch tile, where each is a
 * lane of every column: maximum, sum and division serve all of them at once. The last pass is made
 * on the way back. */
#ifndef FSM_KERNELS_SHORT_ROWS_H
#define FSM_KERNELS_SHORT_ROWS_H

/* The longest row that gains by it: see docs/design.md. */
enum { SHORT = (LANES == 16 ? 7 : 12) * LANES };

/* Columns are worked on by fours; those past a row's end hold -inf, and count for nothing. */
enum { COLUMNS_AT_ONCE = BLOCK < 4 ? BLOCK : 4 };

/* Some of the rows, at most LANES, and their transpose. */
typedef struct {
  line first;
  ptrdiff_t stride, where_stride; /* from one row to the next */
  size_t count;
  real columns[SHORT][LANES];
} batch;

static inline line batch_row(const batch *b, size_t k) {
  line row = b->first;
  row.x += (ptrdiff_t)k * b->stride;
  if (row.where) row.where += (ptrdiff_t)k * b->where_stride;
  return row;
}

/* Lanes past the last row repeat it. */
FSM_INLINE void batch_load_columns(batch *b, size_t i, size_t width, const bool masked) {
  vec a[LANES];
  for (size_t k = 0; k < LANES; k++) {
    line row = batch_row(b, k < b->count ? k : b->count - 1);
    a[k] = line_load(&row, i, width, masked);
  }
  v_transpose(a);
  for (size_t k = 0; k < LANES; k++) v_store_real(b->columns[i + k], a[k]);
}

FSM_INLINE void batch_load(batch *b, const bool masked) {
  size_t i = 0, length = b->first.length;
  for (; i + LANES <= length; i += LANES) batch_load_columns(b, i, LANES, masked);
  if (i < length) batch_load_columns(b, i, length - i, masked);
}

FSM_INLINE vec batch_max(const batch *b) {
  vec m[COLUMNS_AT_ONCE];
  for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) m[k] = v_set1(-(real)INFINITY);
  for (size_t i = 0; i < b->first.length; i += COLUMNS_AT_ONCE)
    for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) m[k] = v_max(v_load_real(b->columns[i + k]), m[k]);
  for (size_t k = 1; k < COLUMNS_AT_ONCE; k++) m[0] = v_max(m[k], m[0]);
  return m[0];
}

/* Sums of the terms, which take the places of the elements if they are to be stored. */
FSM_INLINE term_sum batch_sum(batch *b, vec max, const exp_frame *f, const bool stores) {
  vcount ties = v_count_zero();
  term_sum sum = {doubles_set1(0), wide_zero()};
  for (size_t i = 0; i < b->first.length; i += COLUMNS_AT_ONCE) {
    vec x[BLOCK], shifted[BLOCK], value[BLOCK];
    exp_term term[BLOCK];
    mask tie[BLOCK];
    for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) {
      x[k] = v_load_real(b->columns[i + k]);
      shifted[k] = v_sub(x[k], f->origin);
    }
    exp_terms(term, shifted, f, COLUMNS_AT_ONCE);
    for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) {
      if (stores) {
        value[k] = exp_term_value(&term[k], f);
        v_store_real(b->columns[i + k], value[k]);
      } else {
        tie[k] = v_equal(x[k], max);
        ties = v_count_add(ties, tie[k]);
      }
    }
    if (stores)
      sum.rest = wide_add_values(sum.rest, value, COLUMNS_AT_ONCE, true);
    else
      sum.rest = wide_add_terms(sum.rest, tie, term, f, COLUMNS_AT_ONCE, true);
  }
  for (int p = 0; p < PARTS; p++) sum.ties.part[p] = v_count_part(ties, p);
  return sum;
}

FSM_INLINE doubles batch_log_of_sum(batch *b, vec max, const tempering *t) {
  exp_frame f = frame_of(max, t);
  term_sum sum = batch_sum(b, max, &f, false);
  doubles log_sum = log_of_sum(&sum, max, &f);
  vec magnitude = v_max(max, v_sub(v_set1(0), max));
  if (v_all(v_less(magnitude, v_set1((real)INFINITY)))) return log_sum;
  real maxima[LANES];
  double logs[LANES];
  v_store_real(maxima, max);
  doubles_store(log_sum, logs);
  for (size_t k = 0; k < b->count; k++)
    if (!is_finite(maxima[k])) {
      line row = batch_row(b, k);
      logs[k] = log_of_nonfinite_sum(&row, row.where != NULL);
    }
  return doubles_load(logs);
}

/* What the last pass needs: of softmax the scale, of log_softmax the rest. */
typedef struct {
  vec_pair scale;
  log_frame log;
} batch_frame;

typedef vec batch_finish(vec column, const batch_frame *f);

FSM_INLINE vec softmax_finish(vec term, const batch_frame *f) { return scaled(term, f->scale); }
FSM_INLINE vec log_softmax_finish(vec x, const batch_frame *f) { return log_share(x, &f->log); }

FSM_INLINE void batch_store_columns(const batch *b, storage *out, ptrdiff_t stride, size_t i,
                                    size_t width, batch_finish *finish, const batch_frame *f,
                                    real absent, const bool masked) {
  vec a[LANES];
  for (size_t k = 0; k < LANES; k++) a[k] = finish(v_load_real(b->columns[i + k]), f);
  v_transpose(a);
  for (size_t k = 0; k < LANES; k++) {
    if (k == b->count) return;
    line row = batch_row(b, k);
    line_store(&row, out + (ptrdiff_t)k * stride, i, width, a[k], absent, masked);
  }
}

/* Write the rows out, with `absent` for elements that take no part. */
FSM_INLINE void batch_store(const batch *b, storage *out, ptrdiff_t stride, batch_finish *finish,
                            const batch_frame *f, real absent, const bool masked) {
  size_t i = 0, length = b->first.length;
  for (; i + LANES <= length; i += LANES)
    batch_store_columns(b, out, stride, i, LANES, finish, f, absent, masked);
  if (i < length) batch_store_columns(b, out, stride, i, length - i, finish, f, absent, masked);
}

typedef void batch_kernel(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                          const bool masked);

FSM_INLINE void softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                              const bool masked) {
  vec max = batch_max(b);
  exp_frame f = frame_of(max, t);
  term_sum sum = batch_sum(b, max, &f, true);
  batch_frame last = {.scale = scale_of(&sum.rest, max)};
  batch_store(b, out, stride, softmax_finish, &last, 0, masked);
}

FSM_INLINE void log_softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                                  const bool masked) {
  vec max = batch_max(b);
  batch_frame last = {.log = log_frame_of(max, t, batch_log_of_sum(b, max, t))};
  batch_store(b, out, stride, log_softmax_finish, &last, -(real)INFINITY, masked);
}

FSM_INLINE void logsumexp_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                                const bool masked) {
  (void)masked;
  vec max = batch_max(b);
  storage results[LANES];
  v_store(results, log_sum_exp(max, batch_log_of_sum(b, max, t)));
  for (size_t k = 0; k < b->count; k++) out[(ptrdiff_t)k * stride] = results[k];
}

FSM_INLINE void for_each_batch(const fsm_slices *s, batch_kernel *kernel, const bool masked) {
  batch b;
  b.stride = s->x_outer;
  b.where_stride = s->where_outer;
  tempering t = tempering_set1(tempering_of(1));
  for (size_t outer = 0; outer < s->outer; outer += LANES) {
    storage *out = (storage *)s->out + (ptrdiff_t)outer * s->out_outer;
    b.count = s->outer - outer < LANES ? s->outer - outer : LANES;
    b.first = row_of(s, outer);
    if (s->temperature)
      t = load_tempering(temperature_of(s, outer, 0), s->temperature_outer, b.count);
    batch_load(&b, masked);
    kernel(&b, out, s->out_outer, &t, masked);
  }
}

FSM_INLINE void short_rows(const fsm_slices *s, batch_kernel *kernel) {
  if (s->where)
    for_each_batch(s, kernel, true);
  else
    for_each_batch(s, kernel, false);
}

static void softmax_short_rows(const fsm_slices *s) { short_rows(s, softmax_batch); }
static void log_softmax_short_rows(const fsm_slices *s) { short_rows(s, log_softmax_batch); }
static void logsumexp_short_rows(const fsm_slices *s) { short_rows(s, logsumexp_batch); }

#endif
