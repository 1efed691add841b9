#include "core/torch_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/pickle.h"

namespace minidl {
namespace {

using Value = PickleValue;
using Kind = PickleValue::Kind;

struct StorageType {
  const char* function;
  Dtype dtype;
};
constexpr std::array<StorageType, 8> kStorageTypes{{{"torch FloatStorage", Dtype::f32},
                                                    {"torch DoubleStorage", Dtype::f64},
                                                    {"torch HalfStorage", Dtype::f16},
                                                    {"torch BFloat16Storage", Dtype::bf16},
                                                    {"torch LongStorage", Dtype::i64},
                                                    {"torch IntStorage", Dtype::i32},
                                                    {"torch ByteStorage", Dtype::u8},
                                                    {"torch BoolStorage", Dtype::boolean}}};
constexpr const char* kOrderedDict = "collections OrderedDict";
constexpr const char* kRebuildTensor = "torch._utils _rebuild_tensor_v2";
constexpr const char* kRebuildOldTensor = "torch._utils _rebuild_tensor";
constexpr const char* kRebuildParameter = "torch._utils _rebuild_parameter";
constexpr const char* kMetadataEntry = "minidl.json";
constexpr const char* kModulePrefix = "module.";

// What the format before 1.6 begins with: a pickle of this number.
constexpr std::array<unsigned char, 15> kOldMagic{0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                                  0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};
constexpr std::int64_t kOldProtocol = 1001;

// No state dict has as many or as long names, or nests as deeply.
constexpr std::size_t kMaxNames = 10'000, kMaxNameLength = 512, kMaxPickle = std::size_t{1} << 26;
constexpr int kMaxDepth = 4, kMaxRank = 8;

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw CheckpointError(concat_text(parts...));
}

bool begins_as_zip(std::span<const std::byte> bytes) { return ZipReader::recognises(bytes); }

bool begins_as_old(std::span<const std::byte> bytes) {
  return bytes.size() >= kOldMagic.size() && std::memcmp(bytes.data(), kOldMagic.data(), kOldMagic.size()) == 0;
}

std::int64_t integer(const Value& value) {
  if (!value.is(Kind::integer)) refuse("is malformed: a tensor is described by something that is no whole number");
  return value.integer;
}

std::vector<std::int64_t> integers(const Value& value) {
  if (!value.is(Kind::tuple) || value.items.size() > kMaxRank) refuse("is malformed: a tensor has an impossible shape");
  std::vector<std::int64_t> numbers;
  for (const Value* item : value.items) numbers.push_back(integer(*item));
  return numbers;
}

struct StorageRecord {
  Dtype dtype = Dtype::f32;
  std::string key;
  std::uint64_t offset = 0, size = 0;  // elements: where it begins in what the key names, and how many it has
};

struct TensorRecord {
  std::size_t storage = 0;
  std::uint64_t offset = 0;  // elements
  std::vector<std::int64_t> shape, strides;
};

// The pickles of torch.save: calls that rebuild tensors, identifiers that stand for storages.
class StateDictUnpickler : public Unpickler {
 public:
  std::vector<StorageRecord> storages;
  std::vector<TensorRecord> tensors;

 protected:
  bool allows(const std::string& function) const override {
    return function == kOrderedDict || function == kRebuildTensor || function == kRebuildOldTensor ||
           function == kRebuildParameter || dtype_of(function).has_value();
  }

  Value& call(const Value& function, const Value& arguments) override {
    const auto& a = arguments.items;
    if (function.text == kOrderedDict && a.empty()) return make(Kind::dict);
    if (function.text == kRebuildParameter && !a.empty() && a[0]->is_object("tensor")) return *a[0];
    if ((function.text == kRebuildTensor || function.text == kRebuildOldTensor) && a.size() >= 4 &&
        a[0]->is_object("storage")) {
      const std::int64_t offset = integer(*a[1]);
      TensorRecord tensor{static_cast<std::size_t>(a[0]->integer), static_cast<std::uint64_t>(offset), integers(*a[2]),
                          integers(*a[3])};
      if (offset < 0 || tensor.shape.size() != tensor.strides.size())
        refuse("is malformed: a tensor has an impossible shape");
      tensors.push_back(std::move(tensor));
      return object("tensor", tensors.size() - 1);
    }
    refuse("is malformed: it calls ", quoted(function.text), " with other arguments than PyTorch's");
  }

  // ("storage", type, key, location, elements), and before 1.6 also nothing or a part: (key of its own, begin,
  // elements).
  Value& persistent(const Value& identifier) override {
    const auto& a = identifier.items;
    if (!identifier.is(Kind::tuple) || a.size() < 5 || !a[0]->is(Kind::text) || a[0]->text != "storage" ||
        !a[1]->is(Kind::function) || !a[2]->is(Kind::text))
      refuse("is malformed: it refers to something that is no storage");
    const auto dtype = dtype_of(a[1]->text);
    const std::int64_t size = integer(*a[4]);
    if (!dtype || size < 0) refuse("is malformed: it refers to something that is no storage");
    StorageRecord storage{*dtype, a[2]->text, 0, static_cast<std::uint64_t>(size)};
    if (a.size() > 5 && a[5]->is(Kind::tuple)) {
      const auto& part = a[5]->items;
      const std::int64_t begin = part.size() == 3 ? integer(*part[1]) : -1, count = begin < 0 ? -1 : integer(*part[2]);
      if (count < 0 || begin > size || count > size - begin) refuse("is malformed: a part of a storage lies outside");
      storage.offset = static_cast<std::uint64_t>(begin);
      storage.size = static_cast<std::uint64_t>(count);
    }
    storages.push_back(std::move(storage));
    return object("storage", storages.size() - 1);
  }

 private:
  static std::optional<Dtype> dtype_of(const std::string& function) {
    for (const StorageType& type : kStorageTypes)
      if (function == type.function) return type.dtype;
    return std::nullopt;
  }

  Value& object(const char* what, std::size_t index) {
    Value& value = make(Kind::object);
    value.text = what;
    value.integer = static_cast<std::int64_t>(index);
    return value;
  }
};

// Whether the elements lie in row-major order without gaps.
bool is_row_major(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides) {
  std::int64_t expected = 1;
  for (std::size_t axis = shape.size(); axis-- > 0; expected *= shape[axis])
    if (shape[axis] != 1 && strides[axis] != expected) return false;
  return true;
}

}  // namespace

bool is_torch_file(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  return begins_as_zip(mapped.bytes()) || begins_as_old(mapped.bytes());
}

// Fills a TorchFile. Messages of its errors are to follow the file's name.
class TorchFile::Reader {
 public:
  explicit Reader(TorchFile& file) : file_(file), all_(file.file_.bytes()) {}

  void read() {
    if (begins_as_zip(all_))
      read_zip();
    else if (begins_as_old(all_))
      read_old();
    else
      refuse("is no file of PyTorch");
  }

 private:
  void read_zip() {
    const ZipReader& archive = file_.zip_.emplace(all_);
    std::string folder;
    constexpr std::string_view kPickle = "data.pkl";
    for (const std::string& name : archive.names())
      if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size() - 1)
        folder = name.substr(0, name.size() - kPickle.size());
    if (folder.empty()) refuse("is a zip archive, but none of PyTorch: it lacks data.pkl");
    const std::string byte_order = folder + "byteorder";
    if (archive.contains(byte_order)) {
      const auto bytes = archive.read(byte_order);
      if (bytes.empty() || bytes[0] != std::byte{'l'}) refuse("was saved on a big-endian machine; save it on another");
    }
    read_metadata(archive, folder + kMetadataEntry);
    auto pickle = archive.read(folder + std::string(kPickle));
    const Value& root = run(pickle);
    for (const StorageRecord& record : unpickler_.storages) {
      const std::string entry = folder + "data/" + record.key;
      entries_.push_back(entry);
      const auto bytes = archive.view(entry);
      if (bytes.size() != byte_count_of(record))
        refuse("is damaged: the size of its entry ", quoted(entry), " is wrong");
      contents_.push_back(bytes);
    }
    collect(root);
  }

  // Pickles of the magic number, the protocol, the machine, the dict and the storages' keys, then the storages.
  void read_old() {
    std::span<const std::byte> rest = all_.subspan(kOldMagic.size());
    const Value& protocol = run(rest);
    if (!protocol.is(Kind::integer) || protocol.integer != kOldProtocol)
      refuse("is of a protocol of PyTorch that this version does not know");
    const Value& machine = run(rest);
    for (std::size_t i = 0; machine.is(Kind::dict) && i + 1 < machine.items.size(); i += 2)
      if (machine.items[i]->text == "little_endian" && machine.items[i + 1]->integer == 0)
        refuse("was saved on a big-endian machine; save it on another");
    const Value& root = run(rest);
    const Value& keys = run(rest);
    if (!keys.is(Kind::list)) refuse("is malformed: it lacks the list of its storages");
    std::map<std::string, std::vector<std::size_t>> users;
    for (std::size_t i = 0; i < unpickler_.storages.size(); ++i) users[unpickler_.storages[i].key].push_back(i);
    contents_.resize(unpickler_.storages.size());
    entries_.resize(unpickler_.storages.size());
    std::set<std::string> seen;
    for (const Value* key : keys.items) {
      const auto found = key->is(Kind::text) ? users.find(key->text) : users.end();
      if (found == users.end() || !seen.insert(key->text).second)
        refuse("is malformed: the list of its storages does not match its tensors");
      std::uint64_t elements = 0;
      if (rest.size() < sizeof elements) refuse_truncated(key->text);
      std::memcpy(&elements, rest.data(), sizeof elements);
      rest = rest.subspan(sizeof elements);
      const std::size_t element = size_of(unpickler_.storages[found->second.front()].dtype);
      if (elements > rest.size() / element) refuse_truncated(key->text);
      const auto bytes = rest.first(elements * element);
      rest = rest.subspan(bytes.size());
      for (const std::size_t user : found->second) {
        const StorageRecord& record = unpickler_.storages[user];
        if (size_of(record.dtype) != element || record.offset > elements || record.size > elements - record.offset)
          refuse("is malformed: a tensor lies outside of its storage ", quoted(key->text));
        contents_[user] = bytes.subspan(record.offset * element, record.size * element);
      }
    }
    if (seen.size() != users.size()) refuse("is malformed: the list of its storages does not match its tensors");
    collect(root);
  }

  [[noreturn]] static void refuse_truncated(const std::string& key) {
    refuse("is truncated: it ends before its storage ", quoted(key));
  }

  const Value& run(std::span<const std::byte>& pickle) {
    const auto all = pickle;
    pickle = pickle.first(std::min(pickle.size(), kMaxPickle));
    const Value& value = unpickler_.run(pickle);
    pickle = all.subspan(static_cast<std::size_t>(pickle.data() - all.data()));
    return value;
  }

  static std::uint64_t byte_count_of(const StorageRecord& record) {
    const auto size = static_cast<std::int64_t>(record.size);
    return byte_count(size_of(record.dtype), {{size}}).value_or(~std::uint64_t{0});
  }

  void read_metadata(const ZipReader& archive, const std::string& entry) {
    if (!archive.contains(entry)) return;
    const auto bytes = archive.read(entry);
    const auto* text = reinterpret_cast<const char*>(bytes.data());
    try {
      // A map of texts nests once; the parser's memory grows with every level.
      const auto shallow = [](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
        if (depth > 2) refuse("is malformed: its entry ", kMetadataEntry, " is nested too deeply");
        return true;
      };
      nlohmann::json::parse(text, text + bytes.size(), shallow).get_to(file_.metadata_);
    } catch (const nlohmann::json::exception&) {
      refuse("is malformed: its entry ", kMetadataEntry, " is no map of texts");
    }
  }

  void collect(const Value& root) {
    if (!root.is(Kind::dict)) refuse("holds no dict of tensors");
    collect(root, "", 1);
  }

  // Other values than tensors, such as an epoch, are left out.
  void collect(const Value& dict, const std::string& prefix, int depth) {
    if (depth > kMaxDepth) refuse("nests its dicts more deeply than any dict of networks");
    const bool wrapped = is_wrapped(dict);
    for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const Value &key = *dict.items[i], &value = *dict.items[i + 1];
      if (!key.is(Kind::text)) continue;  // the numbers of an optimiser's parameters
      const std::string name = prefix + (wrapped ? key.text.substr(std::strlen(kModulePrefix)) : key.text);
      if (name.size() > kMaxNameLength) refuse("has the name ", quoted(name), ", longer than any of a network");
      if (++visited_ > kMaxNames) refuse("has more names than any dict of networks");
      if (value.is(Kind::dict)) collect(value, name + ".", depth + 1);
      if (value.is_object("tensor")) add(name, unpickler_.tensors[static_cast<std::size_t>(value.integer)]);
    }
  }

  static bool is_wrapped(const Value& dict) {
    for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2)
      if (!dict.items[i]->is(Kind::text) || !dict.items[i]->text.starts_with(kModulePrefix)) return false;
    return true;
  }

  void add(const std::string& name, const TensorRecord& record) {
    const StorageRecord& storage = unpickler_.storages[record.storage];
    const std::size_t element = size_of(storage.dtype);
    const auto bytes = byte_count(element, record.shape);
    // Strides of 0 would make any size out of one element.
    if (!bytes || *bytes > all_.size()) refuse("is malformed: ", quoted(name), " has more elements than the file");
    ArrayView view{storage.dtype, record.shape, {}, contents_[record.storage].first(0)};
    if (*bytes > 0) {
      std::uint64_t end = record.offset;  // of the last element
      for (std::size_t axis = 0; axis < record.shape.size(); ++axis) {
        const auto steps = static_cast<std::uint64_t>(record.shape[axis] - 1);
        const auto stride = static_cast<std::uint64_t>(record.strides[axis]);
        if (record.strides[axis] < 0 || (steps > 0 && stride > storage.size / steps))
          refuse("is malformed: ", quoted(name), " lies outside of its storage");
        end += steps * stride;
      }
      if (record.offset >= storage.size || end >= storage.size)
        refuse("is malformed: ", quoted(name), " lies outside of its storage");
      view.bytes = contents_[record.storage].subspan(record.offset * element, (end - record.offset + 1) * element);
      if (!is_row_major(record.shape, record.strides)) view.strides = record.strides;
    }
    if (!file_.tensors_.emplace(name, Tensor{std::move(view), entries_[record.storage]}).second)
      refuse("is malformed: it has two tensors ", quoted(name));
    file_.names_.push_back(name);
  }

  TorchFile& file_;
  std::span<const std::byte> all_;
  StateDictUnpickler unpickler_;
  std::vector<std::span<const std::byte>> contents_;  // of the unpickler's storages
  std::vector<std::string> entries_;                  // of the archive, likewise
  std::size_t visited_ = 0;
};

TorchFile::TorchFile(const std::filesystem::path& file) : ArrayFile(file) {
  try {
    Reader(*this).read();
  } catch (const CheckpointError& error) {
    throw CheckpointError(concat_text(path_.string(), " ", error.what()));
  }
}

const ArrayView& TorchFile::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) refuse(path_.string(), " lacks ", name);
  return found->second.view;
}

void TorchFile::check_intact(const std::string& name) const {
  if (!zip_) return;
  at(name);  // throws if there is none
  try {
    zip_->read(tensors_.at(name).entry);
  } catch (const CheckpointError& error) {
    throw CheckpointError(concat_text(path_.string(), " ", error.what()));
  }
}

namespace {

// The few instructions of a pickle that a state dict takes.
class Pickler {
 public:
  void begin() { text_ += "\x80\x02"; }
  void end() { text_ += '.'; }
  void op(char code) { text_ += code; }
  void function(const char* module_and_name) {
    const std::string text = module_and_name;
    const std::size_t space = text.find(' ');
    text_ += 'c' + text.substr(0, space) + '\n' + text.substr(space + 1) + '\n';
  }
  void text(const std::string& text) {
    text_ += 'X';
    raw(static_cast<std::uint32_t>(text.size()));
    text_ += text;
  }
  void integer(std::int64_t value) {
    text_ += "\x8a\x08";  // LONG1 of eight bytes
    raw(value);
  }
  void integers(std::span<const std::int64_t> values) {
    op('(');
    for (const std::int64_t value : values) integer(value);
    op('t');
  }
  void empty_ordered_dict() {
    function(kOrderedDict);
    text_ += ")R";
  }
  const std::string& result() const { return text_; }

 private:
  template <class T>
  void raw(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  std::string text_;
};

const char* storage_function(Dtype dtype) {
  for (const StorageType& type : kStorageTypes)
    if (type.dtype == dtype) return type.function;
  fail("PyTorch files: there is no storage of ", name_of(dtype));
}

void pickle_tensor(Pickler& out, const ArrayEntry& entry, std::int64_t elements, std::size_t storage) {
  std::vector<std::int64_t> strides(entry.shape.size());
  std::int64_t stride = 1;
  for (std::size_t axis = strides.size(); axis-- > 0; stride *= std::max<std::int64_t>(entry.shape[axis], 1))
    strides[axis] = stride;
  out.text(entry.name);
  out.function(kRebuildTensor);
  out.op('(');
  out.op('(');
  out.text("storage");
  out.function(storage_function(entry.dtype));
  out.text(std::to_string(storage));
  out.text("cpu");
  out.integer(elements);
  out.op('t');
  out.op('Q');
  out.integer(0);
  out.integers(entry.shape);
  out.integers(strides);
  out.op('\x89');  // requires no gradient
  out.empty_ordered_dict();
  out.op('t');
  out.op('R');
}

}  // namespace

void write_torch_file(const std::filesystem::path& file, std::span<const StateDict> dicts,
                      const ArrayMetadata& metadata) {
  const bool nested = dicts.size() != 1 || !dicts[0].name.empty();
  std::vector<const ArrayEntry*> storages;
  std::vector<std::uint64_t> sizes;
  Pickler pickle;
  pickle.begin();
  if (nested) pickle.op('}'), pickle.op('(');
  for (const StateDict& dict : dicts) {
    if (nested) pickle.text(dict.name);
    pickle.empty_ordered_dict();
    pickle.op('(');
    for (const ArrayEntry& entry : dict.entries) {
      const auto bytes = byte_count(size_of(entry.dtype), entry.shape);
      check(bytes.has_value(), "cannot write ", file.string(), ": ", entry.name, " has an impossible shape");
      pickle_tensor(pickle, entry, static_cast<std::int64_t>(*bytes / size_of(entry.dtype)), storages.size());
      storages.push_back(&entry);
      sizes.push_back(*bytes);
    }
    pickle.op('u');
  }
  if (nested) pickle.op('u');
  pickle.end();

  // torch.save names the archive's folder after the file; any name will do.
  const std::string folder = "archive/";
  ZipWriter out(file);
  out.add(folder + "data.pkl", pickle.result());
  out.add(folder + "byteorder", "little");
  for (std::size_t i = 0; i < storages.size(); ++i) {
    const auto bytes = storages[i]->data();
    check(bytes.size() == sizes[i], "cannot write ", file.string(), ": ", storages[i]->name, " yields ", bytes.size(),
          " bytes, expected ", sizes[i], " for its shape");
    out.add(folder + "data/" + std::to_string(i), bytes);
  }
  if (!metadata.empty()) out.add(folder + kMetadataEntry, nlohmann::json(metadata).dump());
  out.add(folder + "version", "3\n");
  out.commit();
}

}  // namespace minidl
