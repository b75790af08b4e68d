/* Every kernel of every backend on arrays that end, or begin, at a page nobody may touch.
 *
 * Shapes cover the lengths and widths around the vector widths; strides, masks and temperatures are
 * varied. Each result is compared with the definition in long double, and gaps between rows must
 * stay as they were. test_memory.py builds it and hands it the kernels of the installed extension.
 * At the first mistake the process ends: by exit(1), or by touching such a page. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fastsoftmax.h"

enum { REGION = 1 << 20, CANARY = 0x5a };

#define SAMPLE 0.02

/* A region of memory between two forbidden pages. */
static unsigned char *fenced(void) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  unsigned char *p = mmap(NULL, REGION + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + page, REGION, PROT_READ | PROT_WRITE)) abort();
  return p + page;
}

/* Room for `bytes` at one end of a region or the other. */
static void *at_fence(unsigned char *region, size_t bytes, bool at_end) {
  if (bytes > REGION) abort();
  return at_end ? region + REGION - bytes : region;
}

typedef enum { SOFTMAX, LOG_SOFTMAX, LOGSUMEXP } function;

typedef struct {
  size_t outer, length, inner;
  size_t gap; /* elements between one row, or matrix of columns, and the next */
  bool is_float32, at_end, in_place, is_masked, is_tempered;
} layout;

static double get(const void *p, size_t i, bool is_float32) {
  return is_float32 ? ((const float *)p)[i] : ((const double *)p)[i];
}
static void set(void *p, size_t i, bool is_float32, double value) {
  if (is_float32)
    ((float *)p)[i] = (float)value;
  else
    ((double *)p)[i] = value;
}

static uint32_t state = 12345;
static double uniform(void) {
  state = state * 1664525u + 1013904223u;
  return state / 4294967296.0;
}

static void fail(const char *backend, function f, const layout *a, const char *what) {
  fprintf(stderr, "%s, function %d, shape (%zu, %zu, %zu), gap %zu, float%d%s%s%s%s: %s\n", backend,
          f, a->outer, a->length, a->inner, a->gap, a->is_float32 ? 32 : 64,
          a->at_end ? ", at the end" : "", a->in_place ? ", in place" : "",
          a->is_masked ? ", masked" : "", a->is_tempered ? ", tempered" : "", what);
  exit(1);
}

/* The definition, for one slice: its results go to `wanted`, the log-sum-exp to wanted[0]. */
static void define(function f, const long double *x, const bool *takes_part, size_t n,
                   long double *wanted) {
  size_t largest = n;
  for (size_t i = 0; i < n; i++)
    if (takes_part[i] && (largest == n || x[i] > x[largest])) largest = i;
  long double max = largest < n ? x[largest] : -INFINITY, rest = 0;
  for (size_t i = 0; i < n; i++)
    if (takes_part[i] && i != largest) rest += expl(x[i] - max);
  if (f == LOGSUMEXP) {
    wanted[0] = max + log1pl(rest);
    return;
  }
  for (size_t i = 0; i < n; i++) {
    long double y = f == SOFTMAX ? expl(x[i] - max) / (1 + rest) : (x[i] - max) - log1pl(rest);
    wanted[i] = takes_part[i] ? y : f == SOFTMAX ? 0 : -INFINITY;
  }
}

static void check(const fsm_backend *backend, function f, const layout *a) {
  static unsigned char *x_region, *out_region, *where_region, *temperature_region;
  if (!x_region) {
    x_region = fenced();
    out_region = fenced();
    where_region = fenced();
    temperature_region = fenced();
  }
  size_t itemsize = a->is_float32 ? sizeof(float) : sizeof(double);
  size_t matrix = a->length * a->inner, stride = matrix + a->gap;
  size_t elements = a->outer ? (a->outer - 1) * stride + matrix : 0;
  size_t slices = a->outer * a->inner;
  bool reduces = f == LOGSUMEXP, in_place = a->in_place && !reduces;
  size_t results = reduces ? slices : elements;

  void *x = at_fence(x_region, elements * itemsize, a->at_end);
  void *out = in_place ? x : at_fence(out_region, results * itemsize, a->at_end);
  unsigned char *where = at_fence(where_region, a->outer * matrix, a->at_end);
  double *temperature = at_fence(temperature_region, slices * sizeof(double), a->at_end);
  for (size_t i = 0; i < a->outer * matrix; i++) where[i] = uniform() < 0.7;
  for (size_t i = 0; i < slices; i++) temperature[i] = 0.5 + uniform();
  if (!in_place) memset(out, CANARY, results * itemsize);
  memset(x, CANARY, elements * itemsize);
  for (size_t o = 0; o < a->outer; o++)
    for (size_t i = 0; i < matrix; i++) set(x, o * stride + i, a->is_float32, 20 * uniform() - 10);

  fsm_slices s = {.outer = a->outer, .length = a->length, .inner = a->inner};
  s.x = x;
  s.x_outer = (ptrdiff_t)stride;
  s.x_length = (ptrdiff_t)a->inner;
  s.out = out;
  s.out_outer = (ptrdiff_t)(reduces ? a->inner : stride);
  s.out_length = (ptrdiff_t)a->inner;
  if (a->is_masked) {
    s.where = where;
    s.where_outer = (ptrdiff_t)matrix;
    s.where_length = (ptrdiff_t)a->inner;
    s.where_inner = 1;
  }
  if (a->is_tempered && !reduces) {
    s.temperature = temperature;
    s.temperature_outer = (ptrdiff_t)a->inner;
    s.temperature_inner = 1;
  }

  long double *exact = malloc((elements + slices + 1) * sizeof *exact);
  for (size_t o = 0; o < a->outer; o++)
    for (size_t c = 0; c < a->inner; c++) {
      long double line[512], wanted[512];
      bool takes_part[512];
      for (size_t i = 0; i < a->length; i++) {
        size_t at = i * a->inner + c;
        takes_part[i] = !s.where || where[o * matrix + at];
        line[i] = get(x, o * stride + at, a->is_float32);
        if (s.temperature) line[i] /= temperature[o * a->inner + c];
      }
      define(f, line, takes_part, a->length, wanted);
      if (reduces)
        exact[o * a->inner + c] = wanted[0];
      else
        for (size_t i = 0; i < a->length; i++) exact[o * stride + i * a->inner + c] = wanted[i];
    }

  const fsm_kernels *kernels = a->is_float32 ? backend->f32 : backend->f64;
  fsm_kernel *run[] = {kernels->softmax, kernels->log_softmax, kernels->logsumexp};
  run[f](&s);

  double tolerance = a->is_float32 ? 0x1p-21 : 0x1p-50;
  unsigned char untouched[sizeof(double)];
  memset(untouched, CANARY, sizeof untouched);
  for (size_t i = 0; i < results; i++) {
    if (!reduces && i % stride >= matrix) {
      if (memcmp((char *)out + i * itemsize, untouched, itemsize))
        fail(backend->name, f, a, "a gap");
      continue;
    }
    long double got = get(out, i, a->is_float32), wanted = exact[i];
    bool close = got == wanted ||
                 fabsl(got - wanted) <= tolerance * (fabsl(wanted) + (f == LOGSUMEXP ? 1 : 0));
    if (!close) fail(backend->name, f, a, "a wrong result");
  }
  free(exact);
}

/* Try the share `SAMPLE` of all combinations on each backend; returns the number of calls. */
size_t guard(const fsm_backend *(*backend_at)(size_t)) {
  static const size_t inners[] = {1,  2,  3,  4,  5,  7,  8,  9,  10, 15,
                                  16, 17, 24, 31, 32, 33, 49, 64, 257};
  size_t calls = 0;
  for (size_t b = 0; backend_at(b); b++)
    for (size_t i = 0; i < sizeof inners / sizeof *inners; i++)
      for (size_t length = 0; length <= 140; length += length < 70 ? 1 : 13)
        for (size_t outer = 1; outer <= (inners[i] > 1 ? 2 : 18); outer += outer < 3 ? 1 : 15)
          for (unsigned bits = 0; bits < 64; bits++) {
            if (uniform() > SAMPLE) continue;
            layout a = {outer,    length,   inners[i], bits & 1 ? 3 : 0, bits & 2,
                        bits & 4, bits & 8, bits & 16, bits & 32};
            for (function f = SOFTMAX; f <= LOGSUMEXP; f++, calls++) check(backend_at(b), f, &a);
          }
  return calls;
}
