"""A trained backbone as files that need no code of ours: safetensors, a JSON, and 30 lines.

    python scripts/utils/export_backbone.py <run folder or checkpoint> <output folder>

Writes backbone.safetensors, backbone.json (timm or torchvision name and arguments, normalisation,
image size) and load_backbone.py, whose load(folder) gives the network with timm or torchvision
alone.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.backbones import SMALL_IMAGE, library_call, without_weights
from solo.config import RunError
from solo.data.datasets import dataset_spec
from solo.runs.networks import load_encoder

LOADER = '''"""load(folder) -> the network; needs timm or torchvision, nothing else."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def load(folder):
    """A network [N, 3, H, W] -> [N, num_features], with ``mean`` and ``std`` of its input."""
    facts = json.loads((Path(folder) / "backbone.json").read_text())
    if facts["library"] == "timm":
        import timm

        network = timm.create_model(facts["model"], **facts["arguments"])
    else:
        import torchvision

        network = torchvision.models.get_model(facts["model"], **facts["arguments"])
        network.fc = torch.nn.Identity()
    if facts["small_stem"]:  # 3x3, stride 1, no pooling: for images up to 32 px
        old = network.conv1
        network.conv1 = torch.nn.Conv2d(
            old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=2, bias=False
        )
        network.maxpool = torch.nn.Identity()
    network.load_state_dict(load_file(Path(folder) / "backbone.safetensors"))
    network.mean, network.std = facts["mean"], facts["std"]
    return network.eval()
'''


def export(source: str, folder: Path) -> None:
    """Write the three files.

    Raises:
        ConfigError: where the source is no run or checkpoint of ours.
    """
    encoder = load_encoder(source)
    config = encoder.config
    if config is None:
        raise RunError(f"{source} is no run or checkpoint of this program")
    spec = dataset_spec(config.data.dataset)
    kwargs = without_weights(config.backbone.kwargs)
    call = library_call(config.backbone.name, kwargs, *config.view_sizes)
    stem = getattr(encoder.backbone, "conv1", None)
    small = encoder.image_size <= SMALL_IMAGE and stem is not None
    facts = {
        "library": call.library,
        "model": call.model,
        "arguments": call.arguments,
        "small_stem": small and hasattr(encoder.backbone, "maxpool"),
        "num_features": call.features,
        "image_size": encoder.image_size,
        "mean": spec.mean,
        "std": spec.std,
        "whole": spec.whole,
        "name": config.backbone.name,
        "kwargs": kwargs,
        "method": config.method,
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in encoder.backbone.state_dict().items()}
    save_file(state, folder / "backbone.safetensors")
    (folder / "backbone.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "load_backbone.py").write_text(inspect.cleandoc(LOADER) + "\n")


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", help="a run's folder or checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    options = parser.parse_args()
    try:
        export(options.source, options.folder)
    except RunError as error:
        parser.error(str(error))
    print(f"written to {options.folder}")


if __name__ == "__main__":
    main()
