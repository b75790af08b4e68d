/* Log-sum-exp beside softmax, losses, and their gradients, row by row.
 *
 * All are made of one exponentiation: the terms are stored where the softmax or gradient goes, and
 * turned into it by a last pass. Memory touched per element: two reads for a loss; for a gradient
 * three and two writes, all but the first read from cache for rows that fit one.
 *
 * What is small because nearly everything goes to one class is computed from the other classes. */
#ifndef FSM_KERNELS_LOSSES_H
#define FSM_KERNELS_LOSSES_H

FSM_APART void softmax_logsumexp_group(group *g, const tempering *t, const bool masked) {
  known n[LANES];
  split_rows(g, true);
  know_group(g, t, n, true, masked);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    look_ahead(g, k, masked);
    last_pass last = {.from = s.out, .out = s.out, .length = s.x.length};
    last.share.floor = v_set1(n[k].floor);
    last.share.scale = pair_set1(n[k].inverse[0], n[k].inverse[1]);
    finish_row(&last, &s.x, false, masked);
    *result_of(&s) = (storage)(n[k].max + n[k].log);
  }
}

static void softmax_logsumexp_rows(const fsm_call *c) {
  if (c->where.data)
    call_groups(c, softmax_logsumexp_group, true);
  else
    call_groups(c, softmax_logsumexp_group, false);
}

static void softmax_logsumexp_tile(const fsm_call *c, tile *t, size_t outer, size_t column) {
  for (size_t v = 0; v < t->vectors; v++) {
    lane_shares shares = know_shares(&t->sum[v], t->max[v], &t->frame[v]);
    t->share[v].floor = floor_term(&t->frame[v]);
    t->share[v].scale = pair_of(shares.inverse[0].part, shares.inverse[1].part);
  }
  for_each_block(t, share_again_step, false);
  t->at.out = elements_of(&c->slices, outer, column);
  store_log_sums(t);
}

/* Columns of the log-sum-exp lie side by side, as all that is returned. */
static void softmax_logsumexp(const fsm_call *c) {
  if (c->inner > 1 && c->inner >= LANES / 2 && !c->where.data && c->slices.inner == 1)
    for_each_tile(c, softmax_logsumexp_tile);
  else
    as_rows(c, softmax_logsumexp_rows);
}

/* The share of a stored term. */
static inline double share_of(const known *n, storage term) {
  double value = (double)term - (double)n->floor;
  return value * n->inverse[0] + value * n->inverse[1];
}

/* Terms stored from i on. */
FSM_INLINE doubles terms_at(const storage *terms, size_t i, size_t width, const known *n) {
  doubles value = wide_load_or_0(terms, i, width);
  for (int p = 0; p < PARTS; p++) value.part[p] = d_sub(value.part[p], d_set1((double)n->floor));
  return value;
}

static inline double weight_of(const fsm_call *c, size_t label) {
  return c->weight.data ? ((const double *)c->weight.data)[label] : 1;
}

FSM_INLINE dvec share_of_term(dvec term, const known *n) {
  dvec hi = d_set1(n->inverse[0]), lo = d_set1(n->inverse[1]);
  return PARTS > 1 ? d_mul(term, hi) : d_fma(term, hi, d_mul(term, lo));
}

/* -part log(share) of an element, where 0 * inf is 0. */
static inline double part_of_loss(const known *n, real x, double part) {
  double loss = ((double)n->max - (double)x) + n->log;
  return part == 0 && isinf(loss) ? 0 : part * loss;
}

/* The parts q of the loss -sum(q log(share)) that classes have: targets, which are smoothed and
 * weighted. */
typedef struct {
  const slice *s;
  const double *weight;
  ptrdiff_t target_stride;   /* from one class to the next */
  size_t label;              /* at or past the end where there are probabilities */
  double keep[2], spread[2]; /* 1 - smoothing and smoothing/length, as hi + lo */
} parts;

static parts parts_of(const slice *s, size_t label) {
  double smoothing = s->call->label_smoothing, length = (double)s->x.length;
  parts q = {.s = s, .weight = s->call->weight.data, .target_stride = 1, .label = label};
  q.keep[0] = 1 - smoothing;
  q.keep[1] = (1 - q.keep[0]) - smoothing;
  q.spread[0] = smoothing / length;
  q.spread[1] = fma(-q.spread[0], length, smoothing) / length;
  return q;
}

/* The weights of `width` classes from i on, 0 in lanes past them. */
FSM_INLINE doubles weights_at(const double *weight, size_t i, size_t width) {
  if (weight && width == LANES) return doubles_load(weight + i);
  double weights[LANES] = {0};
  for (size_t k = 0; k < width; k++) weights[k] = weight ? weight[i + k] : 1;
  return doubles_load(weights);
}

/* The parts of classes with these targets and weights, to within an ULP. */
FSM_INLINE doubles parts_of_targets(const parts *q, doubles target, doubles weights,
                                    bool is_weighted) {
  doubles part;
  dvec zero = d_set1(0), keep = d_set1(q->keep[0]), keep_lo = d_set1(q->keep[1]);
  for (int p = 0; p < PARTS; p++) {
    dvec t = target.part[p], w = weights.part[p];
    if (PARTS > 1) { /* double is more than float needs */
      dvec of_target = d_mul_add(t, keep, d_set1(q->spread[0]));
      part.part[p] = is_weighted ? d_mul(of_target, w) : of_target;
      continue;
    }
    dvec kept = d_mul(t, keep), kept_lo = d_fma(t, keep, d_sub(zero, kept));
    dvec_pair sum = add_exactly(kept, d_set1(q->spread[0]));
    dvec lo = d_add(sum.lo, d_add(d_mul_add(t, keep_lo, kept_lo), d_set1(q->spread[1])));
    dvec product = d_mul(sum.hi, w), rest = d_fma(sum.hi, w, d_sub(zero, product));
    part.part[p] = d_add(product, d_mul_add(lo, w, rest));
  }
  return part;
}

/* Those of `width` classes from i on, 0 in lanes past them; that of the label is yet to be put in
 * its place. */
FSM_INLINE doubles parts_at(const parts *q, size_t i, size_t width) {
  bool is_weighted = q->weight || width < LANES;
  doubles weights = is_weighted ? weights_at(q->weight, i, width) : doubles_set1(1);
  doubles target = q->s->other ? wide_load_or_0(q->s->other, i, width) : doubles_set1(0);
  if (q->spread[0] == 0 && !q->weight) return target;
  return parts_of_targets(q, target, weights, is_weighted);
}

/* The part of one class. */
static double class_part(const parts *q, size_t i) {
  const storage *targets = q->s->other;
  double target = targets ? (double)targets[(ptrdiff_t)i * q->target_stride] : i == q->label;
  double weight = weight_of(q->s->call, i), kept[2];
  multiply(target, q->keep[0], kept);
  kept[1] += target * q->keep[1];
  add_to_pair(&kept[0], &kept[1], q->spread[0], q->spread[1]);
  return fma(kept[0], weight, kept[1] * weight);
}

/* The loss where infinities make it one, or NaN; where they do not, because a class has no part. */
static double nonfinite_loss(const parts *q, const known *n, const storage *x, ptrdiff_t stride) {
  double loss = 0;
  for (size_t i = 0; i < q->s->x.length; i++)
    loss += part_of_loss(n, x[(ptrdiff_t)i * stride], class_part(q, i));
  return loss;
}

/* Sums over the classes. */
typedef struct {
  size_t largest; /* the only class with a share of more than a half, if there may be one, or -1 */
  double own;     /* its part */
  double others[2], all[2]; /* the parts of the other classes, and of all, as hi + lo */
  double loss;
} parts_sum;

/* How far `width` elements from i on lie below the maximum, 0 in lanes past them. */
FSM_INLINE vec distances_at(const line *x, size_t i, size_t width, vec max) {
  return v_sub(max, width == LANES ? v_load(x->x + i) : v_load_part(x->x + i, width, max));
}

/* The sum of all distances. */
static void sum_of_distances(const line *x, real maximum, double distance[2]) {
  vec max = v_set1(maximum), d[BLOCK];
  wide sum = wide_zero();
  size_t i = 0;
  for (; i + BLOCK * LANES <= x->length; i += BLOCK * LANES) {
    for (size_t k = 0; k < BLOCK; k++) d[k] = distances_at(x, i + k * LANES, LANES, max);
    for (size_t k = 0; k < BLOCK; k += 2) sum = wide_add(sum, v_add(d[k], d[k + 1]));
  }
  for (; i < x->length; i += LANES) {
    size_t left = x->length - i;
    d[0] = distances_at(x, i, left < LANES ? left : LANES, max);
    sum = wide_add(sum, d[0]);
  }
  wide_total(sum, distance);
}

/* The sums of parts times distances, and of parts but the largest element's. */
typedef struct {
  wide distances, others;
} parts_sums;

/* Add `count` vectors, 1 or 2, from i on; one may have less elements. */
FSM_INLINE void add_parts(parts_sums *sum, const parts *q, const known *n, size_t i, size_t largest,
                          const size_t count) {
  const line *x = &q->s->x;
  doubles part[2], distance[2];
  size_t left = x->length - i;
  for (size_t k = 0; k < count; k++) {
    size_t from = i + k * LANES, width = count == 2 || left > LANES ? LANES : left;
    vec d = distances_at(x, from, width, v_set1(n->max));
    if (q->s->other && q->spread[0] == 0) { /* 0 * inf is 0 here */
      mask is_absent = v_equal(load_or_0(q->s->other, from, width), v_set1(0));
      d = v_zero_where(is_absent, d);
    }
    part[k] = parts_at(q, from, width);
    distance[k] = widen(d);
    if (largest - from < width) { /* whose distance is 0 */
      double lanes[LANES];
      doubles_store(part[k], lanes);
      lanes[largest - from] = 0;
      part[k] = doubles_load(lanes);
    }
  }
  if (count == 1) {
    sum->distances = wide_add_products(sum->distances, part[0], distance[0]);
    sum->others = wide_add_doubles(sum->others, part[0]);
  } else {
    sum->distances = wide_add_two(sum->distances, part, distance);
    sum->others = wide_add_doubles(sum->others, doubles_add(part[0], part[1]));
  }
}

/* sum(part (max - x)) + log sum(part), of which no term is negative. */
static double loss_of_sums(const parts *q, const known *n, double distance, double all) {
  double loss = distance + n->log * all;
  return fabs(loss) < INFINITY && is_finite(n->max) ? loss : nonfinite_loss(q, n, q->s->x.x, 1);
}

static parts_sum sum_of_parts(const parts *q, const known *n, size_t largest) {
  const line *x = &q->s->x;
  size_t length = x->length, i = 0;
  bool has_largest = largest < length;
  parts_sum p = {.largest = largest, .own = has_largest ? class_part(q, largest) : 0};
  double distance[2], at_label = 0;
  if (!q->s->other && !q->weight) { /* but for the label all have the same part */
    double spread = q->spread[0], sum[2], others = (double)(length - has_largest);
    sum_of_distances(x, n->max, sum);
    multiply(spread, sum[0], distance);
    distance[1] += spread * sum[1] + q->spread[1] * sum[0];
    multiply(spread, others, p.others);
    p.others[1] += q->spread[1] * others;
  } else {
    parts_sums sum = {wide_zero(), wide_zero()};
    for (; i + 2 * LANES <= length; i += 2 * LANES) add_parts(&sum, q, n, i, largest, 2);
    for (; i < length; i += LANES) add_parts(&sum, q, n, i, largest, 1);
    wide_total(sum.distances, distance);
    wide_total(sum.others, p.others);
  }
  if (q->label < length) {
    double kept = weight_of(q->s->call, q->label) * q->keep[0];
    at_label = kept * ((double)n->max - (double)x->x[q->label]);
    if (q->label != largest) add_to_pair(&p.others[0], &p.others[1], kept, 0);
  }
  p.all[0] = p.others[0];
  p.all[1] = p.others[1];
  add_to_pair(&p.all[0], &p.all[1], p.own, 0);
  double distances = (distance[0] + distance[1]) + at_label;
  p.loss = loss_of_sums(q, n, distances, p.all[0] + p.all[1]);
  return p;
}

/* What the gradients of slices take in which every class has a part; a slice is a lane, or all are.
 */
typedef struct {
  doubles inverse[2]; /* 1 / sum of the terms, as hi + lo */
  pairs all;          /* parts */
  doubles slope;      /* of the gradient of floats, by the term */
  double factor;
} part_gradients;

FSM_INLINE part_gradients part_gradients_with(const doubles inverse[2], pairs all, double factor) {
  part_gradients g = {.inverse = {inverse[0], inverse[1]}, .all = all, .factor = factor};
  for (int p = 0; p < PARTS; p++)
    g.slope.part[p] = d_mul(d_mul(inverse[0].part[p], all.part[p].hi), d_set1(factor));
  return g;
}

/* share sum(parts of others) - part sum(shares of others), times the factor. In double the former
 * is the same as share sum(parts) - part to float's precision, for a share of a half at most. */
FSM_INLINE vec part_gradient(const part_gradients *g, doubles term, doubles part) {
  doubles grad;
  for (int p = 0; p < PARTS; p++) {
    if (PARTS > 1) {
      dvec away = d_mul(part.part[p], d_set1(-g->factor));
      grad.part[p] = d_fma(term.part[p], g->slope.part[p], away);
      continue;
    }
    dvec lo = d_mul(term.part[p], g->inverse[1].part[p]);
    dvec share = d_fma(term.part[p], g->inverse[0].part[p], lo);
    dvec other_parts = d_add(d_sub(g->all.part[p].hi, part.part[p]), g->all.part[p].lo);
    dvec away = d_mul(part.part[p], d_sub(d_set1(1), share));
    grad.part[p] = d_mul(d_fma(share, other_parts, d_sub(d_set1(0), away)), d_set1(g->factor));
  }
  return v_join(grad.part);
}

FSM_INLINE void parts_gradient_at(const parts *q, const known *n, const part_gradients *g, size_t i,
                                  size_t width) {
  storage *out = q->s->out;
  vec grad = part_gradient(g, terms_at(out, i, width, n), parts_at(q, i, width));
  line_store(NULL, out, i, width, grad, 0, false);
}

static void gradient_of_parts(const parts *q, const known *n, const parts_sum *sum) {
  const slice *s = q->s;
  size_t length = s->x.length, i = 0;
  double share = q->label < length ? share_of(n, s->out[q->label]) : 0;
  doubles inverse[] = {doubles_set1(n->inverse[0]), doubles_set1(n->inverse[1])};
  pairs all;
  for (int p = 0; p < PARTS; p++)
    all.part[p] = (dvec_pair){d_set1(sum->all[0]), d_set1(sum->all[1])};
  part_gradients g = part_gradients_with(inverse, all, s->call->scale);
  for (; i + LANES <= length; i += LANES) parts_gradient_at(q, n, &g, i, LANES);
  if (i < length) parts_gradient_at(q, n, &g, i, length - i);
  if (q->label < length) {
    double part = class_part(q, q->label), other_parts = (sum->all[0] - part) + sum->all[1];
    s->out[q->label] = (storage)(fma(share, other_parts, -part * (1 - share)) * s->call->scale);
  }
  if (sum->largest >= length) return;
  double towards = n->largest * (sum->others[0] + sum->others[1]);
  s->out[sum->largest] = (storage)(fma(-sum->own, n->others, towards) * s->call->scale);
}

/* The class whose gradient is found from the others, if there is one. */
static size_t largest_class(const slice *s, const known *n) {
  return s->out && n->ties == 1 ? first_equal(&s->x, 0, n->max) : SIZE_MAX;
}

static void parts_loss(const slice *s, const known *n, size_t label) {
  parts q = parts_of(s, label);
  parts_sum sum = sum_of_parts(&q, n, largest_class(s, n));
  *result_of(s) = (storage)sum.loss;
  if (s->out) gradient_of_parts(&q, n, &sum);
}

FSM_INLINE void grad_hess_at(const slice *s, const known *n, double weight, double second, size_t i,
                             size_t width) {
  line terms = {s->out, s->x.length, NULL, 0};
  doubles grad = terms_at(s->out, i, width, n), hess;
  for (int p = 0; p < PARTS; p++) {
    dvec share = share_of_term(grad.part[p], n), others = d_sub(d_set1(1), share);
    hess.part[p] = d_mul(d_mul(share, others), d_set1(second));
    grad.part[p] = d_mul(share, d_set1(weight));
  }
  line_store(&terms, s->out, i, width, v_join(grad.part), 0, false);
  line_store(&terms, s->hess, i, width, v_join(hess.part), 0, false);
}

/* weight (share - target), and scale weight share (1 - share). */
static void grad_hess_of_slice(const slice *s, const known *n) {
  const fsm_array *w = &s->call->weight;
  int64_t label = label_of(s);
  size_t length = s->x.length, i = 0;
  double weight = w->data ? ((const double *)w->data)[(ptrdiff_t)s->outer * w->outer] : 1;
  double second = weight * s->call->scale;
  double own_grad = 0;
  if (label >= 0)
    own_grad = -weight * (s->x.x[label] == n->max ? n->others : 1 - share_of(n, s->out[label]));
  for (; i + LANES <= length; i += LANES) grad_hess_at(s, n, weight, second, i, LANES);
  if (i < length) grad_hess_at(s, n, weight, second, i, length - i);
  if (label >= 0) s->out[label] = (storage)own_grad;
  if (n->ties == 1)
    s->hess[first_equal(&s->x, 0, n->max)] = (storage)(n->largest * n->others * second);
}

FSM_APART void grad_hess_group(group *g, const tempering *t, const bool masked) {
  known n[LANES];
  split_rows(g, true);
  know_group(g, t, n, true, masked);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    look_ahead(g, k, masked);
    grad_hess_of_slice(&s, &n[k]);
  }
}

static void grad_hess_rows(const fsm_call *c) { call_groups(c, grad_hess_group, false); }

static void softmax_grad_hess(const fsm_call *c) { as_rows(c, grad_hess_rows); }

#endif
