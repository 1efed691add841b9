"""What the peers' programs share: the model's flags, and measuring on request.

A worker prints one line of JSON once it is ready. From there on it answers every line of stdin by measuring what the line
names once and printing the seconds.
"""

import json
import os
import sys
import time


def add_model_flags(parser):
    parser.add_argument("--light", action="store_true", help="the light model")
    parser.add_argument("--ch", type=int, default=64, help="base channels")
    parser.add_argument("--n_res", type=int, default=4, help="residual blocks")
    parser.add_argument("--img_size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads to compute with")


def own_stdout():
    """A stream to the orchestrator; whatever a library prints goes to stderr from here on."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def device_seconds(device, function):
    """The same by the events of a GPU, from the end of what it was asked for before."""
    if device == "cpu":
        return seconds(function)
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def serve(stream, ready, measure):
    print(json.dumps(ready), file=stream, flush=True)
    for line in sys.stdin:
        print(measure(line.strip()), file=stream, flush=True)
