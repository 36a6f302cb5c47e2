// The k largest or smallest elements of each row, in order, and their positions.
//
// An element's place is the number of elements that come before it. Each thread counts for one element, against all others
// of the row in turn, staged in shared memory. That is quadratic work, but it needs no order between threads, is right for
// every k, and keeps equal elements in their order by construction. NaN comes before every number.

__device__ __forceinline__ bool comes_before(A a, long long i, A b, long long j) {
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a != b) return LARGEST ? a > b : a < b;
    return i < j;
}

KERNEL {
    ARGUMENTS
    __shared__ A stage[THREADS];
    const long long chunks = (COLUMNS + THREADS - 1) / THREADS;
    for (long long work = blockIdx.x; work < ROWS * chunks; work += gridDim.x) {
        const long long row = work / chunks;
        OUTER
        const long long i = work % chunks * THREADS + threadIdx.x;
        const bool live = i < COLUMNS;
        const A mine = live ? (A)LOAD(i) : (A)0;
        long long rank = 0;
        for (long long base = 0; base < COLUMNS; base += THREADS) {
            __syncthreads();
            if (base + threadIdx.x < COLUMNS) stage[threadIdx.x] = (A)LOAD(base + threadIdx.x);
            __syncthreads();
            const int count = COLUMNS - base < THREADS ? (int)(COLUMNS - base) : THREADS;
            int before = 0;
            #pragma unroll 8
            for (int j = 0; j < count; ++j) before += comes_before(stage[j], base + j, mine, i);
            rank += before;
        }
        if (live && rank < k) {
            store(y_p + rank * STRIDE, (P)mine);
            idx_p[rank * INDEX_STRIDE] = i;
        }
    }
}
