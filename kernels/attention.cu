// y = softmax(scale·q·kᵀ + mask)·v. Scores live in registers only: a block holds BM rows of q and walks over k and v in
// tiles of BN, keeping for each row the largest score so far, the sum of exponentials relative to it, and the result
// relative to it (Milakov and Gimelshein 2018, Dao et al. 2022). Exponentials are powers of two; the scale is folded into
// the exponent.
//
// Rows are those of all `g` heads of queries that share a head of k and v: row r is row r % m of head r / m. A tile lies in
// shared memory as lines of 16-byte chunks, heads padded with zeros to a multiple of 16 elements. What multiplies is one of three
// engines: `walk` is in attention_mma.cuh, attention_wgmma.cuh or attention_streamed.cuh.

#if CLUSTERS
extern "C" __global__ void __cluster_dims__(SPLIT, 1, 1) bespoke_attention(const long long* __restrict__ slots);
#else
static_assert(SPLIT == 1, "blocks cannot work together");
#endif

// A barrier for all threads that share the rows.
__device__ __forceinline__ void meet() {
#if CLUSTERS
    if (SPLIT > 1) {
        asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
        return;
    }
#endif
    __syncthreads();
}
// What lies at the same place in the shared memory of a block of the cluster. These stay between the meetings around them, which
// are volatile too, and many are under way together.
__device__ __forceinline__ float4 peek(const float4* p, int block) {
#if CLUSTERS
    if (SPLIT > 1) {
        float4 x;
        asm volatile("{\n\t.reg .u32 at;\n\tmapa.shared::cluster.u32 at, %4, %5;\n\t"
                     "ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [at];\n\t}"
                     : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(shared_address(p)), "r"(block));
        return x;
    }
#endif
    return *p;
}
__device__ __forceinline__ float2 peek(const float2* p, int block) {
#if CLUSTERS
    if (SPLIT > 1) {
        float2 x;
        asm volatile("{\n\t.reg .u32 at;\n\tmapa.shared::cluster.u32 at, %2, %3;\n\t"
                     "ld.shared::cluster.v2.f32 {%0,%1}, [at];\n\t}"
                     : "=f"(x.x), "=f"(x.y) : "r"(shared_address(p)), "r"(block));
        return x;
    }
#endif
    return *p;
}

KERNEL {
    ARGUMENTS
    SHARED(memory)
    uint4* const shared_q = memory;
    uint4* const shared_k = memory + Q_CHUNKS;
    uint4* const shared_v = shared_k + STAGES * K_CHUNKS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / WARPS_N * WARP_ROWS, warp_column = warp % WARPS_N * WARP_COLUMNS;
    const int rows = g * m, tiles_n = ceil_div(n, BN);
    // a tile has results of a kilobyte and more, or of a whole row, so that 32 bits count them
    const int tiles_m = ceil_div(rows, BM), all = (int)(BATCHES * tiles_m);
    // of the tiles of keys, this block has every SPLIT-th from its place in the cluster on
    const int place = blockIdx.x % SPLIT;
    const int steps = tiles_n > place ? ceil_div(tiles_n - place, SPLIT) : 0;
    // Where a row of an operand begins, by its line in this item's tile, and whether there is one.
#define ROW_OF(v) \
    [&](int line, bool& there) { \
        const int row = first + line, head = g == 1 ? 0 : row / m; \
        there = row < rows; \
        return v##_base + head * GROUP_STRIDE(v) + (row - head * m) * ROW_STRIDE(v); \
    }
#if WGMMA
    Ring keys(shared_address(shared_v + STAGES * V_CHUNKS)), values(keys.full + RING_BYTES);
    if (threadIdx.x == 0) {
        keys.open();
        values.open();
    }
    __syncthreads();
    if (threadIdx.x >= COMPUTING) {
        give_registers<FEW>();
        if (threadIdx.x < COMPUTING + 32) {
            acquire_map(k_map);
            acquire_map(v_map);
            for (int item = blockIdx.x; item < all; item += gridDim.x) {
                int batch = item / tiles_m;
                DECODE_BATCH(batch)
                const int at[3] = BATCH_PLACE;
                // in the order in which they are needed
#pragma unroll 1
                for (int tile = 0; tile <= steps; ++tile) {
                    if (tile < steps) bring<QC>(keys, shared_k, k_map, tile * BN, at);
                    if (tile > 0) bring<VC>(values, shared_v, v_map, (tile - 1) * BN, at);
                }
            }
        }
        return;
    }
    take_registers<FEW>();
    const Turns turns;
    const unsigned int group_q = shared_address(shared_q + threadIdx.x / 128 * (64 * LINE_QC));
    auto copy_q = [&](int item) {
        int batch = item / tiles_m;
        const int first = (item - batch * tiles_m) * BM + threadIdx.x / 128 * 64;
        DECODE_BATCH(batch)
        const T* const q_base = q + BATCH_OFFSET(q);
        copy_rows(group_q, q_base, ROW_OF(q));
    };
    if (blockIdx.x < all) copy_q(blockIdx.x);
#endif

    for (int item = blockIdx.x / SPLIT; item < all; item += gridDim.x / SPLIT) {
        int batch = item / tiles_m;
        const int first = (item - batch * tiles_m) * BM;
        DECODE_BATCH(batch)
        T* const y_base = y + BATCH_OFFSET(y);
#if WGMMA
        // this item's q, which was asked for while the item before was worked on
        wait<0>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        meet_group();
#elif STREAMED
        static_assert(ROWS_WHOLE(q) && ROWS_WHOLE(y) && KEYS_WHOLE(k) && KEYS_WHOLE(v), "lines are whole chunks");
        constexpr bool y_vector = true;
        const T* const q_base = q + BATCH_OFFSET(q);
        const T* const k_base = k + BATCH_OFFSET(k);
        const T* const v_base = v + BATCH_OFFSET(v);
        auto row_of_q = ROW_OF(q);
        auto part_of_q = [&](int line, int chunk) {
            bool there;
            const T* const p = row_of_q(line, there) + chunk * 8;
            return there ? *(const uint4*)p : make_uint4(0, 0, 0, 0);
        };
        auto line_k = [&](int key) { return k_base + key * KEY_ROW_STRIDE(k); };
        auto line_v = [&](int key) { return v_base + key * KEY_ROW_STRIDE(v); };
#else
        const T* const q_base = q + BATCH_OFFSET(q);
        const T* const k_base = k + BATCH_OFFSET(k);
        const T* const v_base = v + BATCH_OFFSET(v);
        const bool q_vector = COLUMN_STRIDE(q) == 1 && (ROW_STRIDE(q) % 8 == 0 || m == 1) && (GROUP_STRIDE(q) % 8 == 0 || g == 1) &&
                              is_aligned<8>(q_base);
        const bool k_vector = KEY_COLUMN_STRIDE(k) == 1 && (KEY_ROW_STRIDE(k) % 8 == 0 || n == 1) && is_aligned<8>(k_base);
        const bool v_vector = KEY_COLUMN_STRIDE(v) == 1 && (KEY_ROW_STRIDE(v) % 8 == 0 || n == 1) && is_aligned<8>(v_base);
        const bool y_vector = COLUMN_STRIDE(y) == 1 && (ROW_STRIDE(y) % 8 == 0 || m == 1) && (GROUP_STRIDE(y) % 8 == 0 || g == 1) &&
                              is_aligned<8>(y_base);
        auto copy_k = [&](int step) {
            const int key = (step * SPLIT + place) * BN;
            copy<KEYS_WHOLE(k), BN, D, QC>(shared_k + step % STAGES * K_CHUNKS, k_base, KEY_COLUMN_STRIDE(k), k_vector, [&](int line, bool& there) {
                there = key + line < n;
                return k_base + (key + line) * KEY_ROW_STRIDE(k);
            });
        };
        auto copy_v = [&](int step) {
            const int key = (step * SPLIT + place) * BN;
            copy<KEYS_WHOLE(v), BN, DV, VC>(shared_v + step % STAGES * V_CHUNKS, v_base, KEY_COLUMN_STRIDE(v), v_vector, [&](int line, bool& there) {
                there = key + line < n;
                return v_base + (key + line) * KEY_ROW_STRIDE(v);
            });
        };

        // whatever this block did before is finished with its memory
        __syncthreads();
        copy<ROWS_WHOLE(q), BM, D, QC>(shared_q, q_base, COLUMN_STRIDE(q), q_vector, ROW_OF(q));
#endif
        // The lines of which a lane has sums.
        auto line_of = [&](int i, int h) { return STREAMED ? lane % 4 * 2 + h : warp_row + i * 16 + h * 8 + lane / 4; };
#if MASK
        // A mask of known neighbours is read in pairs, of which both keys are there or neither. wgmma reads it while scores are
        // multiplied, for the two rows of a lane or what all rows share; one of four bytes would take too many registers for two.
        constexpr bool PAIRED = COLUMN_DIVISOR(e0) == 1 && n_DIVISOR % 2 == 0 && ROW_DIVISOR(e0) % 2 == 0 &&
                                (g_DIVISOR == 1 || GROUP_DIVISOR(e0) % 2 == 0) && BATCHES_DIVISIBLE(e0, 2);
        constexpr bool SHARED_MASK = ROW_DIVISOR(e0) == 0 && (g_DIVISOR == 1 || GROUP_DIVISOR(e0) == 0);
        constexpr int AHEAD = !WGMMA || !PAIRED ? 0 : SHARED_MASK ? 1 : sizeof(E_TYPE) <= 2 ? 2 : 0;
        Pack<E_TYPE, 2> ahead_mask[AHEAD ? AHEAD : 1][CN];
        const E_TYPE* mask[RM][2];
        const bool mask_pairs = COLUMN_STRIDE(e0) == 1 && (ROW_STRIDE(e0) % 2 == 0 || m == 1) &&
                                (GROUP_STRIDE(e0) % 2 == 0 || g == 1) && is_aligned<2>(e0 + BATCH_OFFSET(e0));
#pragma unroll
        for (int i = 0; i < RM; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // what is past the last row repeats it
                const int row = minimum(first + line_of(i, h), rows - 1), head = g == 1 ? 0 : row / m;
                mask[i][h] = e0 + BATCH_OFFSET(e0) + head * GROUP_STRIDE(e0) + (row - head * m) * ROW_STRIDE(e0);
            }
        }
#endif
        Sums o = {};
        float top[RM][2], sum[RM][2];
#pragma unroll
        for (int i = 0; i < RM; ++i) {
            top[i][0] = top[i][1] = -infinity();
            sum[i][0] = sum[i][1] = 0;
        }

#if WGMMA
        auto look = [&](int tile) {
#if MASK
            const int column = tile * BN + lane % 4 * 2;
#pragma unroll
            for (int h = 0; h < AHEAD; ++h) {
#pragma unroll
                for (int j = 0; j < CN; ++j)
                    ahead_mask[h][j] = *(const Pack<E_TYPE, 2>*)(mask[0][h] + minimum(column + j * 8, n - 2));
            }
#endif
        };
#endif
        // scores under scale and mask; none behind the last key
#if STREAMED
        auto see = [&](float (&s)[4], int key) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int at = key + lane / 4 + e / 2 * 8;
                if (!LATE) s[e] *= SCALE_LOG2E;
#if MASK
                if (at < n) s[e] = masked(s[e], mask[0][e % 2] + at * COLUMN_STRIDE(e0));
#endif
                if (at >= n) s[e] = -infinity();
            }
        };
#else
        auto see = [&](float (&s)[RM][CN][4], int tile) {
            const int key = (tile * SPLIT + place) * BN;
            const int column = key + warp_column + lane % 4 * 2;
            if (!LATE) {
#pragma unroll
                for (int i = 0; i < RM; ++i) {
#pragma unroll
                    for (int e = 0; e < CN * 4; ++e) s[i][e / 4][e % 4] *= SCALE_LOG2E;
                }
            }
#if MASK
#pragma unroll
            for (int j = 0; j < CN; ++j) {
                const int at = column + j * 8;
#pragma unroll
                for (int i = 0; i < RM; ++i) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        float &left = s[i][j][2 * h], &right = s[i][j][2 * h + 1];
                        if constexpr (AHEAD > 0) {
                            left = masked(left, &ahead_mask[h % AHEAD][j].at[0]);
                            right = masked(right, &ahead_mask[h % AHEAD][j].at[1]);
                            continue;
                        }
                        const E_TYPE* const p = mask[i][h] + at * COLUMN_STRIDE(e0);
                        if constexpr (PAIRED) {
                            if (at < n) {
                                const Pack<E_TYPE, 2> pair = *(const Pack<E_TYPE, 2>*)p;
                                left = masked(left, &pair.at[0]);
                                right = masked(right, &pair.at[1]);
                            }
                            continue;
                        }
                        if (mask_pairs && at + 1 < n) {
                            const Pack<E_TYPE, 2> pair = *(const Pack<E_TYPE, 2>*)p;
                            left = masked(left, &pair.at[0]);
                            right = masked(right, &pair.at[1]);
                        } else {
                            if (at < n) left = masked(left, p);
                            if (at + 1 < n) right = masked(right, p + COLUMN_STRIDE(e0));
                        }
                    }
                }
            }
#endif
            if (key + BN > n) {
#pragma unroll
                for (int j = 0; j < CN; ++j) {
#pragma unroll
                    for (int i = 0; i < RM; ++i) {
                        if (column + j * 8 >= n) s[i][j][0] = s[i][j][2] = -infinity();
                        if (column + j * 8 + 1 >= n) s[i][j][1] = s[i][j][3] = -infinity();
                    }
                }
            }
        };
#endif
#if WGMMA
        auto ahead = [&] {
            meet_group();
            if (item + gridDim.x < all) copy_q(item + gridDim.x);
        };
        walk(o, top, sum, group_q, shared_k, shared_v, keys, values, turns, steps, look, see, ahead);
        if (steps == 0) ahead();
#elif STREAMED
        walk(o, top[0], sum[0], (place * WARPS_N + warp) * 16, SPLIT * BN, n, part_of_q, line_k, line_v, see);
        // what was read of the item before is done with
        __syncthreads();
#else
        walk(o, top, sum, shared_q, shared_k, shared_v, steps, copy_k, copy_v, see);
        // without any tile q may still be under way, and in no group yet
        if (steps == 0) commit();
        wait<0>();
        if (VC != QC || WARPS_N > 1 || SPLIT > 1 || steps == 0) __syncthreads();
#endif

        // the result of a row without a defined softmax; a sum over no keys is 0
        const float undefined = UNDEFINED_AS_ZERO || n <= 0 ? 0.0f : __int_as_float(0x7fffffff);
#pragma unroll
        for (int i = 0; i < RM; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // lanes that have columns (of streamed keys: rows) of the same line
                sum[i][h] += __shfl_xor_sync(0xffffffffu, sum[i][h], STREAMED ? 4 : 1);
                sum[i][h] += __shfl_xor_sync(0xffffffffu, sum[i][h], STREAMED ? 8 : 2);
                if (STREAMED) sum[i][h] += __shfl_xor_sync(0xffffffffu, sum[i][h], 16);
            }
        }
        auto row_of_y = ROW_OF(y);
#if WGMMA
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const bool defined = sum[0][h] > 0;
            const float scale = 1.0f / sum[0][h];
            bool there;
            T* const p = row_of_y(warp_row + h * 8 + lane / 4, there);
#pragma unroll
            for (int c = 0; c < VC; c += 4) {
                unsigned int pairs[4] = {};
#pragma unroll
                for (int j = 0; j < minimum(4, VC - c); ++j)
                    pairs[j] = packed(defined ? o[0][c + j][2 * h] * scale : undefined,
                                      defined ? o[0][c + j][2 * h + 1] * scale : undefined, T());
                const uint4 bits = gathered(pairs);
                const int chunk = c + lane % 4;
                if (there && chunk < DV / 8) *(uint4*)(p + chunk * 8) = bits;
            }
        }
#else
        auto put = [&](int line, int chunk, const uint4& bits) {
            bool there;
            T* const p = row_of_y(line, there) + chunk * 8 * COLUMN_STRIDE(y);
            if (!there) return;
            if (ROWS_WHOLE(y) || y_vector) {
                *(uint4*)p = bits;
                return;
            }
            if constexpr (!ROWS_WHOLE(y)) {
                Chunk c;
                c.bits = bits;
#pragma unroll
                for (int j = 0; j < 8; ++j) p[j * COLUMN_STRIDE(y)] = c.v[j];
            }
        };
#if !STREAMED
        if constexpr (WARPS_N == 1 && SPLIT == 1) {
            // through the memory of q: a warp's rows are its own business
#pragma unroll
            for (int i = 0; i < RM; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const bool defined = sum[i][h] > 0;
                    const float scale = 1.0f / sum[i][h];
#pragma unroll
                    for (int c = 0; c < VC; ++c) {
                        const float left = defined ? o[i][c][2 * h] * scale : undefined;
                        const float right = defined ? o[i][c][2 * h + 1] * scale : undefined;
                        uint4* const at = shared_q + swizzled<VC>(warp_row + i * 16 + h * 8 + lane / 4, c);
                        ((unsigned int*)at)[lane % 4] = packed(left, right, T());
                    }
                }
            }
            __syncwarp();
#pragma unroll 4
            for (int at = lane; at < WARP_ROWS * (DV / 8); at += 32) {
                const int line = warp_row + at / (DV / 8), chunk = at % (DV / 8);
                put(line, chunk, shared_q[swizzled<VC>(line, chunk)]);
            }
        } else
#endif
        {
            // Each warp's part relative to the largest score of the block, in a strip of its own. Where the block is alone, that is the
            // result but for the sum; otherwise its strips become one, relative to what others are told beside it.
            constexpr int PITCH = VC * 8 + 4, LAST = SPLIT > 1 ? SPLIT : WARPS_N;
            float* const strips = (float*)memory;
            float2* const known = (float2*)(strips + WARPS_N * BM * PITCH);
            float2* const whole = known + WARPS_N * BM;
#pragma unroll
            for (int i = 0; i < RM; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    if (STREAMED ? lane < 4 : lane % 4 == 0)
                        known[warp % WARPS_N * BM + line_of(i, h)] = make_float2(top[i][h], sum[i][h]);
                }
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < RM; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int line = line_of(i, h);
                    float2 parts[WARPS_N];
                    float best = -infinity(), total = 0;
#pragma unroll
                    for (int w = 0; w < WARPS_N; ++w) {
                        parts[w] = known[w * BM + line];
                        best = fmaxf(best, parts[w].x);
                    }
                    const float base = base_of(best);
#pragma unroll
                    for (int w = 0; w < WARPS_N; ++w) total += parts[w].y * power_of_two((parts[w].x - base) * FACTOR);
                    if (warp % WARPS_N == 0 && (STREAMED ? lane < 4 : lane % 4 == 0)) whole[line] = make_float2(best, total);
                    const bool defined = SPLIT > 1 || total > 0;
                    const float scale = power_of_two((top[i][h] - base) * FACTOR) / (SPLIT > 1 ? 1.0f : total);
                    float* const at = strips + (warp % WARPS_N * BM + line) * PITCH;
                    auto set = [&](int column, float left, float right) {
                        *(float2*)(at + column) = defined ? make_float2(left * scale, right * scale) : make_float2(undefined, undefined);
                    };
#if STREAMED
#pragma unroll
                    for (int c = 0; c < VC / 2; ++c) set(c / 4 * 64 + lane / 4 * 8 + c % 4 * 2, o[c][h], o[c][2 + h]);
#else
#pragma unroll
                    for (int c = 0; c < VC; ++c) set(c * 8 + lane % 4 * 2, o[i][c][2 * h], o[i][c][2 * h + 1]);
#endif
                }
            }
            if constexpr (SPLIT > 1 && WARPS_N > 1) {
                __syncthreads();
                for (int at = threadIdx.x; at < BM * (DV / 4); at += THREADS) {
                    float4* const to = (float4*)(strips + at / (DV / 4) * PITCH) + at % (DV / 4);
                    float4 x = *to;
#pragma unroll
                    for (int w = 1; w < WARPS_N; ++w) {
                        const float4 more = to[w * BM * PITCH / 4];
                        x.x += more.x, x.y += more.y, x.z += more.z, x.w += more.w;
                    }
                    *to = x;
                }
            }
            meet();
#pragma unroll 1
            for (int at = place * THREADS + threadIdx.x; at < BM * (DV / 8); at += SPLIT * THREADS) {
                const int line = at / (DV / 8), chunk = at % (DV / 8);
                float x[8] = {}, total = 0, weight[LAST];
                float2 parts[LAST];
                if constexpr (SPLIT > 1) {
                    float best = -infinity();
#pragma unroll
                    for (int p = 0; p < LAST; ++p) {
                        parts[p] = peek(whole + line, p);
                        best = fmaxf(best, parts[p].x);
                    }
#pragma unroll
                    for (int p = 0; p < LAST; ++p) {
                        weight[p] = power_of_two((parts[p].x - base_of(best)) * FACTOR);
                        total += parts[p].y * weight[p];
                    }
#pragma unroll
                    for (int p = 0; p < LAST; ++p) weight[p] = weight[p] / total;
                }
                // eight parts are under way together
                constexpr int FLIGHT = LAST % 8 == 0 ? 8 : LAST;
#pragma unroll
                for (int first_part = 0; first_part < LAST; first_part += FLIGHT) {
                    float4 low[FLIGHT], high[FLIGHT];
#pragma unroll
                    for (int i = 0; i < FLIGHT; ++i) {
                        const int p = first_part + i;
                        const float4* const part = (const float4*)(strips + (SPLIT > 1 ? line : p * BM + line) * PITCH + chunk * 8);
                        low[i] = peek(part, p), high[i] = peek(part + 1, p);
                    }
#pragma unroll
                    for (int i = 0; i < FLIGHT; ++i) {
                        const float by = SPLIT > 1 ? weight[first_part + i] : 1.0f;
                        x[0] += low[i].x * by, x[1] += low[i].y * by, x[2] += low[i].z * by, x[3] += low[i].w * by;
                        x[4] += high[i].x * by, x[5] += high[i].y * by, x[6] += high[i].z * by, x[7] += high[i].w * by;
                    }
                }
                if (SPLIT > 1 && !(total > 0)) {
#pragma unroll
                    for (int j = 0; j < 8; ++j) x[j] = undefined;
                }
                put(line, chunk, make_uint4(packed(x[0], x[1], T()), packed(x[2], x[3], T()), packed(x[4], x[5], T()),
                                            packed(x[6], x[7], T())));
            }
            // nobody may go on, or end, while others read its memory
            if (SPLIT > 1) meet();
        }
#endif
    }
}
