/* A CUDA driver without a GPU: as much of libcuda.so.1 as a program asks before it computes.
 *
 * What it answers is set by environment variables, read at each call:
 *   STUB_CUDA_INIT            what cuInit returns (0)
 *   STUB_CUDA_COUNT           what cuDeviceGetCount returns (0)
 *   STUB_CUDA_DEVICES         devices (0: cuDeviceGetCount returns 100, no device)
 *   STUB_CUDA_DRIVER_VERSION  CUDA's version of the driver, 1000 * major + 10 * minor (13050)
 *   STUB_CUDA_CAPABILITY      compute capability of the devices, "9.0" or one a device: "9.0,7.0"
 *   STUB_CUDA_NAME            name of the devices ("Stub GPU")
 *   STUB_CUDA_OTHER           what every function returns that is not written here (100)
 * Source: CUDA driver API, the functions of these names.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

static int devices(void) { return number("STUB_CUDA_DEVICES", 0); }

static void capability(int device, int *major, int *minor) {
    const char *text = getenv("STUB_CUDA_CAPABILITY");
    *major = 9, *minor = 0;
    while (text && *text) {
        if (sscanf(text, "%d.%d", major, minor) != 2) return;
        text = strchr(text, ',');
        if (!text || device-- == 0) return;
        text++;
    }
}

int cuInit(unsigned flags) { (void)flags; return number("STUB_CUDA_INIT", 0); }

int cuDriverGetVersion(int *version) {
    *version = number("STUB_CUDA_DRIVER_VERSION", 13050);
    return 0;
}

int cuDeviceGetCount(int *count) {
    int refused = number("STUB_CUDA_COUNT", 0);
    *count = devices();
    return refused ? refused : *count ? 0 : 100;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < devices() ? 0 : 101;
}

int cuDeviceGetName(char *name, int length, int device) {
    const char *text = getenv("STUB_CUDA_NAME");
    (void)device;
    snprintf(name, length, "%s", text ? text : "Stub GPU");
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int major, minor;
    capability(device, &major, &minor);
    *value = attribute == 75 ? major : attribute == 76 ? minor : 1;
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 80UL << 30; return 0; }

#ifndef OLD_DRIVER  /* it came with CUDA 11.4 */
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = (unsigned char)device;
    return 0;
}
#endif

int cuGetErrorString(int code, const char **text) { (void)code; *text = "an error of the stub"; return 0; }
int cuGetErrorName(int code, const char **text) { (void)code; *text = "STUB_ERROR"; return 0; }

int cuTensorMapEncodeTiled(void) { return number("STUB_CUDA_OTHER", 100); }

static int other(void) { return number("STUB_CUDA_OTHER", 100); }

int cuGetProcAddress_v2(const char *, void **, int, unsigned long long, int *);

static const struct { const char *name; void *function; } known[] = {
    {"cuInit", cuInit},
    {"cuDriverGetVersion", cuDriverGetVersion},
    {"cuDeviceGetCount", cuDeviceGetCount},
    {"cuDeviceGet", cuDeviceGet},
    {"cuDeviceGetName", cuDeviceGetName},
    {"cuDeviceGetAttribute", cuDeviceGetAttribute},
    {"cuDeviceTotalMem", cuDeviceTotalMem_v2},
#ifndef OLD_DRIVER
    {"cuDeviceGetUuid", cuDeviceGetUuid_v2},
#endif
    {"cuGetErrorString", cuGetErrorString},
    {"cuGetErrorName", cuGetErrorName},
    {"cuGetProcAddress", cuGetProcAddress_v2},
};

int cuGetProcAddress_v2(
    const char *name, void **function, int version, unsigned long long flags, int *status
) {
    (void)version, (void)flags;
    if (status) *status = 0;
    *function = other;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) *function = known[i].function;
    if (getenv("STUB_CUDA_TRACE")) fprintf(stderr, "stub: %s%s\n", name, *function == other ? " (other)" : "");
    return 0;
}
