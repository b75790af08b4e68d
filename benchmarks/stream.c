/* What storing past the caches gains: the measurement behind the thresholds of kernels/stream.h.
 *
 *   cc -O3 -ffp-contract=off -fopenmp -pthread -Isrc benchmarks/stream.c src/[a-z]*.c \
 *      src/isa/[a-z]*.c -lm -o stream && ./stream
 *
 * For arrays of 256 MB and rows of several lengths: softmax of the whole array in one call, which
 * streams if the thresholds say so, and in calls on pieces of a MB, which never do; as ratios to
 * a copy. Medians of interleaved runs, one thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastsoftmax.h"
#include "timing.h"

enum { BYTES = 1 << 28, PIECE = 1 << 20, RUNS = 7 };

static double median(double *times) {
  sort_times(times, RUNS);
  return times[RUNS / 2];
}

static void softmax(const fsm_kernels *kernels, const float *x, float *out, size_t rows, size_t n) {
  ptrdiff_t step = (ptrdiff_t)n;
  kernels->softmax(&(fsm_slices){.outer = rows,
                                 .length = n,
                                 .inner = 1,
                                 .x = x,
                                 .x_outer = step,
                                 .x_length = 1,
                                 .out = out,
                                 .out_outer = step,
                                 .out_length = 1});
}

int main(void) {
  static const size_t lengths[] = {100,  200,  300,  450,   500,   1000, 1500,
                                   2000, 4000, 8000, 16000, 32000, 64000};
  size_t elements = BYTES / sizeof(float);
  float *x = malloc(BYTES), *out = malloc(BYTES);
  if (!x || !out) return 1;
  for (size_t i = 0; i < elements; i++) x[i] = (float)(rand() % 2000) / 200;
  memset(out, 0, BYTES);
  printf("row bytes  copy ns/element  whole/copy  pieces/copy\n");
  for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
    const fsm_kernels *kernels = fsm_backend_at(0)->f32;
    size_t n = lengths[l], rows = elements / n, piece = PIECE / sizeof(float) / n;
    double copy[RUNS], whole[RUNS], pieces[RUNS];
    if (piece == 0) piece = 1;
    for (int run = 0; run < RUNS; run++) {
      double start = now();
      memcpy(out, x, rows * n * sizeof *x);
      copy[run] = now() - start;
      start = now();
      softmax(kernels, x, out, rows, n);
      whole[run] = now() - start;
      start = now();
      for (size_t row = 0; row < rows; row += piece)
        softmax(kernels, x + row * n, out + row * n, rows - row < piece ? rows - row : piece, n);
      pieces[run] = now() - start;
    }
    double unit = median(copy);
    printf("%9zu  %15.3f  %10.2f  %11.2f\n", n * sizeof *x, unit / (double)(rows * n) * 1e9,
           median(whole) / unit, median(pieces) / unit);
  }
}
