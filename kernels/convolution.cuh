// The kernel of both kinds of convolution: tiles of pixels × filters of one group, and, where every group has one channel
// and one filter (depthwise, nothing to multiply as a matrix), a path of its own.
//
// The file before this one says how outputs, taps and inputs belong together: `phases`, `axis`, the strides of a weight's
// filters and channels, and how many pixels a depthwise item covers.

template <int N> struct Int { static constexpr int value = N; };

// Whether a tensor's offset and strides but that of the channels are known to be multiples of N.
#define ALIGNED(v, N) (v##_o_DIVISOR % (N) == 0 && v##_s0_DIVISOR % (N) == 0 && SPATIAL_ALIGNED(v, N))

KERNEL {
    ARGUMENTS
    SHARED(memory)
    const int ins[] = SPATIAL_LIST(in), outs[] = SPATIAL_LIST(out), kers[] = SPATIAL_LIST(ker);
    const int strs[] = SPATIAL_LIST(str), dils[] = SPATIAL_LIST(dil), pads[] = SPATIAL_LIST(pad);
    const long long x_along[] = SPATIAL_STRIDES(x), w_along[] = SPATIAL_STRIDES(w);

    // stores N results of channels from `channel` on at a pixel; `run` says whether they are a whole run of a group's
    auto put_at = [&](int batch, const int (&o)[SPATIAL], int channel, int count, auto& v, auto run) {
        constexpr int N = sizeof(v) / sizeof(v[0]);
        constexpr bool WHOLE = run.value;
        const long long at_channel = channel;
        (void)at_channel;
#define INDEX(v) (v##_o + batch * v##_s0 + at_channel * v##_s1 + SPATIAL_OFFSET(v, o))
#define EXTRA(e) \
    READ_TYPE(e) v_##e[N]; \
    read_run<e##_s1_DIVISOR, WHOLE && ALIGNED(e, 16 / (int)sizeof(*e))>(v_##e, e + INDEX(e), e##_s1, count);
        EXTRAS(EXTRA)
        RESULT_TYPE result[N];
#pragma unroll
        for (int j = 0; j < N; ++j) result[j] = EPILOGUE(v, j);
        write_run<y_s1_DIVISOR, WHOLE && ALIGNED(y, 16 / (int)sizeof(*y))>(y + INDEX(y), result, y_s1, count);
    };

// a divisor is 1 if c is, and −1 if nothing is known of c
#if (c_DIVISOR == 1 || c_DIVISOR == -1) && (k_DIVISOR == 1 || k_DIVISOR == -1)
    if (c == 1 && k == 1) {
        // depthwise: an item is a run of channels at some pixels of a row
        auto depthwise = [&](auto run, auto many, bool channels_first) {
            constexpr int V = decltype(run)::value, P = decltype(many)::value;
            const int runs = ceil_div(g, V), columns = ceil_div(outs[SPATIAL - 1], P);
            long long items = (long long)n * runs * columns;
#pragma unroll
            for (int a = 0; a < SPATIAL - 1; ++a) items *= outs[a];
            for (long long item = blockIdx.x * (long long)THREADS + threadIdx.x; item < items; item += (long long)gridDim.x * THREADS) {
                long long rest = item;
                int first = 0, o[SPATIAL];
                auto take = [&](int extent) {
                    const long long above = rest / extent;
                    const int i = (int)(rest - above * extent);
                    rest = above;
                    return i;
                };
                if (!channels_first) first = take(runs) * V;
                o[SPATIAL - 1] = take(columns) * P;
#pragma unroll
                for (int a = SPATIAL - 2; a >= 0; --a) o[a] = take(outs[a]);
                if (channels_first) first = take(runs) * V;
                const int batch = (int)rest, count = g - first;

                Axis axes[SPATIAL];
                int corner[SPATIAL], taps = 1;
                const X_TYPE* x_at = x + x_o + batch * x_s0 + first * x_s1;
                const X_TYPE* w_at = w + w_o + first * w_s0;
#pragma unroll
                for (int a = 0; a < SPATIAL; ++a) {
                    const int phase = o[a] % phases(strs[a]);
                    axes[a] = axis(phase, ins[a], outs[a], kers[a], strs[a], dils[a], pads[a]);
                    corner[a] = (o[a] - phase) / axes[a].spacing * axes[a].mul + axes[a].base;
                    x_at += corner[a] * x_along[a];
                    w_at += axes[a].tap * w_along[a];
                    taps *= axes[a].taps;
                }
                ACC acc[P][V] = {};
                Position p(0, 1, axes);
                for (int t = 0; t < taps; ++t, p.advance(1, 1, axes)) {
                    bool there = true;
                    const X_TYPE* from = x_at;
                    const X_TYPE* weight = w_at;
#pragma unroll
                    for (int a = 0; a < SPATIAL; ++a) {
                        const int ahead = p.tap[a] * axes[a].step;
                        if (a < SPATIAL - 1) there = there && (unsigned int)(corner[a] + ahead) < (unsigned int)ins[a];
                        from += ahead * x_along[a];
                        weight += p.tap[a] * axes[a].tap_step * w_along[a];
                    }
                    if (!there) continue;
                    ACC vw[V] = {};
                    read_run(vw, weight, w_s0, count);
                    const int column = corner[SPATIAL - 1] + p.tap[SPATIAL - 1] * axes[SPATIAL - 1].step;
#pragma unroll
                    for (int q = 0; q < P; ++q) {
                        const int ahead = q * axes[SPATIAL - 1].mul;
                        if ((unsigned int)(column + ahead) >= (unsigned int)ins[SPATIAL - 1]) continue;
                        ACC vx[V] = {};
                        read_run(vx, from + ahead * x_along[SPATIAL - 1], x_s1, count);
#pragma unroll
                        for (int j = 0; j < V; ++j) acc[q][j] += vx[j] * vw[j];
                    }
                }
#pragma unroll
                for (int q = 0; q < P; ++q) {
                    if (o[SPATIAL - 1] < outs[SPATIAL - 1]) put_at(batch, o, first, count, acc[q], Bool<false>());
                    ++o[SPATIAL - 1];
                }
            }
        };
        if (x_s1 == 1 && y_s1 == 1)
            depthwise(Int<Chunk<X_TYPE>::N>(), Int<PIXELS_PER_ITEM>(), false);
        else
            depthwise(Int<1>(), Int<1>(), true);
        return;
    }
#endif

    int all_phases = 1;
    long long rows = n;
#pragma unroll
    for (int a = 0; a < SPATIAL; ++a) {
        all_phases *= phases(strs[a]);
        rows *= ceil_div(outs[a], phases(strs[a]));
    }
    // a tile has hundreds of results, so that 32 bits count them
    const int tiles_m = (int)((rows + BM - 1) / BM), tiles_n = ceil_div(k, BN);
    const int tiles = tiles_m * tiles_n * g * all_phases;
    const bool by_column = y_s1 != 1;
    // what is known of the loaders' conditions and of the order of the results
    constexpr int N = Chunk<X_TYPE>::N;
    constexpr Known WINDOWS = KNOWN && x_s1_DIVISOR == 1 && c_DIVISOR % N == 0 && ALIGNED(x, N) ? YES : OPEN;
    constexpr Known FILTERS =
        KNOWN && CHANNEL_DIVISOR == 1 && c_DIVISOR % N == 0 && FILTER_DIVISOR % N == 0 && w_o_DIVISOR % N == 0 && FILTERS_ALIGNED(N) ? YES : OPEN;
    constexpr Known BY_COLUMN = y_s1_DIVISOR == 1 ? NO : y_s1_DIVISOR == -1 ? OPEN : YES;

    FOR_EACH_TILE(tile, tiles) {
        // columns vary fastest: blocks that run together share pixels
        int rest = tile;
        const int column = rest % tiles_n * BN;
        rest /= tiles_n;
        const int group = rest % g;
        rest /= g;
        const long long row = (long long)(rest % tiles_m) * BM;
        int phase = rest / tiles_m, reduction = c;
        Axis axes[SPATIAL];
        long long here = n;
#pragma unroll
        for (int a = SPATIAL - 1; a >= 0; --a) {
            const int count = phases(strs[a]);
            axes[a] = axis(phase % count, ins[a], outs[a], kers[a], strs[a], dils[a], pads[a]);
            phase /= count;
            here *= axes[a].outputs;
            reduction *= axes[a].taps;
        }
        if (row >= here) continue;
        // a round or two
#pragma unroll 1
        for (int r = threadIdx.x; r < BM; r += THREADS) {
            int tile = (int)(row / BM), rest = r;
#pragma unroll
            for (int a = SPATIAL - 1; a >= 0; --a) pixels[r][a + 1] = divide(tile, rest, axes[a].outputs);
            pixels[r][0] = row + r < here ? tile * BM + rest : -1;
        }
        __syncthreads();

        auto put = [&](int r, int f, auto& v) {
            const int batch = pixels[r][0];
            if (batch < 0 || f >= k) return;
            int o[SPATIAL];
#pragma unroll
            for (int a = 0; a < SPATIAL; ++a) o[a] = axes[a].first + pixels[r][a + 1] * axes[a].spacing;
            put_at(batch, o, group * k + f, k - f, v, Bool<k_DIVISOR % (sizeof(v) / sizeof(v[0])) == 0>());
        };

        const Steps steps(ceil_div(reduction, BK));
        const bool aligned_x = IS_ALIGNED(N, x) && x_o % N == 0 && (g == 1 || c * x_s1 % N == 0);
        const bool aligned_w = IS_ALIGNED(N, w) && w_o % N == 0 && (g == 1 || GROUP_OF_FILTERS(1) % N == 0);
        Walk walk(x, steps.first, c, axes);
        Windows<X_TYPE, WINDOWS> from_x(x + x_o + (long long)group * c * x_s1, aligned_x, axes, walk, c, x_s0, x_s1, x_along);
        Filters<X_TYPE, FILTERS> from_w(w + w_o + GROUP_OF_FILTERS(group), aligned_w, axes, walk, column, k, c, FILTER_STRIDE, CHANNEL_STRIDE, w_along);
#if TENSOR_CORES
        float acc[STRIPS][STRIP_COLUMNS / 2] = {};
        accumulate<X_TYPE>(acc, memory, steps, from_x, from_w, 0, column);
        finish<BY_COLUMN>(acc, memory, 0, column, by_column, put);
#else
        const int group_m = by_column ? threadIdx.x % GROUPS_M : threadIdx.x / GROUPS_N;
        const int group_n = by_column ? threadIdx.x / GROUPS_M : threadIdx.x % GROUPS_N;
        ACC acc[TM][TN] = {};
        accumulate<X_TYPE, X_TYPE>(acc, memory, steps, from_x, from_w, 0, column, group_m, group_n);
        finish(acc, 0, column, group_m, group_n, put);
#endif
        __syncthreads();
    }
}
