// Elementwise functions of broadcast, strided operands.
//
// The template prints, for the operands at hand: the functions f0, f1, …; READS (a macro for each operand: its number, name
// and type, where the element for item j lies, and its step along the last axis), POSITIONS (variables for those of N items),
// LOCATE (position of item j), STORE (compute and store item j), TOTAL, and VECTORS, the condition under which V elements
// along the last axis move in one instruction.
//
// With SPAN, which says that the innermost SPAN axes are known, vectors of WIDTH elements reach over those: STEPS_a
// positions of axis a. What an operand has for them lies in one aligned run of elements, which is loaded whole; every lane
// picks its own, by numbers that are known.

#ifdef SPAN
#define SPANNED(with, without) (with)
#else
#define SPANNED(with, without) (without)
#endif
// how far `steps` positions reach below the first of them and in all, and the run of elements for such a reach
__device__ constexpr long long below(long long steps, long long stride) { return stride < 0 ? (steps - 1) * stride : 0; }
__device__ constexpr long long reach(long long steps, long long stride) {
    return (steps - 1) * (stride < 0 ? -stride : stride);
}
__device__ constexpr int run_of(long long reach) {
    int run = 1;
    while (run <= reach) run *= 2;
    return run;
}

// V elements for each of N items
#define DECLARE(number, name, type, index, along) Pack<type, RUN_##name> name##_v[N];
#define FETCH(number, name, type, index, along) fetch(name##_v[j], name + (index + LOW_##name), SPANNED(1, along));

// V elements a thread and item; positions in Index, which is 32 bits wide where that is enough. This is block BLOCK of
// BLOCKS. All loads stand before the first use, so that they are in flight together.
#define WALK(WIDTH, INDEX, BLOCK, BLOCKS) { \
    constexpr int V = WIDTH, N = ITEMS; \
    typedef INDEX Index; \
    const Index total = (Index)(TOTAL / V); \
    const Index step = (Index)BLOCKS * (THREADS * ITEMS); \
    _Pragma("unroll 1") \
    for (Index base = (Index)BLOCK * (THREADS * ITEMS) + threadIdx.x; base < total; base += step) { \
        POSITIONS READS(DECLARE) \
        _Pragma("unroll") \
        for (int j = 0; j < ITEMS; ++j) { \
            const Index item = base + j * THREADS; \
            if (item < total) { LOCATE READS(FETCH) } \
        } \
        _Pragma("unroll") \
        for (int j = 0; j < ITEMS; ++j) { \
            if (base + j * THREADS < total) { STORE } \
        } \
    } \
}

// the same along the last axis; tensors of FAR elements and more are rare enough for one loop
#define FAR (1ll << 31)
#define WALK_LINES(BLOCK, BLOCKS) \
    if (TOTAL >= FAR) WALK(1, unsigned long long, BLOCK, BLOCKS) \
    else if (VECTORS) WALK(VEC, unsigned int, BLOCK, BLOCKS) \
    else WALK(1, unsigned int, BLOCK, BLOCKS)
