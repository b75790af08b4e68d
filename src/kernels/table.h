/* The kernels of one instruction set and dtype: which regime a call falls into, and the table of
 * them. */
#ifndef FSM_KERNELS_TABLE_H
#define FSM_KERNELS_TABLE_H

#include "kernels/exp.h"
#include "kernels/sum.h"
#include "kernels/finish.h"
#include "kernels/memory.h"
#include "kernels/slices.h"
#include "kernels/rows.h"
#include "kernels/columns.h"
#include "kernels/tall_columns.h"
#include "kernels/one_vector.h"
#include "kernels/short_rows.h"
#include "kernels/stream.h"
#include "kernels/long_rows.h"
#if defined FSM_FLOAT32 || defined FSM_FLOAT64
#include "kernels/products.h"
#include "kernels/calls.h"
#include "kernels/predict.h"
#include "kernels/top_k.h"
#include "kernels/losses.h"
#include "kernels/neighbours.h"
#include "kernels/cross_entropy.h"
#include "kernels/nll.h"
#include "kernels/backward.h"
#include "kernels/weighted.h"
#else
#include "kernels/convert.h"
#endif

/* One kernel for each regime. */
FSM_INLINE void by_regime(const fsm_slices *s, fsm_kernel *rows, fsm_kernel *one_vector,
                          fsm_kernel *short_rows, fsm_kernel *long_rows,
                          const column_passes *passes) {
  if (s->inner == 1 && s->outer == 1 && s->length <= LANES)
    one_vector(s);
  else if (s->inner > 1 && fsm_is_long(s))
    tall_columns(s, passes);
  else if (s->inner > 1)
    columns(s, passes);
  else if (fsm_is_long(s))
    long_rows(s);
  else if (s->length <= SHORT && worth_a_batch(s->outer, s->length))
    short_rows(s);
  else
    rows(s);
}

static void softmax(const fsm_slices *s) {
  if (s->inner == 1 && softmax_streams(s)) return;
  by_regime(s, softmax_rows, softmax_one_vector, softmax_short_rows, softmax_long_rows,
            &SOFTMAX_PASSES);
}
static void log_softmax(const fsm_slices *s) {
  if (s->inner == 1 && log_softmax_streams(s)) return;
  by_regime(s, log_softmax_rows, log_softmax_one_vector, log_softmax_short_rows,
            log_softmax_long_rows, &LOG_SOFTMAX_PASSES);
}
static void logsumexp(const fsm_slices *s) {
  by_regime(s, logsumexp_rows, logsumexp_one_vector, logsumexp_short_rows, logsumexp_long_rows,
            &LOGSUMEXP_PASSES);
}

#if defined FSM_FLOAT32 || defined FSM_FLOAT64
#define FSM_KERNELS                                                                                \
  {softmax,                                                                                        \
   log_softmax,                                                                                    \
   logsumexp,                                                                                      \
   predict,                                                                                        \
   top_k,                                                                                          \
   softmax_logsumexp,                                                                              \
   cross_entropy_labels,                                                                           \
   cross_entropy_probabilities,                                                                    \
   nll_loss,                                                                                       \
   softmax_grad_hess,                                                                              \
   softmax_backward,                                                                               \
   log_softmax_backward,                                                                           \
   weighted_logsumexp,                                                                             \
   .sum = sum_of_numbers}
#else /* the others are not offered for 16 bits */
#define FSM_KERNELS                                                                                \
  {.softmax = softmax,                                                                             \
   .log_softmax = log_softmax,                                                                     \
   .logsumexp = logsumexp,                                                                         \
   .to_float = to_float,                                                                           \
   .from_float = from_float}
#endif

#endif
