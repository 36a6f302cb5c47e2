// Attention's engine of wgmma, Hopper's own (sm_90a): four warps, a group, multiply 64 rows with a whole tile of keys straight
// from shared memory, and do something else meanwhile. The copy engine brings keys and values, which one warp asks for
// (roles.cuh), over the end of a tile of rows. While exponentials of one tile of keys are formed, the values of the tile before
// are multiplied; and groups take turns to begin products, so that one group's products run beside another's exponentials
// (Shah et al. 2024).
//
// Lines are cut into panels as wide as the widest swizzle, 8 chunks; what the last one has beyond the size of a head is copied
// as zeros and not multiplied. (Narrower panels would need less memory, but the copy engine takes them line by line, and became
// what all waited for.) Rows of q and k run along the reduction; v is `turned`: its lines are steps of the reduction, and the
// instruction is told so. (PTX ISA, "Asynchronous warpgroup level matrix shared memory layout".) A box of the copy engine is 32
// lines of a panel.

#if WGMMA

static_assert(RM == 1 && WARPS_N == 1 && SPLIT == 1 && STAGES > 1, "a group has 64 rows, and the next tile is on its way");
static_assert(BN % 32 == 0 && BN <= 256, "a tile of keys is whole boxes");
static_assert(ROWS_WHOLE(q) && ROWS_WHOLE(y) && KEYS_WHOLE(k) && KEYS_WHOLE(v), "the maps are known to be there");

// Registers of a thread of the warps that ask.
constexpr int FEW = 24;
constexpr int GROUPS = COMPUTING / 128;

// A group copies its rows of q, zeros beyond; the copies are under way when this returns. `from(line, there)` is where a row
// begins and whether there is one; `any` is an address that may be read.
template <typename F> __device__ __forceinline__ void copy_rows(unsigned int to, const T* any, F from) {
    const int chunk = threadIdx.x % 8;
#pragma unroll 1
    for (int line = threadIdx.x % 128 / 8; line < 64; line += 16) {
        bool there;
        const T* const p = from(line, there);
#pragma unroll
        for (int panel = 0; panel < (QC + 7) / 8; ++panel) {
            const bool inside = there && panel * 8 + chunk < D / 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + (panel * (64 * 8) + swizzled<8>(line, chunk)) * 16),
                         "l"(inside ? p + (panel * 8 + chunk) * 8 : any), "r"(inside ? 16 : 0)
                         : "memory");
        }
    }
    commit();
}

// What wgmma is told of an operand in shared memory, in units of 16 bytes: where it begins, how far apart panels are (which
// it asks of turned operands only), how far eight lines, and the swizzle. Further on in the operand is a larger number: the
// beginning has the lowest bits.
__device__ __forceinline__ unsigned long long descriptor(unsigned int from, unsigned int panels_apart) {
    constexpr unsigned int SWIZZLE = 1u << 30, EIGHT_LINES = 64;
    return (unsigned long long)(SWIZZLE | EIGHT_LINES) << 32 | (panels_apart << 16) + from;
}
// An address in these units.
__device__ __forceinline__ unsigned int place(unsigned int address) { return (address & 0x3ffff) / 16; }

// Operands of the statements below: five others, and the sums, tile by tile of eight columns, so that their numbers are the same
// for each width. What comes before would be inputs, but those are numbered behind all that is written, so it poses as such.
#define OCTET_0 "%5,%6,%7,%8,%9,%10,%11,%12"
#define OCTET_1 "%13,%14,%15,%16,%17,%18,%19,%20"
#define OCTET_2 "%21,%22,%23,%24,%25,%26,%27,%28"
#define OCTET_3 "%29,%30,%31,%32,%33,%34,%35,%36"
#define OCTET_4 "%37,%38,%39,%40,%41,%42,%43,%44"
#define OCTET_5 "%45,%46,%47,%48,%49,%50,%51,%52"
#define OCTET_6 "%53,%54,%55,%56,%57,%58,%59,%60"
#define OCTET_7 "%61,%62,%63,%64,%65,%66,%67,%68"
#define OCTET_8 "%69,%70,%71,%72,%73,%74,%75,%76"
#define OCTET_9 "%77,%78,%79,%80,%81,%82,%83,%84"
#define OCTET_10 "%85,%86,%87,%88,%89,%90,%91,%92"
#define OCTET_11 "%93,%94,%95,%96,%97,%98,%99,%100"
#define OCTET_12 "%101,%102,%103,%104,%105,%106,%107,%108"
#define OCTET_13 "%109,%110,%111,%112,%113,%114,%115,%116"
#define OCTET_14 "%117,%118,%119,%120,%121,%122,%123,%124"
#define OCTET_15 "%125,%126,%127,%128,%129,%130,%131,%132"
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

// s = q·k, or s += q·k, of 16 steps.
__device__ __forceinline__ void add_scores(float (&s)[CN][4], unsigned long long q, unsigned long long k, int add) {
    int none = 0, nothing = 0;
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.s32 add, %2, 0;\n\t" INSTRUCTION(BN) "%0, %1, add, 1, 1, 0, 0;\n\t}"
                 : "+l"(q), "+l"(k), "+r"(add), "+r"(none), "+r"(nothing), SUMS(BN, s));
}
// o += p·v, of 16 keys.
__device__ __forceinline__ void add_values(float (&o)[VC][4], unsigned int (&p)[4], unsigned long long v) {
    asm volatile(INSTRUCTION(DV_PADDED) "{%0,%1,%2,%3}, %4, 1, 1, 1, 1;"
                 : "+r"(p[0]), "+r"(p[1]), "+r"(p[2]), "+r"(p[3]), "+l"(v), SUMS(DV_PADDED, o));
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

// The largest scores of a lane's two rows where they are not negative, and some negative number where all are: as integers, whose
// order is that of floats which are not negative, and of which an instruction compares three.
__device__ __forceinline__ float2 highest_from_zero(const float (&s)[CN][4]) {
    int best[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        best[e] = __float_as_int(s[0][e]);
#pragma unroll
        for (int j = 1; j < CN; j += 2)
            best[e] = maximum(best[e], maximum(__float_as_int(s[j][e]), __float_as_int(s[j + 1 < CN ? j + 1 : j][e])));
    }
    return make_float2(__int_as_float(maximum(best[0], best[1])), __int_as_float(maximum(best[2], best[3])));
}

// What is waited for after this is not waited for before the number is known. The assembler would wait first and compute then,
// since it sees no connection; a barrier for the threads that a number names it leaves in its place. They are all threads of
// the warp, but for a number that no sum of exponentials is.
__device__ __forceinline__ void hold(float sum) {
    asm volatile("bar.warp.sync %0;" ::"r"(sum < 0 ? 1u << threadIdx.x % 32 : 0xffffffffu) : "memory");
}

// A barrier for the threads of a group.
__device__ __forceinline__ void meet_group() {
    asm volatile("bar.sync %0, 128;" ::"r"(1 + (int)threadIdx.x / 128) : "memory");
}
// Groups begin products in turn: each waits for the one before, and lets the next one go when its own are under way.
struct Turns {
    int mine, next;
    __device__ __forceinline__ Turns() {
        const int group = threadIdx.x / 128;
        mine = 1 + GROUPS + group;
        next = 1 + GROUPS + (group + 1) % GROUPS;
        if (group == GROUPS - 1) pass();
    }
    __device__ __forceinline__ void wait() const {
        if (GROUPS > 1) asm volatile("bar.sync %0, 256;" ::"r"(mine) : "memory");
    }
    __device__ __forceinline__ void pass() const {
        if (GROUPS > 1) asm volatile("bar.arrive %0, 256;" ::"r"(next) : "memory");
    }
};

// Asks for a tile of keys or values, the lines from `line` on of heads with C chunks, in the batch at these places.
template <int C> __device__ __forceinline__ void bring(Ring& ring, const uint4* to, const void* map, int line, const int (&batch)[3]) {
    constexpr int PANELS = (C + 7) / 8, BYTES = BN * PANELS * 128;
    ring.wait_empty();
    if (threadIdx.x % 32 == 0) {
        const unsigned int first = shared_address(to) + ring.stage * BYTES;
        ring.expect<BYTES>();
#pragma unroll
        for (int p = 0; p < PANELS; ++p)
#pragma unroll
            for (int i = 0; i < BN; i += 32)
                asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                             "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];"
                             ::"r"(first + (p * BN + i) * 128), "l"(map), "r"(p * 64), "r"(line + i), "r"(batch[0]),
                             "r"(batch[1]), "r"(batch[2]), "r"(ring.barrier())
                             : "memory");
    }
    __syncwarp();
    ring.next();
}

// Adds the products of all tiles of keys to `o`. `look` is for what is known of a tile before its scores are, `see` for these;
// `ahead` is done when q is needed no longer.
template <typename L, typename S, typename A>
__device__ __forceinline__ void walk(float (&o)[RM][VC][4], float (&top)[RM][2], float (&sum)[RM][2], unsigned int group_q,
                                     const uint4* shared_k, const uint4* shared_v, Ring& keys, Ring& values, const Turns& turns,
                                     int steps, L look, S see, A ahead) {
    if (steps == 0) return;
    // said so that the compiler sees that all lanes have the same
    const unsigned int from_q = __shfl_sync(0xffffffffu, place(group_q), 0);
    const unsigned int from_k = place(shared_address(shared_k)), from_v = place(shared_address(shared_v));
    float s[RM][CN][4];
    auto multiply_keys = [&] {
        const unsigned int k = from_k + keys.stage * K_CHUNKS;
#pragma unroll
        for (int c = 0; c < QC; c += 2)
            add_scores(s[0], descriptor(from_q + c / 8 * (64 * 8) + c % 8, 1), descriptor(k + c / 8 * (BN * 8) + c % 8, 1), c);
        end_products();
    };
    unsigned int p[CN / 2][4];
    auto multiply_values = [&] {
        const unsigned int v = from_v + values.stage * V_CHUNKS;
#pragma unroll
        for (int i = 0; i < CN / 2; ++i) add_values(o[0], p[i], descriptor(v + i * (16 * 8), BN * 8));
    };
    auto pack_at = [&](int j) {
        // not before this point: values may have been under way with what was packed before
        asm volatile("" : "+f"(s[0][j][0]), "+f"(s[0][j][1]), "+f"(s[0][j][2]), "+f"(s[0][j][3]));
        asm volatile("" : "+f"(s[0][j + 1][0]), "+f"(s[0][j + 1][1]), "+f"(s[0][j + 1][2]), "+f"(s[0][j + 1][3]));
        pack(p[j / 2], s[0][j], s[0][j + 1]);
    };
    auto leave = [](Ring& ring) {
        ring.release(ring.stage);
        ring.next();
    };
    // A tile of keys, whose values are multiplied with the next one: those of the tile before are, unless it is the first.
    auto advance = [&](int tile, bool first) {
        if (!first) values.wait_full();
        keys.wait_full();
        turns.wait();
        begin_products();
        multiply_keys();
        if (!first) multiply_values();
        end_products();
        turns.pass();
        look(tile);

        finish_scores(s[0]);
        leave(keys);
        if (tile == steps - 1) ahead();
        see(s, tile);
        float base[2], shrink[2], part[4] = {};
        // only a score above this raises what rows are relative to
        const float least = fminf(top[0][0], top[0][1]) + SLACK / FACTOR;
        const bool exact = first || __any_sync(0xffffffffu, !(least >= 0));
        const float2 best = exact ? highest(s[0]) : highest_from_zero(s[0]);
        const bool shrunk = raise(best, top[0], sum[0], first, shrink, base);
        constexpr int HALF = CN / 2;
#pragma unroll
        for (int j = 0; j < HALF; ++j) weigh(s[0][j], base, part);
        hold(sum[0][0] + (part[0] + part[1] + part[2] + part[3]));
        finish_values(o[0]);
        if (!first) {
            leave(values);
            if (shrunk) correct(o[0], shrink);
        }
        // what is packed of one half stands beside exponentials of the other, which leave the schedulers time for it
#pragma unroll
        for (int j = 0; j < HALF; ++j) {
            weigh(s[0][HALF + j], base, part);
            if (j % 2 == 0) pack_at(j);
        }
        add(sum[0], part);
#pragma unroll
        for (int j = HALF; j < CN; j += 2) pack_at(j);
    };

    advance(0, true);
#pragma unroll 1
    for (int tile = 1; tile < steps; ++tile) advance(tile, false);
    values.wait_full();
    begin_products();
    multiply_values();
    end_products();
    finish_values(o[0]);
    leave(values);
}

// What a lane of four has as pairs of neighbours in four chunks, two each, becomes one chunk: that of its place among the four.
__device__ __forceinline__ uint4 gathered(unsigned int (&pairs)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    auto exchange = [](unsigned int& a, unsigned int& b, bool second, int by) {
        const unsigned int got = __shfl_xor_sync(0xffffffffu, second ? a : b, by);
        (second ? a : b) = got;
    };
    exchange(pairs[0], pairs[1], odd, 1);
    exchange(pairs[2], pairs[3], odd, 1);
    exchange(pairs[0], pairs[2], high, 2);
    exchange(pairs[1], pairs[3], high, 2);
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

#endif
