// Scratch memory of kernels. A thread keeps what it gave back for its next call: a fresh page costs a microsecond,
// which for a megabyte takes longer than many a call. What a thread keeps is bounded; the rest is freed at once, and
// all of it when the thread ends.
#include <stddef.h>
#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <new>

#include "core/parallel.h"

namespace striate {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMaxKept = size_t(64) << 20;  // bytes a thread
constexpr int kSlots = 16;

struct Block {  // a header of one cache line in front of the memory that is given out
  size_t bytes;
};

struct Kept {
  Block* blocks[kSlots] = {};
  size_t bytes = 0;

  ~Kept() {
    for (Block*& block : blocks) release(block);
  }
  static void release(Block* block) { ::operator delete(block, std::align_val_t(kAlignment)); }
};
thread_local Kept kept;

}  // namespace

void use_large_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kLarge = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kLarge - 1) / kLarge * kLarge,
                  end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kLarge * kLarge;
  if (end > begin)
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // where it is refused, nothing changes
#else
  (void)memory, (void)bytes;
#endif
}

void* take_workspace(size_t bytes) {
  int best = -1;
  for (int k = 0; k < kSlots; ++k)
    if (kept.blocks[k] && kept.blocks[k]->bytes >= bytes &&
        (best < 0 || kept.blocks[k]->bytes < kept.blocks[best]->bytes))
      best = k;
  Block* block;
  if (best >= 0) {
    block = kept.blocks[best];
    kept.blocks[best] = nullptr;
    kept.bytes -= block->bytes;
  } else {
    block = static_cast<Block*>(::operator new(kAlignment + bytes, std::align_val_t(kAlignment)));
    use_large_pages(block, kAlignment + bytes);
    block->bytes = bytes;
  }
  return reinterpret_cast<char*>(block) + kAlignment;
}

void give_workspace(void* memory) {
  Block* block = reinterpret_cast<Block*>(static_cast<char*>(memory) - kAlignment);
#if !defined(__SANITIZE_ADDRESS__)              // so that the sanitizer sees writes behind a block
  if (kept.bytes + block->bytes <= kMaxKept) {  // put it in an empty slot, or in place of the smallest block
    Block** slot = &kept.blocks[0];
    for (Block*& other : kept.blocks)
      if (*slot && (!other || other->bytes < (*slot)->bytes)) slot = &other;
    if (!*slot || (*slot)->bytes < block->bytes) {
      Block* smaller = *slot;
      *slot = block;
      kept.bytes += block->bytes - (smaller ? smaller->bytes : 0);
      if (!smaller) return;
      block = smaller;
    }
  }
#endif
  Kept::release(block);
}

}  // namespace striate
