/* Losses of slices that lie side by side, each a lane: rows of a batch, or columns of a call, and
 * the gradients of those in which every class has a part.
 *
 * Memory touched per element: two reads, with probabilities three; with a gradient one or two more,
 * and one write. The terms of a gradient are found again, which takes less time than to store and
 * load them. */
#ifndef FSM_KERNELS_NEIGHBOURS_H
#define FSM_KERNELS_NEIGHBOURS_H

/* What labels select. */
typedef struct {
  uint64_t present;     /* a bit for each slice that has a label */
  real x[LANES];        /* the maximum where there is none */
  double weight[LANES]; /* of the class, or 0 */
} selected;

/* At most LANES slices; of the arrays that have one element for each, theirs begin at `first`, one
 * further along `outer` for each. */
typedef struct {
  const fsm_call *call;
  size_t first, count;
  const storage *x, *target; /* the latter probabilities; NULL where there are labels */
  storage *out;              /* of a gradient, perhaps in the place of x */
  ptrdiff_t stride, target_stride, out_stride; /* from one class to the next */
  vec max;
  doubles log; /* of the sum of exp(x - max) */
  const term_sum *sum;
  const exp_frame *frame;
  selected label;
} neighbours;

FSM_INLINE vec neighbours_at(const neighbours *n, const storage *x, ptrdiff_t stride, size_t i) {
  return load_or_0(x + (ptrdiff_t)i * stride, 0, n->count);
}

/* The slice of one of them, to be worked on by itself. */
static slice slice_of_neighbour(const neighbours *n, size_t k) {
  return (slice){.call = n->call,
                 .outer = n->first + k,
                 .x = {.length = n->call->length},
                 .other = n->target ? n->target + k : NULL};
}

/* Look up what their labels select, some time before it is wanted: a vector cannot be loaded until
 * all that was stored in its place by lanes has arrived there. */
FSM_INLINE void select_labels(neighbours *n) {
  const fsm_call *c = n->call;
  ptrdiff_t place = (ptrdiff_t)n->first * c->label.outer;
  n->label.present = 0;
  v_store_real(n->label.x, n->max);
  doubles_store(doubles_set1(0), n->label.weight);
  for (size_t k = 0; k < n->count; k++, place += c->label.outer) {
    int64_t label = class_at(c, place);
    if (label < 0) continue;
    n->label.present |= (uint64_t)1 << k;
    n->label.x[k] = n->x[label * n->stride + (ptrdiff_t)k];
    n->label.weight[k] = weight_of(c, (size_t)label);
  }
}

/* What the labels add to the parts of their classes, or 0. */
FSM_INLINE doubles kept_of_labels(const neighbours *n, double keep) {
  doubles kept = doubles_load(n->label.weight);
  for (int p = 0; p < PARTS; p++) kept.part[p] = d_mul(kept.part[p], d_set1(keep));
  return kept;
}

/* The loss of one of them by itself: infinite or NaN, or of a label that is none. */
static storage loss_of_neighbour(const neighbours *n, size_t k) {
  slice s = slice_of_neighbour(n, k);
  int64_t label = n->target ? INT64_MAX : label_of(&s);
  if (label < 0) return 0;
  real max[LANES];
  double logs[LANES];
  v_store_real(max, n->max);
  doubles_store(n->log, logs);
  known of_slice = {.max = max[k], .log = logs[k]};
  const storage *x = n->x + k;
  parts q = parts_of(&s, (size_t)label);
  q.target_stride = n->target_stride;
  if (n->target || n->call->label_smoothing != 0)
    return (storage)nonfinite_loss(&q, &of_slice, x, n->stride);
  return (storage)part_of_loss(&of_slice, x[label * n->stride], class_part(&q, q.label));
}

/* Store losses, of which only those in `is_plain` may be as they should. */
FSM_INLINE void store_losses(const neighbours *n, doubles loss, uint64_t is_plain) {
  slice s = slice_of_neighbour(n, 0);
  vec rounded = v_join(loss.part);
  is_plain &= v_bits(v_finite(rounded)) & v_bits(v_finite(n->max));
  const uint64_t all = ((uint64_t)1 << LANES) - 1;
  if (n->count == LANES && n->call->slices.outer == 1 && (is_plain & all) == all) {
    v_store(result_of(&s), rounded);
    return;
  }
  storage losses[LANES];
  v_store(losses, rounded);
  for (size_t k = 0; k < n->count; k++, s.outer++)
    *result_of(&s) = is_plain >> k & 1 ? losses[k] : loss_of_neighbour(n, k);
}

/* What smoothing adds to the losses of labels. */
static doubles smoothed_parts(const neighbours *n, const parts *q) {
  size_t length = n->call->length;
  wide distances = wide_zero();
  double weights = q->weight ? 0 : (double)length, hi[LANES], lo[LANES];
  for (size_t i = 0; i < length; i++) {
    doubles weight = doubles_set1(weight_of(n->call, i));
    vec x = neighbours_at(n, n->x, n->stride, i);
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

/* Losses of their labels alone. */
FSM_APART void label_losses_of(const neighbours *n) {
  slice s = slice_of_neighbour(n, 0);
  bool is_smoothed = n->call->label_smoothing != 0;
  parts q = is_smoothed ? parts_of(&s, 0) : (parts){.s = &s, .keep = {1}};
  doubles x = widen(v_load_real(n->label.x)), loss = kept_of_labels(n, q.keep[0]);
  for (int p = 0; p < PARTS; p++) {
    dvec distance = d_sub(v_part(n->max, p), x.part[p]);
    loss.part[p] = d_mul(loss.part[p], d_add(distance, n->log.part[p]));
  }
  if (is_smoothed) loss = doubles_add(loss, smoothed_parts(n, &q));
  store_losses(n, loss, n->label.present);
}

/* Their parts in class i, but for what labels add. */
FSM_INLINE doubles parts_of_neighbours(const neighbours *n, const parts *q, size_t i) {
  doubles target = doubles_set1(0);
  if (n->target) target = widen(neighbours_at(n, n->target, n->target_stride, i));
  if (q->spread[0] == 0 && !q->weight) return target;
  return parts_of_targets(q, target, doubles_set1(q->weight ? q->weight[i] : 1), q->weight);
}

/* Sums over the classes, as parts_sum has them of one slice. */
typedef struct {
  wide distance;
  wide own, others; /* where only losses are wanted, all are among the others */
} lane_parts;

/* Add what belongs to the largest elements and what does not. */
FSM_INLINE void add_to_parts(lane_parts *sum, doubles part, mask is_largest) {
  doubles own, other;
  for (int p = 0; p < PARTS; p++) {
    own.part[p] = v_select_part(is_largest, p, part.part[p], d_set1(0));
    other.part[p] = v_select_part(is_largest, p, d_set1(0), part.part[p]);
  }
  sum->own = wide_add_doubles(sum->own, own);
  sum->others = wide_add_doubles(sum->others, other);
}

FSM_INLINE lane_parts sum_parts_of_neighbours(const neighbours *n, const parts *q,
                                              const bool has_gradient) {
  lane_parts sum = {wide_zero(), wide_zero(), wide_zero()};
  for (size_t i = 0; i < n->call->length; i++) {
    vec x = neighbours_at(n, n->x, n->stride, i), distance = v_sub(n->max, x);
    if (n->target && q->spread[0] == 0) { /* 0 * inf is 0 here */
      vec target = neighbours_at(n, n->target, n->target_stride, i);
      distance = v_zero_where(v_equal(target, v_set1(0)), distance);
    }
    doubles part = parts_of_neighbours(n, q, i);
    sum.distance = wide_add_products(sum.distance, part, widen(distance));
    if (has_gradient)
      add_to_parts(&sum, part, v_equal(x, n->max));
    else
      sum.others = wide_add_doubles(sum.others, part);
  }
  return sum;
}

FSM_INLINE void store_losses_of_parts(const neighbours *n, const lane_parts *sum,
                                      uint64_t is_plain) {
  wide all = wide_join(sum->own, sum->others);
  doubles loss;
  for (int p = 0; p < PARTS; p++) {
    dvec_pair distance = wide_part(&sum->distance, p), total = wide_part(&all, p);
    loss.part[p] =
        d_mul_add(n->log.part[p], d_add(total.hi, total.lo), d_add(distance.hi, distance.lo));
  }
  store_losses(n, loss, is_plain);
}

/* What their gradients take, of the terms of exp.h. */
typedef struct {
  part_gradients of_parts;
  vec floor;
  vec single_max;  /* NaN where several elements are the largest */
  vec single_grad; /* of the largest element, found from the others */
} lane_gradients;

FSM_INLINE lane_gradients know_part_gradients(const neighbours *n, const lane_parts *sum) {
  lane_shares shares = know_shares(n->sum, n->max, n->frame);
  wide total = wide_join(sum->own, sum->others);
  pairs all;
  doubles single;
  dvec factor = d_set1(n->call->scale);
  for (int p = 0; p < PARTS; p++) {
    dvec_pair own = wide_part(&sum->own, p), others = wide_part(&sum->others, p);
    all.part[p] = wide_part(&total, p);
    dvec towards = d_mul(shares.largest.part[p], d_add(others.hi, others.lo));
    dvec away = d_mul(d_sub(d_set1(0), own.hi), factor);
    single.part[p] = d_fma(away, shares.others.part[p], d_mul(towards, factor));
  }
  mask is_single = v_equal(v_join(n->sum->ties.part), v_set1(1));
  return (lane_gradients){part_gradients_with(shares.inverse, all, n->call->scale),
                          floor_term(n->frame), v_select(is_single, n->max, v_set1((real)NAN)),
                          v_join(single.part)};
}

FSM_INLINE vec lane_gradient(const lane_gradients *g, vec x, const exp_term *term, doubles part) {
  doubles value = widen(v_sub(v_stored(exp_term_value(term)), g->floor));
  vec grad = part_gradient(&g->of_parts, value, part);
  return v_select(v_equal(x, g->single_max), g->single_grad, grad);
}

/* Those of `count` classes from i on. */
FSM_INLINE void store_part_gradients(const neighbours *n, const parts *q, const lane_gradients *g,
                                     size_t i, const size_t count) {
  vec x[ROW_BLOCK], shifted[ROW_BLOCK];
  exp_term term[ROW_BLOCK];
  for (size_t k = 0; k < count; k++) {
    x[k] = neighbours_at(n, n->x, n->stride, i + k);
    shifted[k] = v_sub(x[k], n->frame->origin);
  }
  exp_terms(term, shifted, n->frame, count);
  for (size_t k = 0; k < count; k++) {
    doubles part = parts_of_neighbours(n, q, i + k);
    vec grad = lane_gradient(g, x[k], &term[k], part);
    line_store(NULL, n->out + (ptrdiff_t)(i + k) * n->out_stride, 0, n->count, grad, 0, false);
  }
}

/* Put the gradients of the labels into their places, and 0 where there is none. */
static void store_label_gradients(const neighbours *n, const real *grad) {
  slice s = slice_of_neighbour(n, 0);
  for (size_t k = 0; k < n->count; k++, s.outer++) {
    int64_t label = label_of(&s);
    if (label >= 0) n->out[label * n->out_stride + (ptrdiff_t)k] = (storage)grad[k];
    for (size_t i = 0; label < 0 && i < s.x.length; i++)
      n->out[(ptrdiff_t)i * n->out_stride + (ptrdiff_t)k] = 0;
  }
}

/* The gradients of the labels of smoothed losses. */
FSM_INLINE void find_label_gradients(const neighbours *n, const parts *q, const lane_gradients *g,
                                     vec x, real *grad) {
  slice s = slice_of_neighbour(n, 0);
  double part[LANES] = {0};
  for (size_t k = 0; k < n->count; k++, s.outer++) {
    parts of_slice = *q;
    int64_t label = label_of(&s);
    of_slice.label = (size_t)label;
    if (label >= 0) part[k] = class_part(&of_slice, of_slice.label);
  }
  vec shifted = v_sub(x, n->frame->origin);
  exp_term term;
  exp_terms(&term, &shifted, n->frame, 1);
  v_store_real(grad, lane_gradient(g, x, &term, doubles_load(part)));
}

/* Losses in which every class has a part: of probabilities, and of labels that are smoothed, where
 * a gradient is wanted. */
FSM_APART void part_losses_of(const neighbours *n) {
  slice s = slice_of_neighbour(n, 0);
  parts q = parts_of(&s, SIZE_MAX);
  if (!n->call->out.data) {
    lane_parts sum = sum_parts_of_neighbours(n, &q, false);
    store_losses_of_parts(n, &sum, (uint64_t)-1);
    return;
  }
  lane_parts sum = sum_parts_of_neighbours(n, &q, true);
  vec x = v_load_real(n->label.x);
  if (!n->target) {
    doubles kept = kept_of_labels(n, q.keep[0]);
    sum.distance = wide_add_products(sum.distance, kept, widen(v_sub(n->max, x)));
    add_to_parts(&sum, kept, v_equal(x, n->max));
  }
  store_losses_of_parts(n, &sum, n->target ? (uint64_t)-1 : n->label.present);
  lane_gradients g = know_part_gradients(n, &sum);
  real of_label[LANES];
  if (!n->target) find_label_gradients(n, &q, &g, x, of_label);
  size_t i = 0;
  for (; i + ROW_BLOCK <= s.x.length; i += ROW_BLOCK) store_part_gradients(n, &q, &g, i, ROW_BLOCK);
  for (; i < s.x.length; i++) store_part_gradients(n, &q, &g, i, 1);
  if (!n->target) store_label_gradients(n, of_label);
}

#endif
