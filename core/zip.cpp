#include "core/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "core/arrays.h"

namespace minidl {
namespace {

constexpr std::uint32_t kLocalHeader = 0x0403'4b50, kDirectoryHeader = 0x0201'4b50, kEnd = 0x0605'4b50,
                        kZip64End = 0x0606'4b50, kZip64Locator = 0x0706'4b50;
constexpr std::size_t kLocalHeaderSize = 30, kDirectoryHeaderSize = 46, kEndSize = 22, kZip64EndSize = 56,
                      kZip64LocatorSize = 20;
constexpr std::uint16_t kZip64Field = 1;
constexpr std::uint16_t kPaddingField = 0x4246;  // "FB", as PyTorch pads
constexpr std::uint16_t kUtf8Names = 0x0800;
constexpr std::uint16_t kZip64Version = 45, kPlainVersion = 20;
constexpr std::uint32_t kFull32 = 0xffff'ffff;
constexpr std::uint16_t kFull16 = 0xffff;

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw CheckpointError(concat_text(parts...));
}

// Reads little-endian numbers one after the other; the caller has checked that they are there.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T next() {
    T value;
    std::memcpy(&value, bytes_.data(), sizeof value);
    skip(sizeof value);
    return value;
  }
  void skip(std::size_t count) { bytes_ = bytes_.subspan(count); }
  std::span<const std::byte> take(std::size_t count) {
    const auto taken = bytes_.first(count);
    skip(count);
    return taken;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

// The numbers of zip64 in an entry's extra fields, which stand there only in place of those that are all ones.
void read_zip64(std::span<const std::byte> extra, std::initializer_list<std::uint64_t*> numbers) {
  Fields fields(extra);
  while (fields.left() >= 4) {
    const auto id = fields.next<std::uint16_t>(), size = fields.next<std::uint16_t>();
    if (size > fields.left()) break;
    Fields field(fields.take(size));
    if (id != kZip64Field) continue;
    for (std::uint64_t* number : numbers)
      if (*number == kFull32 && field.left() >= 8) *number = field.next<std::uint64_t>();
  }
}

std::uint32_t checksum_of(std::span<const std::byte> data) {
  uLong sum = crc32_z(0, nullptr, 0);
  return static_cast<std::uint32_t>(crc32_z(sum, reinterpret_cast<const Bytef*>(data.data()), data.size()));
}

// Little-endian numbers as text.
template <class... T>
std::string numbers(T... values) {
  std::string text;
  (text.append(reinterpret_cast<const char*>(&values), sizeof values), ...);
  return text;
}

std::uint16_t size16(const std::string& text) { return static_cast<std::uint16_t>(text.size()); }

}  // namespace

bool ZipReader::recognises(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && Fields(bytes).next<std::uint32_t>() == kLocalHeader;
}

ZipReader::Directory ZipReader::find_directory() const {
  // The end record is followed by nothing but a comment of at most 64 KiB.
  const std::size_t size = archive_.size();
  if (size < kEndSize) refuse("is truncated: it ends before its directory");
  const std::size_t earliest = size - std::min<std::size_t>(size, kEndSize + kFull16);
  for (std::size_t at = size - kEndSize + 1; at-- > earliest;) {
    Fields end(archive_.subspan(at));
    if (end.next<std::uint32_t>() != kEnd) continue;
    end.skip(6);  // numbers of disks, entries on this one
    Directory directory;
    directory.entries = end.next<std::uint16_t>();
    directory.size = end.next<std::uint32_t>();
    directory.begin = end.next<std::uint32_t>();
    if (at >= kZip64LocatorSize) {
      Fields locator(archive_.subspan(at - kZip64LocatorSize));
      if (locator.next<std::uint32_t>() == kZip64Locator) {
        locator.skip(4);
        const auto offset = locator.next<std::uint64_t>();
        if (offset > at || at - offset < kZip64EndSize) refuse("is damaged: its directory lies outside of the file");
        Fields end64(archive_.subspan(offset));
        if (end64.next<std::uint32_t>() != kZip64End) refuse("is damaged: its directory is not where it should be");
        end64.skip(28);
        directory.entries = end64.next<std::uint64_t>();
        directory.size = end64.next<std::uint64_t>();
        directory.begin = end64.next<std::uint64_t>();
      }
    }
    if (directory.begin > at || directory.size > at - directory.begin)
      refuse("is damaged: its directory lies outside of the file");
    return directory;
  }
  refuse("is truncated: its directory, which stands at the end, is missing");
}

ZipReader::ZipReader(std::span<const std::byte> archive) : archive_(archive) {
  const Directory directory = find_directory();
  Fields fields(archive_.subspan(directory.begin, directory.size));
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (fields.left() < kDirectoryHeaderSize) refuse("is damaged: its directory ends early");
    if (fields.next<std::uint32_t>() != kDirectoryHeader) refuse("is damaged: its directory is malformed");
    Entry entry;
    fields.skip(6);  // versions, flags
    entry.method = fields.next<std::uint16_t>();
    fields.skip(4);  // time and date
    entry.checksum = fields.next<std::uint32_t>();
    std::uint64_t stored = fields.next<std::uint32_t>();
    entry.size = fields.next<std::uint32_t>();
    const auto name_size = fields.next<std::uint16_t>(), extra_size = fields.next<std::uint16_t>(),
               comment_size = fields.next<std::uint16_t>();
    fields.skip(8);  // disk, attributes
    entry.header = fields.next<std::uint32_t>();
    if (fields.left() < std::size_t{name_size} + extra_size + comment_size)
      refuse("is damaged: its directory ends early");
    const auto name_bytes = fields.take(name_size);
    const std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());
    read_zip64(fields.take(extra_size), {&entry.size, &stored, &entry.header});
    fields.skip(comment_size);
    // A local header and the data fit between where the entry begins and the directory.
    const std::uint64_t end = directory.begin;
    if (entry.header > end || end - entry.header < kLocalHeaderSize || (entry.method == 0 && stored != entry.size) ||
        stored > end - entry.header - kLocalHeaderSize)
      refuse("is damaged: its entry ", quoted(name), " lies outside of the file");
    if (!entries_.emplace(name, entry).second) refuse("is malformed: it has two entries ", quoted(name));
  }
}

std::vector<std::string> ZipReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

std::span<const std::byte> ZipReader::view(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) refuse("lacks its entry ", quoted(name));
  const Entry& entry = found->second;
  if (entry.method != 0)
    refuse("has the compressed entry ", quoted(name), "; torch.save compresses nothing: save it with that again");
  Fields header(archive_.subspan(entry.header));
  if (header.next<std::uint32_t>() != kLocalHeader)
    refuse("is damaged: its entry ", quoted(name), " is not where it should be");
  header.skip(22);
  const auto name_size = header.next<std::uint16_t>(), extra_size = header.next<std::uint16_t>();
  const std::uint64_t skipped = std::uint64_t{name_size} + extra_size;
  if (header.left() < skipped || header.left() - skipped < entry.size)
    refuse("is damaged: its entry ", quoted(name), " lies outside of the file");
  header.skip(skipped);
  return header.take(entry.size);
}

std::span<const std::byte> ZipReader::read(const std::string& name) const {
  const auto bytes = view(name);
  const std::uint32_t expected = entries_.at(name).checksum;
  // PyTorch can be told to leave checksums out, which writes zeros.
  if (expected != 0 && checksum_of(bytes) != expected)
    refuse("is damaged: the checksum of its entry ", quoted(name), " is wrong");
  return bytes;
}

void ZipWriter::write(std::string_view bytes) {
  out_.write(std::as_bytes(std::span(bytes)));
  position_ += bytes.size();
}

void ZipWriter::add(const std::string& name, std::span<const std::byte> data) {
  const std::uint32_t checksum = checksum_of(data);
  const std::uint64_t header = position_;
  const bool large = data.size() >= zip64_from_, far = header >= zip64_from_;
  const std::uint32_t size = large ? kFull32 : static_cast<std::uint32_t>(data.size());
  const std::uint16_t version = large || far ? kZip64Version : kPlainVersion;
  // What a local header and a directory header share.
  const std::string common = numbers(version, kUtf8Names, std::uint16_t{0}, std::uint32_t{0}, checksum, size, size);

  std::string extra;
  if (large) extra = numbers(kZip64Field, std::uint16_t{16}, std::uint64_t{data.size()}, std::uint64_t{data.size()});
  const std::uint64_t unpadded = header + kLocalHeaderSize + name.size() + extra.size() + 4;
  const std::string padding((kAlignment - unpadded % kAlignment) % kAlignment, 'Z');
  extra += numbers(kPaddingField, size16(padding)) + padding;
  write(numbers(kLocalHeader) + common + numbers(size16(name), size16(extra)) + name + extra);
  out_.write(data);
  position_ += data.size();

  std::string fields;
  if (large) fields += numbers(std::uint64_t{data.size()}, std::uint64_t{data.size()});
  if (far) fields += numbers(header);
  if (!fields.empty()) fields = numbers(kZip64Field, size16(fields)) + fields;
  directory_ += numbers(kDirectoryHeader, version) + common +
                numbers(size16(name), size16(fields), std::uint16_t{0}, std::uint16_t{0}, std::uint16_t{0},
                        std::uint32_t{0}, far ? kFull32 : static_cast<std::uint32_t>(header)) +
                name + fields;
  ++entries_;
}

void ZipWriter::commit() {
  const std::uint64_t begin = position_, size = directory_.size();
  const bool large = begin >= zip64_from_ || size >= zip64_from_ || entries_ >= kFull16;
  write(directory_);
  if (large) {
    const std::uint64_t end64 = position_;
    write(numbers(kZip64End, std::uint64_t{kZip64EndSize - 12}, kZip64Version, kZip64Version, std::uint32_t{0},
                  std::uint32_t{0}, entries_, entries_, size, begin));
    write(numbers(kZip64Locator, std::uint32_t{0}, end64, std::uint32_t{1}));
  }
  const std::uint16_t count = large ? kFull16 : static_cast<std::uint16_t>(entries_);
  write(numbers(kEnd, std::uint16_t{0}, std::uint16_t{0}, count, count,
                large ? kFull32 : static_cast<std::uint32_t>(size), large ? kFull32 : static_cast<std::uint32_t>(begin),
                std::uint16_t{0}));
  out_.commit();
}

}  // namespace minidl
