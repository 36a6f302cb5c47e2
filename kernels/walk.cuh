// One value for each position of a space of RANK axes, whatever the grid. A thread reads ITEMS values before it writes the
// first, so that their loads are in flight together.

constexpr int AXES = RANK > 0 ? RANK : 1;

// The position of a flat index. Axis 1 varies fastest where the result's channels lie next to each other, otherwise the
// last axis does.
template <typename I>
__device__ __forceinline__ void locate(I rest, const int (&extent)[AXES], bool channels_last, int (&p)[AXES]) {
    if constexpr (RANK == 0) {
        p[0] = 0;
        return;
    }
    auto take = [&](int a) {
        const I above = rest / (I)extent[a];
        p[a] = (int)(rest - above * (I)extent[a]);
        rest = above;
    };
    if constexpr (RANK >= 3) {
        if (channels_last) {
            take(1);
#pragma unroll
            for (int a = RANK - 1; a >= 2; --a) take(a);
            p[0] = (int)rest;
            return;
        }
    }
#pragma unroll
    for (int a = RANK - 1; a >= 1; --a) take(a);
    p[0] = (int)rest;
}

template <typename I, typename V, typename Read, typename Write>
__device__ __forceinline__ void walk_by(I total, const int (&extent)[AXES], bool channels_last, Read read, Write write) {
    const I step = (I)gridDim.x * THREADS;
    for (I first = (I)blockIdx.x * THREADS + threadIdx.x; first < total; first += step * ITEMS) {
        int p[ITEMS][AXES];
        V v[ITEMS];
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            const I at = first + k * step;
            if (at < total) {
                locate<I>(at, extent, channels_last, p[k]);
                v[k] = read(p[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            if (first + k * step < total) write(p[k], v[k]);
        }
    }
}

template <typename V, typename Read, typename Write>
__device__ __forceinline__ void walk(const int (&extent)[AXES], bool channels_last, Read read, Write write) {
    long long total = 1;
#pragma unroll
    for (int a = 0; a < RANK; ++a) total *= extent[a];
    // division is several times cheaper in 32 bits
    if (total + 2ll * ITEMS * gridDim.x * THREADS < 0xffffffffll) {
        walk_by<unsigned int, V>((unsigned int)total, extent, channels_last, read, write);
    } else {
        walk_by<unsigned long long, V>((unsigned long long)total, extent, channels_last, read, write);
    }
}
