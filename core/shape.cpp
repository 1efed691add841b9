#include "core/shape.h"

#include <algorithm>

#include "core/check.h"

namespace minidl {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 58;  // so that bytes can be counted

int checked_rank(const std::int64_t* extents, std::size_t rank) {
  check(rank <= Shape::kMaxRank, "shape: a tensor has at most ", Shape::kMaxRank, " axes, not ", rank);
  std::int64_t size = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    check(extents[i] >= 0, "shape: extent ", extents[i], " is negative");
    check(extents[i] == 0 || size <= kMostElements / extents[i], "shape: a tensor has at most ", kMostElements,
          " elements; an extent of ", extents[i], " is too much");
    size *= extents[i];
  }
  return static_cast<int>(rank);
}

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> extents) : rank_(checked_rank(extents.begin(), extents.size())) {
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

Shape::Shape(const std::vector<std::int64_t>& extents) : rank_(checked_rank(extents.data(), extents.size())) {
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::size() const {
  std::int64_t size = 1;
  for (int i = 0; i < rank_; ++i) size *= (*this)[i];
  return size;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int i = 0; i < shape.rank(); ++i) out << (i ? ", " : "") << shape[i];
  return out << ']';
}

}  // namespace minidl
