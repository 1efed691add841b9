#include "apps/op_profile.h"

#include "core/check.h"

namespace minidl {

void OpProfile::add(const std::string& op, const std::string& shape, double seconds, double flops, double bytes) {
  OpRecord& record = records_[{op, shape}];
  record.op = op;
  record.shape = shape;
  ++record.calls;
  record.seconds += seconds;
  record.flops += flops;
  record.bytes += bytes;
}

std::vector<OpRecord> OpProfile::records() const {
  std::vector<OpRecord> list;
  for (const auto& [key, record] : records_) list.push_back(record);
  return list;
}

std::vector<OpRecord> summed_over_shapes(const std::vector<OpRecord>& records) {
  std::map<std::string, std::pair<OpRecord, int>> sums;  // with the number of shapes
  for (const OpRecord& record : records) {
    auto& [sum, shapes] = sums[record.op];
    sum.calls += record.calls;
    sum.seconds += record.seconds;
    sum.flops += record.flops;
    sum.bytes += record.bytes;
    ++shapes;
  }
  std::vector<OpRecord> list;
  for (auto& [op, entry] : sums) {
    auto& [sum, shapes] = entry;
    sum.op = op;
    sum.shape = concat_text(shapes, shapes == 1 ? " shape" : " shapes");
    list.push_back(sum);
  }
  return list;
}

}  // namespace minidl
