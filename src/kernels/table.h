/* The kernels of one instruction set and dtype: which regime a call falls into, and the table of
 * them. */
#ifndef FSM_KERNELS_TABLE_H
#define FSM_KERNELS_TABLE_H

#include "kernels/exp.h"
#include "kernels/sum.h"
#include "kernels/slices.h"
#include "kernels/rows.h"
#include "kernels/columns.h"

static void softmax(const fsm_slices *s) { s->inner == 1 ? softmax_rows(s) : softmax_columns(s); }
static void log_softmax(const fsm_slices *s) {
  s->inner == 1 ? log_softmax_rows(s) : log_softmax_columns(s);
}
static void logsumexp(const fsm_slices *s) {
  s->inner == 1 ? logsumexp_rows(s) : logsumexp_columns(s);
}

#define FSM_KERNELS {softmax, log_softmax, logsumexp}

#endif
