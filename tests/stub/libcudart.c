/* A CUDA runtime whose device memory is host memory and whose kernels compute nothing.
 *
 * With it the CUDA provider opens sessions, places nodes and copies as on a GPU, so that all but the
 * results can be tested. What it answers is set by environment variables, read at each call:
 *   STUB_CUDA_DEVICES     devices (0: cudaGetDeviceCount returns 100)
 *   STUB_CUDA_CAPABILITY  compute capability of the devices ("9.0")
 *   STUB_CUDA_MALLOC      what cudaMalloc returns (0)
 *   STUB_CUDA_MEMORY      bytes of each device's memory (80 GiB): beyond it cudaMalloc returns 2, and
 *                         cudaMemGetInfo tells what is left of all devices together
 *   STUB_CUDA_LAUNCH      what a launch of a kernel returns (0: success, and nothing was computed)
 *   STUB_CUDA_GRAPHS      1: copies are captured as graphs, and launching one copies again;
 *                         0: capturing is not supported; 2: a launch copies nothing
 *   STUB_CUDA_CALLS       a file that gets a line for each copy, wait and graph
 * An error of 700 to 719 stays: every later call returns it, as with a context that is dead.
 * Source: CUDA runtime API 13, the functions of these names; driver_types.h for struct properties.
 */
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_MEMORY = 2, NO_DEVICE = 100, NOT_SUPPORTED = 801, CANNOT_CAPTURE = 900 };

static __thread int last;  /* what cudaGetLastError gives */
static __thread int current;  /* the thread's device */
static int dead;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

static size_t memory(void) {
    const char *text = getenv("STUB_CUDA_MEMORY");
    return text && *text ? strtoull(text, NULL, 10) : 80UL << 30;
}

static int ending(int code) {
    if (dead) code = dead;
    else if (code >= 700 && code < 720) dead = code;
    if (code) last = code;
    return code;
}

/* The first fields of cudaDeviceProp; the rest of its 1008 bytes stays zero. */
struct properties {
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared_per_block;
    int registers_per_block, warp;
    size_t pitch;
    int threads_per_block, threads[3], grid[3];
    size_t constant;
    int major, minor;
    size_t alignment, pitch_alignment;
    int processors, integrated;
};

int cudaGetDeviceCount(int *count) {
    *count = number("STUB_CUDA_DEVICES", 0);
    return ending(*count ? 0 : NO_DEVICE);
}

int cudaGetDeviceProperties(struct properties *of, int device) {
    const char *capability = getenv("STUB_CUDA_CAPABILITY");
    memset(of, 0, 1008);
    snprintf(of->name, sizeof of->name, "Stub GPU");
    of->uuid[15] = (char)device;
    of->memory = memory(), of->shared_per_block = 49152;
    of->registers_per_block = 65536, of->warp = 32, of->threads_per_block = 1024;
    for (int i = 0; i < 3; i++) of->threads[i] = 1024, of->grid[i] = 65535;
    of->major = 9, of->processors = 132;
    if (capability) sscanf(capability, "%d.%d", &of->major, &of->minor);
    return ending(0);
}

int cudaSetDevice(int device) { current = device; return ending(0); }
int cudaGetDevice(int *device) { *device = current; return ending(0); }
int cudaDeviceGetAttribute(int *value, int key, int device) {
    struct properties of;
    char room[1008];
    cudaGetDeviceProperties((struct properties *)room, device);
    memcpy(&of, room, sizeof of);
    *value = key == 75 ? of.major : key == 76 ? of.minor : key == 16 ? of.processors : 1;
    return ending(0);
}
int cudaDriverGetVersion(int *version) { *version = 13050; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13050; return 0; }
int cudaGetLastError(void) { int code = dead ? dead : last; last = 0; return code; }
int cudaPeekAtLastError(void) { return dead ? dead : last; }

static const struct { int code; const char *name, *text; } errors[] = {
    {0, "cudaSuccess", "no error"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {209, "cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"},
    {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {719, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
};

static void note(const char *what, size_t bytes) {
    const char *path = getenv("STUB_CUDA_CALLS");
    FILE *file = path && *path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%s %zu\n", what, bytes);
    fclose(file);
}

/* What is captured: copies between device addresses, up to a number. */
struct copy { void *to; const void *from; size_t bytes; };
struct graph { int count; struct copy copies[64]; };
static __thread struct graph *capturing;

static int row(int code) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) return (int)i;
    return -1;
}
const char *cudaGetErrorName(int code) { return row(code) < 0 ? "cudaErrorUnknown" : errors[row(code)].name; }
const char *cudaGetErrorString(int code) { return row(code) < 0 ? "unknown error" : errors[row(code)].text; }

/* Memory. */
static atomic_size_t taken;  /* of the devices, by cudaMalloc */

int cudaMalloc(void **at, size_t bytes) {
    int refused = number("STUB_CUDA_MALLOC", 0);
    size_t rounded = (bytes + 255) / 256 * 256;
    *at = NULL;
    if (!refused && taken + rounded > memory()) refused = NO_MEMORY;
    if (ending(refused)) return dead ? dead : refused;
    *at = aligned_alloc(256, rounded);
    taken += malloc_usable_size(*at);
    return 0;
}
int cudaFree(void *at) {
    if (at) taken -= malloc_usable_size(at);
    free(at);
    return ending(0);
}
int cudaMallocHost(void **at, size_t bytes) { *at = malloc(bytes ? bytes : 1); return ending(0); }
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) { (void)flags; return cudaMallocHost(at, bytes); }
int cudaFreeHost(void *at) { free(at); return ending(0); }
int cudaFreeAsync(void *at, void *stream) { (void)stream; return cudaFree(at); }
int cudaMallocFromPoolAsync(void **at, size_t bytes, void *pool, void *stream) {
    (void)pool, (void)stream;
    return cudaMalloc(at, bytes);
}
int cudaMemGetInfo(size_t *unused, size_t *total) {
    *total = memory();
    *unused = *total > taken ? *total - taken : 0;
    return ending(0);
}
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    (void)kind;
    if (bytes) memmove(to, from, bytes);
    return ending(0);
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    (void)stream;
    if (capturing && capturing->count < 64) {
        capturing->copies[capturing->count++] = (struct copy){to, from, bytes};
        return ending(0);
    }
    note(kind == 1 ? "copy_in" : kind == 2 ? "copy_out" : "copy", bytes);
    return cudaMemcpy(to, from, bytes, kind);
}
int cudaHostRegister(void *at, size_t bytes, unsigned flags) {
    (void)flags;
    note("host_register", bytes);
    return ending((uintptr_t)at % 4096 || bytes % 4096 ? 1 : 0);
}
int cudaHostUnregister(void *at) { (void)at; note("host_unregister", 0); return ending(0); }
int cudaMemcpy2DAsync(
    char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width, size_t height,
    int kind, void *stream
) {
    (void)stream, (void)kind;
    for (size_t i = 0; i < height; i++) memmove(to + i * to_pitch, from + i * from_pitch, width);
    return ending(0);
}
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int kind) {
    (void)symbol, (void)offset, (void)kind;
    memset(to, 0, bytes);
    return ending(0);
}
int cudaMemset(void *at, int value, size_t bytes) { memset(at, value, bytes); return ending(0); }
int cudaMemsetAsync(void *at, int value, size_t bytes, void *stream) {
    (void)stream;
    note("clear", bytes);
    return cudaMemset(at, value, bytes);
}
int cudaPointerGetAttributes(void *attributes, const void *at) {
    (void)at;
    memset(attributes, 0, 32);
    return ending(0);
}
int cudaMemPoolCreate(void **pool, const void *how) { (void)how; *pool = malloc(1); return ending(0); }
int cudaMemPoolDestroy(void *pool) { free(pool); return ending(0); }
int cudaMemPoolGetAttribute(void *pool, int key, uint64_t *value) { (void)pool, (void)key; *value = 0; return ending(0); }
int cudaMemPoolSetAttribute(void *pool, int key, void *value) { (void)pool, (void)key, (void)value; return ending(0); }
int cudaMemPoolTrimTo(void *pool, size_t bytes) { (void)pool, (void)bytes; return ending(0); }

/* Streams and events: everything has ended when a call returns. */
static int handle(void **made) { *made = malloc(8); return ending(0); }
static int freed(void *made) { free(made); return ending(0); }
int cudaStreamCreate(void **stream) { return handle(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { (void)flags; return handle(stream); }
int cudaStreamDestroy(void *stream) { return freed(stream); }
int cudaStreamSynchronize(void *stream) { (void)stream; note("stream_synchronize", 0); return ending(0); }
int cudaStreamQuery(void *stream) { (void)stream; return ending(0); }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream, (void)event, (void)flags; return ending(0); }
int cudaStreamBeginCapture(void *stream, int mode) {
    (void)stream, (void)mode;
    if (!number("STUB_CUDA_GRAPHS", 0)) return ending(CANNOT_CAPTURE);
    note("begin_capture", 0);
    capturing = calloc(1, sizeof *capturing);
    return ending(0);
}
int cudaStreamEndCapture(void *stream, void **graph) {
    (void)stream;
    if (!capturing) return ending(NOT_SUPPORTED);
    note("end_capture", capturing->count);
    *graph = capturing, capturing = NULL;
    return ending(0);
}
int cudaStreamIsCapturing(void *stream, int *is) { (void)stream; *is = 0; return ending(0); }
int cudaDeviceSynchronize(void) { return ending(0); }
int cudaEventCreate(void **event) { return handle(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { (void)flags; return handle(event); }
int cudaEventDestroy(void *event) { return freed(event); }
int cudaEventRecord(void *event, void *stream) { (void)event, (void)stream; return ending(0); }
int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) { (void)flags; return cudaEventRecord(event, stream); }
int cudaEventSynchronize(void *event) { (void)event; note("event_synchronize", 0); return ending(0); }
int cudaEventElapsedTime(float *ms, void *from, void *to) { (void)from, (void)to; *ms = 0; return ending(0); }
int cudaLaunchHostFunc(void *stream, void (*call)(void *), void *data) { (void)stream; call(data); return ending(0); }
int cudaGraphInstantiate(void **made, struct graph *graph, unsigned long long flags) {
    (void)flags;
    if (!graph) return ending(NOT_SUPPORTED);
    *made = malloc(sizeof *graph);
    memcpy(*made, graph, sizeof *graph);
    return ending(0);
}
int cudaGraphLaunch(struct graph *graph, void *stream) {
    (void)stream;
    note("graph_launch", graph->count);
    for (int i = 0; i < graph->count && number("STUB_CUDA_GRAPHS", 0) == 1; i++)
        memmove(graph->copies[i].to, graph->copies[i].from, graph->copies[i].bytes);
    return ending(0);
}
int cudaGraphDestroy(void *graph) { return freed(graph); }
int cudaGraphExecDestroy(void *graph) { return freed(graph); }

/* Kernels. */
static int launched(void) { return ending(number("STUB_CUDA_LAUNCH", 0)); }
struct dim3 { unsigned x, y, z; };
static __thread struct { struct dim3 grid, block; size_t shared; void *stream; } pushed;
unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared, void *stream) {
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}
int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared, void **stream) {
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared, *stream = pushed.stream;
    return 0;
}
int cudaLaunchKernel(const void *f, struct dim3 g, struct dim3 b, void **a, size_t s, void *stream) {
    (void)f, (void)g, (void)b, (void)a, (void)s, (void)stream;
    return launched();
}
int __cudaLaunchKernel(const void *f, struct dim3 g, struct dim3 b, void **a, size_t s, void *stream) {
    return cudaLaunchKernel(f, g, b, a, s, stream);
}
int cudaLaunchCooperativeKernel(const void *f, struct dim3 g, struct dim3 b, void **a, size_t s, void *stream) {
    return cudaLaunchKernel(f, g, b, a, s, stream);
}
int cudaLaunchKernelExC(const void *how, const void *f, void **a) { (void)how, (void)f, (void)a; return launched(); }
int __cudaGetKernel(void **kernel, const void *f) { *kernel = (void *)f; return 0; }
void **__cudaRegisterFatBinary(void *binary) { return calloc(1, sizeof binary); }
void __cudaRegisterFatBinaryEnd(void **made) { (void)made; }
void __cudaUnregisterFatBinary(void **made) { free(made); }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
int cudaFuncGetAttributes(int *attributes, const void *f) {
    (void)f;
    memset(attributes, 0, 80);
    attributes[6] = 1024;  /* maxThreadsPerBlock */
    return ending(0);
}
int cudaFuncSetAttribute(const void *f, int key, int value) { (void)f, (void)key, (void)value; return ending(0); }
int cudaKernelSetAttributeForDevice(void *k, int key, int value, int device) { (void)k, (void)key, (void)value, (void)device; return ending(0); }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t shared, unsigned flags) {
    (void)f, (void)size, (void)shared, (void)flags;
    *blocks = 1;
    return ending(0);
}
int cudaLibraryLoadData(void **library) { return handle(library); }
int cudaLibraryUnload(void *library) { return freed(library); }
int cudaLibraryGetKernel(void **kernel, void *library, const char *name) { (void)library, (void)name; return handle(kernel); }
int cudaLibraryGetKernelCount(unsigned *count, void *library) { (void)library; *count = 0; return ending(0); }
int cudaLibraryEnumerateKernels(void **kernels, unsigned count, void *library) { (void)kernels, (void)count, (void)library; return ending(0); }
int cudaLibraryGetGlobal(void **at, size_t *bytes, void *library, const char *name) {
    (void)library, (void)name;
    static char room[1 << 16];
    *at = room, *bytes = sizeof room;
    return ending(0);
}
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *status) {
    (void)name, (void)version, (void)flags;
    *function = NULL;
    if (status) *status = 1;  /* not found */
    return ending(0);
}
