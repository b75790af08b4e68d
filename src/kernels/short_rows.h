/* Rows of a few registers or less, many of them: inner == 1 and a small length.
 *
 * As many rows as there are lanes are transposed in registers into a scratch tile, where they are
 * columns, and worked on as such: a maximum, a sum and a division serve all of them at once. */
#ifndef FSM_KERNELS_SHORT_ROWS_H
#define FSM_KERNELS_SHORT_ROWS_H

/* The longest row that gains by it: about where softmax of 2000 rows takes as long when this is
 * compiled as 0 as when it is 128, on an AMD Zen 4. */
enum { SHORT = (PARTS > 1 ? 5 : 3) * LANES };

/* Some of the rows, at most LANES, and their transpose. */
typedef struct {
  line rows[LANES];
  size_t count;
  storage columns[SHORT][LANES];
  storage log_sums[LANES];
} batch;

FSM_INLINE void batch_load(batch *b, size_t length, const bool masked) {
  for (size_t i = 0; i < length; i += LANES) {
    size_t width = length - i < LANES ? length - i : LANES;
    vec a[LANES];
    for (size_t k = 0; k < LANES; k++)
      a[k] = k < b->count ? line_load(&b->rows[k], i, width, masked) : v_set1(0);
    v_transpose(a);
    for (size_t k = 0; k < width; k++) v_store(b->columns[i + k], a[k]);
  }
}

FSM_INLINE void batch_store(const batch *b, size_t length, storage *out, ptrdiff_t stride,
                            real absent, const bool masked) {
  for (size_t i = 0; i < length; i += LANES) {
    size_t width = length - i < LANES ? length - i : LANES;
    vec a[LANES];
    for (size_t k = 0; k < LANES; k++) a[k] = k < width ? v_load(b->columns[i + k]) : v_set1(0);
    v_transpose(a);
    for (size_t k = 0; k < b->count; k++)
      line_store(&b->rows[k], out + (ptrdiff_t)k * stride, i, width, a[k], absent, masked);
  }
}

/* Run a kernel of columns over all rows, a batch at a time. With `absent`, the rows it leaves in
 * the tile are written out, with that for elements that take no part; otherwise, a number for each.
 */
FSM_INLINE void for_each_batch(const fsm_slices *s, tile_kernel *kernel, const real *absent,
                               const bool masked) {
  batch b;
  tile t;
  tempering shared = tempering_set1(tempering_of(1));
  t.x = b.columns[0];
  t.out = absent ? b.columns[0] : b.log_sums;
  t.x_stride = t.out_stride = LANES;
  t.where = NULL;
  t.length = t.slice_length = s->length;
  t.tail_width = 0;
  t.slice_stride = LANES;
  t.width = t.columns = LANES;
  t.vectors = 1;
  t.temperings = &shared;
  t.temperings_step = 0;
  for (size_t outer = 0; outer < s->outer; outer += LANES) {
    storage *out = (storage *)s->out + (ptrdiff_t)outer * s->out_outer;
    b.count = s->outer - outer < LANES ? s->outer - outer : LANES;
    for (size_t k = 0; k < b.count; k++) b.rows[k] = row_of(s, outer + k);
    if (s->temperature)
      shared = load_tempering(temperature_of(s, outer, 0), s->temperature_outer, b.count);
    batch_load(&b, s->length, masked);
    kernel(&t, false);
    if (absent)
      batch_store(&b, s->length, out, s->out_outer, *absent, masked);
    else
      for (size_t k = 0; k < b.count; k++) out[(ptrdiff_t)k * s->out_outer] = b.log_sums[k];
  }
}

FSM_INLINE void short_rows(const fsm_slices *s, tile_kernel *kernel, const real *absent) {
  if (s->where)
    for_each_batch(s, kernel, absent, true);
  else
    for_each_batch(s, kernel, absent, false);
}

static void softmax_short_rows(const fsm_slices *s) {
  const real zero = 0;
  short_rows(s, softmax_tile, &zero);
}
static void log_softmax_short_rows(const fsm_slices *s) {
  const real log_zero = -(real)INFINITY;
  short_rows(s, log_softmax_tile, &log_zero);
}
static void logsumexp_short_rows(const fsm_slices *s) { short_rows(s, logsumexp_tile, NULL); }

#endif
