/* Columns of which there are few, and which are long: fsm_is_long with inner > 1.
 *
 * As long rows, they are worked on in parts, which are cut by their shape alone and which threads
 * may share: rows of the array one below the other, each part a tile of its own. */
#ifndef FSM_KERNELS_TALL_COLUMNS_H
#define FSM_KERNELS_TALL_COLUMNS_H

enum { MOST_COLUMN_PARTS = 16, PART_COLUMNS = FSM_NARROW + LANES };

/* A slice and its columns, and what is known of its parts. */
typedef struct {
  const fsm_slices *slices;
  const column_passes *passes;
  tile whole;
  size_t part_length; /* the last part may be shorter */
  int parts;
  struct {
    real max[PART_COLUMNS];
    double ties[PART_COLUMNS], hi[PART_COLUMNS], lo[PART_COLUMNS];
  } part[MOST_COLUMN_PARTS];
} tall_slice;

/* A tile of the rows of a part. */
static void place_part(tile *t, const tall_slice *c, int k) {
  const tile *whole = &c->whole;
  size_t from = (size_t)k * c->part_length, left = whole->at.length - from;
  bool is_last = left <= c->part_length;
  t->at = whole->at;
  t->at.x += (ptrdiff_t)from * t->at.x_stride;
  t->at.out += (ptrdiff_t)from * t->at.out_stride;
  if (t->at.where) t->at.where += (ptrdiff_t)from * t->at.where_length;
  t->at.length = is_last ? left : c->part_length;
  t->at.tail_width = is_last ? whole->at.tail_width : 0;
  t->vectors = whole->vectors;
  t->columns = whole->columns;
}

/* With the maxima of the whole, and the frames that follow from them. */
static void place_known_part(tile *t, const tall_slice *c, int k) {
  place_part(t, c, k);
  t->is_shifted = c->whole.is_shifted;
  memcpy(t->max, c->whole.max, t->vectors * sizeof *t->max);
  memcpy(t->frame, c->whole.frame, t->vectors * sizeof *t->frame);
}

static void find_maxima_of_part(void *work, int k, int thread) {
  (void)thread;
  tall_slice *c = work;
  tile t;
  place_part(&t, c, k);
  find_maxima(&t);
  for (size_t v = 0; v < folded_vectors(&t); v++)
    v_store_real(c->part[k].max + v * LANES, t.max[v]);
}

static void find_sums_of_part(void *work, int k, int thread) {
  (void)thread;
  tall_slice *c = work;
  tile t;
  place_known_part(&t, c, k);
  c->passes->sum(&t);
  for (size_t v = 0; v < folded_vectors(&t); v++) {
    doubles_store(t.sum[v].ties, c->part[k].ties + v * LANES);
    wide_store(t.sum[v].rest, c->part[k].hi + v * LANES, c->part[k].lo + v * LANES);
  }
}

static void finish_part_of_columns(void *work, int k, int thread) {
  (void)thread;
  tall_slice *c = work;
  tile t;
  place_known_part(&t, c, k);
  memcpy(t.share, c->whole.share, folded_vectors(&t) * sizeof *t.share);
  memcpy(t.log, c->whole.log, folded_vectors(&t) * sizeof *t.log);
  c->passes->finish(&t);
}

static void join_maxima(tall_slice *c) {
  tile *t = &c->whole;
  for (size_t v = 0; v < folded_vectors(t); v++) {
    t->max[v] = v_load_real(c->part[0].max + v * LANES);
    for (int k = 1; k < c->parts; k++)
      t->max[v] = v_max(v_load_real(c->part[k].max + v * LANES), t->max[v]);
  }
  if (is_fused(t)) spread(t, t->max, 1);
  find_frames(t);
}

static void join_sums(tall_slice *c) {
  tile *t = &c->whole;
  for (int k = 1; k < c->parts; k++)
    for (size_t i = 0; i < t->columns; i++) {
      add_to_pair(&c->part[0].hi[i], &c->part[0].lo[i], c->part[k].hi[i], c->part[k].lo[i]);
      c->part[0].ties[i] += c->part[k].ties[i];
    }
  for (size_t v = 0; v < folded_vectors(t); v++) {
    t->sum[v].ties = doubles_load(c->part[0].ties + v * LANES);
    t->sum[v].rest = wide_load(c->part[0].hi + v * LANES, c->part[0].lo + v * LANES);
  }
}

/* All at once, if there is no memory for what is known of the parts. */
static void tall_columns(const fsm_slices *s, const column_passes *passes) {
  void *memory;
  tall_slice *c = allocate(sizeof *c, &memory);
  if (!c) {
    columns(s, passes);
    return;
  }
  c->slices = s;
  c->passes = passes;
  memset(c->whole.share, 0, sizeof c->whole.share); /* of which one is not used */
  memset(c->whole.log, 0, sizeof c->whole.log);
  prepare_tiles(&c->whole, s, passes->reduces, false);
  size_t rows = c->whole.at.length; /* each may be several of the array's, fused */
  c->part_length = (rows + MOST_COLUMN_PARTS - 1) / MOST_COLUMN_PARTS;
  c->parts = (int)((rows + c->part_length - 1) / c->part_length);
  for (size_t outer = 0; outer < s->outer; outer++) {
    place_tile(&c->whole, s, outer, 0);
    do_parts(s, find_maxima_of_part, c, c->parts);
    join_maxima(c);
    do_parts(s, find_sums_of_part, c, c->parts);
    join_sums(c);
    passes->know(&c->whole);
    if (passes->reduces)
      passes->finish(&c->whole);
    else
      do_parts(s, finish_part_of_columns, c, c->parts);
  }
  free(memory);
}

#endif
