# What scripts/test and scripts/test-all build and run, a function for each; their arguments go to ctest.
# To be sourced in the root of the project.

# suite PRESET CTEST_ARGUMENT...: builds the tests of a preset and runs them.
suite() {
  local preset=$1
  shift
  echo "== $preset"
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" --no-tests=ignore "$@"
}

# Threads of the tests compute; two tests at once would wait for each other's.
release() { suite release "$@"; }

# The emulated device computes in one thread.
simt() { suite simt --parallel "$(nproc)" "$@"; }
simt_asan() { suite simt-asan --parallel "$(nproc)" "$@"; }

# cuda NAME ARCHITECTURES TARGET CTEST_ARGUMENT...: what nvcc and the real libraries have to say; no GPU is needed.
# TARGET is cudnn_tests, or all to build what nvcc does not see, too. Says why and goes on where nvcc or cuDNN is not
# installed.
cuda() {
  local folder=build/cuda-$1 architectures=$2 target=$3
  shift 3
  echo "== CUDA for $architectures"
  local PATH=$PATH:/usr/local/cuda/bin
  if ! command -v nvcc >/dev/null; then
    echo "Skipped: nvcc, the compiler of the CUDA toolkit, is neither in PATH nor in /usr/local/cuda/bin."
  elif ! nvcc -E -x cu - <<<'#include <cudnn.h>' >/dev/null 2>&1; then
    echo "Skipped: nvcc is here but does not find cudnn.h, the header of cuDNN."
  else
    cmake --preset cuda -B "$folder" "-DCMAKE_CUDA_ARCHITECTURES=$architectures"
    cmake --build "$folder" --target "$target"
    ctest --test-dir "$folder" --output-on-failure --no-tests=ignore --tests-regex '^(cuda|cudnn):' "$@"
    scripts/cuda_report
  fi
}
