// Attention's engine of mma.sync. Warps divide the rows of a tile by WARPS_M and its columns by WARPS_N, and SPLIT blocks of a
// cluster take turns with the tiles; whoever divides keys has sums of its own, which are merged at the end.
//
// With m16n8k16, lane l holds of A the rows l/4 and l/4 + 8 and two neighbouring columns from l%4·2 and l%4·2 + 8 on, of B the
// column l/4 and rows as A's columns, of C the rows of A and the columns from l%4·2 on.

#if !WGMMA && !STREAMED

// fragments of q that are few enough stay in registers
constexpr bool KEEP_Q = RM * QC <= 16;
// copies that are over when they return take registers, which there are no more of beside scores
constexpr bool AT_ONCE = __CUDA_ARCH__ < 800;
static_assert(!AT_ONCE || STAGES == 1, "nothing is on its way");
// copies of k and v that may still be under way when the next one that is needed must be there
constexpr int LATER = STAGES > 1 ? 2 * STAGES - 3 : 0;

// The place of a chunk that is c chunks further along the line than the one at `place`, c being even.
template <int C> __device__ __forceinline__ int moved(int place, int c) {
    constexpr int PERIOD = C % 8 == 0 ? 8 : C % 4 == 0 ? 4 : 2;
    return (place ^ c % PERIOD) + c / PERIOD * PERIOD;
}

// Adds the products of all tiles of keys to `o`.
template <typename K, typename V, typename S>
__device__ __forceinline__ void walk(float (&o)[RM][VC][4], float (&top)[RM][2], float (&sum)[RM][2], const uint4* shared_q,
                                     const uint4* shared_k, const uint4* shared_v, int steps, K copy_k, V copy_v, S see) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / WARPS_N * WARP_ROWS, warp_column = warp % WARPS_N * WARP_COLUMNS;
    unsigned int kept[RM][QC / 2][4];
    // which chunk of a tile this lane names the address of
    int from_q = swizzled<QC>(warp_row + lane % 16, lane / 16), from_k = swizzled<QC>(warp_column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    int from_v = swizzled<VC>(warp_column + lane % 16, lane / 16);
    // Copies run ahead of the work by STAGES - 1 tiles; q comes with the first tile of k. Each of k and v is a group, so that the
    // products with k need not wait for v. With one stage v comes while k is multiplied, and the next k after that (Dao 2023).
    if (STAGES == 1 && steps > 0) {
        copy_k(0);
        commit();
        copy_v(0);
        commit();
    }
#pragma unroll 1
    for (int step = 0; step < steps + STAGES - 1; ++step) {
        const int tile = step - (STAGES - 1);
        // Places are computed where they are needed: eight of each would take registers that sums could have. With a mask the compiler
        // has its own ways to save some.
        if (MASK == 0) asm volatile("" : "+r"(from_q), "+r"(from_k), "+r"(from_v));
        // of what was asked for, all but this tile's v and later tiles must be there
        STAGES == 1 && step == 0 ? wait<1>() : wait<LATER>();
        __syncthreads();
        if (STAGES > 1 && step < steps) copy_k(step);
        if (STAGES == 1 && step > 0) copy_v(step);
        commit();

        float s[RM][CN][4] = {};
        if (tile >= 0) {
            const uint4* const from = shared_k + tile % STAGES * K_CHUNKS;
#pragma unroll
            for (int c = 0; c < QC; c += 2) {
                unsigned int fq[RM][4];
#pragma unroll
                for (int i = 0; i < RM; ++i) {
                    const uint4* const at = shared_q + i * 16 * QC + moved<QC>(from_q, c);
                    if (!KEEP_Q) load_matrices(fq[i], at, false);
                    if (KEEP_Q && tile == 0) load_matrices(kept[i][c / 2], at, false);
                }
#pragma unroll
                for (int j = 0; j < CN; j += 2) {
                    unsigned int fk[4];
                    load_matrices(fk, from + j * 8 * QC + moved<QC>(from_k, c), false);
#pragma unroll
                    for (int i = 0; i < RM; ++i) {
                        multiply(s[i][j], KEEP_Q ? kept[i][c / 2] : fq[i], fk[0], fk[1], T());
                        multiply(s[i][j + 1], KEEP_Q ? kept[i][c / 2] : fq[i], fk[2], fk[3], T());
                    }
                }
            }
        }

        auto weigh = [&] {
            see(s, tile);
#pragma unroll
            for (int i = 0; i < RM; ++i) {
                float shrink[2];
                if (exponentials(s[i], top[i], sum[i], tile == 0, shrink)) correct(o[i], shrink);
            }
        };
        if (STAGES > 1 && tile >= 0) weigh();
        // likewise: all but later tiles
        wait<LATER>();
        __syncthreads();
        if (STAGES > 1 && step < steps) copy_v(step);
        if (STAGES == 1 && !AT_ONCE && step + 1 < steps) copy_k(step + 1);
        commit();
        if (STAGES == 1) weigh();
        if (tile >= 0) {
            const uint4* const from = shared_v + tile % STAGES * V_CHUNKS;
#pragma unroll
            for (int j = 0; j < CN; j += 2) {
                unsigned int fp[RM][4];
#pragma unroll
                for (int i = 0; i < RM; ++i) pack(fp[i], s[i][j], s[i][j + 1]);
#pragma unroll
                for (int c = 0; c < VC; c += 2) {
                    unsigned int fv[4];
                    load_matrices(fv, from + j * 8 * VC + moved<VC>(from_v, c), true);
#pragma unroll
                    for (int i = 0; i < RM; ++i) {
                        multiply(o[i][c], fp[i], fv[0], fv[1], T());
                        multiply(o[i][c + 1], fp[i], fv[2], fv[3], T());
                    }
                }
            }
        }
        if (AT_ONCE && step + 1 < steps) copy_k(step + 1);
    }
}

#endif
