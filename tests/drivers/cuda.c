/* A stand-in for libcuda.so.1 that only says which GPUs there are: those whose UUIDs, 32 hexadecimal
   digits each, the environment variable CUDA_STUB lists with commas between. CUDA_STUB_FAILS names a
   function that fails with error 999. Names are those of cuda.h. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refusal(const char *function) {
  const char *failing = getenv("CUDA_STUB_FAILS");
  return failing && !strcmp(failing, function) ? 999 : 0;
}

static const char *list(void) {
  const char *listed = getenv("CUDA_STUB");
  return listed ? listed : "";
}

int cuInit(unsigned flags) {
  (void)flags;
  return *list() ? refusal("cuInit") : 100;
}

int cuDeviceGetCount(int *into) {
  *into = (int)(strlen(list()) + 1) / 33;
  return refusal("cuDeviceGetCount");
}

int cuDeviceGet(int *into, int index) {
  *into = index;
  return refusal("cuDeviceGet");
}

int cuDeviceGetUuid_v2(unsigned char *into, int device) {
  for (int i = 0; i < 16; i++) {
    unsigned byte = 0;
    if (sscanf(list() + 33 * device + 2 * i, "%2x", &byte) != 1) return 101;
    into[i] = (unsigned char)byte;
  }
  return refusal("cuDeviceGetUuid_v2");
}
