// Reduction over the inner axes.
//
// The template prints the accumulator's type A, `initial`, `term` (what an element adds, given a shift), `Join` (how two
// accumulators meet) and `finish`. With SHIFTED, terms are exponentials relative to the largest element.

#define SCAN(WIDTH, OP, START, TERM, total) { \
    constexpr int V = WIDTH; \
    for (long long item = lane; item < COLUMNS / V;) { \
        const long long end = minimum(COLUMNS / V, item + RUN * GROUP); \
        A run = START; \
        _Pragma("unroll 4") \
        for (; item < end; item += GROUP) { \
            INNER FETCH_X \
            run = OP::join(run, in_pairs<OP, V>([&](int v) -> A { \
                const auto x = VALUE(v); \
                return TERM; \
            })); \
        } \
        total = OP::join(total, run); \
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
        if (VECTORS) SCAN(VEC, NanMaxOf, -INFINITE, (A)x, top) else SCAN(1, NanMaxOf, -INFINITE, (A)x, top)
        top = across<NanMaxOf>(top);
        // an infinite or undefined shift would leave ∞ − ∞
        shift = top - top == 0 ? top : 0;
#endif
        A sum = initial();
        if (VECTORS) SCAN(VEC, Join, initial(), term(x, shift), sum) else SCAN(1, Join, initial(), term(x, shift), sum)
        sum = across<Join>(sum);
        if (live && lane == 0) {
            const P reduced = finish(sum, shift, COLUMNS);
            STORE
        }
    }
}
