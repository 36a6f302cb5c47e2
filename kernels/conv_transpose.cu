// y[n, K, o…] = epilogue(Σ over c and t… with o + pad − t·dil = i·str of x[n, c, i…] · w[c, K, t…], e…[n, K, o…])
//
// Outputs whose positions differ by a multiple of the stride (a phase) meet the same taps, and for them the sum is a
// plain convolution that steps backward through the input. So each phase is one, without a wasted product, whatever the
// dilation; convolution.cuh does the rest.

[[maybe_unused]] constexpr int PIXELS_PER_ITEM = 1;

__device__ __forceinline__ int phases(int str) { return str; }

__device__ __forceinline__ Axis axis(int phase, int in, int out, int ker, int str, int dil, int pad) {
    int common = dil, other = str;
    while (other != 0) {
        const int rest = common % other;
        common = other;
        other = rest;
    }
    Axis a;
    a.in = in;
    a.first = phase;
    a.spacing = str;
    a.outputs = phase < out ? (out - phase + str - 1) / str : 0;
    // the first tap that meets this phase, if any; the others follow at str / gcd
    a.tap_step = str / common;
    a.tap = 0;
    while (a.tap < a.tap_step && (phase + pad - a.tap * dil) % str != 0) ++a.tap;
    a.taps = a.tap < a.tap_step && a.tap < ker ? (ker - 1 - a.tap) / a.tap_step + 1 : 0;
    a.mul = 1;
    a.base = a.taps > 0 ? (phase + pad - a.tap * dil) / str : 0;
    a.step = -(dil / common);
    return a;
}

#define FILTER_STRIDE w_s1
#define CHANNEL_STRIDE w_s0
#define FILTER_DIVISOR w_s1_DIVISOR
#define CHANNEL_DIVISOR w_s0_DIVISOR
#define FILTERS_ALIGNED(N) SPATIAL_ALIGNED(w, N)
#define GROUP_OF_FILTERS(group) ((long long)(group) * c * w_s0)
