/* Rows of FSM_LONG elements or more: inner == 1.
 *
 * They are worked on in parts, which threads may share. How a row is cut depends on its length
 * alone, and the sums of its parts are added in their order, so the result is the same whoever does
 * them.
 *
 * The passes are those of rows.h, but for two exceptions. For the logarithm of floats, each part is
 * summed in a frame of its own, while it is in the second-level cache. And the terms of a softmax
 * that the caches do not keep may be found twice. Memory touched per element then: one read for the
 * sum (of doubles, two), and one read and one write past the caches for the results. */
#ifndef FSM_KERNELS_LONG_ROWS_H
#define FSM_KERNELS_LONG_ROWS_H

#include "cpu.h"

enum { MOST_PARTS = 1024, SHORTEST_PART = 1 << 14 };

/* A row, and what is known of it and of its parts. */
typedef struct {
  const fsm_slices *slices;
  line x;
  storage *out;
  size_t part_length; /* the last part may be shorter */
  int parts;
  tempering t;
  vec max;
  exp_frame frame;
  share_frame share;
  log_frame log;
  struct {
    real max;
    double ties, sum[2]; /* of terms, without ties for a logarithm */
    /* Of a frame of its own: 2^n is what its terms lack, besides the origin. */
    double n, origin, largest;
  } part[MOST_PARTS];
} long_row;

static line part_of(const long_row *r, int k) {
  size_t from = (size_t)k * r->part_length, left = r->x.length - from;
  line part = r->x;
  part.x += from;
  if (part.where) part.where += (ptrdiff_t)from * part.where_stride;
  part.length = left < r->part_length ? left : r->part_length;
  return part;
}

/* (Frames are copied by those who use them: for all the compiler knows, what is stored to `out`
 * could change them.) */
static storage *out_of_part(const long_row *r, int k) {
  return r->out + (size_t)k * r->part_length;
}

static void for_each_part(long_row *r, fsm_task *task) { do_parts(r->slices, task, r, r->parts); }

static void find_max_of_part(void *work, int k, int thread) {
  (void)thread;
  long_row *r = work;
  line x = part_of(r, k);
  r->part[k].max = x.where ? row_max(&x, true) : row_max(&x, false);
}

/* Given those of the parts, the maximum, and the frame. */
static void know_max(long_row *r) {
  real max = r->part[0].max;
  for (int k = 1; k < r->parts; k++)
    if (r->part[k].max > max) max = r->part[k].max;
  r->max = v_set1(max);
  r->frame = frame_of(r->max, &r->t);
}

FSM_INLINE void sum_part(long_row *r, int k, const bool stores, const bool splits) {
  line x = part_of(r, k);
  exp_frame f = r->frame;
  storage *terms = stores ? out_of_part(r, k) : NULL;
  term_pass p = {.row = &x, .frame = &f, .max = r->max, .out = terms};
  row_sum sum;
  if (x.where)
    sum = sum_of_row(
        &p, (term_flags){.masked = true, .shifted = true, .stores = stores, .splits = splits});
  else if (v_first(f.origin) != 0)
    sum = sum_of_row(&p, (term_flags){.shifted = true, .stores = stores, .splits = splits});
  else
    sum = sum_of_row(&p, (term_flags){.stores = stores, .splits = splits});
  r->part[k].ties = (double)sum.ties;
  wide_total(sum.rest, r->part[k].sum);
}

static void keep_terms_of_part(void *work, int k, int thread) {
  (void)thread;
  sum_part(work, k, KEEPS_TERMS, false);
}

static term_sum total_of_parts(const long_row *r) {
  double ties = 0, total[2] = {0, 0};
  for (int k = 0; k < r->parts; k++) {
    ties += r->part[k].ties;
    add_to_pair(&total[0], &total[1], r->part[k].sum[0], r->part[k].sum[1]);
  }
  return (term_sum){doubles_set1(ties), wide_set1(total)};
}

FSM_INLINE void finish_part(const long_row *r, int k, const bool is_log) {
  line x = part_of(r, k);
  storage *out = out_of_part(r, k);
  last_pass p = {.from = is_log ? x.x : out, .out = out, .length = x.length};
  p.share = r->share;
  p.log = r->log;
  if (x.where)
    finish_row(&p, &x, is_log, true);
  else
    finish_row(&p, &x, is_log, false);
}

static void scale_part(void *work, int k, int thread) {
  (void)thread;
  finish_part(work, k, false);
}

static void log_part(void *work, int k, int thread) {
  (void)thread;
  finish_part(work, k, true);
}

/* The terms, found again and scaled. */
static void share_part(void *work, int k, int thread) {
  (void)thread;
  long_row *r = work;
  line x = part_of(r, k);
  exp_frame f = r->frame;
  share_frame last = r->share;
  term_pass p = {.row = &x, .frame = &f};
  if (x.where)
    share_terms(&p, out_of_part(r, k), &last, true);
  else
    share_terms(&p, out_of_part(r, k), &last, false);
}

static void log_part_past_caches(void *work, int k, int thread) {
  (void)thread;
  const long_row *r = work;
  last_pass part = {.from = part_of(r, k).x, .out = out_of_part(r, k), .log = r->log};
  part.length = part_of(r, k).length;
  stream_row(&part, true);
  v_finish_streams();
}

/* Whether the caches do not keep the array, and its result, from pass to pass. */
static bool outgrows_caches(const long_row *r) {
  return !r->x.where && 2 * array_bytes(r->slices) > fsm_cpu_cache_sizes().last;
}

#if defined FSM_FLOAT32 && !defined FSM_REAL_DOUBLE

/* The maximum of a part, and the sum of its terms in a frame of its own, while it is in a near
 * cache. The next part is fetched meanwhile. */
FSM_INLINE void sum_part_apart(long_row *r, int k, const bool splits) {
  line x = part_of(r, k), next = part_of(r, k + 2 < r->parts ? k + 1 : k); /* of the same length */
  real max = x.where ? row_max(&x, true) : row_max(&x, false);
  double largest[LANES];
  r->part[k].max = max;
  r->part[k].n = r->part[k].origin = r->part[k].ties = r->part[k].sum[1] = 0;
  if (!is_finite(max)) {
    r->part[k].sum[0] = log_of_nonfinite_sum(&x, x.where != NULL);
    return;
  }
  exp_frame f = frame_of(v_set1(max), &r->t);
  term_pass p = {.row = &x, .frame = &f, .max = v_set1(max), .ahead = &next};
  row_sum sum;
  if (x.where)
    sum = sum_of_row(&p, (term_flags){.masked = true, .shifted = true, .splits = splits});
  else if (v_first(f.origin) != 0)
    sum = sum_of_row(&p, (term_flags){.shifted = true, .splits = splits, .fetches_ahead = true});
  else
    sum = sum_of_row(&p, (term_flags){.splits = splits, .fetches_ahead = true});
  wide_total(sum.rest, r->part[k].sum);
  doubles_store(largest_term(v_set1(max), &f), largest);
  r->part[k].ties = (double)sum.ties;
  r->part[k].largest = largest[0];
  r->part[k].n = (double)(ANCHOR + EXPONENT_BIAS + SPARE) - (double)v_first(f.anchor);
  r->part[k].origin = (double)v_first(f.origin);
}

static void sum_part_for_softmax(void *work, int k, int thread) {
  (void)thread;
  sum_part_apart(work, k, false);
}

static void sum_part_for_log(void *work, int k, int thread) {
  (void)thread;
  sum_part_apart(work, k, true);
}

/* Bring the sums of the parts to the frame of the row. */
static void join_parts(long_row *r) {
  double rate = (double)v_first(r->t.rate.hi) + (double)v_first(r->t.rate.lo);
  double n = (double)(ANCHOR + EXPONENT_BIAS + SPARE) - (double)v_first(r->frame.anchor);
  double origin = (double)v_first(r->frame.origin);
  for (int k = 0; k < r->parts; k++) {
    if (r->part[k].max < v_first(r->max)) { /* what ties in the part does not in the row */
      r->part[k].sum[0] += r->part[k].ties * r->part[k].largest;
      r->part[k].ties = 0;
    }
    r->part[k].sum[0] *= exp2((r->part[k].n - n) + (r->part[k].origin - origin) * rate);
  }
}

static void sum_parts_apart(long_row *r, fsm_task *sum_part_alone) {
  for_each_part(r, sum_part_alone);
  know_max(r);
  join_parts(r);
}

static void sum_for_log(long_row *r) { sum_parts_apart(r, sum_part_for_log); }
static void sum_for_softmax(long_row *r) { sum_parts_apart(r, sum_part_for_softmax); }

#else /* Frames of parts lie a factor apart that is not exact to twice the precision of double. */

static void sum_part_for_softmax(void *work, int k, int thread) {
  (void)thread;
  sum_part(work, k, false, false);
}

static void sum_part_for_log(void *work, int k, int thread) {
  (void)thread;
  sum_part(work, k, false, true);
}

static void sum_parts(long_row *r, fsm_task *sum_part_in_frame) {
  for_each_part(r, find_max_of_part);
  know_max(r);
  for_each_part(r, sum_part_in_frame);
}

static void sum_for_log(long_row *r) { sum_parts(r, sum_part_for_log); }
static void sum_for_softmax(long_row *r) { sum_parts(r, sum_part_for_softmax); }

#endif

static void share_part_past_caches(void *work, int k, int thread) {
  (void)thread;
  long_row *r = work;
  line x = part_of(r, k);
  exp_frame f = r->frame;
  share_frame last = r->share;
  if (v_first(f.origin) != 0)
    share_terms_past_caches(&x, &f, out_of_part(r, k), &last, true);
  else
    share_terms_past_caches(&x, &f, out_of_part(r, k), &last, false);
}

static void know_share(long_row *r) {
  term_sum sum = total_of_parts(r);
  r->share = share_frame_of(&sum.rest, r->max, &r->frame);
}

/* Whether terms are found once for the sum and again for the result: less memory is touched than
 * to write them and read them again. For one thread, that takes longer with doubles, and by single
 * lanes; several have to share the memory. The result is the same. */
static bool finds_terms_twice(const long_row *r) {
  if (LANES == 1 || !outgrows_caches(r)) return false;
  return sizeof(real) < sizeof(double) || r->slices->each;
}

static void softmax_long_row(long_row *r) {
  if (finds_terms_twice(r)) {
    sum_for_softmax(r);
    know_share(r);
    for_each_part(r, share_part_past_caches);
    return;
  }
  for_each_part(r, find_max_of_part);
  know_max(r);
  for_each_part(r, keep_terms_of_part);
  know_share(r);
  for_each_part(r, KEEPS_TERMS ? scale_part : share_part);
}

static doubles log_of_long_row(long_row *r) {
  sum_for_log(r);
  if (!is_finite(v_first(r->max)))
    return doubles_set1(log_of_nonfinite_sum(&r->x, r->x.where != NULL));
  term_sum sum = total_of_parts(r);
  return log_of_sum(&sum, r->max, &r->frame);
}

static void log_softmax_long_row(long_row *r) {
  doubles log_sum = log_of_long_row(r);
  r->log = log_frame_of(r->max, &r->t, log_sum);
  for_each_part(r, outgrows_caches(r) ? log_part_past_caches : log_part);
}

static void logsumexp_long_row(long_row *r) {
  doubles log_sum = log_of_long_row(r);
  v_store_part(r->out, 1, log_sum_exp(r->max, log_sum));
}

static void for_each_long_row(const fsm_slices *s, void (*kernel)(long_row *r)) {
  long_row r = {.slices = s};
  size_t block = BLOCK * LANES, length = (s->length + MOST_PARTS - 1) / MOST_PARTS;
  if (length < SHORTEST_PART) length = SHORTEST_PART;
  r.part_length = (length + block - 1) / block * block;
  r.parts = (int)((s->length + r.part_length - 1) / r.part_length);
  for (size_t outer = 0; outer < s->outer; outer++) {
    r.x = row_of(s, outer);
    r.out = out_of(s, outer);
    r.t = row_tempering(s, outer);
    kernel(&r);
  }
}

static void softmax_long_rows(const fsm_slices *s) { for_each_long_row(s, softmax_long_row); }
static void log_softmax_long_rows(const fsm_slices *s) {
  for_each_long_row(s, log_softmax_long_row);
}
static void logsumexp_long_rows(const fsm_slices *s) { for_each_long_row(s, logsumexp_long_row); }

#endif
