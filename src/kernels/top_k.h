/* The k largest elements of a slice in descending order, as softmax or log-softmax values.
 *
 * The k best of the elements so far lie sorted where the results go. Those further on that are
 * better than the worst of these are gathered, which most are not, as a vector of them tells at
 * once; when there are enough, they are sorted by their digits and merged with the k best. Both are
 * stable, so that of equal elements the first ones are kept, in their order (D. E. Knuth, The Art
 * of Computer Programming 3, sections 5.2.4 and 5.2.5).
 * Memory touched per element: two reads, the second one from cache for rows that fit one. */
#ifndef FSM_KERNELS_TOP_K_H
#define FSM_KERNELS_TOP_K_H

#include <stdlib.h>

/* An element by its order: NaN has 0, other numbers the more the smaller they are, both zeros the
 * same. */
#ifdef FSM_FLOAT64
typedef uint64_t order;
#else
typedef uint32_t order;
#endif

typedef struct {
  order order;
  ptrdiff_t index;
} element;

static inline order order_of(storage x) {
  const order magnitude = (order)-1 >> 1, sign = magnitude + 1;
  order bits;
  memcpy(&bits, &x, sizeof bits);
  order ascending = bits & sign ? sign - bits : bits;
  return x != x ? 0 : ascending ^ magnitude;
}

/* The best elements so far, where the results go. */
typedef struct {
  const line *x;
  storage *value;
  ptrdiff_t *index;
  ptrdiff_t value_stride, index_stride;
  size_t count, k;
} ranking;

static inline storage *value_at(const ranking *r, size_t i) {
  return &r->value[(ptrdiff_t)i * r->value_stride];
}
static inline ptrdiff_t *index_at(const ranking *r, size_t i) {
  return &r->index[(ptrdiff_t)i * r->index_stride];
}

/* Those that have been gathered, in order of their index, and room to sort them in. */
typedef struct {
  element *items, *spare;
  size_t count, most;
} gathering;

static void sort_few(element *items, size_t count) {
  for (size_t i = 1; i < count; i++) {
    element e = items[i];
    size_t j = i;
    for (; j > 0 && e.order < items[j - 1].order; j--) items[j] = items[j - 1];
    items[j] = e;
  }
}

/* By one digit after the other, the last one first. */
static void sort_many(gathering *g) {
  enum { DIGITS = sizeof(order), VALUES = 256 };
  size_t begin[DIGITS][VALUES] = {{0}};
  for (size_t i = 0; i < g->count; i++)
    for (int d = 0; d < DIGITS; d++) begin[d][g->items[i].order >> 8 * d & (VALUES - 1)]++;
  for (int d = 0; d < DIGITS; d++) {
    size_t from = 0;
    for (size_t v = 0; v < VALUES; v++) {
      size_t count = begin[d][v];
      begin[d][v] = from;
      from += count;
    }
    for (size_t i = 0; i < g->count; i++)
      g->spare[begin[d][g->items[i].order >> 8 * d & (VALUES - 1)]++] = g->items[i];
    element *sorted = g->spare;
    g->spare = g->items;
    g->items = sorted;
  }
}

/* Merge what is gathered into the ranking, from behind, and leave out what is one too many. */
static void rank_gathering(ranking *r, gathering *g) {
  enum { FEW = 64 };
  if (g->count < FEW)
    sort_few(g->items, g->count);
  else
    sort_many(g);
  size_t i = r->count, j = g->count, total = i + j;
  for (size_t k = total; j > 0; k--) {
    size_t last = i > 0 ? i - 1 : 0;
    element e = g->items[j - 1];
    bool is_ranked = i > 0 && e.order < order_of(*value_at(r, last));
    ptrdiff_t index = is_ranked ? *index_at(r, last) : e.index;
    i -= is_ranked;
    j -= !is_ranked;
    if (k > r->k) continue;
    *index_at(r, k - 1) = index;
    *value_at(r, k - 1) = r->x->x[index];
  }
  r->count = total < r->k ? total : r->k;
  g->count = 0;
}

/* Elements that are looked at together: nothing is done about most of them. */
enum { VECTORS = 8 };

/* Whether one of the elements from i on is NaN or larger than `worst`. */
FSM_INLINE bool has_better(const line *x, size_t i, vec worst) {
  vec m[VECTORS];
  mask better = v_less(worst, worst);
  for (size_t k = 0; k < VECTORS; k++) m[k] = v_load(x->x + i + k * LANES);
  for (size_t k = 0; k < VECTORS; k += 2) better = v_or(better, v_unordered(m[k], m[k + 1]));
  for (size_t width = VECTORS / 2; width > 0; width /= 2)
    for (size_t k = 0; k < width; k++) m[k] = v_max(m[k], m[k + width]);
  return v_count_true(v_or(better, v_less(worst, m[0]))) > 0;
}

static void select_largest(ranking *r, gathering *g) {
  const line *x = r->x;
  vec worst = v_set1(-(real)INFINITY);
  for (size_t i = 0; i < x->length; i += LANES) {
    size_t left = x->length - i, width = left < LANES ? left : LANES;
    bool is_full = r->count == r->k;
    while (is_full && left >= VECTORS * LANES && !has_better(x, i, worst)) {
      i += VECTORS * LANES;
      left -= VECTORS * LANES;
    }
    if (left == 0) break;
    width = left < LANES ? left : LANES;
    vec v = line_load(x, i, width, false);
    uint64_t better = v_bits(v_or(v_less(worst, v), v_unordered(v, v)));
    if (!is_full) better = ((uint64_t)1 << width) - 1;
    for (; better; better &= better - 1) {
      size_t place = i + lowest_bit(better);
      g->items[g->count++] = (element){order_of(x->x[place]), (ptrdiff_t)place};
    }
    if (g->count < g->most) continue;
    rank_gathering(r, g);
    if (r->count == r->k) worst = v_set1(*value_at(r, r->k - 1));
  }
  rank_gathering(r, g);
}

static void rank_largest(ranking *r) {
  enum { MOST = 512 };
  element few[2 * (MOST + LANES)], *many = NULL;
  size_t most = r->k / 2 + 1;
  if (most > MOST) many = malloc(2 * (most + LANES) * sizeof *many);
  if (most > MOST && !many) most = MOST;
  element *memory = many ? many : few;
  gathering g = {memory, memory + most + LANES, 0, most};
  select_largest(r, &g);
  free(many);
}

/* Make softmax values of elements. */
static void softmax_of_elements(const ranking *r, size_t k, const exp_frame *f, share_frame last) {
  for (size_t i = 0; i < k; i += LANES) {
    size_t width = k - i < LANES ? k - i : LANES;
    real x[LANES] = {0};
    for (size_t j = 0; j < width; j++) x[j] = *value_at(r, i + j);
    v_store_real(x, softmax_of(v_load_real(x), f, last));
    for (size_t j = 0; j < width; j++) *value_at(r, i + j) = (storage)x[j];
  }
}

static void log_softmax_of_elements(const ranking *r, size_t k, real max, double log) {
  for (size_t i = 0; i < k; i++) {
    storage *value = value_at(r, i);
    *value = (storage)(((double)*value - (double)max) - log);
  }
}

static ranking ranking_of(const slice *s) {
  const fsm_call *c = s->call;
  ranking r = {&s->x,
               elements_of(&c->values, s->outer, 0),
               index_of(s),
               c->values.length,
               c->index.length,
               0,
               c->k};
  rank_largest(&r);
  return r;
}

/* The largest of each row of a batch, in descending order, and where they stand. */
typedef struct {
  size_t count;
  vec value[SHORT], place[SHORT];
} batch_ranking;

/* Each column's elements take their places among those of the columns before: in front of the
 * smaller ones, which move down. There is no NaN. */
FSM_APART void rank_batch(batch_ranking *r, const batch *b, size_t k) {
  r->count = 0;
  for (size_t i = 0; i < b->first.length; i++) {
    vec value = v_load_real(b->columns[i]), place = v_set1((real)i);
    mask moves = v_unordered(v_set1(0), v_set1(0));
    for (size_t j = 0; j < r->count; j++) {
      vec other = r->value[j], other_place = r->place[j];
      moves = v_or(moves, v_less(other, value));
      r->value[j] = v_select(moves, value, other);
      r->place[j] = v_select(moves, place, other_place);
      value = v_select(moves, other, value);
      place = v_select(moves, other_place, place);
    }
    if (r->count == k) continue;
    r->value[r->count] = value;
    r->place[r->count++] = place;
  }
}

/* Whether the rows of a group are to be ranked together. */
static bool ranks_together(const group *g) {
  return g->batch && v_count_true(batch_nan(g->batch)) == 0;
}

/* Write out the results of a place in the order. */
static void store_ranked(const group *g, size_t j, vec value, vec place) {
  storage values[LANES];
  real places[LANES];
  v_store(values, value);
  v_store_real(places, place);
  for (size_t k = 0; k < g->count; k++) {
    const fsm_array *a = &g->call->index;
    ptrdiff_t *index = (ptrdiff_t *)a->data + (ptrdiff_t)(g->first + k) * a->outer;
    index[(ptrdiff_t)j * a->length] = (ptrdiff_t)places[k];
    storage *result = elements_of(&g->call->values, g->first + k, 0);
    result[(ptrdiff_t)j * g->call->values.length] = values[k];
  }
}

static void log_softmax_of_batch(const group *g, const known *n) {
  vec max = load_lanes(g->max, g->count);
  double logs[LANES] = {0};
  for (size_t k = 0; k < g->count; k++) logs[k] = n[k].log;
  doubles log = doubles_load(logs);
  batch_ranking r;
  rank_batch(&r, g->batch, g->call->k);
  for (size_t j = 0; j < r.count; j++) {
    doubles value = widen(r.value[j]);
    for (int p = 0; p < PARTS; p++)
      value.part[p] = d_sub(d_sub(value.part[p], v_part(max, p)), log.part[p]);
    store_ranked(g, j, v_join(value.part), r.place[j]);
  }
}

static void softmax_of_batch(const group *g, const exp_frame *f, share_frame last) {
  batch_ranking r;
  rank_batch(&r, g->batch, g->call->k);
  for (size_t j = 0; j < r.count; j++)
    store_ranked(g, j, softmax_of(r.value[j], f, last), r.place[j]);
}

FSM_APART void log_top_k_group(group *g, const tempering *t, const bool masked) {
  known n[LANES];
  split_rows(g, true);
  know_group(g, t, n, false, masked);
  if (ranks_together(g)) {
    log_softmax_of_batch(g, n);
    return;
  }
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    look_ahead(g, k, masked);
    ranking r = ranking_of(&s);
    log_softmax_of_elements(&r, g->call->k, n[k].max, n[k].log);
  }
}

FSM_APART void top_k_group(group *g, const tempering *t, const bool masked) {
  vec max = load_lanes(g->max, g->count);
  exp_frame frame = frame_of(max, t);
  frame_lanes frames = lanes_of_frame(&frame);
  split_rows(g, false);
  term_sum sums = sums_of_call(g, &frame, false);
  share_frame shares = share_frame_of(&sums.rest, max, floor_term(&frame));
  if (ranks_together(g)) {
    softmax_of_batch(g, &frame, shares);
    return;
  }
  real floor[LANES], hi[LANES], lo[LANES];
  v_store_real(floor, shares.floor);
  v_store_real(hi, shares.scale.hi);
  v_store_real(lo, shares.scale.lo);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    exp_frame f = frame_of_row(&frames, k);
    look_ahead(g, k, masked);
    ranking r = ranking_of(&s);
    share_frame last = {v_set1(floor[k]), {v_set1(hi[k]), v_set1(lo[k])}};
    softmax_of_elements(&r, g->call->k, &f, last);
  }
}

static void top_k_rows(const fsm_call *c) {
  if (c->log)
    call_groups(c, log_top_k_group, false);
  else
    call_groups(c, top_k_group, false);
}

static void top_k(const fsm_call *c) { as_rows(c, top_k_rows); }

#endif
