// The engine of wgmma, Hopper's own (sm_90a): four warps multiply 64 rows with all columns of the tile straight from
// shared memory, and do something else meanwhile.
//
// Both operands lie as wgmma's 128-byte swizzle wants them: lines of eight chunks, the chunks of line l exchanged by
// l mod 8. An operand that runs along its rows is cut into panels of 64 rows with BK lines each. (PTX ISA, "Asynchronous
// warpgroup level matrix shared memory layout".)

#if TENSOR_CORES && WGMMA

static_assert(BK == 64 && (BN % 64 == 0 || TMA) && BM % 64 == 0, "lines and panels are 128 bytes wide");

constexpr int GROUP_ROWS = BM / (COMPUTING / 128), STRIPS = GROUP_ROWS / 64, STRIP_COLUMNS = BN;

__device__ __forceinline__ int strip_row(int warp, int i) { return warp / 4 * GROUP_ROWS + i * 64 + warp % 4 * 16; }
__device__ __forceinline__ int strip_column(int) { return 0; }

template <int ROWS> __device__ __forceinline__ constexpr int slot(bool by_row, int line, int chunk) {
    const int exchanged = (chunk % 8) ^ (line % 8);
    return (by_row ? 0 : chunk / 8 * (BK * 8)) + line * 8 + exchanged;
}

// What wgmma is told of an operand in shared memory, in units of 16 bytes: where it begins, how far apart panels are, that eight
// lines take 64, and the swizzle. Further on in an operand is a larger number: the beginning has the lowest bits.
template <bool BY_ROW> __device__ __forceinline__ unsigned long long descriptor(unsigned int from) {
    constexpr unsigned int PANEL = BY_ROW ? 1 : BK * 8, EIGHT_LINES = 64, SWIZZLE = 1u << 30;
    return (unsigned long long)(SWIZZLE | EIGHT_LINES) << 32 | (PANEL << 16) + from;
}
// How much further on rows from `row` and steps from `k` on begin.
template <bool BY_ROW> constexpr unsigned int further(int row, int k) { return BY_ROW ? row * 8 + k / 8 : row / 64 * (BK * 8) + k * 8; }

// Where a stage begins, in these units. In a cluster an address also has the block's number.
__device__ __forceinline__ unsigned int place(const uint4* stage) { return (shared_address(stage) & 0x3ffff) / 16; }
// The group of four warps that this thread is in, said so that the compiler sees that all of a warp have the same.
__device__ __forceinline__ int own_group() { return COMPUTING == 128 ? 0 : __shfl_sync(0xffffffffu, threadIdx.x / 128, 0); }

// c += a·b on 64×N×BK, N by number of registers: the instruction has one name for each width. The products of all steps of a
// stage are one statement, since each statement costs the compiler as much as it has operands.
#define REGISTERS_HALF "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define REGISTERS_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define REGISTERS_1 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define REGISTERS_1_HALF ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define REGISTERS_2 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define REGISTERS_3 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SUMS_4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define SUMS_16(i) SUMS_4(i), SUMS_4(i + 4), SUMS_4(i + 8), SUMS_4(i + 12)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define STEP(N, NAME, REGISTERS, A, B, TURN_A, TURN_B) \
    "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" REGISTERS "}, " A ", " B ", 1, 1, 1, " TURN_A ", " TURN_B ";\n\t"
#define WIDTH(N, TYPE, NAME, REGISTERS, A0, A1, A2, A3, B0, B1, B2, B3, TURN_A, TURN_B, ...) \
    template <bool A_BY_ROW, bool B_BY_ROW> \
    __device__ __forceinline__ void multiply(float (&c)[N / 2], const unsigned long long (&a)[4], const unsigned long long (&b)[4], TYPE) { \
        asm volatile(STEP(N, NAME, REGISTERS, A0, B0, TURN_A, TURN_B) STEP(N, NAME, REGISTERS, A1, B1, TURN_A, TURN_B) \
                     STEP(N, NAME, REGISTERS, A2, B2, TURN_A, TURN_B) STEP(N, NAME, REGISTERS, A3, B3, TURN_A, TURN_B) \
                     : __VA_ARGS__ \
                     : "l"(a[0]), "l"(a[1]), "l"(a[2]), "l"(a[3]), "l"(b[0]), "l"(b[1]), "l"(b[2]), "l"(b[3]), "n"(A_BY_ROW ? 0 : 1), \
                       "n"(B_BY_ROW ? 0 : 1)); \
    }
#define WIDTHS(TYPE, NAME) \
    WIDTH(32, TYPE, NAME, REGISTERS_HALF, "%16", "%17", "%18", "%19", "%20", "%21", "%22", "%23", "%24", "%25", SUMS_16(0)) \
    WIDTH(64, TYPE, NAME, REGISTERS_0, "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39", "%40", "%41", SUMS_32(0)) \
    WIDTH(96, TYPE, NAME, REGISTERS_0 REGISTERS_1_HALF, "%48", "%49", "%50", "%51", "%52", "%53", "%54", "%55", "%56", "%57", SUMS_32(0), \
          SUMS_16(32)) \
    WIDTH(128, TYPE, NAME, REGISTERS_0 REGISTERS_1, "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71", "%72", "%73", SUMS_32(0), \
          SUMS_32(32)) \
    WIDTH(192, TYPE, NAME, REGISTERS_0 REGISTERS_1 REGISTERS_2, "%96", "%97", "%98", "%99", "%100", "%101", "%102", "%103", "%104", "%105", \
          SUMS_32(0), SUMS_32(32), SUMS_32(64)) \
    WIDTH(256, TYPE, NAME, REGISTERS_0 REGISTERS_1 REGISTERS_2 REGISTERS_3, "%128", "%129", "%130", "%131", "%132", "%133", "%134", "%135", \
          "%136", "%137", SUMS_32(0), SUMS_32(32), SUMS_32(64), SUMS_32(96))
WIDTHS(f16, "f16")
WIDTHS(bf16, "bf16")

// The products of a step, whose stage begins at `from`. The order of an operand is part of the instruction.
template <bool A_BY_ROW, bool B_BY_ROW, typename T>
__device__ __forceinline__ void products(float (&acc)[STRIPS][STRIP_COLUMNS / 2], unsigned int from, int group) {
    const unsigned int rows = from + group * further<A_BY_ROW>(GROUP_ROWS, 0);
#pragma unroll
    for (int i = 0; i < STRIPS; ++i) {
        unsigned long long a[BK / 16], b[BK / 16];
#pragma unroll
        for (int k = 0; k < BK / 16; ++k) {
            a[k] = descriptor<A_BY_ROW>(rows + further<A_BY_ROW>(i * 64, k * 16));
            b[k] = descriptor<B_BY_ROW>(from + B_AT + further<B_BY_ROW>(0, k * 16));
        }
        multiply<A_BY_ROW, B_BY_ROW>(acc[i], a, b, T());
    }
}

#if !TMA
template <typename T, typename LA, typename LB>
__device__ __forceinline__ void accumulate(float (&acc)[STRIPS][STRIP_COLUMNS / 2], uint4* memory, Steps steps, LA& from_a,
                                           LB& from_b, int row, int column) {
    constexpr int AHEAD = STAGES - 1 - IN_FLIGHT;
    const int group = own_group();
    Pipeline<T, AHEAD, LA, LB> pipeline(memory, from_a, from_b, steps, row, column);
    // the first rounds only load
#pragma unroll 1
    for (int step = steps.first - AHEAD; step < steps.end; ++step) {
        if (step >= steps.first) {
            const unsigned int stage = place(pipeline.ready());
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            decide<LA::BY_ROW>(from_a.by_row, [&](auto a) {
                decide<LB::BY_ROW>(from_b.by_row, [&](auto b) { products<decltype(a)::value, decltype(b)::value, T>(acc, stage, group); });
            });
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        }
        // into the stage whose products every warp has waited for
        pipeline.load();
        asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(IN_FLIGHT) : "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    pipeline.drain();
}
#endif

#endif
