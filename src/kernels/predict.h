/* The class of the largest logit, and its softmax value.
 *
 * Elements are read in chunks; what is kept of one is its maximum and, where that is larger than
 * all before, its place. The last such chunk is searched once more. Memory touched per element: one
 * read; with the softmax value two more, from cache for rows that fit one. */
#ifndef FSM_KERNELS_PREDICT_H
#define FSM_KERNELS_PREDICT_H

enum { CHUNK = 16 * LANES };

/* The maximum, in some lane, of the elements from i to before `end`; and where there is NaN. */
FSM_INLINE vec chunk_max(const line *s, size_t i, size_t end, mask *nan) {
  vec m[4];
  for (size_t k = 0; k < 4; k++) m[k] = v_set1(-(real)INFINITY);
  for (; i + 4 * LANES <= end; i += 4 * LANES) {
    vec x[4];
    for (size_t k = 0; k < 4; k++) x[k] = line_load(s, i + k * LANES, LANES, false);
    for (size_t k = 0; k < 4; k++) m[k] = v_max(x[k], m[k]);
    *nan = v_or(*nan, v_or(v_unordered(x[0], x[1]), v_unordered(x[2], x[3])));
  }
  for (; i < end; i += LANES) {
    vec x;
    if (i + LANES <= end)
      x = line_load(s, i, LANES, false);
    else if (end >= LANES) /* some of it again */
      x = line_load(s, end - LANES, LANES, false);
    else
      x = line_load(s, i, end - i, false);
    m[0] = v_max(x, m[0]);
    *nan = v_or(*nan, v_unordered(x, x));
  }
  return v_max(v_max(m[0], m[1]), v_max(m[2], m[3]));
}

static size_t first_nan(const line *s, size_t i) {
  while (i + 1 < s->length && !((real)s->x[i] != (real)s->x[i])) i++;
  return i;
}

/* Where the first of the largest elements is, NaN being larger than any; and the maximum. Vectors
 * are read from places where they lie in one line of the cache, but for the first, with which the
 * others may overlap. */
static size_t argmax(const line *s, real *maximum) {
  size_t begin = s->length < LANES ? 0 : unaligned_elements(s->x, s->length), from = 0;
  vec first = line_load(s, 0, s->length < LANES ? s->length : LANES, false);
  vec best = v_set1(-(real)INFINITY);
  mask nan = v_unordered(first, first);
  for (size_t i = begin; i < s->length; i += CHUNK) {
    vec m = s->length - i >= CHUNK ? chunk_max(s, i, i + CHUNK, &nan)
                                   : chunk_max(s, i, s->length, &nan);
    m = v_max(m, first);
    if (!v_count_true(v_or(nan, v_less(best, m)))) continue;
    size_t at = i == begin ? 0 : i;
    if (v_count_true(nan)) {
      *maximum = (real)NAN;
      return first_nan(s, at);
    }
    best = v_set1(v_reduce_max(m));
    from = at;
  }
  *maximum = v_first(best);
  return first_equal(s, from, *maximum);
}

/* Of short rows, the classes of a whole batch are found at once. */
FSM_APART void predict_group(group *g, const tempering *t, const bool masked) {
  (void)t, (void)masked;
  mask nan = v_unordered(v_set1(0), v_set1(0));
  for (size_t i = 0; i < g->batch->first.length; i++) {
    vec x = v_load_real(g->batch->columns[i]);
    nan = v_or(nan, v_unordered(x, x));
  }
  real place[LANES];
  v_store_real(place, batch_first_equal(g->batch, v_load_real(g->max)));
  uint64_t has_nan = v_bits(nan);
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    *index_of(&s) = (ptrdiff_t)(has_nan >> k & 1 ? first_nan(&s.x, 0) : (size_t)place[k]);
  }
}

/* With the confidence, a row is searched for its maximum once that is known. */
FSM_APART void confidence_group(group *g, const tempering *t, const bool masked) {
  vec max = load_lanes(g->max, g->count);
  exp_frame frame = frame_of(max, t);
  split_rows(g, false);
  term_sum sums = sums_of_call(g, &frame, false);
  storage confidence[LANES];
  v_store(confidence, softmax_of(max, &frame, share_frame_of(&sums.rest, max, v_set1(0))));
  real place[LANES];
  if (g->batch) v_store_real(place, batch_first_equal(g->batch, max));
  for (size_t k = 0; k < g->count; k++) {
    slice s = group_slice(g, k);
    real maximum = g->max[k];
    look_ahead(g, k, masked);
    size_t index = confidence[k] != confidence[k] ? argmax(&s.x, &maximum)
                   : g->batch                     ? (size_t)place[k]
                                                  : first_equal(&s.x, 0, maximum);
    *index_of(&s) = (ptrdiff_t)index;
    *result_of(&s) = confidence[k];
  }
}

static void predict_rows(const fsm_call *c) {
  if (c->slices.data) {
    call_groups(c, confidence_group, false);
    return;
  }
  if (c->length <= 6 * LANES && is_short(c->length, c->outer)) {
    call_groups(c, predict_group, false);
    return;
  }
  for (size_t outer = 0; outer < c->outer; outer++) {
    slice s = slice_of(c, outer);
    real maximum;
    *index_of(&s) = (ptrdiff_t)argmax(&s.x, &maximum);
  }
}

static void predict(const fsm_call *c) { as_rows(c, predict_rows); }

#endif
