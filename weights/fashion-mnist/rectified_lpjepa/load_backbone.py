"""load(folder) -> the network; needs timm, nothing else."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file


def load(folder):
    """A network [N, 3, H, W] -> [N, num_features]; its input is as ``pretrained_cfg`` says."""
    facts = json.loads((Path(folder) / "config.json").read_text())
    network = timm.create_model(
        facts["timm"], pretrained_cfg=facts["pretrained_cfg"], **facts["model_args"]
    )
    old = network.conv1  # no pooling, and 3x3 with stride 1: for images up to 32 px
    if isinstance(old, torch.nn.Conv2d):
        network.conv1 = torch.nn.Conv2d(
            old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=2, bias=False
        )
    network.maxpool = torch.nn.Identity()
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval()
