#!/usr/bin/env python3
"""translate_images as a short PyTorch program: PNG files in, translated PNG files out, one after the other.

  translate_torch.py --weights generator.safetensors --light --ch 64 INPUT OUTPUT_DIR

INPUT is an image or a folder of images; the weights are a deployed generator. Needs PyTorch, numpy and Pillow.
"""

import argparse
import pathlib

import numpy as np
import torch
from PIL import Image

from ugatit_torch import Generator, read_safetensors
from worker import add_model_flags


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--channels_last", action="store_true", help="compute in that memory format")
    add_model_flags(parser)
    parser.add_argument("input", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format

    generator = Generator(args.ch, args.n_res, args.img_size, args.light)
    generator.load_state_dict(read_safetensors(args.weights))
    generator.eval().to(memory_format=layout)
    files = sorted(args.input.iterdir()) if args.input.is_dir() else [args.input]
    args.output.mkdir(parents=True, exist_ok=True)
    side = (args.img_size, args.img_size)
    with torch.inference_mode():
        for file in files:
            image = Image.open(file).convert("RGB")
            if image.size != side:
                image = image.resize(side, Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
            fake = generator((pixels.float() / 127.5 - 1).contiguous(memory_format=layout))[0]
            out = ((fake[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
            Image.fromarray(out.numpy()).save(args.output / f"{file.stem}.png")


if __name__ == "__main__":
    main()
