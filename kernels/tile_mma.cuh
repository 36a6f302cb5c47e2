// The engine of mma.sync: operands of 16 bits or tf32 through ldmatrix, sums in f32 or f16. Warps share a tile as
// WARPS_M×WARPS_N, and each place among WARPS_K that take turns along a step.
//
// An instruction takes two chunks of each line, 16 steps of the reduction or, of tf32, eight. Sums of f16 wait in pairs of
// registers of their own until the tile is done, or until the end of a run of PROMOTED_RUN steps.

#if TENSOR_CORES && !WGMMA && !STREAMED

constexpr int WARP_ROWS = BM / WARPS_M, STRIP_COLUMNS = BN / WARPS_N, STRIPS = WARP_ROWS / 16;

__device__ __forceinline__ int strip_row(int warp, int i) { return warp / WARPS_N * WARP_ROWS + i * 16; }
__device__ __forceinline__ int strip_column(int warp) { return warp % WARPS_N * STRIP_COLUMNS; }

// Chunks of a line are exchanged so that eight lines' chunks of one column fall into different banks.
template <int ROWS> __device__ __forceinline__ int slot(bool by_row, int line, int chunk) {
    const int chunks = (by_row ? BK : ROWS) / CHUNK;
    const int lines = chunks >= 8 ? 1 : 8 / chunks, mask = chunks >= 8 ? 7 : chunks - 1;
    // of tf32 whose lines are steps, a warp reads four lines' pairs of chunks together
    const int apart = TF32 && !by_row ? 2 : 1;
    return line * chunks + (chunk ^ ((line / lines * apart) & mask));
}

// The four matrices of 8 rows and a chunk of steps, of rows [row, row+16) and two chunks from step k on. For A they are
// ordered rows first, for B steps first, as mma wants them.
template <int ROWS>
__device__ __forceinline__ void matrices(unsigned int (&r)[4], const uint4* from, bool by_row, int row, int k, bool rows_first) {
    const int lane = threadIdx.x % 32;
    auto at = [&](int q, int& row, int& k) {
        row += (rows_first ? q % 2 : q / 2) * 8;
        k += (rows_first ? q / 2 : q % 2) * CHUNK;
    };
    if (TF32 && !by_row)
        fetch_turned(r, [&](int q, int line, int column) {
            int at_row = row + column, at_k = k + line;
            at(q, at_row, at_k);
            return (const unsigned int*)(from + slot<ROWS>(false, at_k, at_row / CHUNK)) + at_row % CHUNK;
        });
    else {
        at(lane / 8, row, k);
        const int line = (by_row ? row : k) + lane % 8, chunk = (by_row ? k : row) / CHUNK;
        load_matrices(r, from + slot<ROWS>(by_row, line, chunk), !by_row);
    }
    if (TF32) round_to_tf32(r);
}

template <typename T, typename LA, typename LB>
__device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], uint4* memory, Steps steps, LA& from_a,
                                           LB& from_b, int row, int column) {
    const int warp = threadIdx.x / 32 % (WARPS_M * WARPS_N), part = threadIdx.x / 32 / (WARPS_M * WARPS_N);
    const int warp_row = strip_row(warp, 0), warp_column = strip_column(warp);

    // instructions of a warp in a stage, and those whose sums go to the same place without a stop
    constexpr int DEPTH = 2 * CHUNK, TURNS = BK / DEPTH / WARPS_K, RUN = PROMOTED_RUN > 0 ? PROMOTED_RUN / DEPTH : 1;
    static_assert(TURNS % RUN == 0, "a run ends in the stage in which it begins");
#if F16_SUMS
    unsigned int narrow[STRIPS][STRIP_COLUMNS / 4] = {};
#endif
    auto compute = [&](const uint4* stage) {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn += RUN) {
            auto step = [&](int r) { return ((turn + r) * WARPS_K + part) * DEPTH; };
            unsigned int fa[RUN][STRIPS][4];
#pragma unroll
            for (int r = 0; r < RUN; ++r)
#pragma unroll
                for (int i = 0; i < STRIPS; ++i) matrices<BM>(fa[r][i], stage, from_a.by_row, warp_row + i * 16, step(r), true);
#pragma unroll
            for (int j = 0; j < STRIP_COLUMNS / 16; ++j) {
                unsigned int fb[RUN][4];
#pragma unroll
                for (int r = 0; r < RUN; ++r) matrices<BN>(fb[r], stage + B_AT, from_b.by_row, warp_column + j * 16, step(r), false);
#pragma unroll
                for (int i = 0; i < STRIPS; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        auto add = [&](auto* sums) {
#pragma unroll
                            for (int r = 0; r < RUN; ++r) multiply(sums, fa[r][i], fb[r][2 * half], fb[r][2 * half + 1], T());
                        };
#if PROMOTED_RUN
                        unsigned int run[2] = {};
                        add(run);
                        add_pairs(acc[i] + 8 * j + 4 * half, run);
#elif F16_SUMS
                        add(narrow[i] + 4 * j + 2 * half);
#else
                        add(acc[i] + 8 * j + 4 * half);
#endif
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
#if F16_SUMS
#pragma unroll
    for (int i = 0; i < STRIPS; ++i)
#pragma unroll
        for (int j = 0; j < STRIP_COLUMNS / 4; j += 2) add_pairs(acc[i] + 2 * j, narrow[i] + j);
#endif
}

#endif
