// Normalisation over the inner axes: (x − mean) / √(variance + ε), or x / √(mean square + ε). The variance is taken of the
// differences from the mean, which loses nothing to cancellation.

struct Row {
    typedef SumOf Join;
    static constexpr bool FIRST = CENTER;
    __device__ __forceinline__ static A start() { return 0; }
    __device__ __forceinline__ static A step(A sum, A x) { return CENTER ? sum + x : sum; }
    __device__ __forceinline__ static A finish(A sum, A count) { return CENTER ? sum / count : 0; }
    __device__ __forceinline__ static A map(A x, A mean) { return CENTER ? x - mean : x; }
    __device__ __forceinline__ static A term(A x) { return x * x; }
    __device__ __forceinline__ static A scale(A sum, A count) { return reciprocal_root(sum / count + (A)EPSILON); }
    __device__ __forceinline__ static A apply(A x, A scale) { return x * scale; }
};

KERNEL {
    ARGUMENTS
    if (VECTORS) ROWWISE(VEC) else ROWWISE(1)
}
