/* Two versions of a file of kernels, interleaved: the measurement behind the tables of
 * docs/design.md that say what a change gained. With OLD and NEW two checkouts, and the flags that
 * setup.py gave to each:
 *
 *   cc FLAGS -IOLD/src -c OLD/src/isa/avx512_f32.c -o old.o
 *   cc FLAGS -INEW/src -c NEW/src/isa/avx512_f32.c -o new.o
 *   objcopy --redefine-sym fsm_avx512_f32=fsm_old old.o
 *   objcopy --redefine-sym fsm_avx512_f32=fsm_new new.o
 *   cc -O2 -DREAL=float -Isrc benchmarks/versions.c old.o new.o src/cpu.c -lm -o versions
 *   ./versions softmax 128 1000 1
 *
 * prints the minimum and the median of each version in ns per element, for arrays of that many
 * outer slices, of that length, and that many inner ones. They begin 16 bytes past a line of the
 * cache, as large ones of NumPy do. One thread; nothing else should run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastsoftmax.h"
#include "timing.h"

enum { TURNS = 400, LINE = 64, PAST_A_LINE = 16 };

extern const fsm_kernels fsm_old, fsm_new;

static REAL *array(size_t count) {
  char *memory = malloc(count * sizeof(REAL) + 2 * LINE);
  if (!memory) exit(EXIT_FAILURE);
  return (REAL *)(memory + LINE - (uintptr_t)memory % LINE + PAST_A_LINE);
}

static fsm_kernel *kernel_of(const fsm_kernels *k, const char *name) {
  if (strcmp(name, "softmax") == 0) return k->softmax;
  return strcmp(name, "log_softmax") == 0 ? k->log_softmax : k->logsumexp;
}

static double seconds(fsm_kernel *kernel, const fsm_slices *s, int calls) {
  double start = now();
  for (int i = 0; i < calls; i++) kernel(s);
  return (now() - start) / calls;
}

int main(int count, char **arguments) {
  if (count != 5) return EXIT_FAILURE;
  size_t outer = strtoul(arguments[2], NULL, 10), length = strtoul(arguments[3], NULL, 10);
  size_t inner = strtoul(arguments[4], NULL, 10), elements = outer * length * inner;
  REAL *x = array(elements), *out = array(elements);
  for (size_t i = 0; i < elements; i++) x[i] = (REAL)((double)rand() / RAND_MAX * 10 - 5);
  memset(out, 0, elements * sizeof *out);
  fsm_slices s = {.outer = outer, .length = length, .inner = inner, .x = x, .out = out};
  bool reduces = strcmp(arguments[1], "logsumexp") == 0;
  s.x_outer = (ptrdiff_t)(length * inner);
  s.x_length = s.out_length = (ptrdiff_t)inner;
  s.out_outer = reduces ? (ptrdiff_t)inner : s.x_outer;
  fsm_kernel *kernels[] = {kernel_of(&fsm_old, arguments[1]), kernel_of(&fsm_new, arguments[1])};
  kernels[0](&s); /* touches the memory */
  int calls = 1;
  while (seconds(kernels[0], &s, calls) * calls < 5e-5) calls *= 2;
  static double times[2][TURNS];
  for (int turn = 0; turn < TURNS; turn++)
    for (int v = 0; v < 2; v++) times[v][turn] = seconds(kernels[v], &s, calls);
  for (int v = 0; v < 2; v++) {
    sort_times(times[v], TURNS);
    double scale = 1e9 / (double)elements;
    printf("%s: minimum %.4f, median %.4f\n", v ? "new" : "old", times[v][0] * scale,
           times[v][TURNS / 2] * scale);
  }
}
