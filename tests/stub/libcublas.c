/* cuBLAS and cuBLASLt without a GPU: handles are made, and nothing is computed.
 *
 *   STUB_CUBLAS_CREATE   what cublasCreate returns (0)
 *   STUB_CUBLAS_COMPUTE  what every product returns (0: success, and nothing was computed)
 * Source: cuBLAS API 13, the functions of these names. Built as libcublas.so.13 and, since the
 * names differ, as libcublasLt.so.13 too.
 */
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}
static int made(void **handle) { *handle = malloc(8); return 0; }
static int freed(void *handle) { free(handle); return 0; }
static int computed(void) { return number("STUB_CUBLAS_COMPUTE", 0); }

int cublasCreate_v2(void **handle) {
    int refused = number("STUB_CUBLAS_CREATE", 0);
    return refused ? refused : made(handle);
}
int cublasDestroy_v2(void *handle) { return freed(handle); }
int cublasSetStream_v2(void) { return 0; }
int cublasSetMathMode(void) { return 0; }
int cublasGetMathMode(void *handle, int *mode) { (void)handle; *mode = 0; return 0; }
const char *cublasGetStatusName(int code) {
    return code == 3 ? "CUBLAS_STATUS_ALLOC_FAILED" : code == 13 ? "CUBLAS_STATUS_EXECUTION_FAILED" : "CUBLAS_STATUS_OTHER";
}
const char *cublasGetStatusString(int code) {
    return code == 1 ? "the library was not initialized" : code == 3 ? "the resource allocation failed"
         : code == 13 ? "the function failed to launch on the GPU" : "another failure";
}

#define PRODUCT(name) int name(void) { return computed(); }
PRODUCT(cublasDgeam) PRODUCT(cublasDgemmBatched) PRODUCT(cublasDgemmStridedBatched) PRODUCT(cublasDgemm_v2)
PRODUCT(cublasDgetrfBatched) PRODUCT(cublasDgetriBatched) PRODUCT(cublasGemmBatchedEx) PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx) PRODUCT(cublasScopy_v2) PRODUCT(cublasSgeam) PRODUCT(cublasSgemmBatched)
PRODUCT(cublasSgemmStridedBatched) PRODUCT(cublasSgemm_v2) PRODUCT(cublasSgetrfBatched) PRODUCT(cublasSgetriBatched)
PRODUCT(cublasSscal_v2) PRODUCT(cublasLtMatmul) PRODUCT(cublasLtMatrixTransform) PRODUCT(cublasLtMatmulAlgoInit)
PRODUCT(cublasLtMatmulAlgoConfigSetAttribute)

int cublasLtCreate(void **handle) { return cublasCreate_v2(handle); }
int cublasLtDestroy(void *handle) { return freed(handle); }
int cublasLtMatmulAlgoGetHeuristic(
    void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference, int wanted,
    void *results, int *found
) {
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted, (void)results;
    *found = 0;
    return 15;  /* not supported */
}
int cublasLtMatmulDescCreate(void **made_) { return made(made_); }
int cublasLtMatmulDescDestroy(void *handle) { return freed(handle); }
int cublasLtMatmulDescSetAttribute(void) { return 0; }
int cublasLtMatmulPreferenceCreate(void **made_) { return made(made_); }
int cublasLtMatmulPreferenceDestroy(void *handle) { return freed(handle); }
int cublasLtMatmulPreferenceSetAttribute(void) { return 0; }
int cublasLtMatrixLayoutCreate(void **made_) { return made(made_); }
int cublasLtMatrixLayoutDestroy(void *handle) { return freed(handle); }
int cublasLtMatrixLayoutSetAttribute(void) { return 0; }
int cublasLtMatrixTransformDescCreate(void **made_) { return made(made_); }
int cublasLtMatrixTransformDescDestroy(void *handle) { return freed(handle); }
