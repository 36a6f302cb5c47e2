// y[n, c, o…] = epilogue(maximum, mean or norm of x[n, c, o·str − pad + t·dil …] over t…, e…[n, c, o…])

// A window along one axis: its taps from `first` to before `last` lie in the input.
struct Window {
    long long start;
    int first, last, padded;
    long long x_step, flat_step;
};

// the first tap that lies at `bound` or beyond
__device__ __forceinline__ int tap_from(long long start, long long bound, int dil, int ker) {
    const long long distance = bound - start;
    const long long tap = distance <= 0 ? 0 : (distance + dil - 1) / dil;
    return tap < ker ? (int)tap : ker;
}

template <int AXIS, typename F>
__device__ __forceinline__ void visit(const Window (&w)[SPATIAL], long long at, long long flat, const F& f) {
    if constexpr (AXIS == SPATIAL) {
        f(at, flat);
    } else {
        for (int t = w[AXIS].first; t < w[AXIS].last; ++t) {
            visit<AXIS + 1>(w, at + t * w[AXIS].x_step, flat + t * w[AXIS].flat_step, f);
        }
    }
}

struct Pooled {
    VALUE v;
    long long at;
};

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    const int ins[] = SPATIAL_LIST(in), kers[] = SPATIAL_LIST(ker), strs[] = SPATIAL_LIST(str);
    const int dils[] = SPATIAL_LIST(dil), pads[] = SPATIAL_LIST(pad), ends[] = SPATIAL_LIST(padend);
    const long long x_along[] = SPATIAL_STRIDES_x;
    // distances in the flat index of an input element
    long long flat_along[SPATIAL], plane = 1;
    if (COLUMN_MAJOR) {
#pragma unroll
        for (int a = 0; a < SPATIAL; ++a) {
            flat_along[a] = plane;
            plane *= ins[a];
        }
    } else {
#pragma unroll
        for (int a = SPATIAL - 1; a >= 0; --a) {
            flat_along[a] = plane;
            plane *= ins[a];
        }
    }
    walk<Pooled>(
        extent, CHANNELS_LAST,
        [&](const int (&p)[AXES]) -> Pooled {
            Window w[SPATIAL];
            long long at = x_o + p[0] * x_s0 + p[1] * x_s1;
            long long flat = ((long long)p[0] * c + p[1]) * plane;
            long long inside = 1, padded = 1;
#pragma unroll
            for (int a = 0; a < SPATIAL; ++a) {
                const long long start = (long long)p[2 + a] * strs[a] - pads[a];
                w[a].first = tap_from(start, 0, dils[a], kers[a]);
                w[a].last = maximum(w[a].first, tap_from(start, ins[a], dils[a], kers[a]));
                w[a].x_step = dils[a] * x_along[a];
                w[a].flat_step = dils[a] * flat_along[a];
                at += start * x_along[a];
                flat += start * flat_along[a];
                inside *= w[a].last - w[a].first;
                padded *= tap_from(start, (long long)ins[a] + ends[a], dils[a], kers[a]) - tap_from(start, -pads[a], dils[a], kers[a]);
            }
            Pooled result;
            result.at = 0;
#if KIND == MAXIMUM
            result.v = LOWEST;
            bool any = false;
            visit<0>(w, at, flat, [&](long long from, long long index) {
                const VALUE v = LOAD_x(from);
                // the first of equal elements stays, and the first NaN
                if (WITH_INDICES) {
                    if (!any || v > result.v || (v != v && result.v == result.v)) {
                        result.at = index;
                        result.v = v;
                    }
                    any = true;
                } else {
                    result.v = (v > result.v || v != v) ? v : result.v;
                }
            });
#else
            SUM sum = 0;
            visit<0>(w, at, flat, [&](long long from, long long) {
                const SUM v = (SUM)LOAD_x(from);
                sum += TERM(v);
            });
#if KIND == MEAN
            sum /= (SUM)(COUNT_PADS ? padded : inside);
#else
            sum = ROOT(sum);
#endif
            result.v = AS_VALUE(sum);
#endif
            return result;
        },
        [&](const int (&p)[AXES], const Pooled& one) {
            store(y + AT_y(p), FINISH(one.v, p));
#if WITH_INDICES
            idx[AT_idx(p)] = one.at;
#endif
        });
}
