// Running sums along the last axis. A warp walks over a row, 32 elements at a time, and carries the sum on.

KERNEL {
    ARGUMENTS
    FOR_EACH_ROW {
        THIS_ROW
        A carry = 0;
        for (long long base = 0; base < COLUMNS; base += GROUP) {
            const long long at = base + lane;
            const long long i = REVERSE ? COLUMNS - 1 - at : at;
            const A x = at < COLUMNS ? (A)LOAD(i) : (A)0;
            A sum = x;
            #pragma unroll
            for (int d = 1; d < GROUP; d *= 2) {
                const A before = __shfl_up_sync(0xffffffffu, sum, d, GROUP);
                if (lane >= d) sum = add(sum, before);
            }
            sum = add(sum, carry);
            // what came before: exact for integers, and no subtraction for floats
            A result = sum;
            if (EXCLUSIVE) {
                const A before = __shfl_up_sync(0xffffffffu, sum, 1, GROUP);
                result = lane == 0 ? carry : before;
            }
            if (live && at < COLUMNS) store(y_p + i * STRIDE, (P)result);
            carry = __shfl_sync(0xffffffffu, sum, GROUP - 1, GROUP);
        }
    }
}
