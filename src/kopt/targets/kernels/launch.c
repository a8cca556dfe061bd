/* Runs the tasks of a kernel on XLA's own thread pool, so that kernels and the rest of the program share one set of threads.

   The calling thread takes tasks from the front and the pool's threads from the back: neighbouring tasks of consecutive
   kernels stay on the same core, and whoever is faster takes more. The caller never waits for a thread that has not started. */

#include "xla/ffi/api/c_api.h"

enum { MAX_BUFFERS = 8 };

extern void* malloc(size_t);
extern void free(void*);
extern int sched_yield(void);

typedef void kopt_body(void** buffers, int task);

typedef struct {
  kopt_body* body;
  int num_tasks, claimed, back, done, references;
  void* buffers[MAX_BUFFERS];
} Job;

static int claim(Job* job) { return __atomic_fetch_add(&job->claimed, 1, __ATOMIC_RELAXED) < job->num_tasks; }

static void release(Job* job) {
  if (__atomic_sub_fetch(&job->references, 1, __ATOMIC_ACQ_REL) == 0) free(job);
}

static void work_from_back(void* data) {
  Job* job = data;
  while (claim(job)) {
    int task = job->num_tasks - 1 - __atomic_fetch_add(&job->back, 1, __ATOMIC_RELAXED);
    job->body(job->buffers, task);
    __atomic_fetch_add(&job->done, 1, __ATOMIC_RELEASE);
  }
  release(job);
}

static void pause_briefly(int round) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
  if (round > 4096) sched_yield();
}

static int num_threads(XLA_FFI_CallFrame* frame) {
  int64_t found = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, 0, frame->ctx, &found};
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error) {
    XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, 0, error};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
    return 1;
  }
  return (int)found;
}

static void run_parallel(XLA_FFI_CallFrame* frame, Job* job, int helpers) {
  int front = 0;
  for (int i = 0; i < helpers; ++i) {
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, 0, frame->ctx, work_from_back, job};
    XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
    if (error) {
      XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, 0, error};
      frame->api->XLA_FFI_Error_Destroy(&destroy);
      release(job);
    }
  }
  while (claim(job)) {
    job->body(job->buffers, front++);
    __atomic_fetch_add(&job->done, 1, __ATOMIC_RELEASE);
  }
  for (int round = 0; __atomic_load_n(&job->done, __ATOMIC_ACQUIRE) < job->num_tasks; ++round) pause_briefly(round);
  release(job);
}

static XLA_FFI_Error* refuse(XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, 0, message, XLA_FFI_Error_Code_INTERNAL};
  return frame->api->XLA_FFI_Error_Create(&args);
}

static int tells_version(XLA_FFI_CallFrame* frame) {
  for (__typeof__(frame->extension_start) extension = frame->extension_start; extension; extension = extension->next) { // its type has another name in each jaxlib
    if (extension->type != XLA_FFI_Extension_Metadata) continue;
    XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)extension)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    return 1;
  }
  return 0;
}

static XLA_FFI_Error* kopt_launch(XLA_FFI_CallFrame* frame, kopt_body* body, int operands, int num_tasks, int shared) {
  if (tells_version(frame)) return 0;
  if (frame->args.size != operands || frame->rets.size != 1) return refuse(frame, "a kernel was called with other arrays than it takes");
  void* buffers[MAX_BUFFERS];
  for (int i = 0; i < operands; ++i) buffers[i] = ((XLA_FFI_Buffer*)frame->args.args[i])->data;
  buffers[operands] = ((XLA_FFI_Buffer*)frame->rets.rets[0])->data;
  int helpers = shared && num_tasks > 1 ? num_threads(frame) - 1 : 0;
  if (helpers > num_tasks - 1) helpers = num_tasks - 1;
  Job* job = helpers > 0 ? malloc(sizeof(Job)) : 0;
  if (!job) {
    for (int task = 0; task < num_tasks; ++task) body(buffers, task);
    return 0;
  }
  job->body = body, job->num_tasks = num_tasks, job->claimed = job->back = job->done = 0, job->references = helpers + 1;
  for (int i = 0; i <= operands; ++i) job->buffers[i] = buffers[i];
  run_parallel(frame, job, helpers);
  return 0;
}
