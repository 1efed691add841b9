#include "apps/metrics_log.h"

#include <nlohmann/json.hpp>
#include <string>

#include "core/check.h"

namespace minidl {
namespace {

// Bytes of the leading lines whose iteration is at most `last`.
std::uintmax_t bytes_up_to(const std::filesystem::path& file, std::int64_t last) {
  std::ifstream in(file, std::ios::binary);
  std::uintmax_t bytes = 0;
  for (std::string line; std::getline(in, line) && !in.eof(); bytes += line.size() + 1) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("iteration") || !json["iteration"].is_number_integer()) break;
    if (json["iteration"].get<std::int64_t>() > last) break;
  }
  return bytes;
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path file, std::int64_t last) : file_(std::move(file)) {
  std::error_code error;
  if (std::filesystem::exists(file_)) std::filesystem::resize_file(file_, bytes_up_to(file_, last), error);
  if (!error) out_.open(file_, std::ios::binary | std::ios::app);
  check(!error && out_.is_open(), "cannot write ", file_.string(), "; check that the folder is writable");
}

void MetricsLog::append(std::int64_t iteration, const UgatitLosses& losses, double lr, double seconds) {
  nlohmann::ordered_json line{{"iteration", iteration}, {"d_loss", losses.discriminator}, {"g_loss", losses.generator}};
  for (const auto& [name, value] : losses.parts) line[name] = value;
  line["lr"] = lr;
  line["seconds"] = seconds;
  out_ << line.dump() << '\n' << std::flush;
  check(out_.good(), "cannot write ", file_.string(), "; free some space on the disk");
}

}  // namespace minidl
