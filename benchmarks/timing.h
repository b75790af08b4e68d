/* The clock of the C programs here, and the order of its readings. */
#ifndef FSM_BENCHMARKS_TIMING_H
#define FSM_BENCHMARKS_TIMING_H

#include <stdlib.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void sort_times(double *times, size_t count) {
  qsort(times, count, sizeof *times, by_value);
}

#endif
