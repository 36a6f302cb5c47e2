// y[p] = epilogue(x[p, i[p, 0], i[p, 1] …], e…[p]), or epilogue(0, e…[p]) where an index lies outside

KERNEL {
    ARGUMENTS
    const int extent[AXES] = EXTENTS;
    const int reach[] = INDEXED_EXTENTS;
    const long long along[] = INDEXED_STRIDES;
    walk<VALUE>(
        extent, CHANNELS_LAST,
        [&](const int (&p)[AXES]) -> VALUE {
            const long long from = AT_i(p);
            long long at = AT_x(p);
            bool inside = true;
#pragma unroll
            for (int j = 0; j < TUPLE; ++j) {
                long long k = (long long)i[from + j * i_t];
                if (k < 0) k += reach[j];
                inside = inside && k >= 0 && k < reach[j];
                at += k * along[j];
            }
            return inside ? (VALUE)LOAD_x(at) : (VALUE)0;
        },
        [&](const int (&p)[AXES], VALUE v) { store(y + AT_y(p), FINISH(v, p)); });
}
