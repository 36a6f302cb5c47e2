// One tile of a matrix product, C = A·B, in shared memory and registers: what gemm, conv and conv_transpose have in
// common. Where the operands come from is a loader's business, what happens to the result a finisher's, and the
// arithmetic an engine's: tile_simt.cuh, tile_mma.cuh, tile_wgmma.cuh or tile_streamed.cuh, whichever the element type and the tile call for.
//
// A tile operand lies in shared memory as lines of 16-byte chunks. Its lines are rows of the result and it runs along the
// reduction (`by_row`), or its lines are steps of the reduction and it runs along the rows: whichever way it is
// contiguous in global memory, so that a chunk there is a chunk here. For the second operand, read `column` for `row`.
//
// A loader walks along the reduction, BK at a time, and has:
//   bool by_row                         see above
//   bool vector                         whether a chunk can be copied as 16 bytes
//   BY_ROW, VECTOR                      what is known of these two at compile time
//   bool spread                         whether neighbouring lanes take neighbouring lines, not chunks of one line
//   const T* address(i, by_row, bytes)  where the chunk begins, and how many bytes of it exist (0: none)
//   T element(line, at)                 one element, zero outside: the slow way that is always right
//   void next()                         moves `address` on to the next step
// `i` counts the chunks of this thread. All of them are in the same place of their lines (Share), so that what changes
// from step to step is the same for all, and an address costs one addition.
//
// A finisher has `template <int N> void operator()(int row, int column, ACC (&v)[N])`: N results of one row in
// consecutive columns; those beyond the matrix are to be ignored. `by_column` says that neighbouring lanes should hold
// neighbouring rows.

// What is known of a condition when a kernel is compiled. Code for the case that cannot be is not even instantiated: the
// compiler's time goes by what it is given to optimise, not by what is left in the end.
enum Known { NO, YES, OPEN };
template <bool V> struct Bool { static constexpr bool value = V; };
// Calls f with Bool<the condition>, and instantiates it only for what the condition can be.
template <Known K, typename F> __device__ __forceinline__ void decide(bool condition, F&& f) {
    if constexpr (K != OPEN)
        f(Bool<K == YES>());
    else if (condition)
        f(Bool<true>());
    else
        f(Bool<false>());
}

// What moves as one vector of BYTES.
template <int BYTES> struct Vector { typedef uint4 Bits; };
template <> struct Vector<8> { typedef uint2 Bits; };
template <typename T, int BYTES = 16> struct Chunk {
    typedef typename Vector<BYTES>::Bits Bits;
    static constexpr int N = BYTES / (int)sizeof(T);
    union {
        Bits bits;
        T v[N];
    };
    __device__ __forceinline__ Chunk() {}
};

// The block's dynamic shared memory; wgmma wants it to begin at a multiple of 1,024 bytes.
#if WGMMA
#define SHARED(memory) \
    extern __shared__ uint4 dynamic_memory[]; \
    uint4* const memory = dynamic_memory + (1024 - shared_address(dynamic_memory) % 1024) % 1024 / 16;
#else
#define SHARED(memory) extern __shared__ uint4 memory[];
#endif

template <typename T> __device__ __forceinline__ T zero() {
    T v;
    memset(&v, 0, sizeof(T));
    return v;
}

// The blocks of a cluster share the reduction of a tile: SPLIT of them, each with steps [first, end).
#ifndef SPLIT
#define SPLIT 1
#endif
// Or they have tiles of their own side by side, CLUSTER_M of them below each other and CLUSTER_N beside, and share what they read.
#ifndef CLUSTER_M
#define CLUSTER_M 1
#define CLUSTER_N 1
#endif
constexpr int SHARERS = CLUSTER_M * CLUSTER_N;
#ifndef TMA
#define TMA 0
#endif
#ifndef STREAMED
#define STREAMED 0
#endif
// The arithmetic of the tensor cores: whether operands of f32 are rounded to tf32, whether sums of f16 are kept in f16, and
// the length of the runs of which such sums are added up in f32, 0 for none.
#ifndef TF32
#define TF32 0
#endif
#ifndef F16_SUMS
#define F16_SUMS 0
#endif
#ifndef PROMOTED_RUN
#define PROMOTED_RUN 0
#endif
// Threads that multiply; behind them are four warps for the copy engine, if there is one.
constexpr int COMPUTING = THREADS - TMA * 128;
struct Steps {
    int first, end;
    __device__ __forceinline__ explicit Steps(int all) {
        const int part = blockIdx.x % SPLIT;
        first = (int)((long long)all * part / SPLIT);
        end = (int)((long long)all * (part + 1) / SPLIT);
    }
};
// One tile after the other, for this block, or those of this cluster.
#define FOR_EACH_TILE(tile, count) \
    for (int tile = blockIdx.x / (SPLIT * SHARERS); tile < (count); tile += gridDim.x / (SPLIT * SHARERS))

// Where chunks are copied in the background, an incomplete one is filled up with zeros. Elsewhere only whole ones are moved.
#if TENSOR_CORES && __CUDA_ARCH__ >= 800
#define ASYNC 1
#else
#define ASYNC 0
#endif

// Which chunk of a tile operand of ROWS rows is the i-th of this thread: its line, and its place in the line.
template <int ROWS, int N> struct Share {
    static constexpr int TOTAL = ROWS * BK / N, COUNT = (TOTAL + THREADS - 1) / THREADS;
    int line, chunk;
    bool there;
    __device__ __forceinline__ Share(int i, bool by_row, bool spread) {
        const int q = threadIdx.x + i * THREADS;
        const int lines = by_row ? ROWS : BK, chunks = (by_row ? BK : ROWS) / N;
        there = TOTAL % THREADS == 0 || q < TOTAL;
        line = spread ? q % lines : q / chunks;
        chunk = spread ? q / lines : q % chunks;
    }
    // the chunk's line, and its place in it, in the matrix; `origin` is the tile's first row
    __device__ __forceinline__ int line_at(bool by_row, int origin, int step) const { return line + (by_row ? origin : step * BK); }
    __device__ __forceinline__ int at(bool by_row, int origin, int step) const { return chunk * N + (by_row ? step * BK : origin); }
    // how many lines apart this thread's chunks are, unless they are spread
    __device__ __forceinline__ static constexpr int apart(bool by_row) { return THREADS * N / (by_row ? BK : ROWS); }
};

// ---- what the finishers use: runs of elements in global memory ----

// The chunks of a run of N elements of T: of 16 bytes, or of 8 where a run is no longer.
template <typename T, int N> using Piece = Chunk<T, N * (int)sizeof(T) % 16 == 0 ? 16 : 8>;
// Whether they can be one or more of them, given the divisor of their stride.
template <typename T, int N> constexpr bool in_chunks(long long divisor) {
    return N * (int)sizeof(T) % 8 == 0 && (divisor == 1 || divisor == -1);
}
template <typename T, int N> __device__ __forceinline__ bool is_piece(const T* p) {
    return (unsigned long long)p % sizeof(Piece<T, N>) == 0;
}

// `count` elements at stride `stride`, widened; the rest is left alone. DIVISOR is what is known of the stride, WHOLE that
// count ≥ N and that the address is a multiple of 16 bytes. Nobody writes there while the kernel runs, which the compiler is told
// so that it may read ahead of writes.
template <long long DIVISOR = -1, bool WHOLE = false, typename R, typename T, int N>
__device__ __forceinline__ void read_run(R (&v)[N], const T* p, long long stride, int count) {
    if constexpr (DIVISOR == 0 || DIVISOR == -1)
        if (DIVISOR == 0 || stride == 0) {
            R one = (R)load(p);
#pragma unroll
            for (int j = 0; j < N; ++j) v[j] = one;
            return;
        }
    if constexpr (in_chunks<T, N>(DIVISOR))
        if (WHOLE && DIVISOR == 1 || stride == 1 && count >= N && is_piece<T, N>(p)) {
#pragma unroll
            for (int q = 0; q < N / Piece<T, N>::N; ++q) {
                Piece<T, N> c;
                c.bits = __ldg((const typename Piece<T, N>::Bits*)p + q);
#pragma unroll
                for (int j = 0; j < c.N; ++j) v[q * c.N + j] = (R)load(&c.v[j]);
            }
            return;
        }
    if constexpr (DIVISOR != 0 && !(WHOLE && DIVISOR == 1 && in_chunks<T, N>(DIVISOR))) {
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (WHOLE || j < count) v[j] = (R)load(p + j * stride);
    }
}

template <long long DIVISOR = -1, bool WHOLE = false, typename R, typename T, int N>
__device__ __forceinline__ void write_run(T* p, const R (&v)[N], long long stride, int count) {
    if constexpr (in_chunks<T, N>(DIVISOR))
        if (WHOLE && DIVISOR == 1 || stride == 1 && count >= N && is_piece<T, N>(p)) {
#pragma unroll
            for (int q = 0; q < N / Piece<T, N>::N; ++q) {
                Piece<T, N> c;
#pragma unroll
                for (int j = 0; j < c.N; ++j) store(&c.v[j], v[q * c.N + j]);
                ((typename Piece<T, N>::Bits*)p)[q] = c.bits;
            }
            return;
        }
    if constexpr (!(WHOLE && DIVISOR == 1 && in_chunks<T, N>(DIVISOR))) {
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (WHOLE || j < count) store(p + j * stride, v[j]);
    }
}
