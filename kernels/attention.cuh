// What the engines of attention, attention_mma.cuh, attention_wgmma.cuh and attention_streamed.cuh, and the kernel around them have in common: copies
// into shared memory, masks, and the online softmax of a strip of 16 rows.
//
// A warp holds scores and results in strips, eight columns at a time as the tensor cores leave them: lane l has of each the
// rows l/4 and l/4 + 8 and the columns l%4·2 and l%4·2 + 1. Two such tiles side by side are the left operand of a product
// with 16 steps.

#ifndef WGMMA
#define WGMMA 0
#endif
#ifndef STREAMED
#define STREAMED 0
#endif
// wgmma gets its keys from the copy engine.
#define TMA WGMMA
// Threads that compute; behind them are four warps for the copy engine, if it is used.
constexpr int COMPUTING = THREADS - TMA * 128;
// The block's dynamic shared memory; wgmma wants it to begin at a multiple of 1,024 bytes.
#if WGMMA
#define SHARED(memory) \
    extern __shared__ uint4 dynamic_memory[]; \
    uint4* const memory = dynamic_memory + (1024 - shared_address(dynamic_memory) % 1024) % 1024 / 16;
#else
#define SHARED(memory) extern __shared__ uint4 memory[];
#endif

struct Chunk {
    union {
        uint4 bits;
        T v[8];
    };
    __device__ __forceinline__ Chunk() {}
};

constexpr int QC = (D + 15) / 16 * 2, VC = (DV + 15) / 16 * 2;
constexpr int WARP_ROWS = BM / WARPS_M, WARP_COLUMNS = BN / WARPS_N;
constexpr int RM = STREAMED ? 1 : WARP_ROWS / 16, CN = WARP_COLUMNS / 8;
// The results of a lane, as the engine has them.
#if STREAMED
typedef float Sums[VC / 2][4];
#else
typedef float Sums[RM][VC][4];
#endif
// Chunks of a line in shared memory: the engine of wgmma has panels of eight. Results of mma.sync go through the memory of q.
constexpr int LINE_QC = WGMMA ? (QC + 7) / 8 * 8 : QC, LINE_VC = WGMMA ? (VC + 7) / 8 * 8 : VC;
constexpr int Q_CHUNKS = BM * (!WGMMA && VC > QC ? VC : LINE_QC), K_CHUNKS = BN * LINE_QC, V_CHUNKS = BN * LINE_VC;
constexpr float LOG2E = 1.4426950408889634f, LOWEST = -3.402823466e38f;
// without a mask the scale waits until the exponent is formed; a negative one would turn the order of the scores around
constexpr bool LATE = MASK == 0 && SCALE_LOG2E > 0;
constexpr float FACTOR = LATE ? SCALE_LOG2E : 1.0f;
static_assert((STREAMED || BM % (16 * WARPS_M) == 0) && BN % (16 * WARPS_N) == 0 && COMPUTING == 32 * WARPS_M * WARPS_N, "a warp works on tiles of 16");

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// What exponents are relative to: any number will do for a row of nothing but −∞.
__device__ __forceinline__ float base_of(float top) { return top == -infinity() ? 0.0f : top; }

// Chunks of a line are exchanged so that eight lines' chunks of one column fall into different banks.
template <int C> __device__ __forceinline__ int swizzled(int line, int chunk) {
    constexpr int PERIOD = C % 8 == 0 ? 8 : C % 4 == 0 ? 4 : 2;
    return line * C + (chunk ^ ((unsigned int)line / (8 / PERIOD) % PERIOD));
}

__device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING> __device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Copies LINES lines of WIDTH elements to lines of C chunks, zeros beyond. `from(line, there)` is where a line begins and
// whether there is one; `any` is an address that may be read. With cp.async the copy is under way when this returns. A
// thread keeps to one chunk of a line, so that an address is a step from the one before. `vector` says whether chunks can be
// copied as 16 bytes, WHOLE that this is known.
template <bool WHOLE, int LINES, int WIDTH, int C, typename F>
__device__ __forceinline__ void copy(uint4* to, const T* any, long long stride, bool vector, F from) {
    constexpr int TOGETHER = THREADS / C;
    const int start = threadIdx.x / C, chunk = threadIdx.x % C;
    if (THREADS % C != 0 && start >= TOGETHER) return;
    if (WHOLE || vector) {
#if __CUDA_ARCH__ >= 800
#pragma unroll 2
        for (int line = start; line < LINES; line += TOGETHER) {
            bool there;
            const T* p = from(line, there);
            there = there && chunk * 8 < WIDTH;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to + swizzled<C>(line, chunk))),
                         "l"(there ? p + chunk * 8 : any), "r"(there ? 16 : 0)
                         : "memory");
        }
#else
        // several loads in flight together
        constexpr int BATCH = 4;
#pragma unroll 1
        for (int first = start; first < LINES; first += BATCH * TOGETHER) {
            uint4 held[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const int line = first + i * TOGETHER;
                bool there;
                const T* p = from(line, there);
                held[i] = line < LINES && there && chunk * 8 < WIDTH ? *(const uint4*)(p + chunk * 8) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const int line = first + i * TOGETHER;
                if (line < LINES) to[swizzled<C>(line, chunk)] = held[i];
            }
        }
#endif
        return;
    }
    if constexpr (!WHOLE) {
#pragma unroll 1
        for (int line = start; line < LINES; line += TOGETHER) {
            bool there;
            const T* p = from(line, there);
            p += chunk * 8 * stride;
            there = there && chunk * 8 < WIDTH;
            Chunk c;
#pragma unroll
            for (int j = 0; j < 8; ++j, p += stride) {
                c.v[j].bits = 0;
                if (there) c.v[j] = *p;
            }
            to[swizzled<C>(line, chunk)] = c.bits;
        }
    }
}

// Whether it is known that lines of a tensor are whole chunks: of those with a group axis, and of k and v.
#define ROWS_WHOLE(v) \
    (KNOWN && COLUMN_DIVISOR(v) == 1 && ROW_DIVISOR(v) % 8 == 0 && (g_DIVISOR == 1 || GROUP_DIVISOR(v) % 8 == 0) && BATCHES_DIVISIBLE(v, 8))
#define KEYS_WHOLE(v) (KNOWN && KEY_COLUMN_DIVISOR(v) == 1 && KEY_ROW_DIVISOR(v) % 8 == 0 && BATCHES_DIVISIBLE(v, 8))

// Two numbers as neighbours in a register.
__device__ __forceinline__ unsigned int packed(float low, float high, f16) {
#if __CUDA_ARCH__ >= 800
    unsigned int y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
#else
    return to_f16(low).bits | (unsigned int)to_f16(high).bits << 16;
#endif
}
__device__ __forceinline__ unsigned int packed(float low, float high, bf16) {
#if __CUDA_ARCH__ >= 800
    unsigned int y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
#else
    return to_bf16(low).bits | (unsigned int)to_bf16(high).bits << 16;
#endif
}

#if MASK
// A scaled score under its mask.
__device__ __forceinline__ float masked(float score, const E_TYPE* e) {
    if (MASK == 2) return load(e) ? score : FILL_LOG2E;
    const float by = (float)load(e), x = fmaf(by, LOG2E, score);
    // a mask of the lowest number must not become infinite by the change of base
    return WIDE_MASK && by != -infinity() && x < LOWEST ? LOWEST : x;
}
#endif

// A strip of scores becomes exponentials relative to a score of their rows: the largest so far, or one that is not much less, so
// that no exponential is more than 2^SLACK and what was summed before seldom needs to be corrected. (Numbers of 16 bits are as
// fine there as below 1.) Before the first tile there is nothing.
constexpr float SLACK = 6;

// The largest scores of the rows l/4 and l/4 + 8 that a lane has.
__device__ __forceinline__ float2 highest(const float (&s)[CN][4]) {
    // several chains, none of which waits for another
    float best[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        best[e] = s[0][e];
#pragma unroll
        for (int j = 1; j < CN; ++j) best[e] = fmaxf(best[e], s[j][e]);
    }
    return make_float2(fmaxf(best[0], best[1]), fmaxf(best[2], best[3]));
}
// What exponents are relative to from now on, and with them the sums. Says whether that has changed in any row of the warp: by
// `shrink`, of row l/4 + 8·h.
__device__ __forceinline__ bool raise(float2 best, float (&top)[2], float (&sum)[2], bool first, float (&shrink)[2], float (&base)[2]) {
    bool shrunk = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float now = h ? best.y : best.x;
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        if (!first) {
            const bool higher = now > top[h] + SLACK / FACTOR;
            now = higher ? now : top[h];
            shrink[h] = higher ? power_of_two((top[h] - base_of(now)) * FACTOR) : 1.0f;
            shrunk = shrunk || higher;
        }
        top[h] = now;
        base[h] = base_of(now) * FACTOR;
        sum[h] = first ? 0.0f : sum[h] * shrink[h];
    }
    return !first && __any_sync(0xffffffffu, shrunk);
}
__device__ __forceinline__ void weigh(float (&s)[4], const float (&base)[2], float (&part)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        s[e] = power_of_two(LATE ? fmaf(s[e], FACTOR, -base[e / 2]) : s[e] - base[e / 2]);
        part[e] += s[e];
    }
}
__device__ __forceinline__ void add(float (&sum)[2], const float (&part)[4]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) sum[h] += part[2 * h] + part[2 * h + 1];
}
// All of that at once.
__device__ __forceinline__ bool exponentials(float (&s)[CN][4], float (&top)[2], float (&sum)[2], bool first, float (&shrink)[2]) {
    float base[2], part[4] = {};
    const bool shrunk = raise(highest(s), top, sum, first, shrink, base);
#pragma unroll
    for (int j = 0; j < CN; ++j) weigh(s[j], base, part);
    add(sum, part);
    return shrunk;
}
// Sums of a strip become relative to another score.
__device__ __forceinline__ void correct(float (&o)[VC][4], const float (&shrink)[2]) {
#pragma unroll
    for (int j = 0; j < VC; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[j][e] *= shrink[e / 2];
    }
}
// The left operand of a product with 16 values, from the exponentials of their keys.
__device__ __forceinline__ void pack(unsigned int (&p)[4], const float (&left)[4], const float (&right)[4]) {
    p[0] = packed(left[0], left[1], T());
    p[1] = packed(left[2], left[3], T());
    p[2] = packed(right[0], right[1], T());
    p[3] = packed(right[2], right[3], T());
}
