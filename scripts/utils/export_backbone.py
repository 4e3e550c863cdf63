"""A trained backbone as a folder of timm's layout, which needs no code of ours.

    python scripts/utils/export_backbone.py <run folder or checkpoint> <output folder> [--onnx]

Writes model.safetensors, config.json and README.md, a model card.
``timm.create_model("local-dir:<output folder>", pretrained=True)`` is the network, its
pretrained_cfg has the normalisation and image size, and the folder can be pushed to a hub as it is.
A ResNet for images up to 32 px has a stem that no timm name stands for; load_backbone.py, written
beside it, builds that one with timm alone. With --onnx also model.onnx, with --pt2 also model.pt2,
which ``torch.export.load`` opens without timm: both for any number of images, read back and checked
against the network. With --teacher the teacher's network.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from solo.backbones import LibraryCall, has_small_stem, library_call, without_weights
from solo.config import RunError, first_line, sides
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
'''


def export(source: str, folder: Path, teacher: bool = False, formats: Sequence[str] = ()) -> None:
    """Write the files, and those of further :data:`FORMATS`.

    Raises:
        ConfigError: where the source is no run or checkpoint of ours.
        RunError: where a format cannot hold the network, or what it needs is not installed.
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
    own_stem = has_small_stem(encoder.backbone)
    facts = {
        # Torchvision's ResNets have timm's names, there and within. With a stem of our own timm
        # must refuse: it would take weights of a deep one, and pool after it.
        "architecture": f"{call.model}_by_load_backbone" if own_stem else call.model,
        "timm": call.model,
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
    weights = encoder.backbone.state_dict().items()
    # Each of its own storage: some networks use a layer twice, under two names.
    state = {name: torch.clone(v, memory_format=torch.contiguous_format) for name, v in weights}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    if own_stem:
        (folder / "load_backbone.py").write_text(inspect.cleandoc(LOADER) + "\n")
    (folder / "README.md").write_text(
        model_card(Path(source).expanduser().resolve(), encoder, own_stem)
    )
    for name in formats:
        write_checked(encoder.backbone, [channels, *sides(size)], folder / f"model.{name}")


def write_checked(network: nn.Module, shape: Sequence[int], path: Path) -> None:
    """A network for any number of normalised images as one file, which is read back.

    Args:
        network: [N, *shape] -> [N, F].
        shape: of an image.
        path: of the file, whose suffix says the format.

    Raises:
        RunError: where it cannot be written, packages are missing, or features differ by more than
            1e-4 of their largest. There is no file then.
    """
    images = torch.randn(3, *shape)
    with torch.no_grad():
        expected = network.eval()(images)
    try:
        found = FORMATS[path.suffix[1:]](network, images[:2], path)(images).detach()
    except ImportError as error:
        raise RunError(
            f"{path.name} needs {error.name}: pip install onnx onnxscript onnxruntime"
        ) from error
    except Exception as error:  # each layer that a format does not know has its own
        path.unlink(missing_ok=True)
        raise RunError(f"{path.name} cannot hold this network ({first_line(error)})") from error
    error_of = float((found - expected).abs().max() / expected.abs().max())
    if not error_of <= 1e-4:
        path.unlink()
        raise RunError(
            f"what {path.name} computes differs by {error_of:.1e} of the largest feature"
        )
    print(f"{path.name}: within {error_of:.1e} of the network")


def write_onnx(network: nn.Module, images: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    """ONNX; what onnxruntime computes from it."""
    import onnxruntime
    import onnxscript  # noqa: F401 - torch's exporter needs it

    torch.onnx.export(
        network,
        (images,),
        path,
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=(ANY_NUMBER,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["features"], {"images": x.numpy()})[0])


def write_program(network: nn.Module, images: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    """torch's own format, a program of its operators; what it computes."""
    program = torch.export.export(network, (images,), dynamic_shapes=(ANY_NUMBER,))
    torch.export.save(program, path)
    return torch.export.load(path).module()


ANY_NUMBER = {0: torch.export.Dim("images_in_a_batch", min=1)}
FORMATS = {"onnx": write_onnx, "pt2": write_program}


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
    for name in FORMATS:
        parser.add_argument(
            f"--{name}", dest="formats", action="append_const", const=name, help=f"model.{name} too"
        )
    parser.add_argument("--teacher", action="store_true", help="the teacher's (byol, dino, ijepa)")
    options = parser.parse_args()
    try:
        export(options.source, options.folder, options.teacher, options.formats or ())
    except RunError as error:
        parser.error(str(error))
    print(f"written to {options.folder}")


if __name__ == "__main__":
    main()
