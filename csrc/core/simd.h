// One vector type for every instruction set, by the vector extensions of GCC and Clang, as wide as the compilation
// target allows. Everything is in the namespace of the instruction set, so that the linker cannot use AVX code in the
// kernels for an older machine.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef STRIATE_ISA
#error "compile kernels once per instruction set with -DSTRIATE_ISA=name (CMakeLists.txt does)"
#endif

// Marks functions whose vectors must stay in registers: a call would pass them through memory.
#define STRIATE_INLINE inline __attribute__((always_inline))
// The same for lambdas.
#define STRIATE_INLINE_LAMBDA __attribute__((always_inline))

namespace striate {
namespace STRIATE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
struct Lane;
template <>
struct Lane<float> {
  using Int = int32_t;
};
template <>
struct Lane<double> {
  using Int = int64_t;
};

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
// A mask is a vector of integers as wide as T, with all bits set where true and none where false. A vector of indices
// has the same type.
template <class T>
using IntVector = Vector<typename Lane<T>::Int>;
template <class T>
struct BytesOf {
  typedef uint8_t type __attribute__((vector_size(kLanes<T>)));
};
template <class T>
using ByteVector = typename BytesOf<T>::type;  // one byte for each lane of T

// Unaligned access. A typed pointer, because the compiler assumes that memcpy may change any value.
template <class V, class P>
inline V load_as(const P* p) {
  typedef V Unaligned __attribute__((aligned(1)));
  return *reinterpret_cast<const Unaligned*>(p);
}
template <class T>
inline Vector<T> load(const T* p) {
  return load_as<Vector<T>>(p);
}
template <class V, class P>
inline void store(P* p, const V& v) {
  typedef V Unaligned __attribute__((aligned(1)));
  *reinterpret_cast<Unaligned*>(p) = v;
}
// A non-temporal store: a cache line that is written whole is not read first. p must be aligned to the vector, and
// fence_streaming_stores() must run before another thread reads.
template <class V, class P>
STRIATE_INLINE void store_streaming(P* p, const V& v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#else
  store(p, v);
#endif
}
inline void fence_streaming_stores() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Loads the first n values and fills the other lanes with zeros. Without mask registers it copies halves, because a
// memcpy of unknown length would be a function call.
template <class V, class P>
STRIATE_INLINE V load_first(const P* p, int64_t n) {
#if defined(__AVX512F__)
  const uint32_t mask = n >= 16 ? 0xffff : (1u << n) - 1;
  if constexpr (sizeof(V) == 64 && sizeof(P) == 4) return (V)_mm512_maskz_loadu_ps(__mmask16(mask), p);
  if constexpr (sizeof(V) == 64 && sizeof(P) == 8) return (V)_mm512_maskz_loadu_pd(__mmask8(mask), p);
  if constexpr (sizeof(V) == 16 && sizeof(P) == 1) return (V)_mm_maskz_loadu_epi8(__mmask16(mask), p);
#endif
  V v = {};
  char* to = reinterpret_cast<char*>(&v);
  const char* from = reinterpret_cast<const char*>(p);
  const size_t bytes = size_t(n) * sizeof(P);
  if (bytes >= sizeof(V)) return load_as<V>(p);
  if (bytes & 32) memcpy(to, from, 32), to += 32, from += 32;
  if (bytes & 16) memcpy(to, from, 16), to += 16, from += 16;
  if (bytes & 8) memcpy(to, from, 8), to += 8, from += 8;
  if (bytes & 4) memcpy(to, from, 4), to += 4, from += 4;
  if (bytes & 2) memcpy(to, from, 2), to += 2, from += 2;
  if (bytes & 1) *to = *from;
  return v;
}
template <class V, class P>
STRIATE_INLINE void store_first(P* p, const V& v, int64_t n) {
  const size_t bytes = size_t(n) * sizeof(P);
  if (bytes >= sizeof(V)) return store(p, v);
#if defined(__AVX512F__)
  const uint32_t mask = (1u << n) - 1;
  if constexpr (sizeof(V) == 64 && sizeof(P) == 4) return _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)v);
  if constexpr (sizeof(V) == 64 && sizeof(P) == 8) return _mm512_mask_storeu_pd(p, __mmask8(mask), (__m512d)v);
  if constexpr (sizeof(V) == 16 && sizeof(P) == 1) return _mm_mask_storeu_epi8(p, __mmask16(mask), (__m128i)v);
#endif
  char* to = reinterpret_cast<char*>(p);
  const char* from = reinterpret_cast<const char*>(&v);
  if (bytes & 32) memcpy(to, from, 32), to += 32, from += 32;
  if (bytes & 16) memcpy(to, from, 16), to += 16, from += 16;
  if (bytes & 8) memcpy(to, from, 8), to += 8, from += 8;
  if (bytes & 4) memcpy(to, from, 4), to += 4, from += 4;
  if (bytes & 2) memcpy(to, from, 2), to += 2, from += 2;
  if (bytes & 1) *to = *from;
}

template <class T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}
template <class T>
inline IntVector<T> broadcast_int(int64_t value) {
  return typename Lane<T>::Int(value) - IntVector<T>{};
}

// min(max(z, low), high); keeps NaN.
template <class T>
STRIATE_INLINE Vector<T> clamp(const Vector<T>& z, T low, T high) {
  const Vector<T> least = broadcast(low), most = broadcast(high), raised = z < least ? least : z;
  return raised > most ? most : raised;
}

// Converts integers that fit a byte to bytes and back. GCC 12 converts the general form lane by lane, hence the
// intrinsics.
template <class T>
inline IntVector<T> from_bytes(const ByteVector<T>& v) {
#if defined(__AVX2__)
  __m128i bytes = {};
  memcpy(&bytes, &v, sizeof v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (IntVector<T>)_mm512_cvtepu8_epi32(bytes);
  else
    return (IntVector<T>)_mm512_cvtepu8_epi64(bytes);
#else
  if constexpr (sizeof(T) == 4)
    return (IntVector<T>)_mm256_cvtepu8_epi32(bytes);
  else
    return (IntVector<T>)_mm256_cvtepu8_epi64(bytes);
#endif
#else
  return __builtin_convertvector(v, IntVector<T>);
#endif
}
template <class T>
inline ByteVector<T> to_bytes(const IntVector<T>& v) {
#if defined(__AVX512F__) || !defined(__AVX2__)
  return __builtin_convertvector(v, ByteVector<T>);
#else
  // Moves the lowest byte of each lane to the front of its half, then joins the two halves.
  __m256i mixed;
  if constexpr (sizeof(T) == 4)
    mixed = _mm256_shuffle_epi8((__m256i)v, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1,
                                                                                      -1, -1, -1, -1, -1, -1, -1)));
  else
    mixed = _mm256_shuffle_epi8((__m256i)v, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1,
                                                                                      -1, -1, -1, -1, -1, -1, -1)));
  const uint64_t low = uint64_t(_mm256_extract_epi64(mixed, 0)), high = uint64_t(_mm256_extract_epi64(mixed, 2));
  const uint64_t both = low | high << (sizeof(T) == 4 ? 32 : 16);
  ByteVector<T> out;
  memcpy(&out, &both, sizeof out);
  return out;
#endif
}

template <auto V>
struct Constant {
  static constexpr auto value = V;
};

// Calls run(Constant<n>) for an n from 1 to Most, so that n is a constant in the body.
template <int Most, class Run>
STRIATE_INLINE void with_constant(int64_t n, const Run& run) {
  if constexpr (Most > 1)
    if (n < Most) return with_constant<Most - 1>(n, run);
  run(Constant<Most>{});
}

template <int... I>
struct Indices {};
template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I>
struct CountTo<0, I...> {
  using type = Indices<I...>;
};

// A mask that is true in the first n lanes.
template <class T, int... I>
STRIATE_INLINE IntVector<T> count_lanes(Indices<I...>) {
  return IntVector<T>{I...};
}
template <class T>
STRIATE_INLINE IntVector<T> first_lanes(int64_t n) {
  return count_lanes<T>(typename CountTo<kLanes<T>>::type{}) < broadcast_int<T>(n);
}

// Calls body(i, Constant<true>, lanes) for each whole vector of `count` values, then body(i, Constant<false>, lanes)
// once for the remaining lanes, if any.
template <class T, class Body>
STRIATE_INLINE void for_each_vector(int64_t count, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) body(i, Constant<true>{}, L);
  if (i < count) body(i, Constant<false>{}, count - i);
}
template <class T, class Whole>
STRIATE_INLINE Vector<T> load_lanes(Whole, const T* p, int64_t lanes) {
  if constexpr (Whole::value)
    return load(p);
  else
    return load_first<Vector<T>>(p, lanes);
}
template <class T, class Whole>
STRIATE_INLINE void store_lanes(Whole, T* p, const Vector<T>& v, int64_t lanes) {
  if constexpr (Whole::value)
    store(p, v);
  else
    store_first(p, v, lanes);
}
template <class T, class Whole>
STRIATE_INLINE Vector<T> mask_lanes(Whole, const Vector<T>& v, int64_t lanes) {
  if constexpr (Whole::value)
    return v;
  else
    return first_lanes<T>(lanes) ? v : Vector<T>{};
}

// Permutes lanes: lane k of the result is lane of[k] of v.
template <class T>
STRIATE_INLINE Vector<T> permute_lanes(const Vector<T>& v, const IntVector<T>& of) {
#if defined(__clang__)
  Vector<T> picked;
  for (int k = 0; k < kLanes<T>; ++k) picked[k] = v[of[k]];
  return picked;
#else
  return __builtin_shuffle(v, of);
#endif
}

// Sums all lanes in a binary tree: halves first.
template <class T, int Half, int... I>
STRIATE_INLINE Vector<T> add_half(const Vector<T>& v, Indices<I...>) {
  return v + __builtin_shufflevector(v, v, (I ^ Half)...);
}
template <class T, int Half = kLanes<T> / 2>
STRIATE_INLINE T sum_lanes(const Vector<T>& v) {
  const Vector<T> sum = add_half<T, Half>(v, typename CountTo<kLanes<T>>::type{});
  if constexpr (Half > 1)
    return sum_lanes<T, Half / 2>(sum);
  else
    return sum[0];
}

// Loads as many values as a vector of doubles has lanes and converts them to double.
template <class T>
STRIATE_INLINE Vector<double> load_widened(const T* p) {
  typedef T Narrow __attribute__((vector_size(kLanes<double> * sizeof(T))));
  return __builtin_convertvector(load_as<Narrow>(p), Vector<double>);
}
// Converts doubles to T and stores them.
template <class T>
STRIATE_INLINE void store_narrowed(T* p, const Vector<double>& v) {
  typedef T Narrow __attribute__((vector_size(kLanes<double> * sizeof(T))));
  store(p, __builtin_convertvector(v, Narrow));
}

// Adds the lanes of v, as doubles, to the lanes of a vector of doubles; where T is float, each takes two.
template <class T, int First, int... I>
STRIATE_INLINE Vector<double> widen(const Vector<T>& v, Indices<I...>) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, (First + I)...), Vector<double>);
}
template <class T>
STRIATE_INLINE void add_widened(const Vector<T>& v, Vector<double>& sum) {
  if constexpr (sizeof(T) == sizeof(double)) {
    sum += v;
  } else {
    using Half = typename CountTo<kLanes<double>>::type;
    sum += widen<T, 0>(v, Half{}) + widen<T, kLanes<double>>(v, Half{});
  }
}

// Exchanges blocks of `Block` lanes between rows a and b of a transposition. The indices are template arguments because
// GCC 12 builds a vector of indices, even a constant one, anew at each use.
template <class T, int Block, int... I>
STRIATE_INLINE void swap_blocks(Vector<T>& a, Vector<T>& b, Indices<I...>) {
  const Vector<T> low = __builtin_shufflevector(a, b, (I & Block ? kLanes<T> + I - Block : I)...);
  b = __builtin_shufflevector(a, b, (I & Block ? kLanes<T> + I : I + Block)...);
  a = low;
}

// Transposes a square: lane j of row i becomes lane i of row j. Swaps blocks of 1, 2, 4, … lanes between rows that far
// apart. That takes log2(lanes) shuffles a row, one instruction each except for single lanes before AVX-512.
template <class T, int Block = 1>
STRIATE_INLINE void transpose(Vector<T> (&rows)[kLanes<T>]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i)
    if ((i & Block) == 0) swap_blocks<T, Block>(rows[i], rows[i + Block], typename CountTo<kLanes<T>>::type{});
  if constexpr (2 * Block < kLanes<T>) transpose<T, 2 * Block>(rows);
}

// Transposes a square of bytes. There is no shuffle that swaps single bytes of two rows, but interleaving is cheap:
// rows that are half of all apart are interleaved, log2(lanes) times.
template <class T, int... I>
STRIATE_INLINE void interleave(const ByteVector<T>& a, const ByteVector<T>& b, ByteVector<T>& low, ByteVector<T>& high,
                               Indices<I...>) {
  constexpr int L = kLanes<T>;
  low = __builtin_shufflevector(a, b, (I % 2 * L + I / 2)...);
  high = __builtin_shufflevector(a, b, (I % 2 * L + I / 2 + L / 2)...);
}
template <class T, int Steps = kLanes<T>>
STRIATE_INLINE void transpose_bytes(ByteVector<T> (&rows)[kLanes<T>]) {
  constexpr int L = kLanes<T>;
  ByteVector<T> mixed[L];
#pragma GCC unroll 16
  for (int i = 0; i < L / 2; ++i)
    interleave<T>(rows[i], rows[i + L / 2], mixed[2 * i], mixed[2 * i + 1], typename CountTo<L>::type{});
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) rows[i] = mixed[i];
  if constexpr (Steps > 2) transpose_bytes<T, Steps / 2>(rows);
}

}  // namespace STRIATE_ISA
}  // namespace striate
