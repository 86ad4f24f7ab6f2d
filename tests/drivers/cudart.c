/* A CUDA runtime without a GPU: device memory is host memory, and every call is written down.
 *
 * Copies to the device and zeros happen at once, as ONNX Runtime's CPU provider waits for no stream;
 * copies to the host only when somebody waits for the stream, its event or the device: who reads
 * an answer too early reads what was there before. Any call can be made to fail, by `stub_fail` or by
 * the environment: CUDART_STUB_FAILS is `NAME:CODE`. One stream's worth of order is enough for the
 * tests: all streams share the queue. Not thread-safe.
 */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#define MOST_LINES 65536
#define MOST_COPIES 4096
#define MOST_BLOCKS 1024

typedef struct { void *to; const void *from; size_t bytes; } Copy;
typedef struct { void *at; size_t bytes; } Block;

static char lines[MOST_LINES][96];
static int line_count;
static Copy copies[MOST_COPIES];
static int copy_count;
static Block blocks[MOST_BLOCKS], locked[MOST_BLOCKS];
static int block_count, locked_count;
static char failing[64];
static int failing_code, failing_after;
static int streams, events, device = -1;
static int busy;

#define NOTE(...) \
    do { if (line_count < MOST_LINES) snprintf(lines[line_count++], 96, __VA_ARGS__); } while (0)

static int fails(const char *name) {
    const char *said = getenv("CUDART_STUB_FAILS");
    size_t length = strlen(name);
    if (said && !strncmp(said, name, length) && said[length] == ':') return atoi(said + length + 1);
    if (strcmp(name, failing) != 0) return 0;
    if (failing_after > 0) { failing_after--; return 0; }
    return failing_code;
}
#define MAY_FAIL(name) do { int code = fails(name); if (code) return code; } while (0)

static int find(Block *in, int count, const void *at) {
    for (int i = 0; i < count; i++) if (in[i].at == at) return i;
    return -1;
}

/* For tests */
void stub_reset(void) {
    line_count = copy_count = block_count = locked_count = streams = events = busy = 0;
    failing[0] = 0; failing_code = failing_after = 0; device = -1;
}
void stub_fail(const char *name, int code, int after) {
    snprintf(failing, sizeof failing, "%s", name); failing_code = code; failing_after = after;
}
void stub_busy(int is_busy) { busy = is_busy; }
int stub_lines(void) { return line_count; }
const char *stub_line(int at) { return lines[at]; }
int stub_blocks(void) { return block_count; }
int stub_locked(void) { return locked_count; }
int stub_streams(void) { return streams; }
int stub_events(void) { return events; }
int stub_device(void) { return device; }

/* The CUDA runtime */
const char *cudaGetErrorName(int code) {
    switch (code) {
    case 1: return "cudaErrorInvalidValue";
    case 2: return "cudaErrorMemoryAllocation";
    case 100: return "cudaErrorNoDevice";
    case 700: return "cudaErrorIllegalAddress";
    case 713: return "cudaErrorHostMemoryNotRegistered";
    default: return "cudaErrorUnknown";
    }
}
const char *cudaGetErrorString(int code) {
    switch (code) {
    case 1: return "invalid argument";
    case 2: return "out of memory";
    case 100: return "no CUDA-capable device is detected";
    case 700: return "an illegal memory access was encountered";
    case 713: return "pointer does not correspond to a registered memory region";
    default: return "unknown error";
    }
}
int cudaGetDeviceCount(int *count) { *count = 1; return fails("cudaGetDeviceCount"); }
int cudaSetDevice(int index) {
    MAY_FAIL("cudaSetDevice"); device = index; NOTE("set_device %d", index); return 0;
}
int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
    MAY_FAIL("cudaStreamCreateWithFlags");
    *stream = malloc(8); streams++; NOTE("stream_create %u", flags); return 0;
}
int cudaStreamDestroy(void *stream) {
    MAY_FAIL("cudaStreamDestroy"); free(stream); streams--; NOTE("stream_destroy"); return 0;
}
static void drain(void) {
    for (int i = 0; i < copy_count; i++) memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    copy_count = 0;
}
int cudaStreamSynchronize(void *stream) {
    MAY_FAIL("cudaStreamSynchronize"); drain(); NOTE("stream_synchronize"); return 0;
}
int cudaDeviceSynchronize(void) { MAY_FAIL("cudaDeviceSynchronize"); drain(); return 0; }
int cudaStreamQuery(void *stream) { MAY_FAIL("cudaStreamQuery"); return busy ? 600 : 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) {
    MAY_FAIL("cudaEventCreateWithFlags");
    *event = malloc(8); events++; NOTE("event_create %u", flags); return 0;
}
int cudaEventDestroy(void *event) {
    MAY_FAIL("cudaEventDestroy"); free(event); events--; NOTE("event_destroy"); return 0;
}
int cudaEventRecord(void *event, void *stream) {
    MAY_FAIL("cudaEventRecord"); NOTE("event_record"); return 0;
}
int cudaEventSynchronize(void *event) {
    MAY_FAIL("cudaEventSynchronize"); drain(); NOTE("event_synchronize"); return 0;
}
int cudaMalloc(void **at, size_t bytes) {
    MAY_FAIL("cudaMalloc");
    if (block_count == MOST_BLOCKS) return 2;
    *at = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(*at, 0xAB, bytes); /* what another program left there */
    blocks[block_count].at = *at; blocks[block_count++].bytes = bytes;
    NOTE("malloc %zu", bytes); return 0;
}
int cudaFree(void *at) {
    MAY_FAIL("cudaFree");
    int i = find(blocks, block_count, at);
    if (i < 0) return 1;
    NOTE("free %zu", blocks[i].bytes);
    free(at); blocks[i] = blocks[--block_count]; return 0;
}
int cudaHostRegister(void *at, size_t bytes, unsigned flags) {
    MAY_FAIL("cudaHostRegister");
    if (locked_count == MOST_BLOCKS || (size_t)at % 4096 || bytes % 4096) return 1;
    locked[locked_count].at = at; locked[locked_count++].bytes = bytes;
    NOTE("host_register %zu %u", bytes, flags); return 0;
}
int cudaHostUnregister(void *at) {
    MAY_FAIL("cudaHostUnregister");
    int i = find(locked, locked_count, at);
    if (i < 0) return 713;
    *(volatile char *)at; /* a fault here: it was unmapped before */
    NOTE("host_unregister %zu", locked[i].bytes);
    locked[i] = locked[--locked_count]; return 0;
}
static int on_device(const void *at, size_t bytes) {
    for (int i = 0; i < block_count; i++) {
        const char *begin = blocks[i].at, *asked = at;
        if (asked >= begin && asked + bytes <= begin + blocks[i].bytes) return 1;
    }
    return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    MAY_FAIL("cudaMemcpyAsync");
    if (kind == 1) {
        if (!on_device(to, bytes)) return 1;
        memcpy(to, from, bytes); NOTE("copy_in %zu", bytes);
    } else if (kind == 2) {
        if (!on_device(from, bytes) || copy_count == MOST_COPIES) return 1;
        copies[copy_count++] = (Copy){to, from, bytes}; NOTE("copy_out %zu", bytes);
    } else return 1;
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    int code = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    if (!code) drain();
    return code;
}
int cudaMemsetAsync(void *at, int value, size_t bytes, void *stream) {
    MAY_FAIL("cudaMemsetAsync");
    if (!on_device(at, bytes)) return 1;
    memset(at, value, bytes); NOTE("clear %zu", bytes); return 0;
}
int cudaMemGetInfo(size_t *left, size_t *total) {
    MAY_FAIL("cudaMemGetInfo");
    *total = (size_t)1 << 32, *left = *total;
    for (int i = 0; i < block_count; i++) *left -= blocks[i].bytes;
    return 0;
}
