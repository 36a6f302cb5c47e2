// Rows: a space of outer and inner axes in which each outer position is the business of one group of GROUP threads.
//
// The threads of a group follow each other, so that they read neighbouring elements of a row; or, with APART, threads that
// follow each other belong to different groups, for rows that lie side by side. Loops over rows are the same for every
// thread of a block, so that groups may meet at barriers; what is past the last row repeats it and stores nothing.
//
// Where rows are few and long, SPLIT blocks of a cluster share one: all of their threads are its group.

#ifndef SPLIT
#define SPLIT 1
#endif
constexpr int GROUPS = THREADS / GROUP, TOGETHER = GROUP * SPLIT;
static_assert(SPLIT == 1 || GROUPS == 1, "blocks that share a row have no other");

// the last of the axes that make up `rest`
__device__ __forceinline__ int take(long long& rest, int extent) {
    if (((unsigned long long)rest >> 31) == 0) {
        const unsigned int above = (unsigned int)rest / (unsigned int)extent;
        const int i = (int)((unsigned int)rest - above * (unsigned int)extent);
        rest = above;
        return i;
    }
    const long long above = rest / extent;
    const int i = (int)(rest - above * extent);
    rest = above;
    return i;
}

__device__ __forceinline__ int take(int& rest, int extent) {
    const int above = (int)((unsigned int)rest / (unsigned int)extent), i = rest - above * extent;
    rest = above;
    return i;
}

struct SumOf {
    template <typename T> __device__ __forceinline__ static T join(T a, T b) { return a + b; }
};
struct MaxOf {
    template <typename T> __device__ __forceinline__ static T join(T a, T b) { return maximum(a, b); }
};

__device__ __forceinline__ void meet_cluster() {
#if SPLIT > 1
    asm volatile("barrier.cluster.arrive.aligned;\n\tbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}

// What the blocks of a cluster hold together. WHICH tells apart the calls for one row, of which none may write while another
// block still reads; behind the last one they meet again.
template <typename Op, int WHICH, typename T> __device__ __forceinline__ T over_cluster(T x) {
#if SPLIT > 1
    __shared__ T mine;
    if (threadIdx.x == 0) mine = x;
    meet_cluster();
#pragma unroll
    for (int i = 0; i < SPLIT; ++i) {
        const T* there;
        asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(&mine), "r"(i));
        const T other = *(const volatile T*)there;
        x = i == 0 ? other : Op::join(x, other);
    }
#endif
    return x;
}

// What the threads of a group hold together, for every one of them. The order of the operations is fixed.
template <typename Op, int WHICH = 0, typename T> __device__ __forceinline__ T across(T x) {
    if (APART) {
        __shared__ T all[THREADS];
        __syncthreads();
        all[threadIdx.x] = x;
        __syncthreads();
        x = all[threadIdx.x % GROUPS];
        for (int i = 1; i < GROUP; ++i) x = Op::join(x, all[threadIdx.x % GROUPS + i * GROUPS]);
        return x;
    }
    #pragma unroll
    for (int d = (GROUP < 32 ? GROUP : 32) / 2; d > 0; d /= 2) x = Op::join(x, __shfl_xor_sync(0xffffffffu, x, d));
    if (GROUP > 32) {
        constexpr int WARPS = GROUP > 32 ? GROUP / 32 : 1;
        __shared__ T parts[THREADS / 32];
        const int warp = threadIdx.x / 32;
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[warp] = x;
        __syncthreads();
        const int first = warp / WARPS * WARPS;
        x = parts[first];
        #pragma unroll 8
        for (int i = 1; i < WARPS; ++i) x = Op::join(x, parts[first + i]);
    }
    return over_cluster<Op, WHICH>(x);
}

// For each row of this block: `lane` of TOGETHER, `row`, and whether the row is `live`.
#define FOR_EACH_ROW \
    const int group = APART ? threadIdx.x % GROUPS : threadIdx.x / GROUP; \
    const int lane = (APART ? threadIdx.x / GROUPS : threadIdx.x % GROUP) + blockIdx.x % SPLIT * GROUP; \
    for (long long first = (long long)(blockIdx.x / SPLIT) * GROUPS; first < ROWS; first += (long long)(gridDim.x / SPLIT) * GROUPS)
#define THIS_ROW \
    const bool live = first + group < ROWS; \
    const long long row = live ? first + group : ROWS - 1; \
    OUTER
