/* fastsoftmax: softmax, log-softmax and log-sum-exp over slices of an array, and the decisions,
 * losses and gradients that are made of them.
 *
 * The library never fails: it is handed valid pointers and extents. It allocates nothing but
 * scratch, for two rows of a large array, for what is known of the parts of long slices, for k
 * classes and for the columns of each thread, and does without if it cannot; it takes less than
 * 100 KB of the caller's stack, and keeps no state but its threads, how many are at work, and the
 * sizes of the caches. */
#ifndef FASTSOFTMAX_H
#define FASTSOFTMAX_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The k-th of the tasks that some work consists of, in the thread of that number; 0 is the caller.
 */
typedef void fsm_task(void *work, int k, int thread);

/* Do all tasks, in any order, in the threads of a team; return when all are done. */
typedef void fsm_each(void *team, fsm_task *task, void *work, int tasks);

/* Elements from which a slice, or columns of which there are so few, are worked on in parts. */
enum { FSM_LONG = 1 << 17, FSM_NARROW = 128 };

/* Columns that are worked on together, where there are so many. */
enum { FSM_TILE = 256 };

/* An array of shape (outer, length, inner), normalised along its middle axis. Strides count
 * elements.
 *
 * x and out have unit stride along inner, or along length where inner is 1. They are the same
 * memory with the same strides, or disjoint. The output of a log-sum-exp is (outer, inner): its
 * out_length is unused. */
typedef struct {
  size_t outer, length, inner;
  const void *x;
  ptrdiff_t x_outer, x_length;
  void *out;
  ptrdiff_t out_outer, out_length;
  const double *temperature; /* NULL for 1; otherwise one a slice, each in [2^-60, 2^60] */
  ptrdiff_t temperature_outer, temperature_inner;
  const unsigned char
      *where; /* NULL for all; otherwise 1 where an element takes part and 0 elsewhere */
  ptrdiff_t where_outer, where_length, where_inner;
  /* Elements and columns of the array that these slices are a part of; 0 if they are all of it. */
  size_t elements, columns;
  fsm_each *each; /* does the parts of long slices; NULL for the calling thread alone */
  void *team;
} fsm_slices;

/* Whether they are worked on in parts. */
static inline bool fsm_is_long(const fsm_slices *s) {
  size_t columns = s->columns ? s->columns : s->inner;
  return columns <= FSM_NARROW && s->length * columns >= FSM_LONG;
}

typedef void fsm_kernel(const fsm_slices *slices);

/* Element (o, l, i) of an array is data[o * outer + l * length + i * inner]. */
typedef struct {
  void *data;
  ptrdiff_t outer, length, inner;
} fsm_array;

/* The arrays of a call about decisions, losses or gradients, of shape (outer, length, inner) if
 * nothing else is said. The data of those that it does not have is NULL.
 *
 * x, other, out and hess have unit stride along inner, or along length where inner is 1. out may be
 * the memory of x or other, with the same strides, where the result is a softmax or the gradient of
 * a backward function; otherwise no array that is written overlaps another. */
typedef struct {
  size_t outer, length, inner;
  fsm_array x;      /* logits; of backward functions the softmax, or its logarithm; of nll_loss
                       log-probabilities */
  fsm_array other;  /* target probabilities, weights; of backward functions the gradient */
  fsm_array where;  /* unsigned char: 1 where an element takes part and 0 elsewhere */
  fsm_array label;  /* int64_t, (outer, inner): classes; none if not below length */
  fsm_array weight; /* double: of classes, (length), contiguous; or of samples, (outer, inner) */
  fsm_array out;    /* softmax or gradient */
  fsm_array hess;   /* second derivatives */
  fsm_array slices; /* (outer, inner): confidence, log-sum-exp or loss; of nll_loss double */
  fsm_array values; /* (outer, k, inner): the k largest */
  fsm_array index;  /* ptrdiff_t, (outer, k, inner): where they stand; of predict, (outer, inner);
                       so are signs of weighted sums, FSM_UNKNOWN_SIGN where one was not made */
  size_t k;
  bool log;               /* values are of log-softmax */
  double label_smoothing; /* from 0 to 1 */
  double scale;           /* of gradients of losses; of the second derivatives */
  void *scratch;          /* fsm_scratch elements where inner > 1 */
  size_t elements;        /* of x, if this is a part of the call; otherwise 0 */
} fsm_call;

enum { FSM_UNKNOWN_SIGN = 2 };

/* Elements of scratch that a call needs where inner > 1: columns are worked on as rows, FSM_COLUMNS
 * of them at a time, of each array that has its shape. */
enum { FSM_COLUMNS = 16, FSM_PADDING = 16 };
static inline size_t fsm_scratch(const fsm_call *c) {
  size_t columns = c->inner < FSM_COLUMNS ? c->inner : FSM_COLUMNS;
  size_t arrays = 1 + (c->other.data != 0) + (c->out.data != 0) + (c->hess.data != 0);
  return arrays * columns * (c->length + FSM_PADDING);
}

typedef void fsm_call_kernel(const fsm_call *call);

typedef struct {
  fsm_kernel *softmax, *log_softmax, *logsumexp;
  fsm_call_kernel *predict, *top_k, *softmax_logsumexp;
  fsm_call_kernel *cross_entropy_labels, *cross_entropy_probabilities;
  fsm_call_kernel *nll_loss, *softmax_grad_hess;
  fsm_call_kernel *softmax_backward, *log_softmax_backward;
  fsm_call_kernel *weighted_logsumexp;
  double (*sum)(const void *numbers, size_t count); /* contiguous; in twice a double's digits */
  /* Conversions of contiguous arrays, of dtypes of 16 bits. */
  void (*to_float)(const void *from, float *to, size_t count);
  void (*from_float)(const float *from, void *to, size_t count);
} fsm_kernels;

/* The kernels of one instruction set, by dtype: IEEE 754 binary32, binary64, binary16, and
 * bfloat16. The 16-bit ones compute in float and round once; NULL where there are none. */
typedef struct {
  const char *name;
  const fsm_kernels *f32, *f64, *f16, *bf16;
} fsm_backend;

/* The backends that this processor and its operating system can run, best first: the one at
 * `index`, or NULL past the last. The scalar backend is always among them. */
const fsm_backend *fsm_backend_at(size_t index);

/* Elements for each thread, of which fewer are not worth waking one: measured by
 * benchmarks/threads.py, and discussed in docs/threading.md. */
#ifndef FSM_SHARE
#define FSM_SHARE ((size_t)1 << 17)
#endif

/* Run a kernel, whose elements have so many bytes, in as many threads as gain by it, at most
 * `workers`. The results are the same to the bit for any number of them. */
void fsm_run(fsm_kernel *kernel, const fsm_slices *slices, size_t itemsize, int workers);

/* The same for calls about decisions, losses and gradients. The strides `outer` and `inner` of an
 * array that has no such axis are 0. Threads have scratch of their own beside the call's. */
void fsm_run_call(fsm_call_kernel *kernel, const fsm_call *call, size_t itemsize, int workers);

#ifdef __cplusplus
}
#endif

#endif
