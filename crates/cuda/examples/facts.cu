// Kernels of the facts program. Every one takes the address of its slots and nothing else.

static __device__ __forceinline__ long long first() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
static __device__ __forceinline__ long long stride() { return (long long)gridDim.x * blockDim.x; }

// where kernels can be launched while the ones before them end: a small grid lets the next start, and all wait
#if __CUDA_ARCH__ >= 900
#define MEET                                                                     \
    if (gridDim.x <= 128) asm volatile("griddepcontrol.launch_dependents;");     \
    asm volatile("griddepcontrol.wait;" ::: "memory");
#else
#define MEET
#endif

// slots: input, output, number of floats
#define POINTWISE(NAME, EXPRESSION)                                              \
    extern "C" __global__ void __launch_bounds__(256) NAME(const long long* slots) { \
        const float* in = (const float*)slots[0];                                \
        float* out = (float*)slots[1];                                           \
        const long long n = slots[2];                                            \
        MEET                                                                     \
        for (long long i = first(); i < n; i += stride()) {                      \
            const float x = in[i];                                               \
            out[i] = (EXPRESSION);                                               \
        }                                                                        \
    }

POINTWISE(plus_one, x + 1.0f)
POINTWISE(twice, x * 2.0f)
POINTWISE(minus_three, x - 3.0f)

#if __CUDA_ARCH__ >= 900
// Each block fetches the 32 x 32 tile at column 32 * blockIdx.x, row 0 of the tensor that the map describes.
// slots: tensor map, output of 32 x 32 floats a block
template <bool ACQUIRE>
static __device__ __forceinline__ void fetch(const long long* slots) {
    __shared__ __align__(128) float tile[32 * 32];
    __shared__ __align__(8) unsigned long long barrier;
    unsigned tile_at, barrier_at;
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(tile_at) : "l"(tile));
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(barrier_at) : "l"(&barrier));
    const unsigned long long map = (unsigned long long)slots[0];
    float* out = (float*)slots[1] + 1024ll * blockIdx.x;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier_at) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        if (ACQUIRE) {
            asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
        }
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_at), "r"(4096) : "memory");
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
            ::"r"(tile_at), "l"(map), "r"(32 * (int)blockIdx.x), "r"(0), "r"(barrier_at) : "memory");
    }
    __syncthreads();
    unsigned done = 0;
    while (!done) {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(barrier_at) : "memory");
    }
    for (int i = threadIdx.x; i < 1024; i += blockDim.x) out[i] = tile[i];
}

extern "C" __global__ void __launch_bounds__(128) fetch_acquire(const long long* slots) { fetch<true>(slots); }
extern "C" __global__ void __launch_bounds__(128) fetch_plain(const long long* slots) { fetch<false>(slots); }
#endif
