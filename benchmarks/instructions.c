/* Calls one kernel once, for callgrind to count:
 *
 *   instructions BACKEND FUNCTION DTYPE OUTER LENGTH INNER */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastsoftmax.h"

/* The one function whose instructions are counted, with all that it calls. */
__attribute__((noinline)) void counted(fsm_kernel *kernel, const fsm_slices *slices) {
  kernel(slices);
}

static void fill(void *x, size_t size, int is_f32) {
  unsigned long long state = 1;
  for (size_t i = 0; i < size; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const double logit = (double)(state >> 40) / (1 << 20) - 8;
    if (is_f32)
      ((float *)x)[i] = (float)logit;
    else
      ((double *)x)[i] = logit;
  }
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  const char *function = argv[2];
  const int is_f32 = strcmp(argv[3], "float32") == 0;
  const size_t outer = strtoul(argv[4], NULL, 10);
  const size_t length = strtoul(argv[5], NULL, 10);
  const size_t inner = strtoul(argv[6], NULL, 10);

  const fsm_backend *backend;
  for (size_t i = 0; (backend = fsm_backend_at(i)) != NULL; i++)
    if (strcmp(backend->name, argv[1]) == 0) break;
  if (backend == NULL) return 3;

  const fsm_kernels *kernels = is_f32 ? backend->f32 : backend->f64;
  fsm_kernel *kernel = strcmp(function, "softmax") == 0       ? kernels->softmax
                       : strcmp(function, "log_softmax") == 0 ? kernels->log_softmax
                                                              : kernels->logsumexp;
  const size_t size = outer * length * inner;
  const size_t bytes = (size * (is_f32 ? 4 : 8) + 63) / 64 * 64;
  void *x = aligned_alloc(64, bytes), *out = aligned_alloc(64, bytes);
  if (x == NULL || out == NULL) return 4;
  fill(x, size, is_f32);

  fsm_slices slices = {.outer = outer, .length = length, .inner = inner, .x = x, .out = out};
  slices.x_outer = slices.out_outer = (ptrdiff_t)(length * inner);
  slices.x_length = slices.out_length = (ptrdiff_t)inner;
  if (strcmp(function, "logsumexp") == 0) slices.out_outer = (ptrdiff_t)inner;
  counted(kernel, &slices);

  free(x);
  free(out);
  return 0;
}
