#!/usr/bin/env python3
"""The orchestrator of scripts/bench: checks that all programs compute the same, measures them in turns, writes a table.

Needs the standard library only; run it with the Python whose packages are the peers. docs/benchmarks.md says what is
measured.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile

from bench_processes import (
    BIN,
    GIB,
    ROOT,
    BenchError,
    ForeignLoad,
    Worker,
    free_gib,
    installed_allocators,
    kill_all,
    machine_lines,
    missing,
    run,
    say,
)

PEER = ROOT / "scripts/peer"
WORK = ROOT / "build/bench"

LOSS_TOLERANCE = 1e-3  # relative, of every loss of the first iteration
IMAGE_TOLERANCE = 1e-4  # relative L2 of translated images
OURS = "libminidl"
TRAINING_PEERS = {"faithful": "PyTorch, faithful", "improved": "PyTorch, improved"}
# How long OpenMP's threads wait actively; libminidl sets itself the same. Long spins are slow on a busy machine.
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}


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


def in_turns(turns, measurements):
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
                times |= in_turns(self.turns, measurements)
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
                times |= in_turns(self.turns, measurements)
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
                times = in_turns(self.turns if self.args.quick else 3 * self.turns, measurements)
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
            times = in_turns(1 if self.args.quick else max(1, self.turns // 3), measurements)
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
        times = in_turns(self.turns, measurements)
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
