/* A stand-in for libnvidia-ml.so.1, the border to the driver, for tests of what reads it.

   Its GPUs and answers come from the environment variable NVML_STUB, read at each call:
   `gpus=GPU-...,MIG-...;driver=580.95;power=250000;FUNCTION=!CODE;wait=PATH`. A number replaces an
   answer, `!CODE` makes the function of that name fail with that code of NVML. `xids=0:79,1:13` are
   Xid errors of those GPUs by index, each told once; `0:94:3:0` is one of GPU instance 3, compute
   instance 0. `free=100,200` are the free bytes of the GPUs; one that is not among them does not
   tell its memory. `wait=PATH` blocks nvmlDeviceGetUtilizationRates until somebody writes to that FIFO.
   Without the variable there is no driver. Names and structures are those of nvml.h, version 13. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, NO_DRIVER = 9, TIMEOUT = 10 };
enum { MOST_GPUS = 8, LINE = 256 };

typedef struct { int index; } gpu_t; /* of GPU n: 2n; of the GPU that slice n is part of: 2n + 1 */
static gpu_t gpus[2 * MOST_GPUS];
static int told; /* Xid errors that were told */

/* The value of `key`, in `into`; 0 where there is none. */
static int setting(const char *key, char *into) {
  const char *at = getenv("NVML_STUB");
  size_t length = strlen(key);
  while (at && *at) {
    if (!strncmp(at, key, length) && at[length] == '=') {
      size_t size = strcspn(at + length + 1, ";");
      if (size >= LINE) size = LINE - 1;
      memcpy(into, at + length + 1, size);
      into[size] = 0;
      return 1;
    }
    at = strchr(at, ';');
    if (at) at++;
  }
  return 0;
}

static int refusal(const char *function) {
  char value[LINE];
  return setting(function, value) && value[0] == '!' ? atoi(value + 1) : SUCCESS;
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
  char value[LINE];
  return setting(key, value) ? strtoull(value, NULL, 0) : otherwise;
}

/* The UUID of GPU `index`; 0 where there is none. */
static int uuid_of(int index, char *into) {
  char list[LINE], *part, *rest = list;
  if (!setting("gpus", list)) return 0;
  while ((part = strsep(&rest, ",")))
    if (index-- == 0) { strcpy(into, part); return 1; }
  return 0;
}

static int is_slice(gpu_t *gpu) {
  char uuid[LINE];
  return gpu->index % 2 == 0 && uuid_of(gpu->index / 2, uuid) && !strncmp(uuid, "MIG-", 4);
}

/* What a slice is refused: all but its memory, as far as is known. */
#define OF_WHOLE_GPU(function) \
  if (refusal(function)) return refusal(function); \
  if (is_slice(gpu)) return NOT_SUPPORTED

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (!getenv("NVML_STUB")) return NO_DRIVER;
  for (int i = 0; i < 2 * MOST_GPUS; i++) gpus[i].index = i;
  return refusal("nvmlInit");
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) { return refusal("nvmlShutdown"); }

const char *nvmlErrorString(int code) {
  static char text[32];
  snprintf(text, sizeof text, "NVML error %d", code);
  return text;
}

int nvmlSystemGetDriverVersion(char *into, unsigned length) {
  char value[LINE] = "580.95";
  setting("driver", value);
  snprintf(into, length, "%s", value);
  return refusal("nvmlSystemGetDriverVersion");
}

int nvmlDeviceGetHandleByUUID(const char *uuid, gpu_t **into) {
  char known[LINE];
  if (refusal("nvmlDeviceGetHandleByUUID")) return refusal("nvmlDeviceGetHandleByUUID");
  for (int i = 0; uuid_of(i, known); i++) {
    if (!strcmp(uuid, known)) { *into = &gpus[2 * i]; return SUCCESS; }
    if (!strncmp(known, "MIG-", 4) && !strncmp(uuid, "GPU-whole-", 10) && atoi(uuid + 10) == i) {
      *into = &gpus[2 * i + 1];
      return SUCCESS;
    }
  }
  return NOT_FOUND;
}

int nvmlDeviceGetUUID(gpu_t *gpu, char *into, unsigned length) {
  char uuid[LINE];
  if (gpu->index % 2) snprintf(into, length, "GPU-whole-%d", gpu->index / 2);
  else if (uuid_of(gpu->index / 2, uuid)) snprintf(into, length, "%s", uuid);
  else return NOT_FOUND;
  return refusal("nvmlDeviceGetUUID");
}

int nvmlDeviceGetName(gpu_t *gpu, char *into, unsigned length) {
  snprintf(into, length, is_slice(gpu) ? "NVIDIA Stub MIG 1g.10gb" : "NVIDIA Stub");
  return refusal("nvmlDeviceGetName");
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu_t *gpu, gpu_t **into) {
  *into = &gpus[gpu->index + 1];
  return refusal("nvmlDeviceGetDeviceHandleFromMigDeviceHandle");
}

int nvmlDeviceGetGpuInstanceId(gpu_t *gpu, unsigned *into) {
  (void)gpu;
  *into = (unsigned)number("gpu_instance", 3);
  return refusal("nvmlDeviceGetGpuInstanceId");
}

int nvmlDeviceGetComputeInstanceId(gpu_t *gpu, unsigned *into) {
  (void)gpu;
  *into = (unsigned)number("compute_instance", 0);
  return refusal("nvmlDeviceGetComputeInstanceId");
}

typedef struct { unsigned gpu, memory; } utilization_t;

int nvmlDeviceGetUtilizationRates(gpu_t *gpu, utilization_t *into) {
  char path[LINE], byte;
  if (setting("wait", path)) {
    int file = open(path, O_RDONLY);
    if (read(file, &byte, 1) < 0) return 999;
    close(file);
  }
  OF_WHOLE_GPU("nvmlDeviceGetUtilizationRates");
  into->gpu = (unsigned)number("utilization", 25);
  into->memory = (unsigned)number("memory_busy", 10);
  return SUCCESS;
}

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;

int nvmlDeviceGetMemoryInfo(gpu_t *gpu, memory_t *into) {
  char list[LINE], *part = NULL, *rest = list;
  *into = (memory_t){8000, 4900, 3100};
  into->used += (unsigned long long)gpu->index;
  if (setting("free", list)) {
    for (int i = 0; i <= gpu->index / 2; i++) part = strsep(&rest, ",");
    if (!part) return NOT_SUPPORTED;
    into->free = strtoull(part, NULL, 0), into->total = into->free + into->used;
  }
  return refusal("nvmlDeviceGetMemoryInfo");
}

int nvmlDeviceGetMemoryInfo_v2(gpu_t *gpu, memory_v2_t *into) {
  unsigned size = into->version & 0xffffff, version = into->version >> 24;
  if (size != sizeof *into || version != 2) return 25;
  *into = (memory_v2_t){into->version, 8000, 100, 4900, 3000};
  into->used += (unsigned long long)gpu->index;
  return refusal("nvmlDeviceGetMemoryInfo_v2");
}

int nvmlDeviceGetPowerUsage(gpu_t *gpu, unsigned *into) {
  OF_WHOLE_GPU("nvmlDeviceGetPowerUsage");
  *into = (unsigned)number("power", 250500);
  return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(gpu_t *gpu, unsigned *into) {
  OF_WHOLE_GPU("nvmlDeviceGetPowerManagementLimit");
  *into = 300000;
  return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(gpu_t *gpu, unsigned long long *into) {
  OF_WHOLE_GPU("nvmlDeviceGetTotalEnergyConsumption");
  *into = number("energy", 5000000);
  return SUCCESS;
}

int nvmlDeviceGetTemperature(gpu_t *gpu, unsigned sensor, unsigned *into) {
  OF_WHOLE_GPU("nvmlDeviceGetTemperature");
  *into = sensor == 0 ? 61 : 0;
  return SUCCESS;
}

int nvmlDeviceGetClockInfo(gpu_t *gpu, unsigned kind, unsigned *into) {
  OF_WHOLE_GPU("nvmlDeviceGetClockInfo");
  *into = kind == 1 ? 1410 : kind == 2 ? 1215 : 0;
  return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(gpu_t *gpu, unsigned long long *into) {
  OF_WHOLE_GPU("nvmlDeviceGetCurrentClocksEventReasons");
  *into = number("reasons", 0x24);
  return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(gpu_t *gpu, unsigned long long *into) {
  OF_WHOLE_GPU("nvmlDeviceGetCurrentClocksThrottleReasons");
  *into = number("reasons", 0x24);
  return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(gpu_t *gpu, unsigned kind, unsigned counter, unsigned long long *into) {
  OF_WHOLE_GPU("nvmlDeviceGetTotalEccErrors");
  *into = counter == 0 ? (kind == 0 ? 7 : 2) : 999;
  return SUCCESS;
}

int nvmlDeviceGetRemappedRows(gpu_t *gpu, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed) {
  OF_WHOLE_GPU("nvmlDeviceGetRemappedRows");
  *corrected = 4;
  *uncorrected = 1;
  *pending = 1;
  *failed = 0;
  return SUCCESS;
}

typedef struct {
  gpu_t *device;
  unsigned long long type, data;
  unsigned gpu_instance, compute_instance;
} event_t;

int nvmlEventSetCreate(void **into) {
  static int set;
  told = 0;
  *into = &set;
  return refusal("nvmlEventSetCreate");
}

int nvmlEventSetFree(void *set) { (void)set; return refusal("nvmlEventSetFree"); }

int nvmlDeviceRegisterEvents(gpu_t *gpu, unsigned long long types, void *set) {
  (void)set;
  if (is_slice(gpu) || types != 8) return NOT_SUPPORTED;
  return refusal("nvmlDeviceRegisterEvents");
}

int nvmlEventSetWait_v2(void *set, event_t *into, unsigned timeout_ms) {
  char list[LINE], *part, *rest = list;
  (void)set;
  (void)timeout_ms;
  if (refusal("nvmlEventSetWait_v2")) return refusal("nvmlEventSetWait_v2");
  if (!setting("xids", list)) return TIMEOUT;
  for (int i = 0; (part = strsep(&rest, ",")); i++) {
    int index = 0;
    if (i < told) continue;
    told++;
    *into = (event_t){NULL, 8, 0, 0xffffffffu, 0xffffffffu};
    sscanf(part, "%d:%llu:%u:%u", &index, &into->data, &into->gpu_instance,
           &into->compute_instance);
    into->device = is_slice(&gpus[2 * index]) ? &gpus[2 * index + 1] : &gpus[2 * index];
    return SUCCESS;
  }
  return TIMEOUT;
}
