#include "apps/profile_table.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/check.h"

namespace minidl {
namespace {

constexpr std::size_t kTextColumns = 2;  // stand left, numbers right
using Row = std::array<std::string, 8>;

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Three significant digits where there are decimals at all.
std::string rate(double value) { return value <= 0 ? "" : fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0); }
std::string percent(double ratio, int digits) { return fixed(100 * ratio, digits) + " %"; }
// Calls need not divide evenly by iterations.
std::string count(double value) { return fixed(value, value == static_cast<std::int64_t>(value) ? 0 : 1); }

Row row_of(const OpRecord& record, double iterations, double seconds, const MachinePeaks& peaks) {
  const double flops = record.seconds > 0 ? record.flops / record.seconds : 0;
  const double bytes = record.seconds > 0 ? record.bytes / record.seconds : 0;
  const double of_peak = std::max(flops / peaks.flops, bytes / peaks.bytes);
  return {record.op,
          record.shape,
          record.calls > 0 ? count(static_cast<double>(record.calls) / iterations) : "",
          fixed(1e3 * record.seconds / iterations, 2),
          rate(flops / 1e9),
          rate(bytes / 1e9),
          of_peak > 0 ? percent(of_peak, 0) : "",
          percent(record.seconds / seconds, 2)};
}

std::string aligned(const std::vector<Row>& rows) {
  std::array<std::size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string table;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string space(widths[i] - rows[r][i].size(), ' ');
      table += concat_text("| ", i < kTextColumns ? rows[r][i] + space : space + rows[r][i], " ");
    }
    table += "|\n";
    if (r > 0) continue;
    for (std::size_t i = 0; i < widths.size(); ++i)
      table += concat_text("|", std::string(widths[i] + 1, '-'), i < kTextColumns ? "-" : ":");
    table += "|\n";
  }
  return table;
}

}  // namespace

std::string profile_table(std::vector<OpRecord> records, std::int64_t iterations, double seconds,
                          const MachinePeaks& peaks) {
  OpRecord other, all;
  other.op = "other", all.op = "all";
  other.seconds = all.seconds = seconds;
  for (const OpRecord& record : records) {
    other.seconds -= record.seconds;
    all.calls += record.calls;
  }
  records.push_back(other);
  std::stable_sort(records.begin(), records.end(),
                   [](const OpRecord& a, const OpRecord& b) { return a.seconds > b.seconds; });
  records.push_back(all);
  std::vector<Row> rows{{"op", "shape", "calls", "ms", "GFLOP/s", "GB/s", "of peak", "share"}};
  for (const OpRecord& record : records)
    rows.push_back(row_of(record, static_cast<double>(iterations), seconds, peaks));
  return aligned(rows);
}

}  // namespace minidl
