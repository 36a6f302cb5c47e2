// The instructions that move and multiply tiles of 8×8 numbers of 16 bits, a warp at a time: what the engine of mma.sync
// and attention have in common; sums of f16 and tf32 are the engine's alone. The layout of the operands is the PTX ISA's, "Matrix fragments for mma.m16n8k16".

__device__ __forceinline__ unsigned int shared_address(const void* p) { return (unsigned int)__cvta_generic_to_shared(p); }

// Four 8×8 matrices; each lane names the line of one of them. `turned`: lines are columns.
__device__ __forceinline__ void load_matrices(unsigned int (&r)[4], const uint4* p, bool turned) {
    unsigned int at = shared_address(p);
    if (turned)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// The same of four 8×4 matrices of 32 bits whose lines are steps: what no instruction turns, each lane fetches for itself.
// `at` says where an element of matrix q is, given its line and its column.
template <typename F> __device__ __forceinline__ void fetch_turned(unsigned int (&r)[4], F&& at) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int q = 0; q < 4; ++q) r[q] = *at(q, lane % 4, lane / 4);
}

// f32 as tf32 has it: ten bits of fraction, to nearest, ties away from zero
__device__ __forceinline__ void round_to_tf32(unsigned int (&r)[4]) {
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (int q = 0; q < 4; ++q) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[q]) : "f"(__uint_as_float(r[q])));
#endif
}

// c += a·b on 16×8×16, of f32 on 16×8×8; c are the four sums that a lane has, or these as two pairs of f16.
__device__ __forceinline__ void multiply(unsigned int* c, const unsigned int (&a)[4], unsigned int b0, unsigned int b1, f16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
                 : "+r"(c[0]), "+r"(c[1]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3}, {%4}, {%0,%1};"
                 : "+r"(c[0]), "+r"(c[1]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3}, {%4}, {%0,%1};"
                 : "+r"(c[0]), "+r"(c[1]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float* c, const unsigned int (&a)[4], unsigned int b0, unsigned int b1, float) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
// Adds two pairs of f16 to four sums.
__device__ __forceinline__ void add_pairs(float* c, const unsigned int* pairs) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        f16 x;
        x.bits = (unsigned short)(pairs[q / 2] >> q % 2 * 16);
        c[q] += to_float(x);
    }
}
__device__ __forceinline__ void multiply(float* c, const unsigned int (&a)[4], unsigned int b0, unsigned int b1, f16) {
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
__device__ __forceinline__ void multiply(float* c, const unsigned int (&a)[4], unsigned int b0, unsigned int b1, bf16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    // no instruction does this before sm_80: each lane asks the others for what it needs; right, and slow
    const int lane = threadIdx.x % 32, row = lane & ~3, column = lane % 4 * 8;
#pragma unroll 1
    for (int k = 0; k < 8; ++k) {
        const unsigned int b = k < 4 ? b0 : b1;
        const unsigned int top = __shfl_sync(0xffffffffu, k < 4 ? a[0] : a[2], row + k % 4);
        const unsigned int low = __shfl_sync(0xffffffffu, k < 4 ? a[1] : a[3], row + k % 4);
        const unsigned int left = __shfl_sync(0xffffffffu, b, column + k % 4);
        const unsigned int right = __shfl_sync(0xffffffffu, b, column + 4 + k % 4);
        auto add = [](float& sum, unsigned int x, unsigned int y) {
            sum = fmaf(__uint_as_float(x << 16), __uint_as_float(y << 16), sum);
            sum = fmaf(__uint_as_float(x & 0xffff0000u), __uint_as_float(y & 0xffff0000u), sum);
        };
        add(c[0], top, left);
        add(c[1], top, right);
        add(c[2], low, left);
        add(c[3], low, right);
    }
#endif
}
