/* TensorRT without TensorRT: what ONNX Runtime's provider needs of it to be loaded and to parse its
   options. Nothing can be built with it: a model whose operators are all kept out by
   trt_op_types_to_exclude never asks for a builder.
     STUB_TENSORRT_VERSION   what getInferLibVersion answers; 101601 without it */

#include <stdlib.h>

#define METHODS 64

/* Objects of TensorRT are classes with virtual methods; every one of these answers "nothing". */
struct object {
  void *(**methods)(void *, int *);
  struct object *implementation;
};

static void *nothing(void *self, int *count) {
  (void)self;
  (void)count;
  return NULL;
}

/* Of the registry of plug-ins the provider asks for lists, and how long they are. */
static void *no_list(void *self, int *count) {
  (void)self;
  if (count != NULL) *count = 0;
  return NULL;
}

static void *(*methods[METHODS])(void *, int *);
static void *(*registry_methods[METHODS])(void *, int *);
static struct object implementation = {methods, NULL};
static struct object registry = {registry_methods, NULL};

__attribute__((constructor)) static void fill(void) {
  for (int at = 0; at < METHODS; at++) {
    methods[at] = nothing;
    registry_methods[at] = no_list;
  }
}

int getInferLibVersion(void) {
  const char *version = getenv("STUB_TENSORRT_VERSION");
  return version != NULL ? atoi(version) : 101601;
}

void *createInferRuntime_INTERNAL(void *logger, int version) {
  (void)logger;
  (void)version;
  struct object *made = malloc(sizeof *made);
  if (made != NULL) *made = (struct object){methods, &implementation};
  return made;
}

void *createInferBuilder_INTERNAL(void *logger, int version) {
  (void)logger;
  (void)version;
  return NULL;
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) {
  (void)engine;
  (void)logger;
  (void)version;
  return NULL;
}

void *getPluginRegistry(void) { return &registry; }
