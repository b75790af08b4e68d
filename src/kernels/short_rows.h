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

/* Columns are worked on by fours, and the last ones by twos; one past a row's end holds -inf, and
 * counts for nothing. */
enum { COLUMNS_AT_ONCE = 4 };
enum { MOST_COLUMNS = SHORT + SHORT % 2 };

/* Some of the rows, at most LANES, and their transpose. */
typedef struct batch {
  line first;
  ptrdiff_t stride, where_stride; /* from one row to the next */
  size_t count;
  _Alignas(LANES * sizeof(real)) real columns[MOST_COLUMNS][LANES];
} batch;

/* What is known of a batch; constants wherever it is worked on. */
typedef struct {
  bool masked;
  bool full; /* it has LANES rows */
} batch_kind;

static inline line batch_row(const batch *b, size_t k) {
  line row = b->first;
  row.x += (ptrdiff_t)k * b->stride;
  if (row.where) row.where += (ptrdiff_t)k * b->where_stride;
  return row;
}

/* Whether what is less than a block of the rows may be read and written by strips. */
static inline bool in_strips(const batch *b, const batch_kind kind) {
  return !kind.masked && (kind.full || b->count == LANES) && b->first.length >= STRIP;
}

/* The first column of the strip that column i begins: the last one may overlap the one before. */
static inline size_t strip_from(size_t i, size_t length) {
  return i + STRIP <= length ? i : length - STRIP;
}

/* Set column i, and the largest of some with it. */
FSM_INLINE void batch_set_column(batch *b, size_t i, vec x, vec *max) {
  v_store_real(b->columns[i], x);
  *max = v_max(x, *max);
}

/* Lanes past the last row repeat it. */
FSM_INLINE void batch_load_columns(batch *b, size_t i, size_t width, vec max[COLUMNS_AT_ONCE],
                                   const batch_kind kind) {
  vec a[LANES];
  for (size_t k = 0; k < LANES; k++) {
    line row = batch_row(b, kind.full || k < b->count ? k : b->count - 1);
    a[k] = line_load(&row, i, width, kind.masked);
  }
  v_transpose(a);
  for (size_t k = 0; k < LANES; k++) batch_set_column(b, i + k, a[k], &max[k % COLUMNS_AT_ONCE]);
}

/* Read the rows, and find their maxima. */
FSM_INLINE vec batch_load(batch *b, const batch_kind kind) {
  size_t i = 0, length = b->first.length;
  vec max[COLUMNS_AT_ONCE], nothing = v_set1(-(real)INFINITY);
  for (size_t k = 0; k < COLUMNS_AT_ONCE; k++) max[k] = nothing;
  for (; i + LANES <= length; i += LANES) batch_load_columns(b, i, LANES, max, kind);
  if (i < length && !in_strips(b, kind)) {
    batch_load_columns(b, i, length - i, max, kind);
    i = length;
  }
  for (; i < length; i += STRIP) {
    size_t from = strip_from(i, length);
    vec a[STRIP];
    v_load_strip(a, b->first.x + from, b->stride);
    for (size_t k = 0; k < STRIP; k++)
      batch_set_column(b, from + k, a[k], &max[k % COLUMNS_AT_ONCE]);
  }
  if (length % 2 == 1) v_store_real(b->columns[length], nothing);
  for (size_t k = 1; k < COLUMNS_AT_ONCE; k++) max[0] = v_max(max[k], max[0]);
  return max[0];
}

/* Columns whose terms are found in two steps, as those of a row_block. */
typedef struct {
  mask tie[COLUMNS_AT_ONCE];
  exp_reduced reduced[COLUMNS_AT_ONCE];
} batch_block;

/* What becomes of the terms of a batch. */
typedef struct {
  bool stores; /* they take the places of the elements */
  bool splits; /* ties are counted apart, for a logarithm */
} batch_flags;

/* Begin with `count` columns from i on. */
FSM_INLINE void batch_begin_block(batch_block *block, const batch *b, size_t i, const size_t count,
                                  vec max, const exp_frame *f, const batch_flags flags) {
  vec x[COLUMNS_AT_ONCE], shifted[COLUMNS_AT_ONCE];
  for (size_t k = 0; k < count; k++) {
    x[k] = v_load_real(b->columns[i + k]);
    shifted[k] = v_sub(x[k], f->origin);
  }
  exp_reduce(block->reduced, shifted, f, count);
  if (!flags.splits) return;
  for (size_t k = 0; k < count; k++) {
    block->tie[k] = v_equal(x[k], max);
    if (!flags.stores) drop_reduced(&block->reduced[k], block->tie[k]);
  }
}

/* Add their terms to the sum. */
FSM_INLINE void batch_add_block(term_sum *sum, vcount *ties, const batch_block *block, batch *b,
                                size_t i, const size_t count, const batch_flags flags) {
  vec value[COLUMNS_AT_ONCE];
  exp_term term[COLUMNS_AT_ONCE];
  exp_expand(term, block->reduced, count);
  for (size_t k = 0; k < count; k++) {
    value[k] = exp_term_value(&term[k]);
    if (flags.stores) v_store_real(b->columns[i + k], v_stored(value[k]));
  }
  if (flags.splits) {
    for (size_t k = 0; k < count; k++) {
      *ties = v_count_add(*ties, block->tie[k]);
      if (flags.stores) drop_term(&value[k], &term[k], block->tie[k]);
    }
    sum->rest = wide_add_terms(sum->rest, value, term, count, false);
  } else {
    for (size_t k = 0; k < count; k++) value[k] = v_stored(value[k]);
    sum->rest = terms_add_values(sum->rest, value, count, false);
  }
}

FSM_INLINE void batch_add_last(term_sum *sum, vcount *ties, batch *b, size_t i, const size_t count,
                               vec max, const exp_frame *f, const batch_flags flags) {
  batch_block block;
  batch_begin_block(&block, b, i, count, max, f, flags);
  batch_add_block(sum, ties, &block, b, i, count, flags);
}

FSM_INLINE term_sum batch_sum(batch *b, vec max, const exp_frame *f, const batch_flags flags) {
  enum { STEP = COLUMNS_AT_ONCE };
  vcount ties = v_count_zero();
  term_sum sum = {doubles_set1(0), flags.splits ? wide_zero() : terms_begin()};
  batch_block block;
  size_t i = 0, length = b->first.length;
  if (length >= STEP) {
    batch_begin_block(&block, b, 0, STEP, max, f, flags);
    for (; i + 2 * STEP <= length; i += STEP) {
      batch_add_block(&sum, &ties, &block, b, i, STEP, flags);
      batch_begin_block(&block, b, i + STEP, STEP, max, f, flags);
    }
    batch_add_block(&sum, &ties, &block, b, i, STEP, flags);
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
  for (size_t i = 0; i < b->first.length; i += 2) {
    vec x[] = {v_load_real(b->columns[i]), v_load_real(b->columns[i + 1])};
    nan = v_or(nan, nan_among(x, 2));
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

/* What counts for nothing is known by the bound on its term: to find that exactly, as rows that are
 * not short have it, takes as long as two columns. */
FSM_INLINE vec softmax_finish(vec term, const batch_frame *f) {
  return share(v_max(f->share.floor, term), &f->share);
}
FSM_INLINE vec log_softmax_finish(vec x, const batch_frame *f) { return log_share(x, &f->log); }

FSM_INLINE void batch_store_columns(const batch *b, storage *out, ptrdiff_t stride, size_t i,
                                    size_t width, batch_finish *finish, const batch_frame *f,
                                    real absent, const batch_kind kind) {
  vec a[LANES];
  for (size_t k = 0; k < LANES; k++) a[k] = finish(v_load_real(b->columns[i + k]), f);
  v_transpose(a);
  for (size_t k = 0; k < LANES; k++) {
    if (!kind.full && k == b->count) return;
    line row = batch_row(b, k);
    line_store(&row, out + (ptrdiff_t)k * stride, i, width, a[k], absent, kind.masked);
  }
}

/* Write the rows out, with `absent` for elements that take no part. */
FSM_INLINE void batch_store(const batch *b, storage *out, ptrdiff_t stride, batch_finish *finish,
                            const batch_frame *f, real absent, const batch_kind kind) {
  size_t i = 0, length = b->first.length;
  for (; i + LANES <= length; i += LANES)
    batch_store_columns(b, out, stride, i, LANES, finish, f, absent, kind);
  if (i == length) return;
  if (!in_strips(b, kind)) {
    batch_store_columns(b, out, stride, i, length - i, finish, f, absent, kind);
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
FSM_INLINE vec batch_begin(batch *b, const fsm_slices *s, size_t outer, const batch_kind kind) {
  b->first = row_of(s, outer);
  b->count = s->outer - outer < LANES ? s->outer - outer : LANES;
  return batch_load(b, kind);
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
                         const batch_next *next, const batch_kind kind);

FSM_INLINE vec begin_next(const batch_next *next, vec max, const batch_kind kind) {
  if (next->outer >= next->slices->outer) return max;
  return batch_begin(next->batch, next->slices, next->outer, kind);
}

FSM_INLINE vec softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t, vec max,
                             const batch_next *next, const batch_kind kind) {
  exp_frame f = frame_of(finite_or_0(max), t);
  term_sum sum = batch_sum(b, max, &f, (batch_flags){.stores = true});
  batch_frame last = {.share = share_frame_of(&sum.rest, max, v_set1((real)NEGLIGIBLE_TERM))};
  vec next_max = begin_next(next, max, kind);
  batch_store(b, out, stride, softmax_finish, &last, 0, kind);
  return next_max;
}

FSM_INLINE vec log_softmax_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                                 vec max, const batch_next *next, const batch_kind kind) {
  batch_frame last = {.log = log_frame_of(max, t, batch_log_of_sum(b, max, t))};
  vec next_max = begin_next(next, max, kind);
  batch_store(b, out, stride, log_softmax_finish, &last, -(real)INFINITY, kind);
  return next_max;
}

FSM_INLINE vec logsumexp_batch(batch *b, storage *out, ptrdiff_t stride, const tempering *t,
                               vec max, const batch_next *next, const batch_kind kind) {
  vec result = log_sum_exp(max, batch_log_of_sum(b, max, t));
  vec next_max = begin_next(next, max, kind);
  storage results[LANES];
  v_store(results, result);
  size_t count = kind.full ? LANES : b->count;
  for (size_t k = 0; k < count; k++) out[(ptrdiff_t)k * stride] = results[k];
  return next_max;
}

/* The last one of full batches has some rows of the one before again: they are read before their
 * results are written, perhaps in their places. */
FSM_INLINE void for_each_batch(const fsm_slices *s, batch_kernel *kernel, const batch_kind kind) {
  batch batches[2], *b = &batches[0], *other = &batches[1];
  for (int k = 0; k < 2; k++) {
    batches[k].stride = s->x_outer;
    batches[k].where_stride = s->where_outer;
  }
  tempering t = untempered();
  vec max = batch_begin(b, s, 0, kind);
  for (size_t outer = 0; outer < s->outer;) {
    batch_next next = {s, outer + LANES, other};
    if (kind.full && next.outer < s->outer && s->outer - next.outer < LANES)
      next.outer = s->outer - LANES;
    if (has_new_tempering(s, outer))
      t = load_tempering(temperature_of(s, outer, 0), s->temperature_outer, b->count);
    max = kernel(b, (storage *)s->out + (ptrdiff_t)outer * s->out_outer, s->out_outer, &t, max,
                 &next, kind);
    outer = next.outer;
    other = b;
    b = next.batch;
  }
}

FSM_INLINE void short_rows(const fsm_slices *s, batch_kernel *kernel) {
  if (s->where)
    for_each_batch(s, kernel, (batch_kind){.masked = true});
  else if (s->outer < LANES)
    for_each_batch(s, kernel, (batch_kind){.full = false});
  else
    for_each_batch(s, kernel, (batch_kind){.full = true});
}

static void softmax_short_rows(const fsm_slices *s) { short_rows(s, softmax_batch); }
static void log_softmax_short_rows(const fsm_slices *s) { short_rows(s, log_softmax_batch); }
static void logsumexp_short_rows(const fsm_slices *s) { short_rows(s, logsumexp_batch); }

#endif
