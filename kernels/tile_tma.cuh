// The same products with operands that the copy engine brings (TMA, sm_90): one warp only asks for tiles of operands, far
// ahead and over the end of a tile of results, and the others only multiply and write results (roles.cuh).
//
// Operands come by tensor maps, whose boxes are lines of 64 elements, 128 bytes, in wgmma's swizzle. The map of A has boxes
// of 64 lines. That of B has 32, which are columns of the result, in an order in which a lane gets eight columns side by side
// as its sums: line 8j + 2q + e is column 8q + 2j + e, q being the lane's place among the four that share a row. So results
// go to memory from registers, with nothing in between.
//
// Tiles of few results read more than the level-2 cache gives all multiprocessors at once, so blocks of a cluster share it:
// what is in the same rows has the same part of A, what is in the same columns the same part of B. They take turns, step by
// step, at asking for both on behalf of all.
//
// Or blocks of a cluster share the reduction of a tile. In the end each has a part of the sums to finish, and the others send it
// theirs, out of registers into its shared memory, so that nobody waits for more than what is sent to it. A cluster has one tile then.

#if TMA

static_assert(BN % 32 == 0 && SHARERS <= 8 && (SHARERS == 1 || SPLIT == 1), "a tile has whole boxes, a cluster one thing to share");

constexpr int BOX_A = 64 * 64 * 2, BOX_B = 32 * 64 * 2, STAGE_BYTES = STAGE_CHUNKS * 16;

// Registers of a thread of the warps that ask, the epilogue's addresses among them. With three groups that multiply, more of them
// are left over: registers are dealt out in eights, and the groups get no more of them for it.
constexpr int FEW = COMPUTING == 3 * 128 ? 56 : 40;

// A warp brings the beginning of lines of a tile, `count` elements each, to the level-2 cache.
template <int LINES, typename T> __device__ __forceinline__ void bring(const T* from, long long stride, int lines, int count) {
#pragma unroll 1
    for (int line = threadIdx.x % 32; line < minimum(LINES, lines); line += 32)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from + line * stride), "r"(count * (int)sizeof(T)) : "memory");
}

// A box of A, or of B, for the blocks of a cluster whose numbers are bits of `all`; for this one, if nobody shares it.
template <bool SHARED> __device__ __forceinline__ void ask_for_a(unsigned int to, const void* map, int x, int y, unsigned int barrier, unsigned short all) {
    if constexpr (SHARED)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                     "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(all)
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                     ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier)
                     : "memory");
}
template <bool SHARED> __device__ __forceinline__ void ask_for_b(unsigned int to, const void* map, int x, int box, unsigned int barrier, unsigned short all) {
    if constexpr (SHARED)
        asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                     "[%0], [%1, {%2, %3, %3, %3, %4}], [%5], %6;" ::"r"(to), "l"(map), "r"(x), "r"(0), "r"(box), "r"(barrier), "h"(all)
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%2, %3, %3, %3, %4}], [%5];" ::"r"(to), "l"(map), "r"(x), "r"(0), "r"(box), "r"(barrier)
                     : "memory");
}

// The sums of a thread in runs of eight columns of a row, and how many of them a block that shares a reduction has to finish.
constexpr int RUNS = STRIPS * STRIP_COLUMNS / 16, OWN_RUNS = RUNS / SPLIT;
static_assert(RUNS % SPLIT == 0, "blocks finish as much each");
// Of a tile's strip i, the run in the upper or the lower half of column box c.
struct Run {
    int i, c, half;
    __device__ __forceinline__ explicit Run(int number) : i(number / (BN / 16)), c(number / 2 % (BN / 32)), half(number % 2) {}
    // j is the place of a sum in the run
    __device__ __forceinline__ float of(const float (&acc)[STRIPS][STRIP_COLUMNS / 2], int j) const {
        return acc[i][c * 16 + j / 2 * 4 + half * 2 + j % 2];
    }
    __device__ __forceinline__ int row() const { return strip_row(threadIdx.x / 32, i) + threadIdx.x % 32 / 4 + half * 8; }
    __device__ __forceinline__ int column() const { return c * 32 + threadIdx.x % 4 * 8; }
};

// What other blocks of the cluster send this one: their sums of its runs, behind a barrier that opens when all of them have come.
// A thread's are for the thread with its number. Without others there is none.
struct Sent {
    unsigned int barrier, sums;
    static constexpr int BYTES = OWN_RUNS * 32 * COMPUTING, ALL = (SPLIT - 1) * BYTES;

    __device__ __forceinline__ explicit Sent(unsigned int at) : barrier(at), sums(at + 16) {}
    // By one thread, before all others go on.
    __device__ __forceinline__ void open() const {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "n"(ALL) : "memory");
    }
    // Where the first four sums of a run are, among what the other blocks send; four more are as many threads further on.
    __device__ __forceinline__ unsigned int place(int other, int run) const { return sums + other * BYTES + (run * 2 * COMPUTING + threadIdx.x) * 16; }
    __device__ __forceinline__ void send(int from, int to, int run, const float (&v)[8]) const {
        unsigned int there, opens;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(place(from - (from > to), run)), "r"(to));
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(opens) : "r"(barrier), "r"(to));
#pragma unroll
        for (int j = 0; j < 8; j += 4)
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
                         ::"r"(there + j / 4 * (COMPUTING * 16)), "f"(v[j]), "f"(v[j + 1]), "f"(v[j + 2]), "f"(v[j + 3]), "r"(opens)
                         : "memory");
    }
    __device__ __forceinline__ void add(float (&v)[8], int other, int run) const {
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            float4 u;
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(u.x), "=f"(u.y), "=f"(u.z), "=f"(u.w) : "r"(place(other, run) + j / 4 * (COMPUTING * 16)) : "memory");
            v[j] += u.x, v[j + 1] += u.y, v[j + 2] += u.z, v[j + 3] += u.w;
        }
    }
};

// Stages of both operands, and the barriers behind them.
struct Operands {
    unsigned int stages;
    Ring ring;
    Sent sent;

    __device__ __forceinline__ explicit Operands(const uint4* memory)
        : stages(shared_address(memory)), ring(stages + STAGES * STAGE_BYTES), sent(stages + STAGES * STAGE_BYTES + RING_BYTES) {
        if (threadIdx.x == 0) {
            if constexpr (SPLIT > 1) sent.open();
            ring.open<SHARERS>();
        }
        if constexpr (SHARERS * SPLIT == 1)
            __syncthreads();
        else
            // nobody is sent anything before; barriers have a fence of their own
            asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
    }

    // The warp that asks: one step of both operands. A runs along its rows or along the reduction, B along the reduction.
    template <bool A_BY_ROW> __device__ __forceinline__ void load(const void* a_map, const void* b_map, int row, int column, int step) {
        ring.wait_empty();
        if (threadIdx.x % 32 == 0) {
            const unsigned int barrier = ring.barrier(), to_a = stages + ring.stage * STAGE_BYTES, to_b = to_a + B_AT * 16;
            ring.expect<STAGE_BYTES>();
            // block i + CLUSTER_M·j of a cluster has the tile i below and j beside that of its first one
            const int own = blockIdx.x % SHARERS, below = own % CLUSTER_M, beside = own / CLUSTER_M;
            constexpr unsigned int COLUMN = (1u << CLUSTER_M) - 1, ROW = ((1u << SHARERS) - 1) / COLUMN;
            if (step % CLUSTER_N == beside)
#pragma unroll
                for (int i = 0; i < BM / 64; ++i)
                    ask_for_a<(CLUSTER_N > 1)>(to_a + i * BOX_A, a_map, A_BY_ROW ? step * BK : row + i * 64,
                                               A_BY_ROW ? row + i * 64 : step * BK, barrier, ROW << below);
            if (step % CLUSTER_M == below)
#pragma unroll
                for (int i = 0; i < BN / 32; ++i)
                    ask_for_b<(CLUSTER_M > 1)>(to_b + i * BOX_B, b_map, step * BK, column / 32 + i, barrier,
                                               COLUMN << beside * CLUSTER_M);
        }
        __syncwarp();
        ring.next();
    }

    // The warp that asks, in the end: a block stays as long as others tell it that they have read a stage.
    __device__ __forceinline__ void stay() {
        if constexpr (SHARERS > 1)
#pragma unroll 1
            for (int i = 0; i < STAGES; ++i) {
                ring.wait_empty();
                ring.next();
            }
    }

    // The warps that multiply.
    template <typename T, bool A_BY_ROW>
    __device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], const uint4* memory, int steps) {
        const unsigned int first = place(memory);
        const int group = own_group();
        int before = 0;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            ring.wait_full();
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            products<A_BY_ROW, true, T>(acc, first + ring.stage * STAGE_CHUNKS, group);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            // the products of this step may be under way while those before are done
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (step > 0) ring.release<SHARERS>(before);
            before = ring.stage;
            ring.next();
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (steps > 0) ring.release<SHARERS>(before);
    }
};

// Columns of boxes whose runs are finished together, where the epilogue reads READ registers for each run: what is read for them is
// under way at once, and has to be held beside the sums. Nothing is gained by it where nothing is read, but the compiler would mix
// the arithmetic of all runs.
template <int READ> constexpr int together() {
    constexpr int SPARE = 64, HALVES = 2;
    return READ == 0 || READ * HALVES > SPARE ? 1 : SPARE / HALVES / READ;
}

#if SPLIT == 1
// Hands the sums to the finisher as they are: eight columns of a row each. The matrix has so many more `columns` from the tile's
// first on; whole boxes behind them are skipped, which is also the jump that the compiler moves nothing across.
template <int READ, typename F>
__device__ __forceinline__ void finish(const float (&acc)[STRIPS][STRIP_COLUMNS / 2], const Sent&, int row, int column, int columns, F&& f) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) {
        const int first = row + strip_row(warp, i) + lane / 4;
#pragma unroll
        for (int c = 0; c < STRIP_COLUMNS / 32; ++c) {
            if (c % together<READ>() == 0 && c * 32 >= columns) break;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Run run((i * (BN / 32) + c) * 2 + half);
                float v[8];
#pragma unroll
                for (int j = 0; j < 8; ++j) v[j] = run.of(acc, j);
                f(first + half * 8, column + c * 32 + lane % 4 * 8, v);
            }
        }
    }
}
#else
// The same of the runs that this block has to finish, after it sent the others theirs, to which the others' are added in their order.
template <int READ, typename F>
__device__ __forceinline__ void finish(const float (&acc)[STRIPS][STRIP_COLUMNS / 2], const Sent& sent, int row, int column, int, F&& f) {
    const int own = blockIdx.x % SPLIT;
    // chosen so that no sum is undefined on any path: the assembler (CUDA 13.0) mixed up registers where some were
    float mine[OWN_RUNS][8] = {};
#pragma unroll
    for (int part = 0; part < SPLIT; ++part)
#pragma unroll
        for (int k = 0; k < OWN_RUNS; ++k) {
            const Run run(part * OWN_RUNS + k);
            float v[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                v[j] = run.of(acc, j);
                mine[k][j] = part == own ? v[j] : mine[k][j];
            }
            if (part != own) sent.send(own, part, k, v);
        }
    Ring::wait(sent.barrier, 0);
#pragma unroll
    for (int k = 0; k < OWN_RUNS; ++k) {
        const Run run(own * OWN_RUNS + k);
#pragma unroll
        for (int other = 0; other < SPLIT - 1; ++other) sent.add(mine[k], other, k);
        f(row + run.row(), column + run.column(), mine[k]);
    }
}
#endif

#endif
