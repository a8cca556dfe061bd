/* Runs a program: its steps one after the other, the tasks of a step shared by the calling thread and workers.

   The calling thread takes tasks from the front and workers from the back, so that consecutive steps find their rows in the
   same core's cache. Workers stay awake while a program runs and a moment longer. A second caller at the same time runs alone. */

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 12, MAX_WORKERS = 256, MAX_TASKS = 65535, YIELD_ROUNDS = 1024, AWAKE_ROUNDS = 20000 };

typedef void kopt_task(void** arguments, int task);

typedef struct { int base; int64_t offset; } Argument;

typedef struct {
  kopt_task* run;
  int num_tasks, shared, num_arguments;
  Argument arguments[MAX_ARGUMENTS];
} Step;

/* The number of the job in the upper half; below, tasks taken from the front and from the back. */
static uint64_t word;
static const Step* current;
static void* held[MAX_ARGUMENTS];
static int done, running, sleepers, num_workers;
static pid_t owner;
static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER, asleep = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static void relax(int round) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
  if (round >= YIELD_ROUNDS) sched_yield();
}

static void work(void** arguments, uint64_t job) {
  for (;;) {
    uint64_t seen = __atomic_load_n(&word, __ATOMIC_ACQUIRE);
    const Step* step = __atomic_load_n(&current, __ATOMIC_RELAXED);
    if (seen >> 32 != job || !step) return;
    uint32_t front = (uint32_t)seen >> 16, back = (uint32_t)seen & 0xFFFF;
    if (front + back >= (uint32_t)step->num_tasks) return;
    if (!__atomic_compare_exchange_n(&word, &seen, seen + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
    step = __atomic_load_n(&current, __ATOMIC_RELAXED); /* cannot change while a task of it is under way */
    for (int i = 0; i < step->num_arguments; ++i) arguments[i] = held[i];
    step->run(arguments, step->num_tasks - 1 - (int)back);
    __atomic_fetch_add(&done, 1, __ATOMIC_RELEASE);
  }
}

static void* worker(void* unused) {
  (void)unused;
  void* arguments[MAX_ARGUMENTS];
  uint64_t last = 0;
  int idle = 0;
  for (;;) {
    uint64_t job = __atomic_load_n(&word, __ATOMIC_ACQUIRE) >> 32;
    if (job != last) {
      last = job;
      idle = 0;
      work(arguments, job);
    } else if (__atomic_load_n(&running, __ATOMIC_ACQUIRE)) {
      relax(idle < YIELD_ROUNDS ? ++idle : idle);
    } else if (++idle < AWAKE_ROUNDS) {
      relax(idle);
    } else {
      pthread_mutex_lock(&asleep);
      __atomic_fetch_add(&sleepers, 1, __ATOMIC_SEQ_CST);
      while (!__atomic_load_n(&running, __ATOMIC_SEQ_CST)) pthread_cond_wait(&wake, &asleep);
      __atomic_fetch_sub(&sleepers, 1, __ATOMIC_SEQ_CST);
      pthread_mutex_unlock(&asleep);
      idle = 0;
    }
  }
  return 0;
}

/* Make sure that there are workers; a forked process has none of its parent's. */
static void hire(int wanted) {
  if (owner != getpid()) owner = getpid(), num_workers = 0, sleepers = 0;
  if (wanted > MAX_WORKERS) wanted = MAX_WORKERS;
  while (num_workers < wanted) {
    pthread_t thread;
    if (pthread_create(&thread, 0, worker, 0)) return;
    pthread_detach(thread);
    ++num_workers;
  }
}

static void share(const Step* step, void** arguments) {
  for (int i = 0; i < step->num_arguments; ++i) held[i] = arguments[i];
  __atomic_store_n(&current, step, __ATOMIC_RELAXED);
  __atomic_store_n(&done, 0, __ATOMIC_RELAXED);
  uint64_t job = ((__atomic_load_n(&word, __ATOMIC_RELAXED) >> 32) + 1) & 0xFFFFFFFF;
  __atomic_store_n(&word, job << 32, __ATOMIC_RELEASE);
  for (uint64_t seen = job << 32;;) {
    uint32_t front = (uint32_t)seen >> 16, back = (uint32_t)seen & 0xFFFF;
    if (front + back >= (uint32_t)step->num_tasks) break;
    if (!__atomic_compare_exchange_n(&word, &seen, seen + 0x10000, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
    step->run(arguments, (int)front);
    __atomic_fetch_add(&done, 1, __ATOMIC_RELEASE);
    seen = __atomic_load_n(&word, __ATOMIC_ACQUIRE);
  }
  for (int round = 0; __atomic_load_n(&done, __ATOMIC_ACQUIRE) < step->num_tasks; ++round) relax(round);
}

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

/* Where `passed` is given, the nanoseconds of every step are added to it. */
static void run_steps(const Step* steps, int count, char** bases, int threads, int64_t* passed) {
  int alone = threads < 2 || pthread_mutex_trylock(&busy);
  if (!alone) {
    hire(threads - 1);
    __atomic_store_n(&running, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&sleepers, __ATOMIC_SEQ_CST)) {
      pthread_mutex_lock(&asleep);
      pthread_cond_broadcast(&wake);
      pthread_mutex_unlock(&asleep);
    }
  }
  void* arguments[MAX_ARGUMENTS];
  for (const Step* step = steps; step < steps + count; ++step) {
    int64_t begun = passed ? now_ns() : 0;
    for (int i = 0; i < step->num_arguments; ++i) arguments[i] = bases[step->arguments[i].base] + step->arguments[i].offset;
    if (!alone && step->shared && step->num_tasks <= MAX_TASKS) {
      share(step, arguments);
    } else {
      for (int task = 0; task < step->num_tasks; ++task) step->run(arguments, task);
    }
    if (passed) passed[step - steps] += now_ns() - begun;
  }
  if (!alone) {
    __atomic_store_n(&running, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&busy);
  }
}
