// PyTorch's files: what torch.save of 1.13 and 2.15 has written, files made byte by byte, and files that mean harm.
#include "core/torch_file.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <functional>
#include <random>

#include "core/safetensors.h"
#include "models/checkpoint.h"
#include "models/state_shapes.h"
#include "tests/golden.h"
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

std::vector<float> values_of(const ArrayFile& file, const std::string& name) {
  std::vector<float> scratch;
  const auto values = floats_of(file, name, scratch);
  return {values.begin(), values.end()};
}

// Both hold the same arrays, under `prefix` in the second, to the bit.
void check_same(const ArrayFile& file, const ArrayFile& expected, const std::string& prefix = "") {
  std::size_t count = 0;
  for (const std::string& name : expected.names()) {
    if (!name.starts_with(prefix)) continue;
    const std::string own = name.substr(prefix.size());
    INFO(file.path() << " " << own);
    REQUIRE(file.contains(own));
    CHECK(file.at(own).shape == expected.at(name).shape);
    CHECK(test::same_bits(values_of(file, own), values_of(expected, name)));
    ++count;
  }
  CHECK(count == file.names().size());
  CHECK(count > 0);
}

// A pickle, instruction by instruction.
struct Pickle {
  std::string text = std::string("\x80\x02", 2);

  Pickle& op(const std::string& code) {
    text += code;
    return *this;
  }
  Pickle& global(const std::string& module, const std::string& name) { return op("c" + module + "\n" + name + "\n"); }
  Pickle& string(const std::string& s) { return op("X").raw(static_cast<std::uint32_t>(s.size())).op(s); }
  Pickle& number(std::int64_t n) { return op("\x8a\x08").raw(n); }
  Pickle& numbers(const std::vector<std::int64_t>& all) {
    op("(");
    for (const std::int64_t n : all) number(n);
    return op("t");
  }
  Pickle& storage(const std::string& type, const std::string& key, std::int64_t size) {
    op("(").string("storage").global("torch", type).string(key).string("cpu").number(size);
    return op("tQ");
  }
  // A tensor on storage 0, of four floats unless said otherwise.
  Pickle& tensor(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                 std::int64_t offset = 0, std::int64_t size = 4, const std::string& type = "FloatStorage") {
    global("torch._utils", "_rebuild_tensor_v2").op("(").storage(type, "0", size).number(offset);
    return numbers(shape).numbers(strides).op("\x89)tR");
  }
  std::string done() const { return text + "."; }

 private:
  template <class T>
  Pickle& raw(T value) {
    return op({reinterpret_cast<const char*>(&value), sizeof value});
  }
};

std::string one_tensor() { return Pickle().op("}").string("x").tensor({4}, {1}).op("s").done(); }

struct Folder : test::TemporaryFolder {
  fs::path file() const { return path() / "x.pt"; }

  // An archive of this pickle and a storage "0" of four floats.
  fs::path archive(const std::string& pickle, const std::map<std::string, std::string>& more = {},
                   std::uint64_t zip64_from = ZipWriter::kZip64) const {
    const std::vector<float> floats{1, 2, 3, 4};
    ZipWriter out(file(), zip64_from);
    out.add("x/data.pkl", pickle);
    out.add("x/data/0", std::as_bytes(std::span(floats)));
    for (const auto& [name, text] : more) out.add(name, text);
    out.commit();
    return file();
  }
  fs::path put(const std::string& bytes) const {
    test::write_text(file(), bytes);
    return file();
  }
  std::string refusal(const fs::path& path) const {
    return test::error_of([&] {
      const auto opened = open_array_file(path);
      for (const std::string& name : opened->names()) values_of(*opened, name);
    });
  }
  std::string refusal_of(const std::string& pickle) const { return refusal(archive(pickle)); }
};

std::string text_of(const fs::path& file) {
  const auto bytes = read_file(file);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("tensors of every kind that torch.save writes are read to the bit", "[torch]") {
  const SafetensorsFile expected(golden::path("torch/kinds.safetensors"));
  for (const std::string version : {"113", "215"})
    for (const std::string form : {"", "legacy_", "protocol4_"})
      check_same(TorchFile(golden::path("torch/kinds_" + form + version + ".pt")), expected);
}

TEST_CASE("the reference's own checkpoint is read to the bit, and one that torch wrote inside DataParallel",
          "[torch]") {
  check_same(TorchFile(golden::path("light_ch4_96/params_legacy_0000000.pt")),
             SafetensorsFile(golden::path("light_ch4_96/weights_0.safetensors")));
  const SafetensorsFile six(golden::path("torch/six.safetensors"));
  for (const std::string version : {"113", "215"}) {
    check_same(TorchFile(golden::path("torch/six_wrapped_" + version + ".pt")), six);
    check_same(TorchFile(golden::path("torch/generator_" + version + ".pt")), six, "genB2A.");
  }
}

TEST_CASE("what is written is read again with types, names, order and metadata", "[torch]") {
  const Folder folder;
  const std::vector<float> floats{1, -0.0f, NAN, 4, 5, 6};
  const std::vector<std::uint16_t> halves{0x3c00, 0x7c01};
  const std::vector<std::int64_t> ints{-1};
  const auto entry = [](const char* name, Dtype dtype, std::vector<std::int64_t> shape, const auto& values) {
    return ArrayEntry{name, dtype, std::move(shape), [&values] { return std::as_bytes(std::span(values)); }};
  };
  const std::vector<StateDict> dicts{
      {"b", {entry("z.weight", Dtype::f32, {2, 3}, floats), entry("a", Dtype::bf16, {2}, halves)}},
      {"a", {entry("scalar", Dtype::i64, {}, ints)}},
      {"empty", {}}};
  write_torch_file(folder.file(), dicts, {{"key", "ü\""}});
  const TorchFile file(folder.file());
  CHECK(file.names() == std::vector<std::string>{"b.z.weight", "b.a", "a.scalar"});
  CHECK(file.metadata() == ArrayMetadata{{"key", "ü\""}});
  CHECK(file.at("b.z.weight").shape == std::vector<std::int64_t>{2, 3});
  CHECK(test::same_bits(values_of(file, "b.z.weight"), floats));
  CHECK(file.at("b.a").dtype == Dtype::bf16);
  CHECK(std::memcmp(file.at("b.a").bytes.data(), halves.data(), 4) == 0);
  CHECK(file.at("a.scalar").dtype == Dtype::i64);
  CHECK(file.at("a.scalar").shape.empty());
  CHECK_THROWS_WITH(values_of(file, "a.scalar"), Contains("holds a.scalar as I64"));
  CHECK_THROWS_WITH(file.at("c"), Contains("x.pt lacks c"));
  // Each storage begins where vectors can be loaded from.
  CHECK(reinterpret_cast<std::uintptr_t>(file.at("b.a").bytes.data()) % ZipWriter::kAlignment == 0);

  write_torch_file(folder.file(), {{StateDict{"", dicts[0].entries}}}, {});
  CHECK(TorchFile(folder.file()).names() == std::vector<std::string>{"z.weight", "a"});
}

TEST_CASE("a file that cannot be finished leaves what was there", "[torch]") {
  const Folder folder;
  folder.put("old");
  const std::vector<float> floats(3);
  const ArrayEntry wrong{"x", Dtype::f32, {4}, [&] { return std::as_bytes(std::span(floats)); }};
  CHECK_THROWS_WITH(write_torch_file(folder.file(), {{StateDict{"", {wrong}}}}, {}),
                    Contains("x yields 12 bytes, expected 16"));
  CHECK(text_of(folder.file()) == "old");
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("archives beyond the limits of zip are read as Python's zipfile writes them, and written so", "[torch]") {
  // Its directory has the sizes and offsets of three small entries in the fields of zip64.
  const MappedFile mapped(golden::path("torch/zip64.zip"));
  const ZipReader reader(mapped.bytes());
  CHECK(reader.names() == std::vector<std::string>{"a", "b", "c"});
  CHECK(reader.read("a").size() == 200);
  CHECK(reader.read("a")[199] == std::byte{199});
  CHECK(reader.read("b").size() == 5);
  CHECK(reader.read("c")[149] == std::byte{'x'});

  const Folder folder;
  const std::vector<float> floats{1, 2, 3, 4};
  for (const std::uint64_t limit : {1, 16, 100}) {
    const TorchFile file(folder.archive(one_tensor(), {{"x/more", "text"}}, limit));
    CHECK(values_of(file, "x") == floats);
    // Above the limit no plain field holds a number: the end record says "see the fields of zip64".
    const std::string bytes = text_of(folder.file());
    CHECK(bytes.substr(bytes.size() - 6, 4) == "\xff\xff\xff\xff");
  }
}

TEST_CASE("Python has the same archive and PyTorch the same tensors", "[torch]") {
  const char* chosen = std::getenv("MINIDL_TORCH_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  if (std::system((python + " -c 'import torch' > /dev/null 2>&1").c_str()) != 0) {
    WARN("skipped: " << python << " has no torch; MINIDL_TORCH_PYTHON names one that has");
    return;
  }
  const Folder folder;
  const SafetensorsFile six(golden::path("torch/six.safetensors"));
  std::vector<StateDict> dicts;
  for (const std::string network : {"genA2B", "disLB"}) {
    dicts.push_back({network, {}});
    for (const std::string& name : six.names())
      if (name.starts_with(network + ".")) {
        const ArrayView& view = six.at(name);
        dicts.back().entries.push_back(
            {name.substr(network.size() + 1), view.dtype, view.shape, [&view] { return view.bytes; }});
      }
  }
  write_torch_file(folder.file(), dicts, {{"format", "x"}});
  test::write_text(folder.path() / "check.py", R"(
import json, struct, sys, torch, zipfile
assert zipfile.ZipFile(sys.argv[1]).testzip() is None
loaded = torch.load(sys.argv[1], weights_only=True)
assert list(loaded) == ["genA2B", "disLB"]
blob = open(sys.argv[2], "rb").read()
length = struct.unpack("<Q", blob[:8])[0]
header = json.loads(blob[8:8 + length])
count = 0
for network, state in loaded.items():
    for name, tensor in state.items():
        entry = header[f"{network}.{name}"]
        begin, end = entry["data_offsets"]
        assert list(tensor.shape) == entry["shape"] and tensor.is_contiguous(), name
        floats = struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist())
        assert floats == blob[8 + length + begin:8 + length + end], name
        count += 1
print(torch.__version__, count, "tensors")
assert count > 40
)");
  const std::string command = python + " " + (folder.path() / "check.py").string() + " " + folder.file().string() +
                              " " + golden::path("torch/six.safetensors").string();
  CHECK(std::system(command.c_str()) == 0);
}

TEST_CASE("strided and shared storages give the elements that they name", "[torch]") {
  const Folder folder;
  const TorchFile file(folder.archive(Pickle()
                                          .op("}(")
                                          .string("transposed")
                                          .tensor({2, 2}, {1, 2})
                                          .string("tail")
                                          .tensor({2}, {1}, 2)
                                          .string("column")
                                          .tensor({2, 1}, {2, 77}, 1)
                                          .string("repeated")
                                          .tensor({3, 2}, {0, 3})
                                          .string("none")
                                          .tensor({0, 5}, {5, 1})
                                          .string("one")
                                          .tensor({}, {}, 3)
                                          .op("u")
                                          .done()));
  CHECK(values_of(file, "transposed") == std::vector<float>{1, 3, 2, 4});
  CHECK(values_of(file, "tail") == std::vector<float>{3, 4});
  CHECK(values_of(file, "column") == std::vector<float>{2, 4});
  CHECK(values_of(file, "repeated") == std::vector<float>{1, 4, 1, 4, 1, 4});
  CHECK(values_of(file, "none").empty());
  CHECK(values_of(file, "one") == std::vector<float>{4});
}

TEST_CASE("a pickle that would run anything is refused by the name of what it asks for", "[torch]") {
  const Folder folder;
  CHECK(folder.refusal_of(one_tensor()).empty());
  CHECK_THAT(folder.refusal_of(Pickle().global("os", "system").string("touch owned").op("\x85R").done()),
             Contains("x.pt asks for the Python object \"os system\"") && Contains("not run"));
  CHECK_THAT(folder.refusal_of(Pickle().string("builtins").string("eval").op("\x93").done()),
             Contains("\"builtins eval\""));
  CHECK_THAT(folder.refusal_of(Pickle().global("torch", "device").done()), Contains("\"torch device\""));
  CHECK_THAT(folder.refusal_of(Pickle().global("torch", "CharStorage").done()), Contains("\"torch CharStorage\""));
  // NEWOBJ, INST, OBJ, EXT1 and the instructions of protocol 0.
  for (const char* op : {"\x81", "i", "o", "\x82", "S'x'\n", "I1\n", "P0\n"})
    CHECK_THAT(folder.refusal_of(Pickle().op(op).done()), Contains("which no state dict needs"));
  // An allowed function with other arguments than PyTorch's.
  CHECK_THAT(folder.refusal_of(Pickle().global("torch._utils", "_rebuild_tensor_v2").op(")R").done()),
             Contains("other arguments"));
  CHECK_THAT(folder.refusal_of(Pickle().global("torch", "FloatStorage").op(")R").done()), Contains("other arguments"));
  CHECK_THAT(folder.refusal_of(Pickle().global("collections", "OrderedDict").op("]\x85R").done()),
             Contains("other arguments"));
}

TEST_CASE("tensors that their storage or the file cannot hold are refused", "[torch]") {
  const Folder folder;
  const auto refusal = [&](auto... arguments) {
    return folder.refusal_of(Pickle().op("}").string("x").tensor(arguments...).op("s").done());
  };
  using Numbers = std::vector<std::int64_t>;
  CHECK(refusal(Numbers{2, 2}, Numbers{2, 1}).empty());
  const std::int64_t huge = std::int64_t{1} << 62;
  for (const auto& [shape, strides, offset] :
       {std::tuple(Numbers{5}, Numbers{1}, std::int64_t{0}), std::tuple(Numbers{4}, Numbers{1}, std::int64_t{1}),
        std::tuple(Numbers{2}, Numbers{4}, std::int64_t{0}), std::tuple(Numbers{2}, Numbers{huge}, std::int64_t{0}),
        std::tuple(Numbers{2, 2}, Numbers{huge, huge}, std::int64_t{0}), std::tuple(Numbers{1}, Numbers{1}, huge),
        std::tuple(Numbers{2}, Numbers{-1}, std::int64_t{1}), std::tuple(Numbers{}, Numbers{}, std::int64_t{4})})
    CHECK_THAT(refusal(shape, strides, offset), Contains("\"x\" lies outside of its storage"));
  for (const auto& [shape, strides] :
       {std::pair(Numbers{huge}, Numbers{0}), std::pair(Numbers{huge, huge}, Numbers{0, 0}),
        std::pair(Numbers{100'000}, Numbers{0}), std::pair(Numbers{-1}, Numbers{1})})
    CHECK_THAT(refusal(shape, strides), Contains("\"x\" has more elements than the file"));
  CHECK_THAT(refusal(Numbers{1}, Numbers{1, 1}), Contains("impossible shape"));
  CHECK_THAT(refusal(Numbers{1}, Numbers{1}, std::int64_t{-1}), Contains("impossible shape"));
  CHECK_THAT(refusal(Numbers(9, 1), Numbers(9, 1)), Contains("impossible shape"));
  for (const std::int64_t size : {std::int64_t{3}, std::int64_t{5}, huge})
    CHECK_THAT(refusal(Numbers{1}, Numbers{1}, std::int64_t{0}, size), Contains("the size of its entry \"x/data/0\""));
  CHECK_THAT(refusal(Numbers{1}, Numbers{1}, std::int64_t{0}, std::int64_t{4}, "DoubleStorage"),
             Contains("the size of its entry"));
  CHECK_THAT(refusal(Numbers{1}, Numbers{1}, std::int64_t{0}, std::int64_t{-1}), Contains("no storage"));
}

TEST_CASE("dicts that are no dict of networks are refused or left out", "[torch]") {
  const Folder folder;
  CHECK_THAT(folder.refusal_of(Pickle().op("]").done()), Contains("x.pt holds no dict of tensors"));
  CHECK_THAT(folder.refusal_of(
                 Pickle().op("}").string("x").tensor({1}, {1}).op("s").string("x").tensor({1}, {1}).op("s").done()),
             Contains("two tensors \"x\""));
  CHECK_THAT(folder.refusal_of(Pickle().op("}").string(std::string(600, 'n')).tensor({1}, {1}).op("s").done()),
             Contains("longer than any"));
  // A dict that contains itself, and one whose size doubles with every level.
  CHECK_THAT(folder.refusal_of(Pickle().op("}q\1").string("d").op("h\1s").done()), Contains("nests its dicts"));
  Pickle bomb;
  const std::function<void(char)> add_level = [&](char level) {
    bomb.op("}q").op(std::string(1, level));
    if (level == 0) return;
    bomb.op("(").string("first");
    add_level(static_cast<char>(level - 1));
    for (int i = 0; i < 200; ++i)
      bomb.string(std::to_string(i)).op("h").op(std::string(1, static_cast<char>(level - 1)));
    bomb.op("u");
  };
  add_level(3);
  CHECK_THAT(folder.refusal_of(bomb.done()), Contains("more names"));
  CHECK_THAT(folder.refusal_of(Pickle().op(std::string(1'000'001, 'N')).done()), Contains("more values"));

  const TorchFile file(folder.archive(Pickle()
                                          .op("}(")
                                          .string("epoch")
                                          .number(3)
                                          .number(5)
                                          .string("odd key")
                                          .string("list")
                                          .op("]")
                                          .string("module.net")
                                          .op("}")
                                          .string("module.x")
                                          .tensor({1}, {1})
                                          .op("s")
                                          .op("u")
                                          .done()));
  // Only a dict whose every key begins with "module." comes from DataParallel.
  CHECK(file.names() == std::vector<std::string>{"module.net.x"});
}

TEST_CASE("a small file that claims a large model is refused before anything is allocated for it", "[torch]") {
  // The shapes of 64 residual blocks fit, but all tensors lie on one storage.
  const GeneratorOptions options{.channels = 8, .residual_blocks = 64, .light = true};
  constexpr std::int64_t kFloats = 64 * 32 * 9;
  Pickle pickle;
  pickle.op("}(");
  for (const NamedShape& entry : state_shapes(options)) {
    std::vector<std::int64_t> strides(entry.shape.size());
    std::int64_t stride = 1;
    for (std::size_t axis = strides.size(); axis-- > 0; stride *= entry.shape[axis]) strides[axis] = stride;
    pickle.string(entry.name).tensor(entry.shape, strides, 0, kFloats);
  }
  const Folder folder;
  const std::vector<float> floats(kFloats);
  ZipWriter out(folder.file());
  out.add("x/data.pkl", pickle.op("u").done());
  out.add("x/data/0", std::as_bytes(std::span(floats)));
  out.commit();
  CHECK_THROWS_WITH(load_generator(TorchFile(folder.file()), "A2B"), Contains("x.pt is damaged: it is too small"));
}

TEST_CASE("archives that are damaged, compressed or none of PyTorch's are refused", "[torch]") {
  const Folder folder;
  const std::string good = text_of(folder.archive(one_tensor()));
  const auto changed = [&](std::size_t at, char value) {
    std::string bytes = good;
    bytes[at] = value;
    return folder.refusal(folder.put(bytes));
  };
  const std::size_t data = good.find(std::string("\0\0\x80\x3f\0\0\0\x40", 8));
  CHECK_THAT(changed(data, 1), Contains("the checksum of its entry \"x/data/0\" is wrong"));
  const std::size_t directory = good.find("PK\1\2");
  CHECK_THAT(changed(directory + 10, 8), Contains("compressed"));  // the pickle's method: deflate
  CHECK_THAT(changed(directory, 'X'), Contains("directory is malformed"));
  CHECK_THAT(changed(good.find("PK\5\6") + 10, 9), Contains("directory ends early"));
  CHECK_THAT(folder.refusal(folder.put(good.substr(0, good.size() / 2))), Contains("truncated"));
  CHECK_THAT(folder.refusal(folder.put("PK\3\4")), Contains("truncated"));
  CHECK_THAT(folder.refusal(folder.archive(one_tensor(), {{"x/byteorder", "big"}})), Contains("big-endian"));
  CHECK_THAT(folder.refusal(folder.archive(one_tensor(), {{"x/data.pkl", "again"}})), Contains("two entries"));
  CHECK_THAT(folder.refusal(folder.archive(one_tensor(), {{"x/minidl.json", "[1]"}})), Contains("no map of texts"));
  CHECK_THAT(folder.refusal(folder.archive(one_tensor(), {{"x/minidl.json", std::string(100'000, '[')}})),
             Contains("nested too deeply"));
  CHECK_THAT(folder.refusal_of(Pickle().op("}").string("x").tensor({1}, {1}).done()), Contains("pickle is malformed"));
  CHECK_THAT(folder.refusal_of("\x80\x09."), Contains("protocol"));
  CHECK_THAT(folder.refusal_of("\x80\x02}"), Contains("truncated"));
  ZipWriter other(folder.file());
  other.add("word/document.xml", "<xml>");
  other.commit();
  CHECK_THAT(folder.refusal(folder.file()), Contains("none of PyTorch"));
}

TEST_CASE("no damage to a file of PyTorch does anything but an error of ours or another value", "[torch]") {
  const Folder folder;
  std::mt19937 engine(3);
  for (const char* name : {"torch/kinds_113.pt", "torch/kinds_215.pt", "torch/kinds_legacy_113.pt"}) {
    const std::string good = text_of(golden::path(name));
    std::size_t refused = 0, unnamed = 0;
    const auto attempt = [&](const std::string& bytes) {
      const std::string error = folder.refusal(folder.put(bytes));
      refused += !error.empty();
      unnamed += !error.empty() && error.find("x.pt") == std::string::npos;
    };
    std::size_t cuts = 0;
    for (std::size_t length = 0; length < good.size(); length += 7, ++cuts) attempt(good.substr(0, length));
    CHECK(refused == cuts);
    for (int i = 0; i < 1500; ++i) {
      std::string bytes = good;
      for (unsigned flips = 1 + engine() % 3; flips > 0; --flips)
        bytes[engine() % bytes.size()] ^= static_cast<char>(1u << engine() % 8);
      attempt(bytes);
    }
    CHECK(unnamed == 0);
  }
}
