/* Slices that are strided, over an inner axis that is contiguous: inner > 1.
 *
 * A tile of neighbouring columns is worked on together, along its rows: whole cache lines are
 * touched, and what belongs to a vector of columns (their maxima, frames, sums) stays in the
 * nearest cache. Passes and memory touched per element are those of rows.h.
 *
 * Where columns are few and the rows follow each other without a gap, several rows are fused to one
 * that is a whole number of vectors, if the tile has room: a column is then several columns of the
 * tile. Their maxima and sums are folded to those of the first, and what follows from these is
 * repeated for the others. */
#ifndef FSM_KERNELS_COLUMNS_H
#define FSM_KERNELS_COLUMNS_H

#include "cpu.h"

enum { TILE_VECTORS = FSM_TILE / LANES };

/* Where neighbouring columns stand. Passes have a copy of their own: for all the compiler knows,
 * what is stored to `out` could change another. */
typedef struct {
  const storage *x;
  storage *out;
  ptrdiff_t x_stride, out_stride; /* from one row to the next */
  const unsigned char *where;
  ptrdiff_t where_length, where_inner;
  size_t length, width;
  size_t tail_width; /* of one more row that is not as wide: what is left of fused rows */
  ptrdiff_t x_ahead, out_ahead; /* from an element to that of the next tile; 0 from the last */
} tile_place;

/* Neighbouring columns, and what is known of each vector of them. */
typedef struct {
  tile_place at;
  size_t vectors;
  size_t columns; /* how many there really are: at.width, or a fraction of it if rows are fused */
  size_t rows_fused;
  bool is_shifted;        /* a column has an origin other than 0 */
  size_t temperings_step; /* 0 if all columns share the first */
  tempering temperings[TILE_VECTORS];
  vec max[TILE_VECTORS];
  vec has_nan[TILE_VECTORS]; /* 1 or 0; known for logarithms, if a maximum is not finite */
  exp_frame frame[TILE_VECTORS];
  vcount ties[TILE_VECTORS];
  wide rest[TILE_VECTORS];
  term_sum sum[TILE_VECTORS];
  share_frame share[TILE_VECTORS];
  doubles log_sum[TILE_VECTORS];
  log_frame log[TILE_VECTORS];
  vec power[TILE_VECTORS]; /* of two, by which a call's gradients are multiplied at the end */
} tile;

static inline line tile_row(const tile_place *p, const storage *x, ptrdiff_t stride, size_t row) {
  line s = {x + (ptrdiff_t)row * stride, p->width,
            p->where ? p->where + (ptrdiff_t)row * p->where_length : NULL, p->where_inner};
  return s;
}

/* What a pass does with vector v of `rows` rows from `row` on, `width` columns wide. */
typedef void tile_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                       size_t width, const bool masked);

FSM_INLINE void for_each_vector(tile *t, const tile_place *p, size_t row, const size_t rows,
                                size_t width, tile_step *step, const bool masked) {
  size_t whole = width / LANES, rest = width % LANES;
  for (size_t v = 0; v < whole; v++) step(t, p, row, rows, v, LANES, masked);
  if (rest) step(t, p, row, rows, whole, rest, masked);
}

/* The same of `rows` rows at a time, from `row` on; the first row that is left. */
FSM_INLINE size_t for_each_rows(tile *t, const tile_place *p, size_t row, const size_t rows,
                                tile_step *step, const bool masked) {
  for (; row + rows <= p->length; row += rows)
    for_each_vector(t, p, row, rows, p->width, step, masked);
  return row;
}

/* Of all rows, in blocks: what is known of a vector is loaded and stored for each of them. What is
 * left of three classes is all of them. */
FSM_INLINE void for_each_block(tile *t, tile_step *step, const bool masked) {
  const tile_place at = t->at;
  size_t row = for_each_rows(t, &at, 0, BLOCK, step, masked);
  if (!masked) {
    if (BLOCK > 4) row = for_each_rows(t, &at, row, 4, step, masked);
    row = for_each_rows(t, &at, row, 3, step, masked);
    row = for_each_rows(t, &at, row, 2, step, masked);
  }
  row = for_each_rows(t, &at, row, 1, step, masked);
  if (at.tail_width) for_each_vector(t, &at, row, 1, at.tail_width, step, masked);
}

FSM_INLINE void max_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                         size_t width, const bool masked) {
  vec max = t->max[v];
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(p, p->x, p->x_stride, row + k);
    max = v_max(line_load(&s, v * LANES, width, masked), max);
  }
  t->max[v] = max;
}

/* The elements and terms of vector v, whose frame is f. */
FSM_INLINE void tile_terms(exp_term *term, vec *x, const tile_place *p, const exp_frame *f,
                           size_t row, const size_t rows, size_t v, size_t width, const bool shifts,
                           const bool masked) {
  vec shifted[BLOCK];
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(p, p->x, p->x_stride, row + k);
    x[k] = line_load(&s, v * LANES, width, masked);
    shifted[k] = shifts ? v_sub(x[k], f->origin) : x[k];
  }
  exp_terms(term, shifted, f, rows);
}

/* Fetch what stands in the place of these vectors in the next tile, and the place of its result. */
FSM_INLINE void fetch_next_tile(const tile_place *p, size_t row, size_t v) {
  for (size_t k = 0; k < BLOCK; k++) {
    ptrdiff_t r = (ptrdiff_t)(row + k), c = (ptrdiff_t)(v * LANES);
    v_fetch_farther(p->x + r * p->x_stride + c + p->x_ahead);
    v_fetch_farther(p->out + r * p->out_stride + c + p->out_ahead);
  }
}

/* Add terms to the sums of their columns. (Fetching later, between loads and stores, took 1.4 times
 * as long in an array far away.) */
FSM_INLINE void add_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                         size_t width, const bool stores, const bool shifts, const bool masked) {
  if (rows == BLOCK && width == LANES && p->x_ahead) fetch_next_tile(p, row, v);
  exp_frame f = t->frame[v];
  vec x[BLOCK];
  exp_term term[BLOCK];
  tile_terms(term, x, p, &f, row, rows, v, width, shifts, masked);
  if (stores) {
    vec value[BLOCK];
    for (size_t k = 0; k < rows; k++) {
      value[k] = v_stored(exp_term_value(&term[k]));
      line s = tile_row(p, p->x, p->x_stride, row + k);
      storage *out = p->out + (ptrdiff_t)(row + k) * p->out_stride;
      if (KEEPS_TERMS) line_store(&s, out, v * LANES, width, value[k], 0, false);
    }
    t->rest[v] = terms_add_values(t->rest[v], value, rows, false);
  } else {
    vec value[BLOCK];
    vcount ties = t->ties[v];
    for (size_t k = 0; k < rows; k++) {
      mask tie = v_equal(x[k], t->max[v]);
      ties = v_count_add(ties, tie);
      value[k] = exp_term_value(&term[k]);
      drop_term(&value[k], &term[k], tie);
    }
    t->ties[v] = ties;
    t->rest[v] = wide_add_terms(t->rest[v], value, term, rows, false);
  }
}

FSM_INLINE void add_and_store_step(tile *t, const tile_place *p, size_t row, const size_t rows,
                                   size_t v, size_t width, const bool masked) {
  add_step(t, p, row, rows, v, width, true, masked, masked);
}
FSM_INLINE void add_only_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                              size_t width, const bool masked) {
  add_step(t, p, row, rows, v, width, false, masked, masked);
}

/* The same where an origin has to be subtracted, which takes a step more for each element. */
FSM_INLINE void add_and_store_shifted_step(tile *t, const tile_place *p, size_t row,
                                           const size_t rows, size_t v, size_t width,
                                           const bool masked) {
  add_step(t, p, row, rows, v, width, true, true, masked);
}
FSM_INLINE void add_only_shifted_step(tile *t, const tile_place *p, size_t row, const size_t rows,
                                      size_t v, size_t width, const bool masked) {
  add_step(t, p, row, rows, v, width, false, true, masked);
}

/* Find the terms again, and scale them. */
FSM_INLINE void share_again_step(tile *t, const tile_place *p, size_t row, const size_t rows,
                                 size_t v, size_t width, const bool masked) {
  share_frame last = t->share[v];
  exp_frame f = t->frame[v];
  vec x[BLOCK];
  exp_term term[BLOCK];
  tile_terms(term, x, p, &f, row, rows, v, width, true, masked);
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(p, p->x, 0, row + k);
    storage *out = p->out + (ptrdiff_t)(row + k) * p->out_stride;
    line_store(&s, out, v * LANES, width, share(exp_term_value(&term[k]), &last), 0, masked);
  }
}

/* The same of terms that have been stored. */
FSM_INLINE void scale_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                           size_t width, const bool masked) {
  share_frame last = t->share[v];
  for (size_t k = 0; k < rows; k++) {
    storage *out = p->out + (ptrdiff_t)(row + k) * p->out_stride;
    line s = tile_row(p, out, 0, row + k);
    vec value = line_load(&s, v * LANES, width, false);
    line_store(&s, out, v * LANES, width, share(value, &last), 0, masked);
  }
}

FSM_INLINE void log_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                         size_t width, const bool masked) {
  log_frame f = t->log[v];
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(p, p->x, p->x_stride, row + k);
    vec y = log_share(line_load(&s, v * LANES, width, false), &f);
    storage *out = p->out + (ptrdiff_t)(row + k) * p->out_stride;
    line_store(&s, out, v * LANES, width, y, -(real)INFINITY, masked);
  }
}

static inline const tempering *tile_tempering(const tile *t, size_t v) {
  return t->temperings + v * t->temperings_step;
}

static inline size_t tile_width(const tile *t, size_t v) {
  size_t left = t->at.width - v * LANES;
  return left < LANES ? left : LANES;
}

static inline bool is_fused(const tile *t) { return t->columns < t->at.width; }

/* Vectors that hold the columns there really are. */
static inline size_t folded_vectors(const tile *t) { return (t->columns + LANES - 1) / LANES; }

/* Repeat what was found for the columns there really are, which is `parts` vectors for each vector
 * of them, for those that they were fused to. */
static void spread(const tile *t, void *found, size_t parts) {
  real lanes[FSM_TILE + LANES];
  for (size_t p = 0; p < parts; p++) {
    vec *part = (vec *)found + p;
    for (size_t v = 0; v < folded_vectors(t); v++) v_store_real(lanes + v * LANES, part[v * parts]);
    for (size_t c = t->columns; c < t->at.width; c += t->columns)
      memcpy(lanes + c, lanes, t->columns * sizeof *lanes);
    v_store_real(lanes + t->at.width, v_set1(0));
    for (size_t v = 0; v < t->vectors; v++) part[v * parts] = v_load_real(lanes + v * LANES);
  }
}

/* Replace what was found for each column, if rows are fused, by the largest of those that were
 * fused to it. */
static void fold_largest(const tile *t, vec *found) {
  if (!is_fused(t)) return;
  real lanes[FSM_TILE + LANES];
  for (size_t v = 0; v < t->vectors; v++) v_store_real(lanes + v * LANES, found[v]);
  v_store_real(lanes + t->at.width, v_set1(-(real)INFINITY));
  for (size_t v = 0; v < folded_vectors(t); v++)
    for (size_t c = t->columns; c < t->at.width; c += t->columns)
      found[v] = v_max(v_load_real(lanes + c + v * LANES), found[v]);
  spread(t, found, 1);
}

static void fold_sums(tile *t) {
  double ties[FSM_TILE], hi[FSM_TILE], lo[FSM_TILE];
  for (size_t v = 0; v < t->vectors; v++) {
    doubles_store(t->sum[v].ties, ties + v * LANES);
    wide_store(t->sum[v].rest, hi + v * LANES, lo + v * LANES);
  }
  for (size_t from = t->columns; from < t->at.width; from += t->columns)
    for (size_t c = 0; c < t->columns; c++) {
      add_to_pair(&hi[c], &lo[c], hi[from + c], lo[from + c]);
      ties[c] += ties[from + c];
    }
  for (size_t v = 0; v < folded_vectors(t); v++) {
    t->sum[v].ties = doubles_load(ties + v * LANES);
    t->sum[v].rest = wide_load(hi + v * LANES, lo + v * LANES);
  }
}

static void find_maxima(tile *t) {
  for (size_t v = 0; v < t->vectors; v++) t->max[v] = v_set1(-(real)INFINITY);
  if (t->at.where)
    for_each_block(t, max_step, true);
  else
    for_each_block(t, max_step, false);
  fold_largest(t, t->max);
}

/* A bit for each column of vector v; lanes past the last may hold anything. */
static inline uint64_t columns_of(const tile *t, size_t v) {
  return ((uint64_t)1 << tile_width(t, v)) - 1;
}
static inline uint64_t columns_with_finite_max(const tile *t, size_t v) {
  return columns_of(t, v) & v_bits(v_finite(t->max[v]));
}
static bool all_maxima_are_finite(const tile *t) {
  bool all = true;
  for (size_t v = 0; v < folded_vectors(t); v++)
    all &= columns_with_finite_max(t, v) == columns_of(t, v);
  return all;
}
static bool no_maximum_is_finite(const tile *t) {
  bool none = true;
  for (size_t v = 0; v < folded_vectors(t); v++) none &= columns_with_finite_max(t, v) == 0;
  return none;
}

/* The frames that follow from the maxima. */
static void find_frames(tile *t) {
  t->is_shifted = false;
  for (size_t v = 0; v < t->vectors; v++) {
    t->frame[v] = frame_of(finite_or_0(t->max[v]), tile_tempering(t, v));
    t->is_shifted |= !v_all(v_equal(t->frame[v].origin, v_set1(0)));
  }
}

/* Given the frames; for a logarithm unless the terms are stored. */
FSM_INLINE void find_sums(tile *t, const bool stores) {
  for (size_t v = 0; v < t->vectors; v++) {
    t->rest[v] = stores ? terms_begin() : wide_zero();
    t->ties[v] = v_count_zero();
  }
  if (t->at.where)
    for_each_block(t, stores ? add_and_store_step : add_only_step, true);
  else if (t->is_shifted)
    for_each_block(t, stores ? add_and_store_shifted_step : add_only_shifted_step, false);
  else
    for_each_block(t, stores ? add_and_store_step : add_only_step, false);
  for (size_t v = 0; v < t->vectors; v++) {
    for (int p = 0; p < PARTS; p++) t->sum[v].ties.part[p] = v_count_part(t->ties[v], p);
    t->sum[v].rest = stores ? terms_end(t->rest[v]) : t->rest[v];
  }
  if (is_fused(t)) fold_sums(t);
}

static void store_terms(tile *t) { find_sums(t, true); }

/* Of a column without a finite maximum, the sum is of no use: see log_of_nonfinite_sums. */
static void sum_terms_for_log(tile *t) {
  if (no_maximum_is_finite(t))
    for (size_t v = 0; v < t->vectors; v++) t->sum[v] = (term_sum){doubles_set1(0), wide_zero()};
  else
    find_sums(t, false);
}

FSM_INLINE void nan_step(tile *t, const tile_place *p, size_t row, const size_t rows, size_t v,
                         size_t width, const bool masked) {
  vec x[BLOCK];
  for (size_t k = 0; k < rows; k++) {
    line s = tile_row(p, p->x, p->x_stride, row + k);
    x[k] = line_load(&s, v * LANES, width, masked);
  }
  t->has_nan[v] = v_select(nan_among(x, rows), v_set1(1), t->has_nan[v]);
}

static void find_nan(tile *t) {
  for (size_t v = 0; v < t->vectors; v++) t->has_nan[v] = v_set1(0);
  if (t->at.where)
    for_each_block(t, nan_step, true);
  else
    for_each_block(t, nan_step, false);
  fold_largest(t, t->has_nan);
}

/* The last passes, and what they take: of the columns there really are. */

static void know_shares_of_tile(tile *t) {
  for (size_t v = 0; v < folded_vectors(t); v++)
    t->share[v] = share_frame_of(&t->sum[v].rest, t->max[v], floor_term(&t->frame[v]));
}

/* A step for all columns at a time: within one, each operation waits for the one before. */
static void know_log_sums(tile *t) {
  const size_t vectors = folded_vectors(t);
  wide largest[TILE_VECTORS];
  log_operand operand[TILE_VECTORS];
  for (size_t v = 0; v < vectors; v++) largest[v] = largest_term(t->max[v], &t->frame[v]);
  for (size_t v = 0; v < vectors; v++) operand[v] = operand_of_log(&t->sum[v], largest[v]);
  for (size_t v = 0; v < vectors; v++) t->log_sum[v] = log_of(operand[v]);
  if (all_maxima_are_finite(t)) return;
  find_nan(t);
  for (size_t v = 0; v < vectors; v++) {
    mask nan = v_equal(t->has_nan[v], v_set1(1));
    t->log_sum[v] = log_of_nonfinite_sums(t->log_sum[v], t->max[v], nan);
  }
}

static void know_logs(tile *t) {
  know_log_sums(t);
  for (size_t v = 0; v < folded_vectors(t); v++)
    t->log[v] = log_frame_of(t->max[v], tile_tempering(t, v), t->log_sum[v]);
}

static void scale_terms_of_tile(tile *t) {
  if (is_fused(t)) spread(t, t->share, sizeof *t->share / sizeof(vec));
  if (t->at.where)
    for_each_block(t, KEEPS_TERMS ? scale_step : share_again_step, true);
  else
    for_each_block(t, KEEPS_TERMS ? scale_step : share_again_step, false);
}

static void store_logs(tile *t) {
  if (is_fused(t)) spread(t, t->log, sizeof *t->log / sizeof(vec));
  if (t->at.where)
    for_each_block(t, log_step, true);
  else
    for_each_block(t, log_step, false);
}

static void store_log_sums(tile *t) {
  line s = {t->at.out, t->columns, NULL, 0};
  for (size_t c = 0; c < t->columns; c += LANES) {
    size_t left = t->columns - c, v = c / LANES;
    vec y = log_sum_exp(t->max[v], t->log_sum[v]);
    line_store(&s, t->at.out, c, left < LANES ? left : LANES, y, 0, false);
  }
}

/* How many rows to fuse to one: 1 where they cannot be, or are too few for the folding to pay. */
static inline size_t rows_to_fuse(const fsm_slices *s) {
  ptrdiff_t inner = (ptrdiff_t)s->inner;
  if (s->x_length != inner || s->out_length != inner) return 1;
  if (s->where && (s->where_length != inner || s->where_inner != 1)) return 1;
  if (s->temperature && s->temperature_inner != 0) return 1;
  size_t room = FSM_TILE / s->inner, enough = s->length / 16, whole_vectors = 1;
  size_t most = room < enough ? room : enough;
  while (whole_vectors * s->inner % LANES > 0) whole_vectors++;
  return most < 2 ? 1 : whole_vectors <= most ? whole_vectors : most;
}

/* The columns of the first tile: of several, those up to the first cache line. Where a line holds a
 * part of two vectors, and the lines of neighbouring rows compete for the same places in the cache,
 * it would be fetched twice. */
static inline size_t first_tile(const fsm_slices *s, size_t outer) {
  enum { LINE = 64 / sizeof(storage) };
  const storage *x = (const storage *)s->x + (ptrdiff_t)outer * s->x_outer;
  size_t past_a_line = (uintptr_t)x / sizeof(storage) % LINE;
  return s->inner > FSM_TILE && past_a_line > 0 ? LINE - past_a_line : FSM_TILE;
}

/* From a column to that in its place in the next tile, or 0 if there is none, or no room for it in
 * the second-level cache. */
static inline ptrdiff_t to_next_tile(const fsm_slices *s, size_t outer, size_t column,
                                     size_t columns, ptrdiff_t outer_stride) {
  if (s->length * columns * sizeof(storage) > fsm_cpu_cache_sizes().second / 2) return 0;
  if (column + columns < s->inner) return (ptrdiff_t)columns;
  return outer + 1 < s->outer ? outer_stride - (ptrdiff_t)column : 0;
}

/* What all tiles of the slices share. Rows of a call are not fused: other threads may have some of
 * its columns. */
static void prepare_tiles(tile *t, const fsm_slices *s, bool reduces, bool is_call) {
  size_t fused = is_call ? 1 : rows_to_fuse(s);
  t->temperings[0] = untempered();
  t->temperings_step = s->temperature && s->temperature_inner != 0 ? 1 : 0;
  t->rows_fused = fused;
  t->at.x_stride = s->x_length * (ptrdiff_t)fused;
  t->at.out_stride = reduces ? 0 : s->out_length * (ptrdiff_t)fused;
  t->at.length = s->length / fused;
  t->at.tail_width = s->length % fused * s->inner;
  t->at.where_length = s->where_length * (ptrdiff_t)fused;
  t->at.where_inner = s->where_inner;
}

/* The tile of the slice `outer` whose columns begin at `column`. */
static void place_tile(tile *t, const fsm_slices *s, size_t outer, size_t column) {
  size_t left = s->inner - column, most = column == 0 ? first_tile(s, outer) : FSM_TILE;
  ptrdiff_t o = (ptrdiff_t)outer, c = (ptrdiff_t)column;
  t->columns = left < most ? left : most;
  t->at.width = t->columns * t->rows_fused;
  t->vectors = (t->at.width + LANES - 1) / LANES;
  t->at.x = (const storage *)s->x + o * s->x_outer + c;
  t->at.out = (storage *)s->out + o * s->out_outer + c;
  t->at.x_ahead = to_next_tile(s, outer, column, t->columns, s->x_outer);
  t->at.out_ahead = to_next_tile(s, outer, column, t->columns, s->out_outer);
  t->at.where = s->where ? s->where + o * s->where_outer + c * s->where_inner : NULL;
  size_t temperings = !s->temperature ? 0 : t->temperings_step ? t->vectors : 1;
  for (size_t v = 0; v < temperings; v++)
    t->temperings[v] = load_tempering(temperature_of(s, outer, column + v * LANES),
                                      s->temperature_inner, tile_width(t, v));
}

/* A function of slices, as passes over a tile whose frames are known. */
typedef struct {
  bool reduces;
  void (*sum)(tile *t);
  void (*know)(tile *t);   /* what the last pass takes, from the sums */
  void (*finish)(tile *t); /* the last pass */
} column_passes;

static const column_passes SOFTMAX_PASSES = {false, store_terms, know_shares_of_tile,
                                             scale_terms_of_tile};
static const column_passes LOG_SOFTMAX_PASSES = {false, sum_terms_for_log, know_logs, store_logs};
static const column_passes LOGSUMEXP_PASSES = {true, sum_terms_for_log, know_log_sums,
                                               store_log_sums};

static void columns(const fsm_slices *s, const column_passes *passes) {
  tile t;
  prepare_tiles(&t, s, passes->reduces, false);
  for (size_t outer = 0; outer < s->outer; outer++)
    for (size_t column = 0; column < s->inner; column += t.columns) {
      place_tile(&t, s, outer, column);
      find_maxima(&t);
      find_frames(&t);
      passes->sum(&t);
      passes->know(&t);
      passes->finish(&t);
    }
}

#endif
