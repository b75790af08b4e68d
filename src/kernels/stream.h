/* Rows that fit the second-level cache, in an array that does not fit the last: inner == 1.
 *
 * A row's terms are kept in scratch and the result is stored past the caches, so that no line of it
 * is read from memory first; the next row is fetched while this one's exponentials are under way.
 * Per element, memory is read once and written once. benchmarks/stream.c measures what it gains.
 */
#ifndef FSM_KERNELS_STREAM_H
#define FSM_KERNELS_STREAM_H

#include <stdlib.h>

#include "cpu.h"

/* In bytes. The passes of shorter rows overlap as it is. */
enum { SHORTEST_STREAMED_ROW = 1 << 14, SMALLEST_STREAMED_ARRAY = 1 << 22 };

static inline bool worth_streaming(const fsm_slices *s) {
  size_t row = s->length * sizeof(storage);
  if (LANES == 1 || !KEEPS_TERMS || s->where || s->x == s->out || row < SHORTEST_STREAMED_ROW)
    return false;
  if (row * s->outer < SMALLEST_STREAMED_ARRAY) return false; /* without asking the processor */
  fsm_cache_sizes cache = fsm_cpu_cache_sizes();
  return row <= cache.second / 4 && row * s->outer > cache.last / 2;
}

FSM_INLINE void stream_row(const storage *terms, size_t length, storage *out, vec_pair scale) {
  line row = {terms, length, NULL, 0};
  size_t past_a_vector = (uintptr_t)out / sizeof(storage) % LANES;
  size_t i = past_a_vector ? LANES - past_a_vector : 0;
  if (i > 0) scale_vector(&row, out, 0, i, scale, false);
  for (; i + LANES <= length; i += LANES)
    v_stream(out + i, scaled(line_load(&row, i, LANES, false), scale));
  if (i < length) scale_vector(&row, out, i, length - i, scale, false);
}

static void softmax_streamed_rows(const fsm_slices *s, storage *scratch) {
  tempering t = tempering_set1(tempering_of(1));
  line row = row_of(s, 0);
  vec max = v_set1(row_max(&row, false));
  for (size_t outer = 0; outer < s->outer; outer++) {
    line next = row_of(s, outer + 1 < s->outer ? outer + 1 : outer);
    if (s->temperature) t = tempering_set1(tempering_of(*temperature_of(s, outer, 0)));
    exp_frame f = frame_of(max, &t);
    term_pass p = {&row, &f, max, scratch, NULL, &next};
    term_sum sum =
        total_of_row(&p, (term_flags){.shifted = true, .stores = true, .fetches = true});
    vec_pair scale = scale_of(&sum.rest, max);
    max = v_set1(row_max(&next, false));
    stream_row(scratch, s->length, (storage *)s->out + (ptrdiff_t)outer * s->out_outer, scale);
    row = next;
  }
  v_finish_streams();
}

/* False if there is no memory for the scratch. */
static bool softmax_streams(const fsm_slices *s) {
  if (!worth_streaming(s)) return false;
  enum { CACHE_LINE = 64 };
  char *scratch = malloc(s->length * sizeof(storage) + CACHE_LINE);
  if (!scratch) return false;
  softmax_streamed_rows(s, (storage *)(scratch + CACHE_LINE - (uintptr_t)scratch % CACHE_LINE));
  free(scratch);
  return true;
}

#endif
