// Attention's engine of wgmma, Hopper's own (sm_90a): four warps multiply 64 rows with a whole tile of keys straight from shared
// memory, and do something else meanwhile. While exponentials of one tile are formed, the values of the tile before are
// multiplied (Shah et al. 2024).
//
// Lines are cut into panels as wide as a swizzle of wgmma, 8, 4 or 2 chunks, of which the size of a head is a multiple. Rows of q
// and k run along the reduction; v is `turned`: its lines are steps of the reduction, and the instruction is told so. (PTX
// ISA, "Asynchronous warpgroup level matrix shared memory layout".)

#if WGMMA

static_assert(RM == 1 && WARPS_N == 1 && SPLIT == 1 && STAGES > 1, "a warpgroup has 64 rows, and the next tile is on its way");
static_assert(BN % 32 == 0 && BN <= 256, "values are multiplied 32 keys at a time");

// Chunks of a line of a panel, of heads with C chunks.
template <int C> constexpr int PANEL = C % 8 == 0 ? 8 : C % 4 == 0 ? 4 : 2;
constexpr int QP = PANEL<QC>, VP = PANEL<VC>;

template <int LINES, int C> __device__ __forceinline__ int slot(int line, int chunk) {
    constexpr int WIDTH = PANEL<C>;
    return chunk / WIDTH * (LINES * WIDTH) + swizzled<WIDTH>(line, chunk % WIDTH);
}

// What wgmma is told of an operand in shared memory, in units of 16 bytes: where it begins, how far apart panels are (which
// it asks of turned operands only), how far eight lines, and the swizzle, by the width of a panel. Further on in the operand is
// a larger number: the beginning has the lowest bits.
template <int WIDTH> __device__ __forceinline__ unsigned long long descriptor(const uint4* from, int panels_apart) {
    constexpr unsigned long long SWIZZLE = WIDTH == 8 ? 1 : WIDTH == 4 ? 2 : 3, EIGHT_LINES = 8 * WIDTH;
    return SWIZZLE << 62 | EIGHT_LINES << 32 | (unsigned long long)panels_apart << 16 | (shared_address(from) & 0x3ffff) / 16;
}

// Operands of the statements below: the sums, tile by tile of eight columns, come last, so that their numbers are the same for
// each width. What comes before would be inputs, but those are numbered behind all that is written, so it poses as such.
#define OCTET_0 "%9,%10,%11,%12,%13,%14,%15,%16"
#define OCTET_1 "%17,%18,%19,%20,%21,%22,%23,%24"
#define OCTET_2 "%25,%26,%27,%28,%29,%30,%31,%32"
#define OCTET_3 "%33,%34,%35,%36,%37,%38,%39,%40"
#define OCTET_4 "%41,%42,%43,%44,%45,%46,%47,%48"
#define OCTET_5 "%49,%50,%51,%52,%53,%54,%55,%56"
#define OCTET_6 "%57,%58,%59,%60,%61,%62,%63,%64"
#define OCTET_7 "%65,%66,%67,%68,%69,%70,%71,%72"
#define OCTET_8 "%73,%74,%75,%76,%77,%78,%79,%80"
#define OCTET_9 "%81,%82,%83,%84,%85,%86,%87,%88"
#define OCTET_10 "%89,%90,%91,%92,%93,%94,%95,%96"
#define OCTET_11 "%97,%98,%99,%100,%101,%102,%103,%104"
#define OCTET_12 "%105,%106,%107,%108,%109,%110,%111,%112"
#define OCTET_13 "%113,%114,%115,%116,%117,%118,%119,%120"
#define OCTET_14 "%121,%122,%123,%124,%125,%126,%127,%128"
#define OCTET_15 "%129,%130,%131,%132,%133,%134,%135,%136"
#define REGISTERS_16 OCTET_0
#define REGISTERS_32 REGISTERS_16 "," OCTET_1
#define REGISTERS_48 REGISTERS_32 "," OCTET_2
#define REGISTERS_64 REGISTERS_48 "," OCTET_3
#define REGISTERS_80 REGISTERS_64 "," OCTET_4
#define REGISTERS_96 REGISTERS_80 "," OCTET_5
#define REGISTERS_112 REGISTERS_96 "," OCTET_6
#define REGISTERS_128 REGISTERS_112 "," OCTET_7
#define REGISTERS_144 REGISTERS_128 "," OCTET_8
#define REGISTERS_160 REGISTERS_144 "," OCTET_9
#define REGISTERS_176 REGISTERS_160 "," OCTET_10
#define REGISTERS_192 REGISTERS_176 "," OCTET_11
#define REGISTERS_208 REGISTERS_192 "," OCTET_12
#define REGISTERS_224 REGISTERS_208 "," OCTET_13
#define REGISTERS_240 REGISTERS_224 "," OCTET_14
#define REGISTERS_256 REGISTERS_240 "," OCTET_15
#define SUMS_8(c, j) \
    "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3]), "+f"(c[j + 1][0]), "+f"(c[j + 1][1]), "+f"(c[j + 1][2]), "+f"(c[j + 1][3])
#define SUMS_16(c) SUMS_8(c, 0)
#define SUMS_32(c) SUMS_16(c), SUMS_8(c, 2)
#define SUMS_48(c) SUMS_32(c), SUMS_8(c, 4)
#define SUMS_64(c) SUMS_48(c), SUMS_8(c, 6)
#define SUMS_80(c) SUMS_64(c), SUMS_8(c, 8)
#define SUMS_96(c) SUMS_80(c), SUMS_8(c, 10)
#define SUMS_112(c) SUMS_96(c), SUMS_8(c, 12)
#define SUMS_128(c) SUMS_112(c), SUMS_8(c, 14)
#define SUMS_144(c) SUMS_128(c), SUMS_8(c, 16)
#define SUMS_160(c) SUMS_144(c), SUMS_8(c, 18)
#define SUMS_176(c) SUMS_160(c), SUMS_8(c, 20)
#define SUMS_192(c) SUMS_176(c), SUMS_8(c, 22)
#define SUMS_208(c) SUMS_192(c), SUMS_8(c, 24)
#define SUMS_224(c) SUMS_208(c), SUMS_8(c, 26)
#define SUMS_240(c) SUMS_224(c), SUMS_8(c, 28)
#define SUMS_256(c) SUMS_240(c), SUMS_8(c, 30)
#define PASTED(a, b) a##b
#define REGISTERS(n) PASTED(REGISTERS_, n)
#define SUMS(n, c) PASTED(SUMS_, n)(c)
#define QUOTED(n) #n
#define INSTRUCTION(n) "wgmma.mma_async.sync.aligned.m64n" QUOTED(n) "k16.f32." T_NAME "." T_NAME " {" REGISTERS(n) "}, "

// s = q·k, or s += q·k, of the steps of a panel: as many as a panel has pairs of chunks.
#define SCORES(a, b, add) INSTRUCTION(BN) a ", " b ", " add ", 1, 1, 0, 0;\n\t"
__device__ __forceinline__ void scores(float (&s)[CN][4], unsigned long long q, unsigned long long k, int add) {
    unsigned long long q1 = q + 2, q2 = q + 4, q3 = q + 6, k1 = k + 2, k2 = k + 4, k3 = k + 6;
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.s32 add, %8, 0;\n\t" SCORES("%0", "%4", "add")
#if D_PADDED % 32 == 0
                 SCORES("%1", "%5", "1")
#endif
#if D_PADDED % 64 == 0
                 SCORES("%2", "%6", "1") SCORES("%3", "%7", "1")
#endif
                 "}"
                 : "+l"(q), "+l"(q1), "+l"(q2), "+l"(q3), "+l"(k), "+l"(k1), "+l"(k2), "+l"(k3), "+r"(add), SUMS(BN, s));
}
// o += p·v, of 32 keys: two steps of 16 lines.
#if DV_PADDED % 64 == 0
#define STEP_OF_V "128"
#elif DV_PADDED % 32 == 0
#define STEP_OF_V "64"
#else
#define STEP_OF_V "32"
#endif
__device__ __forceinline__ void values(float (&o)[VC][4], unsigned int (&p)[2][4], unsigned long long v) {
    asm volatile("{\n\t.reg .b64 next;\n\tadd.s64 next, %8, " STEP_OF_V ";\n\t"
                 INSTRUCTION(DV_PADDED) "{%0,%1,%2,%3}, %8, 1, 1, 1, 1;\n\t"
                 INSTRUCTION(DV_PADDED) "{%4,%5,%6,%7}, next, 1, 1, 1, 1;\n\t}"
                 : "+r"(p[0][0]), "+r"(p[0][1]), "+r"(p[0][2]), "+r"(p[0][3]), "+r"(p[1][0]), "+r"(p[1][1]), "+r"(p[1][2]),
                   "+r"(p[1][3]), "+l"(v), SUMS(DV_PADDED, o));
}
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for the scores, behind which there are the products with values, or for these. The sums are operands, so that nothing
// that reads them moves to before.
__device__ __forceinline__ void finish_scores(float (&s)[CN][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 1;" : SUMS(BN, s)::"memory");
}
__device__ __forceinline__ void finish_values(float (&o)[VC][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : SUMS(DV_PADDED, o)::"memory");
}

// What is waited for after this is not waited for before the number is known. The assembler would wait first and compute then,
// since it sees no connection; a barrier for the threads that a number names it leaves in its place. They are all threads of
// the warp, but for a number that no sum of exponentials is.
__device__ __forceinline__ void hold(float sum) {
    asm volatile("bar.warp.sync %0;" ::"r"(sum < 0 ? 1u << threadIdx.x % 32 : 0xffffffffu) : "memory");
}
// Waits until all that this and other threads copied is there, but the last PENDING groups of copies, and visible to the units
// that wgmma reads with.
template <int PENDING> __device__ __forceinline__ void arrive() {
    wait<PENDING>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
}

// Adds the products of all tiles of keys to `o`.
template <typename K, typename V, typename S>
__device__ __forceinline__ void walk(float (&o)[RM][VC][4], float (&top)[RM][2], float (&sum)[RM][2], const uint4* shared_q,
                                     const uint4* shared_k, const uint4* shared_v, int steps, K copy_k, V copy_v, S see) {
    if (steps == 0) return;
    const unsigned long long from_q = descriptor<QP>(shared_q + threadIdx.x / 128 * (64 * QP), 1);
    const unsigned long long from_k = descriptor<QP>(shared_k, 1), from_v = descriptor<VP>(shared_v, BN * VP);
    float s[RM][CN][4];
    auto multiply_keys = [&](int tile) {
        const unsigned long long k = from_k + tile % STAGES * K_CHUNKS;
#pragma unroll
        for (int p = 0; p < QC / QP; ++p) scores(s[0], from_q + p * (BM * QP), k + p * (BN * QP), p);
    };

    unsigned int p[BN / 32][2][4];
    auto multiply_values = [&](int tile) {
        const unsigned long long v = from_v + tile % STAGES * V_CHUNKS;
#pragma unroll
        for (int i = 0; i < BN / 32; ++i) values(o[0], p[i], v + i * (32 * VP));
    };
    float shrink[2] = {1, 1};
    auto weigh = [&](int tile) {
        see(s, tile);
        exponentials(s[0], top[0], sum[0], tile == 0, [&](int h, float by) { shrink[h] = by; });
    };
    auto pack_all = [&] {
#pragma unroll
        for (int j = 0; j < CN; j += 2) {
            // not before this point: values may have been under way with what was packed before
            asm volatile("" : "+f"(s[0][j][0]), "+f"(s[0][j][1]), "+f"(s[0][j][2]), "+f"(s[0][j][3]));
            asm volatile("" : "+f"(s[0][j + 1][0]), "+f"(s[0][j + 1][1]), "+f"(s[0][j + 1][2]), "+f"(s[0][j + 1][3]));
            pack(p[j / 4][j / 2 % 2], s[0][j], s[0][j + 1]);
        }
    };

    // Copies run ahead of the work by STAGES tiles of k, and one less of v: those of v are multiplied a tile later. q comes
    // with the first tile of k.
#pragma unroll 1
    for (int tile = 0; tile < STAGES; ++tile) {
        if (tile < steps) copy_k(tile);
        if (tile > 0 && tile - 1 < steps) copy_v(tile - 1);
        commit();
    }
    arrive<STAGES - 1>();
    begin_products();
    multiply_keys(0);
    end_products();
    // behind the scores there is nothing yet
    end_products();
    finish_scores(s[0]);
    weigh(0);
    pack_all();

#pragma unroll 1
    for (int tile = 1; tile < steps; ++tile) {
        arrive<STAGES - 2>();
        begin_products();
        multiply_keys(tile);
        end_products();
        multiply_values(tile - 1);
        end_products();
        // into the stages that every warp has left
        const int next = tile - 1 + STAGES;
        if (next < steps) copy_k(next);
        if (next - 1 < steps) copy_v(next - 1);
        commit();
        finish_scores(s[0]);
        weigh(tile);
        hold(sum[0][0] + sum[0][1]);
        finish_values(o[0]);
#pragma unroll
        for (int j = 0; j < VC; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) o[0][j][e] *= shrink[e / 2];
        }
        pack_all();
    }
    arrive<STAGES - 2>();
    begin_products();
    multiply_values(steps - 1);
    end_products();
    finish_values(o[0]);
}

#endif
