/* Slices whose elements are contiguous: inner == 1.
 *
 * softmax: a pass for the maximum, a pass that stores the terms and sums them, a pass that scales
 * them; memory touched per element: three reads and two writes, all but the first read from cache
 * for rows that fit one. log_softmax: maximum, sum, and one pass that writes. logsumexp: two reads.
 * The shape is that of Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and
 * softmax functions", IMA J. Numer. Anal. 41(4), 2021, with the shift by the maximum taken in the
 * exponent.
 *
 * Functions here are inlined into kernels for each value of `masked`, which is known to be constant
 * there. */
#ifndef FSM_KERNELS_ROWS_H
#define FSM_KERNELS_ROWS_H

#include "cpu.h"

/* Elements before the first place in `out` that a whole vector should be stored at, be it that it
 * lies in two lines of the cache otherwise or that it is stored past the caches. */
static inline size_t unaligned_elements(const storage *out, size_t length) {
  size_t past_a_vector = (uintptr_t)out / sizeof(storage) % LANES;
  size_t count = past_a_vector ? LANES - past_a_vector : 0;
  return count < length ? count : length;
}

/* The largest element that takes part; -inf if there is none, or none but NaN. The first vector of
 * a row and the last overlap others. */
FSM_INLINE real row_max(const line *s, const bool masked) {
  vec m[4];
  for (size_t k = 0; k < 4; k++) m[k] = v_set1(-(real)INFINITY);
  if (s->length < LANES) return v_reduce_max(v_max(line_load(s, 0, s->length, masked), m[0]));
  size_t i = unaligned_elements(s->x, s->length);
  m[0] = v_max(line_load(s, 0, LANES, masked), m[0]);
  m[1] = v_max(line_load(s, s->length - LANES, LANES, masked), m[1]);
  for (; i + 4 * LANES <= s->length; i += 4 * LANES)
    for (size_t k = 0; k < 4; k++) m[k] = v_max(line_load(s, i + k * LANES, LANES, masked), m[k]);
  for (; i + LANES <= s->length; i += LANES) m[2] = v_max(line_load(s, i, LANES, masked), m[2]);
  return v_reduce_max(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

/* A row whose sum is known. */
typedef struct {
  const storage *from; /* its terms, or for a logarithm its elements */
  const real *scratch; /* its terms, if they are there instead */
  storage *out;
  size_t length;
  share_frame share;
  log_frame log;
} last_pass;

/* The results of `width` elements from i on. */
FSM_INLINE vec finished(const last_pass *p, size_t i, const size_t width, const bool is_log) {
  vec from = p->scratch ? v_load_real(p->scratch + i) : load_or_0(p->from, i, width);
  return is_log ? log_share(from, &p->log) : share(from, &p->share);
}

/* What a pass over a row's terms works on. */
typedef struct {
  const line *row;
  const exp_frame *frame;
  vec max;
  storage *out;            /* for the terms, or what another pass makes of the row */
  real *scratch;           /* for the terms where storage cannot keep them; NULL to keep none */
  const line *ahead;       /* a row as long as this one, which comes later */
  const last_pass *behind; /* of one that is no longer, and came before: stored past the caches,
                              where `out` has room for whole vectors */
} term_pass;

/* What it does; constants wherever it is inlined. */
typedef struct {
  bool masked;
  bool shifted;       /* the frame has an origin other than 0 */
  bool stores;        /* the terms are kept, if they can be */
  bool splits;        /* ties are counted apart, for a logarithm */
  bool looks_ahead;   /* the maximum of the row ahead is found as well */
  bool fetches_out;   /* the lines of the result are brought into a cache, for another pass */
  bool fetches_ahead; /* and those of the row ahead */
  bool averages;      /* the row averages the errors of a sum by fours; found by sum_of_row */
  bool finishes;      /* whole blocks of the row behind are finished, by the same function */
} term_flags;

typedef struct {
  vcount ties;
  wide rest;
  vec max_ahead; /* in some lane */
} row_sum;

enum { ELEMENTS_OF_LINE = CACHE_LINE / sizeof(storage) };

/* A block of a row, whose terms are found in two steps; and the elements of a row that average the
 * errors of a sum by fours. */
enum { ROW_BLOCK = 4, AVERAGING = 32 * LANES };
typedef struct {
  size_t width[ROW_BLOCK];
  mask tie[ROW_BLOCK];
  exp_reduced reduced[ROW_BLOCK];
} row_block;

/* Begin with `count` vectors, ROW_BLOCK, 2 or 1, from element i on; they may not all be there or
 * `whole`. Ties that are not to be stored are dropped here, lest anything be kept for them until
 * the terms are added. */
FSM_INLINE void begin_block(row_block *b, row_sum *sum, const term_pass *p, size_t i,
                            const size_t count, const bool whole, const term_flags flags) {
  vec x[ROW_BLOCK], shifted[ROW_BLOCK];
  size_t left = p->row->length - i;
  for (size_t k = 0; k < count; k++) {
    b->width[k] = whole || left > LANES ? LANES : left;
    left -= b->width[k];
    x[k] = line_load(p->row, i + k * LANES, b->width[k], flags.masked);
    shifted[k] = flags.shifted ? v_sub(x[k], p->frame->origin) : x[k];
    if (k * LANES % ELEMENTS_OF_LINE > 0 || !whole) continue;
    if (flags.fetches_out && flags.looks_ahead) v_fetch_farther(p->out + i + k * LANES);
    if (flags.fetches_out && !flags.looks_ahead) v_fetch(p->out + i + k * LANES);
    if (flags.fetches_ahead) v_fetch_farther(p->ahead->x + i + k * LANES);
  }
  exp_reduce(b->reduced, shifted, p->frame, count);
  if (!flags.splits) return;
  for (size_t k = 0; k < count; k++) {
    b->tie[k] = v_equal(x[k], p->max);
    sum->ties = v_count_add(sum->ties, b->tie[k]);
    if (!flags.stores) drop_reduced(&b->reduced[k], b->tie[k]);
  }
}

/* Add the terms of a block that has been begun to the sum. */
FSM_INLINE void add_block(row_sum *sum, const row_block *b, const term_pass *p, size_t i,
                          const size_t count, const bool whole, const term_flags flags) {
  exp_term term[ROW_BLOCK];
  exp_expand(term, b->reduced, count);
  if (flags.looks_ahead)
    for (size_t k = 0; k < count; k++) {
      vec ahead = line_load(p->ahead, i + k * LANES, b->width[k], false);
      sum->max_ahead = v_max(ahead, sum->max_ahead);
    }
  if (flags.finishes && whole && i + ROW_BLOCK * LANES <= p->behind->length)
    for (size_t k = 0; k < count; k++) {
      size_t j = i + k * LANES;
      v_stream(p->behind->out + j, finished(p->behind, j, LANES, flags.splits));
    }
  vec value[ROW_BLOCK];
  for (size_t k = 0; k < count; k++) value[k] = exp_term_value(&term[k]);
  if (flags.stores)
    for (size_t k = 0; k < count; k++) {
      if (KEEPS_TERMS)
        line_store(p->row, p->out, i + k * LANES, b->width[k], value[k], 0, false);
      else if (p->scratch)
        v_store_real(p->scratch + i + k * LANES, value[k]);
    }
  if (flags.splits) {
    for (size_t k = 0; flags.stores && k < count; k++) drop_term(&value[k], &term[k], b->tie[k]);
    sum->rest = wide_add_terms(sum->rest, value, term, count, true);
  } else {
    for (size_t k = 0; k < count; k++) value[k] = v_stored(value[k]);
    const bool by_fours = flags.averages && whole && count == ROW_BLOCK;
    sum->rest = terms_add_values(sum->rest, value, count, by_fours);
  }
}

/* Add the terms from element i on, a block at most, in as many vectors as they need or one more. */
FSM_INLINE void add_rest(row_sum *sum, const term_pass *p, size_t i, const term_flags flags) {
  row_block b;
  size_t left = p->row->length - i;
  if (left <= LANES) {
    begin_block(&b, sum, p, i, 1, false, flags);
    add_block(sum, &b, p, i, 1, false, flags);
  } else if (left <= 2 * LANES) {
    begin_block(&b, sum, p, i, 2, false, flags);
    add_block(sum, &b, p, i, 2, false, flags);
  } else {
    begin_block(&b, sum, p, i, ROW_BLOCK, false, flags);
    add_block(sum, &b, p, i, ROW_BLOCK, false, flags);
  }
}

/* Each block is begun when the one before is added, as neither waits for the other, and each waits
 * for itself most of the time. */
FSM_INLINE row_sum sum_of_blocks(const term_pass *p, const term_flags flags) {
  enum { STEP = ROW_BLOCK * LANES };
  size_t length = p->row->length, i = 0;
  row_sum sum = {v_count_zero(), flags.splits ? wide_zero() : terms_begin(),
                 v_set1(-(real)INFINITY)};
  if (length >= STEP) {
    row_block b;
    begin_block(&b, &sum, p, 0, ROW_BLOCK, true, flags);
    for (size_t last = length - STEP; i + STEP <= last; i += STEP) {
      add_block(&sum, &b, p, i, ROW_BLOCK, true, flags);
      begin_block(&b, &sum, p, i + STEP, ROW_BLOCK, true, flags);
    }
    add_block(&sum, &b, p, i, ROW_BLOCK, true, flags);
    i += STEP;
  }
  if (i < length) add_rest(&sum, p, i, flags);
  if (!flags.splits) sum.rest = terms_end(sum.rest);
  return sum;
}

FSM_INLINE row_sum sum_of_row(const term_pass *p, const term_flags flags) {
  if (PARTS == 1 || flags.splits || p->row->length < AVERAGING) return sum_of_blocks(p, flags);
  term_flags of_long = flags;
  of_long.averages = true;
  return sum_of_blocks(p, of_long);
}

/* The sum of a row's terms, in every lane. */
FSM_INLINE term_sum total_of_row(const term_pass *p, const term_flags flags) {
  row_sum sum = sum_of_row(p, flags);
  term_sum total = {doubles_set1(count_total(sum.ties)), wide_reduce(sum.rest)};
  return total;
}

/* Finish `width` elements from i on. */
FSM_INLINE void finish_vector(const last_pass *p, const line *row, size_t i, size_t width,
                              const bool is_log, const bool masked) {
  real absent = is_log ? -(real)INFINITY : 0;
  line_store(row, p->out, i, width, finished(p, i, width, is_log), absent, masked);
}

/* What a row's last pass makes of `count` vectors from element i on, ROW_BLOCK or 1. */
typedef void last_step(vec *result, const void *work, size_t i, const size_t count);

/* Store the result of a last pass over a vector or more. The first vector and the last may overlap
 * others: they are stored when these have been read. */
FSM_INLINE void store_row(storage *out, size_t length, last_step *step, const void *work) {
  enum { STEP = ROW_BLOCK * LANES };
  vec first, last, result[ROW_BLOCK];
  step(&first, work, 0, 1);
  step(&last, work, length - LANES, 1);
  size_t i = unaligned_elements(out, length);
  for (; i + STEP <= length; i += STEP) {
    step(result, work, i, ROW_BLOCK);
    for (size_t k = 0; k < ROW_BLOCK; k++) v_store(out + i + k * LANES, result[k]);
  }
  for (; i + LANES <= length; i += LANES) {
    step(result, work, i, 1);
    v_store(out + i, result[0]);
  }
  v_store(out, first);
  v_store(out + length - LANES, last);
}

FSM_INLINE void share_step(vec *result, const void *work, size_t i, const size_t count) {
  for (size_t k = 0; k < count; k++) result[k] = finished(work, i + k * LANES, LANES, false);
}
FSM_INLINE void log_share_step(vec *result, const void *work, size_t i, const size_t count) {
  for (size_t k = 0; k < count; k++) result[k] = finished(work, i + k * LANES, LANES, true);
}

FSM_INLINE void finish_row(const last_pass *p, const line *row, const bool is_log,
                           const bool masked) {
  size_t i = 0, length = p->length;
  if (!masked && length >= LANES) {
    store_row(p->out, length, is_log ? log_share_step : share_step, p);
    return;
  }
  for (; i + LANES <= length; i += LANES) finish_vector(p, row, i, LANES, is_log, masked);
  if (i < length) finish_vector(p, row, i, length - i, is_log, masked);
}

/* Finish the elements from i to `end`, in the caches. */
FSM_INLINE void finish_elements(const last_pass *p, size_t i, size_t end, const bool is_log) {
  for (; i + LANES <= end; i += LANES) finish_vector(p, NULL, i, LANES, is_log, false);
  if (i < end) finish_vector(p, NULL, i, end - i, is_log, false);
}

/* Only whole lines are stored past the caches: what is left of one at either end of a row would
 * have to be joined with what its neighbour writes, and all stores would wait for that. These lines
 * are fetched beforehand. */
FSM_INLINE void fetch_ends(const storage *out, size_t length) {
  v_fetch(out);
  v_fetch(out + length - 1);
}

/* Finish the elements before the first whole line. What is finished is not in `scratch`, which is
 * read by whole vectors that begin at multiples of one. */
FSM_INLINE void align_row(last_pass *p, const bool is_log) {
  size_t past_a_line = (uintptr_t)p->out / sizeof(storage) % ELEMENTS_OF_LINE;
  size_t count = past_a_line ? ELEMENTS_OF_LINE - past_a_line : 0;
  if (count > p->length) count = p->length;
  finish_elements(p, 0, count, is_log);
  p->from += count;
  p->out += count;
  p->length -= count;
}

/* Finish a row that has been aligned, from the line that begins at element i on. */
FSM_INLINE void stream_aligned_row(const last_pass *p, size_t i, const bool is_log) {
  size_t end = p->length / ELEMENTS_OF_LINE * ELEMENTS_OF_LINE;
  for (; i < end; i += LANES) v_stream(p->out + i, finished(p, i, LANES, is_log));
  finish_elements(p, end, p->length, is_log);
}

FSM_INLINE void stream_row(last_pass *p, const bool is_log) {
  align_row(p, is_log);
  stream_aligned_row(p, 0, is_log);
}

/* Scale the terms of the block from i on, which have to be found again. */
FSM_INLINE void share_block(const term_pass *p, storage *out, size_t i, const bool whole,
                            const share_frame *f, const bool masked) {
  row_block b;
  exp_term term[ROW_BLOCK];
  begin_block(&b, NULL, p, i, ROW_BLOCK, whole, (term_flags){.masked = masked, .shifted = true});
  exp_expand(term, b.reduced, ROW_BLOCK);
  for (size_t k = 0; k < ROW_BLOCK; k++) {
    vec y = share(exp_term_value(&term[k]), f);
    line_store(p->row, out, i + k * LANES, b.width[k], y, 0, masked);
  }
}

FSM_INLINE void share_terms(const term_pass *p, storage *out, const share_frame *f,
                            const bool masked) {
  enum { STEP = ROW_BLOCK * LANES };
  size_t i = 0, length = p->row->length;
  for (; i + STEP <= length; i += STEP) share_block(p, out, i, true, f, masked);
  if (i < length) share_block(p, out, i, false, f, masked);
}

static inline line row_of(const fsm_slices *s, size_t outer) {
  line row = {(const storage *)s->x + (ptrdiff_t)outer * s->x_outer, s->length,
              s->where ? s->where + (ptrdiff_t)outer * s->where_outer : NULL, s->where_length};
  return row;
}

static inline storage *out_of(const fsm_slices *s, size_t outer) {
  return (storage *)s->out + (ptrdiff_t)outer * s->out_outer;
}

/* Rows that follow each other, at most LANES: what is found for a row, its maximum, its frame, its
 * sum, is a lane of a vector. So what a row would wait for by itself, the reduction of its lanes, a
 * division or a logarithm, all of them wait for together. */
typedef struct {
  const fsm_slices *slices;
  const fsm_call *call; /* that the slices belong to, if to any */
  size_t first, count;
  const real *max;
  size_t count_ahead; /* rows of the next group, and those of their maxima that are known */
  real *max_ahead;
  bool is_known_ahead[LANES];
  bool is_far;         /* the last-level cache does not keep the array */
  bool splits[LANES];  /* of calls: which rows have ties apart */
  struct batch *batch; /* and their transpose, if they are short (short_rows.h) */
} group;

/* What is far away is read fastest row by row: where the last-level cache does not keep the array,
 * rows are groups of their own, and the next one is read while the division is under way. */

/* What a pass over the terms does to the memory of the result; last, nothing, as it is stored past
 * the caches later. */
typedef enum { NOTHING, FETCH_IT, STORE_TERMS, STREAM_LATER } out_use;

static inline line group_row(const group *g, size_t k) { return row_of(g->slices, g->first + k); }
static inline storage *group_out(const group *g, size_t k) {
  return out_of(g->slices, g->first + k);
}

enum {
  GROUP_BYTES = 1 << 14, /* what the first-level cache keeps of a group between passes */
  READ_BYTES = 1 << 16,  /* what the second-level cache keeps of one that is not written */
  SCRATCH = GROUP_BYTES / sizeof(real), /* elements of a group, or of one row that fits */
  SHORTEST_FETCHED_ROW = 3 << 12,       /* in bytes; the processor sees the next of shorter ones */
};

/* What becomes of the rows of a group: they are read, or written too, or that past the caches. */
typedef enum { READ, WRITTEN, STREAMED } group_use;

/* If their terms are kept in scratch, each row begins at a whole block. */
static inline size_t rows_in_group(size_t length, group_use use) {
  bool in_scratch = use == STREAMED || (use == WRITTEN && !KEEPS_TERMS);
  size_t block = ROW_BLOCK * LANES, most = (use == READ ? READ_BYTES : GROUP_BYTES) / sizeof(real),
         step = in_scratch ? (length + block - 1) / block * block : length;
  size_t count = step > 0 ? most / step : LANES;
  return count > LANES ? LANES : count < 1 ? 1 : count;
}

/* What was found for each row of a group, as a vector; to wait until single values have been stored
 * is too long if there is only one. */
FSM_INLINE vec load_lanes(const real lanes[LANES], size_t count) {
  return count == 1 ? v_set1(lanes[0]) : v_load_real(lanes);
}
FSM_INLINE doubles load_double_lanes(const double lanes[LANES], size_t count) {
  return count == 1 ? doubles_set1(lanes[0]) : doubles_load(lanes);
}

/* The frames of a group. */
typedef struct {
  real rate[2][LANES], anchor[LANES], floor[LANES], origin[LANES];
} frame_lanes;

FSM_INLINE frame_lanes lanes_of_frame(const exp_frame *f) {
  frame_lanes lanes;
  v_store_real(lanes.rate[0], f->rate.hi);
  v_store_real(lanes.rate[1], f->rate.lo);
  v_store_real(lanes.anchor, f->anchor);
  v_store_real(lanes.floor, f->floor);
  v_store_real(lanes.origin, f->origin);
  return lanes;
}

FSM_INLINE exp_frame frame_of_row(const frame_lanes *lanes, size_t k) {
  exp_frame f = {{v_set1(lanes->rate[0][k]), v_set1(lanes->rate[1][k])},
                 v_set1(lanes->anchor[k]),
                 v_set1(lanes->floor[k]),
                 v_set1(lanes->origin[k])};
  return f;
}

/* The sum of the terms of row k, which `splits` ties for a logarithm. The maximum of the row ahead
 * may be found on the way: its elements come from a farther cache while nothing has to wait for
 * them. The same goes for the lines of the result that another pass writes; they stay in the second
 * cache, as the nearest one is full with the group, unless the row is alone. */
FSM_INLINE row_sum sum_of_group_row(group *g, size_t k, const exp_frame *f, real *scratch,
                                    const out_use use, const bool splits, const bool masked) {
  const bool stores = use == STORE_TERMS, has_ahead = k < g->count_ahead;
  const bool fetches_out = use == FETCH_IT || (stores && !KEEPS_TERMS);
  line row = group_row(g, k), ahead = has_ahead ? group_row(g, g->count + k) : row;
  term_pass p = {.row = &row, .frame = f, .max = v_set1(g->max[k]), .scratch = scratch};
  p.out = use == NOTHING ? NULL : group_out(g, k);
  g->is_known_ahead[k] = false;
  if (use == STREAM_LATER) {
    fetch_ends(p.out, row.length);
    p.out = (storage *)scratch;
    p.ahead = &ahead;
    term_flags flags = {.stores = !splits, .splits = splits, .fetches_ahead = true};
    if (v_first(f->origin) == 0) return sum_of_row(&p, flags);
    flags.shifted = true;
    return sum_of_row(&p, flags);
  }
  if (masked || v_first(f->origin) != 0)
    return sum_of_row(
        &p, (term_flags){.masked = masked, .shifted = true, .stores = stores, .splits = splits});
  if (g->is_far && has_ahead && row.length * sizeof(storage) >= SHORTEST_FETCHED_ROW) {
    p.ahead = &ahead;
    return sum_of_row(&p, (term_flags){.stores = stores,
                                       .splits = splits,
                                       .fetches_out = fetches_out,
                                       .fetches_ahead = true});
  }
  if (g->is_far || !has_ahead)
    return sum_of_row(&p,
                      (term_flags){.stores = stores, .splits = splits, .fetches_out = fetches_out});
  p.ahead = &ahead;
  row_sum sum = sum_of_row(
      &p, (term_flags){
              .stores = stores, .splits = splits, .looks_ahead = true, .fetches_out = fetches_out});
  g->max_ahead[k] = v_reduce_max(sum.max_ahead);
  g->is_known_ahead[k] = true;
  return sum;
}

/* Find the maximum of the row ahead that row k of the next group is, if it is not known. */
FSM_INLINE void look_ahead(group *g, size_t k, const bool masked) {
  if (k >= g->count_ahead || g->is_known_ahead[k]) return;
  line row = group_row(g, g->count + k);
  g->max_ahead[k] = row_max(&row, masked);
}

/* What is summed of each row of a group; of those that are not, 1. */
typedef struct {
  double ties[LANES], hi[LANES], lo[LANES];
} group_sums;

FSM_INLINE void begin_sums(group_sums *sums) {
  for (size_t k = 0; k < LANES; k++) {
    sums->ties[k] = sums->hi[k] = 1;
    sums->lo[k] = 0;
  }
}

/* Sum the terms of all rows of a group, or of `some`: those for which `splits` is right. Elements
 * of row k begin at scratch[k * step]. */
FSM_INLINE void sum_rows(group_sums *sums, group *g, const frame_lanes *frames, real *scratch,
                         size_t step, const out_use use, const bool some, const bool splits,
                         const bool masked) {
  for (size_t k = 0; k < g->count; k++) {
    if (some && g->splits[k] != splits) continue;
    if (!is_finite(g->max[k]) && !(use == STORE_TERMS && g->call)) { /* of no use */
      g->is_known_ahead[k] = false;
      continue;
    }
    exp_frame f = frame_of_row(frames, k);
    real *terms = scratch ? scratch + k * step : NULL;
    row_sum sum = sum_of_group_row(g, k, &f, terms, use, splits, masked);
    double total[2];
    wide_total(sum.rest, total);
    sums->ties[k] = count_total(sum.ties);
    sums->hi[k] = total[0];
    sums->lo[k] = total[1];
  }
}

FSM_INLINE term_sum total_of_group(const group_sums *sums, size_t count) {
  const double *hi = sums->hi, *lo = sums->lo;
  return (term_sum){load_double_lanes(sums->ties, count),
                    count == 1 ? wide_set1((double[]){hi[0], lo[0]}) : wide_load(hi, lo)};
}

/* The sums of all rows' terms. */
FSM_INLINE term_sum sums_of_group(group *g, const frame_lanes *frames, real *scratch, size_t step,
                                  const out_use use, const bool splits, const bool masked) {
  group_sums sums;
  begin_sums(&sums);
  sum_rows(&sums, g, frames, scratch, step, use, false, splits, masked);
  return total_of_group(&sums, g->count);
}

typedef void group_kernel(group *g, const tempering *t, const bool masked);

/* `scratch`, if there is any, is for SCRATCH terms. */
FSM_INLINE void softmax_of_group(group *g, const tempering *t, real *scratch, const bool streams,
                                 const bool masked) {
  size_t length = g->slices->length, step = SCRATCH / g->count / LANES * LANES;
  vec max = load_lanes(g->max, g->count);
  exp_frame frame = frame_of(max, t);
  frame_lanes frames = lanes_of_frame(&frame);
  const out_use use = streams ? STREAM_LATER : STORE_TERMS;
  term_sum sums = sums_of_group(g, &frames, scratch, step, use, false, masked);
  share_frame shares = share_frame_of(&sums.rest, max, floor_term(&frame));
  real floor[LANES], hi[LANES], lo[LANES];
  v_store_real(floor, shares.floor);
  v_store_real(hi, shares.scale.hi);
  v_store_real(lo, shares.scale.lo);
  for (size_t k = 0; k < g->count; k++) {
    line row = group_row(g, k);
    storage *out = group_out(g, k);
    const bool finite = is_finite(g->max[k]); /* all are NaN otherwise */
    last_pass last = {.from = finite ? out : row.x, .out = out, .length = length};
    last.share = (share_frame){v_set1(floor[k]), {v_set1(hi[k]), v_set1(lo[k])}};
    look_ahead(g, k, masked);
    if (scratch && finite && streams) last.from = (const storage *)(scratch + k * step);
    if (scratch && finite && !streams) last.scratch = scratch + k * step;
    if (streams) {
      stream_row(&last, false);
    } else if (KEEPS_TERMS || scratch || !finite) {
      finish_row(&last, &row, false, masked);
    } else {
      exp_frame f = frame_of_row(&frames, k);
      share_terms(&(term_pass){.row = &row, .frame = &f}, out, &last.share, masked);
    }
  }
}

FSM_INLINE void softmax_group(group *g, const tempering *t, const bool masked) {
  real memory[KEEPS_TERMS ? 1 : SCRATCH];
  real *scratch = !KEEPS_TERMS && g->slices->length <= SCRATCH ? memory : NULL;
  softmax_of_group(g, t, scratch, false, masked);
}

FSM_INLINE doubles log_of_group_sums(group *g, const tempering *t, const out_use use,
                                     const bool masked) {
  vec max = load_lanes(g->max, g->count);
  exp_frame frame = frame_of(max, t);
  frame_lanes frames = lanes_of_frame(&frame);
  term_sum sums = sums_of_group(g, &frames, NULL, 0, use, true, masked);
  double logs[LANES];
  doubles_store(log_of_sum(&sums, max, &frame), logs);
  for (size_t k = 0; k < g->count; k++)
    if (!is_finite(g->max[k])) {
      line row = group_row(g, k);
      logs[k] = log_of_nonfinite_sum(&row, masked);
    }
  return doubles_load(logs);
}

FSM_INLINE void log_softmax_of_group(group *g, const tempering *t, const bool streams,
                                     const bool masked) {
  const out_use use = streams ? STREAM_LATER : FETCH_IT;
  log_frame frame =
      log_frame_of(load_lanes(g->max, g->count), t, log_of_group_sums(g, t, use, masked));
  real inverse[2][LANES], minus_log_sum[LANES], least[LANES];
  v_store_real(inverse[0], frame.inverse.hi);
  v_store_real(inverse[1], frame.inverse.lo);
  v_store_real(minus_log_sum, frame.minus_log_sum);
  v_store_real(least, frame.least);
  for (size_t k = 0; k < g->count; k++) {
    line row = group_row(g, k);
    last_pass last = {.from = row.x, .out = group_out(g, k), .length = row.length};
    last.log = (log_frame){v_set1(g->max[k]),
                           {v_set1(inverse[0][k]), v_set1(inverse[1][k])},
                           v_set1(minus_log_sum[k]),
                           v_set1(least[k])};
    look_ahead(g, k, masked);
    if (streams)
      stream_row(&last, true);
    else
      finish_row(&last, &row, true, masked);
  }
}

FSM_INLINE void log_softmax_group(group *g, const tempering *t, const bool masked) {
  log_softmax_of_group(g, t, false, masked);
}

FSM_INLINE void logsumexp_group(group *g, const tempering *t, const bool masked) {
  storage results[LANES];
  v_store(results,
          log_sum_exp(load_lanes(g->max, g->count), log_of_group_sums(g, t, NOTHING, masked)));
  for (size_t k = 0; k < g->count; k++) {
    look_ahead(g, k, masked);
    *group_out(g, k) = results[k];
  }
}

FSM_INLINE void for_each_group_if(const fsm_slices *s, const fsm_call *call, group_kernel *kernel,
                                  const group_use use, const bool masked) {
  bool is_far = array_bytes(s) > fsm_cpu_cache_sizes().last / 3;
  size_t most = is_far && use != STREAMED ? 1 : rows_in_group(s->length, use);
  tempering t = untempered();
  real maxima[2][LANES] = {{0}};
  group g;
  g.slices = s;
  g.call = call;
  g.batch = NULL;
  g.is_far = is_far;
  g.first = 0;
  g.count_ahead = s->outer < most ? s->outer : most;
  for (size_t k = 0; k < g.count_ahead; k++) {
    line row = group_row(&g, k);
    maxima[0][k] = row_max(&row, masked);
  }
  for (size_t n = 0; g.count_ahead > 0; n++) {
    g.max = maxima[n % 2];
    g.max_ahead = maxima[(n + 1) % 2];
    g.count = g.count_ahead;
    size_t left = s->outer - g.first - g.count;
    g.count_ahead = left < most ? left : most;
    if (has_new_tempering(s, g.first))
      t = load_tempering(temperature_of(s, g.first, 0), s->temperature_outer, g.count);
    kernel(&g, &t, masked);
    g.first += g.count;
  }
}

FSM_INLINE void for_each_group(const fsm_slices *s, group_kernel *kernel, const group_use use) {
  if (s->where)
    for_each_group_if(s, NULL, kernel, use, true);
  else
    for_each_group_if(s, NULL, kernel, use, false);
}

static void softmax_rows(const fsm_slices *s) { for_each_group(s, softmax_group, WRITTEN); }
static void log_softmax_rows(const fsm_slices *s) { for_each_group(s, log_softmax_group, WRITTEN); }
static void logsumexp_rows(const fsm_slices *s) { for_each_group(s, logsumexp_group, READ); }

#endif
