// How the operands of a tile get into shared memory ahead of the tensor cores, step after step: what the engines of
// mma.sync and of wgmma have in common.

#if TENSOR_CORES && !STREAMED

// Where a chunk of an operand of ROWS rows lies: the engine's choice, the same in every eight lines.
template <int ROWS> __device__ __forceinline__ constexpr int slot(bool by_row, int line, int chunk);
// Elements of a chunk: tf32 is multiplied out of operands that lie there as f32.
constexpr int CHUNK = TF32 ? 4 : 8;

// One operand's side of the pipeline. ROWS×BK elements a stage.
template <typename T, int ROWS> struct Side {
    using Part = Share<ROWS, CHUNK>;
    uint4 held[Part::COUNT];

    // Fills a step element by element: rare, so the code of a generic kernel is short.
    template <typename L> __device__ __forceinline__ static void fill(uint4* to, const L& from, int origin, int step) {
#pragma unroll (KNOWN ? 4 : 1)
        for (int i = 0; i < Part::COUNT; ++i) {
            const Part p(i, from.by_row, from.spread);
            if (!p.there) continue;
            T* chunk = (T*)(to + slot<ROWS>(from.by_row, p.line, p.chunk));
#pragma unroll (KNOWN ? 8 : 1)
            for (int j = 0; j < CHUNK; ++j)
                chunk[j] = from.element(p.line_at(from.by_row, origin, step), p.at(from.by_row, origin, step) + j);
        }
    }
#if ASYNC
    // Begins to copy a step. With the order a constant, chunks of whole eights of lines are a constant distance apart in shared memory.
    template <typename L> __device__ __forceinline__ static void copy(uint4* to, const L& from, int origin, int step) {
        decide<L::VECTOR>(from.vector, [&](auto vector) {
            if constexpr (!vector.value)
                fill(to, from, origin, step);
            else
                decide<L::BY_ROW>(from.by_row, [&](auto by_row) { copy_as<by_row.value>(to, from); });
        });
    }
    template <bool BY_ROW, typename L> __device__ __forceinline__ static void copy_as(uint4* to, const L& from) {
        constexpr int APART = Part::apart(BY_ROW);
        const Part first(0, BY_ROW, false);
        uint4* const to_first = to + slot<ROWS>(BY_ROW, first.line, first.chunk);
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            const Part p(i, BY_ROW, false);
            if (!p.there) continue;
            uint4* const at = APART % 8 == 0 ? to_first + i * slot<ROWS>(BY_ROW, APART, 0) : to + slot<ROWS>(BY_ROW, p.line, p.chunk);
            int bytes;
            const T* source = from.address(i, BY_ROW, bytes);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(at)),
                         "l"(source), "r"(bytes)
                         : "memory");
        }
    }
#else
    // Copies a step in two halves.
    template <typename L> __device__ __forceinline__ void take(const L& from) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            int bytes;
            const T* source = from.address(i, from.by_row, bytes);
            held[i] = from.vector && bytes > 0 ? *(const uint4*)source : make_uint4(0, 0, 0, 0);
        }
    }
    template <typename L> __device__ __forceinline__ void put(uint4* to, const L& from, int origin, int step) {
        decide<L::VECTOR>(from.vector, [&](auto vector) {
            if constexpr (!vector.value)
                fill(to, from, origin, step);
            else {
#pragma unroll
                for (int i = 0; i < Part::COUNT; ++i) {
                    const Part p(i, from.by_row, false);
                    if (p.there) to[slot<ROWS>(from.by_row, p.line, p.chunk)] = held[i];
                }
            }
        });
    }
#endif
};

constexpr int STAGE_CHUNKS = (BM + BN) * BK / CHUNK, B_AT = BM * BK / CHUNK;

#if ASYNC
// Keeps up to STAGES steps of both operands under way. `load` begins the copy of the next step; `ready` waits for the oldest
// of AHEAD that were begun.
template <typename T, int AHEAD, typename LA, typename LB> struct Pipeline {
    uint4* memory;
    LA& from_a;
    LB& from_b;
    int end, row, column, loading, writing = 0, reading = 0;

    __device__ __forceinline__ Pipeline(uint4* memory, LA& from_a, LB& from_b, Steps steps, int row, int column)
        : memory(memory), from_a(from_a), from_b(from_b), end(steps.end), row(row), column(column), loading(steps.first) {}
    __device__ __forceinline__ void load() {
        if (loading < end) {
            uint4* stage = memory + writing * STAGE_CHUNKS;
            Side<T, BM>::copy(stage, from_a, row, loading);
            Side<T, BN>::copy(stage + B_AT, from_b, column, loading);
            from_a.next();
            from_b.next();
            writing = writing + 1 == STAGES ? 0 : writing + 1;
            ++loading;
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    __device__ __forceinline__ const uint4* ready() {
        asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory");
#if WGMMA
        // what was copied becomes visible to the units that wgmma reads with
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
        __syncthreads();
        const uint4* stage = memory + reading * STAGE_CHUNKS;
        reading = reading + 1 == STAGES ? 0 : reading + 1;
        return stage;
    }
    __device__ __forceinline__ void drain() {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
    }
};
#endif

#endif
