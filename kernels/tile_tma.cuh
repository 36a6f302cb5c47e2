// The same products with operands that the copy engine brings (TMA, sm_90): one warp only asks for tiles of operands, far
// ahead and over the end of a tile of results, and the others only multiply and write results.
//
// Stages form a ring. A stage has two barriers in shared memory: `full` opens when all its bytes have come, `empty` when all
// warps have read it.
//
// Operands come by tensor maps, whose boxes are lines of 64 elements, 128 bytes, in wgmma's swizzle. The map of A has boxes
// of 64 lines. That of B has 32, which are columns of the result, in an order in which a lane gets eight columns side by side
// as its sums: line 8j + 2q + e is column 8q + 2j + e, q being the lane's place among the four that share a row. So results
// go to memory from registers, with nothing in between.

#if TMA

static_assert(SPLIT == 1 && BN % 32 == 0, "a tile has whole boxes, and its reduction to itself");

constexpr int BOX_A = 64 * 64 * 2, BOX_B = 32 * 64 * 2, STAGE_BYTES = STAGE_CHUNKS * 16;

// The warp that asks is one of four, which need few registers; those that multiply get the others.
constexpr int GROUPS = COMPUTING / 128, EQUAL = 65536 / BLOCKS / THREADS / 8 * 8, FEW = 40;
constexpr int LEFT = (EQUAL * (GROUPS + 1) - FEW) / GROUPS / 8 * 8, MANY = LEFT < 248 ? LEFT : 248;
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEW)); }
__device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MANY)); }

// The host writes maps before a run, past the cache that the copy engine reads them with.
__device__ __forceinline__ void acquire_map(const void* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

// A warp brings the beginning of lines of a tile, `count` elements each, to the level-2 cache.
template <int LINES, typename T> __device__ __forceinline__ void bring(const T* from, long long stride, int lines, int count) {
#pragma unroll 1
    for (int line = threadIdx.x % 32; line < minimum(LINES, lines); line += 32)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from + line * stride), "r"(count * (int)sizeof(T)) : "memory");
}

struct Ring {
    unsigned int stages, full, empty;
    int stage = 0, phase = 0;

    // The barriers lie behind the stages.
    __device__ __forceinline__ explicit Ring(const uint4* memory)
        : stages(shared_address(memory)), full(stages + STAGES * STAGE_BYTES), empty(full + STAGES * 8) {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) {
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full + i * 8) : "memory");
                asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + i * 8), "n"(COMPUTING / 32) : "memory");
            }
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        __syncthreads();
    }
    __device__ __forceinline__ void next() {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        phase ^= stage == 0;
    }
    __device__ __forceinline__ static void wait(unsigned int barrier, int phase) {
        unsigned int open;
        do {
            asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                         : "=r"(open) : "r"(barrier), "r"(phase) : "memory");
        } while (!open);
    }

    // The warp that asks: one step of both operands. A runs along its rows or along the reduction, B along the reduction.
    template <bool A_BY_ROW> __device__ __forceinline__ void load(const void* a_map, const void* b_map, int row, int column, int step) {
        wait(empty + stage * 8, phase ^ 1);
        if (threadIdx.x % 32 == 0) {
            const unsigned int barrier = full + stage * 8, to_a = stages + stage * STAGE_BYTES, to_b = to_a + B_AT * 16;
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "n"(STAGE_BYTES) : "memory");
#pragma unroll
            for (int i = 0; i < BM / 64; ++i)
                asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                             ::"r"(to_a + i * BOX_A), "l"(a_map), "r"(A_BY_ROW ? step * BK : row + i * 64),
                             "r"(A_BY_ROW ? row + i * 64 : step * BK), "r"(barrier)
                             : "memory");
#pragma unroll
            for (int i = 0; i < BN / 32; ++i)
                asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                             "[%0], [%1, {%2, %3, %3, %3, %4}], [%5];"
                             ::"r"(to_b + i * BOX_B), "l"(b_map), "r"(step * BK), "r"(0), "r"(column / 32 + i), "r"(barrier)
                             : "memory");
        }
        __syncwarp();
        next();
    }

    // The warps that multiply: this one has read a stage.
    __device__ __forceinline__ void release(int stage) {
        if (threadIdx.x % 32 == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty + stage * 8) : "memory");
    }
    template <typename T, bool A_BY_ROW>
    __device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], const uint4* memory, int steps) {
        int before = 0;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            wait(full + stage * 8, phase);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            products<A_BY_ROW, true, T>(acc, memory + stage * STAGE_CHUNKS);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            // the products of this step may be under way while those before are done
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (step > 0) release(before);
            before = stage;
            next();
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (steps > 0) release(before);
    }
};

// Hands the sums to the finisher as they are: eight columns of a row each.
template <typename F>
__device__ __forceinline__ void finish(const float (&acc)[STRIPS][STRIP_COLUMNS / 2], int row, int column, F&& f) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) {
        const int first = row + strip_row(warp, i) + lane / 4;
#pragma unroll
        for (int c = 0; c < STRIP_COLUMNS / 32; ++c)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float v[8];
#pragma unroll
                for (int j = 0; j < 8; ++j) v[j] = acc[i][c * 16 + j / 2 * 4 + half * 2 + j % 2];
                f(first + half * 8, column + c * 32 + lane % 4 * 8, v);
            }
    }
}

#endif
