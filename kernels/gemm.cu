// y[…, m, n] = epilogue(Σₖ a[…, m, k] · b[…, k, n], e…[…, m, n])
//
// Blocks walk over tiles of the result, a batch after the other and within a matrix in bands of eight tiles of rows, so
// that the operands of blocks that run together stay in the L2 cache.

// An operand in global memory: rows (of b: columns) and steps of the reduction.
template <typename T> struct Matrix {
    const T* base;
    long long line_stride, stride;
    int lines, length;
    bool by_row, vector;
    static constexpr bool spread = false;

    __device__ __forceinline__ Matrix(const T* base, int rows, int steps, long long row_stride, long long step_stride) : base(base) {
        by_row = step_stride == 1 || row_stride != 1;
        line_stride = by_row ? row_stride : step_stride;
        stride = by_row ? step_stride : row_stride;
        lines = by_row ? rows : steps;
        length = by_row ? steps : rows;
        vector = stride == 1 && (line_stride % Chunk<T>::N == 0 || lines <= 1) && ((unsigned long long)base & 15) == 0;
    }
    __device__ __forceinline__ const T* address(int, int line, int at, int& bytes) const {
        const int left = (length - at) * (int)sizeof(T);
        bytes = line < lines && left > 0 ? (left < 16 ? left : 16) : 0;
        return bytes > 0 ? base + line * line_stride + at : base;
    }
    __device__ __forceinline__ void gather(Chunk<T>& chunk, int, int line, int at) const {
        const T* p = base + line * line_stride + at * stride;
#pragma unroll
        for (int j = 0; j < Chunk<T>::N; ++j, p += stride) chunk.v[j] = line < lines && at + j < length ? *p : zero<T>();
    }
};

KERNEL {
    ARGUMENTS
    extern __shared__ uint4 memory[];
    const int tiles_m = ceil_div(m, BM), tiles_n = ceil_div(n, BN), steps = ceil_div(k, BK);
    const long long tiles = (long long)tiles_m * tiles_n, all = BATCHES * tiles;
    const bool by_column = COLUMN_STRIDE(y) != 1 && ROW_STRIDE(y) == 1;

    for (long long tile = blockIdx.x; tile < all; tile += gridDim.x) {
        long long batch = tile / tiles;
        long long rest = tile - batch * tiles;
        DECODE_BATCH(batch)
        const long long band = rest / (8ll * tiles_n);
        const int first = (int)band * 8, height = tiles_m - first < 8 ? tiles_m - first : 8;
        rest -= band * 8 * tiles_n;
        const int row = (first + (int)(rest % height)) * BM, column = (int)(rest / height) * BN;

        Y_TYPE* const y_base = y + BATCH_OFFSET(y);

        auto put = [&](int r, int c, auto& v) {
            constexpr int N = sizeof(v) / sizeof(v[0]);
            if (r >= m || c >= n) return;
            const int count = n - c;
#define EXTRA(e) \
    READ_TYPE(e) v_##e[N]; \
    read_run(v_##e, e + BATCH_OFFSET(e) + r * ROW_STRIDE(e) + c * COLUMN_STRIDE(e), COLUMN_STRIDE(e), count);
            EXTRAS(EXTRA)
            RESULT_TYPE result[N];
#pragma unroll
            for (int j = 0; j < N; ++j) result[j] = EPILOGUE(v[j], j);
            write_run(y_base + r * ROW_STRIDE(y) + c * COLUMN_STRIDE(y), result, COLUMN_STRIDE(y), count);
        };

        const Matrix<A_TYPE> from_a(a + BATCH_OFFSET(a), m, k, ROW_STRIDE(a), COLUMN_STRIDE(a));
        const Matrix<B_TYPE> from_b(b + BATCH_OFFSET(b), n, k, COLUMN_STRIDE(b), ROW_STRIDE(b));
#if TENSOR_CORES
        float acc[WARP_ROWS / 16][WARP_COLUMNS / 8][4] = {};
        accumulate<A_TYPE>(acc, memory, steps, from_a, from_b, row, column);
        finish(acc, memory, row, column, by_column, put);
#else
        const int group_m = by_column ? threadIdx.x % GROUPS_M : threadIdx.x / GROUPS_N;
        const int group_n = by_column ? threadIdx.x / GROUPS_M : threadIdx.x % GROUPS_N;
        ACC acc[TM][TN] = {};
        accumulate<A_TYPE, B_TYPE>(acc, memory, steps, from_a, from_b, row, column, group_m, group_n);
        finish(acc, row, column, group_m, group_n, put);
#endif
    }
}
