// y[p] = x[p − begin], continued beyond its ends: by a constant, by the edge, mirrored or wrapped

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    const int input[AXES] = INPUT_EXTENTS;
    const int begins[AXES] = BEGINS;
    walk<VALUE>(
        extent, CHANNELS_LAST,
        [&](const int (&p)[AXES]) -> VALUE {
            int q[AXES] = {};
            bool inside = true;
#pragma unroll
            for (int a = 0; a < RANK; ++a) {
                // negative amounts remove elements before the rest is continued
                const int end = extent[a] - input[a] - begins[a];
                const int first = maximum(-begins[a], 0);
                const int kept = input[a] - first + minimum(end, 0);
                int o = p[a] - maximum(begins[a], 0);
                if (MODE == CONSTANT) {
                    inside = inside && o >= 0 && o < kept;
                } else if (MODE == EDGE) {
                    o = minimum(maximum(o, 0), kept - 1);
                } else if (MODE == WRAP) {
                    o %= kept;
                    if (o < 0) o += kept;
                } else {
                    const int period = maximum(2 * (kept - 1), 1);
                    o %= period;
                    if (o < 0) o += period;
                    if (o >= kept) o = period - o;
                }
                q[a] = first + o;
            }
            return inside ? (VALUE)LOAD_x(AT_x(q)) : (VALUE)OUTSIDE;
        },
        [&](const int (&p)[AXES], VALUE v) { store(y + AT_y(p), v); });
}
