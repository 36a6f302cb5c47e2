// How sums get out of the registers of the tensor cores' engines.
//
// They lie as mma lays them out: warp by warp in STRIPS strips of 16 rows and STRIP_COLUMNS columns, of which a lane has
// columns 8j + 2(lane mod 4) + {0, 1} of rows lane / 4 and lane / 4 + 8.

#if TENSOR_CORES && !STREAMED

// Four sums of the strips that block `part` of the cluster has in its shared memory, at the place where this block's are.
__device__ __forceinline__ float4 read_strip(const float* at, int part) {
#if SPLIT > 1
    float4 v;
    unsigned int there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(at)), "r"(part));
    // stays between the meetings around it, which are volatile too; many of them are under way together
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there));
    return v;
#else
    return *(const float4*)at;
#endif
}

// Waits until all that share a strip have written their sums.
__device__ __forceinline__ void meet() {
#if SPLIT > 1
    asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#else
    WARPS_K > 1 ? __syncthreads() : __syncwarp();
#endif
}
// Waits until all have read them. What was written meanwhile does not matter, and is not waited for.
__device__ __forceinline__ void leave() {
#if SPLIT > 1
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#endif
    __syncthreads();
}

// Hands the sums to the finisher through shared memory, so that it gets runs of eight columns. Warps and blocks that share
// a strip and have a part of the reduction each are added up on the way, in a fixed order.
template <Known BY_COLUMN, typename F>
__device__ __forceinline__ void finish(const float (&acc)[STRIPS][STRIP_COLUMNS / 2], uint4* memory, int row, int column,
                                       bool by_column, F&& f) {
    constexpr int PITCH = STRIP_COLUMNS + 4, RUNS = STRIP_COLUMNS / 8, WARPS = THREADS / 32 / WARPS_K;
    constexpr int PARTS = WARPS_K * SPLIT, ITEMS = RUNS * 16, ROUNDS = (ITEMS + 32 * PARTS - 1) / (32 * PARTS);
    // two runs together hide the latency of what the epilogue reads, but reads of other blocks' memory are never moved
    constexpr int TOGETHER = KNOWN && SPLIT == 1 && ROUNDS % 2 == 0 ? 2 : 1;
    // floats from one strip of a warp to the next
    constexpr int APART = SPLIT > 1 ? THREADS / 32 * 16 * PITCH : 0;
    const int warp = threadIdx.x / 32 % WARPS, lane = threadIdx.x % 32, own = threadIdx.x / 32 / WARPS;
    const int part = own * SPLIT + blockIdx.x % SPLIT;
    float* strip = (float*)memory + warp * 16 * PITCH;
    column += strip_column(warp);
    // the sums of four columns: what all have of them, and their sum
    struct Parts {
        float4 of[PARTS];
        __device__ __forceinline__ float4 sum() const {
            float4 v = of[0];
#pragma unroll
            for (int p = 1; p < PARTS; ++p) v.x += of[p].x, v.y += of[p].y, v.z += of[p].z, v.w += of[p].w;
            return v;
        }
    };
    auto read = [&](int i, int r, int c) {
        const float* at = strip + i * APART + r * PITCH + c;
        Parts u;
#pragma unroll
        for (int p = 0; p < PARTS; ++p) u.of[p] = read_strip(at + p / SPLIT * WARPS * 16 * PITCH, p % SPLIT);
        return u;
    };
    auto put = [&](int i) {
#pragma unroll
        for (int j = 0; j < RUNS; ++j) {
            float* at = strip + i * APART + own * WARPS * 16 * PITCH + lane / 4 * PITCH + j * 8 + lane % 4 * 2;
            *(float2*)at = make_float2(acc[i][4 * j], acc[i][4 * j + 1]);
            *(float2*)(at + 8 * PITCH) = make_float2(acc[i][4 * j + 2], acc[i][4 * j + 3]);
        }
    };
    auto take = [&](int i) {
        const int first = row + strip_row(warp, i);
        decide<BY_COLUMN>(by_column, [&](auto columns) {
            if constexpr (columns.value) {
#pragma unroll 1
                for (int q = lane + 32 * part; q < 2 * ITEMS; q += 32 * PARTS) {
                    const int r = q % 16, c = q / 16 * 4;
                    const float4 u = read(i, r, c).sum();
                    float v[4] = {u.x, u.y, u.z, u.w};
                    f(first + r, column + c, v);
                }
            } else {
#pragma unroll (TOGETHER)
                for (int e = 0; e < ROUNDS; ++e) {
                    const int q = lane + (e * PARTS + part) * 32;
                    if (ITEMS % (32 * PARTS) != 0 && q >= ITEMS) break;
                    const int r = q / RUNS, c = q % RUNS * 8;
                    const Parts left = read(i, r, c), right = read(i, r, c + 4);
                    const float4 low = left.sum(), high = right.sum();
                    float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    f(first + r, column + c, v);
                }
            }
        });
    };
#if SPLIT > 1
    // meeting other blocks takes a while, so they do it once
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) put(i);
    meet();
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) take(i);
#else
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) {
        meet();
        put(i);
        meet();
        take(i);
    }
#endif
    leave();
}

#endif
