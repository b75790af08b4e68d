cdef extern from "fastsoftmax.h":
    ctypedef void fsm_each(void *, void *, void *, int) noexcept nogil

    ctypedef struct fsm_slices:
        size_t outer, length, inner
        const void *x
        ptrdiff_t x_outer, x_length
        void *out
        ptrdiff_t out_outer, out_length
        const double *temperature
        ptrdiff_t temperature_outer, temperature_inner
        const unsigned char *where
        ptrdiff_t where_outer, where_length, where_inner
        size_t elements, columns
        fsm_each *each

    ctypedef void fsm_kernel(const fsm_slices *) noexcept nogil

    ctypedef struct fsm_array:
        void *data
        ptrdiff_t outer, length, inner

    ctypedef struct fsm_call:
        size_t outer, length, inner
        fsm_array x, other, where, label, weight
        fsm_array out, hess, slices, values, index
        size_t k
        bint log
        double label_smoothing, scale
        void *scratch

    size_t fsm_scratch(const fsm_call *call) noexcept nogil

    ctypedef void fsm_call_kernel(const fsm_call *) noexcept nogil

    ctypedef struct fsm_kernels:
        fsm_kernel *softmax
        fsm_kernel *log_softmax
        fsm_kernel *logsumexp
        fsm_call_kernel *predict
        fsm_call_kernel *top_k
        fsm_call_kernel *softmax_logsumexp
        fsm_call_kernel *cross_entropy_labels
        fsm_call_kernel *cross_entropy_probabilities
        fsm_call_kernel *nll_loss
        fsm_call_kernel *softmax_grad_hess
        fsm_call_kernel *softmax_backward
        fsm_call_kernel *log_softmax_backward
        fsm_call_kernel *weighted_logsumexp
        double (*sum)(const void *, size_t) noexcept nogil
        void (*to_float)(const void *, float *, size_t) noexcept nogil
        void (*from_float)(const float *, void *, size_t) noexcept nogil

    ctypedef struct fsm_backend:
        const char *name
        const fsm_kernels *f32
        const fsm_kernels *f64
        const fsm_kernels *f16
        const fsm_kernels *bf16

    const fsm_backend *fsm_backend_at(size_t) noexcept nogil

    const size_t FSM_SHARE
    const int FSM_UNKNOWN_SIGN
    void fsm_run(fsm_kernel *, const fsm_slices *, size_t, int) noexcept nogil
    void fsm_run_call(fsm_call_kernel *, const fsm_call *, size_t, int) noexcept nogil
