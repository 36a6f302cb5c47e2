// Softmax along the last axis: exp(x − max) / Σ exp(x − max), or its logarithm.

struct Row {
    typedef MaxOf Join;
    typedef A Terms;
    typedef A Scale;
    static constexpr bool FIRST = true;
    __device__ __forceinline__ static A start() { return -INFINITE; }
    __device__ __forceinline__ static A finish(A top, A) { return top; }
    __device__ __forceinline__ static A map(A x, A top) { return LOGARITHM ? x - top : exponential(x - top); }
    __device__ __forceinline__ static A term(A x) { return LOGARITHM ? exponential(x) : x; }
    __device__ __forceinline__ static A scale(A sum, A) { return LOGARITHM ? logarithm(sum) : 1 / sum; }
    __device__ __forceinline__ static A apply(A x, A scale) { return LOGARITHM ? x - scale : x * scale; }
};

KERNEL {
    ARGUMENTS
    if (VECTORS) ROWWISE(VEC) else ROWWISE(1)
}
