#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

namespace minidl {
namespace {

struct DtypeName {
  Dtype dtype;
  const char* name;
  std::size_t size;
};
constexpr std::array<DtypeName, 8> kDtypes{{{Dtype::f32, "F32", 4},
                                            {Dtype::f64, "F64", 8},
                                            {Dtype::f16, "F16", 2},
                                            {Dtype::bf16, "BF16", 2},
                                            {Dtype::i64, "I64", 8},
                                            {Dtype::i32, "I32", 4},
                                            {Dtype::u8, "U8", 1},
                                            {Dtype::boolean, "BOOL", 1}}};

// Where the data begins: the header is padded to this, so that arrays written in order stay aligned for vectors.
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kLengthBytes = 8;
// What the format's own reader accepts.
constexpr std::uint64_t kMaxHeader = 100'000'000;

const DtypeName& entry_of(Dtype dtype) {
  return *std::find_if(kDtypes.begin(), kDtypes.end(), [=](const DtypeName& d) { return d.dtype == dtype; });
}

std::size_t bytes_of(const SafetensorsEntry& entry) {
  std::size_t bytes = size_of(entry.dtype);
  for (std::int64_t extent : entry.shape) bytes *= static_cast<std::size_t>(extent);
  return bytes;
}

}  // namespace

std::size_t size_of(Dtype dtype) { return entry_of(dtype).size; }

void write_safetensors(const std::filesystem::path& file, std::span<const SafetensorsEntry> entries,
                       const SafetensorsMetadata& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::size_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::size_t end = offset + bytes_of(entry);
    header[entry.name] = {
        {"dtype", entry_of(entry.dtype).name}, {"shape", entry.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((kLengthBytes + text.size() + kAlignment - 1) / kAlignment * kAlignment - kLengthBytes, ' ');
  std::array<std::byte, kLengthBytes> length{};
  for (std::size_t i = 0; i < kLengthBytes; ++i) length[i] = static_cast<std::byte>(text.size() >> (8 * i));

  AtomicFile out(file);
  out.write(length);
  out.write(std::as_bytes(std::span(text)));
  for (const SafetensorsEntry& entry : entries) {
    const std::span<const std::byte> bytes = entry.data();
    check(bytes.size() == bytes_of(entry), "safetensors: ", entry.name, " has ", bytes.size(),
          " bytes, its shape promises ", bytes_of(entry));
    out.write(bytes);
  }
  out.commit();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : path_(file), file_(file) {
  try {
    parse();
  } catch (const nlohmann::json::exception& error) {
    fail("is not a safetensors file: its header is malformed");
  }
}

void SafetensorsFile::parse() {
  const std::span<const std::byte> all = file_.bytes();
  if (all.size() < kLengthBytes) fail("is not a safetensors file: it has only ", all.size(), " bytes");
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<std::uint64_t>(all[i]) << (8 * i);
  const char* text = reinterpret_cast<const char*>(all.data()) + kLengthBytes;
  if (length < 2 || length > kMaxHeader || all.size() == kLengthBytes || *text != '{')
    fail("is not a safetensors file");
  if (length > all.size() - kLengthBytes)
    fail("is truncated: its header alone has ", length, " bytes, the file ", all.size());
  // A depth limit, because the parser's memory grows with nesting; the format needs three levels.
  const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > 8) throw CheckpointError("nested");
    return true;
  };
  nlohmann::json header;
  std::set<std::string> keys;
  bool duplicate = false;
  try {
    header = nlohmann::json::parse(text, text + length, [&](int depth, nlohmann::json::parse_event_t event,
                                                            nlohmann::json& value) {
      if (depth == 1 && event == nlohmann::json::parse_event_t::key)
        duplicate |= !keys.insert(value.get<std::string>()).second;
      return shallow(depth, event, value);
    });
  } catch (const CheckpointError&) {
    fail("is not a safetensors file: its header is malformed");
  }
  if (!header.is_object()) fail("is not a safetensors file: its header is no JSON object");
  if (duplicate) fail("is malformed: a name occurs twice in its header");

  const std::span<const std::byte> data = all.subspan(kLengthBytes + length);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  std::vector<std::pair<std::uint64_t, std::string>> order;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      value.get_to(metadata_);
      continue;
    }
    View view;
    const std::string dtype = value.at("dtype").get<std::string>();
    const auto known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeName& d) { return dtype == d.name; });
    if (known == kDtypes.end()) fail("holds ", name, " of type ", dtype, ", which is not supported");
    view.dtype = known->dtype;
    const auto& offsets = value.at("data_offsets");
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      fail("is malformed: ", name, " has no valid data_offsets");
    const std::uint64_t begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
    if (begin > end) fail("is malformed: ", name, " ends before it begins");
    if (end > data.size())
      fail("is truncated: it should hold ", kLengthBytes + length + end, " bytes or more, and has ", all.size());
    std::uint64_t bytes = known->size;
    for (const auto& extent : value.at("shape")) {
      if (!extent.is_number_unsigned()) fail("is malformed: ", name, " has a shape that is none");
      const std::uint64_t n = extent.get<std::uint64_t>();
      if (n != 0 && bytes > (std::uint64_t{1} << 62) / n) fail("is malformed: ", name, " has an impossible shape");
      bytes *= n;
      view.shape.push_back(static_cast<std::int64_t>(n));
    }
    if (bytes != end - begin) fail("is malformed: the shape of ", name, " does not match its size");
    view.bytes = data.subspan(begin, end - begin);
    ranges.emplace_back(begin, end);
    order.emplace_back(begin, name);
    views_.emplace(name, std::move(view));
  }
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) fail("is malformed: its arrays overlap or leave gaps");
    covered = end;
  }
  if (covered != data.size()) fail("is malformed: ", data.size() - covered, " bytes at its end belong to no array");
  std::sort(order.begin(), order.end());
  for (auto& [begin, name] : order) names_.push_back(std::move(name));
}

const SafetensorsFile::View& SafetensorsFile::at(const std::string& name) const {
  const auto found = views_.find(name);
  if (found == views_.end()) fail("lacks ", name);
  return found->second;
}

SafetensorsFile::Floats SafetensorsFile::floats(const std::string& name) const {
  const View& view = at(name);
  if (view.dtype != Dtype::f32) fail("holds ", name, " as ", entry_of(view.dtype).name, ", expected F32");
  if (reinterpret_cast<std::uintptr_t>(view.bytes.data()) % alignof(float) != 0)
    fail("holds ", name, " at an address that is no multiple of ", alignof(float));
  return {view.shape, {reinterpret_cast<const float*>(view.bytes.data()), view.bytes.size() / sizeof(float)}};
}

}  // namespace minidl
