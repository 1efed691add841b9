// Errors. The library reports every failure by throwing `Error` (or a subclass); it never prints and never exits.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace minidl {

// What went wrong, where, and what was expected, in one sentence fit for a user.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat_text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(concat_text(parts...));
}

// check(ok, "conv2d: input ", x.shape(), " ..."): throws Error with the concatenated parts unless ok.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail(parts...);
}

}  // namespace minidl
