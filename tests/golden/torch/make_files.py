"""Writes the files of this folder: python make_files.py SUFFIX, run with torch 1.13.1 (SUFFIX 113), then 2.15.0 (215).

Tensors of every kind that a state dict may hold, and a small U-GAT-IT, as torch.save writes them; and what they hold,
as float32 and row-major, in safetensors.
"""
import json
import pathlib
import struct
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "scripts" / "peer"))
from ugatit_torch import Ugatit  # noqa: E402


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        values = tensor.detach().float().contiguous()
        blob = struct.pack(f"<{values.numel()}f", *values.flatten().tolist())
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def kinds():
    torch.manual_seed(1)
    base = torch.randn(4, 5, 6)
    odd = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 1e-7, 6e-8, 65504.0, 1 / 3, -2.5e-5])
    return {
        "float": base,
        "double": torch.randn(7, dtype=torch.float64),
        "half": odd.half(),
        "bfloat16": (odd * 1e30).bfloat16(),
        "transposed": base.transpose(0, 2),
        "slice": base[1:3, ::2, 1:],
        "shared": base.view(-1)[17:50],
        "expanded": torch.randn(3, 1).expand(3, 4),
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(3, 0),
    }


def main():
    suffix, folder = sys.argv[1], pathlib.Path(__file__).resolve().parent
    tensors = kinds()
    for name, options in {
        "kinds": {},
        "kinds_legacy": {"_use_new_zipfile_serialization": False},
        "kinds_protocol4": {"pickle_protocol": 4},
    }.items():
        torch.save(tensors, folder / f"{name}_{suffix}.pt", **options)
    torch.manual_seed(2)
    model = Ugatit(ch=1, n_res=1, size=96, light=True, improved=False)
    if suffix != "113":  # versions round initial weights differently
        saved = torch.load(folder / "six_wrapped_113.pt", weights_only=True)
        for name, net in model.nets.items():
            net.load_state_dict({key.removeprefix("module."): value for key, value in saved[name].items()})
    six = {name: net.state_dict() for name, net in model.nets.items()}
    wrapped = {name: torch.nn.DataParallel(net).state_dict() for name, net in model.nets.items()}
    torch.save({**wrapped, "epoch": 3}, folder / f"six_wrapped_{suffix}.pt")
    torch.save(six["genB2A"], folder / f"generator_{suffix}.pt")
    if suffix == "113":
        write_safetensors(folder / "kinds.safetensors", tensors)
        write_safetensors(folder / "six.safetensors", {f"{n}.{k}": v for n, d in six.items() for k, v in d.items()})


main()
