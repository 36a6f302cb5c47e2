// Reduction over the inner axes.
//
// The template prints the accumulator's type A, `initial`, `term` (what an element adds, given a shift), `Join` (how two
// accumulators meet) and `finish`. With SHIFTED, terms are exponentials relative to the largest element.

#define SCAN(WIDTH, STEP) { \
    constexpr int V = WIDTH; \
    _Pragma("unroll 4") \
    for (long long item = lane; item < COLUMNS / V; item += GROUP) { \
        INNER FETCH_X \
        _Pragma("unroll") \
        for (int v = 0; v < V; ++v) { \
            const auto x = VALUE(v); \
            STEP \
        } \
    } \
}

struct NanMaxOf {
    template <typename T> __device__ __forceinline__ static T join(T a, T b) { return nan_max(a, b); }
};

KERNEL {
    ARGUMENTS
    FOR_EACH_ROW {
        THIS_ROW
        A shift = 0;
#if SHIFTED
        A top = -INFINITE;
        if (VECTORS) SCAN(VEC, top = nan_max(top, (A)x);) else SCAN(1, top = nan_max(top, (A)x);)
        top = across<NanMaxOf>(top);
        // an infinite or undefined shift would leave ∞ − ∞
        shift = top - top == 0 ? top : 0;
#endif
        A sum = initial();
        if (VECTORS) SCAN(VEC, sum = Join::join(sum, term(x, shift));) else SCAN(1, sum = Join::join(sum, term(x, shift));)
        sum = across<Join>(sum);
        if (live && lane == 0) {
            const P reduced = finish(sum, shift, COLUMNS);
            STORE
        }
    }
}
