/* One row that fits a register: inner == 1 and outer == 1.
 *
 * Nothing can be done beside it, so what matters is how soon it is done: no value goes through
 * memory on its way. */
#ifndef FSM_KERNELS_ONE_VECTOR_H
#define FSM_KERNELS_ONE_VECTOR_H

/* The row, its elements, and their terms. */
typedef struct {
  line row;
  tempering t;
  vec x, max;
  exp_frame frame;
  exp_term term;
} one_vector;

FSM_INLINE one_vector one_vector_of(const fsm_slices *s, const bool masked) {
  one_vector v = {.row = row_of(s, 0)};
  v.t = row_tempering(s, 0);
  v.x = line_load(&v.row, 0, s->length, masked);
  v.max = v_set1(v_reduce_max(v.x)); /* one of NaN makes all results NaN, as it should */
  v.frame = frame_of(v.max, &v.t);
  vec shifted = v_sub(v.x, v.frame.origin);
  exp_terms(&v.term, &shifted, &v.frame, 1);
  return v;
}

FSM_INLINE void softmax_vector(const fsm_slices *s, const bool masked) {
  one_vector v = one_vector_of(s, masked);
  vec value = v_stored(exp_term_value(&v.term));
  wide sum = wide_reduce(wide_add(wide_zero(), value));
  share_frame last = share_frame_of(&sum, v.max, v_set1((real)NEGLIGIBLE_TERM));
  line_store(&v.row, out_of(s, 0), 0, s->length, share(v_max(last.floor, value), &last), 0, masked);
}

FSM_INLINE doubles log_of_vector_sum(const one_vector *v, const bool masked) {
  if (!is_finite(v_first(v->max))) return doubles_set1(log_of_nonfinite_sum(&v->row, masked));
  mask tie = v_equal(v->x, v->max);
  exp_term term = v->term;
  vec value = exp_term_value(&term);
  drop_term(&value, &term, tie);
  wide rest = wide_reduce(wide_add_terms(wide_zero(), &value, &term, 1, false));
  term_sum sum = {doubles_set1((double)v_count_true(tie)), rest};
  return log_of_sum(&sum, v->max, &v->frame);
}

FSM_INLINE void log_softmax_vector(const fsm_slices *s, const bool masked) {
  one_vector v = one_vector_of(s, masked);
  log_frame last = log_frame_of(v.max, &v.t, log_of_vector_sum(&v, masked));
  vec y = log_share(line_load(&v.row, 0, s->length, false), &last);
  line_store(&v.row, out_of(s, 0), 0, s->length, y, -(real)INFINITY, masked);
}

FSM_INLINE void logsumexp_vector(const fsm_slices *s, const bool masked) {
  one_vector v = one_vector_of(s, masked);
  v_store_part(out_of(s, 0), 1, log_sum_exp(v.max, log_of_vector_sum(&v, masked)));
}

static void softmax_one_vector(const fsm_slices *s) {
  s->where ? softmax_vector(s, true) : softmax_vector(s, false);
}
static void log_softmax_one_vector(const fsm_slices *s) {
  s->where ? log_softmax_vector(s, true) : log_softmax_vector(s, false);
}
static void logsumexp_one_vector(const fsm_slices *s) {
  s->where ? logsumexp_vector(s, true) : logsumexp_vector(s, false);
}

#endif
