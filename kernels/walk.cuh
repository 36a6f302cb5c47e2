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

// W positions along the last axis at a time, W dividing its extent; p is the first of them. What `find` loads (indices, say) is
// on its way for all items before `read` uses the first of it.
template <int W, typename I, typename F, typename V, typename Find, typename Read, typename Write>
__device__ __forceinline__ void walk_by(
    I total, const int (&extent)[AXES], bool channels_last, Find find, Read read, Write write) {
    const I step = (I)gridDim.x * THREADS;
    for (I first = (I)blockIdx.x * THREADS + threadIdx.x; first < total; first += step * ITEMS) {
        int p[ITEMS][AXES];
        F found[ITEMS];
        V v[ITEMS];
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            const I at = first + k * step;
            if (at < total) {
                locate<I>(at, extent, channels_last, p[k]);
                p[k][AXES - 1] *= W;
                found[k] = find(p[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            if (first + k * step < total) v[k] = read(p[k], found[k]);
        }
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            if (first + k * step < total) write(p[k], v[k]);
        }
    }
}

template <int W, typename F, typename V, typename Find, typename Read, typename Write>
__device__ __forceinline__ void walk(
    const int (&whole)[AXES], bool channels_last, Find find, Read read, Write write) {
    int extent[AXES];
    long long total = 1;
#pragma unroll
    for (int a = 0; a < AXES; ++a) {
        extent[a] = a == AXES - 1 ? whole[a] / W : whole[a];
        total *= extent[a];
    }
    // division is several times cheaper in 32 bits; a grid is far from the other half of them
    if (total < (1ll << 31)) {
        walk_by<W, unsigned int, F, V>((unsigned int)total, extent, channels_last, find, read, write);
    } else {
        walk_by<W, unsigned long long, F, V>((unsigned long long)total, extent, channels_last, find, read, write);
    }
}

// One position at a time, with nothing to find first.
template <typename V, typename Read, typename Write>
__device__ __forceinline__ void walk(const int (&extent)[AXES], bool channels_last, Read read, Write write) {
    walk<1, V, V>(extent, channels_last, read, [](const int (&)[AXES], const V& v) { return v; }, write);
}
