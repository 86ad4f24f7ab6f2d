/* NVML without a GPU: free memory of devices, by UUID.
 *   STUB_NVML_INIT  what nvmlInit_v2 returns (0)
 *   STUB_NVML_FREE  free bytes of the devices, one a device: "100,200"; none: not supported
 * A device's UUID ends in its number, as those of libcuda.c do.
 */
#include <stdlib.h>
#include <string.h>

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6 };

int nvmlInit_v2(void) { const char *text = getenv("STUB_NVML_INIT"); return text ? atoi(text) : 0; }
int nvmlShutdown(void) { return 0; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (strncmp(uuid, "GPU-", 4)) return NOT_FOUND;
    *device = (void *)(1 + strtoul(uuid + strlen(uuid) - 2, NULL, 16));
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]) {
    const char *text = getenv("STUB_NVML_FREE");
    for (size_t number = (size_t)device - 1; text && number > 0; number--) {
        text = strchr(text, ',');
        if (text) text++;
    }
    if (!text || !*text) return NOT_SUPPORTED;
    memory[0] = 80ULL << 30, memory[1] = strtoull(text, NULL, 10), memory[2] = memory[0] - memory[1];
    return 0;
}
