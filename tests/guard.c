/* Every kernel of every backend on arrays that end, or begin, at a page nobody may touch.
 *
 * Shapes, strides, alignments, masks and temperatures are varied. Each result is compared with the
 * definition in long double; whatever of the memory is no element of a result must stay as it was.
 * At the first mistake the process ends: by exit(1), or by touching such a page.
 *
 * test_memory.py builds this as a library and hands it the kernels of the installed extension, for
 * a sample. tools/sanitize builds it, with GUARD_PROGRAM defined, as a program of its own around
 * the C library alone, with AddressSanitizer: there what lies beside the arrays and in their gaps
 * is forbidden as well (but for the rest of the 8 bytes in which an array begins), to accesses that
 * the compiler can see. Those through masks it cannot see, and they meet the pages. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fastsoftmax.h"

/* Not by the macros of this header: they do nothing in a file that is not instrumented itself. */
#ifdef GUARD_PROGRAM
#include <sanitizer/asan_interface.h>
#define FORBID(p, n) __asan_poison_memory_region(p, n)
#define ALLOW(p, n) __asan_unpoison_memory_region(p, n)
#else
#define FORBID(p, n) ((void)(p), (void)(n))
#define ALLOW(p, n) ((void)(p), (void)(n))
#endif

enum {
  REGION = 1 << 23,
  MARGIN = 256, /* bytes beside an array that are watched, where its region has them */
  CANARY = 0x5a,
  MOST_LANES = 16,
  MOST_BLOCK = 8 * MOST_LANES, /* elements of a row that one step of any kernel takes, at most */
  MOST_ELEMENTS = 1 << 18,
  MOST_OF_TABLE = 40 * 64, /* elements of a matrix whose shape is one of the table's */
};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* What the kernels compute with. */
typedef struct {
  const char *name;
  size_t size;
  double (*get)(const void *p);
  void (*set)(void *p, double value);
  double tolerance; /* relative */
  double smallest;  /* positive number: errors below it are none */
  size_t kernels;   /* where in fsm_backend */
} dtype;

static double get_float32(const void *p) { return *(const float *)p; }
static double get_float64(const void *p) { return *(const double *)p; }
static void set_float32(void *p, double value) { *(float *)p = (float)value; }
static void set_float64(void *p, double value) { *(double *)p = value; }

/* Formats of 16 bits: a sign, an exponent whose least is `least`, `digits` bits of mantissa. */
static double get_16(const void *p, int digits, int least) {
  uint16_t word;
  memcpy(&word, p, sizeof word);
  int field = (word & 0x7fff) >> digits, mantissa = word & ((1 << digits) - 1);
  double magnitude = ldexp(mantissa, least - digits);
  if (field == 0x7fff >> digits)
    magnitude = mantissa ? NAN : INFINITY;
  else if (field > 0)
    magnitude = ldexp((1 << digits) + mantissa, field - 1 + least - digits);
  return word & 0x8000 ? -magnitude : magnitude;
}
static void set_16(void *p, double value, int digits, int least) {
  int exponent = least, infinity = 0x7fff >> digits << digits;
  double magnitude = fabs(value);
  if (isfinite(magnitude) && magnitude > 0) frexp(magnitude, &exponent);
  exponent = exponent - 1 < least ? least : exponent - 1;
  int word = isnan(value) ? infinity + 1 : infinity;
  if (isfinite(magnitude) && exponent - least < (0x7fff >> digits) - 1)
    word = (int)rint(ldexp(magnitude, digits - exponent)) + ((exponent - least) << digits);
  uint16_t stored = (uint16_t)(word | (signbit(value) ? 0x8000 : 0));
  memcpy(p, &stored, sizeof stored);
}
static double get_float16(const void *p) { return get_16(p, 10, -14); }
static double get_bfloat16(const void *p) { return get_16(p, 7, -126); }
static void set_float16(void *p, double value) { set_16(p, value, 10, -14); }
static void set_bfloat16(void *p, double value) { set_16(p, value, 7, -126); }

static const dtype DTYPES[] = {
    {"float32", sizeof(float), get_float32, set_float32, 0x1p-21, 0x1p-149,
     offsetof(fsm_backend, f32)},
    {"float64", sizeof(double), get_float64, set_float64, 0x1p-50, 0x1p-1074,
     offsetof(fsm_backend, f64)},
    {"float16", sizeof(uint16_t), get_float16, set_float16, 0x1p-10, 0x1p-24,
     offsetof(fsm_backend, f16)},
    {"bfloat16", sizeof(uint16_t), get_bfloat16, set_bfloat16, 0x1p-7, 0x1p-133,
     offsetof(fsm_backend, bf16)},
};

/* What they compute, from the maximum of a slice and the logarithm of the sum of exp(x - max). */
typedef struct {
  const char *name;
  long double (*define)(long double x, long double max, long double log_sum);
  double absent; /* the result for an element that takes no part */
  bool reduces;  /* one result for each slice; no temperature */
  size_t kernel; /* where in fsm_kernels */
} function;

static long double define_softmax(long double x, long double max, long double log_sum) {
  return isinf(max) ? NAN : expl((x - max) - log_sum);
}
static long double define_log_softmax(long double x, long double max, long double log_sum) {
  return (x - max) - (isinf(max) ? 0 : log_sum);
}
static long double define_logsumexp(long double x, long double max, long double log_sum) {
  (void)x;
  return isinf(max) ? max : max + log_sum;
}

static const function FUNCTIONS[] = {
    {"softmax", define_softmax, 0, false, offsetof(fsm_kernels, softmax)},
    {"log_softmax", define_log_softmax, -INFINITY, false, offsetof(fsm_kernels, log_softmax)},
    {"logsumexp", define_logsumexp, -INFINITY, true, offsetof(fsm_kernels, logsumexp)},
};

static uint32_t state = 12345;
static double uniform(void) {
  state = state * 1664525u + 1013904223u;
  return state / 4294967296.0;
}
static size_t below(size_t n) { return (size_t)(uniform() * (double)n); }

typedef struct {
  size_t outer, length, inner;
} shape;

static size_t size_of(shape s) { return s.outer * s.length * s.inner; }

/* Logits, mask and temperatures without regard to where they lie, and what is wanted of each
 * function. A mask or the temperatures may be shared along some axes, where they have extent 1. */
static struct {
  shape shape, mask_shape, temperature_shape;
  bool is_masked, is_tempered;
  double x[MOST_ELEMENTS], temperature[MOST_ELEMENTS];
  unsigned char mask[MOST_ELEMENTS];
  double wanted[LENGTH(FUNCTIONS)][MOST_ELEMENTS];
} problem;

/* Where (o, l, c) is in a C-contiguous array that may be shared along some axes. */
static size_t at(shape s, size_t o, size_t l, size_t c) {
  o = s.outer == 1 ? 0 : o;
  l = s.length == 1 ? 0 : l;
  c = s.inner == 1 ? 0 : c;
  return (o * s.length + l) * s.inner + c;
}

/* What is wanted of one slice. */
static void define(size_t o, size_t c) {
  static long double x[MOST_ELEMENTS];
  static bool takes_part[MOST_ELEMENTS];
  shape s = problem.shape;
  bool has_nan = false;
  size_t largest = s.length;
  for (size_t l = 0; l < s.length; l++) {
    x[l] = problem.x[at(s, o, l, c)];
    if (problem.is_tempered) x[l] /= problem.temperature[at(problem.temperature_shape, o, 0, c)];
    takes_part[l] = !problem.is_masked || problem.mask[at(problem.mask_shape, o, l, c)];
    has_nan |= takes_part[l] && isnan(x[l]);
    if (takes_part[l] && !(largest < s.length && x[l] <= x[largest])) largest = l;
  }
  long double max = has_nan ? NAN : largest < s.length ? x[largest] : -INFINITY, rest = 0;
  for (size_t l = 0; l < s.length; l++)
    if (takes_part[l] && l != largest) rest += expl(x[l] - max);
  long double log_sum = log1pl(rest);
  for (size_t f = 0; f < LENGTH(FUNCTIONS); f++) {
    const function *g = &FUNCTIONS[f];
    if (g->reduces)
      problem.wanted[f][o * s.inner + c] = (double)g->define(0, max, log_sum);
    else
      for (size_t l = 0; l < s.length; l++)
        problem.wanted[f][at(s, o, l, c)] =
            (double)(takes_part[l] ? g->define(x[l], max, log_sum) : g->absent);
  }
}

/* The mask varies along the length if bit 0 of `mask` is set, from slice to slice if bit 1 is; with
 * neither there is none. */
static void pose(shape s, const dtype *d, unsigned mask, bool is_tempered) {
  static const double not_finite[] = {INFINITY, -INFINITY, NAN};
  bool shares_temperature = below(2);
  problem.shape = s;
  problem.is_masked = mask != 0;
  problem.is_tempered = is_tempered;
  problem.mask_shape =
      (shape){mask & 2 ? s.outer : 1, mask & 1 ? s.length : 1, mask & 2 ? s.inner : 1};
  problem.temperature_shape =
      (shape){shares_temperature ? 1 : s.outer, 1, shares_temperature ? 1 : s.inner};
  for (size_t i = 0; i < size_of(s); i++) {
    double x;
    d->set(&x, 20 * uniform() - 10);
    problem.x[i] = d->get(&x);
  }
  if (size_of(s) && below(4) == 0) problem.x[below(size_of(s))] = not_finite[below(3)];
  for (size_t i = 0; i < size_of(problem.mask_shape); i++) problem.mask[i] = uniform() < 0.7;
  for (size_t i = 0; i < size_of(problem.temperature_shape); i++)
    problem.temperature[i] = 0.5 + uniform();
  for (size_t o = 0; o < s.outer; o++)
    for (size_t c = 0; c < s.inner; c++) define(o, c);
}

/* Memory between two forbidden pages. */
static unsigned char *fenced(void) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  unsigned char *p = mmap(NULL, REGION + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + page, REGION, PROT_READ | PROT_WRITE)) abort();
  return p + page;
}

/* How an array lies in such memory. */
typedef struct {
  size_t step;     /* from one element to the next */
  size_t gap;      /* elements between one row of `inner` and the next */
  size_t wide_gap; /* between one matrix and the next */
  bool is_reversed;
  bool at_end;   /* it ends near the page behind it, rather than beginning near the one before */
  size_t offset; /* elements from that page */
} layout;

typedef struct {
  shape shape;
  size_t itemsize;
  unsigned char *first, *from, *to; /* element (0, 0, 0); the bytes that are watched */
  ptrdiff_t outer, length, inner;   /* strides, in elements */
} array;

static unsigned char *element(const array *a, size_t o, size_t l, size_t c) {
  ptrdiff_t i = (ptrdiff_t)o * a->outer + (ptrdiff_t)l * a->length + (ptrdiff_t)c * a->inner;
  return a->first + i * (ptrdiff_t)a->itemsize;
}

static array place(unsigned char *region, shape s, size_t itemsize, const layout *y) {
  array a = {.shape = s, .itemsize = itemsize};
  a.inner = (ptrdiff_t)y->step;
  a.length = (ptrdiff_t)(s.inner * y->step + y->gap);
  a.outer = (ptrdiff_t)s.length * a.length + (ptrdiff_t)y->wide_gap;
  size_t extent = 0, before = 0; /* elements from the lowest to the highest, and to the first */
  if (size_of(s)) {
    size_t o = (s.outer - 1) * (size_t)a.outer, l = (s.length - 1) * (size_t)a.length;
    extent = o + l + (s.inner - 1) * y->step + 1;
    if (y->is_reversed) {
      before = o;
      a.outer = -a.outer;
      if (s.inner > 1) {
        before += l;
        a.length = -a.length;
      }
    }
  }
  size_t bytes = extent * itemsize, offset = y->offset * itemsize;
  if (bytes + offset > REGION) abort();
  unsigned char *lowest = y->at_end ? region + REGION - offset - bytes : region + offset;
  a.first = lowest + before * itemsize;
  a.from = lowest - region < MARGIN ? region : lowest - MARGIN;
  a.to = lowest + bytes + MARGIN;
  if (a.to > region + REGION) a.to = region + REGION;
  ALLOW(a.from, (size_t)(a.to - a.from));
  memset(a.from, CANARY, (size_t)(a.to - a.from));
  return a;
}

/* Forbid all that is watched but no element. */
static void forbid_surroundings(const array *a) {
  unsigned char *from = a->first, *to = a->first; /* elements without a gap */
  FORBID(a->from, (size_t)(a->to - a->from));
  for (size_t o = 0; o < a->shape.outer; o++)
    for (size_t l = 0; l < a->shape.length; l++)
      for (size_t c = 0; c < a->shape.inner; c++) {
        unsigned char *p = element(a, o, l, c);
        if (p != to) {
          ALLOW(from, (size_t)(to - from));
          from = p;
        }
        to = p + a->itemsize;
      }
  ALLOW(from, (size_t)(to - from));
}

/* One call. */
static const fsm_backend *backend;
static const dtype *of;
static const function *running;
static bool in_place;
static layout x_layout, out_layout, mask_layout, temperature_layout;

static void print_layout(const char *name, const layout *y) {
  fprintf(stderr, "  %s: %zu from the %s, step %zu, gaps %zu and %zu%s\n", name, y->offset,
          y->at_end ? "end" : "beginning", y->step, y->gap, y->wide_gap,
          y->is_reversed ? ", reversed" : "");
}

static void print_call(void) {
  shape s = problem.shape;
  fprintf(stderr, "%s of %s on %s, shape (%zu, %zu, %zu)%s\n", running->name, of->name,
          backend->name, s.outer, s.length, s.inner, in_place ? ", in place" : "");
  print_layout("x", &x_layout);
  if (!in_place) print_layout("out", &out_layout);
  if (problem.is_masked) print_layout("where", &mask_layout);
  if (problem.is_tempered) print_layout("temperature", &temperature_layout);
}

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  print_call();
  exit(1);
}

static bool is_close(double got, double wanted) {
  if (isnan(wanted) || isinf(wanted)) return isnan(wanted) ? isnan(got) : got == wanted;
  double magnitude = fabs(wanted) + (running->reduces ? 1 : 0);
  return fabs(got - wanted) <= of->tolerance * magnitude + of->smallest;
}

/* NULL if the backend has none. */
static const fsm_kernels *kernels_of(const dtype *d) {
  const fsm_kernels *kernels;
  memcpy(&kernels, (const char *)backend + d->kernels, sizeof kernels);
  return kernels;
}

/* A team of one, which no kernel can tell from several: the parts of long slices, last to first. */
static void backwards(void *team, fsm_task *task, void *work, int parts) {
  (void)team;
  while (parts-- > 0) task(work, parts, 0);
}

static void check(void) {
  static unsigned char *x_region, *out_region, *mask_region, *temperature_region, *copy;
  if (!x_region) {
    x_region = fenced();
    out_region = fenced();
    mask_region = fenced();
    temperature_region = fenced();
    copy = malloc(REGION);
  }
  shape s = problem.shape, results = running->reduces ? (shape){s.outer, 1, s.inner} : s;
  array x = place(x_region, s, of->size, &x_layout), out = x;
  if (!in_place) out = place(out_region, results, of->size, &out_layout);
  for (size_t o = 0; o < s.outer; o++)
    for (size_t l = 0; l < s.length; l++)
      for (size_t c = 0; c < s.inner; c++) of->set(element(&x, o, l, c), problem.x[at(s, o, l, c)]);
  size_t watched = (size_t)(x.to - x.from);
  memcpy(copy, x.from, watched);
  forbid_surroundings(&x);
  if (!in_place) forbid_surroundings(&out);

  fsm_slices slices = {.outer = s.outer, .length = s.length, .inner = s.inner};
  slices.x = x.first;
  slices.x_outer = x.outer;
  slices.x_length = x.length;
  slices.out = out.first;
  slices.out_outer = out.outer;
  slices.out_length = out.length;
  if (problem.is_masked) {
    shape m = problem.mask_shape;
    array mask = place(mask_region, m, 1, &mask_layout);
    const unsigned char *takes_part = problem.mask;
    for (size_t o = 0; o < m.outer; o++)
      for (size_t l = 0; l < m.length; l++)
        for (size_t c = 0; c < m.inner; c++) *element(&mask, o, l, c) = *takes_part++;
    forbid_surroundings(&mask);
    slices.where = mask.first;
    slices.where_outer = m.outer > 1 ? mask.outer : 0;
    slices.where_length = m.length > 1 ? mask.length : 0;
    slices.where_inner = m.inner > 1 ? mask.inner : 0;
  }
  if (problem.is_tempered) {
    shape t = problem.temperature_shape;
    array temperature = place(temperature_region, t, sizeof(double), &temperature_layout);
    const double *value = problem.temperature;
    for (size_t o = 0; o < t.outer; o++)
      for (size_t c = 0; c < t.inner; c++) *(double *)element(&temperature, o, 0, c) = *value++;
    forbid_surroundings(&temperature);
    slices.temperature = (const double *)temperature.first;
    slices.temperature_outer = t.outer > 1 ? temperature.outer : 0;
    slices.temperature_inner = t.inner > 1 ? temperature.inner : 0;
  }

  if (below(2)) slices.each = backwards;

  const fsm_kernels *kernels = kernels_of(of);
  fsm_kernel *kernel;
  memcpy(&kernel, (const char *)kernels + running->kernel, sizeof kernel);
  kernel(&slices);

  /* Take each result away: what is left is what the kernel had no right to change. */
  ALLOW(x.from, watched);
  ALLOW(out.from, (size_t)(out.to - out.from));
  const double *wanted = problem.wanted[running - FUNCTIONS];
  for (size_t o = 0; o < results.outer; o++)
    for (size_t l = 0; l < results.length; l++)
      for (size_t c = 0; c < results.inner; c++) {
        unsigned char *y = element(&out, o, l, c);
        double got = of->get(y);
        if (!is_close(got, *wanted)) {
          fprintf(stderr, "(%zu, %zu, %zu) is %.17g instead of %.17g\n", o, l, c, got, *wanted);
          fail("a wrong result");
        }
        wanted++;
        memset(y, CANARY, of->size);
      }
  for (const unsigned char *p = out.from; p < out.to; p++)
    if (*p != CANARY) fail("a byte beside the results has changed");
  if (!in_place && memcmp(copy, x.from, watched)) fail("the input has changed");
}

/* Unit stride along inner, or along length where inner is 1, unless the array may have any. */
static layout draw_layout(bool unit_stride, bool at_end, size_t offset) {
  layout y = {.step = 1, .at_end = at_end, .offset = offset};
  if (!unit_stride) y.step += below(2);
  if (!unit_stride || problem.shape.inner > 1) y.gap = below(2) * (1 + below(5));
  y.wide_gap = below(2) * (1 + below(5));
  y.is_reversed = below(4) == 0;
  return y;
}

/* The kernels of one dtype on the problem that is posed: at both ends of the memory, there at the
 * very end and some elements from it, as many for x as `turn` says. Returns the number of calls. */
static size_t check_all(const fsm_backend *(*backend_at)(size_t), const dtype *d, size_t turn) {
  size_t calls = 0;
  of = d;
  for (size_t b = 0; (backend = backend_at(b)); b++)
    for (running = FUNCTIONS; running < FUNCTIONS + LENGTH(FUNCTIONS); running++) {
      if (!kernels_of(d) || (running->reduces && problem.is_tempered)) continue;
      for (unsigned place = 0; place < 4; place++, calls++) {
        bool at_end = place & 1, is_apart = place & 2;
        x_layout = draw_layout(true, at_end, is_apart ? 1 + (turn + at_end) % MOST_LANES : 0);
        out_layout = draw_layout(true, at_end, is_apart ? below(MOST_LANES + 1) : 0);
        mask_layout = draw_layout(false, at_end, is_apart ? below(MOST_LANES + 1) : 0);
        temperature_layout = draw_layout(false, at_end, is_apart ? below(MOST_LANES + 1) : 0);
        in_place = !running->reduces && below(3) == 0;
        check();
      }
    }
  return calls;
}

/* The calls about decisions, losses and gradients, on finite logits. */

typedef enum { X, OTHER, WHERE, LABEL, WEIGHT, OUT, HESS, SLICES, VALUES, INDEX, ROLES } role;

static const size_t MEMBERS[ROLES] = {
    offsetof(fsm_call, x),     offsetof(fsm_call, other),  offsetof(fsm_call, where),
    offsetof(fsm_call, label), offsetof(fsm_call, weight), offsetof(fsm_call, out),
    offsetof(fsm_call, hess),  offsetof(fsm_call, slices), offsetof(fsm_call, values),
    offsetof(fsm_call, index),
};

/* What there is to give, and what is wanted, in C order; and the shapes. */
static struct {
  shape shapes[ROLES];
  double elements[ROLES][MOST_ELEMENTS];
  size_t k;
  bool log;
  double smoothing, scale, sign; /* the latter of weights, which do not cancel */
} posed;

/* A slice of the problem, its shares, and their logarithms. */
static struct {
  long double x[MOST_ELEMENTS], share[MOST_ELEMENTS], log_share[MOST_ELEMENTS], log_sum;
  bool takes_part[MOST_ELEMENTS];
  size_t o, c, length;
} row;

static double *posed_at(role r, size_t l) {
  return &posed.elements[r][at(posed.shapes[r], row.o, l, row.c)];
}

static void want_softmax_logsumexp(void) {
  for (size_t l = 0; l < row.length; l++)
    *posed_at(OUT, l) = row.takes_part[l] ? (double)row.share[l] : 0;
  *posed_at(SLICES, 0) = (double)row.log_sum;
}

static void want_top_k(void) {
  static bool is_taken[MOST_ELEMENTS];
  memset(is_taken, 0, sizeof is_taken);
  for (size_t i = 0; i < posed.k; i++) {
    size_t best = row.length;
    for (size_t l = 0; l < row.length; l++)
      if (!is_taken[l] && (best == row.length || row.x[l] > row.x[best])) best = l;
    is_taken[best] = true;
    *posed_at(INDEX, i) = (double)best;
    if (posed.shapes[VALUES].length)
      *posed_at(VALUES, i) = (double)(posed.log ? row.log_share[best] : row.share[best]);
    else
      *posed_at(SLICES, 0) = (double)row.share[best];
  }
}

/* A label may be -1 or past the last class, and is none then. */
static bool has_label(void) {
  double label = *posed_at(LABEL, 0);
  return label >= 0 && label < (double)row.length;
}

static void want_loss(long double (*target)(size_t l)) {
  long double loss = 0, total = 0;
  bool is_ignored = posed.shapes[LABEL].length && !has_label();
  for (size_t l = 0; l < row.length; l++) total += target(l);
  for (size_t l = 0; l < row.length; l++) {
    if (target(l) != 0) loss -= target(l) * row.log_share[l];
    long double grad = (row.share[l] * total - target(l)) * posed.scale;
    *posed_at(OUT, l) = is_ignored ? 0 : (double)grad;
  }
  *posed_at(SLICES, 0) = is_ignored ? 0 : (double)loss;
}
static long double part_of(long double target, size_t l) {
  long double part = target * (1 - posed.smoothing) + posed.smoothing / (double)row.length;
  return part * posed.elements[WEIGHT][l];
}
static long double label_part(size_t l) { return part_of(*posed_at(LABEL, 0) == (double)l, l); }
static long double given_part(size_t l) { return part_of(*posed_at(OTHER, l), l); }
static void want_loss_of_label(void) { want_loss(label_part); }
static void want_loss_of_probabilities(void) { want_loss(given_part); }

/* Logits do as log-probabilities. */
static void want_nll(void) {
  size_t label = (size_t)*posed_at(LABEL, 0);
  *posed_at(SLICES, 0) = !has_label() ? 0 : -posed.elements[WEIGHT][label] * *posed_at(X, label);
}

static void want_grad_hess(void) {
  for (size_t l = 0; l < row.length; l++) {
    long double share = row.share[l], weight = *posed_at(WEIGHT, 0);
    *posed_at(OUT, l) = (double)(weight * (share - (*posed_at(LABEL, 0) == (double)l)));
    *posed_at(HESS, l) = (double)(weight * posed.scale * share * (1 - share));
  }
}

static void want_backward(bool of_log) {
  long double sum = 0;
  for (size_t l = 0; l < row.length; l++) sum += *posed_at(OTHER, l) * (of_log ? 1 : row.x[l]);
  for (size_t l = 0; l < row.length; l++) {
    long double grad = *posed_at(OTHER, l), y = row.x[l];
    *posed_at(OUT, l) = (double)(of_log ? grad - expl(y) * sum : y * (grad - sum));
  }
}
static void want_softmax_backward(void) { want_backward(false); }
static void want_log_softmax_backward(void) { want_backward(true); }

static void want_weighted_logsumexp(void) {
  long double sum = 0;
  for (size_t l = 0; l < row.length; l++) sum += *posed_at(OTHER, l) * row.share[l];
  *posed_at(SLICES, 0) = (double)(row.log_sum + logl(fabsl(sum)));
  *posed_at(INDEX, 0) = (sum > 0) - (sum < 0);
}

#define HAS(r) (1u << (r))
#define HAS_LOSS HAS(WEIGHT) | HAS(OUT) | HAS(SLICES)
typedef struct {
  const char *name;
  unsigned roles;
  void (*want)(void);
  size_t kernel; /* where in fsm_kernels */
} call_function;
static const call_function CALLS[] = {
    {"predict", HAS(SLICES) | HAS(INDEX), want_top_k, offsetof(fsm_kernels, predict)},
    {"top_k", HAS(VALUES) | HAS(INDEX), want_top_k, offsetof(fsm_kernels, top_k)},
    {"softmax_logsumexp", HAS(WHERE) | HAS(OUT) | HAS(SLICES), want_softmax_logsumexp,
     offsetof(fsm_kernels, softmax_logsumexp)},
    {"cross_entropy_labels", HAS(LABEL) | HAS_LOSS, want_loss_of_label,
     offsetof(fsm_kernels, cross_entropy_labels)},
    {"cross_entropy_probabilities", HAS(OTHER) | HAS_LOSS, want_loss_of_probabilities,
     offsetof(fsm_kernels, cross_entropy_probabilities)},
    {"nll_loss", HAS(LABEL) | HAS(WEIGHT) | HAS(SLICES), want_nll, offsetof(fsm_kernels, nll_loss)},
    {"softmax_grad_hess", HAS(LABEL) | HAS(WEIGHT) | HAS(OUT) | HAS(HESS), want_grad_hess,
     offsetof(fsm_kernels, softmax_grad_hess)},
    {"softmax_backward", HAS(OTHER) | HAS(OUT), want_softmax_backward,
     offsetof(fsm_kernels, softmax_backward)},
    {"log_softmax_backward", HAS(OTHER) | HAS(OUT), want_log_softmax_backward,
     offsetof(fsm_kernels, log_softmax_backward)},
    {"weighted_logsumexp", HAS(OTHER) | HAS(SLICES) | HAS(INDEX), want_weighted_logsumexp,
     offsetof(fsm_kernels, weighted_logsumexp)},
};
static const call_function *calling;

static bool is_backward(void) {
  return calling->want == want_softmax_backward || calling->want == want_log_softmax_backward;
}
static bool weighs_elements(void) { return calling->want == want_weighted_logsumexp; }
static bool weighs_samples(void) { return calling->want == want_grad_hess; }
static bool is_double(role r) { return r == WEIGHT || (r == SLICES && calling->want == want_nll); }

static double draw(role r, const dtype *d, size_t length) {
  double value;
  if (r == WHERE) return uniform() < 0.7;
  if (r == LABEL && below(8) == 0) return below(2) ? -1 : (double)length;
  if (r == LABEL) return (double)below(length);
  if (r == WEIGHT) return 0.5 + uniform();
  d->set(&value, 20 * uniform() - 10);
  if (r == OTHER) d->set(&value, is_backward() ? (2 * uniform() - 1) / (double)length : uniform());
  if (r == OTHER && weighs_elements()) d->set(&value, (double)below(4) * posed.sign * uniform());
  if (r == X && calling->want == want_softmax_backward) d->set(&value, uniform() / (double)length);
  if (r == X && calling->want == want_log_softmax_backward) d->set(&value, -10 * uniform());
  return d->get(&value);
}

static void pose_call(shape s, const dtype *d) {
  unsigned roles = calling->roles | HAS(X);
  shape one = {s.outer, 1, s.inner};
  posed.k = roles & HAS(VALUES) ? 1 + below(s.length < 20 ? s.length : 20) : 1;
  posed.log = below(2);
  posed.smoothing = below(2) ? 0 : 0.125;
  posed.scale = 0.5;
  posed.sign = below(2) ? 1 : -1;
  for (role r = X; r < ROLES; r++) {
    shape of_role = s;
    if (r == LABEL || r == SLICES) of_role = one;
    if (r == WEIGHT) of_role = weighs_samples() ? one : (shape){1, 1, s.length};
    if (r == VALUES || r == INDEX) of_role.length = posed.k;
    posed.shapes[r] = roles & HAS(r) ? of_role : (shape){0, 0, 0};
    for (size_t i = 0; i < size_of(posed.shapes[r]); i++)
      posed.elements[r][i] = draw(r, d, s.length);
  }
  row.length = s.length;
  for (row.o = 0; row.o < s.outer; row.o++)
    for (row.c = 0; row.c < s.inner; row.c++) {
      long double max = -INFINITY, sum = 0;
      for (size_t l = 0; l < s.length; l++) {
        row.x[l] = *posed_at(X, l);
        row.takes_part[l] = !(roles & HAS(WHERE)) || *posed_at(WHERE, l) != 0;
        if (row.takes_part[l] && row.x[l] > max) max = row.x[l];
      }
      for (size_t l = 0; l < s.length; l++)
        if (row.takes_part[l]) sum += expl(row.x[l] - max);
      row.log_sum = sum > 0 ? max + logl(sum) : max;
      for (size_t l = 0; l < s.length; l++) {
        row.log_share[l] = row.x[l] - row.log_sum;
        row.share[l] = expl(row.log_share[l]);
      }
      calling->want();
    }
}

static void set_element(role r, unsigned char *p, double value) {
  int64_t label = (int64_t)value;
  if (r == WHERE)
    *p = (unsigned char)value;
  else if (r == LABEL)
    memcpy(p, &label, sizeof label);
  else if (is_double(r))
    *(double *)p = value;
  else
    of->set(p, value);
}

static bool is_wanted(role r, const unsigned char *p, double wanted) {
  if (r == INDEX) return (double)*(const ptrdiff_t *)p == wanted;
  double got = is_double(r) ? *(const double *)p : of->get(p);
  if (isinf(wanted)) return got == wanted;
  return fabs(got - wanted) <= of->tolerance * (fabs(wanted) + 1);
}

static void print_wrong_call(void) {
  shape s = posed.shapes[X];
  fprintf(stderr, "%s of %s on %s, shape (%zu, %zu, %zu), k %zu, smoothing %g\n", calling->name,
          of->name, backend->name, s.outer, s.length, s.inner, posed.k, posed.smoothing);
}

static void fail_call(const char *what, role r) {
  fprintf(stderr, "%s: array %d\n", what, (int)r);
  print_wrong_call();
  exit(1);
}

static void check_call(bool at_end, bool is_apart) {
  static unsigned char *regions[ROLES], *copies[ROLES], *scratch;
  array arrays[ROLES] = {0};
  shape s = posed.shapes[X];
  fsm_call call = {.outer = s.outer, .length = s.length, .inner = s.inner};
  for (role r = X; r < ROLES; r++) {
    if (!size_of(posed.shapes[r])) continue;
    if (!regions[r]) {
      regions[r] = fenced();
      copies[r] = malloc(REGION);
    }
    bool is_unit = r == X || r == OTHER || r == OUT || r == HESS;
    size_t size = r == WHERE ? 1 : r == LABEL || is_double(r) || r == INDEX ? 8 : of->size;
    layout y = draw_layout(is_unit || (r == WEIGHT && !weighs_samples()), at_end,
                           is_apart ? below(MOST_LANES + 1) : 0);
    if (r == WEIGHT) y.is_reversed = false;
    array a = arrays[r] = place(regions[r], posed.shapes[r], size, &y);
    const double *value = posed.elements[r];
    for (size_t o = 0; r < OUT && o < a.shape.outer; o++)
      for (size_t l = 0; l < a.shape.length; l++)
        for (size_t c = 0; c < a.shape.inner; c++) set_element(r, element(&a, o, l, c), *value++);
    memcpy(copies[r], a.from, (size_t)(a.to - a.from));
    forbid_surroundings(&a);
    fsm_array argument = {a.first, a.outer, a.length, a.inner};
    memcpy((char *)&call + MEMBERS[r], &argument, sizeof argument);
  }
  call.k = posed.k;
  call.log = posed.log;
  call.label_smoothing = posed.smoothing;
  call.scale = posed.scale;
  if (s.inner > 1) {
    if (!scratch) scratch = fenced();
    call.scratch = scratch + REGION - fsm_scratch(&call) * of->size;
  }

  const fsm_kernels *kernels = kernels_of(of);
  fsm_call_kernel *kernel;
  memcpy(&kernel, (const char *)kernels + calling->kernel, sizeof kernel);
  kernel(&call);

  for (role r = X; r < ROLES; r++) {
    array a = arrays[r];
    if (!a.first) continue;
    ALLOW(a.from, (size_t)(a.to - a.from));
    if (r < OUT) {
      if (memcmp(copies[r], a.from, (size_t)(a.to - a.from))) fail_call("an input has changed", r);
      continue;
    }
    const double *wanted = posed.elements[r];
    for (size_t o = 0; o < a.shape.outer; o++)
      for (size_t l = 0; l < a.shape.length; l++)
        for (size_t c = 0; c < a.shape.inner; c++) {
          unsigned char *p = element(&a, o, l, c);
          if (!is_wanted(r, p, *wanted)) fail_call("a wrong result", r);
          wanted++;
          memset(p, CANARY, a.itemsize);
        }
    for (const unsigned char *p = a.from; p < a.to; p++)
      if (*p != CANARY) fail_call("a byte beside the results has changed", r);
  }
}

static size_t check_calls(const fsm_backend *(*backend_at)(size_t), shape s, const dtype *d) {
  size_t calls = 0;
  of = d;
  problem.shape = s; /* for draw_layout */
  for (calling = CALLS; calling < CALLS + LENGTH(CALLS); calling++) {
    pose_call(s, d);
    for (size_t b = 0; (backend = backend_at(b)); b++)
      for (unsigned place = 0; place < 4; place++, calls++) check_call(place & 1, place & 2);
  }
  return calls;
}

static array converted(unsigned char *region, size_t itemsize) {
  array a = place(region, problem.shape, itemsize, &x_layout);
  forbid_surroundings(&a);
  return a;
}

static void check_surroundings(const array *a) {
  unsigned char *end = a->first + a->shape.length * a->itemsize;
  ALLOW(a->from, (size_t)(a->to - a->from));
  for (const unsigned char *p = a->from; p < a->to; p++)
    if ((p < a->first || p >= end) && *p != CANARY) fail("a byte beside the results has changed");
}

/* Words of 16 bits to float, which is exact, and back. */
static void check_conversion(unsigned char *const regions[3]) {
  array words = converted(regions[0], of->size), floats = converted(regions[1], sizeof(float));
  array again = converted(regions[2], of->size);
  size_t length = problem.shape.length;
  for (size_t l = 0; l < length; l++) {
    uint16_t word = (uint16_t)below(1 << 16);
    memcpy(element(&words, 0, l, 0), &word, sizeof word);
  }
  kernels_of(of)->to_float(words.first, (float *)floats.first, length);
  kernels_of(of)->from_float((const float *)floats.first, again.first, length);
  for (size_t l = 0; l < length; l++) {
    const unsigned char *word = element(&words, 0, l, 0), *back = element(&again, 0, l, 0);
    double wanted = of->get(word), got = get_float32(element(&floats, 0, l, 0));
    if (isnan(wanted) ? !isnan(got) || !isnan(of->get(back)) : got != wanted)
      fail("a wrong conversion");
    if (!isnan(wanted) && memcmp(word, back, of->size)) fail("a wrong conversion back");
  }
  check_surroundings(&floats);
  check_surroundings(&again);
}

static size_t check_conversions(const fsm_backend *(*backend_at)(size_t)) {
  static const function conversion = {.name = "conversion"};
  unsigned char *const regions[] = {fenced(), fenced(), fenced()};
  size_t calls = 0;
  running = &conversion;
  for (of = DTYPES; of < DTYPES + LENGTH(DTYPES); of++)
    for (size_t b = 0; of->size == sizeof(uint16_t) && (backend = backend_at(b)); b++)
      for (size_t length = 0; kernels_of(of) && length <= MOST_BLOCK; length++)
        for (unsigned place = 0; place < 4; place++, calls += 2) {
          problem.shape = (shape){1, length, 1};
          x_layout = (layout){.step = 1, .at_end = place & 1};
          if (place & 2) x_layout.offset = 1 + below(MOST_LANES);
          check_conversion(regions);
        }
  return calls;
}

/* The sum of numbers that cancel: of each and its opposite, and a 1. */
static void check_sum(unsigned char *region) {
  array numbers = converted(region, of->size);
  size_t length = problem.shape.length;
  for (size_t l = 0; l < length; l++) {
    double value = l == 0 ? 1 : l % 2 ? ldexp(1 + uniform(), 60) : 0;
    unsigned char *place = element(&numbers, 0, l, 0);
    of->set(place, value);
    if (l > 0 && l % 2 == 0) of->set(place, -of->get(element(&numbers, 0, l - 1, 0)));
  }
  double last = length > 1 && length % 2 == 0 ? of->get(element(&numbers, 0, length - 1, 0)) : 0;
  double got = kernels_of(of)->sum(numbers.first, length);
  ALLOW(numbers.from, (size_t)(numbers.to - numbers.from));
  if (got != (length > 0) + last) fail("a wrong sum");
}

static size_t check_sums(const fsm_backend *(*backend_at)(size_t)) {
  static const function sum = {.name = "sum"};
  unsigned char *region = fenced();
  size_t calls = 0;
  running = &sum;
  for (of = DTYPES; of < DTYPES + LENGTH(DTYPES); of++)
    for (size_t b = 0; of->size > sizeof(uint16_t) && (backend = backend_at(b)); b++)
      for (size_t length = 0; length <= MOST_BLOCK; length++)
        for (unsigned place = 0; place < 4; place++, calls++) {
          problem.shape = (shape){1, length, 1};
          x_layout = (layout){.step = 1, .at_end = place & 1};
          if (place & 2) x_layout.offset = 1 + below(MOST_LANES);
          check_sum(region);
        }
  return calls;
}

/* With and without a mask, of each kind, and temperatures; each of these problems with a
 * probability of `share`. Between them they put x at every offset; those without temperatures, at
 * half of them. */
static size_t check_shape(const fsm_backend *(*backend_at)(size_t), shape s, double share) {
  size_t calls = 0;
  for (size_t d = 0; d < LENGTH(DTYPES); d++)
    for (unsigned options = 0; options < 8; options++) {
      if (uniform() >= share) continue;
      pose(s, &DTYPES[d], options & 3, options & 4);
      calls += check_all(backend_at, &DTYPES[d], 2 * options + s.length);
    }
  for (size_t d = 0; d < LENGTH(DTYPES) && DTYPES[d].size > sizeof(uint16_t); d++)
    if (size_of(s) && uniform() < share) calls += check_calls(backend_at, s, &DTYPES[d]);
  return calls;
}

/* Returns the number of calls. */
size_t guard(const fsm_backend *(*backend_at)(size_t), double share) {
  static const size_t outers[] = {1, 2, 3, MOST_LANES + 2};
  /* Of columns: around the vector widths, half a tile and a tile. */
  static const size_t widths[] = {2,  3,  4,  5,  6,   7,   8,   9,   10,  11,  12,
                                  13, 14, 15, 16, 17,  24,  31,  32,  33,  47,  48,
                                  49, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300};
  /* Around the blocks of rows, and the lengths from which rows are fused. */
  static const size_t heights[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  15,
                                   16, 17, 31, 32, 33, 34, 47, 48, 63, 64, 100};
  static const shape large[] = {{1, 100003, 1},
                                {2, 40009, 1},
                                {45, 503, 1},
                                {21, 1021, 1},
                                {2, 503, 67},
                                {1, 523, 10},
                                {1, 50, 1031},
                                {3, 5003, 1},
                                {1, FSM_LONG, 1},
                                {1, FSM_LONG + 70001, 1},
                                {1, FSM_LONG / 10 + 7, 10},
                                {1, FSM_LONG / 67 + 5, 67},
                                {1, FSM_LONG / FSM_NARROW, FSM_NARROW}};
  size_t calls = check_conversions(backend_at) + check_sums(backend_at);
  for (size_t i = 0; i < LENGTH(outers); i++)
    for (size_t length = 0; length <= 2 * MOST_BLOCK + 3; length++)
      calls += check_shape(backend_at, (shape){outers[i], length, 1}, share);
  for (size_t i = 0; i < LENGTH(widths); i++)
    for (size_t k = 0; k < LENGTH(heights); k++)
      if (heights[k] * widths[i] <= MOST_OF_TABLE)
        calls += check_shape(backend_at, (shape){1 + below(2), heights[k], widths[i]}, share);
  for (size_t i = 0; i < LENGTH(large); i++) calls += check_shape(backend_at, large[i], share);
  return calls;
}

#ifdef GUARD_PROGRAM
int main(int count, char **arguments) {
  __sanitizer_set_death_callback(print_call);
  double share = count > 1 ? atof(arguments[1]) : 1;
  if (!(share > 0 && share <= 1)) {
    fprintf(stderr, "%s is no share of the arrays\n", arguments[1]);
    return EXIT_FAILURE;
  }
  size_t calls = guard(fsm_backend_at, share);
  for (size_t b = 0; fsm_backend_at(b); b++) printf("%s ", fsm_backend_at(b)->name);
  printf("%zu calls without a mistake\n", calls);
}
#endif
