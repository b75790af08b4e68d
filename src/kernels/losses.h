/* Log-sum-exp beside softmax, losses, and their gradients.
 *
 * All are made of one exponentiation: the terms are stored where the softmax or gradient goes, and
 * turned into it by a last pass. Memory touched per element: two reads for a loss; for a gradient
 * three and two writes, all but the first read from cache for rows that fit one.
 *
 * What is small because nearly everything goes to one class is computed from the other classes. */
#ifndef FSM_KERNELS_LOSSES_H
#define FSM_KERNELS_LOSSES_H

FSM_INLINE void scale_row(const line *terms, storage *out, vec_pair scale, const bool masked) {
  size_t i = 0;
  for (; i + LANES <= terms->length; i += LANES) scale_vector(terms, out, i, LANES, scale, masked);
  if (i < terms->length) scale_vector(terms, out, i, terms->length - i, scale, masked);
}

FSM_INLINE void softmax_logsumexp_slice(const slice *s) {
  known n = know(&s->x, slice_max(&s->x), s->out, true);
  vec_pair scale = pair_set1(n.inverse[0], n.inverse[1]);
  line terms = {s->out, s->x.length, s->x.where, s->x.where_stride};
  if (terms.where)
    scale_row(&terms, s->out, scale, true);
  else
    scale_row(&terms, s->out, scale, false);
  *result_of(s) = (storage)(v_first(n.max) + n.log);
}

static void softmax_logsumexp(const fsm_call *c) { for_each_slice(c, softmax_logsumexp_slice); }

/* The share of a stored term. */
static inline double share_of(const known *n, storage term) {
  return (double)term * n->inverse[0] + (double)term * n->inverse[1];
}

FSM_INLINE void scale_twice(const line *terms, storage *out, size_t i, size_t width, vec_pair scale,
                            vec power) {
  vec y = v_mul(scaled(line_load(terms, i, width, false), scale), power);
  line_store(terms, out, i, width, y, 0, false);
}

/* Make shares times `factor` of the terms of a row. A small factor is applied by its power of two
 * at the end, lest the reciprocal become subnormal. */
static void scale_terms(storage *out, size_t length, const known *n, double factor) {
  int exponent = 0;
  double fraction = factor < 1 ? frexp(factor, &exponent) : factor, product[2];
  multiply(n->inverse[0], fraction, product);
  vec_pair scale = pair_set1(product[0], product[1] + n->inverse[1] * fraction);
  vec power = v_set1((real)ldexp(1, exponent));
  line terms = {out, length, NULL, 0};
  size_t i = 0;
  for (; i + LANES <= length; i += LANES) scale_twice(&terms, out, i, LANES, scale, power);
  if (i < length) scale_twice(&terms, out, i, length - i, scale, power);
}

static inline double weight_of(const fsm_call *c, size_t label) {
  return c->weight.data ? ((const double *)c->weight.data)[label] : 1;
}

FSM_INLINE dvec share_of_term(dvec term, const known *n) {
  dvec hi = d_set1(n->inverse[0]), lo = d_set1(n->inverse[1]);
  return PARTS > 1 ? d_mul(term, hi) : d_fma(term, hi, d_mul(term, lo));
}

/* -weight log(share), and weight (shares - 1 at the label), where the latter is -(all others). */
static void label_loss(const slice *s, size_t label) {
  double weight = weight_of(s->call, label), factor = weight * s->call->scale;
  real x = s->x.x[label], maximum = slice_max(&s->x);
  known n = know(&s->x, maximum, s->out, !(maximum - x >= 4));
  double loss = weight * (((double)v_first(n.max) - (double)x) + n.log);
  *result_of(s) = (storage)(weight == 0 ? 0 : loss);
  if (!s->out) return;
  double others = x == v_first(n.max) ? n.others : 1 - share_of(&n, s->out[label]);
  scale_terms(s->out, s->x.length, &n, factor);
  s->out[label] = (storage)(-others * factor);
}

/* The parts q of the loss -sum(q log(share)) that classes have: targets, which are smoothed and
 * weighted. */
typedef struct {
  const slice *s;
  size_t label;              /* where there are no probabilities */
  double keep[2], spread[2]; /* 1 - smoothing and smoothing/length, as hi + lo */
} parts;

static parts parts_of(const slice *s, size_t label) {
  double smoothing = s->call->label_smoothing, length = (double)s->x.length;
  parts q = {.s = s, .label = label};
  q.keep[0] = 1 - smoothing;
  q.keep[1] = (1 - q.keep[0]) - smoothing;
  q.spread[0] = smoothing / length;
  q.spread[1] = fma(-q.spread[0], length, smoothing) / length;
  return q;
}

FSM_INLINE doubles targets_at(const parts *q, size_t i, size_t width) {
  if (q->s->other) return wide_load_or_0(q->s->other, i, width);
  if (q->label < i || q->label >= i + width) return doubles_set1(0);
  double target[LANES] = {0};
  target[q->label - i] = 1;
  return doubles_load(target);
}

/* The weights of `width` classes from i on, 0 in lanes past them. */
FSM_INLINE doubles weights_at(const double *weight, size_t i, size_t width) {
  if (weight && width == LANES) return doubles_load(weight + i);
  double weights[LANES] = {0};
  for (size_t k = 0; k < width; k++) weights[k] = weight ? weight[i + k] : 1;
  return doubles_load(weights);
}

/* The parts of `width` classes from i on, to within an ULP, 0 in lanes past them. */
FSM_INLINE doubles parts_at(const parts *q, size_t i, size_t width) {
  doubles target = targets_at(q, i, width), part;
  const double *weight = q->s->call->weight.data;
  bool is_weighted = weight || width < LANES;
  doubles weights = is_weighted ? weights_at(weight, i, width) : doubles_set1(1);
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

/* The loss where infinities make it one, or NaN; where they do not, because a class has no part. */
static double nonfinite_loss(const parts *q, const known *n) {
  const line *x = &q->s->x;
  double loss = 0;
  for (size_t i = 0; i < x->length; i += LANES) {
    size_t width = x->length - i < LANES ? x->length - i : LANES;
    double part[LANES];
    doubles_store(parts_at(q, i, width), part);
    for (size_t k = 0; k < width; k++)
      if (part[k] != 0)
        loss += part[k] * (((double)v_first(n->max) - (double)x->x[i + k]) + n->log);
  }
  return loss;
}

/* Sums over the classes. */
typedef struct {
  size_t largest; /* the only class with a share of more than a half, if there may be one, or -1 */
  double own;     /* its part */
  double others[2], all[2]; /* the parts of the other classes, and of all, as hi + lo */
  double loss;
} parts_sum;

/* sum(part (max - x)) + log sum(part), of which no term is negative. */
FSM_INLINE void add_parts(const parts *q, const known *n, size_t i, size_t width, parts_sum *p,
                          sums *distances, sums *others) {
  const line *x = &q->s->x;
  vec logits = width == LANES ? v_load(x->x + i) : v_load_part(x->x + i, width, n->max);
  if (q->s->other && q->spread[0] == 0) { /* 0 * inf is 0 here */
    mask is_absent = v_equal(load_or_0(q->s->other, i, width), v_set1(0));
    logits = v_select(is_absent, n->max, logits);
  }
  doubles part = parts_at(q, i, width);
  *distances = sums_add_products(*distances, part, widen(v_sub(n->max, logits)));
  if (p->largest - i < width) {
    double lanes[LANES];
    doubles_store(part, lanes);
    p->own = lanes[p->largest - i];
    lanes[p->largest - i] = 0;
    part = doubles_load(lanes);
  }
  *others = sums_add(*others, part);
}

static parts_sum sum_of_parts(const parts *q, const known *n, size_t largest) {
  parts_sum p = {.largest = largest, .own = 0};
  sums distances = sums_zero(), others = sums_zero();
  size_t length = q->s->x.length, i = 0;
  for (; i + LANES <= length; i += LANES) add_parts(q, n, i, LANES, &p, &distances, &others);
  if (i < length) add_parts(q, n, i, length - i, &p, &distances, &others);
  double distance[2];
  sums_reduce(&distances, 1, distance);
  sums_reduce(&others, 1, p.others);
  p.all[0] = p.others[0];
  p.all[1] = p.others[1];
  add_to_pair(&p.all[0], &p.all[1], p.own, 0);
  p.loss = (distance[0] + distance[1]) + n->log * (p.all[0] + p.all[1]);
  if (!(fabs(p.loss) < INFINITY)) p.loss = nonfinite_loss(q, n);
  return p;
}

/* share sum(parts of others) - part sum(shares of others), times the factor. In double the former
 * is the same as share sum(parts) - part to float's precision, for a share of a half at most. */
FSM_INLINE void parts_gradient_at(const parts *q, const known *n, const parts_sum *sum, size_t i,
                                  size_t width) {
  const slice *s = q->s;
  line terms = {s->out, s->x.length, NULL, 0};
  double factor = s->call->scale;
  doubles part = parts_at(q, i, width), term = wide_load_or_0(s->out, i, width), grad;
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
  for (; i + LANES <= length; i += LANES) parts_gradient_at(q, n, sum, i, LANES);
  if (i < length) parts_gradient_at(q, n, sum, i, length - i);
  if (sum->largest >= length) return;
  double towards = n->largest * (sum->others[0] + sum->others[1]);
  s->out[sum->largest] = (storage)(fma(-sum->own, n->others, towards) * s->call->scale);
}

static void parts_loss(const slice *s, size_t label) {
  parts q = parts_of(s, label);
  known n = know(&s->x, slice_max(&s->x), s->out, true);
  bool has_largest = s->out && n.ties == 1;
  size_t largest = has_largest ? first_equal(&s->x, 0, v_first(n.max)) : SIZE_MAX;
  parts_sum sum = sum_of_parts(&q, &n, largest);
  *result_of(s) = (storage)sum.loss;
  if (s->out) gradient_of_parts(&q, &n, &sum);
}

FSM_INLINE void cross_entropy_labels_slice(const slice *s) {
  int64_t label = label_of(s);
  if (label < 0) {
    *result_of(s) = 0;
    if (s->out) memset(s->out, 0, s->x.length * sizeof *s->out);
  } else if (s->call->label_smoothing == 0) {
    label_loss(s, (size_t)label);
  } else {
    parts_loss(s, (size_t)label);
  }
}

FSM_INLINE void cross_entropy_probabilities_slice(const slice *s) { parts_loss(s, 0); }

FSM_INLINE void grad_hess_at(const slice *s, const known *n, double weight, double second, size_t i,
                             size_t width) {
  line terms = {s->out, s->x.length, NULL, 0};
  doubles grad = wide_load_or_0(s->out, i, width), hess;
  for (int p = 0; p < PARTS; p++) {
    dvec share = share_of_term(grad.part[p], n), others = d_sub(d_set1(1), share);
    hess.part[p] = d_mul(d_mul(share, others), d_set1(second));
    grad.part[p] = d_mul(share, d_set1(weight));
  }
  line_store(&terms, s->out, i, width, v_join(grad.part), 0, false);
  line_store(&terms, s->hess, i, width, v_join(hess.part), 0, false);
}

/* weight (share - target), and scale weight share (1 - share). */
FSM_INLINE void softmax_grad_hess_slice(const slice *s) {
  const fsm_array *w = &s->call->weight;
  size_t label = (size_t)label_of(s), length = s->x.length, i = 0;
  ptrdiff_t sample = (ptrdiff_t)s->outer * w->outer + (ptrdiff_t)s->inner * w->inner;
  double weight = w->data ? ((const double *)w->data)[sample] : 1, second = weight * s->call->scale;
  known n = know(&s->x, slice_max(&s->x), s->out, true);
  bool is_largest = (real)s->x.x[label] == v_first(n.max);
  double others = is_largest ? n.others : 1 - share_of(&n, s->out[label]);
  for (; i + LANES <= length; i += LANES) grad_hess_at(s, &n, weight, second, i, LANES);
  if (i < length) grad_hess_at(s, &n, weight, second, i, length - i);
  s->out[label] = (storage)(-weight * others);
  if (n.ties == 1)
    s->hess[first_equal(&s->x, 0, v_first(n.max))] = (storage)(n.largest * n.others * second);
}

static void cross_entropy_labels(const fsm_call *c) {
  for_each_slice(c, cross_entropy_labels_slice);
}
static void cross_entropy_probabilities(const fsm_call *c) {
  for_each_slice(c, cross_entropy_probabilities_slice);
}
static void softmax_grad_hess(const fsm_call *c) { for_each_slice(c, softmax_grad_hess_slice); }

#endif
