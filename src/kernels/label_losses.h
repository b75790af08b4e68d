/* Losses of labels, and their gradients: of rows, of short rows in lanes, and of columns.
 *
 * Columns are not copied to rows: their maxima and sums are those of a log-sum-exp, and the terms
 * of a gradient are found a second time. Memory touched per element: two reads, as of rows, and
 * with a gradient three and one write. */
#ifndef FSM_KERNELS_LABEL_LOSSES_H
#define FSM_KERNELS_LABEL_LOSSES_H

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
  const int64_t *labels = (const int64_t *)c->label.data + (ptrdiff_t)n->first * c->label.outer;
  real x[LANES];
  double kept[LANES] = {0};
  uint64_t is_plain = 0; /* bits of those to which the formula applies */
  v_store_real(x, n->max);
  for (size_t k = 0; k < n->count; k++, labels += c->label.outer) {
    if (*labels < 0) continue;
    is_plain |= (uint64_t)1 << k;
    x[k] = n->x[*labels * n->stride + (ptrdiff_t)k];
    kept[k] = weight_of(c, (size_t)*labels) * q.keep[0];
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
  if (c->slices.outer == 1 && is_plain == ((uint64_t)1 << LANES) - 1) {
    v_store(result_of(&s), rounded);
    return;
  }
  v_store(losses, rounded);
  for (size_t k = 0; k < n->count; k++, s.outer++)
    *result_of(&s) = is_plain >> k & 1 ? losses[k] : loss_of_neighbour(n, k);
}

FSM_APART void label_losses_batch(const group *g, const tempering *t) {
  vec max = load_lanes(g->max, g->count);
  doubles log = batch_log_of_sum(g->batch, max, t);
  label_losses_of(
      &(neighbours){g->call, g->first, g->count, columns_of_batch(g->batch), LANES, max, log});
}

/* Whether the loss of a label may be small, or its class have the largest share: not if it is 2 at
 * least, beside which the error of a logarithm whose ties are not apart is small. */
static bool may_be_certain(const slice *s, real maximum) {
  int64_t label = label_of(s);
  return s->call->label_smoothing != 0 || label < 0 || !(maximum - (real)s->x.x[label] >= 2);
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

static void label_losses_rows(const fsm_call *c) { call_groups(c, label_losses_group, false); }

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
  vec label_x = v_load_real(x), shifted = v_sub(label_x, frame.origin), floor = floor_term(&frame);
  mask is_largest = v_equal(label_x, columns->max);
  exp_term term;
  exp_terms(&term, &shifted, &frame, 1);
  doubles value = widen(v_sub(v_stored(exp_term_value(&term)), floor));
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
  t->share[v] = (share_frame){floor, pair_of(scale[0], scale[1])};
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
      know_log_sums(&t);
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

#endif
