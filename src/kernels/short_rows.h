/* Rows of a few registers or less, many of them: inner == 1 and a small length.
 *
 * As many rows as there are lanes are transposed in registers into a scratch tile, where each is a
 * lane of every column: maximum, sum and division serve all of them at once. The last pass is made
 * on the way back. Of columns that do not fill a block of LANES, only those that exist are
 * transposed, by strips that are narrower. */
#ifndef FSM_KERNELS_SHORT_ROWS_H
#define FSM_KERNELS_SHORT_ROWS_H

/* The longest row that gains by it: see docs/design.md. */
enum { SHORT = (LANES == 16 ? 7 : 11) * LANES };

/* Whether so many rows are worth a batch, which takes as long for one row as for LANES of them.
 * Rows that do not fill a vector take long by themselves, too. */
static inline bool worth_a_batch(size_t outer, size_t length) {
  if (LANES == 1 || outer < 2 || length == 0) return false;
  return outer >= (length <= LANES ? LANES / 4 : LANES / 2);
}

/* Columns are worked on by fours, and the last ones by twos; those past a row's end hold -inf, and
 * count for nothing. */
enum { COLUMNS_AT_ONCE = 4 };
enum { MOST_COLUMNS = (SHORT + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE * COLUMNS_AT_ONCE };

/* Some of the rows, at most LANES, and their transpose. */
typedef struct batch {
  line first;
  ptrdiff_t stride, where_stride; /* from one row to the next */
  size_t count;
  _Alignas(LANES * sizeof(real)) real columns[MOST_COLUMNS][LANES];
} batch;

static inline line batch_row(const batch *b, size_t k) {
  line row = b->first;
  row.x += (ptrdiff_t)k * b->stride;
  if (row.where) row.where += (ptrdiff_t)k * b->where_stride;
  return row;
}

/* Whether what is less than a block of the rows may be read and written by strips. */
static inline bool in_strips(const batch *b, const bool masked) {
  return !masked && b->count == LANES && b->first.length >= STRIP;
}

/* The first column of the strip that column i begins: the last one may overlap the one before. */
static inline size_t strip_from(size_t i, size_t length) {
  return i + STRIP <= length ? i : length - STRIP;
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
  if (i < length && !in_strips(b, masked)) {
    batch_load_columns(b, i, length - i, masked);
    i = length;
  }
  for (; i < length; i += STRIP) {
    size_t from = strip_from(i, length);
    vec a[STRIP];
    v_load_strip(a, b->first.x + from, b->stride);
    for (size_t k = 0; k < STRIP; k++) v_store_real(b->columns[from + k], a[k]);
  }
  for (i = length; i % COLUMNS_AT_ONCE > 0; i++)
    v_store_real(b->columns[i], v_set1(-(real)INFINITY));
}

FSM_INLINE vec batch_max(const batch *b) {
  vec m[COLUMNS_AT_ONCE];
  for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) m[k] = v_set1(-(real)INFINITY);
  for (size_t i = 0; i < b->first.length; i += COLUMNS_AT_ONCE)
    for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) m[k] = v_max(v_load_real(b->columns[i + k]), m[k]);
  for (size_t k = 1; k < COLUMNS_AT_ONCE; k++) m[0] = v_max(m[k], m[0]);
  return m[0];
}

/* Columns whose terms are found in two steps, as those of a row_block. */
typedef struct {
  vec x[COLUMNS_AT_ONCE];
  exp_reduced reduced[COLUMNS_AT_ONCE];
} batch_block;

/* Begin with `count` columns from i on. */
FSM_INLINE void batch_begin_block(batch_block *block, const batch *b, size_t i, const size_t count,
                                  const exp_frame *f) {
  vec shifted[COLUMNS_AT_ONCE];
  for (size_t k = 0; k < count; k++) {
    block->x[k] = v_load_real(b->columns[i + k]);
    shifted[k] = v_sub(block->x[k], f->origin);
  }
  exp_reduce(block->reduced, shifted, f, count);
}

/* What becomes of the terms of a batch. */
typedef struct {
  bool stores; /* they take the places of the elements */
  bool splits; /* ties are counted apart, for a logarithm */
} batch_flags;

/* Add their terms to the sum. */
FSM_INLINE void batch_add_block(term_sum *sum, vcount *ties, const batch_block *block, batch *b,
                                size_t i, const size_t count, vec max, const batch_flags flags,
                                const bool whole) {
  vec value[COLUMNS_AT_ONCE];
  exp_term term[COLUMNS_AT_ONCE];
  mask tie[COLUMNS_AT_ONCE];
  exp_expand(term, block->reduced, count);
  for (size_t k = 0; k < count; k++) {
    value[k] = v_stored(exp_term_value(&term[k]));
    if (flags.stores) v_store_real(b->columns[i + k], value[k]);
    if (!flags.splits) continue;
    tie[k] = v_equal(block->x[k], max);
    *ties = v_count_add(*ties, tie[k]);
  }
  if (flags.splits)
    sum->rest = wide_add_others(sum->rest, tie, term, count, whole);
  else
    sum->rest = terms_add_values(sum->rest, value, count, whole);
}

FSM_INLINE void batch_add_last(term_sum *sum, vcount *ties, batch *b, size_t i, const size_t count,
                               vec max, const exp_frame *f, const batch_flags flags) {
  batch_block block;
  batch_begin_block(&block, b, i, count, f);
  batch_add_block(sum, ties, &block, b, i, count, max, flags, false);
}

FSM_INLINE term_sum batch_sum(batch *b, vec max, const exp_frame *f, const batch_flags flags) {
  enum { STEP = COLUMNS_AT_ONCE };
  vcount ties = v_count_zero();
  term_sum sum = {doubles_set1(0), flags.splits ? wide_zero() : terms_begin()};
  batch_block block;
  size_t i = 0, length = b->first.length;
  if (length >= STEP) {
    batch_begin_block(&block, b, 0, STEP, f);
    for (; i + 2 * STEP <= length; i += STEP) {
      batch_add_block(&sum, &ties, &block, b, i, STEP, max, flags, true);
      batch_begin_block(&block, b, i + STEP, STEP, f);
    }
    batch_add_block(&sum, &ties, &block, b, i, STEP, max, flags, true);
    i += STEP;
  }
  if (i + 2 < length)
    batch_add_last(&sum, &ties, b, i, STEP, max, f, flags);
  else if (i < length)
    batch_add_last(&sum, &ties, b, i, 2, max, f, flags);
  if (!flags.splits) sum.rest = terms_end(sum.rest);
  for (int p = 0; p < PARTS; p++) sum.ties.part[p] = v_count_part(ties, p);
  return sum;
}

/* Which rows have NaN. */
FSM_APART mask batch_nan(const batch *b) {
  mask nan = v_unordered(v_set1(0), v_set1(0));
  for (size_t i = 0; i < b->first.length; i += COLUMNS_AT_ONCE) {
    vec x[COLUMNS_AT_ONCE];
    for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) x[k] = v_load_real(b->columns[i + k]);
    nan = v_or(nan, nan_among(x, COLUMNS_AT_ONCE));
  }
  return nan;
}

FSM_INLINE doubles batch_log_of_sum(batch *b, vec max, const tempering *t) {
  const bool finite = all_finite(max);
  exp_frame f = frame_of(finite_or_0(max), t);
  term_sum sum = batch_sum(b, max, &f, (batch_flags){.splits = true});
  doubles log_sum = log_of_sum(&sum, max, &f);
  return finite ? log_sum : log_of_nonfinite_sums(log_sum, max, batch_nan(b));
}

/* What the last pass needs, of softmax or of log_softmax. */
typedef struct {
  share_frame share;
  log_frame log;
} batch_frame;

typedef vec batch_finish(vec column, const batch_frame *f);

FSM_INLINE vec no_finish(vec term, const batch_frame *f) { return (void)f, term; }
FSM_INLINE vec softmax_finish(vec term, const batch_frame *f) { return share(term, &f->share); }
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
  if (i == length) return;
  if (!in_strips(b, masked)) {
    batch_store_columns(b, out, stride, i, length - i, finish, f, absent, masked);
    return;
  }
  for (; i < length; i += STRIP) {
    size_t from = strip_from(i, length);
    vec a[STRIP];
    for (size_t k = 0; k < STRIP; k++) a[k] = finish(v_load_real(b->columns[from + k]), f);
    v_store_strip(out + from, stride, a);
  }
}

/* Where in each row, in which `value` is, it is first. */
FSM_INLINE vec batch_first_equal(const batch *b, vec value) {
  vec place = v_set1(0);
  for (size_t i = b->first.length; i-- > 0;)
    place = v_select(v_equal(v_load_real(b->columns[i]), value), v_set1((real)i), place);
  return place;
}

/* Read the rows from `outer` on, and find their maxima. */
FSM_INLINE vec batch_begin(batch *b, const fsm_slices *s, size_t outer, const bool masked) {
  b->first = row_of(s, outer);
  b->count = s->outer - outer < LANES ? s->outer - outer : LANES;
  batch_load(b, masked);
  return batch_max(b);
}

/* Where the rows that follow go to. */
typedef struct {
  const fsm_slices *slices;
  size_t outer;
  batch *batch;
} batch_next;

/* As a kernel of rows does, one of batches takes the maxima and returns those of the next ones:
 * they are read while its own division or logarithm is under way. */
typedef vec batch_kernel(batch *b, storage *out, ptrdiff_t stride, const tempering *t, vec max,
                         const batch_next *next, const bool masked);

FSM_INLINE vec begin_next(const batch_next *next, vec max, const bool masked) {
  if (next->outer >= next->slices->outer) return max;
  return batch_begin(next->batch, next->slices, next->outer, masked);
}

FSM_INLINE vec softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t, vec max,
                             const batch_next *next, const bool masked) {
  exp_frame f = frame_of(finite_or_0(max), t);
  term_sum sum = batch_sum(b, max, &f, (batch_flags){.stores = true});
  batch_frame last = {.share = share_frame_of(&sum.rest, max, &f)};
  vec next_max = begin_next(next, max, masked);
  batch_store(b, out, stride, softmax_finish, &last, 0, masked);
  return next_max;
}

FSM_INLINE vec log_softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                                 vec max, const batch_next *next, const bool masked) {
  batch_frame last = {.log = log_frame_of(max, t, batch_log_of_sum(b, max, t))};
  vec next_max = begin_next(next, max, masked);
  batch_store(b, out, stride, log_softmax_finish, &last, -(real)INFINITY, masked);
  return next_max;
}

FSM_INLINE vec logsumexp_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                               vec max, const batch_next *next, const bool masked) {
  vec result = log_sum_exp(max, batch_log_of_sum(b, max, t));
  vec next_max = begin_next(next, max, masked);
  storage results[LANES];
  v_store(results, result);
  for (size_t k = 0; k < b->count; k++) out[(ptrdiff_t)k * stride] = results[k];
  return next_max;
}

FSM_INLINE void for_each_batch(const fsm_slices *s, batch_kernel *kernel, const bool masked) {
  batch batches[2];
  for (int k = 0; k < 2; k++) {
    batches[k].stride = s->x_outer;
    batches[k].where_stride = s->where_outer;
  }
  tempering t = untempered();
  vec max = batch_begin(&batches[0], s, 0, masked);
  for (size_t outer = 0; outer < s->outer; outer += LANES) {
    batch *b = &batches[outer / LANES % 2];
    batch_next next = {s, outer + LANES, &batches[1 - outer / LANES % 2]};
    if (has_new_tempering(s, outer))
      t = load_tempering(temperature_of(s, outer, 0), s->temperature_outer, b->count);
    max = kernel(b, (storage *)s->out + (ptrdiff_t)outer * s->out_outer, s->out_outer, &t, max,
                 &next, masked);
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
