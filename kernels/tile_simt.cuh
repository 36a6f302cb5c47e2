// The engine for every type that no tensor core multiplies: TM×TN results a thread, operands widened to ACC in shared
// memory, steps of the reduction first.
//
// With RUN_STEPS, sums have two levels: those of runs of at most so many steps, and the sums of these. An error then grows with the
// length of a run and with their number, not with the whole reduction.

#if !TENSOR_CORES

#ifndef RUN_STEPS
#define RUN_STEPS 0
#endif

constexpr int GROUPS_M = BM / TM, GROUPS_N = BN / TN;
constexpr int A_PITCH = BM + 16 / (int)sizeof(ACC), B_PITCH = BN + 16 / (int)sizeof(ACC);

template <typename T, int ROWS, int PITCH> struct Side {
    static constexpr int N = Chunk<T>::N;
    using Part = Share<ROWS, N>;
    uint4 held[Part::COUNT];

    template <typename L> __device__ __forceinline__ void take(const L& from) {
#pragma unroll
        for (int i = 0; i < Part::COUNT; ++i) {
            int bytes;
            const T* source = from.address(i, from.by_row, bytes);
            const bool there = from.vector && bytes > 0 && Part(i, from.by_row, false).there;
            held[i] = there ? *(const uint4*)source : make_uint4(0, 0, 0, 0);
        }
    }
    template <typename L> __device__ __forceinline__ void put(ACC* to, const L& from, int origin, int step) {
        if (from.vector) {
#pragma unroll
            for (int i = 0; i < Part::COUNT; ++i) {
                const Part p(i, from.by_row, false);
                if (!p.there) continue;
                Chunk<T> c;
                c.bits = held[i];
#pragma unroll
                for (int j = 0; j < N; ++j) to[place(from.by_row, p.line, p.chunk * N + j)] = (ACC)load(&c.v[j]);
            }
            return;
        }
        // element by element: rare and slow whatever is done, so the code is short
#pragma unroll 1
        for (int i = 0; i < Part::COUNT; ++i) {
            const Part p(i, from.by_row, from.spread);
            if (!p.there) continue;
#pragma unroll 1
            for (int j = 0; j < N; ++j) {
                const T x = from.element(p.line_at(from.by_row, origin, step), p.at(from.by_row, origin, step) + j);
                to[place(from.by_row, p.line, p.chunk * N + j)] = (ACC)load(&x);
            }
        }
    }
    __device__ __forceinline__ static int place(bool by_row, int line, int at) { return by_row ? at * PITCH + line : line * PITCH + at; }
};

// Rows (columns) of a thread come in runs of at most four, spread over the tile, so that shared reads do not conflict.
template <int COUNT, int GROUPS> __device__ __forceinline__ int spot(int group, int i) {
    constexpr int RUN = COUNT < 4 ? COUNT : 4;
    return i / RUN * (GROUPS * RUN) + group * RUN + i % RUN;
}

template <typename TA, typename TB, typename LA, typename LB>
__device__ __forceinline__ void accumulate(ACC (&acc)[TM][TN], uint4* memory, Steps steps, LA& from_a, LB& from_b, int row, int column,
                                           int group_m, int group_n) {
    Side<TA, BM, A_PITCH> a;
    Side<TB, BN, B_PITCH> b;
    ACC* sa = (ACC*)memory;
    ACC* sb = sa + 2 * BK * A_PITCH;
#if RUN_STEPS
    static_assert((RUN_STEPS & (RUN_STEPS - 1)) == 0, "a mask tells where a run ends");
    // Runs have one length, a power of two, but for the first: it takes what is over, so that one ends with the last step. A short
    // reduction has two of them all the same.
    int length = RUN_STEPS;
    while (length > 1 && steps.end < 2 * length) length /= 2;
    ACC sums[TM][TN] = {};
#else
    ACC(&sums)[TM][TN] = acc;
#endif
    // step -1 only fetches
#pragma unroll 1
    for (int step = -1; step < steps.end; ++step) {
        __syncthreads();
        if (step + 1 < steps.end) {
            a.take(from_a);
            b.take(from_b);
            from_a.next();
            from_b.next();
        }
        if (step >= 0) {
            const ACC* pa = sa + step % 2 * BK * A_PITCH;
            const ACC* pb = sb + step % 2 * BK * B_PITCH;
#pragma unroll
            for (int k = 0; k < BK; ++k) {
                ACC va[TM], vb[TN];
#pragma unroll
                for (int i = 0; i < TM; ++i) va[i] = pa[k * A_PITCH + spot<TM, GROUPS_M>(group_m, i)];
#pragma unroll
                for (int j = 0; j < TN; ++j) vb[j] = pb[k * B_PITCH + spot<TN, GROUPS_N>(group_n, j)];
#pragma unroll
                for (int i = 0; i < TM; ++i)
#pragma unroll
                    for (int j = 0; j < TN; ++j) sums[i][j] += va[i] * vb[j];
            }
#if RUN_STEPS
            if (((steps.end - 1 - step) & (length - 1)) == 0) {
#pragma unroll
                for (int i = 0; i < TM; ++i)
#pragma unroll
                    for (int j = 0; j < TN; ++j) {
                        acc[i][j] += sums[i][j];
                        sums[i][j] = 0;
                    }
            }
#endif
        }
        if (step + 1 < steps.end) {
            a.put(sa + (step + 1) % 2 * BK * A_PITCH, from_a, row, step + 1);
            b.put(sb + (step + 1) % 2 * BK * B_PITCH, from_b, column, step + 1);
        }
    }
    __syncthreads();
}

template <typename F>
__device__ __forceinline__ void finish(const ACC (&acc)[TM][TN], int row, int column, int group_m, int group_n, F&& f) {
    constexpr int RUN = TN < 4 ? TN : 4;
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; j += RUN) {
            ACC v[RUN];
#pragma unroll
            for (int e = 0; e < RUN; ++e) v[e] = acc[i][j + e];
            f(row + spot<TM, GROUPS_M>(group_m, i), column + spot<TN, GROUPS_N>(group_n, j), v);
        }
}

#endif
