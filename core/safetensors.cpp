#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>

namespace minidl {
namespace {

// Every type that Dtype has.
constexpr std::array kDtypes{Dtype::f32, Dtype::f64, Dtype::f16, Dtype::bf16,
                             Dtype::i64, Dtype::i32, Dtype::u8,  Dtype::boolean};

constexpr const char* kMetadataKey = "__metadata__";
// Where the data begins: the header is padded to this, so that arrays written in order stay aligned for vectors.
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kLengthBytes = 8;
// What the format's own reader accepts.
constexpr std::uint64_t kMaxHeader = 100'000'000;
// The format needs three levels; the parser's memory grows with every one.
constexpr int kMaxDepth = 8;

// What is wrong with a file, to follow its name.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw CheckpointError(concat_text(parts...));
}

// What the file's first bytes say; there are at least kLengthBytes.
std::uint64_t header_length(std::span<const std::byte> all) {
  std::uint64_t length = 0;
  std::memcpy(&length, all.data(), kLengthBytes);
  return length;
}

bool begins_as_safetensors(std::span<const std::byte> all) {
  if (all.size() < kLengthBytes || header_length(all) < 2 || header_length(all) > kMaxHeader) return false;
  return all.size() == kLengthBytes || all[kLengthBytes] == std::byte{'{'};
}

// An array as the header describes it.
struct Item {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;
};

std::int64_t whole_number(const nlohmann::json& value, const std::string& name) {
  constexpr std::uint64_t kLimit = std::numeric_limits<std::int64_t>::max();
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kLimit)
    refuse("is malformed: ", quoted(name), " has a shape or an offset that is not a whole number");
  return value.get<std::int64_t>();
}

Item read_item(const std::string& name, const nlohmann::json& json) {
  Item item;
  item.name = name;
  const auto field = [&](const char* key, nlohmann::json::value_t type) -> const nlohmann::json& {
    if (!json.is_object() || !json.contains(key) || json.at(key).type() != type)
      refuse("is malformed: ", quoted(name), " has no valid ", key);
    return json.at(key);
  };
  item.dtype = field("dtype", nlohmann::json::value_t::string).get<std::string>();
  for (const auto& extent : field("shape", nlohmann::json::value_t::array))
    item.shape.push_back(whole_number(extent, name));
  const nlohmann::json& offsets = field("data_offsets", nlohmann::json::value_t::array);
  if (offsets.size() != 2) refuse("is malformed: ", quoted(name), " has ", offsets.size(), " data_offsets, expected 2");
  item.begin = static_cast<std::uint64_t>(whole_number(offsets[0], name));
  item.end = static_cast<std::uint64_t>(whole_number(offsets[1], name));
  if (item.begin > item.end) refuse("is malformed: ", quoted(name), " ends before it begins");
  return item;
}

// Neither too deep nor with a name twice: the second would silently replace the first.
nlohmann::json parse_json(std::span<const std::byte> text) {
  const char* begin = reinterpret_cast<const char*>(text.data());
  std::size_t keys = 0;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, const nlohmann::json&) {
    if (depth > kMaxDepth) refuse("is malformed: its header is nested too deeply");
    keys += depth == 1 && event == nlohmann::json::parse_event_t::key;
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(begin, begin + text.size(), watch);
  } catch (const nlohmann::json::exception&) {
    refuse("is malformed: its header is not valid JSON");
  }
  if (keys != json.size()) refuse("is malformed: a name occurs twice in its header");
  return json;
}

}  // namespace

void write_safetensors(const std::filesystem::path& file, std::span<const ArrayEntry> entries,
                       const ArrayMetadata& metadata) {
  nlohmann::ordered_json header;
  header[kMetadataKey] = metadata;
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  for (const ArrayEntry& entry : entries) {
    const auto bytes = byte_count(size_of(entry.dtype), entry.shape);
    check(bytes.has_value(), "cannot write ", file.string(), ": ", entry.name, " has an impossible shape");
    check(!header.contains(entry.name), "cannot write ", file.string(), ": the name ", entry.name, " is taken");
    header[entry.name] = {
        {"dtype", name_of(entry.dtype)}, {"shape", entry.shape}, {"data_offsets", {offset, offset + *bytes}}};
    sizes.push_back(*bytes);
    offset += *bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail("cannot write ", file.string(), ": a name or the metadata is not UTF-8 text");
  }
  text.resize((kLengthBytes + text.size() + kAlignment - 1) / kAlignment * kAlignment - kLengthBytes, ' ');
  check(text.size() <= kMaxHeader, "cannot write ", file.string(), ": its header would have ", grouped(text.size()),
        " bytes, the format allows ", grouped(kMaxHeader));
  const std::uint64_t length = text.size();

  AtomicFile out(file);
  out.write(std::as_bytes(std::span(&length, 1)));
  out.write(std::as_bytes(std::span(text)));
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::span<const std::byte> bytes = entries[i].data();
    check(bytes.size() == sizes[i], "cannot write ", file.string(), ": ", entries[i].name, " yields ", bytes.size(),
          " bytes, expected ", sizes[i], " for its shape");
    out.write(bytes);
  }
  out.commit();
}

bool is_safetensors_file(const std::filesystem::path& file) { return begins_as_safetensors(MappedFile(file).bytes()); }

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : ArrayFile(file) {
  try {
    parse();
  } catch (const CheckpointError& error) {
    throw CheckpointError(concat_text(path_.string(), " ", error.what()));
  }
}

void SafetensorsFile::parse() {
  const std::span<const std::byte> all = file_.bytes();
  if (!begins_as_safetensors(all)) refuse("is not a safetensors file: it does not begin with a header");
  const std::uint64_t length = header_length(all);
  const std::span<const std::byte> rest = all.subspan(kLengthBytes);
  if (length > rest.size())
    refuse("is truncated: its header alone has ", grouped(length), " bytes, the file has ", grouped(all.size()));

  std::vector<Item> items;
  const nlohmann::json header = parse_json(rest.first(length));
  for (const auto& [name, value] : header.items()) {
    if (name != kMetadataKey) {
      items.push_back(read_item(name, value));
      continue;
    }
    try {
      value.get_to(metadata_);
    } catch (const nlohmann::json::exception&) {
      refuse("is malformed: its metadata is not a map of texts");
    }
  }
  std::sort(items.begin(), items.end(),
            [](const Item& a, const Item& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });

  const std::span<const std::byte> data = rest.subspan(length);
  std::uint64_t covered = 0;
  for (const Item& item : items) {
    if (item.begin != covered) refuse("is malformed: before ", quoted(item.name), " its arrays overlap or leave a gap");
    covered = item.end;
  }
  if (covered > data.size())
    refuse("is truncated: the header promises ", grouped(kLengthBytes + length + covered), " bytes, the file has ",
           grouped(all.size()));
  if (covered < data.size())
    refuse("is malformed: the last ", grouped(data.size() - covered), " bytes belong to no array");

  for (Item& item : items) {
    names_.push_back(item.name);
    const auto known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](Dtype d) { return item.dtype == name_of(d); });
    if (known == kDtypes.end()) {
      unsupported_.emplace(item.name, item.dtype);
      continue;
    }
    std::span<const std::byte> bytes = data.subspan(item.begin, item.end - item.begin);
    if (byte_count(size_of(*known), item.shape) != bytes.size())
      refuse("is malformed: the shape of ", quoted(item.name), " does not match its ", grouped(bytes.size()), " bytes");
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(*known) != 0)
      bytes = copies_.emplace_back(bytes.begin(), bytes.end());
    views_.emplace(item.name, ArrayView{*known, std::move(item.shape), {}, bytes});
  }
}

const ArrayView& SafetensorsFile::at(const std::string& name) const {
  if (const auto found = views_.find(name); found != views_.end()) return found->second;
  if (const auto found = unsupported_.find(name); found != unsupported_.end())
    refuse(path_.string(), " holds ", name, " as ", quoted(found->second), ", a type that is not supported");
  refuse(path_.string(), " lacks ", name);
}

template <class T>
SafetensorsFile::Array<T> SafetensorsFile::values(const std::string& name, Dtype dtype) const {
  const ArrayView& view = at(name);
  if (view.dtype != dtype)
    refuse(path_.string(), " holds ", name, " as ", name_of(view.dtype), ", expected ", name_of(dtype));
  return {view.shape, {reinterpret_cast<const T*>(view.bytes.data()), view.bytes.size() / sizeof(T)}};
}

template SafetensorsFile::Array<float> SafetensorsFile::values(const std::string&, Dtype) const;
template SafetensorsFile::Array<std::int64_t> SafetensorsFile::values(const std::string&, Dtype) const;

}  // namespace minidl
