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

// A step of the reduction never spans a whole tap.
constexpr bool LONG_TAPS = c_DIVISOR % BK == 0 && c_DIVISOR > 0;

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
    // moves on by `count` channels, which are at most those of a tap if SHORT; returns whether that led to another tap
    template <bool SHORT = false> __device__ __forceinline__ bool advance(int count, int channels, const Axis (&axes)[SPATIAL]) {
        channel += count;
        if (channel < channels) return false;
        do {
            channel -= channels;
            ++tap[SPATIAL - 1];
#pragma unroll
            for (int a = SPATIAL - 1; a > 0; --a)
                if (tap[a] >= axes[a].taps) {
                    tap[a] = 0;
                    ++tap[a - 1];
                }
            there = tap[0] < axes[0].taps;
        } while (!SHORT && there && channel >= channels);
        return true;
    }
};

// Where the chunks of this thread are: the same place for windows and filters, which walk along the reduction together,
// the windows first.
struct Walk {
    Position position;
    bool turned = true;
    template <typename T> __device__ __forceinline__ Walk(const T*, int step, int channels, const Axis (&axes)[SPATIAL])
        : position(Share<BM, Chunk<T>::N>(0, true, false).at(true, 0, step), channels, axes) {}
};

// Divides high·BM + low, with low < BM, by d and returns the remainder. There may be more pixels than 32 bits count, but
// divisions of 64 bits are slow, and long to compile.
__device__ __forceinline__ int divide(int& high, int& low, int d) {
    const int above = (unsigned int)high / (unsigned int)d;
    const long long rest = (long long)(high - above * d) * BM + low;
    // less than BM, so that the estimate is wrong by one at most
    int quotient = (int)__fdividef((float)rest, (float)d);
    long long remainder = rest - (long long)quotient * d;
    if (remainder < 0) --quotient, remainder += d;
    if (remainder >= d) ++quotient, remainder -= d;
    high = above;
    low = quotient;
    return (int)remainder;
}

// The output pixels of a tile, which all loads and stores of it look up: batch (−1: none) and position on each axis.
__shared__ int pixels[BM][SPATIAL + 1];

// The input windows of a tile's pixels.
template <typename T, Known ALIGNED> struct Windows {
    static constexpr int N = Chunk<T>::N, COUNT = Share<BM, N>::COUNT;
    static constexpr bool by_row = true;
    static constexpr Known BY_ROW = YES, VECTOR = ALIGNED;
    const T* base;
    const Axis (&axes)[SPATIAL];
    long long batch_stride, channel_stride, strides[SPATIAL], offset[COUNT], ahead;
    int channels;
    unsigned int inside;
    Walk& walk;
    bool vector, spread;

    __device__ __forceinline__ Windows(const T* base, bool aligned, const Axis (&axes)[SPATIAL], Walk& walk, int channels, long long batch_stride,
                                       long long channel_stride, const long long (&along)[SPATIAL])
        : base(base), axes(axes), batch_stride(batch_stride), channel_stride(channel_stride), channels(channels), walk(walk) {
        vector = aligned && channel_stride == 1 && channels % N == 0 && batch_stride % N == 0;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            strides[a] = along[a];
            vector = vector && along[a] % N == 0;
        }
        spread = channel_stride != 1;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int line = own(i);
            offset[i] = pixels[line][0] * batch_stride;
#pragma unroll
            for (int a = 0; a < SPATIAL; ++a) offset[i] += pixel(line, a) * strides[a];
        }
        look();
    }
    // the line of this thread's i-th chunk
    __device__ __forceinline__ static int own(int i) {
        const Share<BM, N> p(i, true, false);
        return p.there ? p.line : 0;
    }
    // where the window of a line begins on an axis: far outside for a row that is no pixel
    __device__ __forceinline__ int pixel(int line, int a) const {
        return pixels[line][0] < 0 ? -(1 << 30) : pixels[line][a + 1] * axes[a].mul + axes[a].base;
    }
    // finds out which windows have the position's tap inside the input
    __device__ __forceinline__ void look() {
        const Position& position = walk.position;
        inside = 0;
        ahead = 0;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) ahead += position.tap[a] * axes[a].step * strides[a];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            bool there = position.there;
#pragma unroll
            for (int a = 0; a < SPATIAL; ++a)
                there = there && (unsigned int)(pixel(own(i), a) + position.tap[a] * axes[a].step) < (unsigned int)axes[a].in;
            inside |= there ? 1u << i : 0u;
        }
    }
    __device__ __forceinline__ const T* address(int i, bool, int& bytes) const {
        bytes = inside >> i & 1 ? 16 : 0;
        return base + offset[i] + ahead + walk.position.channel;
    }
    __device__ __forceinline__ void next() {
        walk.turned = walk.position.advance<LONG_TAPS>(BK, channels, axes);
        if (walk.turned) look();
    }
    __device__ __forceinline__ T element(int line, int at) const {
        const Position here(at, channels, axes);
        bool there = here.there;
        const T* p = base + pixels[line][0] * batch_stride + here.channel * channel_stride;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            const int i = pixel(line, a) + here.tap[a] * axes[a].step;
            there = there && (unsigned int)i < (unsigned int)axes[a].in;
            p += i * strides[a];
        }
        return there ? *p : zero<T>();
    }
};

// The weights of a group: a line a filter, from `origin` on.
template <typename T, Known ALIGNED> struct Filters {
    static constexpr int N = Chunk<T>::N;
    static constexpr bool by_row = true, spread = false;
    static constexpr Known BY_ROW = YES, VECTOR = ALIGNED;
    const T* base;
    const T* cursor;
    const Axis (&axes)[SPATIAL];
    long long filter_stride, channel_stride, strides[SPATIAL];
    int line, filters, channels;
    const Walk& walk;
    bool vector;

    __device__ __forceinline__ Filters(const T* first, bool aligned, const Axis (&axes)[SPATIAL], const Walk& walk, int origin, int filters,
                                       int channels, long long filter_stride, long long channel_stride, const long long (&along)[SPATIAL])
        : base(first), axes(axes), filter_stride(filter_stride), channel_stride(channel_stride), filters(filters), channels(channels),
          walk(walk) {
        vector = aligned && channel_stride == 1 && channels % N == 0 && (filter_stride % N == 0 || filters <= 1);
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            strides[a] = along[a] * axes[a].tap_step;
            base += along[a] * axes[a].tap;
            vector = vector && (along[a] % N == 0 || (axes[a].taps <= 1 && axes[a].tap == 0));
        }
        line = origin + Share<BN, N>(0, true, false).line;
        look();
    }
    __device__ __forceinline__ void look() {
        cursor = base + line * filter_stride;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) cursor += walk.position.tap[a] * strides[a];
    }
    __device__ __forceinline__ const T* address(int i, bool, int& bytes) const {
        constexpr int APART = THREADS * N / BK;
        bytes = walk.position.there && line + i * APART < filters ? 16 : 0;
        return cursor + walk.position.channel + i * APART * filter_stride;
    }
    __device__ __forceinline__ void next() {
        if (walk.turned) look();
    }
    __device__ __forceinline__ T element(int line, int at) const {
        const Position here(at, channels, axes);
        const T* p = base + line * filter_stride + here.channel * channel_stride;
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) p += here.tap[a] * strides[a];
        return here.there && line < filters ? *p : zero<T>();
    }
};
