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
enum { SHORTEST_STREAMED_ROW = 1 << 14 };

static inline bool worth_streaming(const fsm_slices *s) {
  size_t row = s->length * sizeof(storage);
  if (LANES == 1 || !KEEPS_TERMS || s->where || s->x == s->out || row < SHORTEST_STREAMED_ROW)
    return false;
  if (s->length >= FSM_LONG) return false; /* of which threads may do parts */
  fsm_cache_sizes cache = fsm_cpu_cache_sizes();
  return row <= cache.second / 4 && row * s->outer > cache.last / 2;
}

/* Elements before the first that a whole vector can be stored past the caches from. */
static inline size_t unaligned_elements(const storage *out, size_t length) {
  size_t past_a_vector = (uintptr_t)out / sizeof(storage) % LANES;
  size_t count = past_a_vector ? LANES - past_a_vector : 0;
  return count < length ? count : length;
}

/* Find the terms of a row and store them past the caches, scaled. */
FSM_INLINE void share_terms_past_caches(const line *row, const exp_frame *f, storage *out,
                                        vec_pair scale, const bool shifted) {
  enum { STEP = BLOCK * LANES };
  line rest = *row;
  term_pass p = {.row = &rest, .frame = f};
  rest.length = unaligned_elements(out, row->length);
  if (rest.length > 0) share_terms(&p, out, scale, false);
  size_t i = rest.length;
  for (; i + STEP <= row->length; i += STEP) {
    row_block b;
    terms_of_block(&b, &(term_pass){.row = row, .frame = f}, i, BLOCK, true,
                   (term_flags){.shifted = shifted});
    for (size_t k = 0; k < BLOCK; k++)
      v_stream(out + i + k * LANES, scaled(exp_term_value(&b.term[k], f), scale));
  }
  rest.x = row->x + i;
  rest.length = row->length - i;
  if (rest.length > 0) share_terms(&p, out + i, scale, false);
  v_finish_streams();
}

FSM_INLINE void stream_row(const storage *terms, size_t length, storage *out, vec_pair scale) {
  line row = {terms, length, NULL, 0};
  size_t i = unaligned_elements(out, length);
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
    term_sum sum = total_of_row(&p, (term_flags){.shifted = true, .stores = true, .fetches = true});
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
