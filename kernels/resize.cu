// y[p] = epilogue(Σ over taps of Π over axes of weight · x[taps…], e…[p]), resampled along some axes
//
// Positions are computed in float, one rounded operation after the other as the standard writes them: which element is
// nearest hangs on the last bit, and every device must find the same one.

struct Axis {
    long long stride;
    int last, first, count;
    WEIGHT x, shrink, scale;
};

__device__ __forceinline__ WEIGHT weight(const Axis& axis, int i) {
    const WEIGHT at = FABS((WEIGHT)i - axis.x) * axis.shrink;
#if FILTER == CUBIC
    const WEIGHT a = COEFFICIENT;
    if (at <= 1) return ((a + 2) * at - (a + 3)) * at * at + 1;
    if (at < 2) return ((a * at - 5 * a) * at + 8 * a) * at - 4 * a;
    return 0;
#else
    return at < 1 ? 1 - at : (WEIGHT)0;
#endif
}

__device__ __forceinline__ bool is_used(const Axis& axis, int i) {
    return !EXCLUDE_OUTSIDE || (i >= 0 && i <= axis.last);
}

__device__ __forceinline__ int nearest(float x, int last) {
    const float r = ROUND(x);
    // also for positions beyond the range of int
    return r <= 0 ? 0 : r >= (float)last ? last : (int)r;
}

// `x` is the position, `scale` how many outputs an input makes
__device__ __forceinline__ Axis prepare(float x, float scale, int in, long long stride) {
    Axis axis;
    axis.stride = stride;
    axis.last = in - 1;
#if FILTER == NEAREST
    axis.first = nearest(x, in - 1);
    axis.count = 1;
    axis.scale = 1;
#else
    axis.x = x;
    axis.shrink = ANTIALIAS && scale < 1 ? (WEIGHT)scale : (WEIGHT)1;
    const WEIGHT radius = RADIUS / axis.shrink;
    axis.first = (int)CEIL(axis.x - radius);
    axis.count = (int)FLOOR(axis.x + radius) - axis.first + 1;
    axis.scale = 1;
    if (ANTIALIAS || EXCLUDE_OUTSIDE) {
        WEIGHT sum = 0;
        for (int i = axis.first; i < axis.first + axis.count; ++i) {
            if (is_used(axis, i)) sum += weight(axis, i);
        }
        axis.scale = 1 / sum;
    }
#endif
    return axis;
}

// An axis that reads itself.
__device__ __forceinline__ Axis keep(int o, int in, long long stride) {
    Axis axis;
    axis.stride = stride;
    axis.last = in - 1;
    axis.first = minimum(o, in - 1);
    axis.count = 1;
    axis.x = axis.first;
    axis.shrink = axis.scale = 1;
    return axis;
}

// The sum over the taps of axis J and those behind it.
template <int J, typename Load>
__device__ __forceinline__ WEIGHT blend(const Axis (&axes)[RESAMPLED_OR_ONE], long long at, const Load& load_at) {
    if constexpr (J == RESAMPLED) {
        return (WEIGHT)load_at(at);
    } else {
        WEIGHT sum = 0;
        const Axis& axis = axes[J];
        for (int i = axis.first; i < axis.first + axis.count; ++i) {
            const WEIGHT part = weight(axis, i);
            // what has no weight does not count, not even if it is infinite
            if (part != 0 && is_used(axis, i)) {
                const int inside = minimum(maximum(i, 0), axis.last);
                sum += part * blend<J + 1>(axes, at + inside * axis.stride, load_at);
            }
        }
        return sum * axis.scale;
    }
}

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    walk<VALUE>(
        extent, CHANNELS_LAST,
        [&](const int (&p)[AXES]) -> VALUE {
            Axis axes[RESAMPLED_OR_ONE];
            long long at = x_o;
            bool outside = false;
            SET_AXES
            if (outside) return (VALUE)OUTSIDE;
#if FILTER == NEAREST
#pragma unroll
            for (int j = 0; j < RESAMPLED; ++j) at += axes[j].first * axes[j].stride;
            return LOAD_x(at);
#else
            return AS_VALUE(blend<0>(axes, at, [&](long long from) { return LOAD_x(from); }));
#endif
        },
        [&](const int (&p)[AXES], VALUE v) { store(y + AT_y(p), FINISH(v, p)); });
}
