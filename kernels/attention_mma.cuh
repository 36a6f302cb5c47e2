// Attention's engine of mma.sync. Warps divide the rows of a tile by WARPS_M and its columns by WARPS_N, and SPLIT blocks of a
// cluster take turns with the tiles; whoever divides keys has sums of its own, which are merged at the end.
//
// With m16n8k16, lane l holds of A the rows l/4 and l/4 + 8 and two neighbouring columns from l%4·2 and l%4·2 + 8 on, of B the
// column l/4 and rows as A's columns, of C the rows of A and the columns from l%4·2 on.

#if !WGMMA && !STREAMED

// fragments of q that are few enough stay in registers
constexpr bool KEEP_Q = RM * QC <= 16;
// copies of k and v that may still be under way when the next one that is needed must be there
constexpr int LATER = STAGES > 1 ? 2 * STAGES - 3 : 0;

// Adds the products of all tiles of keys to `o`.
template <typename K, typename V, typename S>
__device__ __forceinline__ void walk(float (&o)[RM][VC][4], float (&top)[RM][2], float (&sum)[RM][2], const uint4* shared_q,
                                     const uint4* shared_k, const uint4* shared_v, int steps, K copy_k, V copy_v, S see) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / WARPS_N * WARP_ROWS, warp_column = warp % WARPS_N * WARP_COLUMNS;
    unsigned int kept[RM][QC / 2][4];
    // copies run ahead of the work by STAGES - 1 tiles; q comes with the first tile of k. Each of k and v is a group, so
    // that the products with k need not wait for v.
#pragma unroll 1
    for (int step = 0; step < steps + STAGES - 1; ++step) {
        const int tile = step - (STAGES - 1);
        if (STAGES == 1) {
            if (step > 0) __syncthreads();
            copy_k(step);
            commit();
            copy_v(step);
            commit();
            wait<1>();
            __syncthreads();
        } else {
            // of what was asked for, all but this tile's v and later tiles must be there
            wait<LATER>();
            __syncthreads();
            if (step < steps) copy_k(step);
            commit();
        }

        float s[RM][CN][4] = {};
        if (tile >= 0) {
            const uint4* const from = shared_k + tile % STAGES * K_CHUNKS;
#pragma unroll
            for (int c = 0; c < QC; c += 2) {
                unsigned int fq[RM][4];
#pragma unroll
                for (int i = 0; i < RM; ++i) {
                    const uint4* const at = shared_q + swizzled<QC>(warp_row + i * 16 + lane % 16, c + lane / 16);
                    if (!KEEP_Q) load_matrices(fq[i], at, false);
                    if (KEEP_Q && tile == 0) load_matrices(kept[i][c / 2], at, false);
                }
#pragma unroll
                for (int j = 0; j < CN; j += 2) {
                    unsigned int fk[4];
                    load_matrices(fk, from + swizzled<QC>(warp_column + j * 8 + lane / 16 * 8 + lane % 8, c + lane / 8 % 2), false);
#pragma unroll
                    for (int i = 0; i < RM; ++i) {
                        multiply(s[i][j], KEEP_Q ? kept[i][c / 2] : fq[i], fk[0], fk[1], T());
                        multiply(s[i][j + 1], KEEP_Q ? kept[i][c / 2] : fq[i], fk[2], fk[3], T());
                    }
                }
            }

            see(s, tile);
#pragma unroll
            for (int i = 0; i < RM; ++i) {
                float shrink[2];
                if (exponentials(s[i], top[i], sum[i], tile == 0, shrink)) correct(o[i], shrink);
            }
        }

        if (STAGES == 1) {
            wait<0>();
            __syncthreads();
        } else {
            // likewise: all but later tiles
            wait<LATER>();
            __syncthreads();
            if (step < steps) copy_v(step);
            commit();
        }
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
                    load_matrices(fv, from + swizzled<VC>(warp_column + j * 8 + lane % 16, c + lane / 16), true);
#pragma unroll
                    for (int i = 0; i < RM; ++i) {
                        multiply(o[i][c], fp[i], fv[0], fv[1], T());
                        multiply(o[i][c + 1], fp[i], fv[2], fv[3], T());
                    }
                }
            }
        }
    }
}

#endif
