"""What bench.py measures with: the processes of the competitors, and the machine that they run on."""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"

FOREIGN_LIMIT = 0.03  # part of the machine that other programs may take during a trustworthy run
ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4"}
# Advice of PyTorch's own tuning guide.
JEMALLOC_OPTIONS = (
    "oversize_threshold:1,background_thread:true,metadata_thp:auto,dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000"
)
GIB = 2**30


class BenchError(Exception):
    """A reason to stop, in one sentence."""


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- processes ---------------------------------------------------------------

running = set()  # every process that has been started and not yet waited for


def start(command, environment=None, **streams):
    # In a session of its own: a Ctrl-C comes here alone, and reaches the process and its children by kill_all.
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        text=True,
        **streams,
    )
    running.add(process)
    return process


def wait(process):
    """Waits for the process; returns its peak resident memory in GiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    running.discard(process)
    return usage.ru_maxrss * 1024 / GIB


def kill_all():
    for process in list(running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            wait(process)


def failure(name, returncode, log):
    log.seek(0)
    lines = log.read().strip().splitlines()
    how = f"was killed by signal {-returncode} (out of memory?)" if returncode < 0 else f"ended with {returncode}"
    return BenchError(f"{name} {how}" + (f": {lines[-1]}" if lines else ""))


def run(name, command, environment=None):
    """Runs a program to its end; returns the seconds it took."""
    with tempfile.TemporaryFile("w+") as log:
        begin = time.perf_counter()
        process = start(command, environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        wait(process)
        seconds = time.perf_counter() - begin
        if process.returncode != 0:
            raise failure(name, process.returncode, log)
        return seconds


class Worker:
    """A program that prints JSON once ready and then answers each line with the seconds that something took."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.process = start(command, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.ready = json.loads(self.answer())

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise failure(self.name, self.process.returncode, self.log)
        return line

    def ask(self, request):
        time.sleep(0.05)  # threads of the program before may still spin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        return float(self.answer())

    def close(self):
        """Ends the program; returns its peak resident memory in GiB."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return wait(self.process) if self.process.returncode is None else 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- machine -----------------------------------------------------------------


def first_match(pattern, text, default="unknown"):
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1).strip() if match else default


def text_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def cores():
    return len(os.sched_getaffinity(0))


def memory_gib(field):
    return int(first_match(rf"^{field}:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), "0")) * 1024 / GIB


def free_gib():
    """What may still be allocated: by the machine, and by this control group."""
    free = memory_gib("MemAvailable")
    with contextlib.suppress(OSError, ValueError):
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())  # "max" if there is none
        free = min(free, (limit - int((group / "memory.current").read_text())) / GIB)
    return free


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(*packages):
    """The first package that is not installed, or None."""
    return next((package for package in packages if importlib.util.find_spec(package) is None), None)


def installed_allocators():
    """{name: environment} of the memory allocators that PyTorch can be run on."""
    found = {"glibc": {}}
    libraries = text_of(["/sbin/ldconfig", "-p"])
    for name, file in ALLOCATORS.items():
        if path := first_match(rf"{re.escape(file)} .*=> (\S+)", libraries, ""):
            found[name] = {"LD_PRELOAD": path}
    if "jemalloc" in found:
        found["jemalloc"]["MALLOC_CONF"] = JEMALLOC_OPTIONS
    return found


def foreign_seconds():
    """Processor time since boot that went to programs other than this one and those it has run, or to other guests."""
    user, nice, system, _, _, irq, softirq, steal = (
        int(ticks) for ticks in pathlib.Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


class ForeignLoad:
    """The part of the machine that other programs take from now on; worth asking when ours have ended."""

    def __init__(self):
        self.start = time.monotonic(), foreign_seconds()

    def line(self):
        elapsed = (time.monotonic() - self.start[0]) * os.cpu_count()
        part = max(0.0, (foreign_seconds() - self.start[1]) / elapsed)
        warning = ": TOO MANY, measure again on a quiet machine" if part > FOREIGN_LIMIT else ""
        return f"- cores taken by other programs meanwhile: {100 * part:.1f} %{warning}"


def machine_lines():
    cpu = text_of(["lscpu"])
    model = first_match(r"^Model name:\s+(.*)", cpu)
    flags = first_match(r"^Flags:\s+(.*)", cpu, "").split()
    vectors = [flag for flag in flags if re.match(r"avx|amx|fma$", flag) or "bf16" in flag]
    peers = ("torch", "onnxruntime", "openvino", "onnx", "numpy", "pillow")
    versions = [f"{package} {version}" for package in peers if (version := version_of(package))]
    commit = text_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]).strip() or "unknown"
    program = text_of([str(BIN / "bench_ugatit"), "--version"]).split()
    return [
        f"- date: {datetime.datetime.now().astimezone().isoformat(timespec='minutes')}",
        f"- machine: {model}, {cores()} cores, {memory_gib('MemTotal'):.1f} GiB",
        f"- vector instructions: {' '.join(vectors) or 'none'}",
        f"- libminidl {program[-1] if program else 'unknown'} at commit {commit}; {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, {', '.join(versions)}",
    ]
