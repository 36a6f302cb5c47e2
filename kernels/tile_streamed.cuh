// The engine for products of few rows, which take as long as their second operand takes to arrive: its lines go from global
// memory straight into registers, as the rows of mma's first operand. The rows of the product are mma's columns.
//
// WARPS_K warps have the same BN columns of the product and take turns along the reduction, 64 steps each: a whole line of the
// level-2 cache of each line of the operand. A lane loads 16 bytes, eight steps, twice, and four lanes side by side 64. Which
// steps an instruction multiplies does not matter to a sum, as long as both operands agree, so a lane's eight steps are its
// share of two instructions. AHEAD turns are under way; nothing waits for other warps before the sums are complete.
//
// Lines of both operands run along the reduction, and begin and end at whole chunks.

#if STREAMED

// Strips of 16 columns of the product, and strips of eight rows.
constexpr int STRIPS_N = BN / 16, STRIPS_M = BM / 8, PITCH = BN + 4;

// 16 bytes that nobody reads again before the caches have gone around: what others read stays in them.
__device__ __forceinline__ uint4 stream(const void* p) {
    uint4 v;
#if __CUDA_ARCH__ >= 800
    unsigned long long first;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)), "l"(first));
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)));
#endif
    return v;
}
__device__ __forceinline__ void mask(uint4& v, unsigned int by) { v.x &= by, v.y &= by, v.z &= by, v.w &= by; }

// Sums of the tile whose first row and column are at `a` and `b`, with so many rows and columns left in the matrix. Beyond those
// a lane reads the last one again, for sums that nobody asks for; beyond the end of the reduction it reads the last chunk, and
// makes zeros of it.
template <typename T>
__device__ __forceinline__ void accumulate(float (&acc)[STRIPS_N][STRIPS_M][4], const T* a, long long a_line, int rows, const T* b,
                                           long long b_line, int columns, int k) {
    const int line = threadIdx.x % 32 / 4, first = threadIdx.x / 32 * 64 + threadIdx.x % 4 * 8;
    const T *from_a[STRIPS_M], *from_b[STRIPS_N][2];
#pragma unroll
    for (int i = 0; i < STRIPS_M; ++i) from_a[i] = a + minimum(line + i * 8, rows - 1) * a_line;
#pragma unroll
    for (int j = 0; j < STRIPS_N; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) from_b[j][h] = b + minimum(line + j * 16 + h * 8, columns - 1) * b_line;
    uint4 x[AHEAD][2][STRIPS_M], w[AHEAD][2][STRIPS_N][2];
    auto load = [&](int u, int step) {
        if (step >= k) return;
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const int at = minimum(step + first + s * 32, k - 8);
#pragma unroll
            for (int j = 0; j < STRIPS_N; ++j)
#pragma unroll
                for (int h = 0; h < 2; ++h) w[u][s][j][h] = stream(from_b[j][h] + at);
            // other blocks of the multiprocessor read these too
#pragma unroll
            for (int i = 0; i < STRIPS_M; ++i) x[u][s][i] = *(const uint4*)(from_a[i] + at);
        }
    };
    auto compute = [&](int u, int step) {
        if (step >= k) return;
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            if (step + BK > k) {
                const unsigned int there = step + first + s * 32 < k ? ~0u : 0;
#pragma unroll
                for (int j = 0; j < STRIPS_N; ++j) mask(w[u][s][j][0], there), mask(w[u][s][j][1], there);
#pragma unroll
                for (int i = 0; i < STRIPS_M; ++i) mask(x[u][s][i], there);
            }
#pragma unroll
            for (int j = 0; j < STRIPS_N; ++j) {
                const uint4 &low = w[u][s][j][0], &high = w[u][s][j][1];
                const unsigned int front[4] = {low.x, high.x, low.y, high.y}, back[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
                for (int i = 0; i < STRIPS_M; ++i) {
                    multiply(acc[j][i], front, x[u][s][i].x, x[u][s][i].y, T());
                    multiply(acc[j][i], back, x[u][s][i].z, x[u][s][i].w, T());
                }
            }
        }
    };
#pragma unroll
    for (int u = 0; u < AHEAD; ++u) load(u, u * BK);
#pragma unroll 1
    for (int step = 0; step < k; step += AHEAD * BK) {
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            compute(u, step + u * BK);
            load(u, step + (AHEAD + u) * BK);
        }
    }
}

// Adds up what the warps have, in their order, and hands the sums to the finisher: eight columns of a row each.
template <typename F>
__device__ __forceinline__ void finish(const float (&acc)[STRIPS_N][STRIPS_M][4], uint4* memory, int row, int column, int rows, F&& f) {
    float* const sums = (float*)memory;
    const int lane = threadIdx.x % 32;
    float* own = sums + (threadIdx.x / 32 * BM + lane % 4 * 2) * PITCH + lane / 4;
#pragma unroll
    for (int j = 0; j < STRIPS_N; ++j)
#pragma unroll
        for (int i = 0; i < STRIPS_M; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) own[(i * 8 + e % 2) * PITCH + j * 16 + e / 2 * 8] = acc[j][i][e];
    __syncthreads();
    constexpr int RUNS = BN / 8;
    rows = minimum(rows, BM);
#if __CUDA_ARCH__ >= 800
    constexpr int AT_ONCE = WARPS_K;
#else
    // the compiler would keep what eight warps have in registers, and more of them than there are
    constexpr int AT_ONCE = WARPS_K < 4 ? WARPS_K : 4;
#endif
#pragma unroll 1
    for (int q = threadIdx.x; q < rows * RUNS; q += THREADS) {
        const int r = q / RUNS, c = q % RUNS * 8;
        float v[8] = {};
#pragma unroll (AT_ONCE)
        for (int w = 0; w < WARPS_K; ++w) {
            const float4* at = (const float4*)(sums + (w * BM + r) * PITCH + c);
            const float4 low = at[0], high = at[1];
            v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
            v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
        }
        f(row + r, column + c, v);
    }
    __syncthreads();
}

#endif
