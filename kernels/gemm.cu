// y[…, m, n] = epilogue(Σₖ a[…, m, k] · b[…, k, n], e…[…, m, n])
//
// Or, with SUMS of 2, y[…, m, n / 2] of the sums of columns 2j and 2j + 1. Every engine hands over runs of whole pairs.
//
// Blocks walk over tiles of the result, a batch after the other and within a matrix in bands of eight tiles of rows, so
// that the operands of blocks that run together stay in the L2 cache.

// An operand in global memory: ROWS rows (of b: columns) from `origin` on, steps of the reduction from `step` on. `aligned` says that
// its address and the distances between matrices are multiples of a chunk, WHOLE that its lines are known to be.
template <int ROWS, typename T, Known ORDER, Known ALIGNED, bool WHOLE> struct Matrix {
    static constexpr bool spread = false;
    static constexpr int N = Chunk<T>::N;
    static constexpr Known BY_ROW = ORDER, VECTOR = ALIGNED;
    const T* base;
    const T* cursor;
    long long line_stride, stride, apart, advance;
    int lines, length, line, at;
    bool by_row, vector;

    __device__ __forceinline__ Matrix(const T* base, bool aligned, int origin, int rows, int k, int step, long long row_stride,
                                      long long step_stride)
        : base(base) {
        by_row = step_stride == 1 || row_stride != 1;
        line_stride = by_row ? row_stride : step_stride;
        stride = by_row ? step_stride : row_stride;
        lines = by_row ? rows : k;
        length = by_row ? k : rows;
        vector = aligned && stride == 1 && (line_stride % N == 0 || lines <= 1) && (ASYNC || length % N == 0);
        const Share<ROWS, N> first(0, by_row, spread);
        line = first.line_at(by_row, origin, step);
        at = first.at(by_row, origin, step);
        cursor = base + line * line_stride + at;
        apart = first.apart(by_row) * line_stride;
        advance = by_row ? BK : BK * line_stride;
    }
    __device__ __forceinline__ const T* address(int i, bool by_row, int& bytes) const {
        const int left = (length - at) * (int)sizeof(T);
        const bool there = i * Share<ROWS, N>::apart(by_row) < lines - line && left > 0;
        bytes = there ? (WHOLE || left > 16 ? 16 : left) : 0;
        return cursor + i * apart;
    }
    __device__ __forceinline__ void next() {
        cursor += advance;
        (by_row ? at : line) += BK;
    }
    __device__ __forceinline__ T element(int line, int at) const {
        return line < lines && at < length ? base[line * line_stride + at * stride] : zero<T>();
    }
};

// Whether a stride with this divisor can be 1: it is if the divisor is, and −1 says that nothing is known.
constexpr bool may_be_one(long long divisor) { return divisor == 1 || divisor == -1; }
// What is known of an operand's `by_row`, by the divisors of its strides.
constexpr Known order(long long row, long long step) {
    return step == 1 || !may_be_one(row) ? YES : row == 1 && !may_be_one(step) ? NO : OPEN;
}
// The same of `by_column` of the results.
constexpr Known order_of_results(long long row, long long column) {
    return column == 1 || !may_be_one(row) ? NO : row == 1 && !may_be_one(column) ? YES : OPEN;
}
// Whether its chunks can be copied whole, if the rest of what that takes is known to hold.
constexpr Known chunks(Known order, long long row, long long step, long long rows, long long k, int n, bool rest) {
    if (!rest || order == OPEN) return OPEN;
    const long long stride = order == YES ? step : row, line = order == YES ? row : step, length = order == YES ? k : rows;
    return stride == 1 && line % n == 0 && (ASYNC || length % n == 0) ? YES : OPEN;
}
// Whether lines are whole chunks of n elements.
constexpr bool whole(Known order, long long rows, long long k, int n) {
    return (order == YES ? k : order == NO ? rows : 1) % n == 0;
}
#define ORDER(v, ROWS, STEPS) order(ROWS##_DIVISOR(v), STEPS##_DIVISOR(v))
#define CHUNKS(v, T, ROWS, STEPS, rows) \
    chunks(ORDER(v, ROWS, STEPS), ROWS##_DIVISOR(v), STEPS##_DIVISOR(v), rows##_DIVISOR, k_DIVISOR, Chunk<T>::N, \
           KNOWN && BATCHES_DIVISIBLE(v, Chunk<T>::N))

// Where a tile lies: the first row and column of this block's part of it.
struct Place {
    int row, column;
    // The tiles of a cluster count as one.
    __device__ __forceinline__ Place(int tile, int tiles_m, int tiles_n) {
        constexpr int HEIGHT = 8;
        const int own = blockIdx.x % SHARERS;
        const int band = tile / (HEIGHT * tiles_n), first = band * HEIGHT;
        const int height = tiles_m - first < HEIGHT ? tiles_m - first : HEIGHT;
        tile -= band * HEIGHT * tiles_n;
        row = ((first + tile % height) * CLUSTER_M + own % CLUSTER_M) * BM;
        column = (tile / height * CLUSTER_N + own / CLUSTER_M) * BN;
    }
};

#define WHOLE_LINES(v, T, ROWS, STEPS, rows) whole(ORDER(v, ROWS, STEPS), rows##_DIVISOR, k_DIVISOR, Chunk<T>::N)
#define ALIGNED(v) (BATCHES_DIVISIBLE(v, (16 / (int)sizeof(*v))) && ROW_DIVISOR(v) % (16 / (int)sizeof(*v)) == 0)

KERNEL {
    ARGUMENTS
    SHARED(memory)
    const int tiles_m = ceil_div(m, BM * CLUSTER_M), tiles_n = ceil_div(n, BN * CLUSTER_N);
    const Steps steps(ceil_div(k, BK));
    // a tile has hundreds of results, so that 32 bits count them
    const int tiles = tiles_m * tiles_n, all = (int)(BATCHES * tiles);
    const bool by_column = COLUMN_STRIDE(y) != 1 && ROW_STRIDE(y) == 1;
    constexpr Known BY_COLUMN = order_of_results(ROW_DIVISOR(y), COLUMN_DIVISOR(y));
#if TMA
    // What the epilogue reads along the results' rows is brought to the level-2 cache while the tile is multiplied.
#define AHEAD(e) \
    if constexpr (COLUMN_DIVISOR(e) == 1 && ROW_DIVISOR(e) != 0 && ALIGNED(e)) \
        bring<BM>(e + BATCH_OFFSET(e) + at.row * ROW_STRIDE(e) + at.column / SUMS, ROW_STRIDE(e), m - at.row, minimum(BN, n - at.column) / SUMS);
    constexpr bool A_BY_ROW = ORDER(a, ROW, COLUMN) == YES;
    static_assert(CHUNKS(a, A_TYPE, ROW, COLUMN, m) == YES && ORDER(b, COLUMN, ROW) == YES && CHUNKS(b, B_TYPE, COLUMN, ROW, n) == YES &&
                      n_DIVISOR % 32 == 0,
                  "the maps are known to be there");
    // while others open the barriers
    const bool asks = threadIdx.x / 32 == COMPUTING / 32;
    if (asks) {
        acquire_map(a_map);
        acquire_map(b_map);
    }
    Operands operands(memory);
    if (threadIdx.x >= COMPUTING) {
        give_registers<FEW>();
        if (asks) {
            FOR_EACH_TILE(tile, all) {
                const Place at(tile, tiles_m, tiles_n);
                EXTRAS(AHEAD)
                for (int step = steps.first; step < steps.end; ++step) operands.load<A_BY_ROW>(a_map, b_map, at.row, at.column, step);
            }
            operands.stay();
        }
        return;
    }
    take_registers<FEW>();
#elif STREAMED
    static_assert(ORDER(a, ROW, COLUMN) == YES && CHUNKS(a, A_TYPE, ROW, COLUMN, m) == YES && ORDER(b, COLUMN, ROW) == YES &&
                      CHUNKS(b, B_TYPE, COLUMN, ROW, n) == YES && k_DIVISOR % 8 == 0,
                  "lines are whole chunks");
#else
    const bool aligned_a = IS_ALIGNED(Chunk<A_TYPE>::N, a) && BATCHES_ALIGNED(a, Chunk<A_TYPE>::N);
    const bool aligned_b = IS_ALIGNED(Chunk<B_TYPE>::N, b) && BATCHES_ALIGNED(b, Chunk<B_TYPE>::N);
#endif

    FOR_EACH_TILE(tile, all) {
        int batch = tile / tiles;
        const Place at(tile - batch * tiles, tiles_m, tiles_n);
        DECODE_BATCH(batch)
        const int row = at.row, column = at.column;

        Y_TYPE* const y_base = y + BATCH_OFFSET(y);

        auto put = [&](int r, int first, auto& v) {
            constexpr int RUN = sizeof(v) / sizeof(v[0]), N = RUN / SUMS;
            static_assert(RUN % SUMS == 0, "a run holds all sums of its results");
            int c = first / SUMS;
            const bool inside = r < m && first < n;
#if TMA
            // without a jump, what several runs of a thread read is asked for together
            r = inside ? r : 0;
            c = inside ? c : 0;
#else
            if (!inside) return;
#endif
            const int count = n / SUMS - c;
            // a run of eight begins at a multiple of eight
            constexpr bool WHOLE = KNOWN && RUN % 8 == 0 && n_DIVISOR % RUN == 0;
#define EXTRA(e) \
    READ_TYPE(e) v_##e[N]; \
    read_run<COLUMN_DIVISOR(e), WHOLE && ALIGNED(e)>(v_##e, e + BATCH_OFFSET(e) + r * ROW_STRIDE(e) + c * COLUMN_STRIDE(e), \
                                                     COLUMN_STRIDE(e), count);
            EXTRAS(EXTRA)
            RESULT_TYPE result[N];
#pragma unroll
            for (int j = 0; j < N; ++j) result[j] = EPILOGUE(v, j);
            if (inside) write_run<COLUMN_DIVISOR(y), WHOLE && ALIGNED(y)>(y_base + r * ROW_STRIDE(y) + c * COLUMN_STRIDE(y), result,
                                                              COLUMN_STRIDE(y), count);
        };

#if TMA
        float acc[STRIPS][STRIP_COLUMNS / 2] = {};
        operands.accumulate<A_TYPE, A_BY_ROW>(acc, memory, steps.end - steps.first);
        // registers of what the epilogue reads for a run of eight sums
#define READ(e) + (COLUMN_DIVISOR(e) == 0 ? 1 : 2 * (int)sizeof(*e) / SUMS)
        finish<0 EXTRAS(READ)>(acc, operands.sent, row, column, n - column, put);
#elif STREAMED
        float acc[STRIPS_N][STRIPS_M][4] = {};
        accumulate<A_TYPE>(acc, a + BATCH_OFFSET(a) + row * ROW_STRIDE(a), ROW_STRIDE(a), m - row,
                           b + BATCH_OFFSET(b) + column * COLUMN_STRIDE(b), COLUMN_STRIDE(b), n - column, k);
        finish(acc, memory, row, column, m - row, put);
#else
        Matrix<BM, A_TYPE, ORDER(a, ROW, COLUMN), CHUNKS(a, A_TYPE, ROW, COLUMN, m), WHOLE_LINES(a, A_TYPE, ROW, COLUMN, m)> from_a(
            a + BATCH_OFFSET(a), aligned_a, row, m, k, steps.first, ROW_STRIDE(a), COLUMN_STRIDE(a));
        Matrix<BN, B_TYPE, ORDER(b, COLUMN, ROW), CHUNKS(b, B_TYPE, COLUMN, ROW, n), WHOLE_LINES(b, B_TYPE, COLUMN, ROW, n)> from_b(
            b + BATCH_OFFSET(b), aligned_b, column, n, k, steps.first, COLUMN_STRIDE(b), ROW_STRIDE(b));
#if TENSOR_CORES
        float acc[STRIPS][STRIP_COLUMNS / 2] = {};
        accumulate<A_TYPE>(acc, memory, steps, from_a, from_b, row, column);
        finish<BY_COLUMN>(acc, memory, row, column, by_column, put);
#else
        const int group_m = by_column ? threadIdx.x % GROUPS_M : threadIdx.x / GROUPS_N;
        const int group_n = by_column ? threadIdx.x / GROUPS_M : threadIdx.x % GROUPS_N;
        ACC acc[TM][TN] = {};
        accumulate<A_TYPE, B_TYPE>(acc, memory, steps, from_a, from_b, row, column, group_m, group_n);
        finish(acc, row, column, group_m, group_n, put);
#endif
#endif
    }
}
