// Integers that come with the arguments, as a tensor.

KERNEL {
    ARGUMENTS
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        STORE_ALL
    }
}
