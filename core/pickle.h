// Python's pickles, as far as PyTorch's state dicts need them: plain values, containers, and what an allow-list names.
// A pickle is a program that may call any function of Python; this machine knows none and asks its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace minidl {

struct PickleValue {
  enum class Kind { none, boolean, integer, large_integer, real, text, tuple, list, dict, function, object };

  Kind kind = Kind::none;
  std::int64_t integer = 0;  // boolean: 0 or 1; object: the owner's number for it
  double real = 0;
  std::string text;  // text; large_integer: its bytes, little-endian; function: "module name"; object: what it is
  std::vector<PickleValue*> items;  // dict: keys and values in turn

  bool is(Kind k) const { return kind == k; }
  bool is_object(const char* what) const { return kind == Kind::object && text == what; }
};

class Unpickler {
 public:
  using Value = PickleValue;
  using Kind = PickleValue::Kind;

  virtual ~Unpickler() = default;

  // Runs the pickle that `bytes` begin with and moves them behind it. The values live as long as the unpickler; they
  // may contain each other in circles. Throws CheckpointError, whose message is to follow the file's name, for a pickle
  // that is malformed, calls what is not allowed, or holds more than any state dict.
  const Value& run(std::span<const std::byte>& bytes);

 protected:
  // Whether a pickle may name the function or class, "module name".
  virtual bool allows(const std::string& function) const = 0;
  // The result of a call of an allowed function.
  virtual Value& call(const Value& function, const Value& arguments) = 0;
  // What a persistent identifier stands for.
  virtual Value& persistent(const Value& identifier) = 0;

  Value& make(Kind kind);

 private:
  class Machine;

  std::deque<Value> values_;
};

}  // namespace minidl
