#!/usr/bin/env python3
"""PyTorch's side of the training rows of scripts/bench and scripts/gpu_check.

Trains from the weights and images that bench_ugatit has left in a folder. One model serves both variants, so that there
is memory for libminidl beside it. Ready, it reports the losses of each variant's first iteration; requests are the
variants' names.
"""

import argparse
import pathlib

import torch

from ugatit_torch import Ugatit, read_safetensors
from worker import add_model_flags, device_seconds, own_stdout, serve

VARIANTS = ("faithful", "improved")


def main():
    stream = own_stdout()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where bench_ugatit has left its files")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="of products, on a GPU")
    add_model_flags(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    lower = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")

    model = Ugatit(ch=args.ch, n_res=args.n_res, size=args.img_size, light=args.light, improved=False)
    model.nets.to(args.device)
    images = read_safetensors(args.folder / "images.safetensors")
    real_a, real_b = images["real_A"].to(args.device), images["real_B"].to(args.device)

    def iterate():
        with lower:
            return model.iterate(real_a, real_b)

    losses = {}
    for variant in args.variants:
        model.nets.load_state_dict(read_safetensors(args.folder / "weights.safetensors"))
        for optimiser in (model.g_optim, model.d_optim):
            optimiser.state.clear()
        model.improved = variant == "improved"
        losses[variant] = iterate()

    def measure(request):
        if request not in args.variants:
            raise ValueError(f"there is no measurement called '{request}'")
        model.improved = request == "improved"
        return device_seconds(args.device, iterate)

    serve(stream, {"losses": losses}, measure)


if __name__ == "__main__":
    main()
