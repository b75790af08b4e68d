/* Calls about decisions, losses and gradients: their slices one by one, each as a contiguous row,
 * and what is known of a slice once its terms have been summed.
 *
 * Strided slices are copied to scratch, a few neighbouring columns at a time, and results back. */
#ifndef FSM_KERNELS_CALLS_H
#define FSM_KERNELS_CALLS_H

/* One slice of a call. */
typedef struct {
  const fsm_call *call;
  size_t outer, inner; /* which one */
  line x;
  const storage *other;
  storage *out, *hess;
} slice;

typedef void slice_kernel(const slice *s);

static inline storage *elements_of(const fsm_array *a, size_t outer, size_t inner) {
  return a->data ? (storage *)a->data + (ptrdiff_t)outer * a->outer + (ptrdiff_t)inner * a->inner
                 : NULL;
}

static inline line line_of(const fsm_call *c, const storage *x, size_t outer, size_t inner) {
  const unsigned char *where = c->where.data;
  if (where) where += (ptrdiff_t)outer * c->where.outer + (ptrdiff_t)inner * c->where.inner;
  return (line){x, c->length, where, c->where.length};
}

/* Columns of an array to rows, `step` apart. */
static void gather(const fsm_call *c, const storage *x, ptrdiff_t stride, size_t columns,
                   storage *rows, size_t step) {
  for (size_t l = 0; l < c->length; l++)
    for (size_t k = 0; k < columns; k++)
      rows[k * step + l] = x[(ptrdiff_t)l * stride + (ptrdiff_t)k];
}

static void scatter(const fsm_call *c, storage *x, ptrdiff_t stride, size_t columns,
                    const storage *rows, size_t step) {
  for (size_t l = 0; l < c->length; l++)
    for (size_t k = 0; k < columns; k++)
      x[(ptrdiff_t)l * stride + (ptrdiff_t)k] = rows[k * step + l];
}

FSM_INLINE void for_columns(const fsm_call *c, size_t outer, size_t inner, size_t columns,
                            slice_kernel *kernel) {
  size_t step = c->length + FSM_PADDING, size = columns * step;
  storage *x = c->scratch, *other = x + size, *out = other + size, *hess = out + size;
  storage *to_out = elements_of(&c->out, outer, inner);
  storage *to_hess = elements_of(&c->hess, outer, inner);
  gather(c, elements_of(&c->x, outer, inner), c->x.length, columns, x, step);
  if (c->other.data)
    gather(c, elements_of(&c->other, outer, inner), c->other.length, columns, other, step);
  for (size_t k = 0; k < columns; k++) {
    slice s = {c,
               outer,
               inner + k,
               line_of(c, x + k * step, outer, inner + k),
               c->other.data ? other + k * step : NULL,
               to_out ? out + k * step : NULL,
               hess + k * step};
    kernel(&s);
  }
  if (to_out) scatter(c, to_out, c->out.length, columns, out, step);
  if (to_hess) scatter(c, to_hess, c->hess.length, columns, hess, step);
}

FSM_INLINE void for_each_slice(const fsm_call *c, slice_kernel *kernel) {
  for (size_t outer = 0; outer < c->outer; outer++) {
    if (c->inner == 1) {
      slice s = {c,
                 outer,
                 0,
                 line_of(c, elements_of(&c->x, outer, 0), outer, 0),
                 elements_of(&c->other, outer, 0),
                 elements_of(&c->out, outer, 0),
                 elements_of(&c->hess, outer, 0)};
      kernel(&s);
      continue;
    }
    for (size_t inner = 0; inner < c->inner; inner += FSM_COLUMNS) {
      size_t left = c->inner - inner;
      for_columns(c, outer, inner, left < FSM_COLUMNS ? left : FSM_COLUMNS, kernel);
    }
  }
}

/* What a call has one of for each slice. */
static inline storage *result_of(const slice *s) {
  return elements_of(&s->call->slices, s->outer, s->inner);
}
static inline ptrdiff_t *index_of(const slice *s) {
  const fsm_array *a = &s->call->index;
  return (ptrdiff_t *)a->data + (ptrdiff_t)s->outer * a->outer + (ptrdiff_t)s->inner * a->inner;
}
static inline int64_t label_of(const slice *s) {
  const fsm_array *a = &s->call->label;
  const int64_t *label = a->data;
  return label[(ptrdiff_t)s->outer * a->outer + (ptrdiff_t)s->inner * a->inner];
}

static inline double first_of(dvec a) {
  double lanes[DOUBLE_LANES];
  d_store(lanes, a);
  return lanes[0];
}

/* The sum of the terms of a row of one vector at most, with ties apart if it `splits` it. They are
 * stored as well unless `terms` is NULL. */
static term_sum sum_of_vector(const line *s, vec max, const exp_frame *f, storage *terms,
                              bool splits) {
  vec x = s->where ? line_load(s, 0, s->length, true) : line_load(s, 0, s->length, false);
  vec shifted = v_sub(x, f->origin);
  exp_term term;
  exp_terms(&term, &shifted, f, 1);
  vec value = v_stored(exp_term_value(&term, f));
  if (terms) line_store(s, terms, 0, s->length, value, 0, false);
  term_sum sum = {doubles_set1(0), wide_zero()};
  if (splits) {
    mask tie = v_equal(x, max);
    sum.ties = doubles_set1((double)v_count_true(tie));
    sum.rest = wide_add_terms(sum.rest, &tie, &term, f, 1, false);
  } else {
    sum.rest = wide_add_values(sum.rest, &value, 1, false);
  }
  sum.rest = wide_reduce(sum.rest);
  return sum;
}

/* The same for any row. */
static term_sum sum_of_slice(const line *s, vec max, const exp_frame *f, storage *terms,
                             bool splits) {
  if (s->length <= LANES) return sum_of_vector(s, max, f, terms, splits);
  term_pass p = {.row = s, .frame = f, .max = max, .terms = terms};
  bool shifted = v_first(f->origin) != 0;
  if (s->where) /* which only softmax_logsumexp has */
    return total_of_row(
        &p, (term_flags){.masked = true, .shifted = true, .stores = true, .splits = true});
  if (shifted) {
    if (terms)
      return total_of_row(&p, (term_flags){.shifted = true, .stores = true, .splits = true});
    if (splits) return total_of_row(&p, (term_flags){.shifted = true, .splits = true});
    return total_of_row(&p, (term_flags){.shifted = true});
  }
  if (terms && splits) return total_of_row(&p, (term_flags){.stores = true, .splits = true});
  if (terms) return total_of_row(&p, (term_flags){.stores = true});
  if (splits) return total_of_row(&p, (term_flags){.splits = true});
  return total_of_row(&p, (term_flags){.shifted = false});
}

/* The scale of a row's softmax, whose terms are summed but not stored. */
static vec_pair softmax_scale(const line *s, vec max, const exp_frame *f) {
  term_sum sum = sum_of_slice(s, max, f, NULL, false);
  return scale_of(&sum.rest, max);
}

/* Softmax values of single elements. */
static inline vec softmax_of(vec x, const exp_frame *f, vec_pair scale) {
  vec shifted = v_sub(x, f->origin);
  exp_term term;
  exp_terms(&term, &shifted, f, 1);
  return scaled(exp_term_value(&term, f), scale);
}

/* What is known of a slice. Shares are of the sum of its terms; those of all others than one of the
 * largest are summed by themselves, and keep their digits where next to nothing is left to them. */
typedef struct {
  vec max;
  double ties;
  double inverse[2]; /* 1 / sum of the terms, as hi + lo; NaN where max is not finite */
  double largest, others;
  double log; /* of the sum of exp(x - max); as log_of_nonfinite_sum has it otherwise */
} known;

/* The exact product of a and b as hi + lo. */
static inline void multiply(double a, double b, double product[2]) {
  product[0] = a * b;
  product[1] = fma(a, b, -product[0]);
}

/* The sum of ties largest terms and the rest, as hi + lo. */
static inline void add_ties(double ties, const double largest[2], const double rest[2],
                            double total[2]) {
  multiply(ties, largest[0], total);
  total[1] += ties * largest[1];
  add_to_pair(&total[0], &total[1], rest[0], rest[1]);
}

static void know_shares(known *n, const term_sum *sum, const exp_frame *f) {
#ifdef FSM_REAL_DOUBLE
  dvec_pair term = largest_term(n->max, f);
  double largest[2] = {first_of(term.hi), first_of(term.lo)};
  double rest[2] = {first_of(sum->rest.hi), first_of(sum->rest.lo)};
#else
  double largest[2] = {first_of(largest_term(n->max, f).part[0]), 0};
  double rest[2] = {first_of(sum->rest.part[0]), 0};
#endif
  n->ties = first_of(sum->ties.part[0]);
  double total[2], others[2];
  add_ties(n->ties, largest, rest, total);
  add_ties(n->ties - 1, largest, rest, others);
  double inverse = 1 / total[0];
  n->inverse[0] = inverse;
  n->inverse[1] = -inverse * (fma(inverse, total[0], -1) + inverse * total[1]);
  n->largest = fma(largest[0], inverse, fma(largest[0], n->inverse[1], largest[1] * inverse));
  n->others = fma(others[0], inverse, fma(others[0], n->inverse[1], others[1] * inverse));
}

/* Terms are stored, perhaps in the place of the row, unless `terms` is NULL. Where the log is only
 * part of a result that is 4 at least, and others are not asked for, ties need not be kept apart:
 * it may be off by a unit in the last place of 1. */
static known know(const line *s, real maximum, storage *terms, bool splits) {
  known n = {.max = v_set1(maximum), .inverse = {NAN, NAN}, .largest = NAN, .others = NAN};
  if (!is_finite(maximum)) {
    n.log = log_of_nonfinite_sum(s, s->where != NULL);
    return n;
  }
  tempering t = tempering_set1(tempering_of(1));
  exp_frame f = frame_of(n.max, &t);
  term_sum sum = sum_of_slice(s, n.max, &f, terms, splits);
  n.log = first_of(log_of_sum(&sum, n.max, &f).part[0]);
  if (terms) know_shares(&n, &sum, &f);
  return n;
}

static inline real slice_max(const line *s) {
  return s->where ? row_max(s, true) : row_max(s, false);
}

/* hi + lo in each lane. */
static inline vec_pair pair_set1(double hi, double lo) {
  real pair[2];
  set_pair(pair, hi, lo);
  return (vec_pair){v_set1(pair[0]), v_set1(pair[1])};
}

FSM_INLINE vec load_or_0(const storage *x, size_t i, size_t width) {
  return width == LANES ? v_load(x + i) : v_load_part(x + i, width, v_set1(0));
}

/* Where the first element that equals `value` is, from i on; there is one. */
static size_t first_equal(const line *s, size_t i, real value) {
  for (; i < s->length; i += LANES) {
    size_t left = s->length - i, width = left < LANES ? left : LANES;
    uint64_t equal = v_bits(v_equal(line_load(s, i, width, false), v_set1(value)));
    if (equal) return i + lowest_bit(equal);
  }
  return 0;
}

#endif
