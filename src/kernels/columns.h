/* Slices that are strided, over an inner axis that is contiguous: inner > 1.
 *
 * A tile of neighbouring columns is worked on together, along its rows: whole cache lines are
 * touched, and what belongs to a column (its maximum, frame, sum) stays in a small array in the
 * nearest cache. Passes and memory touched per element are those of rows.h. */
#ifndef FSM_KERNELS_COLUMNS_H
#define FSM_KERNELS_COLUMNS_H

enum { TILE = 256, TILE_VECTORS = TILE / LANES };

/* Neighbouring columns, and what is known of each. Past `width` there is padding to a whole vector.
 */
typedef struct {
  const storage *x;
  storage *out;
  ptrdiff_t x_stride, out_stride; /* from one row to the next */
  const unsigned char *where;
  ptrdiff_t where_length, where_inner;
  size_t length, width, vectors;
  double temperature[TILE];
  real max[TILE], origin[TILE], rate_hi[TILE], rate_lo[TILE], anchor[TILE], floor[TILE];
  wide sum[TILE_VECTORS];
  vcount ties[TILE_VECTORS];
  real first[TILE], second[TILE], third[TILE]; /* what the last pass takes for each column */
} tile;

static inline line tile_row(const tile *t, const storage *x, ptrdiff_t stride, size_t row) {
  line s = {x + (ptrdiff_t)row * stride, t->width,
            t->where ? t->where + (ptrdiff_t)row * t->where_length : NULL, t->where_inner};
  return s;
}

static inline size_t vector_width(const tile *t, size_t v) {
  size_t left = t->width - v * LANES;
  return left < LANES ? left : LANES;
}

FSM_INLINE void tile_max(tile *t, const bool masked) {
  for (size_t v = 0; v < t->vectors; v++) v_store_real(t->max + v * LANES, v_set1(-(real)INFINITY));
  for (size_t row = 0; row < t->length; row++) {
    line s = tile_row(t, t->x, t->x_stride, row);
    for (size_t v = 0; v < t->vectors; v++) {
      real *max = t->max + v * LANES;
      vec x = line_load(&s, v * LANES, vector_width(t, v), masked);
      v_store_real(max, v_max(x, v_load_real(max)));
    }
  }
}

/* The frame of each column. Where the maximum is not finite the sum will not be used. */
static inline void tile_frames(tile *t) {
  for (size_t c = 0; c < t->vectors * LANES; c++) {
    bool used = c < t->width && is_finite(t->max[c]);
    exp_frame f = frame_of(used ? t->max[c] : 0, rate_of(t->temperature[c]));
    t->origin[c] = f.origin;
    t->rate_hi[c] = f.rate.hi;
    t->rate_lo[c] = f.rate.lo;
    t->anchor[c] = f.anchor;
    t->floor[c] = f.floor;
  }
}

static inline exp_frame frame_of_column(const tile *t, size_t c) {
  exp_frame f = {{t->rate_hi[c], t->rate_lo[c]}, t->anchor[c], t->floor[c], t->origin[c]};
  return f;
}

/* Constants wherever they are inlined. */
typedef struct {
  bool stores; /* the terms are stored, for softmax */
  bool masked;
} tile_flags;

/* Add the terms of up to `rows` rows to the sums of vector v's columns, counting ties as in rows.h.
 */
FSM_INLINE void add_rows(tile *t, size_t row, const size_t rows, size_t v, size_t width,
                         const tile_flags flags) {
  size_t c = v * LANES;
  vec_frame f = {v_load_real(t->rate_hi + c), v_load_real(t->rate_lo + c),
                 v_load_real(t->anchor + c), v_load_real(t->floor + c)};
  vec origin = v_load_real(t->origin + c), max = v_load_real(t->max + c);
  vcount ties = t->ties[v];
  wide sum = t->sum[v];
  vec x[BLOCK], shifted[BLOCK];
  exp_term term[BLOCK];
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(t, t->x, t->x_stride, row + k);
    x[k] = line_load(&s, c, width, flags.masked);
    shifted[k] = v_sub(x[k], origin);
  }
  exp_terms(term, shifted, &f, rows);
  for (size_t k = 0; k < rows; k++) {
    vec value = exp_term_value(term[k]);
    line s = tile_row(t, t->x, t->x_stride, row + k);
    if (flags.stores)
      line_store(&s, t->out + (ptrdiff_t)(row + k) * t->out_stride, c, width, value, 0, false);
    mask tie = v_equal(x[k], max);
    ties = v_count_add(ties, tie);
    sum = wide_add_unless(tie, sum, term[k], value);
  }
  t->ties[v] = ties;
  t->sum[v] = sum;
}

FSM_INLINE void add_rows_of_tile(tile *t, size_t row, const size_t rows, const tile_flags flags) {
  size_t whole = t->width / LANES, rest = t->width % LANES;
  for (size_t v = 0; v < whole; v++) add_rows(t, row, rows, v, LANES, flags);
  if (rest) add_rows(t, row, rows, whole, rest, flags);
}

FSM_INLINE void tile_sum(tile *t, const bool stores, const bool masked) {
  const tile_flags flags = {stores, masked};
  for (size_t v = 0; v < t->vectors; v++) {
    t->sum[v] = wide_zero();
    t->ties[v] = v_count_zero();
  }
  size_t row = 0;
  for (; row + BLOCK <= t->length; row += BLOCK) add_rows_of_tile(t, row, BLOCK, flags);
  for (; row < t->length; row++) add_rows_of_tile(t, row, 1, flags);
}

/* Call with the sum and ties of each column in turn. */
typedef void column_finish(tile *t, size_t c, term_sum sum);

FSM_INLINE void for_each_column(tile *t, column_finish *finish) {
  for (size_t v = 0; v < t->vectors; v++) {
    total sums[LANES];
    double ties[LANES];
    wide_store(t->sum[v], sums);
    v_count_store(t->ties[v], ties);
    for (size_t k = 0; k < vector_width(t, v); k++)
      finish(t, v * LANES + k, (term_sum){ties[k], sums[k]});
  }
}

FSM_INLINE void finish_softmax(tile *t, size_t c, term_sum sum) {
  real_pair scale = {NAN, NAN};
  if (is_finite(t->max[c])) {
    exp_frame f = frame_of_column(t, c);
    scale = scale_of(sum, t->max[c], &f);
  }
  t->first[c] = scale.hi;
  t->second[c] = scale.lo;
}

FSM_INLINE double column_log_of_sum(const tile *t, size_t c, term_sum sum) {
  if (!is_finite(t->max[c]))
    return log_of_nonfinite_sum(t->x + c, t->x_stride,
                                t->where ? t->where + (ptrdiff_t)c * t->where_inner : NULL,
                                t->where_length, t->length);
  exp_frame f = frame_of_column(t, c);
  return log_of_sum(sum, t->max[c], &f);
}

FSM_INLINE void finish_log_softmax(tile *t, size_t c, term_sum sum) {
  log_frame f = log_frame_of(t->max[c], t->temperature[c], column_log_of_sum(t, c, sum));
  t->first[c] = f.inverse.hi;
  t->second[c] = f.inverse.lo;
  t->third[c] = f.minus_log_sum;
}

FSM_INLINE void finish_logsumexp(tile *t, size_t c, term_sum sum) {
  t->out[c] = (storage)(t->max[c] + column_log_of_sum(t, c, sum));
}

FSM_INLINE void softmax_tile(tile *t, const bool masked) {
  tile_max(t, masked);
  tile_frames(t);
  tile_sum(t, true, masked);
  for_each_column(t, finish_softmax);
  for (size_t row = 0; row < t->length; row++) {
    storage *out = t->out + (ptrdiff_t)row * t->out_stride;
    line s = tile_row(t, out, 0, row);
    for (size_t v = 0; v < t->vectors; v++) {
      size_t c = v * LANES, width = vector_width(t, v);
      vec term = line_load(&s, c, width, false);
      vec y = v_mul_add(term, v_load_real(t->first + c), v_mul(term, v_load_real(t->second + c)));
      line_store(&s, out, c, width, y, 0, masked);
    }
  }
}

FSM_INLINE void log_softmax_tile(tile *t, const bool masked) {
  tile_max(t, masked);
  tile_frames(t);
  tile_sum(t, false, masked);
  for_each_column(t, finish_log_softmax);
  for (size_t row = 0; row < t->length; row++) {
    storage *out = t->out + (ptrdiff_t)row * t->out_stride;
    line s = tile_row(t, t->x, t->x_stride, row);
    for (size_t v = 0; v < t->vectors; v++) {
      size_t c = v * LANES, width = vector_width(t, v);
      vec y = log_share(line_load(&s, c, width, false), v_load_real(t->max + c),
                        v_load_real(t->first + c), v_load_real(t->second + c),
                        v_load_real(t->third + c));
      line_store(&s, out, c, width, y, -(real)INFINITY, masked);
    }
  }
}

FSM_INLINE void logsumexp_tile(tile *t, const bool masked) {
  tile_max(t, masked);
  tile_frames(t);
  tile_sum(t, false, masked);
  for_each_column(t, finish_logsumexp);
}

typedef void tile_kernel(tile *t, const bool masked);

FSM_INLINE void for_each_tile(const fsm_slices *s, tile_kernel *kernel) {
  tile t;
  t.x_stride = s->x_length;
  t.out_stride = s->out_length;
  t.where_length = s->where_length;
  t.where_inner = s->where_inner;
  t.length = s->length;
  for (size_t outer = 0; outer < s->outer; outer++)
    for (size_t c = 0; c < s->inner; c += TILE) {
      t.width = s->inner - c < TILE ? s->inner - c : TILE;
      t.vectors = (t.width + LANES - 1) / LANES;
      t.x = (const storage *)s->x + (ptrdiff_t)outer * s->x_outer + c;
      t.out = (storage *)s->out + (ptrdiff_t)outer * s->out_outer + c;
      t.where = s->where
                    ? s->where + (ptrdiff_t)outer * s->where_outer + (ptrdiff_t)c * s->where_inner
                    : NULL;
      for (size_t k = 0; k < t.vectors * LANES; k++)
        t.temperature[k] = temperature_of(s, outer, k < t.width ? c + k : c);
      if (t.where)
        kernel(&t, true);
      else
        kernel(&t, false);
    }
}

static void softmax_columns(const fsm_slices *s) { for_each_tile(s, softmax_tile); }
static void log_softmax_columns(const fsm_slices *s) { for_each_tile(s, log_softmax_tile); }
static void logsumexp_columns(const fsm_slices *s) { for_each_tile(s, logsumexp_tile); }

#endif
