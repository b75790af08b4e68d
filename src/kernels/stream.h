/* Rows that fit the second-level cache, in an array that does not fit the last: inner == 1.
 *
 * Results are stored past the caches, so that no line of them is read from memory first. Until then
 * the terms of a softmax are kept in scratch. Per element, memory is read once and written once.
 * Short rows are stored by groups, a long one while the exponentials of the next are under way, so
 * that memory and arithmetic work at the same time. benchmarks/stream.c measures what it gains.
 */
#ifndef FSM_KERNELS_STREAM_H
#define FSM_KERNELS_STREAM_H

#include "cpu.h"

/* In bytes; where rows are shorter, the caches do as well. (With 512 bits, and of 16, that was
 * measured before the ends of rows were fetched.) */
enum {
  IS_HALF_A_LINE = LANES * sizeof(real) == CACHE_LINE / 2,
  SHORTEST_STREAMED_ROW = IS_HALF_A_LINE && KEEPS_TERMS ? 400 : 7 << 8,
};

static inline bool worth_streaming(const fsm_slices *s) {
  size_t row = s->length * sizeof(storage);
  if (!STREAMS || s->where || s->x == s->out || row < SHORTEST_STREAMED_ROW) return false;
  if (s->length >= FSM_LONG) return false; /* of which threads may do parts */
  fsm_cache_sizes cache = fsm_cpu_cache_sizes();
  return row <= cache.second / 4 && array_bytes(s) > cache.last / 2;
}

/* Find the terms of a row and store them past the caches, scaled. */
FSM_INLINE void share_terms_past_caches(const line *row, const exp_frame *f, storage *out,
                                        const share_frame *last, const bool shifted) {
  enum { STEP = ROW_BLOCK * LANES };
  line rest = *row;
  term_pass p = {.row = &rest, .frame = f};
  rest.length = unaligned_elements(out, row->length);
  if (rest.length > 0) share_terms(&p, out, last, false);
  size_t i = rest.length;
  for (; i + STEP <= row->length; i += STEP) {
    row_block b;
    exp_term term[ROW_BLOCK];
    begin_block(&b, NULL, &(term_pass){.row = row, .frame = f}, i, ROW_BLOCK, true,
                (term_flags){.shifted = shifted});
    exp_expand(term, b.reduced, ROW_BLOCK);
    for (size_t k = 0; k < ROW_BLOCK; k++)
      v_stream(out + i + k * LANES, share(exp_term_value(&term[k]), last));
  }
  rest.x = row->x + i;
  rest.length = row->length - i;
  if (rest.length > 0) share_terms(&p, out + i, last, false);
  v_finish_streams();
}

/* What is left to do for a row whose terms have been summed. */
FSM_INLINE last_pass left_to_do(const term_pass *p, storage *out, const term_sum *sum,
                                const tempering *t, const bool is_log) {
  last_pass b = {.from = is_log ? p->row->x : p->out, .out = out, .length = p->row->length};
  if (!is_log) {
    b.share = share_frame_of(&sum->rest, p->max, floor_term(p->frame));
    return b;
  }
  bool finite = is_finite(v_first(p->max));
  doubles log_sum = finite ? log_of_sum(sum, p->max, p->frame)
                           : doubles_set1(log_of_nonfinite_sum(p->row, false));
  b.log = log_frame_of(p->max, t, log_sum);
  return b;
}

FSM_INLINE void softmax_streamed_group(group *g, const tempering *t, const bool masked) {
  _Alignas(CACHE_LINE) real terms[SCRATCH];
  softmax_of_group(g, t, terms, true, masked);
}

FSM_INLINE void log_softmax_streamed_group(group *g, const tempering *t, const bool masked) {
  log_softmax_of_group(g, t, true, masked);
}

FSM_INLINE void stream_groups(const fsm_slices *s, group_kernel *kernel) {
  for_each_group_if(s, NULL, kernel, STREAMED, false);
  v_finish_streams();
}

/* `memory` is for the terms of two rows; a logarithm needs none. */
FSM_INLINE void streamed_rows(const fsm_slices *s, storage *const memory[2], const bool is_log) {
  enum { STEP = ROW_BLOCK * LANES };
  const term_flags flags = {.shifted = true,
                            .stores = !is_log,
                            .splits = is_log,
                            .fetches_ahead = true,
                            .finishes = true};
  tempering t = untempered();
  last_pass behind = {.length = 0};
  for (size_t outer = 0; outer < s->outer; outer++) {
    line row = row_of(s, outer), next = row_of(s, outer + 1 < s->outer ? outer + 1 : outer);
    storage *terms = memory[outer % 2];
    if (has_new_tempering(s, outer)) t = row_tempering(s, outer);
    vec max = v_set1(row_max(&row, false));
    exp_frame f = frame_of(max, &t);
    align_row(&behind, is_log);
    fetch_ends(out_of(s, outer), row.length);
    term_pass p = {&row, &f, max, terms, NULL, &next, &behind};
    term_sum sum = total_of_row(&p, flags);
    stream_aligned_row(&behind, behind.length / STEP * STEP, is_log);
    behind = left_to_do(&p, out_of(s, outer), &sum, &t, is_log);
  }
  stream_row(&behind, is_log);
  v_finish_streams();
}

/* False if there is no memory for the terms. */
static bool softmax_streams(const fsm_slices *s) {
  if (!worth_streaming(s) || !KEEPS_TERMS) return false;
  if (rows_in_group(s->length, STREAMED) > 1) {
    stream_groups(s, softmax_streamed_group);
    return true;
  }
  size_t step = (s->length * sizeof(storage) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  void *memory;
  char *terms = allocate(2 * step, &memory);
  if (!terms) return false;
  streamed_rows(s, (storage *[]){(storage *)terms, (storage *)(terms + step)}, false);
  free(memory);
  return true;
}

static bool log_softmax_streams(const fsm_slices *s) {
  if (!worth_streaming(s)) return false;
  if (rows_in_group(s->length, STREAMED) > 1)
    stream_groups(s, log_softmax_streamed_group);
  else
    streamed_rows(s, (storage *[]){NULL, NULL}, true);
  return true;
}

#endif
