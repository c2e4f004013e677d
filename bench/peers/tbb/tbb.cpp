// What oneTBB takes for tasks with an empty body, on two threads: prints, for
// each way, its name and the nanoseconds a task.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>
#include <thread>

static void empty() {}
static void (*volatile body)() = empty; // so that no call is left out

template <typename F> static void measure(const char *name, long n, F f) {
  auto began = std::chrono::steady_clock::now();
  f();
  std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - began;
  std::printf("%s %.2f\n", name, took.count() / n);
}

int main(int argc, char **argv) {
  long n = argc > 1 ? std::atol(argv[1]) : 1000000;
  tbb::global_control two(tbb::global_control::max_allowed_parallelism, 2);
  tbb::parallel_for(0L, n / 10, [](long) { body(); }); // its threads start
  measure("task_group", n, [&] {
    tbb::task_group g;
    for (long i = 0; i < n; i++)
      g.run([] { body(); });
    g.wait();
  });
  measure("parallel_for", n, [&] {
    tbb::parallel_for(
        tbb::blocked_range<long>(0, n, 1), [](const tbb::blocked_range<long> &r) { for (long i = r.begin(); i < r.end(); i++) body(); },
        tbb::simple_partitioner());
  });
  measure("enqueue", n, [&] {
    tbb::task_arena a(2, 1);
    std::atomic<long> left(n);
    for (long i = 0; i < n; i++)
      a.enqueue([&] { body(); left.fetch_sub(1, std::memory_order_relaxed); });
    while (left.load() > 0)
      std::this_thread::yield();
  });
}
