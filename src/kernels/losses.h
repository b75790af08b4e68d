/* Log-sum-exp beside softmax, losses, and their gradients.
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

static void softmax_logsumexp(const fsm_call *c) { as_rows(c, softmax_logsumexp_rows); }

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

FSM_INLINE void scale_twice(const line *terms, storage *out, size_t i, size_t width,
                            const share_frame *f, vec power) {
  vec y = v_mul_small(share(line_load(terms, i, width, false), f), power);
  line_store(terms, out, i, width, y, 0, false);
}

/* A factor of shares as a fraction and a power of two; the latter of a small factor is applied at
 * the end, lest the product of the former with the reciprocal of a sum become subnormal. */
static inline double fraction_of(double factor, real *power) {
  *power = 1;
  if (factor >= 0x1p-10) return factor;
  *power = (real)0x1p-30;
  if (factor >= 0x1p-40) return factor * 0x1p30;
  int exponent;
  double fraction = frexp(factor, &exponent);
  *power = (real)ldexp(1, exponent);
  return fraction;
}

/* Make shares times `factor` of the terms of a row. */
static void scale_terms(storage *out, size_t length, const known *n, double factor) {
  real last;
  double fraction = fraction_of(factor, &last), product[2];
  multiply(n->inverse[0], fraction, product);
  vec power = v_set1(last);
  share_frame f = {v_set1(n->floor), pair_set1(product[0], product[1] + n->inverse[1] * fraction)};
  line terms = {out, length, NULL, 0};
  size_t i = 0;
  for (; i + LANES <= length; i += LANES) scale_twice(&terms, out, i, LANES, &f, power);
  if (i < length) scale_twice(&terms, out, i, length - i, &f, power);
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

/* -weight log(share), and weight (shares - 1 at the label), where the latter is -(all others). */
static void label_loss(const slice *s, const known *n, size_t label) {
  double weight = weight_of(s->call, label), factor = weight * s->call->scale;
  real x = s->x.x[label];
  *result_of(s) = (storage)part_of_loss(n, x, weight);
  if (!s->out) return;
  double others = x == n->max ? n->others : 1 - share_of(n, s->out[label]);
  scale_terms(s->out, s->x.length, n, factor);
  s->out[label] = (storage)(-others * factor);
}

/* The parts q of the loss -sum(q log(share)) that classes have: targets, which are smoothed and
 * weighted. */
typedef struct {
  const slice *s;
  const double *weight;
  size_t label;              /* at or past the end where there are probabilities */
  double keep[2], spread[2]; /* 1 - smoothing and smoothing/length, as hi + lo */
} parts;

static parts parts_of(const slice *s, size_t label) {
  double smoothing = s->call->label_smoothing, length = (double)s->x.length;
  parts q = {.s = s, .weight = s->call->weight.data, .label = label};
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

/* Those of one class of the rows of a batch. */
FSM_INLINE doubles batch_parts_at(const parts *q, const batch *target, size_t i) {
  doubles targets = widen(v_load_real(target->columns[i]));
  if (q->spread[0] == 0 && !q->weight) return targets;
  doubles weight = doubles_set1(q->weight ? q->weight[i] : 1);
  return parts_of_targets(q, targets, weight, q->weight);
}

/* The part of one class. */
static double class_part(const parts *q, size_t i) {
  double target = q->s->other ? (double)q->s->other[i] : i == q->label;
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

/* share sum(parts of others) - part sum(shares of others), times the factor. In double the former
 * is the same as share sum(parts) - part to float's precision, for a share of a half at most. */
FSM_INLINE void parts_gradient_at(const parts *q, const known *n, const parts_sum *sum, size_t i,
                                  size_t width) {
  const slice *s = q->s;
  line terms = {s->out, s->x.length, NULL, 0};
  double factor = s->call->scale;
  doubles part = parts_at(q, i, width), term = terms_at(s->out, i, width, n), grad;
  for (int p = 0; p < PARTS; p++) {
    if (PARTS > 1) {
      dvec away = d_mul(part.part[p], d_set1(-factor));
      grad.part[p] = d_fma(term.part[p], d_set1(n->inverse[0] * sum->all[0] * factor), away);
      continue;
    }
    dvec share = share_of_term(term.part[p], n);
    dvec other_parts = d_add(d_sub(d_set1(sum->all[0]), part.part[p]), d_set1(sum->all[1]));
    dvec away = d_mul(part.part[p], d_sub(d_set1(1), share));
    grad.part[p] = d_mul(d_fma(share, other_parts, d_sub(d_set1(0), away)), d_set1(factor));
  }
  line_store(&terms, s->out, i, width, v_join(grad.part), 0, false);
}

static void gradient_of_parts(const parts *q, const known *n, const parts_sum *sum) {
  const slice *s = q->s;
  size_t length = s->x.length, i = 0;
  double share = q->label < length ? share_of(n, s->out[q->label]) : 0;
  for (; i + LANES <= length; i += LANES) parts_gradient_at(q, n, sum, i, LANES);
  if (i < length) parts_gradient_at(q, n, sum, i, length - i);
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

static void label_or_parts_loss(const slice *s, const known *n) {
  int64_t label = label_of(s);
  if (label < 0) {
    *result_of(s) = 0;
    if (s->out) memset(s->out, 0, s->x.length * sizeof *s->out);
  } else if (s->call->label_smoothing == 0) {
    label_loss(s, n, (size_t)label);
  } else {
    parts_loss(s, n, (size_t)label);
  }
}

/* Whether the loss of a label may be small, or its class have the largest share: not if it is 2 at
 * least, beside which the error of a logarithm whose ties are not apart is small. */
static bool may_be_certain(const slice *s, real maximum) {
  int64_t label = label_of(s);
  return s->call->label_smoothing != 0 || label < 0 || !(maximum - (real)s->x.x[label] >= 2);
}

/* Slices that lie side by side, LANES at most, rows of a batch or columns of a call; of the arrays
 * that have one element for each, theirs begin at `first`, one further along `outer` for each. */
typedef struct {
  const fsm_call *call;
  size_t first, count;
  const storage *x;
  ptrdiff_t stride; /* from one class to the next */
  vec max;
  doubles log; /* of the sum of exp(x - max) */
} neighbours;

/* What smoothing adds to their losses. */
static doubles smoothed_parts(const neighbours *n, const parts *q) {
  size_t length = n->call->length;
  wide distances = wide_zero();
  double weights = q->weight ? 0 : (double)length, hi[LANES], lo[LANES];
  for (size_t i = 0; i < length; i++) {
    doubles weight = doubles_set1(weight_of(n->call, i));
    vec x = load_or_0(n->x + (ptrdiff_t)i * n->stride, 0, n->count);
    distances = wide_add_products(distances, weight, widen(v_sub(n->max, x)));
    if (q->weight) weights += q->weight[i];
  }
  wide_store(distances, hi, lo);
  doubles of_hi = doubles_load(hi), of_lo = doubles_load(lo), loss;
  dvec spread = d_set1(q->spread[0]), spread_lo = d_set1(q->spread[1]);
  for (int p = 0; p < PARTS; p++) {
    dvec rest = d_mul_add(spread, of_lo.part[p], d_mul(spread_lo, of_hi.part[p]));
    dvec distance = d_mul_add(spread, of_hi.part[p], rest);
    dvec all = d_set1(q->spread[0] * weights + q->spread[1] * weights);
    loss.part[p] = d_mul_add(n->log.part[p], all, distance);
  }
  return loss;
}

/* The loss of one of them by itself: infinite or NaN, or of a label that is none. */
static storage loss_of_neighbour(const neighbours *n, size_t k) {
  const fsm_call *c = n->call;
  const storage *x = n->x + k;
  slice s = {.call = c, .outer = n->first + k, .x = {.length = c->length}};
  int64_t label = label_of(&s);
  if (label < 0) return 0;
  real max[LANES];
  double logs[LANES];
  v_store_real(max, n->max);
  doubles_store(n->log, logs);
  known of_slice = {.max = max[k], .log = logs[k]};
  parts q = parts_of(&s, (size_t)label);
  bool is_smoothed = c->label_smoothing != 0;
  return (storage)(is_smoothed
                       ? nonfinite_loss(&q, &of_slice, x, n->stride)
                       : part_of_loss(&of_slice, x[label * n->stride], class_part(&q, q.label)));
}

/* Losses of their labels alone. */
FSM_APART void label_losses_of(const neighbours *n) {
  const fsm_call *c = n->call;
  slice s = {.call = c, .outer = n->first, .x = {.length = c->length}};
  bool is_smoothed = c->label_smoothing != 0;
  parts q = is_smoothed ? parts_of(&s, 0) : (parts){.s = &s, .keep = {1}};
  real x[LANES];
  double kept[LANES] = {0};
  uint64_t is_plain = 0; /* bits of those to which the formula applies */
  v_store_real(x, n->max);
  for (size_t k = 0; k < n->count; k++, s.outer++) {
    int64_t label = label_of(&s);
    if (label < 0) continue;
    is_plain |= (uint64_t)1 << k;
    x[k] = n->x[label * n->stride + (ptrdiff_t)k];
    kept[k] = weight_of(c, (size_t)label) * q.keep[0];
  }
  doubles weight = doubles_load(kept), loss;
  vec of_label = v_load_real(x);
  for (int p = 0; p < PARTS; p++) {
    dvec distance = d_sub(v_part(n->max, p), v_part(of_label, p));
    loss.part[p] = d_mul(weight.part[p], d_add(distance, n->log.part[p]));
  }
  if (is_smoothed) loss = doubles_add(loss, smoothed_parts(n, &q));
  storage losses[LANES];
  vec rounded = v_join(loss.part);
  is_plain &= v_bits(v_finite(rounded));
  v_store(losses, rounded);
  s.outer = n->first;
  for (size_t k = 0; k < n->count; k++, s.outer++)
    *result_of(&s) = is_plain >> k & 1 ? losses[k] : loss_of_neighbour(n, k);
}

FSM_APART void label_losses_batch(const group *g, const tempering *t) {
  vec max = load_lanes(g->max, g->count);
  doubles log = batch_log_of_sum(g->batch, max, t);
  label_losses_of(
      &(neighbours){g->call, g->first, g->count, columns_of_batch(g->batch), LANES, max, log});
}

FSM_APART void label_losses_group(group *g, const tempering *t, const bool masked) {
  if (g->batch && !g->call->out.data) {
    label_losses_batch(g, t);
    return;
  }
  known n[LANES];
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    g->splits[k] = may_be_certain(&s, g->max[k]);
  }
  know_group(g, t, n, g->call->out.data != NULL, masked);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    look_ahead(g, k, masked);
    label_or_parts_loss(&s, &n[k]);
  }
}

/* The sums over the classes of the rows of a batch: of distances, and of the parts of the largest
 * elements, of the others, and of all. */
typedef struct {
  double distance[LANES], own[LANES], others[2][LANES], all[2][LANES];
} batch_parts;

FSM_APART void sum_parts_of_batch(batch_parts *sums, const group *g, const parts *q) {
  vec max = load_lanes(g->max, g->count);
  batch target;
  call_batch(&target, g->call, &g->call->other, g->first);
  wide distance = wide_zero(), own = wide_zero(), others = wide_zero();
  for (size_t i = 0; i < g->batch->first.length; i++) {
    vec x = v_load_real(g->batch->columns[i]), d = v_sub(max, x);
    if (q->spread[0] == 0) /* 0 * inf is 0 here */
      d = v_zero_where(v_equal(v_load_real(target.columns[i]), v_set1(0)), d);
    doubles part = batch_parts_at(q, &target, i), of_largest;
    distance = wide_add_products(distance, part, widen(d));
    mask is_largest = v_equal(x, max);
    for (int p = 0; p < PARTS; p++) {
      of_largest.part[p] = v_select_part(is_largest, p, part.part[p], d_set1(0));
      part.part[p] = v_select_part(is_largest, p, d_set1(0), part.part[p]);
    }
    own = wide_add_doubles(own, of_largest);
    others = wide_add_doubles(others, part);
  }
  double lo[LANES];
  wide_store(distance, sums->distance, lo);
  wide_store(own, sums->own, lo); /* of a single element, which is not rounded */
  wide_store(others, sums->others[0], sums->others[1]);
  wide_store(wide_join(own, others), sums->all[0], sums->all[1]);
}

FSM_APART void probabilities_losses_batch(group *g, const tempering *t) {
  known n[LANES];
  batch_parts sums;
  slice s = group_slice(g, 0);
  parts q = parts_of(&s, SIZE_MAX);
  sum_parts_of_batch(&sums, g, &q); /* before the terms take the places of the elements */
  split_rows(g, true);
  know_group(g, t, n, s.out != NULL, false);
  for (size_t k = 0; k < g->count; k++) {
    s = group_slice(g, k);
    *result_of(&s) = (storage)loss_of_sums(&q, &n[k], sums.distance[k], sums.all[0][k]);
    if (!s.out) continue;
    parts_sum sum = {.largest = largest_class(&s, &n[k]),
                     .own = sums.own[k],
                     .others = {sums.others[0][k], sums.others[1][k]},
                     .all = {sums.all[0][k], sums.all[1][k]}};
    gradient_of_parts(&q, &n[k], &sum);
  }
}

FSM_APART void probabilities_losses_group(group *g, const tempering *t, const bool masked) {
  if (g->batch) {
    probabilities_losses_batch(g, t);
    return;
  }
  known n[LANES];
  split_rows(g, true);
  know_group(g, t, n, g->call->out.data != NULL, masked);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    look_ahead(g, k, masked);
    parts_loss(&s, &n[k], SIZE_MAX);
  }
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
  size_t label = (size_t)label_of(s), length = s->x.length, i = 0;
  double weight = w->data ? ((const double *)w->data)[(ptrdiff_t)s->outer * w->outer] : 1;
  double second = weight * s->call->scale;
  double others = s->x.x[label] == n->max ? n->others : 1 - share_of(n, s->out[label]);
  for (; i + LANES <= length; i += LANES) grad_hess_at(s, n, weight, second, i, LANES);
  if (i < length) grad_hess_at(s, n, weight, second, i, length - i);
  s->out[label] = (storage)(-weight * others);
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

static void label_losses_rows(const fsm_call *c) { call_groups(c, label_losses_group, false); }
static void probabilities_losses_rows(const fsm_call *c) {
  call_groups(c, probabilities_losses_group, false);
}
static void grad_hess_rows(const fsm_call *c) { call_groups(c, grad_hess_group, false); }

/* Columns from one on as the slices of a call, apart along `outer`. */
static fsm_call call_of_columns(const fsm_call *c, size_t outer, size_t inner) {
  fsm_call columns = *c;
  columns.label = columns_from(c->label, sizeof(int64_t), outer, inner);
  columns.slices = columns_from(c->slices, sizeof(storage), outer, inner);
  return columns;
}

/* What the gradients of vector v of a tile take, and those of their labels, which are found from
 * the other classes. */
FSM_APART void know_label_gradients(tile *t, size_t v, const neighbours *columns, real *of_label) {
  const fsm_call *c = columns->call;
  exp_frame frame = t->frame[v];
  slice s = {.call = c, .outer = columns->first};
  real x[LANES], power[LANES] = {0};
  double factors[LANES] = {0}, fractions[LANES] = {0};
  v_store_real(x, columns->max);
  for (size_t k = 0; k < columns->count; k++, s.outer++) {
    int64_t label = label_of(&s);
    if (label < 0) continue;
    x[k] = columns->x[label * columns->stride + (ptrdiff_t)k];
    factors[k] = weight_of(c, (size_t)label) * c->scale;
    fractions[k] = fraction_of(factors[k], &power[k]);
  }
  lane_shares shares = know_shares(&t->sum[v], columns->max, &frame);
  doubles factor = doubles_load(factors), fraction = doubles_load(fractions), grad;
  vec label_x = v_load_real(x), shifted = v_sub(label_x, frame.origin);
  mask is_largest = v_equal(label_x, columns->max);
  exp_term term;
  exp_terms(&term, &shifted, &frame, 1);
  doubles value = widen(v_sub(v_stored(exp_term_value(&term)), frame.floor_term));
  dvec scale[2][PARTS];
  for (int p = 0; p < PARTS; p++) {
    dvec_pair inverse = {shares.inverse[0].part[p], shares.inverse[1].part[p]};
    scale[0][p] = d_mul(inverse.hi, fraction.part[p]);
    scale[1][p] =
        d_mul_add(inverse.lo, fraction.part[p], d_fms(inverse.hi, fraction.part[p], scale[0][p]));
    dvec own = d_mul_add(value.part[p], inverse.hi, d_mul(value.part[p], inverse.lo));
    dvec others = v_select_part(is_largest, p, shares.others.part[p], d_sub(d_set1(1), own));
    grad.part[p] = d_mul(d_sub(d_set1(0), others), factor.part[p]);
  }
  t->share[v] = (share_frame){frame.floor_term, pair_of(scale[0], scale[1])};
  t->power[v] = v_load_real(power);
  v_store_real(of_label, v_join(grad.part));
}

/* The terms are found again, which takes less time than to store and load them. */
FSM_INLINE void label_gradient_step(tile *t, const tile_place *p, size_t row, const size_t rows,
                                    size_t v, size_t width, const bool masked) {
  share_frame last = t->share[v];
  exp_frame f = t->frame[v];
  vec x[BLOCK], power = t->power[v];
  exp_term term[BLOCK];
  tile_terms(term, x, p, &f, row, rows, v, width, true, masked);
  for (size_t k = 0; k < rows; k++) {
    vec y = v_mul_small(share(v_stored(exp_term_value(&term[k])), &last), power);
    line_store(NULL, p->out + (ptrdiff_t)(row + k) * p->out_stride, v * LANES, width, y, 0, false);
  }
}

/* The gradients of a tile whose sums are known. */
static void label_gradients(tile *t, const neighbours *columns) {
  real of_label[FSM_TILE];
  for (size_t v = 0; v < t->vectors; v++)
    know_label_gradients(t, v, &columns[v], of_label + v * LANES);
  for_each_block(t, label_gradient_step, false);
  slice s = {.call = columns[0].call};
  for (storage *out = t->at.out; s.outer < t->columns; s.outer++, out++) {
    int64_t label = label_of(&s);
    if (label >= 0) out[label * t->at.out_stride] = of_label[s.outer];
    for (size_t i = 0; label < 0 && i < t->at.length; i++) out[(ptrdiff_t)i * t->at.out_stride] = 0;
  }
}

/* Losses of columns, which are not copied to rows: tiles of columns have all but the labels. */
static void label_losses_columns(const fsm_call *c) {
  fsm_array out = c->out.data ? c->out : c->x; /* of which nothing is written then */
  fsm_slices s = {.outer = c->outer,
                  .length = c->length,
                  .inner = c->inner,
                  .x = c->x.data,
                  .x_outer = c->x.outer,
                  .x_length = c->x.length,
                  .out = out.data,
                  .out_outer = out.outer,
                  .out_length = out.length};
  tile t;
  prepare_tiles(&t, &s, false, true);
  for (size_t outer = 0; outer < s.outer; outer++)
    for (size_t column = 0; column < s.inner; column += t.columns) {
      place_tile(&t, &s, outer, column);
      find_maxima(&t);
      find_frames(&t);
      sum_terms_for_log(&t);
      know_logs(&t);
      fsm_call of_columns = call_of_columns(c, outer, column);
      neighbours columns[TILE_VECTORS];
      for (size_t v = 0; v < t.vectors; v++) {
        size_t first = v * LANES;
        columns[v] = (neighbours){&of_columns,   first,    tile_width(&t, v), t.at.x + first,
                                  t.at.x_stride, t.max[v], t.log_sum[v]};
        label_losses_of(&columns[v]);
      }
      if (c->out.data) label_gradients(&t, columns);
    }
}

static void cross_entropy_labels(const fsm_call *c) {
  /* Gradients of smoothed losses are those of rows. */
  bool is_of_tiles = c->inner > 1 && c->inner >= LANES / 2;
  if (is_of_tiles && !(c->out.data && c->label_smoothing != 0))
    label_losses_columns(c);
  else
    as_rows(c, label_losses_rows);
}
static void cross_entropy_probabilities(const fsm_call *c) {
  as_rows(c, probabilities_losses_rows);
}
static void softmax_grad_hess(const fsm_call *c) { as_rows(c, grad_hess_rows); }

#endif
