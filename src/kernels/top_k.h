/* The k largest elements of a slice in descending order, as softmax or log-softmax values.
 *
 * A heap keeps the k best of the elements so far, with the worst of them on top: of equal elements
 * the one further on. Most elements of a long slice are no better than that, which a vector of them
 * tells at once (D. E. Knuth, The Art of Computer Programming 3, section 5.2.3, for the heap).
 * Memory touched per element: two reads, the second one from cache for rows that fit one. */
#ifndef FSM_KERNELS_TOP_K_H
#define FSM_KERNELS_TOP_K_H

/* The heap lies where the results go. */
typedef struct {
  storage *value;
  ptrdiff_t *index;
  ptrdiff_t value_stride, index_stride;
} heap;

typedef struct {
  storage value;
  ptrdiff_t index;
} element;

static inline element heap_get(const heap *h, size_t i) {
  return (element){h->value[(ptrdiff_t)i * h->value_stride],
                   h->index[(ptrdiff_t)i * h->index_stride]};
}
static inline void heap_set(const heap *h, size_t i, element e) {
  h->value[(ptrdiff_t)i * h->value_stride] = e.value;
  h->index[(ptrdiff_t)i * h->index_stride] = e.index;
}

/* NaN comes first, and otherwise the larger; of equal ones the one with the smaller index. */
FSM_INLINE bool comes_before(element a, element b, const bool has_nan) {
  real x = a.value, y = b.value;
  bool x_is_nan = has_nan && x != x, y_is_nan = has_nan && y != y;
  if (x_is_nan != y_is_nan) return x_is_nan;
  return x > y || (!(x < y) && a.index < b.index);
}

/* Put e into the heap of `size` elements at place i, or below. */
FSM_INLINE void sift_down(const heap *h, size_t i, size_t size, element e, const bool has_nan) {
  for (size_t child = 2 * i + 1; child < size; child = 2 * i + 1) {
    element next = heap_get(h, child);
    if (child + 1 < size) {
      element other = heap_get(h, child + 1);
      if (comes_before(next, other, has_nan)) {
        next = other;
        child++;
      }
    }
    if (!comes_before(e, next, has_nan)) break;
    heap_set(h, i, next);
    i = child;
  }
  heap_set(h, i, e);
}

/* Offer `width` elements from i on. */
FSM_INLINE void heap_offer(const heap *h, size_t k, const line *x, size_t i, size_t width,
                           const bool has_nan) {
  element worst = heap_get(h, 0);
  for (size_t j = i; j < i + width; j++) {
    element e = {x->x[j], (ptrdiff_t)j};
    if (!comes_before(e, worst, has_nan)) continue;
    sift_down(h, 0, k, e, has_nan);
    worst = heap_get(h, 0);
  }
}

/* Where there is NaN that has_nan does not tell of, the heap holds anything. */
FSM_INLINE void select_largest(const heap *h, size_t k, const line *x, const bool has_nan) {
  enum { AT_ONCE = 8 };
  for (size_t i = 0; i < k; i++) heap_set(h, i, (element){x->x[i], (ptrdiff_t)i});
  for (size_t i = k / 2; i-- > 0;) sift_down(h, i, k, heap_get(h, i), has_nan);
  size_t i = k;
  vec least = v_set1(heap_get(h, 0).value);
  for (; !has_nan && i + AT_ONCE * LANES <= x->length; i += AT_ONCE * LANES) {
    vec m[AT_ONCE];
    for (size_t j = 0; j < AT_ONCE; j++) m[j] = v_load(x->x + i + j * LANES);
    for (size_t width = AT_ONCE / 2; width > 0; width /= 2)
      for (size_t j = 0; j < width; j++) m[j] = v_max(m[j], m[j + width]);
    if (!v_count_true(v_less(least, m[0]))) continue;
    heap_offer(h, k, x, i, AT_ONCE * LANES, has_nan);
    least = v_set1(heap_get(h, 0).value);
  }
  heap_offer(h, k, x, i, x->length - i, has_nan);
  for (size_t size = k; size-- > 1;) {
    element worst = heap_get(h, 0);
    sift_down(h, 0, size, heap_get(h, size), has_nan);
    heap_set(h, size, worst);
  }
}

static void select_numbers(const heap *h, size_t k, const line *x) {
  select_largest(h, k, x, false);
}
static void select_with_nan(const heap *h, size_t k, const line *x) {
  select_largest(h, k, x, true);
}

/* Make softmax values of elements. */
static void softmax_of_elements(const heap *h, size_t k, const exp_frame *f, vec_pair scale) {
  for (size_t i = 0; i < k; i += LANES) {
    size_t width = k - i < LANES ? k - i : LANES;
    real x[LANES] = {0};
    for (size_t j = 0; j < width; j++) x[j] = heap_get(h, i + j).value;
    v_store_real(x, softmax_of(v_load_real(x), f, scale));
    for (size_t j = 0; j < width; j++)
      h->value[(ptrdiff_t)(i + j) * h->value_stride] = (storage)x[j];
  }
}

static void log_softmax_of_elements(const heap *h, size_t k, real max, double log) {
  for (size_t i = 0; i < k; i++) {
    storage *value = &h->value[(ptrdiff_t)i * h->value_stride];
    *value = (storage)(((double)*value - (double)max) - log);
  }
}

FSM_INLINE void top_k_slice(const slice *s) {
  const fsm_call *c = s->call;
  heap h = {elements_of(&c->values, s->outer, s->inner), index_of(s), c->values.length,
            c->index.length};
  tempering t = tempering_set1(tempering_of(1));
  select_numbers(&h, c->k, &s->x);
  real maximum = h.value[0];
  vec max = v_set1(maximum);
  exp_frame f = frame_of(max, &t);
  vec_pair scale = pair_set1(NAN, NAN);
  double log = NAN;
  if (!is_finite(maximum)) {
    log = log_of_nonfinite_sum(&s->x, false);
  } else if (c->log) {
    term_sum sum = sum_of_slice(&s->x, max, &f, NULL, true);
    log = first_of(log_of_sum(&sum, max, &f).part[0]);
  } else {
    scale = softmax_scale(&s->x, max, &f);
  }
  bool is_odd = c->log ? log != log : v_first(scale.hi) != v_first(scale.hi);
  if (is_odd || !is_finite(maximum)) select_with_nan(&h, c->k, &s->x);
  if (c->log)
    log_softmax_of_elements(&h, c->k, maximum, log);
  else
    softmax_of_elements(&h, c->k, &f, scale);
}

static void top_k(const fsm_call *c) { for_each_slice(c, top_k_slice); }

#endif
