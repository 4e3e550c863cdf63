"""A trained backbone as a folder of timm's layout, which needs no code of ours.

    python scripts/utils/export_backbone.py <run folder or checkpoint> <output folder> [--onnx]

Writes model.safetensors, config.json and README.md, a model card.
``timm.create_model("local-dir:<output folder>", pretrained=True)`` is the network, its
pretrained_cfg has the normalisation and image size, and the folder can be pushed to a hub as it is.
A ResNet for images up to 32 px has a stem that no timm name stands for; load_backbone.py, written
beside it, builds that one with timm alone. With --onnx also model.onnx, checked against the network
by onnxruntime; with --teacher the teacher's network.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.backbones import LibraryCall, has_small_stem, library_call, without_weights
from solo.config import RunError, sides
from solo.data.datasets import dataset_spec, normalisation
from solo.report.card import model_card
from solo.runs.networks import load_encoder

LOADER = '''"""load(folder) -> the network; needs timm, nothing else."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file


def load(folder):
    """A network [N, 3, H, W] -> [N, num_features]; its input is as ``pretrained_cfg`` says."""
    facts = json.loads((Path(folder) / "config.json").read_text())
    network = timm.create_model(
        facts["architecture"], pretrained_cfg=facts["pretrained_cfg"], **facts["model_args"]
    )
    old = network.conv1  # no pooling, and 3x3 with stride 1: for images up to 32 px
    if isinstance(old, torch.nn.Conv2d):
        network.conv1 = torch.nn.Conv2d(
            old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=2, bias=False
        )
    network.maxpool = torch.nn.Identity()
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval()
'''


def export(source: str, folder: Path, teacher: bool = False, onnx: bool = False) -> None:
    """Write the files.

    Raises:
        ConfigError: where the source is no run or checkpoint of ours.
        RunError: where ONNX cannot hold the network, or what it needs is not installed.
    """
    encoder = load_encoder(source, features="teacher" if teacher else "backbone")
    config = encoder.config
    if config is None:
        raise RunError(f"{source} is no run or checkpoint of this program")
    spec = dataset_spec(config.data.dataset)
    mean, std = normalisation(config.data)
    kwargs = without_weights(config.backbone.kwargs)
    channels = config.data.image_channels
    call = library_call(config.backbone.name, kwargs, *config.view_sizes, channels=channels)
    size = encoder.image_size
    own = getattr(encoder.backbone, "pretrained_cfg", {})
    described = {
        "input_size": [channels, *sides(size)],
        "mean": mean,
        "std": std,
        "crop_pct": 1.0 if spec.whole else 0.875,
        "interpolation": "bicubic",
        "num_classes": 0,
        "first_conv": own.get("first_conv", "conv1") if channels == 3 else None,
        "classifier": own.get("classifier", "fc"),
    }
    facts = {
        "architecture": call.model,  # torchvision's ResNets have timm's names, there and within
        "num_classes": 0,
        "num_features": call.features,
        "model_args": {"num_classes": 0, **_timms(call)},
        "pretrained_cfg": described,
        "solo": {
            "name": config.backbone.name,
            "kwargs": kwargs,
            "image_size": size,
            "whole": spec.whole,
            "value_range": config.data.value_range,
            "clip": config.data.clip,
            "method": config.method,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in encoder.backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    own_stem = has_small_stem(encoder.backbone)
    if own_stem:
        (folder / "load_backbone.py").write_text(inspect.cleandoc(LOADER) + "\n")
    (folder / "README.md").write_text(model_card(Path(source).expanduser(), encoder, own_stem))
    if onnx:
        write_onnx(encoder.backbone, [channels, *sides(size)], folder / "model.onnx")


def write_onnx(network: nn.Module, shape: Sequence[int], path: Path) -> None:
    """A network for any number of normalised images, checked against itself.

    Args:
        network: [N, *shape] -> [N, F].
        shape: of an image.
        path: of the file.

    Raises:
        RunError: where it cannot be exported, packages are missing, or features differ by more
            than 1e-4 of their largest.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise RunError(
            f"--onnx needs {error.name}: pip install onnx onnxscript onnxruntime"
        ) from error
    network.eval()
    images = torch.randn(3, *shape)
    try:
        torch.onnx.export(
            network,
            (images[:2],),
            path,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("images_in_a_batch", min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # each layer that ONNX does not know has its own
        path.unlink(missing_ok=True)
        raise RunError(f"ONNX cannot hold this network ({str(error).splitlines()[0]})") from error
    with torch.no_grad():
        expected = network(images)
    found = torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])
    error_of = float((found - expected).abs().max() / expected.abs().max())
    if error_of > 1e-4:
        path.unlink(missing_ok=True)
        raise RunError(f"what ONNX computes differs by {error_of:.1e} of the largest feature")
    print(f"{path.name}: within {error_of:.1e} of the network")


TIMMS = {"groups": "cardinality", "width_per_group": "base_width", "in_chans": "in_chans"}
"""What torchvision's ResNets are built with, and timm's name of it."""


def _timms(call: LibraryCall) -> dict[str, Any]:
    """Arguments for timm.

    Raises:
        RunError: for one of torchvision's that timm does not have.
    """
    if call.library == "timm":
        return call.arguments
    wanted = {key: v for key, v in call.arguments.items() if key != "zero_init_residual"}
    if odd := sorted(set(wanted) - set(TIMMS)):
        raise RunError(
            f"the run's {call.model} was built with backbone.kwargs.{odd[0]}, which timm's has not"
        )
    return {TIMMS[key]: value for key, value in wanted.items()}


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", help="a run's folder or checkpoint")
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--onnx", action="store_true", help="model.onnx too")
    parser.add_argument("--teacher", action="store_true", help="the teacher's (byol, dino, ijepa)")
    options = parser.parse_args()
    try:
        export(options.source, options.folder, options.teacher, options.onnx)
    except RunError as error:
        parser.error(str(error))
    print(f"written to {options.folder}")


if __name__ == "__main__":
    main()
