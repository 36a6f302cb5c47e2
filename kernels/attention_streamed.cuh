// Attention's engine for at most eight rows of a group: decoding a token. It takes as long as keys and values take to arrive, so
// these go from global memory straight into registers, and no warp waits for another before its sums are complete.
//
// A warp has 16 keys at a time. They are the rows of mma's first operand and the rows of q its columns, so lane l has scores of
// the keys l/4 and l/4 + 8 for the rows l%4·2 and l%4·2 + 1 of q. It loads 16 bytes of each of its two keys' lines for every 32
// elements; which elements an instruction multiplies does not matter to a sum, as long as q is taken apart in the same way.
//
// For the second product the elements of values are the rows and keys are the steps: a lane loads 16 bytes, eight elements, of
// each of the lines l%4·2, l%4·2 + 1 and those eight further on; two lines' elements side by side in a register are what mma
// wants of two steps. Scores become its columns by a transposition between the lanes.

#if STREAMED

constexpr int KEY_PARTS = D / 32, VALUE_PARTS = DV / 64;
static_assert(D % 32 == 0 && DV % 64 == 0 && BM == 8 && BN == 16 * WARPS_N, "lanes share whole lines");

// 16 bytes that nobody reads again.
__device__ __forceinline__ uint4 stream(const T* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)));
    return v;
}
// An 8×8 matrix of halves, of which each lane has two neighbours in a line, with lines and columns exchanged.
__device__ __forceinline__ unsigned int exchanged(unsigned int x) {
    unsigned int y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
__device__ __forceinline__ unsigned int word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
// The first halves of two registers, and the second ones.
__device__ __forceinline__ unsigned int firsts(unsigned int a, unsigned int b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned int seconds(unsigned int a, unsigned int b) { return __byte_perm(a, b, 0x7632); }

// Adds the products of every WARPS_N·SPLIT-th 16 keys from `first` on to `o`: of its four numbers, the first and the second are the
// rows l%4·2 and l%4·2 + 1 of q at an even element, the others at the odd one behind it. `line_k` and `line_v` say where the line
// of a key begins; `see` puts scores under scale and mask.
template <typename Q, typename K, typename V, typename S>
__device__ __forceinline__ void walk(Sums& o, float (&top)[2], float (&sum)[2], int first, int apart, int keys, Q part_of_q, K line_k,
                                     V line_v, S see) {
    const int lane = threadIdx.x % 32;
    uint4 k[2][KEY_PARTS], v[4][VALUE_PARTS], q[KEY_PARTS];
    auto load_k = [&](int key) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            // beyond the last key it is read again, and not counted
            const T* const line = line_k(minimum(key + lane / 4 + h * 8, keys - 1)) + lane % 4 * 8;
#pragma unroll
            for (int c = 0; c < KEY_PARTS; ++c) k[h][c] = stream(line + c * 32);
        }
    };
    auto load_v = [&](int key) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const T* const line = line_v(minimum(key + lane % 4 * 2 + i % 2 + i / 2 * 8, keys - 1)) + lane / 4 * 8;
#pragma unroll
            for (int c = 0; c < VALUE_PARTS; ++c) v[i][c] = stream(line + c * 64);
        }
    };
    if (first < keys) {
        load_k(first);
        load_v(first);
    }
#pragma unroll
    for (int c = 0; c < KEY_PARTS; ++c) q[c] = part_of_q(lane / 4, c * 4 + lane % 4);
#pragma unroll 1
    for (int key = first; key < keys; key += apart) {
        float s[4] = {};
#pragma unroll
        for (int c = 0; c < KEY_PARTS; ++c) {
            const unsigned int front[4] = {k[0][c].x, k[1][c].x, k[0][c].y, k[1][c].y};
            const unsigned int back[4] = {k[0][c].z, k[1][c].z, k[0][c].w, k[1][c].w};
            multiply(s, front, q[c].x, q[c].y, T());
            multiply(s, back, q[c].z, q[c].w, T());
        }
        if (key + apart < keys) load_k(key + apart);
        see(s, key);

        bool shrunk = false;
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float now = fmaxf(s[h], s[2 + h]);
#pragma unroll
            for (int by = 4; by < 32; by *= 2) now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, by));
            // as in `exponentials`: a score that is not much less than the largest one will do
            const bool higher = key == first || now > top[h] + SLACK / FACTOR;
            shrink[h] = key == first ? 0.0f : higher ? power_of_two((top[h] - base_of(now)) * FACTOR) : 1.0f;
            shrunk = shrunk || higher;
            top[h] = higher ? now : top[h];
            const float base = base_of(top[h]) * FACTOR;
            s[h] = power_of_two(LATE ? fmaf(s[h], FACTOR, -base) : s[h] - base);
            s[2 + h] = power_of_two(LATE ? fmaf(s[2 + h], FACTOR, -base) : s[2 + h] - base);
            sum[h] = sum[h] * shrink[h] + (s[h] + s[2 + h]);
        }
        if (key > first && __any_sync(0xffffffffu, shrunk)) {
#pragma unroll
            for (int e = 0; e < VALUE_PARTS * 16; ++e) o[e / 4][e % 4] *= shrink[e % 2];
        }
        const unsigned int p0 = exchanged(packed(s[0], s[1], T())), p1 = exchanged(packed(s[2], s[3], T()));
        if (key + 16 > keys) {
            // nothing times a value that is not there must be nothing
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const bool there = key + lane % 4 * 2 + i % 2 + i / 2 * 8 < keys;
#pragma unroll
                for (int c = 0; c < VALUE_PARTS; ++c) v[i][c] = there ? v[i][c] : make_uint4(0, 0, 0, 0);
            }
        }
#pragma unroll
        for (int c = 0; c < VALUE_PARTS; ++c) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const unsigned int low[2] = {word(v[0][c], j), word(v[1][c], j)}, high[2] = {word(v[2][c], j), word(v[3][c], j)};
                const unsigned int a[4] = {firsts(low[0], low[1]), seconds(low[0], low[1]), firsts(high[0], high[1]),
                                           seconds(high[0], high[1])};
                multiply(o[c * 4 + j], a, p0, p1, T());
            }
        }
        if (key + apart < keys) load_v(key + apart);
    }
}

#endif
