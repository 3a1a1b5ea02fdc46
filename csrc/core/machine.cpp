// Where the values of Machine come from: the environment, else Linux's sysfs, else sysconf, else macOS's sysctl, else
// sizes that nearly every processor has at least. What these sources say is text of others: what is no number, or out
// of bounds, counts as not said.
#include "core/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace striate {
namespace {

constexpr int kCpus = 4096;  // processors that are looked at, at most

bool within(int64_t value, int64_t least, int64_t most) { return value >= least && value <= most; }
int64_t clamped(int64_t value, int64_t least, int64_t most) {
  return value < least ? least : value > most ? most : value;
}

// Reads digits from *text on, at most 15, and moves it behind them; -1 if there are none, or more.
int64_t read_digits(const char** text) {
  int64_t value = 0;
  const char* at = *text;
  for (; *at >= '0' && *at <= '9'; ++at) {
    if (at - *text >= 15) return -1;
    value = value * 10 + (*at - '0');
  }
  if (at == *text) return -1;
  *text = at;
  return value;
}

#if defined(__linux__)

// One bit for each processor.
struct CpuSet {
  uint64_t bits[kCpus / 64] = {};
  bool has(int64_t cpu) const { return within(cpu, 0, kCpus - 1) && (bits[cpu / 64] >> cpu % 64 & 1); }
  void add(int64_t cpu) {
    if (within(cpu, 0, kCpus - 1)) bits[cpu / 64] |= uint64_t(1) << cpu % 64;
  }
  int64_t count() const {
    int64_t all = 0;
    for (const uint64_t word : bits) all += __builtin_popcountll(word);
    return all;
  }
};

// Those of `set` that are in `other` too.
int64_t common_count(const CpuSet& set, const CpuSet& other) {
  int64_t all = 0;
  for (int k = 0; k < kCpus / 64; ++k) all += __builtin_popcountll(set.bits[k] & other.bits[k]);
  return all;
}

// The processors that this process may run on; empty if the system does not tell.
CpuSet allowed_cpus() {
  CpuSet set;
  static_assert(sizeof set.bits % sizeof(unsigned long) == 0);
  cpu_set_t* from = CPU_ALLOC(kCpus);
  if (from == nullptr) return set;
  const size_t bytes = CPU_ALLOC_SIZE(kCpus);
  CPU_ZERO_S(bytes, from);
  if (sched_getaffinity(0, bytes, from) == 0)
    for (int cpu = 0; cpu < kCpus; ++cpu)
      if (CPU_ISSET_S(cpu, bytes, from)) set.add(cpu);
  CPU_FREE(from);
  return set;
}

// Reads the first line of a cache's file; false if there is none.
bool read_line(int cpu, int index, const char* name, char* line, int bytes) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, name);
  FILE* file = fopen(path, "r");
  if (file == nullptr) return false;
  const bool read = fgets(line, bytes, file) != nullptr;
  fclose(file);
  return read;
}

// The bytes of "512K", "32M" or "65536"; 0 if the text is another.
int64_t bytes_of(const char* text) {
  const int64_t value = read_digits(&text);
  const int shift = *text == 'K' ? 10 : *text == 'M' ? 20 : *text == 'G' ? 30 : 0;
  return value < 0 || value > kMostCache >> shift ? 0 : value << shift;
}

// The processors of "0-3,8,10-11".
CpuSet cpus_of(const char* text) {
  CpuSet set;
  for (;; ++text) {
    const int64_t first = read_digits(&text);
    int64_t last = first;
    if (*text == '-') last = read_digits(&++text);
    if (first < 0 || last >= kCpus) return set;
    for (int64_t cpu = first; cpu <= last; ++cpu) set.add(cpu);
    if (*text != ',') return set;
  }
}

// The data caches of one processor, those with an index of up to 15; what is not found stays 0. Where processors share
// a core, as hyper-threads do, they share its first level.
Machine caches_of(int cpu) {
  Machine m = {};
  int64_t level_before = 0, threads = 1, second_sharing = 1;
  for (int index = 0; index < 16; ++index) {
    char line[4096];
    if (!read_line(cpu, index, "type", line, sizeof line)) break;
    if (strncmp(line, "Data", 4) != 0 && strncmp(line, "Unified", 7) != 0) continue;
    if (!read_line(cpu, index, "level", line, sizeof line)) continue;
    const char* text = line;
    const int64_t level = read_digits(&text);
    if (!read_line(cpu, index, "size", line, sizeof line)) continue;
    const int64_t bytes = bytes_of(line);
    if (bytes == 0 || level < 1) continue;
    const int64_t sharers = read_line(cpu, index, "shared_cpu_list", line, sizeof line) ? cpus_of(line).count() : 1;
    const int64_t sharing = sharers > threads ? sharers / threads : 1;
    if (level == 1) m.first_level = bytes, threads = sharers < 1 ? 1 : sharers;
    if (level == 2) m.second_level = bytes, second_sharing = sharing;
    if (level > level_before) m.last_level = bytes, m.sharing = level == 1 ? 1 : sharing, level_before = level;
  }
  m.second_level /= second_sharing;  // the part of one core
  return m;
}

int64_t smaller(int64_t a, int64_t b) { return a == 0 ? b : b == 0 || a < b ? a : b; }

// Where cores differ, the first and the last processor are of different kinds, and a kernel runs on both: the smaller
// caches count.
Machine read_sysfs() {
  const CpuSet allowed = allowed_cpus();
  int first = -1, last = -1;
  for (int cpu = 0; cpu < kCpus; ++cpu)
    if (allowed.has(cpu)) first = first < 0 ? cpu : first, last = cpu;
  if (first < 0) return {};
  Machine m = caches_of(first);
  char line[4096];
  int64_t threads = 1;  // of a core, on which this process may run
  if (read_line(first, 0, "shared_cpu_list", line, sizeof line)) threads = common_count(cpus_of(line), allowed);
  m.cores = allowed.count() / (threads < 1 ? 1 : threads);
  if (last != first) {
    const Machine other = caches_of(last);
    m.first_level = smaller(m.first_level, other.first_level);
    m.second_level = smaller(m.second_level, other.second_level);
    if (other.last_level != 0 && other.last_level < m.last_level)
      m.last_level = other.last_level, m.sharing = other.sharing;
  }
  return m;
}

#else

Machine read_sysfs() { return {}; }

#endif

// What the C library says, where it does.
Machine read_sysconf() {
  Machine m = {};
#if defined(_SC_NPROCESSORS_ONLN)
  m.cores = sysconf(_SC_NPROCESSORS_ONLN);
#endif
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  m.first_level = sysconf(_SC_LEVEL1_DCACHE_SIZE), m.second_level = sysconf(_SC_LEVEL2_CACHE_SIZE),
  m.last_level = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  return m;
}

Machine read_sysctl() {
  Machine m = {};
#if defined(__APPLE__)
  // What the fast cores have, where there are several kinds.
  const auto ask = [](const char* of_fast, const char* of_any) {
    const char* const names[] = {of_fast, of_any};
    for (const char* name : names) {
      int64_t value = 0;
      size_t bytes = sizeof value;
      if (sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value > 0) return value;
    }
    return int64_t(0);
  };
  m.cores = ask("hw.perflevel0.physicalcpu", "hw.physicalcpu");
  m.first_level = ask("hw.perflevel0.l1dcachesize", "hw.l1dcachesize");
  m.last_level = ask("hw.perflevel0.l2cachesize", "hw.l3cachesize");
  m.sharing = ask("hw.perflevel0.cpusperl2", "hw.physicalcpu");
  m.second_level = m.sharing > 0 ? ask("hw.perflevel0.l2cachesize", "hw.l2cachesize") / m.sharing : 0;
#endif
  return m;
}

// The value of an environment variable; 0 if it is no whole number within the bounds. native.py warns of such.
int64_t asked(const char* name, int64_t least, int64_t most) {
  const char* text = getenv(name);
  if (text == nullptr) return 0;
  const int64_t value = read_digits(&text);
  return *text == '\0' && within(value, least, most) ? value : 0;
}

Machine read_machine() {
  Machine m = {};
  const Machine sources[] = {read_sysfs(), read_sysconf(), read_sysctl()};
  for (const Machine& source : sources) {
    // Caches are taken from one source together: a processor may have no third level.
    if (m.cores < 1) m.cores = source.cores;
    if (m.first_level < 1 && source.first_level > 0) {
      m.first_level = source.first_level, m.second_level = source.second_level, m.last_level = source.last_level;
      m.sharing = source.sharing;
    }
  }
  if (m.first_level < 1) m = {m.cores, int64_t(32) << 10, int64_t(512) << 10, int64_t(8) << 20, 0};
  if (m.second_level < 1) m.second_level = m.first_level;
  if (m.last_level < 1) m.last_level = m.second_level;
  if (m.sharing < 1) m.sharing = m.last_level > m.second_level ? m.cores : 1;

  const auto settle = [](int64_t& value, const char* name, int64_t least, int64_t most) {
    const int64_t own = asked(name, least, most);
    value = own > 0 ? own : clamped(value, least, most);
  };
  settle(m.cores, "STRIATE_CORES", kLeastCount, kMostCount);
  settle(m.first_level, "STRIATE_FIRST_LEVEL", kLeastCache, kMostCache);
  settle(m.second_level, "STRIATE_SECOND_LEVEL", kLeastCache, kMostCache);
  settle(m.last_level, "STRIATE_LAST_LEVEL", kLeastCache, kMostCache);
  settle(m.sharing, "STRIATE_SHARING", kLeastCount, kMostCount);
  return m;
}

// Two places, so that a kernel that runs while the machine changes goes on with the values it began with.
struct InUse {
  Machine places[2] = {read_machine(), {}};
  std::atomic<const Machine*> now{&places[0]};
};

InUse& in_use() {
  static InUse one;
  return one;
}

}  // namespace

const Machine& machine() { return *in_use().now.load(std::memory_order_acquire); }

void use_machine(const Machine& other) {
  InUse& one = in_use();
  Machine* free = &one.places[one.now.load() == &one.places[0] ? 1 : 0];
  *free = {clamped(other.cores, kLeastCount, kMostCount), clamped(other.first_level, kLeastCache, kMostCache),
           clamped(other.second_level, kLeastCache, kMostCache), clamped(other.last_level, kLeastCache, kMostCache),
           clamped(other.sharing, kLeastCount, kMostCount)};
  one.now.store(free, std::memory_order_release);
}

}  // namespace striate
