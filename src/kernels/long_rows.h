/* Rows of FSM_LONG elements or more: inner == 1.
 *
 * They are worked on in parts, which threads may share. How a row is cut depends on its length
 * alone, and the sums of its parts are added in their order, so the result is the same whoever does
 * them.
 *
 * Each part is summed while it is in the second-level cache, in a frame of its own, and its terms
 * are kept in the result if the caches have room for that. The frames lie powers of two apart, so
 * nothing is lost when the sums are joined, and the last pass takes the terms as they are. It finds
 * them again if they were not kept. Memory touched per element: one read for the sum, and one read
 * and one write for the results, past the caches if these do not keep the array; if terms are kept,
 * another write.
 *
 * Parts that have no such frame wait until that of the row is known, and are summed in it. */
#ifndef FSM_KERNELS_LONG_ROWS_H
#define FSM_KERNELS_LONG_ROWS_H

#include "cpu.h"

enum {
  MOST_PARTS = 1024,
  SHORTEST_PART = 1 << 14,
  NO_SHARE = -(1 << 13), /* 2 to this power is 0 beside the sum of a row */
};

/* A row, and what is known of it and of its parts. */
typedef struct {
  const fsm_slices *slices;
  line x;
  storage *out;
  size_t part_length; /* the last part may be shorter */
  int parts;
  tempering t;
  bool knows_max;
  vec max;
  exp_frame frame;
  double sum[2], ties; /* of all terms, as of a part */
  share_frame share;
  log_frame log;
  struct {
    real max;
    bool waits;
    double n;            /* of its frame */
    int exponent;        /* the terms are 2^-exponent times what they are in the frame of the row */
    double sum[2], ties; /* of its terms; those equal to the largest are counted for a logarithm */
    double largest[2];
    real floor_term;
  } part[];
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

/* Whether the caches, which do not keep the array and its result from pass to pass, are passed. */
static bool outgrows_caches(const long_row *r) {
  return STREAMS && !r->x.where && 2 * array_bytes(r->slices) > fsm_cpu_cache_sizes().last;
}

/* A maximum with a frame without an origin, even that of a row whose maximum is twice as large. */
static bool has_whole_frame(real max, const tempering *t) {
  return fabs((double)max * (double)v_first(t->rate.hi)) < EXACT_RATE_PRODUCT / 2;
}

static double exponent_of(const exp_frame *f) {
  return (double)(ANCHOR + EXPONENT_BIAS + SPARE) - (double)v_first(f->anchor);
}

/* Sum the terms of a part in a frame; those equal to `max` apart for a logarithm. */
FSM_INLINE void sum_part(long_row *r, int k, exp_frame f, real max, const bool stores,
                         const bool splits) {
  line x = part_of(r, k), next = part_of(r, k + 2 < r->parts ? k + 1 : k); /* of the same length */
  storage *terms = stores ? out_of_part(r, k) : NULL;
  term_pass p = {.row = &x, .frame = &f, .max = v_set1(max), .out = terms, .ahead = &next};
  row_sum sum;
  if (x.where)
    sum = sum_of_row(
        &p, (term_flags){.masked = true, .shifted = true, .stores = stores, .splits = splits});
  else if (v_first(f.origin) != 0)
    sum = sum_of_row(&p, (term_flags){.shifted = true, .stores = stores, .splits = splits});
  else
    sum = sum_of_row(&p, (term_flags){.stores = stores, .splits = splits, .fetches_ahead = true});
  r->part[k].ties = count_total(sum.ties);
  r->part[k].floor_term = v_first(floor_term(&f));
  wide_total(sum.rest, r->part[k].sum);
}

/* The term of the maximum of a part, as precisely as the others are summed: with what the last step
 * rounds off. */
static void find_largest_term(long_row *r, int k, const exp_frame *f) {
  vec max = v_set1(r->part[k].max);
  exp_term t;
  exp_terms(&t, &max, f, 1);
  vec value = exp_term_value(&t), rounded_off = v_fma(t.rise, t.slope, v_sub(t.scale, value));
  r->part[k].largest[0] = (double)v_first(value);
  r->part[k].largest[1] = (double)v_first(rounded_off);
}

/* The maximum of a part, and its sum if it can be had in a frame of its own; otherwise its sum when
 * the frame of the row is known. */
FSM_INLINE void advance_part(long_row *r, int k, const bool stores, const bool splits) {
  exp_frame f;
  real max;
  if (r->knows_max) {
    if (!r->part[k].waits) return;
    f = r->frame;
    max = v_first(r->max);
  } else {
    line x = part_of(r, k);
    max = x.where ? row_max(&x, true) : row_max(&x, false);
    r->part[k].max = max;
    r->part[k].waits = !has_whole_frame(max, &r->t);
    if (r->part[k].waits) return;
    f = frame_rounded(v_set1(max), &r->t, WHOLE);
    r->part[k].n = exponent_of(&f);
    if (splits) find_largest_term(r, k, &f);
  }
  sum_part(r, k, f, max, stores, splits);
}

static void sum_part_for_log(void *work, int k, int thread) {
  (void)thread;
  advance_part(work, k, false, true);
}

static void sum_terms_of_part(void *work, int k, int thread) {
  (void)thread;
  advance_part(work, k, false, false);
}

static void keep_terms_of_part(void *work, int k, int thread) {
  (void)thread;
  advance_part(work, k, true, false);
}

/* Given those of the parts, the maximum and the frame, and how far their frames lie from it.
 * Whether any of them waits for that. */
static bool know_max(long_row *r) {
  real max = r->part[0].max;
  for (int k = 1; k < r->parts; k++)
    if (r->part[k].max > max) max = r->part[k].max;
  r->max = v_set1(max);
  r->frame = frame_rounded(finite_or_0(r->max), &r->t, WHOLE);
  bool any_waits = false;
  double n = exponent_of(&r->frame);
  for (int k = 0; k < r->parts; k++) {
    any_waits |= r->part[k].waits;
    /* Where the frame of the row has an origin, a part that did not wait is as good as 0. */
    double distance = v_first(r->frame.origin) != 0 ? NO_SHARE : r->part[k].n - n;
    r->part[k].exponent = r->part[k].waits ? 0 : (int)distance;
  }
  r->knows_max = true;
  return any_waits;
}

/* Multiply hi + lo by a number of the same form. */
static void scale_pair(double pair[2], double hi, double lo) {
  double product = pair[0] * hi;
  pair[1] = fma(pair[0], hi, -product) + (pair[0] * lo + pair[1] * hi);
  pair[0] = product;
}

/* The sum of all terms, in the frame of the row; the ties of a part with a lesser maximum are none
 * of the row's. */
static void join_parts(long_row *r) {
  r->ties = r->sum[0] = r->sum[1] = 0;
  for (int k = 0; k < r->parts; k++) {
    double sum[2] = {r->part[k].sum[0], r->part[k].sum[1]};
    if (r->part[k].max == v_first(r->max)) {
      r->ties += r->part[k].ties;
    } else if (r->part[k].ties > 0) {
      double lesser[2] = {r->part[k].largest[0], r->part[k].largest[1]};
      scale_pair(lesser, r->part[k].ties, 0);
      add_to_pair(&sum[0], &sum[1], lesser[0], lesser[1]);
    }
    int exponent = r->part[k].exponent;
    add_to_pair(&r->sum[0], &r->sum[1], ldexp(sum[0], exponent), ldexp(sum[1], exponent));
  }
}

static void sum_long_row(long_row *r, fsm_task *sum) {
  r->knows_max = false;
  for_each_part(r, sum);
  bool any_waits = know_max(r);
  if (any_waits && is_finite(v_first(r->max))) for_each_part(r, sum);
  join_parts(r);
}

/* What softmax's last pass takes of a scale is exact if it is this much smaller. */
enum { ROOM_OF_SCALE = 16 };

/* Make terms smaller by a power of two. */
static void lower_terms(storage *terms, size_t length, vec power) {
  for (size_t i = 0; i < length; i += LANES) {
    size_t width = length - i < LANES ? length - i : LANES;
    line_store(NULL, terms, i, width, v_mul_small(load_or_0(terms, i, width), power), 0, false);
  }
}

static void scale_part(void *work, int k, int thread) {
  (void)thread;
  const long_row *r = work;
  line x = part_of(r, k);
  storage *out = out_of_part(r, k);
  last_pass p = {.from = out, .out = out, .length = x.length, .share = r->share};
  p.share.floor = v_set1(r->part[k].floor_term);
  int exponent = r->part[k].exponent;
  if (exponent < -ROOM_OF_SCALE) {
    vec power = v_set1((real)ldexp(1, exponent + ROOM_OF_SCALE));
    lower_terms(out, x.length, power);
    p.share.floor = v_mul(p.share.floor, power);
    exponent = -ROOM_OF_SCALE;
  }
  vec power = v_set1((real)ldexp(1, exponent));
  p.share.scale.hi = v_mul(p.share.scale.hi, power);
  p.share.scale.lo = v_mul(p.share.scale.lo, power);
  if (x.where)
    finish_row(&p, &x, false, true);
  else
    finish_row(&p, &x, false, false);
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

static void log_part(void *work, int k, int thread) {
  (void)thread;
  const long_row *r = work;
  line x = part_of(r, k);
  last_pass p = {.from = x.x, .out = out_of_part(r, k), .length = x.length, .log = r->log};
  if (x.where)
    finish_row(&p, &x, true, true);
  else
    finish_row(&p, &x, true, false);
}

static void log_part_past_caches(void *work, int k, int thread) {
  (void)thread;
  const long_row *r = work;
  last_pass part = {.from = part_of(r, k).x, .out = out_of_part(r, k), .log = r->log};
  part.length = part_of(r, k).length;
  stream_row(&part, true);
  v_finish_streams();
}

/* Whether terms are found once for the sum and again for the result, as 16 bits cannot keep them,
 * or because less memory is touched than to write them and read them again. For one thread, that
 * takes longer with doubles, and by single lanes; several have to share the memory. The result is
 * the same. */
static bool finds_terms_twice(const long_row *r) {
  if (!KEEPS_TERMS) return true;
  if (!outgrows_caches(r)) return false;
  return sizeof(real) < sizeof(double) || r->slices->each;
}

static void softmax_long_row(long_row *r) {
  bool twice = finds_terms_twice(r);
  sum_long_row(r, twice ? sum_terms_of_part : keep_terms_of_part);
  wide sum = wide_set1(r->sum);
  r->share = share_frame_of(&sum, r->max, floor_term(&r->frame));
  if (!twice)
    for_each_part(r, scale_part);
  else
    for_each_part(r, outgrows_caches(r) ? share_part_past_caches : share_part);
}

/* 2^(k/16) as hi + lo; regenerate them with tools/coefficients.py. */
static const double POWERS[16][2] = {{0x1.0000000000000p+0, 0x0.0p+0},
                                     {0x1.0b5586cf9890fp+0, 0x1.8a62e4adc610bp-54},
                                     {0x1.172b83c7d517bp+0, -0x1.19041b9d78a76p-55},
                                     {0x1.2387a6e756238p+0, 0x1.9b07eb6c70573p-54},
                                     {0x1.306fe0a31b715p+0, 0x1.6f46ad23182e4p-55},
                                     {0x1.3dea64c123422p+0, 0x1.ada0911f09ebcp-55},
                                     {0x1.4bfdad5362a27p+0, 0x1.d4397afec42e2p-56},
                                     {0x1.5ab07dd485429p+0, 0x1.6324c054647adp-54},
                                     {0x1.6a09e667f3bcdp+0, -0x1.bdd3413b26456p-54},
                                     {0x1.7a11473eb0187p+0, -0x1.41577ee04992fp-55},
                                     {0x1.8ace5422aa0dbp+0, 0x1.6e9f156864b27p-54},
                                     {0x1.9c49182a3f090p+0, 0x1.c7c46b071f2bep-56},
                                     {0x1.ae89f995ad3adp+0, 0x1.7a1cd345dcc81p-54},
                                     {0x1.c199bdd85529cp+0, 0x1.11065895048ddp-55},
                                     {0x1.d5818dcfba487p+0, 0x1.2ed02d75b3707p-55},
                                     {0x1.ea4afa2a490dap+0, -0x1.e9c23179c2893p-54}};

/* It is found of a sum in the frame that other rows have, whose N is no whole number. */
static doubles log_of_long_row(long_row *r) {
  sum_long_row(r, sum_part_for_log);
  if (!is_finite(v_first(r->max)))
    return doubles_set1(log_of_nonfinite_sum(&r->x, r->x.where != NULL));
  exp_frame f = frame_of(r->max, &r->t);
  double distance = exponent_of(&r->frame) - exponent_of(&f), whole = floor(distance);
  const double *power = POWERS[(int)(16 * (distance - whole))];
  double rest[2] = {ldexp(r->sum[0], (int)whole), ldexp(r->sum[1], (int)whole)};
  scale_pair(rest, power[0], power[1]);
  term_sum sum = {doubles_set1(r->ties), wide_set1(rest)};
  return log_of_sum(&sum, r->max, &f);
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

/* By `rows`, if there is no memory for what is known of the parts. */
static void for_each_long_row(const fsm_slices *s, void (*kernel)(long_row *r), fsm_kernel *rows) {
  size_t block = BLOCK * LANES, length = (s->length + MOST_PARTS - 1) / MOST_PARTS;
  if (length < SHORTEST_PART) length = SHORTEST_PART;
  length = (length + block - 1) / block * block;
  size_t parts = (s->length + length - 1) / length;
  void *memory;
  long_row *r = allocate(sizeof *r + parts * sizeof *r->part, &memory);
  if (!r) {
    rows(s);
    return;
  }
  r->slices = s;
  r->part_length = length;
  r->parts = (int)parts;
  for (size_t outer = 0; outer < s->outer; outer++) {
    r->x = row_of(s, outer);
    r->out = out_of(s, outer);
    r->t = row_tempering(s, outer);
    kernel(r);
  }
  free(memory);
}

static void softmax_long_rows(const fsm_slices *s) {
  for_each_long_row(s, softmax_long_row, softmax_rows);
}
static void log_softmax_long_rows(const fsm_slices *s) {
  for_each_long_row(s, log_softmax_long_row, log_softmax_rows);
}
static void logsumexp_long_rows(const fsm_slices *s) {
  for_each_long_row(s, logsumexp_long_row, logsumexp_rows);
}

#endif
