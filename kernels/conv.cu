// y[n, K, o…] = epilogue(Σ over c and t… of x[n, c, o·str − pad + t·dil …] · w[K, c, t…], e…[n, K, o…])
//
// A convolution reads its windows forward; convolution.cuh does the rest.

[[maybe_unused]] constexpr int PIXELS_PER_ITEM = 4;

__device__ __forceinline__ int phases(int) { return 1; }

__device__ __forceinline__ Axis axis(int, int in, int out, int ker, int str, int dil, int pad) {
    Axis a;
    a.in = in;
    a.first = 0;
    a.spacing = 1;
    a.outputs = out;
    a.mul = str;
    a.base = -pad;
    a.step = dil;
    a.tap = 0;
    a.tap_step = 1;
    a.taps = ker;
    return a;
}

#define FILTER_STRIDE w_s0
#define CHANNEL_STRIDE w_s1
#define FILTER_DIVISOR w_s0_DIVISOR
#define CHANNEL_DIVISOR w_s1_DIVISOR
#define FILTERS_ALIGNED(N) TAPS_ALIGNED(N)
#define GROUP_OF_FILTERS(group) ((long long)(group) * k * w_s0)
