// y = softmax(scale·q·kᵀ + mask)·v. Scores live in registers only: a block holds BM rows of q and walks over k and v in
// tiles of BN, keeping for each row the largest score so far, the sum of exponentials relative to it, and the result
// relative to it (Milakov and Gimelshein 2018, Dao et al. 2022). Exponentials are powers of two; the scale is folded into
// the exponent.
//
// Rows are those of all `g` heads of queries that share a head of k and v: row r is row r % m of head r / m. Warps divide
// the rows of a tile by WARPS_M and its columns by WARPS_N, and SPLIT blocks of a cluster take turns with the tiles; whoever
// divides keys has sums of its own, which are merged at the end.
//
// A tile lies in shared memory as lines of 16-byte chunks, heads padded with zeros to a multiple of 16 elements. With m16n8k16,
// lane l holds of A the rows l/4 and l/4 + 8 and two neighbouring columns from l%4·2 and l%4·2 + 8 on, of B the column l/4 and
// rows as A's columns, of C the rows of A and the columns from l%4·2 on: two tiles of C side by side are an A.

#if CLUSTERS
extern "C" __global__ void __cluster_dims__(SPLIT, 1, 1) bespoke_attention(const long long* __restrict__ slots);
#else
static_assert(SPLIT == 1, "blocks cannot work together");
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
constexpr int RM = WARP_ROWS / 16, CN = WARP_COLUMNS / 8;
constexpr int Q_CHUNKS = BM * (QC > VC ? QC : VC), K_CHUNKS = BN * QC, V_CHUNKS = BN * VC;
// fragments of q that are few enough stay in registers
constexpr bool KEEP_Q = RM * QC <= 16;
// copies of k and v that may still be under way when the next one that is needed must be there
constexpr int LATER = STAGES > 1 ? 2 * STAGES - 3 : 0;
constexpr float LOG2E = 1.4426950408889634f, LOWEST = -3.402823466e38f;
// without a mask the scale waits until the exponent is formed; a negative one would turn the order of the scores around
constexpr bool LATE = MASK == 0 && SCALE_LOG2E > 0;
constexpr float FACTOR = LATE ? SCALE_LOG2E : 1.0f;
static_assert(BM % (16 * WARPS_M) == 0 && BN % (16 * WARPS_N) == 0 && THREADS == 32 * WARPS_M * WARPS_N, "a warp works on tiles of 16");

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
// What lies at the same place in the shared memory of a block of the cluster.
__device__ __forceinline__ float4 peek(const float4* p, int block) {
#if CLUSTERS
    if (SPLIT > 1) {
        float4 x;
        asm volatile("{\n\t.reg .u32 at;\n\tmapa.shared::cluster.u32 at, %4, %5;\n\t"
                     "ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [at];\n\t}"
                     : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(shared_address(p)), "r"(block) : "memory");
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
                     : "=f"(x.x), "=f"(x.y) : "r"(shared_address(p)), "r"(block) : "memory");
        return x;
    }
#endif
    return *p;
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

KERNEL {
    ARGUMENTS
    extern __shared__ uint4 memory[];
    uint4* const shared_q = memory;
    uint4* const shared_k = memory + Q_CHUNKS;
    uint4* const shared_v = shared_k + STAGES * K_CHUNKS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / WARPS_N * WARP_ROWS, warp_column = warp % WARPS_N * WARP_COLUMNS;
    const int rows = g * m, tiles_n = ceil_div(n, BN);
    const long long tiles_m = ceil_div(rows, BM), all = BATCHES * tiles_m;
    // of the tiles of keys, this block has every SPLIT-th from its place in the cluster on
    const int place = blockIdx.x % SPLIT;
    const int steps = tiles_n > place ? ceil_div(tiles_n - place, SPLIT) : 0;

    for (long long item = blockIdx.x / SPLIT; item < all; item += gridDim.x / SPLIT) {
        long long batch = item / tiles_m;
        const int first = (int)(item - batch * tiles_m) * BM;
        DECODE_BATCH(batch)
        const T* const q_base = q + BATCH_OFFSET(q);
        const T* const k_base = k + BATCH_OFFSET(k);
        const T* const v_base = v + BATCH_OFFSET(v);
        T* const y_base = y + BATCH_OFFSET(y);
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
        copy<ROWS_WHOLE(q), BM, D, QC>(shared_q, q_base, COLUMN_STRIDE(q), q_vector, [&](int line, bool& there) {
            const int row = first + line, head = g == 1 ? 0 : row / m;
            there = row < rows;
            return q_base + head * GROUP_STRIDE(q) + (row - head * m) * ROW_STRIDE(q);
        });
#if MASK
        const E_TYPE* mask[RM][2];
        const bool mask_pairs = COLUMN_STRIDE(e0) == 1 && (ROW_STRIDE(e0) % 2 == 0 || m == 1) &&
                                (GROUP_STRIDE(e0) % 2 == 0 || g == 1) && is_aligned<2>(e0 + BATCH_OFFSET(e0));
#pragma unroll
        for (int i = 0; i < RM; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                // what is past the last row repeats it
                const int row = minimum(first + warp_row + i * 16 + h * 8 + lane / 4, rows - 1), head = g == 1 ? 0 : row / m;
                mask[i][h] = e0 + BATCH_OFFSET(e0) + head * GROUP_STRIDE(e0) + (row - head * m) * ROW_STRIDE(e0);
            }
        }
#endif
        unsigned int kept[RM][QC / 2][4];
        float o[RM][VC][4] = {};
        float top[RM][2], sum[RM][2];
#pragma unroll
        for (int i = 0; i < RM; ++i) {
            top[i][0] = top[i][1] = -infinity();
            sum[i][0] = sum[i][1] = 0;
        }

        // copies run ahead of the work by STAGES - 1 tiles; q comes with the first tile of k. Each of k and v is a group, so
        // that the products with k need not wait for v.
#pragma unroll 1
        for (int step = 0; step < steps + STAGES - 1; ++step) {
            const int tile = step - (STAGES - 1), key = (tile * SPLIT + place) * BN;
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
                            const E_TYPE* const p = mask[i][h] + at * COLUMN_STRIDE(e0);
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

#pragma unroll
                for (int i = 0; i < RM; ++i) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        float best = top[i][h];
#pragma unroll
                        for (int j = 0; j < CN; ++j) best = fmaxf(best, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
                        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
                        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
                        const float base = base_of(best);
                        if (tile > 0) {
                            const float shrink = power_of_two((top[i][h] - base) * FACTOR);
                            sum[i][h] *= shrink;
#pragma unroll
                            for (int j = 0; j < VC; ++j) {
                                o[i][j][2 * h] *= shrink;
                                o[i][j][2 * h + 1] *= shrink;
                            }
                        }
                        top[i][h] = best;
#pragma unroll
                        for (int j = 0; j < CN; ++j) {
#pragma unroll
                            for (int e = 2 * h; e < 2 * h + 2; ++e) {
                                s[i][j][e] = power_of_two(LATE ? fmaf(s[i][j][e], FACTOR, -base * FACTOR) : s[i][j][e] - base);
                                sum[i][h] += s[i][j][e];
                            }
                        }
                    }
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
                    for (int i = 0; i < RM; ++i) {
#pragma unroll
                        for (int r = 0; r < 4; ++r)
                            fp[i][r] = packed(s[i][j + r / 2][r % 2 * 2], s[i][j + r / 2][r % 2 * 2 + 1], T());
                    }
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
        // without any tile q may still be under way, and in no group yet
        if (steps == 0) commit();
        wait<0>();
        if (VC != QC || WARPS_N > 1 || SPLIT > 1 || steps == 0) __syncthreads();

        // the result of a row without a defined softmax; a sum over no keys is 0
        const float undefined = UNDEFINED_AS_ZERO || n <= 0 ? 0.0f : __int_as_float(0x7fffffff);
#pragma unroll
        for (int i = 0; i < RM; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                sum[i][h] += __shfl_xor_sync(0xffffffffu, sum[i][h], 1);
                sum[i][h] += __shfl_xor_sync(0xffffffffu, sum[i][h], 2);
            }
        }
        auto put = [&](int line, int chunk, const uint4& bits) {
            const int row = first + line, head = g == 1 ? 0 : row / m;
            if (row >= rows) return;
            T* const p = y_base + head * GROUP_STRIDE(y) + (row - head * m) * ROW_STRIDE(y) + chunk * 8 * COLUMN_STRIDE(y);
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
        } else {
            // every part relative to the largest score of all, in a strip each
            constexpr int PITCH = VC * 8 + 4, PARTS = SPLIT * WARPS_N;
            float* const strips = (float*)memory;
            float2* const known = (float2*)(strips + WARPS_N * BM * PITCH);
#pragma unroll
            for (int i = 0; i < RM; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    if (lane % 4 == 0)
                        known[warp % WARPS_N * BM + warp_row + i * 16 + h * 8 + lane / 4] = make_float2(top[i][h], sum[i][h]);
                }
            }
            meet();
#pragma unroll
            for (int i = 0; i < RM; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int line = warp_row + i * 16 + h * 8 + lane / 4;
                    float best = -infinity(), total = 0;
#pragma unroll
                    for (int w = 0; w < PARTS; ++w) best = fmaxf(best, peek(known + w % WARPS_N * BM + line, w / WARPS_N).x);
                    const float base = base_of(best);
#pragma unroll
                    for (int w = 0; w < PARTS; ++w) {
                        const float2 part = peek(known + w % WARPS_N * BM + line, w / WARPS_N);
                        total += part.y * power_of_two((part.x - base) * FACTOR);
                    }
                    const bool defined = total > 0;
                    const float scale = power_of_two((top[i][h] - base) * FACTOR) / total;
                    float* const at = strips + (warp % WARPS_N * BM + line) * PITCH + lane % 4 * 2;
#pragma unroll
                    for (int c = 0; c < VC; ++c)
                        *(float2*)(at + c * 8) = defined ? make_float2(o[i][c][2 * h] * scale, o[i][c][2 * h + 1] * scale)
                                                         : make_float2(undefined, undefined);
                }
            }
            meet();
#pragma unroll 1
            for (int at = place * THREADS + threadIdx.x; at < BM * (DV / 8); at += SPLIT * THREADS) {
                const int line = at / (DV / 8), chunk = at % (DV / 8);
                float x[8] = {};
#pragma unroll
                for (int w = 0; w < PARTS; ++w) {
                    const float4* const part = (const float4*)(strips + (w % WARPS_N * BM + line) * PITCH + chunk * 8);
                    const float4 low = peek(part, w / WARPS_N), high = peek(part + 1, w / WARPS_N);
                    x[0] += low.x, x[1] += low.y, x[2] += low.z, x[3] += low.w;
                    x[4] += high.x, x[5] += high.y, x[6] += high.z, x[7] += high.w;
                }
                put(line, chunk, make_uint4(packed(x[0], x[1], T()), packed(x[2], x[3], T()), packed(x[4], x[5], T()),
                                            packed(x[6], x[7], T())));
            }
            // nobody may go on, or end, while others read its memory
            if (SPLIT > 1) meet();
        }
    }
}
