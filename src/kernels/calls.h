/* Calls about decisions, losses and gradients: their slices as contiguous rows, in the groups of
 * rows.h, and what is known of a row once its terms have been summed.
 *
 * Strided slices are copied to scratch, a few neighbouring columns at a time, and results back. */
#ifndef FSM_KERNELS_CALLS_H
#define FSM_KERNELS_CALLS_H

static inline storage *elements_of(const fsm_array *a, size_t outer, size_t inner) {
  return a->data ? (storage *)a->data + (ptrdiff_t)outer * a->outer + (ptrdiff_t)inner * a->inner
                 : NULL;
}

/* Columns of an array to rows, `step` apart, and back: by blocks of LANES times LANES, of which the
 * last ones of a row reach into its padding. Whole lines of the cache are worked on together. */
static void gather(const fsm_call *c, const storage *x, ptrdiff_t stride, size_t columns,
                   storage *rows, size_t step) {
  for (size_t l = 0; l < c->length; l += LANES) {
    size_t left = c->length - l, k = 0;
    for (; k + LANES <= columns; k += LANES) {
      vec a[LANES];
      for (size_t i = 0; i < LANES; i++)
        a[i] = v_load(x + (ptrdiff_t)(i < left ? l + i : l) * stride + k);
      v_transpose(a);
      for (size_t i = 0; i < LANES; i++) v_store(rows + (k + i) * step + l, a[i]);
    }
    for (size_t i = 0; i < LANES && i < left; i++)
      for (size_t j = k; j < columns; j++)
        rows[j * step + l + i] = x[(ptrdiff_t)(l + i) * stride + (ptrdiff_t)j];
  }
}

static void scatter(const fsm_call *c, storage *x, ptrdiff_t stride, size_t columns,
                    const storage *rows, size_t step) {
  for (size_t l = 0; l < c->length; l += LANES) {
    size_t left = c->length - l, k = 0;
    for (; k + LANES <= columns; k += LANES) {
      vec a[LANES];
      for (size_t i = 0; i < LANES; i++) a[i] = v_load(rows + (k + i) * step + l);
      v_transpose(a);
      for (size_t i = 0; i < LANES && i < left; i++)
        v_store(x + (ptrdiff_t)(l + i) * stride + k, a[i]);
    }
    for (size_t i = 0; i < LANES && i < left; i++)
      for (size_t j = k; j < columns; j++)
        x[(ptrdiff_t)(l + i) * stride + (ptrdiff_t)j] = rows[j * step + l + i];
  }
}

/* The array from a column on, whose columns are the rows. */
static fsm_array columns_from(fsm_array a, size_t itemsize, size_t outer, size_t inner) {
  ptrdiff_t offset = (ptrdiff_t)outer * a.outer + (ptrdiff_t)inner * a.inner;
  if (a.data) a.data = (char *)a.data + offset * (ptrdiff_t)itemsize;
  a.outer = a.inner;
  return a;
}

static void for_columns(const fsm_call *c, size_t outer, size_t inner, size_t columns,
                        fsm_call_kernel *kernel) {
  size_t step = c->length + FSM_PADDING, size = columns * step;
  storage *from_other = elements_of(&c->other, outer, inner);
  storage *to_out = elements_of(&c->out, outer, inner);
  storage *to_hess = elements_of(&c->hess, outer, inner);
  storage *x = c->scratch, *other = x + size, *out = from_other ? other + size : other;
  storage *hess = to_out ? out + size : out;
  ptrdiff_t stride = (ptrdiff_t)step;
  fsm_call rows = *c;
  rows.outer = columns;
  rows.inner = 1;
  rows.elements = 0;
  rows.x = (fsm_array){x, stride, 1, 1};
  if (from_other) rows.other = (fsm_array){other, stride, 1, 1};
  if (to_out) rows.out = (fsm_array){out, stride, 1, 1};
  if (to_hess) { /* where weights are those of samples, not of classes */
    rows.hess = (fsm_array){hess, stride, 1, 1};
    rows.weight = columns_from(c->weight, sizeof(double), outer, inner);
  }
  rows.where = columns_from(c->where, 1, outer, inner);
  rows.label = columns_from(c->label, sizeof(int64_t), outer, inner);
  rows.slices = columns_from(c->slices, sizeof(storage), outer, inner);
  rows.values = columns_from(c->values, sizeof(storage), outer, inner);
  rows.index = columns_from(c->index, sizeof(ptrdiff_t), outer, inner);
  gather(c, elements_of(&c->x, outer, inner), c->x.length, columns, x, step);
  if (from_other) gather(c, from_other, c->other.length, columns, other, step);
  kernel(&rows);
  if (to_out) scatter(c, to_out, c->out.length, columns, out, step);
  if (to_hess) scatter(c, to_hess, c->hess.length, columns, hess, step);
}

/* Run a kernel whose calls have inner == 1. */
static void as_rows(const fsm_call *c, fsm_call_kernel *kernel) {
  if (c->inner == 1) {
    kernel(c);
    return;
  }
  for (size_t outer = 0; outer < c->outer; outer++)
    for (size_t inner = 0; inner < c->inner; inner += FSM_COLUMNS) {
      size_t left = c->inner - inner;
      for_columns(c, outer, inner, left < FSM_COLUMNS ? left : FSM_COLUMNS, kernel);
    }
}

/* One row of a call. */
typedef struct {
  const fsm_call *call;
  size_t outer; /* which one */
  line x;
  const storage *other;
  storage *out, *hess;
} slice;

static inline slice slice_of(const fsm_call *c, size_t outer) {
  const unsigned char *where = c->where.data;
  if (where) where += (ptrdiff_t)outer * c->where.outer;
  return (slice){c,
                 outer,
                 {elements_of(&c->x, outer, 0), c->length, where, c->where.length},
                 elements_of(&c->other, outer, 0),
                 elements_of(&c->out, outer, 0),
                 elements_of(&c->hess, outer, 0)};
}

static inline void split_rows(group *g, bool splits) {
  for (size_t k = 0; k < g->count; k++) g->splits[k] = splits;
}

static inline slice group_slice(const group *g, size_t k) {
  return slice_of(g->call, g->first + k);
}

/* Whether rows are summed by batches. Some of what follows the sums is done row by row all the
 * same, so fewer of them gain nothing. */
static inline bool is_short(size_t length, size_t outer) {
  return length <= SHORT && outer >= LANES / 2 && worth_a_batch(outer, length);
}

/* A batch of the rows of one of its arrays, from `outer` on; returns their maxima. */
FSM_INLINE vec call_batch(batch *b, const fsm_call *c, const fsm_array *a, size_t outer) {
  size_t left = c->outer - outer;
  b->first = (line){elements_of(a, outer, 0), c->length, NULL, 0};
  b->stride = a->outer;
  b->count = left < LANES ? left : LANES;
  return batch_load(b, (batch_kind){.full = false});
}

/* What a batch has as an array: in calls, the dtype of the work is that of the arrays. */
static inline storage *columns_of_batch(batch *b) { return (storage *)(void *)b->columns; }

/* Write a batch of results over such rows. */
static void store_batch(const batch *b, const fsm_call *c, size_t outer) {
  const batch_kind any = {.full = false};
  batch_store(b, elements_of(&c->out, outer, 0), c->out.outer, no_finish, NULL, 0, any);
}

/* Rows that are short come by batches, of which the next one is read when this one is done. */
FSM_INLINE void for_each_short_group(const fsm_slices *s, const fsm_call *call,
                                     group_kernel *kernel) {
  tempering t = untempered();
  real maxima[LANES];
  batch b;
  group g;
  b.stride = s->x_outer;
  g.slices = s;
  g.call = call;
  g.batch = &b;
  g.max = maxima;
  g.count_ahead = 0;
  for (g.first = 0; g.first < s->outer; g.first += g.count) {
    const batch_kind full = {.full = true}, any = {.full = false};
    bool is_full = s->outer - g.first >= LANES;
    vec max = is_full ? batch_begin(&b, s, g.first, full) : batch_begin(&b, s, g.first, any);
    v_store_real(maxima, max);
    g.count = b.count;
    kernel(&g, &t, false);
  }
}

FSM_INLINE void call_groups(const fsm_call *c, group_kernel *kernel, const bool masked) {
  fsm_slices s = {.outer = c->outer,
                  .length = c->length,
                  .inner = 1,
                  .x = c->x.data,
                  .x_outer = c->x.outer,
                  .x_length = 1,
                  .out = c->out.data,
                  .out_outer = c->out.outer,
                  .out_length = 1,
                  .where = c->where.data,
                  .where_outer = c->where.outer,
                  .where_length = c->where.length,
                  .elements = c->elements};
  if (!masked && is_short(c->length, c->outer))
    for_each_short_group(&s, c, kernel);
  else
    for_each_group_if(&s, c, kernel, c->out.data ? WRITTEN : READ, masked);
}

/* What a call has one of for each row. */
static inline storage *result_of(const slice *s) {
  return elements_of(&s->call->slices, s->outer, 0);
}
static inline ptrdiff_t *index_of(const slice *s) {
  const fsm_array *a = &s->call->index;
  return (ptrdiff_t *)a->data + (ptrdiff_t)s->outer * a->outer;
}
/* The class that label i names, or -1 if it names none. Labels may lie where others write: each is
 * read once, whatever the compiler makes of it, and is a class only as it was read. */
static inline int64_t class_at(const fsm_call *c, ptrdiff_t i) {
  int64_t label = ((const volatile int64_t *)c->label.data)[i];
  return (uint64_t)label < c->length ? label : -1;
}
static inline int64_t label_of(const slice *s) {
  return class_at(s->call, (ptrdiff_t)s->outer * s->call->label.outer);
}

/* What is known of a row. Shares are of the sum of its terms; those of all others than one of the
 * largest are summed by themselves, and keep their digits where next to nothing is left to them. */
typedef struct {
  real max, floor; /* the latter a term (floor_term) */
  double ties;
  double inverse[2]; /* 1 / sum of the terms, as hi + lo; NaN where max is not finite */
  double largest, others;
  double log; /* of the sum of exp(x - max); as log_of_nonfinite_sum has it otherwise */
} known;

/* The exact product of a and b as hi + lo. */
static inline void multiply(double a, double b, double product[2]) {
  product[0] = a * b;
  product[1] = fma(a, b, -product[0]);
}

/* What is known of shares, in lanes. */
typedef struct {
  doubles inverse[2], largest, others;
} lane_shares;

/* The sum of ties largest terms and the rest. */
FSM_INLINE dvec_pair add_ties(dvec ties, dvec_pair largest, dvec_pair rest) {
  dvec product = d_mul(ties, largest.hi);
  dvec product_lo = d_mul_add(ties, largest.lo, d_fms(ties, largest.hi, product));
  dvec_pair sum = add_exactly(product, rest.hi);
  return (dvec_pair){sum.hi, d_add(sum.lo, d_add(product_lo, rest.lo))};
}

/* A sum of terms over that of all, whose inverse is known. */
FSM_INLINE dvec share_of_sum(dvec_pair sum, dvec_pair inverse) {
  dvec lo = d_mul_add(sum.hi, inverse.lo, d_mul(sum.lo, inverse.hi));
  return d_mul_add(sum.hi, inverse.hi, lo);
}

static lane_shares know_shares(const term_sum *sums, vec max, const exp_frame *frame) {
  const dvec one = d_set1(1), nan = d_set1(NAN), minus = d_set1(-1);
  wide largest_terms = largest_term(max, frame);
  mask finite = v_finite(max);
  lane_shares s;
  for (int p = 0; p < PARTS; p++) {
    dvec_pair largest = wide_part(&largest_terms, p), rest = wide_part(&sums->rest, p);
    dvec ties = sums->ties.part[p];
    dvec_pair all = add_ties(ties, largest, rest), inverse = {d_div(one, all.hi), nan};
    dvec excess = d_mul_add(inverse.hi, all.lo, d_fma(inverse.hi, all.hi, minus));
    inverse.lo = d_mul(d_mul(minus, inverse.hi), excess);
    dvec others = share_of_sum(add_ties(d_sub(ties, one), largest, rest), inverse);
    s.inverse[0].part[p] = v_select_part(finite, p, inverse.hi, nan);
    s.inverse[1].part[p] = v_select_part(finite, p, inverse.lo, nan);
    s.largest.part[p] = v_select_part(finite, p, share_of_sum(largest, inverse), nan);
    s.others.part[p] = v_select_part(finite, p, others, nan);
  }
  return s;
}

/* The same of a batch, which has all rows' ties apart or none's. Stored terms go to their rows. */
static term_sum sums_of_batch(group *g, const exp_frame *frame, bool stores) {
  vec max = v_load_real(g->max);
  bool splits = false;
  for (size_t k = 0; k < g->count; k++) splits |= g->splits[k];
  if (!stores && !splits) return batch_sum(g->batch, max, frame, (batch_flags){.stores = false});
  if (!stores) return batch_sum(g->batch, max, frame, (batch_flags){.splits = true});
  term_sum sums = batch_sum(g->batch, max, frame, (batch_flags){.stores = true, .splits = true});
  batch_store(g->batch, group_out(g, 0), g->slices->out_outer, no_finish, NULL, 0,
              (batch_kind){.full = false});
  return sums;
}

/* Those rows of a group that have ties apart, or those that do not. A function for each: where one
 * had the loops of two, AVX2 took up to a fifth longer, as GCC shared the registers out among them.
 */
#define SUM_SOME_ROWS(name, use, splits)                                                           \
  FSM_APART void name(group_sums *sums, group *g, const frame_lanes *frames) {                     \
    sum_rows(sums, g, frames, NULL, 0, use, true, splits, false);                                  \
  }
SUM_SOME_ROWS(sum_whole_rows, NOTHING, false)
SUM_SOME_ROWS(sum_split_rows, NOTHING, true)
SUM_SOME_ROWS(store_whole_rows, STORE_TERMS, false)
SUM_SOME_ROWS(store_split_rows, STORE_TERMS, true)

/* The sums of a group whose member `splits` is set. One function, as it is large. */
static term_sum sums_of_call(group *g, const exp_frame *frame, bool stores) {
  if (g->batch) return sums_of_batch(g, frame, stores);
  frame_lanes frames = lanes_of_frame(frame);
  if (g->slices->where) /* which only softmax_logsumexp has */
    return sums_of_group(g, &frames, NULL, 0, STORE_TERMS, true, true);
  group_sums sums;
  begin_sums(&sums);
  (stores ? store_whole_rows : sum_whole_rows)(&sums, g, &frames);
  (stores ? store_split_rows : sum_split_rows)(&sums, g, &frames);
  return total_of_group(&sums, g->count);
}

/* What follows of `count` rows, each a lane, from their sums, shares if `has_shares`. */
static void know_lanes(known *known_rows, size_t count, const term_sum *sums, vec max,
                       const exp_frame *frame, doubles log, bool has_shares) {
  real maxima[LANES], floors[LANES];
  double ties[LANES], logs[LANES];
  v_store_real(maxima, max);
  v_store_real(floors, floor_term(frame));
  doubles_store(sums->ties, ties);
  doubles_store(log, logs);
  for (size_t k = 0; k < count; k++) {
    known *n = &known_rows[k];
    n->max = maxima[k];
    n->floor = floors[k];
    n->ties = ties[k];
    n->log = logs[k];
  }
  if (!has_shares) return;
  double inverse[2][LANES], largest[LANES], others[LANES];
  lane_shares shares = know_shares(sums, max, frame);
  doubles_store(shares.inverse[0], inverse[0]);
  doubles_store(shares.inverse[1], inverse[1]);
  doubles_store(shares.largest, largest);
  doubles_store(shares.others, others);
  for (size_t k = 0; k < count; k++) {
    known *n = &known_rows[k];
    n->inverse[0] = inverse[0][k];
    n->inverse[1] = inverse[1][k];
    n->largest = largest[k];
    n->others = others[k];
  }
}

/* The terms are stored where the results go, perhaps in the place of the rows, if it `stores` them;
 * shares are known only then. Where ties are not apart, the log may be off by a unit or two in the
 * last place of 1, and `others` is not known. */
static void know_group(group *g, const tempering *t, known *known_rows, bool stores, bool masked) {
  vec max = load_lanes(g->max, g->count);
  exp_frame frame = frame_of(max, t);
  double of_nonfinite[LANES] = {0}; /* found while the row is there */
  for (size_t k = 0; k < g->count; k++)
    if (!is_finite(g->max[k])) {
      line row = group_row(g, k);
      of_nonfinite[k] = log_of_nonfinite_sum(&row, masked);
    }
  term_sum sums = sums_of_call(g, &frame, stores);
  know_lanes(known_rows, g->count, &sums, max, &frame, log_of_sum(&sums, max, &frame), stores);
  for (size_t k = 0; k < g->count; k++)
    if (!is_finite(g->max[k])) known_rows[k].log = of_nonfinite[k];
}

/* Columns of a call, of which some functions work on tiles. */
static fsm_slices columns_of_call(const fsm_call *c) {
  fsm_array out = c->out.data ? c->out : c->x; /* of which nothing is written then */
  return (fsm_slices){.outer = c->outer,
                      .length = c->length,
                      .inner = c->inner,
                      .x = c->x.data,
                      .x_outer = c->x.outer,
                      .x_length = c->x.length,
                      .out = out.data,
                      .out_outer = out.outer,
                      .out_length = out.length};
}

/* What is made of a tile of them, which begins at `column`, and whose log-sum-exps are known. */
typedef void tile_kernel(const fsm_call *c, tile *t, size_t outer, size_t column);

static void for_each_tile(const fsm_call *c, tile_kernel *kernel) {
  tile t;
  fsm_slices s = columns_of_call(c);
  prepare_tiles(&t, &s, false, true);
  for (size_t outer = 0; outer < s.outer; outer++)
    for (size_t column = 0; column < s.inner; column += t.columns) {
      place_tile(&t, &s, outer, column);
      find_maxima(&t);
      find_frames(&t);
      sum_terms_for_log(&t);
      know_log_sums(&t);
      kernel(c, &t, outer, column);
    }
}

/* Softmax values of single elements. */
static inline vec softmax_of(vec x, const exp_frame *f, share_frame last) {
  vec shifted = v_sub(x, f->origin);
  exp_term term;
  exp_terms(&term, &shifted, f, 1);
  return share(v_stored(exp_term_value(&term)), &last);
}

/* hi + lo in each lane. */
static inline vec_pair pair_set1(double hi, double lo) {
  real first = (real)hi;
  return (vec_pair){v_set1(first), v_set1((real)((hi - (double)first) + lo))};
}

/* Where the first element that equals `value` is, from i on; there is one. */
static size_t first_equal(const line *s, size_t i, real value) {
  vec wanted = v_set1(value);
  for (; i + 4 * LANES <= s->length; i += 4 * LANES) {
    mask equal[4];
    for (size_t k = 0; k < 4; k++)
      equal[k] = v_equal(line_load(s, i + k * LANES, LANES, false), wanted);
    if (v_bits(v_or(v_or(equal[0], equal[1]), v_or(equal[2], equal[3])))) break;
  }
  for (; i < s->length; i += LANES) {
    size_t left = s->length - i, width = left < LANES ? left : LANES;
    uint64_t equal = v_bits(v_equal(line_load(s, i, width, false), wanted));
    if (equal) return i + lowest_bit(equal);
  }
  return 0;
}

#endif
