#!/usr/bin/env python3
"""PyTorch's side of the training rows of scripts/bench.

Trains from the weights and images that bench_ugatit has left in a folder. One model serves both variants, so that there
is memory for libminidl beside it. Ready, it reports the losses of each variant's first iteration; requests are the
variants' names.
"""

import argparse
import pathlib

import torch

from ugatit_torch import Ugatit, read_safetensors
from worker import add_model_flags, own_stdout, seconds, serve

VARIANTS = ("faithful", "improved")


def main():
    stream = own_stdout()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="where bench_ugatit has left its files")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    add_model_flags(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = Ugatit(ch=args.ch, n_res=args.n_res, size=args.img_size, light=args.light, improved=False)
    images = read_safetensors(args.folder / "images.safetensors")
    losses = {}
    for variant in args.variants:
        model.nets.load_state_dict(read_safetensors(args.folder / "weights.safetensors"))
        for optimiser in (model.g_optim, model.d_optim):
            optimiser.state.clear()
        model.improved = variant == "improved"
        losses[variant] = model.iterate(images["real_A"], images["real_B"])

    def measure(request):
        if request not in args.variants:
            raise ValueError(f"there is no measurement called '{request}'")
        model.improved = request == "improved"
        return seconds(lambda: model.iterate(images["real_A"], images["real_B"]))

    serve(stream, {"losses": losses}, measure)


if __name__ == "__main__":
    main()
