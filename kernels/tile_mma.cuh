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
template <int ROWS> __device__ __forceinline__ constexpr int slot(bool by_row, int line, int chunk) {
    const int chunks = (by_row ? BK : ROWS) / CHUNK;
    const int lines = chunks >= 8 ? 1 : 8 / chunks, mask = chunks >= 8 ? 7 : chunks - 1;
    // of tf32 whose lines are steps, a warp reads four lines' pairs of chunks together
    const int apart = TF32 && !by_row ? 2 : 1;
    return line * chunks + (chunk ^ ((line / lines * apart) & mask));
}

// The four matrices of 8 rows and a chunk of steps, of rows [row, row+16) and two chunks of steps. For A they are ordered rows first,
// for B steps first, as mma wants them. A lane names the address of one line of them; those of other rows and steps of the same
// stage are a constant away, or an exchange of bits that are not otherwise used.
constexpr int DEPTH = 2 * CHUNK;
static_assert((WARP_ROWS & (WARP_ROWS - 1)) == 0 && (STRIP_COLUMNS & (STRIP_COLUMNS - 1)) == 0 && (WARPS_K & (WARPS_K - 1)) == 0,
              "chunks of a warp differ in bits of their own");
template <int ROWS, bool ROWS_FIRST> struct Matrices {
    int row, part, line;
    bool by_row;
    __device__ __forceinline__ Matrices(bool by_row, int row, int part) : row(row), part(part), by_row(by_row) {
        const int lane = threadIdx.x % 32, q = lane / 8;
        const int at_row = row + (ROWS_FIRST ? q % 2 : q / 2) * 8, at_k = part * DEPTH + (ROWS_FIRST ? q / 2 : q % 2) * CHUNK;
        line = slot<ROWS>(by_row, (by_row ? at_row : at_k) + lane % 8, (by_row ? at_k : at_row) / CHUNK);
        // kept, as the compiler would rather compute it again in each step
        asm volatile("" : "+r"(line));
    }
    // Of the i-th 16 rows, and of the steps of this part's turn.
    __device__ __forceinline__ void load(unsigned int (&r)[4], const uint4* from, int i, int turn) const {
        if (TF32 && !by_row)
            fetch_turned(r, [&](int q, int line, int column) {
                const int at_row = row + i * 16 + (ROWS_FIRST ? q % 2 : q / 2) * 8 + column;
                const int at_k = (turn * WARPS_K + part) * DEPTH + (ROWS_FIRST ? q / 2 : q % 2) * CHUNK + line;
                return (const unsigned int*)(from + slot<ROWS>(false, at_k, at_row / CHUNK)) + at_row % CHUNK;
            });
        else
            load_matrices(r, from + (by_row ? (line ^ turn * WARPS_K * 2) + i * 16 * (BK / CHUNK)
                                            : (line ^ i * 2) + turn * WARPS_K * DEPTH * (ROWS / CHUNK)), !by_row);
        if (TF32) round_to_tf32(r);
    }
};

template <typename T, typename LA, typename LB>
__device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], uint4* memory, Steps steps, LA& from_a,
                                           LB& from_b, int row, int column) {
    const int warp = threadIdx.x / 32 % (WARPS_M * WARPS_N), part = threadIdx.x / 32 / (WARPS_M * WARPS_N);

    // instructions of a warp in a stage, and those whose sums go to the same place without a stop
    constexpr int TURNS = BK / DEPTH / WARPS_K, RUN = PROMOTED_RUN > 0 ? PROMOTED_RUN / DEPTH : 1;
    static_assert(TURNS % RUN == 0, "a run ends in the stage in which it begins");
#if F16_SUMS
    unsigned int narrow[STRIPS][STRIP_COLUMNS / 4] = {};
#endif
    // what a warp multiplies in a run
    struct Fragments {
        unsigned int a[RUN][STRIPS][4], b[RUN][STRIP_COLUMNS / 16][4];
    };
    const Matrices<BM, true> a(from_a.by_row, strip_row(warp, 0), part);
    const Matrices<BN, false> b(from_b.by_row, strip_column(warp), part);
    auto fetch = [&](Fragments& to, const uint4* stage, int turn) {
#pragma unroll
        for (int r = 0; r < RUN; ++r) {
#pragma unroll
            for (int i = 0; i < STRIPS; ++i) a.load(to.a[r][i], stage, i, turn + r);
#pragma unroll
            for (int j = 0; j < STRIP_COLUMNS / 16; ++j) b.load(to.b[r][j], stage + B_AT, j, turn + r);
        }
    };
    auto compute = [&](const Fragments& of) {
#pragma unroll
        for (int j = 0; j < STRIP_COLUMNS / 8; ++j)
#pragma unroll
            for (int i = 0; i < STRIPS; ++i) {
                auto add = [&](auto* sums) {
#pragma unroll
                    for (int r = 0; r < RUN; ++r) multiply(sums, of.a[r][i], of.b[r][j / 2][j % 2 * 2], of.b[r][j / 2][j % 2 * 2 + 1], T());
                };
#if PROMOTED_RUN
                unsigned int run[2] = {};
                add(run);
                add_pairs(acc[i] + 4 * j, run);
#elif F16_SUMS
                add(narrow[i] + 2 * j);
#else
                add(acc[i] + 4 * j);
#endif
            }
    };

#if ASYNC
    constexpr int AHEAD = STAGES - 1, LAST = TURNS - RUN;
    // Fragments are fetched a run ahead, those of a stage's first run before the last of the stage before is multiplied.
    constexpr bool ODD = TURNS / RUN % 2 == 1;
    Fragments held[2];
    Pipeline<T, AHEAD, LA, LB> pipeline(memory, from_a, from_b, steps, row, column);
    const uint4* stage = memory;
    // the first rounds only load
#pragma unroll 1
    for (int step = steps.first - AHEAD; step < steps.end; ++step) {
        if (step >= steps.first)
#pragma unroll
            for (int turn = 0; turn < LAST; turn += RUN) {
                fetch(held[(turn / RUN + 1) % 2], stage, turn + RUN);
                compute(held[turn / RUN % 2]);
            }
        // into the stage that was read in the step before, which every warp has left
        pipeline.load();
        if (step >= steps.first - 1) {
            stage = pipeline.ready();
            fetch(held[ODD], stage, 0);
        }
        if (step >= steps.first) compute(held[!ODD]);
        if (ODD) held[0] = held[1];
    }
    pipeline.drain();
#else
    static_assert(STAGES == 2, "one stage is filled from registers while the other is read");
    Side<T, BM> side_a;
    Side<T, BN> side_b;
    // step -1 only fetches
#pragma unroll 1
    for (int step = -1; step < steps.end; ++step) {
        __syncthreads();
        if (step + 1 < steps.end) {
            side_a.take(from_a);
            side_b.take(from_b);
            from_a.next();
            from_b.next();
        }
        if (step >= 0)
#pragma unroll
            for (int turn = 0; turn < TURNS; turn += RUN) {
                Fragments held;
                fetch(held, memory + step % 2 * STAGE_CHUNKS, turn);
                compute(held);
            }
        if (step + 1 < steps.end) {
            side_a.put(memory + (step + 1) % 2 * STAGE_CHUNKS, from_a, row, step + 1);
            side_b.put(memory + (step + 1) % 2 * STAGE_CHUNKS + B_AT, from_b, column, step + 1);
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
