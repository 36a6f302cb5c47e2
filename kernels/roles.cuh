// Warps with roles, where there is a copy engine (TMA, sm_90): one warp of a block only asks it for operands, far ahead of the
// others, and these only compute. Between them go stages of shared memory around. What comes before in a kernel's text says how
// many threads compute (COMPUTING); behind them are four warps, of which one asks.

#if TMA

// The warp that asks is one of four, which need FEW registers a thread; those that compute get the others.
template <int FEW> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEW));
}
template <int FEW> __device__ __forceinline__ void take_registers() {
    constexpr int GROUPS = COMPUTING / 128, EQUAL = 65536 / BLOCKS / THREADS / 8 * 8;
    constexpr int LEFT = (EQUAL * (GROUPS + 1) - FEW) / GROUPS / 8 * 8;
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(LEFT < 248 ? LEFT : 248));
}

// The host writes maps before a run, past the cache that the copy engine reads them with.
__device__ __forceinline__ void acquire_map(const void* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

// Where one is in a ring of stages. A stage has two barriers in shared memory: `full` opens when all its bytes have come, `empty`
// when all warps that compute have read it. Both sides go around in the same order. Where SHARERS blocks of a cluster bring each
// other bytes, a stage is empty when the warps of all of them have read theirs.
struct Ring {
    unsigned int full, empty;
    int stage = 0, phase = 0;

    // The barriers of a ring take RING_BYTES from here on.
    __device__ __forceinline__ explicit Ring(unsigned int barriers) : full(barriers), empty(barriers + STAGES * 8) {}
    // By one thread, before all others go on.
    template <int SHARERS = 1> __device__ __forceinline__ void open() const {
        for (int i = 0; i < STAGES; ++i) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full + i * 8) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + i * 8), "n"(COMPUTING / 32 * SHARERS) : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
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

    // The warp that asks: waits until the stage is free; one lane announces how many bytes will come.
    __device__ __forceinline__ void wait_empty() const { wait(empty + stage * 8, phase ^ 1); }
    __device__ __forceinline__ unsigned int barrier() const { return full + stage * 8; }
    template <int BYTES> __device__ __forceinline__ void expect() const {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier()), "n"(BYTES) : "memory");
    }
    // The warps that compute: wait until the stage's bytes are there; this one has read a stage.
    __device__ __forceinline__ void wait_full() const { wait(full + stage * 8, phase); }
    template <int SHARERS = 1> __device__ __forceinline__ void release(int stage) const {
        const unsigned int lane = threadIdx.x % 32;
        if constexpr (SHARERS == 1) {
            if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty + stage * 8) : "memory");
        } else if (lane < SHARERS) {
            unsigned int there;
            asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(empty + stage * 8), "r"(lane));
            // what was read is done by then; a release to the whole cluster would wait for more
            asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
        }
    }
};
constexpr int RING_BYTES = STAGES * 16;

#endif
