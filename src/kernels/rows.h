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

/* The largest element that takes part; -inf if there is none, or none but NaN. */
FSM_INLINE real row_max(const line *s, const bool masked) {
  vec m[4];
  for (size_t k = 0; k < 4; k++) m[k] = v_set1(-(real)INFINITY);
  size_t i = 0;
  for (; i + 4 * LANES <= s->length; i += 4 * LANES)
    for (size_t k = 0; k < 4; k++) m[k] = v_max(line_load(s, i + k * LANES, LANES, masked), m[k]);
  for (; i + LANES <= s->length; i += LANES) m[0] = v_max(line_load(s, i, LANES, masked), m[0]);
  if (i < s->length) m[1] = v_max(line_load(s, i, s->length - i, masked), m[1]);
  return v_reduce_max(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

/* What a pass over a row's terms works on. */
typedef struct {
  const line *row;
  const exp_frame *frame;
  vec max;
  storage *terms;
  real *scratch;       /* for the terms where storage cannot keep them; NULL to keep none */
  const storage *next; /* what to fetch into the cache meanwhile */
} term_pass;

/* What it does; constants wherever it is inlined. */
typedef struct {
  bool masked;
  bool shifted; /* the frame has an origin other than 0 */
  bool stores;  /* the terms are kept, if they can be */
  bool fetches; /* as much of p->next is fetched as there is of the row */
  bool splits;  /* ties are counted apart, for a logarithm */
} term_flags;

typedef struct {
  size_t ties;
  wide rest;
} row_sum;

/* A block of a row. */
typedef struct {
  vec x[BLOCK];
  exp_term term[BLOCK];
  size_t width[BLOCK];
} row_block;

/* The terms of the block from i on; the last one may not be whole. */
FSM_INLINE void terms_of_block(row_block *b, const term_pass *p, size_t i, const bool whole,
                               const term_flags flags) {
  vec shifted[BLOCK];
  size_t left = p->row->length - i;
  for (size_t k = 0; k < BLOCK; k++) {
    b->width[k] = whole || left > LANES ? LANES : left;
    left -= b->width[k];
    b->x[k] = line_load(p->row, i + k * LANES, b->width[k], flags.masked);
    shifted[k] = flags.shifted ? v_sub(b->x[k], p->frame->origin) : b->x[k];
    if (flags.fetches && whole) v_fetch(p->next + i + k * LANES);
  }
  exp_terms(b->term, shifted, p->frame, BLOCK);
}

/* Add the terms of the block from i on to the sum. */
FSM_INLINE void add_terms(row_sum *sum, const term_pass *p, size_t i, const bool whole,
                          const term_flags flags) {
  row_block b;
  terms_of_block(&b, p, i, whole, flags);
  vec value[BLOCK];
  for (size_t k = 0; k < BLOCK; k++) /* in a sum, what would be 0 does not show */
    value[k] =
        flags.stores ? v_stored(exp_term_value(&b.term[k], p->frame)) : unfloored_value(&b.term[k]);
  if (flags.stores)
    for (size_t k = 0; k < BLOCK; k++) {
      if (KEEPS_TERMS)
        line_store(p->row, p->terms, i + k * LANES, b.width[k], value[k], 0, false);
      else if (p->scratch)
        v_store_real(p->scratch + i + k * LANES, value[k]);
    }
  if (flags.splits) {
    mask tie[BLOCK];
    for (size_t k = 0; k < BLOCK; k++) {
      tie[k] = v_equal(b.x[k], p->max);
      sum->ties += v_count_true(tie[k]);
    }
    sum->rest = wide_add_terms(sum->rest, tie, b.term, p->frame, BLOCK, whole);
  } else {
    sum->rest = wide_add_values(sum->rest, value, BLOCK, whole);
  }
}

FSM_INLINE term_sum sum_of_row(const term_pass *p, const term_flags flags) {
  size_t length = p->row->length, i = 0;
  row_sum sum = {0, wide_zero()};
  for (; i + BLOCK * LANES <= length; i += BLOCK * LANES) add_terms(&sum, p, i, true, flags);
  if (i < length) add_terms(&sum, p, i, false, flags);
  term_sum result = {doubles_set1((double)sum.ties), wide_reduce(sum.rest)};
  return result;
}

/* The sum of a row's terms: for softmax, which keeps them, of all; for a logarithm without ties. */
FSM_INLINE term_sum sum_of_terms(const line *s, vec max, const exp_frame *f, storage *terms,
                                 real *scratch, const bool stores, const bool masked) {
  term_pass p = {s, f, max, terms, scratch, NULL};
  if (v_first(f->origin) == 0)
    return sum_of_row(&p, (term_flags){.masked = masked, .stores = stores, .splits = !stores});
  return sum_of_row(
      &p, (term_flags){.masked = masked, .shifted = true, .stores = stores, .splits = !stores});
}

FSM_INLINE doubles row_log_of_sum(const line *s, vec max, const tempering *t, const bool masked) {
  if (!is_finite(v_first(max))) return doubles_set1(log_of_nonfinite_sum(s, masked));
  exp_frame f = frame_of(max, t);
  term_sum sum = sum_of_terms(s, max, &f, NULL, NULL, false, masked);
  return log_of_sum(&sum, max, &f);
}

FSM_INLINE void scale_vector(const line *terms, storage *out, size_t i, size_t width,
                             vec_pair scale, const bool masked) {
  vec y = scaled(line_load(terms, i, width, false), scale);
  line_store(terms, out, i, width, y, 0, masked);
}

FSM_INLINE void scale_stored_terms(const line *s, storage *out, vec_pair scale, const bool masked) {
  line terms = {out, s->length, s->where, s->where_stride};
  size_t i = 0;
  for (; i + LANES <= s->length; i += LANES) scale_vector(&terms, out, i, LANES, scale, masked);
  if (i < s->length) scale_vector(&terms, out, i, s->length - i, scale, masked);
}

/* Elements of a row whose terms fit the scratch: a multiple of any block. */
enum { SCRATCH = 4096 };

FSM_INLINE void scale_scratch(const real *terms, const line *s, storage *out, vec_pair scale,
                              const bool masked) {
  size_t i = 0;
  for (; i + LANES <= s->length; i += LANES)
    line_store(s, out, i, LANES, scaled(v_load_real(terms + i), scale), 0, masked);
  if (i < s->length)
    line_store(s, out, i, s->length - i, scaled(v_load_real(terms + i), scale), 0, masked);
}

/* Scale the terms of the block from i on, which have to be found again. */
FSM_INLINE void share_block(const term_pass *p, storage *out, size_t i, const bool whole,
                            vec_pair scale, const bool masked) {
  row_block b;
  terms_of_block(&b, p, i, whole, (term_flags){.masked = masked, .shifted = true});
  for (size_t k = 0; k < BLOCK; k++) {
    vec y = scaled(exp_term_value(&b.term[k], p->frame), scale);
    line_store(p->row, out, i + k * LANES, b.width[k], y, 0, masked);
  }
}

FSM_INLINE void share_terms(const term_pass *p, storage *out, vec_pair scale, const bool masked) {
  size_t i = 0, length = p->row->length;
  for (; i + BLOCK * LANES <= length; i += BLOCK * LANES)
    share_block(p, out, i, true, scale, masked);
  if (i < length) share_block(p, out, i, false, scale, masked);
}

/* Each kernel of a row takes its maximum and returns that of the next one, if there is one. It
 * finds that while its own division or logarithm is under way, which nothing else could start
 * before. */

FSM_INLINE real max_of_next(const line *next, const bool masked) {
  return next ? row_max(next, masked) : 0;
}

FSM_INLINE real softmax_row(const line *s, storage *out, const tempering *t, real row_maximum,
                            const line *next, const bool masked) {
  vec max = v_set1(row_maximum);
  exp_frame f = frame_of(max, t);
  real memory[KEEPS_TERMS ? 1 : SCRATCH], *scratch = s->length <= SCRATCH ? memory : NULL;
  term_sum sum = sum_of_terms(s, max, &f, out, scratch, true, masked);
  vec_pair scale = scale_of(&sum.rest, max);
  real next_maximum = max_of_next(next, masked);
  if (KEEPS_TERMS)
    scale_stored_terms(s, out, scale, masked);
  else if (scratch)
    scale_scratch(scratch, s, out, scale, masked);
  else
    share_terms(&(term_pass){.row = s, .frame = &f}, out, scale, masked);
  return next_maximum;
}

FSM_INLINE void log_vector(const line *s, storage *out, size_t i, size_t width, const log_frame *f,
                           const bool masked) {
  vec y = log_share(line_load(s, i, width, false), f);
  line_store(s, out, i, width, y, -(real)INFINITY, masked);
}

FSM_INLINE real log_softmax_row(const line *s, storage *out, const tempering *t, real row_maximum,
                                const line *next, const bool masked) {
  vec max = v_set1(row_maximum);
  log_frame f = log_frame_of(max, t, row_log_of_sum(s, max, t, masked));
  real next_maximum = max_of_next(next, masked);
  size_t i = 0;
  for (; i + LANES <= s->length; i += LANES) log_vector(s, out, i, LANES, &f, masked);
  if (i < s->length) log_vector(s, out, i, s->length - i, &f, masked);
  return next_maximum;
}

FSM_INLINE real logsumexp_row(const line *s, storage *out, const tempering *t, real row_maximum,
                              const line *next, const bool masked) {
  vec max = v_set1(row_maximum);
  vec result = log_sum_exp(max, row_log_of_sum(s, max, t, masked));
  real next_maximum = max_of_next(next, masked);
  v_store_part(out, 1, result);
  return next_maximum;
}

static inline line row_of(const fsm_slices *s, size_t outer) {
  line row = {(const storage *)s->x + (ptrdiff_t)outer * s->x_outer, s->length,
              s->where ? s->where + (ptrdiff_t)outer * s->where_outer : NULL, s->where_length};
  return row;
}

typedef real row_kernel(const line *row, storage *out, const tempering *t, real row_maximum,
                        const line *next, const bool masked);

FSM_INLINE void for_each_row_if(const fsm_slices *s, row_kernel *kernel, const bool masked) {
  if (s->outer == 0) return;
  tempering t = tempering_set1(tempering_of(1));
  line row = row_of(s, 0);
  real maximum = row_max(&row, masked);
  for (size_t outer = 0; outer < s->outer; outer++) {
    bool is_last = outer + 1 == s->outer;
    line next = row_of(s, is_last ? outer : outer + 1);
    storage *out = (storage *)s->out + (ptrdiff_t)outer * s->out_outer;
    if (s->temperature) t = tempering_set1(tempering_of(*temperature_of(s, outer, 0)));
    maximum = kernel(&row, out, &t, maximum, is_last ? NULL : &next, masked);
    row = next;
  }
}

FSM_INLINE void for_each_row(const fsm_slices *s, row_kernel *kernel) {
  if (s->where)
    for_each_row_if(s, kernel, true);
  else
    for_each_row_if(s, kernel, false);
}

static void softmax_rows(const fsm_slices *s) { for_each_row(s, softmax_row); }
static void log_softmax_rows(const fsm_slices *s) { for_each_row(s, log_softmax_row); }
static void logsumexp_rows(const fsm_slices *s) { for_each_row(s, logsumexp_row); }

#endif
