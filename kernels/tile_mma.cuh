// The engine of mma.sync: 16-bit operands through ldmatrix, sums in f32. Warps share a tile as WARPS_M×WARPS_N, and each
// place among WARPS_K that take turns along a step.

#if TENSOR_CORES && !WGMMA && !STREAMED

constexpr int WARP_ROWS = BM / WARPS_M, STRIP_COLUMNS = BN / WARPS_N, STRIPS = WARP_ROWS / 16;

__device__ __forceinline__ int strip_row(int warp, int i) { return warp / WARPS_N * WARP_ROWS + i * 16; }
__device__ __forceinline__ int strip_column(int warp) { return warp % WARPS_N * STRIP_COLUMNS; }

// Chunks of a line are exchanged so that eight lines' chunks of one column fall into different banks.
template <int ROWS> __device__ __forceinline__ int slot(bool by_row, int line, int chunk) {
    const int chunks = (by_row ? BK : ROWS) / 8;
    const int lines = chunks >= 8 ? 1 : 8 / chunks, mask = chunks >= 8 ? 7 : chunks - 1;
    return line * chunks + (chunk ^ ((line / lines) & mask));
}

// The four 8×8 matrices of rows [row, row+16) and steps [k, k+16). For A they are ordered rows first, for B steps first,
// as mma wants them.
template <int ROWS>
__device__ __forceinline__ void matrices(unsigned int (&r)[4], const uint4* from, bool by_row, int row, int k, bool rows_first) {
    const int lane = threadIdx.x % 32;
    const int first = (lane / 8) % 2 * 8, second = lane / 16 * 8;
    row += rows_first ? first : second;
    k += rows_first ? second : first;
    const int line = (by_row ? row : k) + lane % 8, chunk = (by_row ? k : row) / 8;
    load_matrices(r, from + slot<ROWS>(by_row, line, chunk), !by_row);
}

template <typename T, typename LA, typename LB>
__device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], uint4* memory, Steps steps, LA& from_a,
                                           LB& from_b, int row, int column) {
    const int warp = threadIdx.x / 32 % (WARPS_M * WARPS_N), part = threadIdx.x / 32 / (WARPS_M * WARPS_N);
    const int warp_row = strip_row(warp, 0), warp_column = strip_column(warp);

    auto compute = [&](const uint4* stage) {
#pragma unroll
        for (int step = 0; step < BK / 16 / WARPS_K; ++step) {
            const int k = (step * WARPS_K + part) * 16;
            unsigned int fa[STRIPS][4];
#pragma unroll
            for (int i = 0; i < STRIPS; ++i) matrices<BM>(fa[i], stage, from_a.by_row, warp_row + i * 16, k, true);
#pragma unroll
            for (int j = 0; j < STRIP_COLUMNS / 16; ++j) {
                unsigned int fb[4];
                matrices<BN>(fb, stage + B_AT, from_b.by_row, warp_column + j * 16, k, false);
#pragma unroll
                for (int i = 0; i < STRIPS; ++i) {
                    multiply(acc[i] + 8 * j, fa[i], fb[0], fb[1], T());
                    multiply(acc[i] + 8 * j + 4, fa[i], fb[2], fb[3], T());
                }
            }
        }
    };

#if ASYNC
    constexpr int AHEAD = STAGES - 1;
    Pipeline<T, AHEAD, LA, LB> pipeline(memory, from_a, from_b, steps, row, column);
    // the first rounds only load
#pragma unroll 1
    for (int step = steps.first - AHEAD; step < steps.end; ++step) {
        const uint4* stage = step >= steps.first ? pipeline.ready() : nullptr;
        // into the stage that was read in the step before, which every warp has left
        pipeline.load();
        if (step >= steps.first) compute(stage);
    }
    pipeline.drain();
#else
    static_assert(STAGES == 2, "one stage is filled from registers while the other is read");
    Side<T, BM> a;
    Side<T, BN> b;
    // step -1 only fetches
#pragma unroll 1
    for (int step = -1; step < steps.end; ++step) {
        __syncthreads();
        if (step + 1 < steps.end) {
            a.take(from_a);
            b.take(from_b);
            from_a.next();
            from_b.next();
        }
        if (step >= 0) compute(memory + step % 2 * STAGE_CHUNKS);
        if (step + 1 < steps.end) {
            a.put(memory + (step + 1) % 2 * STAGE_CHUNKS, from_a, row, step + 1);
            b.put(memory + (step + 1) % 2 * STAGE_CHUNKS + B_AT, from_b, column, step + 1);
        }
    }
    __syncthreads();
#endif
}

#endif
