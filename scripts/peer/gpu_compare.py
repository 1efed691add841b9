#!/usr/bin/env python3
"""The PyTorch stage of scripts/gpu_check: measures training iterations of both on the GPU in turns, prints Markdown.

In fp32 the losses of the first iteration are compared before anything is timed. Both sides choose the algorithm of every
convolution by measuring, and both measure time by events of the device.
"""

import argparse
import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile

from bench import OURS, PEER, TRAINING_PEERS, BenchError, Config, Line, check_losses, compared, in_turns, table
from bench_processes import Worker, kill_all, say, version_of


def measured(args, config, precision, folder):
    """The lines of one configuration."""
    what = f"{config}, {precision}"
    common = [*config.flags(), "--precision", precision]
    ours = [args.bin / "bench_ugatit", *common, "--device", "cuda", "--benchmark_flag", "True"]
    theirs = [sys.executable, PEER / "train_worker.py", *common, "--device", args.device, "--folder", folder]
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(Worker(OURS, [*ours, "--folder", folder]))
        recorded = stack.enter_context(Worker(OURS, [*ours, "--cuda_graph", "True"]))
        peer = stack.enter_context(Worker("PyTorch", theirs))
        measurements = {f"{OURS}, graph": lambda: recorded.ask("step"), OURS: lambda: plain.ask("step")}
        for variant, name in TRAINING_PEERS.items():
            if precision == "fp32":
                check_losses(plain.ready["losses"], peer.ready["losses"][variant], name)
            measurements[name] = lambda variant=variant: peer.ask(variant)
        recorded.ask("step")  # the iteration that is recorded
        times = in_turns(args.turns, measurements)
    return compared([Line(what, name, [1000 * s for s in values], "ms") for name, values in times.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="where libminidl's programs are")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="for files of gigabytes, deleted at the end")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="PyTorch's")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "tf32", "bf16"), default=["fp32"])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="tiny models, one turn: only to see that all works")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ch, n_res, size = (4, 1, 96) if args.tiny else (64, 4, 256)
    args.turns = 1 if args.tiny else args.turns

    lines, failures = [], []
    try:
        for light in (True,) if args.tiny else (True, False):
            for precision in args.precisions:
                config = Config(light=light, ch=ch, n_res=n_res, size=size)
                folder = pathlib.Path(tempfile.mkdtemp(prefix="pytorch-", dir=args.folder))
                try:
                    lines += measured(args, config, precision, folder)
                except BenchError as error:
                    failures.append(f"{config}, {precision}: {error}")
                finally:
                    kill_all()
                    shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        return 130
    print("## Beside PyTorch\n")
    print(f"PyTorch {version_of('torch')}, eager, on the same weights and images, in turns (docs/benchmarks.md describes its")
    print("two iterations). A row is measured only if the losses of its first iteration agree (fp32, within 1e-3).\n")
    print(table(lines))
    for failure in failures:
        print(f"\nFAILED: {failure}")
    if failures:
        say(failures[0])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
