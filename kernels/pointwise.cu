// Elementwise functions of broadcast, strided operands.
//
// The template prints, for the operands at hand: the functions f0, f1, …; DECLARE (registers for ITEMS points of V
// elements each), LOCATE (position of item j), FETCH (load item j), STORE (compute and store item j), TOTAL, and VECTORS,
// the condition under which V elements along the last axis move in one instruction.

// V elements a thread and item; positions in Index, which is 32 bits wide where that is enough. All loads stand before
// the first use, so that they are in flight together.
#define WALK(WIDTH, INDEX) { \
    constexpr int V = WIDTH; \
    typedef INDEX Index; \
    const Index total = (Index)(TOTAL / V); \
    const Index step = (Index)gridDim.x * (THREADS * ITEMS); \
    _Pragma("unroll 1") \
    for (Index base = (Index)blockIdx.x * (THREADS * ITEMS) + threadIdx.x; base < total; base += step) { \
        DECLARE \
        _Pragma("unroll") \
        for (int j = 0; j < ITEMS; ++j) { \
            const Index item = base + j * THREADS; \
            if (item < total) { LOCATE FETCH } \
        } \
        _Pragma("unroll") \
        for (int j = 0; j < ITEMS; ++j) { \
            if (base + j * THREADS < total) { STORE } \
        } \
    } \
}

KERNEL {
    ARGUMENTS
    // tensors of 2³¹ elements and more are rare enough for one loop
    if (TOTAL >= (1ll << 31)) WALK(1, unsigned long long)
    else if (VECTORS) WALK(VEC, unsigned int)
    else WALK(1, unsigned int)
}
