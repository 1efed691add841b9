#!/usr/bin/env python3
"""U-GAT-IT in PyTorch: the peer that libminidl is timed against and cross-checked with.

Networks and training iteration follow the paper (Kim et al., ICLR 2020) and carry the state-dict names of the official
checkpoints. Two iterations are offered:
  faithful    as the official program does it: the D step runs through the generators (fakes not detached) and the
              G step computes the fakes again;
  improved    the same numbers for less work: the D step sees detached fakes, the G step reuses them, and the
              discriminators' weights take no gradients in the G step.

  ugatit_torch.py --check tests/golden/light_ch4_96 ...       compare losses and weights with the golden numbers

scripts/bench times it; see train_worker.py and inference_worker.py.
Needs PyTorch 1.13 or newer (Debian: python3-torch) and numpy.
"""

import argparse
import json
import mmap
import pathlib
import struct
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

LOSS_TOLERANCE = 1e-4
DISCRIMINATORS = ("GA", "LA", "GB", "LB")


class InstanceLayerNorm(nn.Module):
    """rho * instance norm + (1 - rho) * layer norm, both with unbiased variances; then scale and shift.

    AdaILN is given gamma and beta per call (N,C); ILN (own_affine) learns them.
    """

    def __init__(self, channels, own_affine):
        super().__init__()
        shape = (1, channels, 1, 1)
        self.rho = nn.Parameter(torch.full(shape, 0.0 if own_affine else 0.9))
        if own_affine:
            self.gamma = nn.Parameter(torch.ones(shape))
            self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, x, gamma=None, beta=None):
        def normalised(dims):
            mean, variance = x.mean(dims, keepdim=True), x.var(dims, unbiased=True, keepdim=True)
            return (x - mean) / torch.sqrt(variance + 1e-5)

        mixed = self.rho * normalised((2, 3)) + (1 - self.rho) * normalised((1, 2, 3))
        if gamma is None:
            return mixed * self.gamma + self.beta
        return mixed * gamma[:, :, None, None] + beta[:, :, None, None]


def padded_conv(c_in, c_out, kernel, stride=1):
    padding = 1 if kernel == 3 else 3
    return [nn.ReflectionPad2d(padding), nn.Conv2d(c_in, c_out, kernel, stride, bias=False)]


class ResidualBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv_block = nn.Sequential(
            *padded_conv(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(True), *padded_conv(c, c, 3), nn.InstanceNorm2d(c)
        )

    def forward(self, x):
        return x + self.conv_block(x)


class AdaptiveResidualBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1 = nn.Conv2d(c, c, 3, bias=False)
        self.norm1 = InstanceLayerNorm(c, own_affine=False)
        self.conv2 = nn.Conv2d(c, c, 3, bias=False)
        self.norm2 = InstanceLayerNorm(c, own_affine=False)

    def forward(self, x, gamma, beta):
        y = F.relu(self.norm1(self.conv1(self.pad(x)), gamma, beta))
        return x + self.norm2(self.conv2(self.pad(y)), gamma, beta)


def attend(x, gap_fc, gmp_fc, gap_weight, gmp_weight):
    """Class activation maps: (N,2) logits and the features weighted by both classifiers, (N,2C,H,W)."""
    logits = torch.cat(
        [gap_fc(F.adaptive_avg_pool2d(x, 1).flatten(1)), gmp_fc(F.adaptive_max_pool2d(x, 1).flatten(1))], 1
    )
    weighted = torch.cat([x * gap_weight[:, :, None, None], x * gmp_weight[:, :, None, None]], 1)
    return logits, weighted


class Generator(nn.Module):
    """Image (N,3,S,S) in [-1,1] -> (image, CAM logits (N,2), heat map (N,1,S/4,S/4))."""

    def __init__(self, ch, n_res, size, light):
        super().__init__()
        c = 4 * ch
        self.light, self.n_res = light, n_res
        down = []
        for c_in, c_out, kernel, stride in ((3, ch, 7, 1), (ch, 2 * ch, 3, 2), (2 * ch, c, 3, 2)):
            down += [*padded_conv(c_in, c_out, kernel, stride), nn.InstanceNorm2d(c_out), nn.ReLU(True)]
        self.DownBlock = nn.Sequential(*down, *(ResidualBlock(c) for _ in range(n_res)))
        self.gap_fc = nn.Linear(c, 1, bias=False)
        self.gmp_fc = nn.Linear(c, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * c, c, 1)
        style_inputs = c if light else c * (size // 4) ** 2
        self.FC = nn.Sequential(
            nn.Linear(style_inputs, c, bias=False), nn.ReLU(True), nn.Linear(c, c, bias=False), nn.ReLU(True)
        )
        self.gamma = nn.Linear(c, c, bias=False)
        self.beta = nn.Linear(c, c, bias=False)
        for i in range(n_res):
            self.add_module(f"UpBlock1_{i + 1}", AdaptiveResidualBlock(c))
        up = []
        for k in (c, c // 2):
            up += [nn.Upsample(scale_factor=2, mode="nearest"), *padded_conv(k, k // 2, 3)]
            up += [InstanceLayerNorm(k // 2, own_affine=True), nn.ReLU(True)]
        self.UpBlock2 = nn.Sequential(*up, *padded_conv(ch, 3, 7), nn.Tanh())

    def forward(self, image):
        x = self.DownBlock(image)
        logits, weighted = attend(x, self.gap_fc, self.gmp_fc, self.gap_fc.weight, self.gmp_fc.weight)
        x = F.relu(self.conv1x1(weighted))
        heat_map = x.sum(1, keepdim=True)
        style = self.FC(x.mean((2, 3)) if self.light else x.flatten(1))
        gamma, beta = self.gamma(style), self.beta(style)
        for i in range(self.n_res):
            x = getattr(self, f"UpBlock1_{i + 1}")(x, gamma, beta)
        return self.UpBlock2(x), logits, heat_map


class Discriminator(nn.Module):
    """Image (N,3,S,S) -> (patch logits, CAM logits (N,2), heat map). n_layers is 7 (global) or 5 (local)."""

    def __init__(self, ndf, n_layers):
        super().__init__()
        layers, c_in, c = [], 3, ndf
        for i in range(n_layers - 1):
            stride = 1 if i == n_layers - 2 else 2
            conv = spectral_norm(nn.Conv2d(c_in, c, 4, stride))
            layers += [nn.ReflectionPad2d(1), conv, nn.LeakyReLU(0.2, True)]
            c_in, c = c, 2 * c
        self.model = nn.Sequential(*layers)
        self.gap_fc = spectral_norm(nn.Linear(c_in, 1, bias=False))
        self.gmp_fc = spectral_norm(nn.Linear(c_in, 1, bias=False))
        self.conv1x1 = nn.Conv2d(2 * c_in, c_in, 1)
        self.pad = nn.ReflectionPad2d(1)
        self.conv = spectral_norm(nn.Conv2d(c_in, 1, 4, bias=False))

    def forward(self, image):
        # The product takes the raw weights, the logits take the normalised ones: the official model does so.
        logits, weighted = attend(
            self.model(image), self.gap_fc, self.gmp_fc, self.gap_fc.weight_orig, self.gmp_fc.weight_orig
        )
        x = F.leaky_relu(self.conv1x1(weighted), 0.2)
        return self.conv(self.pad(x)), logits, x.sum(1, keepdim=True)


def against(logits, target):
    return F.mse_loss(logits, torch.full_like(logits, target))


def cam_loss(logits_of_other_domain, logits_of_own_domain):
    """The generator's CAM should tell its source domain (1) from images that already are of its target domain (0)."""

    def bce(logits, target):
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    return bce(logits_of_other_domain, 1.0) + bce(logits_of_own_domain, 0.0)


class Ugatit:
    """The six networks, their two optimisers and the training iteration."""

    def __init__(self, *, ch, n_res, size, light, improved, lr=1e-4, weight_decay=1e-4):
        self.improved = improved
        self.adv_weight, self.cycle_weight, self.identity_weight, self.cam_weight = 1, 10, 10, 1000
        self.nets = nn.ModuleDict({name: Generator(ch, n_res, size, light) for name in ("genA2B", "genB2A")})
        for name in ("disGA", "disGB", "disLA", "disLB"):
            self.nets[name] = Discriminator(ch, 7 if name[3] == "G" else 5)
        generators = [p for name in ("genA2B", "genB2A") for p in self.nets[name].parameters()]
        self.discriminator_parameters = [
            p for name in ("disGA", "disGB", "disLA", "disLB") for p in self.nets[name].parameters()
        ]
        adam = {"lr": lr, "betas": (0.5, 0.999), "weight_decay": weight_decay}
        self.g_optim = torch.optim.Adam(generators, **adam)
        self.d_optim = torch.optim.Adam(self.discriminator_parameters, **adam)

    def iterate(self, real_a, real_b):
        """One D step and one G step; returns every part of both losses under its official name."""
        a2b, b2a = self.nets["genA2B"], self.nets["genB2A"]
        parts = {}

        fake_b, a_logits, _ = a2b(real_a)
        fake_a, b_logits, _ = b2a(real_b)
        if self.improved:
            self.d_step(real_a, real_b, fake_a.detach(), fake_b.detach(), parts)
            self.train_discriminators(False)
        else:
            # These names must go before the G step: they keep the D step's graph, and the official program drops it too.
            del a_logits, b_logits
            self.d_step(real_a, real_b, fake_a, fake_b, parts)
            del fake_a, fake_b
            fake_b, a_logits, _ = a2b(real_a)
            fake_a, b_logits, _ = b2a(real_b)
        self.g_step(real_a, real_b, (fake_a, b_logits), (fake_b, a_logits), parts)
        if self.improved:
            self.train_discriminators(True)
        return {name: value.item() for name, value in parts.items()}

    def d_step(self, real_a, real_b, fake_a, fake_b, parts):
        self.d_optim.zero_grad()
        total = 0
        for name in DISCRIMINATORS:
            real, fake = (real_a, fake_a) if name[1] == "A" else (real_b, fake_b)
            real_logits, real_cam, _ = self.nets["dis" + name](real)
            fake_logits, fake_cam, _ = self.nets["dis" + name](fake)
            ad = against(real_logits, 1.0) + against(fake_logits, 0.0)
            cam = against(real_cam, 1.0) + against(fake_cam, 0.0)
            parts[f"D_ad_loss_{name}"], parts[f"D_ad_cam_loss_{name}"] = ad.detach(), cam.detach()
            total = total + self.adv_weight * (ad + cam)
        parts["Discriminator_loss"] = total.detach()
        total.backward()
        self.d_optim.step()

    def g_step(self, real_a, real_b, to_a, to_b, parts):
        self.g_optim.zero_grad()
        a2b, b2a = self.nets["genA2B"], self.nets["genB2A"]
        (fake_a, b_logits), (fake_b, a_logits) = to_a, to_b
        cycled_a, _, _ = b2a(fake_b)
        cycled_b, _, _ = a2b(fake_a)
        same_a, same_a_logits, _ = b2a(real_a)
        same_b, same_b_logits, _ = a2b(real_b)
        total = 0
        for name in DISCRIMINATORS:
            logits, cam, _ = self.nets["dis" + name](fake_a if name[1] == "A" else fake_b)
            ad, cam = against(logits, 1.0), against(cam, 1.0)
            parts[f"G_ad_loss_{name}"], parts[f"G_ad_cam_loss_{name}"] = ad.detach(), cam.detach()
            total = total + self.adv_weight * (ad + cam)
        for side, cycled, same, real, cam in (
            ("A", cycled_a, same_a, real_a, cam_loss(b_logits, same_a_logits)),
            ("B", cycled_b, same_b, real_b, cam_loss(a_logits, same_b_logits)),
        ):
            recon, identity = F.l1_loss(cycled, real), F.l1_loss(same, real)
            parts[f"G_recon_loss_{side}"], parts[f"G_identity_loss_{side}"] = recon.detach(), identity.detach()
            parts[f"G_cam_loss_{side}"] = cam.detach()
            total = total + self.cycle_weight * recon + self.identity_weight * identity + self.cam_weight * cam
        parts["Generator_loss"] = total.detach()
        total.backward()
        self.g_optim.step()
        with torch.no_grad():
            for module in (*a2b.modules(), *b2a.modules()):
                if isinstance(module, InstanceLayerNorm):
                    module.rho.clamp_(0, 1)

    def train_discriminators(self, on):
        for parameter in self.discriminator_parameters:
            parameter.requires_grad_(on)


def read_safetensors(path):
    """{name: float32 tensor} of a safetensors file."""
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (header_size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{path}: {name} has type {entry['dtype']}, expected F32")
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        tensors[name] = torch.from_numpy(np.frombuffer(data[begin:end], "<f4").copy()).reshape(entry["shape"])
    return tensors


def check(folder, improved):
    """Trains from the golden weights on the golden images; True if losses and final weights are the golden ones."""
    golden = json.loads((folder / "losses.json").read_text())
    config = golden["config"]
    model = Ugatit(
        ch=config["ch"],
        n_res=config["n_res"],
        size=config["size"],
        light=bool(config["light"]),
        improved=improved,
        lr=golden["lr"],
        weight_decay=golden["weight_decay"],
    )
    before, after = read_safetensors(folder / "weights_0.safetensors"), read_safetensors(folder / "weights_3.safetensors")
    model.nets.load_state_dict(before)
    worst_loss, worst_name = 0.0, ""
    for step, expected in enumerate(golden["losses"], 1):
        images = read_safetensors(folder / f"tensors_{step}.safetensors")
        parts = model.iterate(images["real_A"], images["real_B"])
        if parts.keys() != expected.keys():
            raise ValueError(f"{folder}: other loss names than ours: {sorted(parts.keys() ^ expected.keys())}")
        for name, value in expected.items():
            error = abs(parts[name] - value) / abs(value)
            if not error <= worst_loss:
                worst_loss, worst_name = error, f"{name} of iteration {step}"
    # The tolerance of a weight is in units of how far it moved: Adam turns the sign of a tiny gradient into a full step.
    worst_weight = max(
        float((ours - after[name]).norm() / (5e-3 * (after[name] - before[name]).norm() + 5e-5 * after[name].norm()))
        for name, ours in model.nets.state_dict().items()
        if after[name].norm() > 0
    )
    good = worst_loss <= LOSS_TOLERANCE and worst_weight <= 1
    variant = "improved" if improved else "faithful"
    print(
        f"{folder.name} {variant}: {'ok' if good else 'FAILED'}; largest relative loss error {worst_loss:.2g}"
        f" ({worst_name}), weights at {worst_weight:.2g} of their tolerance"
    )
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check",
        nargs="+",
        type=pathlib.Path,
        metavar="GOLDEN_DIR",
        required=True,
        help="compare with golden numbers",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return 0 if all([check(folder, improved) for folder in args.check for improved in (False, True)]) else 1


if __name__ == "__main__":
    sys.exit(main())
