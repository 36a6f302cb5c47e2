// Convolutions as matrix products that never build their matrix: rows are output pixels, columns output channels, and the
// reduction runs over taps and, faster, over channels. Loaders (tile.cuh) find the elements.
//
// Channels last, with channels in multiples of a chunk, everything moves in 16-byte pieces; any other strides are right
// but gathered.

// Along one axis: output q is at first + q·spacing, and tap t of it reads the input at q·mul + base + t·step with the
// weight tap + t·tap_step.
struct Axis {
    int in, first, spacing, outputs, mul, base, step, tap, tap_step, taps;
};

// Where a position of the reduction is: channel and tap.
struct Position {
    int channel, tap[SPATIAL];
    bool there;
    __device__ __forceinline__ Position(int at, int channels, const Axis (&axes)[SPATIAL]) {
        int rest = channels > 0 ? at / channels : 0;
        channel = at - rest * channels;
#pragma unroll
        for (int a = SPATIAL - 1; a > 0; --a) {
            const int above = axes[a].taps > 0 ? rest / axes[a].taps : 0;
            tap[a] = rest - above * axes[a].taps;
            rest = above;
        }
        tap[0] = rest;
        there = rest < axes[0].taps;
    }
    __device__ __forceinline__ void advance(int channels, const Axis (&axes)[SPATIAL]) {
        if (++channel < channels) return;
        channel = 0;
#pragma unroll
        for (int a = SPATIAL - 1; a >= 0; --a) {
            if (++tap[a] < axes[a].taps) return;
            if (a > 0) tap[a] = 0;
        }
        there = false;
    }
};

// The output pixels of a tile, which all loads and stores of it look up: batch (−1: none) and position on each axis.
__shared__ int pixels[BM][SPATIAL + 1];

// The input windows of a tile's pixels.
template <typename T> struct Windows {
    static constexpr int COUNT = Share<BM, Chunk<T>::N>::COUNT;
    static constexpr bool by_row = true;
    const T* base;
    const Axis (&axes)[SPATIAL];
    long long channel_stride, strides[SPATIAL], offset[COUNT];
    int channels, corner[COUNT][SPATIAL];
    bool vector, spread;

    __device__ __forceinline__ Windows(const T* base, const Axis (&axes)[SPATIAL], int channels, long long batch_stride,
                                       long long channel_stride, const long long (&along)[SPATIAL])
        : base(base), axes(axes), channel_stride(channel_stride), channels(channels) {
        constexpr int N = Chunk<T>::N;
        vector = channel_stride == 1 && channels % N == 0 && batch_stride % N == 0 && ((unsigned long long)base & 15) == 0;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            strides[a] = along[a];
            vector = vector && along[a] % N == 0;
        }
        spread = channel_stride != 1;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const Share<BM, N> p(i, true, spread, 0, 0);
            const int line = p.there ? p.line : 0;
            const int batch = pixels[line][0];
            offset[i] = batch * batch_stride;
#pragma unroll
            for (int a = 0; a < SPATIAL; ++a) {
                // far outside for a row that is no pixel
                corner[i][a] = batch < 0 ? -(1 << 30) : pixels[line][a + 1] * axes[a].mul + axes[a].base;
                offset[i] += corner[i][a] * strides[a];
            }
        }
    }
    __device__ __forceinline__ const T* find(int i, const Position& p) const {
        bool there = p.there;
        const T* at = base + offset[i] + p.channel * channel_stride;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            const int ahead = p.tap[a] * axes[a].step;
            there = there && (unsigned int)(corner[i][a] + ahead) < (unsigned int)axes[a].in;
            at += ahead * strides[a];
        }
        return there ? at : nullptr;
    }
    __device__ __forceinline__ const T* address(int i, int, int at, int& bytes) const {
        const T* p = find(i, Position(at, channels, axes));
        bytes = p ? 16 : 0;
        return p ? p : base;
    }
    __device__ __forceinline__ void gather(Chunk<T>& chunk, int i, int, int at) const {
        Position position(at, channels, axes);
#pragma unroll
        for (int j = 0; j < Chunk<T>::N; ++j) {
            const T* p = find(i, position);
            chunk.v[j] = p ? *p : zero<T>();
            position.advance(channels, axes);
        }
    }
};

// The weights of a group: a line a filter.
template <typename T> struct Filters {
    static constexpr bool by_row = true, spread = false;
    const T* base;
    const Axis (&axes)[SPATIAL];
    long long filter_stride, channel_stride, strides[SPATIAL];
    int filters, channels;
    bool vector;

    __device__ __forceinline__ Filters(const T* first, const Axis (&axes)[SPATIAL], int filters, int channels, long long filter_stride,
                                       long long channel_stride, const long long (&along)[SPATIAL])
        : base(first), axes(axes), filter_stride(filter_stride), channel_stride(channel_stride), filters(filters), channels(channels) {
        constexpr int N = Chunk<T>::N;
        vector = channel_stride == 1 && channels % N == 0 && (filter_stride % N == 0 || filters <= 1);
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            strides[a] = along[a] * axes[a].tap_step;
            base += along[a] * axes[a].tap;
            vector = vector && (along[a] % N == 0 || axes[a].taps <= 1);
        }
        vector = vector && ((unsigned long long)base & 15) == 0;
    }
    __device__ __forceinline__ const T* find(int line, const Position& p) const {
        const T* at = base + line * filter_stride + p.channel * channel_stride;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) at += p.tap[a] * strides[a];
        return p.there && line < filters ? at : nullptr;
    }
    __device__ __forceinline__ const T* address(int, int line, int at, int& bytes) const {
        const T* p = find(line, Position(at, channels, axes));
        bytes = p ? 16 : 0;
        return p ? p : base;
    }
    __device__ __forceinline__ void gather(Chunk<T>& chunk, int, int line, int at) const {
        Position position(at, channels, axes);
#pragma unroll
        for (int j = 0; j < Chunk<T>::N; ++j) {
            const T* p = find(line, position);
            chunk.v[j] = p ? *p : zero<T>();
            position.advance(channels, axes);
        }
    }
};
