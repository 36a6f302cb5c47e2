// Rows: a space of outer and inner axes in which each outer position is the business of one group of GROUP threads.
//
// The threads of a group follow each other, so that they read neighbouring elements of a row; or, with APART, threads that
// follow each other belong to different groups, for rows that lie side by side. Loops over rows are the same for every
// thread of a block, so that groups may meet at barriers; what is past the last row repeats it and stores nothing.
//
// Where rows are few and long, SPLIT blocks of a cluster share one: all of their threads are its group.
//
// Sums have several levels, so that an error grows with their number and not with the row: elements of a pack in pairs, runs of
// packs of a thread one by one, the runs, and threads, warps and blocks in pairs.

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

// What N values hold together, in pairs.
template <typename Op, int N, typename F> __device__ __forceinline__ auto in_pairs(const F& at, int first = 0) {
    if constexpr (N == 1) {
        return at(first);
    } else {
        const auto low = in_pairs<Op, N / 2>(at, first), high = in_pairs<Op, N - N / 2>(at, first + N / 2);
        return Op::join(low, high);
    }
}

// Packs of a thread that are joined one by one.
constexpr int RUN = 16;

// Two sums that are taken together.
template <typename T> struct Both { T first, second; };
template <typename T> __device__ __forceinline__ Both<T> operator+(Both<T> a, Both<T> b) { return {a.first + b.first, a.second + b.second}; }

// What another thread of the warp has, and what another block writes.
template <typename T> __device__ __forceinline__ T of_lane(T x, int d) { return __shfl_xor_sync(0xffffffffu, x, d); }
template <typename T> __device__ __forceinline__ Both<T> of_lane(Both<T> x, int d) { return {of_lane(x.first, d), of_lane(x.second, d)}; }
template <typename T> __device__ __forceinline__ T of_block(const T* p) { return *(const volatile T*)p; }
template <typename T> __device__ __forceinline__ Both<T> of_block(const Both<T>* p) { return {of_block(&p->first), of_block(&p->second)}; }

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
    T all[SPLIT];
#pragma unroll
    for (int i = 0; i < SPLIT; ++i) {
        const T* there;
        asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(&mine), "r"(i));
        all[i] = of_block(there);
    }
    x = in_pairs<Op, SPLIT>([&](int i) { return all[i]; });
#endif
    return x;
}

// What the threads of a group hold together, for every one of them. The order of the operations is fixed.
template <typename Op, int WHICH = 0, typename T> __device__ __forceinline__ T across(T x) {
    if constexpr (APART) {
        __shared__ T all[THREADS];
        __syncthreads();
        all[threadIdx.x] = x;
        __syncthreads();
        return in_pairs<Op, GROUP>([&](int i) { return all[threadIdx.x % GROUPS + i * GROUPS]; });
    }
    #pragma unroll
    for (int d = (GROUP < 32 ? GROUP : 32) / 2; d > 0; d /= 2) x = Op::join(x, of_lane(x, d));
    if constexpr (GROUP > 32) {
        constexpr int WARPS = GROUP / 32;
        __shared__ T parts[THREADS / 32];
        const int warp = threadIdx.x / 32;
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[warp] = x;
        __syncthreads();
        x = parts[warp / WARPS * WARPS + threadIdx.x % WARPS];
        #pragma unroll
        for (int d = WARPS / 2; d > 0; d /= 2) x = Op::join(x, of_lane(x, d));
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
