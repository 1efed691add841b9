#!/usr/bin/env python3
"""The peers' side of the inference rows of scripts/bench: one generator, run by PyTorch, ONNX Runtime or OpenVINO.

Computes with the generator and images that bench_ugatit has left in a folder. Ready, it reports for every variant how far
its images are from libminidl's (relative L2) and which variants do not work here, and why. Requests are a variant and a
number of images: "eager 4".

  --engine torch         eager, channels_last and compile
  --engine onnxruntime   of the file that --engine export has left in the folder
  --engine openvino      likewise
  --engine export        writes model_N.onnx for every N of --batches and exits
"""

import argparse
import functools
import pathlib
import warnings

from worker import add_model_flags, own_stdout, seconds, serve


def load_generator(args):
    from ugatit_torch import Generator, read_safetensors

    generator = Generator(args.ch, args.n_res, args.img_size, args.light)
    generator.load_state_dict(read_safetensors(args.folder / "generator.safetensors"))
    return generator.eval().requires_grad_(False)


def export(args):
    import torch

    generator = load_generator(args)
    # Fixed shapes: both runtimes optimise those best.
    for batch in args.batches:
        images = torch.zeros(batch, 3, args.img_size, args.img_size)
        file = args.folder / f"model_{batch}.onnx"
        names = {"input_names": ["image"], "output_names": ["fake", "cam_logit", "heatmap"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(generator, (images,), str(file), dynamo=False, opset_version=17, **names)
            except Exception:  # The older exporter is on its way out; its files need fewer graph rewrites.
                torch.onnx.export(generator, (images,), str(file), dynamo=True, **names)


def torch_variants(args, batches):
    """{variant: function from number of images to their translations}."""
    import torch

    torch.set_num_threads(args.threads)
    generator = load_generator(args)
    contiguous = {n: torch.from_numpy(images) for n, images in batches.items()}
    channels_last = {n: images.contiguous(memory_format=torch.channels_last) for n, images in contiguous.items()}

    def forward(model, images, n):
        with torch.inference_mode():
            return model(images[n])[0].numpy()

    def eager():
        return functools.partial(forward, generator, contiguous)

    def in_channels_last():
        return functools.partial(forward, load_generator(args).to(memory_format=torch.channels_last), channels_last)

    def compiled():
        import torch._inductor.config

        torch._inductor.config.freezing = True  # fold and pack weights: this model will not change
        model = torch.compile(load_generator(args), dynamic=False)

        def run(n):
            with torch.no_grad():
                return model(contiguous[n])[0].numpy()

        return run

    return {"eager": eager, "channels_last": in_channels_last, "compile": compiled}


def onnxruntime_variants(args, batches):
    def make():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        sessions = {
            n: onnxruntime.InferenceSession(
                str(args.folder / f"model_{n}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for n in batches
        }
        return lambda n: sessions[n].run(None, {"image": batches[n]})[0]

    return {"onnxruntime": make}


def openvino_variants(args, batches):
    def make():
        import openvino

        core = openvino.Core()
        # float32 is asked for: on processors with bfloat16 the default would compute in that.
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": args.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        models = {n: core.compile_model(str(args.folder / f"model_{n}.onnx"), "CPU", hints) for n in batches}
        return lambda n: models[n]([batches[n]])[0]

    return {"openvino": make}


def main():
    stream = own_stdout()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where bench_ugatit has left its files")
    parser.add_argument("--engine", choices=("torch", "onnxruntime", "openvino", "export"), required=True)
    parser.add_argument("--variants", nargs="+", help="only these of the engine")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="numbers of images that may be asked for")
    add_model_flags(parser)
    args = parser.parse_args()
    if args.engine == "export":
        export(args)
        return

    import numpy as np
    from ugatit_torch import read_safetensors

    tensors = {name: tensor.numpy() for name, tensor in read_safetensors(args.folder / "images.safetensors").items()}
    batches = {n: np.ascontiguousarray(tensors["real_A"][:n]) for n in args.batches}
    engines = {"torch": torch_variants, "onnxruntime": onnxruntime_variants, "openvino": openvino_variants}
    run, errors, skipped = {}, {}, {}
    for name, make in engines[args.engine](args, batches).items():
        if args.variants and name not in args.variants:
            continue
        try:
            function = make()
            expected = tensors["fake_B"]
            errors[name] = max(
                float(np.linalg.norm(function(n) - expected[:n]) / np.linalg.norm(expected[:n])) for n in batches
            )
            run[name] = function
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            skipped[name] = f"{type(error).__name__}: {text[:150]}"

    def measure(request):
        name, n = request.split()
        run[name](int(n))  # threads that have slept may wake on one core together, and take a while to part
        return seconds(lambda: run[name](int(n)))

    serve(stream, {"errors": errors, "skipped": skipped}, measure)


if __name__ == "__main__":
    main()
