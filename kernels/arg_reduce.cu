// Position of the largest or smallest element of each row. NaN beats every number; of equal elements the first or the last
// is taken, so that the result does not hang on how a row is shared out.

__device__ __forceinline__ bool beats(A a, long long i, A b, long long j) {
    if (j < 0) return i >= 0;
    if (i < 0) return false;
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a != b) return LARGEST ? a > b : a < b;
    return SELECT_LAST ? i > j : i < j;
}

KERNEL {
    ARGUMENTS
    __shared__ A values[THREADS];
    __shared__ long long places[THREADS];
    FOR_EACH_ROW {
        THIS_ROW
        A best = 0;
        long long place = -1;
        for (long long i = lane; i < COLUMNS; i += GROUP) {
            const A x = (A)LOAD(i);
            if (beats(x, i, best, place)) {
                best = x;
                place = i;
            }
        }
        values[threadIdx.x] = best;
        places[threadIdx.x] = place;
        __syncthreads();
        constexpr int NEXT = APART ? GROUPS : 1;
        for (int d = GROUP / 2; d > 0; d /= 2) {
            if (lane < d) {
                const int other = threadIdx.x + d * NEXT;
                if (beats(values[other], places[other], values[threadIdx.x], places[threadIdx.x])) {
                    values[threadIdx.x] = values[other];
                    places[threadIdx.x] = places[other];
                }
            }
            __syncthreads();
        }
        if (live && lane == 0) *y_p = places[threadIdx.x];
        __syncthreads();
    }
}
