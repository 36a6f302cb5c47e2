// Normalisation over the inner axes: (x − mean) / √(variance + ε), or x / √(mean square + ε). The variance is taken of the
// differences from the mean, which loses nothing to cancellation. REFINED: these are added up as well, and what the mean is off
// by is taken out of the variance and of the results.

template <bool> struct Statistics {
    typedef A Terms;
    typedef A Scale;
    __device__ __forceinline__ static A term(A x) { return x * x; }
    __device__ __forceinline__ static A scale(A sum, A count) { return reciprocal_root(sum / count + (A)EPSILON); }
    __device__ __forceinline__ static A apply(A x, A scale) { return x * scale; }
};
template <> struct Statistics<true> {
    typedef Both<A> Terms;
    typedef Both<A> Scale;
    __device__ __forceinline__ static Terms term(A x) { return {x * x, x}; }
    __device__ __forceinline__ static Scale scale(Terms sums, A count) {
        const A off = sums.second / count, variance = sums.first / count - off * off;
        const A scale = reciprocal_root(maximum(variance, (A)0) + (A)EPSILON);
        return {scale, -off * scale};
    }
    __device__ __forceinline__ static A apply(A x, Scale by) { return x * by.first + by.second; }
};

struct Row : Statistics<REFINED> {
    typedef SumOf Join;
    static constexpr bool FIRST = CENTER;
    __device__ __forceinline__ static A start() { return 0; }
    __device__ __forceinline__ static A finish(A sum, A count) { return CENTER ? sum / count : 0; }
    __device__ __forceinline__ static A map(A x, A mean) { return CENTER ? x - mean : x; }
};

KERNEL {
    ARGUMENTS
    if (VECTORS) ROWWISE(VEC) else ROWWISE(1)
}
