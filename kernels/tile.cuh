// One tile of a matrix product, C = A·B, in shared memory and registers: the part that gemm, conv and conv_transpose
// have in common. Where the operands come from is a loader's business, what happens to the result a finisher's.
//
// A tile operand lies in shared memory as lines of 16-byte chunks. Its lines are rows of the result and it runs along the
// reduction (`by_row`), or its lines are steps of the reduction and it runs along the rows: whichever way it is
// contiguous in global memory, so that a chunk there is a chunk here. `ldmatrix` turns the second form while it reads.
// For the second operand, read `column` for `row`.
//
// A loader has:
//   bool by_row                         see above
//   bool vector                         whether a chunk can be copied as 16 bytes
//   bool spread                         whether neighbouring lanes take neighbouring lines, not chunks of one line
//   const T* address(i, line, at, bytes)  where the chunk begins, and how many bytes of it exist (0: none)
//   void gather(c, i, line, at)         fills a chunk element by element, zero outside
// `i` counts the chunks of this thread, so that a loader can keep what it knows of their lines in registers.
//
// A finisher has `template <int N> void operator()(int row, int column, ACC (&v)[N])`: N results of one row in
// consecutive columns; those beyond the matrix are to be ignored. `by_column` says that neighbouring lanes should hold
// neighbouring rows.

template <typename T> struct Chunk {
    static constexpr int N = 16 / (int)sizeof(T);
    union {
        uint4 bits;
        T v[N];
    };
    __device__ __forceinline__ Chunk() {}
};

__device__ __forceinline__ unsigned int shared_address(const void* p) { return (unsigned int)__cvta_generic_to_shared(p); }

// Chunks of a line are exchanged so that eight lines' chunks of one column fall into different banks.
template <int ROWS> __device__ __forceinline__ int swizzled(bool by_row, int line, int chunk) {
    const int chunks = (by_row ? BK : ROWS) / 8;
    const int lines = chunks >= 8 ? 1 : 8 / chunks, mask = chunks >= 8 ? 7 : chunks - 1;
    return line * chunks + (chunk ^ ((line / lines) & mask));
}

template <typename T> __device__ __forceinline__ T zero() {
    T v;
    memset(&v, 0, sizeof(T));
    return v;
}

// A chunk in registers, by whatever path there is.
template <typename T, typename L> __device__ __forceinline__ uint4 fetch(const L& from, int i, int line, int at) {
    Chunk<T> c;
    if (from.vector) {
        int bytes;
        const T* p = from.address(i, line, at, bytes);
        if (bytes == 16) return *(const uint4*)p;
        if (bytes == 0) return make_uint4(0, 0, 0, 0);
    }
    from.gather(c, i, line, at);
    return c.bits;
}

// Which chunk of a tile operand of ROWS rows is the i-th of this thread: its place in shared memory (line, chunk) and in
// the matrix (line_at, at), for a tile that begins at `origin` and a step of the reduction.
template <int ROWS, int N> struct Share {
    static constexpr int TOTAL = ROWS * BK / N, COUNT = (TOTAL + THREADS - 1) / THREADS;
    int line, chunk, line_at, at;
    bool there;
    __device__ __forceinline__ Share(int i, bool by_row, bool spread, int origin, int step) {
        const int q = threadIdx.x + i * THREADS;
        const int lines = by_row ? ROWS : BK, chunks = (by_row ? BK : ROWS) / N;
        there = TOTAL % THREADS == 0 || q < TOTAL;
        line = spread ? q % lines : q / chunks;
        chunk = spread ? q / lines : q % chunks;
        line_at = line + (by_row ? origin : step * BK);
        at = chunk * N + (by_row ? step * BK : origin);
    }
};

#if TENSOR_CORES

__device__ __forceinline__ void load_matrices(unsigned int (&r)[4], const uint4* p, bool turned) {
    unsigned int at = shared_address(p);
    if (turned)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// c += a·b on 16×8×16.
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1, f16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// One operand's side of the pipeline. ROWS×BK elements a stage.
template <typename T, int ROWS> struct Side {
    using Part = Share<ROWS, 8>;
    uint4 held[Part::COUNT];

    // Copies a step straight to shared memory; with cp.async the copy is under way when this returns.
    template <typename L> __device__ __forceinline__ static void copy(uint4* to, const L& from, int origin, int step) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            Part p(i, from.by_row, from.spread, origin, step);
            if (!p.there) continue;
            uint4* slot = to + swizzled<ROWS>(from.by_row, p.line, p.chunk);
#if __CUDA_ARCH__ >= 800
            if (from.vector) {
                int bytes;
                const T* source = from.address(i, p.line_at, p.at, bytes);
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(slot)), "l"(source), "r"(bytes)
                             : "memory");
                continue;
            }
#endif
            *slot = fetch<T>(from, i, p.line_at, p.at);
        }
    }
    // The same in two halves, for devices without cp.async.
    template <typename L> __device__ __forceinline__ void take(const L& from, int origin, int step) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            Part p(i, from.by_row, from.spread, origin, step);
            if (p.there) held[i] = fetch<T>(from, i, p.line_at, p.at);
        }
    }
    template <typename L> __device__ __forceinline__ void put(uint4* to, const L& from) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            Part p(i, from.by_row, from.spread, 0, 0);
            if (p.there) to[swizzled<ROWS>(from.by_row, p.line, p.chunk)] = held[i];
        }
    }
    // The four 8×8 matrices of rows [row, row+16) and steps [k, k+16). For A they are ordered rows first, for B steps
    // first, as mma wants them.
    __device__ __forceinline__ static void matrices(unsigned int (&r)[4], const uint4* from, bool by_row, int row, int k,
                                                    bool rows_first) {
        const int lane = threadIdx.x % 32;
        const int first = (lane / 8) % 2 * 8, second = lane / 16 * 8;
        row += rows_first ? first : second;
        k += rows_first ? second : first;
        const int line = (by_row ? row : k) + lane % 8, chunk = (by_row ? k : row) / 8;
        load_matrices(r, from + swizzled<ROWS>(by_row, line, chunk), !by_row);
    }
};

constexpr int WARP_ROWS = BM / WARPS_M, WARP_COLUMNS = BN / WARPS_N;
constexpr int STAGE_CHUNKS = (BM + BN) * BK / 8;

template <typename T, typename LA, typename LB>
__device__ __forceinline__ void accumulate(float (&acc)[WARP_ROWS / 16][WARP_COLUMNS / 8][4], uint4* memory, int steps,
                                           const LA& from_a, const LB& from_b, int row, int column) {
    Side<T, BM> a;
    Side<T, BN> b;
    constexpr int B_AT = BM * BK / 8;
    int warp = threadIdx.x / 32;
    int warp_row = warp / WARPS_N * WARP_ROWS, warp_column = warp % WARPS_N * WARP_COLUMNS;

    auto compute = [&](const uint4* stage) {
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            unsigned int fa[WARP_ROWS / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 16; ++i) a.matrices(fa[i], stage, from_a.by_row, warp_row + i * 16, k, true);
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 16; ++j) {
                unsigned int fb[4];
                b.matrices(fb, stage + B_AT, from_b.by_row, warp_column + j * 16, k, false);
#pragma unroll
                for (int i = 0; i < WARP_ROWS / 16; ++i) {
                    multiply(acc[i][2 * j], fa[i], fb[0], fb[1], T());
                    multiply(acc[i][2 * j + 1], fa[i], fb[2], fb[3], T());
                }
            }
        }
    };

#if __CUDA_ARCH__ >= 800
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) {
            a.copy(memory + s * STAGE_CHUNKS, from_a, row, s);
            b.copy(memory + s * STAGE_CHUNKS + B_AT, from_b, column, s);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    int reading = 0, writing = STAGES - 1;
    for (int step = 0; step < steps; ++step) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            a.copy(memory + writing * STAGE_CHUNKS, from_a, row, step + STAGES - 1);
            b.copy(memory + writing * STAGE_CHUNKS + B_AT, from_b, column, step + STAGES - 1);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        compute(memory + reading * STAGE_CHUNKS);
        reading = reading + 1 == STAGES ? 0 : reading + 1;
        writing = writing + 1 == STAGES ? 0 : writing + 1;
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#else
    static_assert(STAGES == 2, "one stage is filled from registers while the other is read");
    // step -1 only fetches
#pragma unroll 1
    for (int step = -1; step < steps; ++step) {
        __syncthreads();
        if (step + 1 < steps) {
            a.take(from_a, row, step + 1);
            b.take(from_b, column, step + 1);
        }
        if (step >= 0) compute(memory + step % 2 * STAGE_CHUNKS);
        if (step + 1 < steps) {
            a.put(memory + (step + 1) % 2 * STAGE_CHUNKS, from_a);
            b.put(memory + (step + 1) % 2 * STAGE_CHUNKS + B_AT, from_b);
        }
    }
#endif
    __syncthreads();
}

// Hands the accumulators to the finisher through shared memory, so that it gets runs of eight columns.
template <typename F>
__device__ __forceinline__ void finish(const float (&acc)[WARP_ROWS / 16][WARP_COLUMNS / 8][4], uint4* memory, int row, int column,
                                       bool by_column, F&& f) {
    constexpr int PITCH = WARP_COLUMNS + 4;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* strip = (float*)memory + warp * 16 * PITCH;
    row += warp / WARPS_N * WARP_ROWS;
    column += warp % WARPS_N * WARP_COLUMNS;
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; ++i) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 8; ++j) {
            float* at = strip + lane / 4 * PITCH + j * 8 + lane % 4 * 2;
            *(float2*)at = make_float2(acc[i][j][0], acc[i][j][1]);
            *(float2*)(at + 8 * PITCH) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
        __syncwarp();
        if (by_column) {
#pragma unroll 4
            for (int e = lane; e < 16 * WARP_COLUMNS; e += 32) {
                float v[1] = {strip[e % 16 * PITCH + e / 16]};
                f(row + i * 16 + e % 16, column + e / 16, v);
            }
        } else {
            constexpr int RUNS = WARP_COLUMNS / 8;
#pragma unroll
            for (int e = 0; e < RUNS * 16 / 32; ++e) {
                int r = (lane + e * 32) / RUNS, c = (lane + e * 32) % RUNS * 8;
                float v[8];
                *(float4*)v = *(const float4*)(strip + r * PITCH + c);
                *(float4*)(v + 4) = *(const float4*)(strip + r * PITCH + c + 4);
                f(row + i * 16 + r, column + c, v);
            }
        }
    }
    __syncthreads();
}

#else  // SIMT: TM×TN results a thread, operands widened to ACC in shared memory, steps first

constexpr int GROUPS_M = BM / TM, GROUPS_N = BN / TN;
constexpr int A_PITCH = BM + 16 / (int)sizeof(ACC), B_PITCH = BN + 16 / (int)sizeof(ACC);

template <typename T, int ROWS, int PITCH> struct Side {
    static constexpr int N = Chunk<T>::N;
    using Part = Share<ROWS, N>;
    uint4 held[Part::COUNT];

    template <typename L> __device__ __forceinline__ void take(const L& from, int origin, int step) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            Part p(i, from.by_row, from.spread, origin, step);
            if (p.there) held[i] = fetch<T>(from, i, p.line_at, p.at);
        }
    }
    template <typename L> __device__ __forceinline__ void put(ACC* to, const L& from) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            Part p(i, from.by_row, from.spread, 0, 0);
            if (!p.there) continue;
            Chunk<T> c;
            c.bits = held[i];
            ACC* first = to + (from.by_row ? p.chunk * N * PITCH + p.line : p.line * PITCH + p.chunk * N);
            const int stride = from.by_row ? PITCH : 1;
#pragma unroll
            for (int j = 0; j < N; ++j) first[j * stride] = (ACC)load(&c.v[j]);
        }
    }
};

// Rows (columns) of a thread come in runs of at most four, spread over the tile, so that shared reads do not conflict.
template <int COUNT, int GROUPS> __device__ __forceinline__ int spot(int group, int i) {
    constexpr int RUN = COUNT < 4 ? COUNT : 4;
    return i / RUN * (GROUPS * RUN) + group * RUN + i % RUN;
}

template <typename TA, typename TB, typename LA, typename LB>
__device__ __forceinline__ void accumulate(ACC (&acc)[TM][TN], uint4* memory, int steps, const LA& from_a, const LB& from_b, int row,
                                           int column, int group_m, int group_n) {
    Side<TA, BM, A_PITCH> a;
    Side<TB, BN, B_PITCH> b;
    ACC* sa = (ACC*)memory;
    ACC* sb = sa + 2 * BK * A_PITCH;
    // step -1 only fetches
#pragma unroll 1
    for (int step = -1; step < steps; ++step) {
        __syncthreads();
        if (step + 1 < steps) {
            a.take(from_a, row, step + 1);
            b.take(from_b, column, step + 1);
        }
        if (step >= 0) {
            const ACC* pa = sa + step % 2 * BK * A_PITCH;
            const ACC* pb = sb + step % 2 * BK * B_PITCH;
#pragma unroll
            for (int k = 0; k < BK; ++k) {
                ACC va[TM], vb[TN];
#pragma unroll
                for (int i = 0; i < TM; ++i) va[i] = pa[k * A_PITCH + spot<TM, GROUPS_M>(group_m, i)];
#pragma unroll
                for (int j = 0; j < TN; ++j) vb[j] = pb[k * B_PITCH + spot<TN, GROUPS_N>(group_n, j)];
#pragma unroll
                for (int i = 0; i < TM; ++i)
#pragma unroll
                    for (int j = 0; j < TN; ++j) acc[i][j] += va[i] * vb[j];
            }
        }
        if (step + 1 < steps) {
            a.put(sa + (step + 1) % 2 * BK * A_PITCH, from_a);
            b.put(sb + (step + 1) % 2 * BK * B_PITCH, from_b);
        }
    }
    __syncthreads();
}

template <typename F>
__device__ __forceinline__ void finish(const ACC (&acc)[TM][TN], int row, int column, int group_m, int group_n, F&& f) {
    constexpr int RUN = TN < 4 ? TN : 4;
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; j += RUN) {
            ACC v[RUN];
#pragma unroll
            for (int e = 0; e < RUN; ++e) v[e] = acc[i][j + e];
            f(row + spot<TM, GROUPS_M>(group_m, i), column + spot<TN, GROUPS_N>(group_n, j), v);
        }
}

#endif

// ---- what the finishers use: runs of elements in global memory ----

// `count` elements at stride `stride`, widened; the rest is left alone.
template <typename R, typename T, int N>
__device__ __forceinline__ void read_run(R (&v)[N], const T* p, long long stride, int count) {
    if (stride == 0) {
        R one = (R)load(p);
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = one;
        return;
    }
    constexpr int BYTES = N * (int)sizeof(T);
    if (BYTES % 16 == 0 && stride == 1 && count >= N && ((unsigned long long)p & 15) == 0) {
#pragma unroll
        for (int q = 0; q < BYTES / 16; ++q) {
            Chunk<T> c;
            c.bits = ((const uint4*)p)[q];
#pragma unroll
            for (int j = 0; j < Chunk<T>::N; ++j)
                if (q * Chunk<T>::N + j < N) v[q * Chunk<T>::N + j] = (R)load(&c.v[j]);
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < N; ++j)
        if (j < count) v[j] = (R)load(p + j * stride);
}

template <typename R, typename T, int N>
__device__ __forceinline__ void write_run(T* p, const R (&v)[N], long long stride, int count) {
    constexpr int BYTES = N * (int)sizeof(T);
    if (BYTES % 16 == 0 && stride == 1 && count >= N && ((unsigned long long)p & 15) == 0) {
#pragma unroll
        for (int q = 0; q < BYTES / 16; ++q) {
            Chunk<T> c;
#pragma unroll
            for (int j = 0; j < Chunk<T>::N; ++j)
                if (q * Chunk<T>::N + j < N) store(&c.v[j], v[q * Chunk<T>::N + j]);
            ((uint4*)p)[q] = c.bits;
        }
        return;
    }
#pragma unroll
    for (int j = 0; j < N; ++j)
        if (j < count) store(p + j * stride, v[j]);
}
