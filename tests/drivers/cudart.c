/* A stand-in for libcudart.so.13 whose device memory is the host's, so that what is written for a GPU
   runs with ONNX Runtime's CPU provider. Work in a stream waits until somebody synchronises it or
   asks for it, as on a GPU: a copy that is read too early is seen. CUDART_STUB_FAILS names a function that
   fails with error 700 each time, or `NAME:CODE`. Names are those of the CUDA runtime, version 13. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256 };
typedef struct { void *to; const void *from; size_t size; } copy_t;
static copy_t waiting[MOST];
static int count;
static size_t used;

static int refusal(const char *function) {
  const char *failing = getenv("CUDART_STUB_FAILS");
  size_t length = strlen(function);
  if (!failing || strncmp(failing, function, length)) return 0;
  return failing[length] == ':' ? atoi(failing + length + 1) : failing[length] ? 0 : 700;
}

static void work(void) {
  for (int i = 0; i < count; i++) memmove(waiting[i].to, waiting[i].from, waiting[i].size);
  count = 0;
}

int cudaGetDeviceCount(int *into) { *into = 1; return refusal("cudaGetDeviceCount"); }
int cudaSetDevice(int device) { return device == 0 ? refusal("cudaSetDevice") : 101; }
int cudaStreamCreateWithFlags(void **into, unsigned flags) {
  static int stream;
  *into = &stream;
  return flags == 1 ? refusal("cudaStreamCreateWithFlags") : 1;
}
int cudaStreamDestroy(void *stream) { (void)stream; work(); return refusal("cudaStreamDestroy"); }
int cudaStreamSynchronize(void *stream) {
  (void)stream;
  work();
  return refusal("cudaStreamSynchronize");
}
int cudaStreamQuery(void *stream) { (void)stream; return refusal("cudaStreamQuery"); }
int cudaDeviceSynchronize(void) { work(); return refusal("cudaDeviceSynchronize"); }
int cudaMalloc(void **into, size_t size) {
  if (refusal("cudaMalloc")) return refusal("cudaMalloc");
  size_t *block = malloc(size + 64);
  *block = size;
  used += size;
  *into = (char *)block + 64;
  return 0;
}
int cudaFree(void *memory) {
  if (memory) {
    size_t *block = (size_t *)((char *)memory - 64);
    work();
    used -= *block;
    free(block);
  }
  return refusal("cudaFree");
}
int cudaHostRegister(void *memory, size_t size, unsigned flags) {
  (void)flags;
  if ((size_t)memory % 4096 || size % 4096) return 1;
  return refusal("cudaHostRegister");
}
int cudaHostUnregister(void *memory) { (void)memory; return refusal("cudaHostUnregister"); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  (void)stream;
  if (refusal("cudaMemcpyAsync")) return refusal("cudaMemcpyAsync");
  if (kind == 1) memmove(to, from, size); /* ONNX Runtime's CPU provider waits for no stream */
  else waiting[count++] = (copy_t){to, from, size};
  return count < MOST ? 0 : 2;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  (void)kind;
  work();
  memmove(to, from, size);
  return refusal("cudaMemcpy");
}
int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = (size_t)1 << 32;
  *free_bytes = *total - used;
  return refusal("cudaMemGetInfo");
}
const char *cudaGetErrorString(int code) {
  static char text[32];
  snprintf(text, sizeof text, "stub error %d", code);
  return text;
}
