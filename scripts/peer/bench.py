#!/usr/bin/env python3
"""The orchestrator of scripts/bench: checks that all programs compute the same, measures them in turns, writes a table.

Needs the standard library only; run it with the Python whose packages are the peers. docs/benchmarks.md says what is
measured.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"
PEER = ROOT / "scripts/peer"
WORK = ROOT / "build/bench"

LOSS_TOLERANCE = 1e-3  # relative, of every loss of the first iteration
IMAGE_TOLERANCE = 1e-4  # relative L2 of translated images
FOREIGN_LIMIT = 0.03  # part of the machine that other programs may take during a trustworthy run
OURS = "libminidl"
TRAINING_PEERS = {"faithful": "PyTorch, faithful", "improved": "PyTorch, improved"}
ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4"}
# Advice of PyTorch's own tuning guide.
JEMALLOC_OPTIONS = (
    "oversize_threshold:1,background_thread:true,metadata_thp:auto,dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000"
)
# How long OpenMP's threads wait actively; libminidl sets itself the same. Long spins are slow on a busy machine.
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
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


# --- the table ---------------------------------------------------------------


@dataclasses.dataclass
class Line:
    what: str
    program: str
    values: list  # in the unit
    unit: str = "s"
    note: str = ""
    baseline: float = 0.0  # libminidl's median of the same row

    def cells(self):
        if not self.values:
            return [self.what, self.program, "–", "–", "–", "–", self.note]
        middle = statistics.median(self.values)
        spread = f"{number(min(self.values))} – {number(max(self.values))}"
        ratio = f"{middle / self.baseline:.2f}" if self.baseline else "–"
        return [self.what, self.program, f"{number(middle)} {self.unit}", spread, len(self.values), ratio, self.note]


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def compared(lines):
    """The lines of one row; the first is libminidl's."""
    for line in lines:
        if lines[0].values and line.unit == lines[0].unit:
            line.baseline = statistics.median(lines[0].values)
    return lines


def table(lines):
    heads = ["row", "program", "median", "min – max", "runs", "÷ libminidl", "note"]
    rows = [heads, ["---"] * len(heads), *(line.cells() for line in lines)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows)


# --- rows --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    light: bool
    ch: int
    n_res: int
    size: int
    batch: int = 1

    def flags(self):
        light = ["--light"] if self.light else []
        return [*light, "--ch", self.ch, "--n_res", self.n_res, "--img_size", self.size]

    def __str__(self):
        return f"{'light' if self.light else 'full'}, ch {self.ch}, {self.size}², batch {self.batch}"

    def needed_gib(self):
        """About what a training process needs, (libminidl, PyTorch); from measurements at light, ch 64, 256²."""
        scale = (self.ch / 64) ** 2
        parameters = 116e6 * scale  # six networks
        if not self.light:
            parameters += 2 * (4 * self.ch) ** 2 * (self.size // 4) ** 2
        images = self.ch / 64 * (self.size / 256) ** 2 * self.batch
        # Weight, gradient and two moments; PyTorch's optimiser also makes temporaries.
        return 16 * parameters / GIB + 2.5 * images, 18 * parameters / GIB + 9 * images


def check_losses(ours, theirs, name):
    if ours.keys() != theirs.keys():
        raise BenchError(f"{name} has other losses than libminidl: {sorted(ours.keys() ^ theirs.keys())}")
    for loss, value in ours.items():
        if not abs(theirs[loss] - value) <= LOSS_TOLERANCE * abs(value):
            raise BenchError(
                f"{name} does not compute what libminidl computes: {loss} of the first iteration is {theirs[loss]},"
                f" libminidl's is {value}"
            )


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.turns = 1 if args.quick else args.turns
        self.ch, self.n_res, self.large, self.small = (8, 1, 96, 96) if args.quick else (64, 4, 256, 128)
        self.settings = {}  # of PyTorch, by mode of bench_ugatit
        self.fastest_layout = None  # of PyTorch's eager inference, once measured

    def light(self, **others):
        return Config(**{"light": True, "ch": self.ch, "n_res": self.n_res, "size": self.large, **others})

    def ours(self, mode, config, folder):
        command = [BIN / "bench_ugatit", "--mode", mode, "--folder", folder, "--batch_size", config.batch]
        return Worker("bench_ugatit", [*command, *config.flags()])

    def peer(self, program, config, folder, *more):
        return [sys.executable, PEER / program, "--folder", folder, *config.flags(), *more]

    def new_folder(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder))

    def setting(self, mode):
        """(name, environment) under which PyTorch is fastest."""
        if mode not in self.settings:
            self.settings[mode] = self.choose_setting(mode)
        return self.settings[mode]

    def choose_setting(self, mode):
        if self.args.quick:
            return "short spin", SHORT_SPIN
        # A small model shows which is fastest, in a quarter of the time.
        config, folder = self.light(size=self.small), self.new_folder()
        with self.ours(mode, config, folder):
            pass  # for the files that it leaves
        if mode == "train":
            command, request = self.peer("train_worker.py", config, folder, "--variants", "improved"), "improved"
        else:
            command = self.peer("inference_worker.py", config, folder, "--engine", "torch", "--variants", "eager")
            request = "eager 1"

        def fastest(candidates):
            times = {}
            for name, environment in candidates.items():
                with Worker("PyTorch", command, environment) as worker:
                    worker.ask(request)
                    times[name] = statistics.median(worker.ask(request) for _ in range(3))
            say("  PyTorch with " + ", ".join(f"{name} {number(seconds)} s" for name, seconds in times.items()))
            return min(times, key=times.get)

        allocators = installed_allocators()
        allocator = fastest(allocators)
        waits = {allocator: allocators[allocator]}
        waits[f"{allocator}, short spin"] = {**allocators[allocator], **SHORT_SPIN}
        best = fastest(waits)
        return best, waits[best]

    def in_turns(self, turns, measurements):
        """{name: times}, measured A B C A B C ..., after one round that does not count."""
        times = {name: [] for name in measurements}
        for turn in range(turns + 1):
            for name, measure in measurements.items():
                seconds = measure()
                if turn > 0:
                    times[name].append(seconds)
            if turn > 0:
                say(f"  {turn} of {turns}: " + ", ".join(f"{name} {number(t[-1])} s" for name, t in times.items()))
        return times

    def training(self, config):
        what, folder, free = f"training iteration, {config}", self.new_folder(), free_gib()
        ours_gib, torch_gib = config.needed_gib()
        if ours_gib > free:
            reason = f"skipped: libminidl needs about {ours_gib:.0f} GiB, {free:.0f} are free"
            return [Line(what, name, [], note=reason) for name in (OURS, *TRAINING_PEERS.values())]
        setting, environment = self.setting("train")
        note = setting
        times = {}
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(self.ours("train", config, folder))
            measurements = {OURS: lambda: ours.ask("step")}
            if ours_gib + torch_gib > free:  # one after the other is better than not at all
                note += "; not in turns, for lack of memory"
                times |= self.in_turns(self.turns, measurements)
                ours.close()
                measurements, free = {}, free_gib()
            if torch_gib > free:
                note = f"skipped: PyTorch needs about {torch_gib:.0f} GiB, {free:.0f} are free"
            else:
                command = self.peer("train_worker.py", config, folder)
                peer = stack.enter_context(Worker("PyTorch", command, environment))
                for variant, name in TRAINING_PEERS.items():
                    check_losses(ours.ready["losses"], peer.ready["losses"][variant], name)
                    measurements[name] = lambda variant=variant: peer.ask(variant)
            if measurements:
                times |= self.in_turns(self.turns, measurements)
        peers = [Line(what, name, times.get(name, []), note=note) for name in TRAINING_PEERS.values()]
        return compared([Line(what, OURS, times[OURS]), *peers])

    def inference(self):
        batches = (1, 4)
        config, folder = self.light(batch=max(batches)), self.new_folder()
        setting, environment = self.setting("inference")
        notes = {}  # by peer
        with contextlib.ExitStack() as stack:
            workers = {OURS: (stack.enter_context(self.ours("inference", config, folder)), "forward")}

            def add(engine, environment, names, more=()):
                command = self.peer("inference_worker.py", config, folder, "--engine", engine, "--batches", *batches)
                worker = stack.enter_context(Worker(engine, [*command, *more], environment))
                for variant, name in names.items():
                    if variant not in worker.ready["errors"]:
                        notes[name] = f"skipped: {worker.ready['skipped'].get(variant, 'left out of --quick')}"
                        continue
                    error = worker.ready["errors"][variant]
                    if not error <= IMAGE_TOLERANCE:
                        raise BenchError(
                            f"{name} does not compute what libminidl computes: its images differ by {error:.2g}"
                            f" (relative L2), more than {IMAGE_TOLERANCE:g}"
                        )
                    notes[name] = f"images differ by {error:.1g}"
                    workers[name] = (worker, variant)

            names = {"eager": "PyTorch, eager", "channels_last": "PyTorch, eager, channels last"}
            names["compile"] = "PyTorch, torch.compile"
            # Compiling takes longer than all of --quick.
            add("torch", environment, names, ("--variants", "eager", "channels_last") if self.args.quick else ())
            for name in names.values():
                if name in workers:
                    notes[name] += f"; {setting}"
            runtimes = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
            try:
                if absent := missing("onnx"):
                    raise BenchError(f"{absent} is not installed")
                flags = ("--engine", "export", "--batches", *batches)
                run("the ONNX export", self.peer("inference_worker.py", config, folder, *flags))
                export_failure = None
            except BenchError as error:
                export_failure = str(error)
            for package, name in runtimes.items():
                if reason := export_failure or (missing(package) and f"{package} is not installed"):
                    notes[name] = f"skipped: {reason}"
                else:
                    add(package, None, {package: name})

            lines = []
            for n in batches:
                what = f"generator inference, {self.light(batch=n)}"
                say(f"  {n} images at a time")
                measurements = {
                    name: lambda worker=worker, request=request: worker.ask(f"{request} {n}")
                    for name, (worker, request) in workers.items()
                }
                times = self.in_turns(self.turns if self.args.quick else 3 * self.turns, measurements)
                lines += compared(
                    [Line(what, name, times.get(name, []), note=notes.get(name, "")) for name in (OURS, *notes)]
                )
                eager = {layout: times[name] for layout, name in names.items() if layout != "compile" and name in times}
                self.fastest_layout = self.fastest_layout or min(eager, key=lambda key: statistics.median(eager[key]))
        return lines

    def pictures(self, folder, count):
        flags = ["--count", count, "--test_count", 1, "--size", self.large]
        run("make_demo_data", [BIN / "make_demo_data", folder / "data", *flags])
        return folder / "data" / "trainA"

    def translation_commands(self, folder, source):
        """{name: command} that translates `source` with the generator in `folder`."""
        weights = folder / "generator.safetensors"
        output = folder / "ours" if source.is_dir() else folder / "ours.png"
        ours = [BIN / "translate_images", "--checkpoint", weights, source, output]
        commands = {f"{OURS}, translate_images": ours}
        if not missing("PIL"):
            layout = ["--channels_last"] if self.fastest_layout == "channels_last" else []
            command = [sys.executable, PEER / "translate_torch.py", "--weights", weights, *self.light().flags()]
            commands["PyTorch eager and Pillow"] = [*command, *layout, source, folder / "theirs"]
        return commands

    def translation_lines(self, what, times, **others):
        lines = [Line(what, name, values, **others) for name, values in times.items()]
        if missing("PIL"):
            lines.append(Line(what, "PyTorch eager and Pillow", [], note="skipped: Pillow is not installed"))
        return lines

    def translate(self):
        count = 8 if self.args.quick else 200
        config, folder = self.light(), self.new_folder()
        source = self.pictures(folder, count)
        with self.ours("inference", config, folder) as network:
            _, environment = self.setting("inference")
            measurements = {
                name: lambda name=name, command=command: run(name, command, None if OURS in name else environment)
                for name, command in self.translation_commands(folder, source).items()
            }
            bare = f"{OURS}, network only"
            measurements[bare] = lambda: sum(network.ask("forward 1") for _ in range(count))
            times = self.in_turns(1 if self.args.quick else max(1, self.turns // 3), measurements)
        bare_times = times.pop(bare)
        what = f"translating a folder of {count} images, {config}"
        lines = self.translation_lines(what, times)
        lines.insert(1, Line(what, bare, bare_times, note="the same number of forward passes, without files"))
        for line in lines:
            if line.values:
                rate = f"{count / statistics.median(line.values):.2f} images/s"
                line.note = f"{rate}; {line.note}" if line.note else rate
        return compared(lines)

    def startup(self):
        config, folder = self.light(), self.new_folder()
        with self.ours("inference", config, folder):
            pass  # for its generator
        (source,) = self.pictures(folder, 1).iterdir()
        _, environment = self.setting("inference")
        measurements = {
            name: lambda name=name, command=command: run(name, command, None if OURS in name else environment)
            for name, command in self.translation_commands(folder, source).items()
        }
        version = "train_ugatit --version"
        measurements[version] = lambda: run("train_ugatit", [BIN / "train_ugatit", "--version"])
        times = self.in_turns(self.turns, measurements)
        version_times = times.pop(version)
        lines = compared(self.translation_lines(f"one image in a fresh process, {config}", times))
        return [*lines, Line("start-up alone", f"{OURS}, {version}", version_times)]

    def memory(self):
        config, folder = self.light(), self.new_folder()
        what = f"peak resident memory of training, {config}"
        steps = 1 if self.args.quick else 3

        def peak(worker, request):
            with worker:
                for _ in range(steps):
                    worker.ask(request)
                return worker.close()

        lines = [Line(what, OURS, [peak(self.ours("train", config, folder), "step")], "GiB")]
        settings = {"glibc": {}}
        best, environment = self.setting("train")
        if "LD_PRELOAD" in environment:
            settings[best] = environment
        for setting, environment in settings.items():
            for variant, name in TRAINING_PEERS.items():
                command = self.peer("train_worker.py", config, folder, "--variants", variant)
                value = peak(Worker("PyTorch", command, environment), variant)
                lines.append(Line(what, name, [value], "GiB", setting))
        return compared(lines)

    def rows(self):
        """{name for --only: function that measures it}."""
        return {
            "train": lambda: self.training(self.light()),
            "train-small": lambda: self.training(self.light(size=self.small)),
            "train-batch2": lambda: self.training(self.light(batch=2)),
            "train-full": lambda: self.training(self.light(light=False)),
            "inference": self.inference,
            "translate": self.translate,
            "startup": self.startup,
            "memory": self.memory,
        }


def report(args, machine, lines):
    command = " ".join(["scripts/bench", *args.shown])
    quick = ["", "This was a quick run of a tiny model: it shows that everything works, not how fast it is."]
    return "\n".join(
        ["# Benchmarks", "", *machine, f"- command: `{command}`", *(quick if args.quick else []), "", table(lines), ""]
    )


def parse_arguments():
    names = list(Bench(argparse.Namespace(quick=True, turns=1), None).rows())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures libminidl and its peers in turns and prints one table.",
        epilog="--venv DIR (or BENCH_VENV) names a Python environment with the peers instead of build/bench/venv.",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, one turn: only to see that all works")
    parser.add_argument("--only", metavar="ROWS", help="comma-separated: " + ", ".join(names))
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns of each training row (default 5)")
    args = parser.parse_args()
    args.shown = sys.argv[1:]
    # In a quick run the other training rows would only repeat the first.
    usual = [name for name in names if not (args.quick and name in ("train-small", "train-batch2"))]
    args.rows = args.only.split(",") if args.only else usual
    for row in args.rows:
        if row not in names:
            parser.error(f"there is no row '{row}'; --only takes {', '.join(names)}")
    if args.turns < 1:
        parser.error(f"--turns must be at least 1, not {args.turns}")
    return args


def main():
    args = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    WORK.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=WORK))
    try:
        if absent := missing("torch", "numpy"):
            raise BenchError(f"{absent} is not installed for {sys.executable}; name an environment with --venv DIR")
        if not (BIN / "bench_ugatit").exists():
            raise BenchError(f"{BIN / 'bench_ugatit'} is missing; run scripts/build")
        machine, foreign = machine_lines(), ForeignLoad()
        bench = Bench(args, folder)
        lines = []
        for row in args.rows:
            say(f"{row}:")
            lines += bench.rows()[row]()
            for left_over in folder.iterdir():  # weights of a full model take gigabytes
                shutil.rmtree(left_over)
            # After every row: what was measured before an interruption is not lost.
            text = report(args, [*machine, foreign.line()], lines)
            (WORK / "report.md").write_text(text)
        print(text)
        say(f"written to {(WORK / 'report.md').relative_to(ROOT)}")
        return 0
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    finally:
        kill_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
