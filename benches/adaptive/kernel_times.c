/* Writes the time of every kernel that a CUDA process runs, those within graphs too.
 *
 * The driver loads this library into a process whose environment names it (CUDA_INJECTION64_PATH) and calls
 * InitializeInjection. CUPTI then hands over records of kernels, with times of the device's own clock. Each becomes a line of
 * the file KERNEL_TIMES: correlation, begin, end. Kernels of one replay share their correlation, or a few where it is long.
 * KERNEL is the newest record type of the header that this is compiled with; kernels.py finds it. */
#include <cupti.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const size_t BUFFER = 8 << 20;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static FILE *file;

static void CUPTIAPI requested(uint8_t **buffer, size_t *size, size_t *records) {
    *buffer = aligned_alloc(8, BUFFER);
    *size = *buffer ? BUFFER : 0;
    *records = 0;
}

static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context, (void)stream, (void)size;
    CUpti_Activity *record = NULL;
    pthread_mutex_lock(&mutex);
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const KERNEL *kernel = (const KERNEL *)record;
            fprintf(file, "%" PRIu32 " %" PRIu64 " %" PRIu64 "\n", kernel->correlationId, (uint64_t)kernel->start,
                    (uint64_t)kernel->end);
        }
    }
    fflush(file);
    pthread_mutex_unlock(&mutex);
    free(buffer);
}

static void flush(void) { cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED); }

int InitializeInjection(void) {
    const char *path = getenv("KERNEL_TIMES");
    file = path ? fopen(path, "w") : NULL;
    if (file && cuptiActivityRegisterCallbacks(requested, completed) == CUPTI_SUCCESS &&
        cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) == CUPTI_SUCCESS)
        atexit(flush);
    return 1;
}
