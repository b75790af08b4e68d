/* Losses of labels and of probabilities, and their gradients: which way rows, short rows and
 * columns go.
 *
 * Columns are not copied to rows, unless they are long and every class has a part: their maxima and
 * sums are those of a log-sum-exp, and the terms of a gradient are found a second time. Memory
 * touched per element: two reads, as of rows, and with a gradient three and one write. */
#ifndef FSM_KERNELS_CROSS_ENTROPY_H
#define FSM_KERNELS_CROSS_ENTROPY_H

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

/* Whether every class has a part in the losses, or in their gradients. */
static inline bool has_parts(const fsm_call *c) {
  return c->other.data || (c->out.data && c->label_smoothing != 0);
}

/* A batch as neighbours; a gradient takes the place of the elements. */
static neighbours neighbours_of_batch(group *g, vec max) {
  storage *columns = columns_of_batch(g->batch);
  neighbours n = {.call = g->call,
                  .first = g->first,
                  .count = g->count,
                  .x = columns,
                  .out = columns,
                  .stride = LANES,
                  .target_stride = LANES,
                  .out_stride = LANES,
                  .max = max};
  if (!g->call->other.data) select_labels(&n);
  return n;
}

FSM_APART void label_losses_batch(group *g, const tempering *t) {
  vec max = load_lanes(g->max, g->count);
  neighbours n = neighbours_of_batch(g, max);
  n.log = batch_log_of_sum(g->batch, max, t);
  label_losses_of(&n);
}

FSM_APART void part_losses_batch(group *g, const tempering *t) {
  vec max = load_lanes(g->max, g->count);
  neighbours n = neighbours_of_batch(g, max);
  exp_frame frame = frame_of(finite_or_0(max), t);
  split_rows(g, true);
  term_sum sum = sums_of_batch(g, &frame, false);
  n.log = log_of_sum(&sum, max, &frame);
  if (!all_finite(max)) n.log = log_of_nonfinite_sums(n.log, max, batch_nan(g->batch));
  n.sum = &sum;
  n.frame = &frame;
  batch target;
  if (g->call->other.data) {
    call_batch(&target, g->call, &g->call->other, g->first);
    n.target = columns_of_batch(&target);
  }
  part_losses_of(&n);
  if (g->call->out.data) store_batch(g->batch, g->call, g->first);
}

/* Whether the loss of a label may be small, or its class have the largest share: not if it is 2 at
 * least, beside which the error of a logarithm whose ties are not apart is small. */
static bool may_be_certain(const slice *s, real maximum) {
  int64_t label = label_of(s);
  return s->call->label_smoothing != 0 || label < 0 || !(maximum - (real)s->x.x[label] >= 2);
}

FSM_APART void label_losses_group(group *g, const tempering *t, const bool masked) {
  if (g->batch && has_parts(g->call)) {
    part_losses_batch(g, t);
    return;
  }
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

FSM_APART void probabilities_losses_group(group *g, const tempering *t, const bool masked) {
  if (g->batch) {
    part_losses_batch(g, t);
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

static void probabilities_losses_rows(const fsm_call *c) {
  call_groups(c, probabilities_losses_group, false);
}

/* What the gradients of vector v of a tile take, and those of their labels, which are found from
 * the other classes. */
FSM_APART void know_label_gradients(tile *t, size_t v, const neighbours *columns, real *of_label) {
  exp_frame frame = t->frame[v];
  const selected *label = &columns->label;
  real power[LANES] = {0};
  double factors[LANES], fractions[LANES] = {0};
  for (size_t k = 0; k < LANES; k++) {
    factors[k] = label->weight[k] * columns->call->scale;
    if (label->present >> k & 1) fractions[k] = fraction_of(factors[k], &power[k]);
  }
  lane_shares shares = know_shares(&t->sum[v], columns->max, &frame);
  doubles factor = doubles_load(factors), fraction = doubles_load(fractions), grad;
  vec x = v_load_real(label->x), shifted = v_sub(x, frame.origin), floor = floor_term(&frame);
  mask is_largest = v_equal(x, columns->max);
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

/* The gradients of a tile of losses of labels alone. */
static void label_gradients(tile *t, const neighbours *columns) {
  real of_label[FSM_TILE];
  for (size_t v = 0; v < t->vectors; v++)
    know_label_gradients(t, v, &columns[v], of_label + v * LANES);
  for_each_block(t, label_gradient_step, false);
  for (size_t v = 0; v < t->vectors; v++) store_label_gradients(&columns[v], of_label + v * LANES);
}

static void losses_of_tile(const fsm_call *c, tile *t, size_t outer, size_t column) {
  const storage *target = elements_of(&c->other, outer, column);
  fsm_call of_columns = *c;
  of_columns.label = columns_from(c->label, sizeof(int64_t), outer, column);
  of_columns.slices = columns_from(c->slices, sizeof(storage), outer, column);
  neighbours columns[TILE_VECTORS];
  for (size_t v = 0; v < t->vectors; v++) {
    size_t first = v * LANES;
    columns[v] = (neighbours){.call = &of_columns,
                              .first = first,
                              .count = tile_width(t, v),
                              .x = t->at.x + first,
                              .target = target ? target + first : NULL,
                              .out = t->at.out + first,
                              .stride = t->at.x_stride,
                              .target_stride = c->other.length,
                              .out_stride = t->at.out_stride,
                              .max = t->max[v],
                              .log = t->log_sum[v],
                              .sum = &t->sum[v],
                              .frame = &t->frame[v]};
    if (!target) select_labels(&columns[v]);
  }
  for (size_t v = 0; v < t->vectors; v++)
    if (has_parts(c))
      part_losses_of(&columns[v]);
    else
      label_losses_of(&columns[v]);
  if (c->out.data && !has_parts(c)) label_gradients(t, columns);
}

static void losses(const fsm_call *c, fsm_call_kernel *rows) {
  bool is_long = has_parts(c) && c->length > SHORT;
  if (c->inner > 1 && c->inner >= LANES / 2 && !is_long)
    for_each_tile(c, losses_of_tile);
  else
    as_rows(c, rows);
}

static void cross_entropy_labels(const fsm_call *c) { losses(c, label_losses_rows); }
static void cross_entropy_probabilities(const fsm_call *c) { losses(c, probabilities_losses_rows); }

#endif
