/* Losses of labels from log-probabilities, and the sums of losses.
 *
 * Memory touched: of each slice its label and one log-probability. */
#ifndef FSM_KERNELS_NLL_H
#define FSM_KERNELS_NLL_H

/* -weight log_prob of a label, where 0 * inf is 0; its slice begins at x. */
FSM_INLINE double nll(const storage *x, ptrdiff_t step, const double *weight, int64_t label) {
  if (label < 0) return 0;
  double loss = 0 - (double)x[(ptrdiff_t)label * step];
  if (!weight) return loss;
  double product = weight[label] * loss;
  return isnan(product) && isinf(loss) ? 0 : product;
}

/* The losses are double: their sum is to be that of products that were not rounded to storage. */
static void nll_loss(const fsm_call *c) {
  /* The shorter loop is the outer one. */
  bool is_rows = c->inner == 1;
  size_t outers = is_rows ? 1 : c->outer, inners = is_rows ? c->outer : c->inner;
  ptrdiff_t x_step = is_rows ? c->x.outer : c->x.inner;
  ptrdiff_t label_step = is_rows ? c->label.outer : c->label.inner;
  ptrdiff_t loss_step = is_rows ? c->slices.outer : c->slices.inner;
  ptrdiff_t class_step = c->x.length;
  const double *weight = c->weight.data;
  for (size_t outer = 0; outer < outers; outer++) {
    const storage *x = elements_of(&c->x, outer, 0);
    ptrdiff_t label = (ptrdiff_t)outer * c->label.outer;
    double *loss = (double *)c->slices.data + (ptrdiff_t)outer * c->slices.outer;
    for (size_t i = 0; i < inners; i++, x += x_step, label += label_step, loss += loss_step)
      *loss = nll(x, class_step, weight, class_at(c, label));
  }
}

/* The sum of contiguous numbers, in twice the digits of double and then rounded; where that is
 * infinite or NaN, what plain additions give. */
static double sum_of_numbers(const void *numbers, size_t count) {
  enum { SIDE_BY_SIDE = 4, STEP = SIDE_BY_SIDE * DOUBLE_LANES };
  const storage *x = numbers;
  dvec_pair sums[SIDE_BY_SIDE];
  double hi[STEP], lo[STEP];
  size_t i = 0;
  for (size_t k = 0; k < SIDE_BY_SIDE; k++) sums[k] = (dvec_pair){d_set1(0), d_set1(0)};
  for (; i + STEP <= count; i += STEP)
    for (size_t k = 0; k < SIDE_BY_SIDE; k++) {
      dvec_pair added = add_exactly(sums[k].hi, d_load_storage(x + i + k * DOUBLE_LANES));
      sums[k] = (dvec_pair){added.hi, d_add(sums[k].lo, added.lo)};
    }
  for (size_t k = 0; k < SIDE_BY_SIDE; k++) {
    d_store(hi + k * DOUBLE_LANES, sums[k].hi);
    d_store(lo + k * DOUBLE_LANES, sums[k].lo);
  }
  for (size_t k = 1; k < STEP; k++) add_to_pair(&hi[0], &lo[0], hi[k], lo[k]);
  for (; i < count; i++) add_to_pair(&hi[0], &lo[0], (double)x[i], 0);
  return fabs(hi[0]) < INFINITY ? hi[0] + lo[0] : hi[0];
}

#endif
