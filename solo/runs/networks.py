"""A name, file or folder to a frozen network, whoever trained it."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from solo.backbones import build_backbone, library_call, torchvision_resnets, without_weights
from solo.backbones.fitting import patch_grid, patch_pixels
from solo.config import Config, ConfigError, Size, first_line, square, unknown_name
from solo.config.schema import Backbone
from solo.data import Normalize
from solo.data.datasets import IMAGENET_MEAN, IMAGENET_STD, dataset_spec, normalisation
from solo.evaluation.encoders import Encoder, FeatureName
from solo.methods import resolve_config
from solo.runs.checkpoint_files import fault_of
from solo.runs.foreign import read_foreign
from solo.runs.saved import SavedRun


def load_encoder(
    source: str,
    *,
    features: FeatureName = "backbone",
    backbone: Backbone | None = None,
    image_size: Size | None = None,
) -> Encoder:
    """Load the network behind ``source``.

    Args:
        source: a run's folder, a checkpoint of ours, a folder in timm's layout (as of
            export_backbone.py), a file with a state dict of torchvision or timm, or a timm model
            name for its published weights.
        features: what it shall give.
        backbone: the network of a bare state dict.
        image_size: of its images, where not its own.

    Raises:
        ConfigError: for what is not there, is damaged, or holds another network.
    """
    path = Path(source).expanduser()
    if (path / "config.yaml").is_file():
        run = SavedRun(path)
        return _ours(run.checkpoint(), run.config, path, features, image_size)
    if features == "teacher" and not path.is_file():
        raise ConfigError(f"features is teacher, but {source} is no run of ours; choose backbone")
    if (path / "config.json").is_file():
        return _timm_folder(path, features, image_size)
    if path.is_file():
        content = _read(path)
        if isinstance(content.get("config"), dict) and "state_dict" in content:
            return _ours(content, content["config"], path, features, image_size)
        if features == "teacher":
            raise ConfigError(f"features is teacher, but {path} holds one network; choose backbone")
        return _bare(content, path, backbone, features, image_size)
    if path.is_dir():
        raise ConfigError(
            f"pretrained: {path} is neither a run's folder (it has no config.yaml) nor one of "
            "timm's layout (no config.json)"
        )
    return _published(source, features, image_size)


def newest_run(parent: Path) -> Path:
    """The pretraining run that saved last.

    Raises:
        ConfigError: where there is none.
    """
    found = [
        file
        for file in parent.glob("*/*/checkpoints/last.ckpt")
        if file.parents[2].name != "linear" and (file.parents[1] / "config.yaml").is_file()
    ]
    if not found:
        raise ConfigError(
            f"There is no run under {parent} to evaluate. Train one (python main_pretrain.py), or "
            "name one with ++pretrained=<run folder, checkpoint, state dict or timm model>"
        )
    return max(found, key=lambda file: file.stat().st_mtime).parents[1]


def differences(network: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Why weights are not a network's, in words, the first of each kind; none where they are."""
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    shapes = [
        f"{name} is {list(state[name].shape)} in the file, {list(own[name].shape)} in the network"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return [
        *shapes[:3],
        *(f"{name} is not in the file" for name in missing[:3]),
        *(f"{name} is in the file only" for name in extra[:3]),
    ]


def load_weights(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load every weight of a network.

    Raises:
        ConfigError: where the file holds another network, with the first differences.
    """
    if faults := differences(network, state):
        raise ConfigError(
            f"{path} holds the weights of another network: {'; '.join(faults)}. Give the network "
            "it was trained with (++backbone.name=…, ++backbone.kwargs.…, ++image_size=…)"
        )
    network.load_state_dict(state)


def _read(path: Path) -> dict[str, Any]:
    """Tensors and plain values of a file.

    Raises:
        ConfigError: for a damaged file, or one that carries code (which is not run).
    """
    if fault := fault_of(path):
        raise ConfigError(f"{path} cannot be used: {fault}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # more than tensors: somebody else's training run
        return read_foreign(path)
    except Exception as error:  # each library has its own
        raise ConfigError(
            f"{path} cannot be read as weights ({first_line(error)}). A file of tensors "
            "alone is expected: torch.save of a state dict, or .safetensors"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but a state dict is expected")
    return content


def _timm_folder(path: Path, features: FeatureName, image_size: Size | None) -> Encoder:
    """A network in timm's layout: config.json and model.safetensors, ours or anybody's."""
    whole = False
    try:
        facts = json.loads((path / "config.json").read_text())
        if ours := facts.get("solo"):
            channels = facts["pretrained_cfg"]["input_size"][0]
            network = build_backbone(
                ours["name"], ours["kwargs"], _size(ours["image_size"]), channels=channels
            )
            load_weights(network, load_file(path / "model.safetensors"), path)
            described, whole = facts["pretrained_cfg"], bool(ours["whole"])
        else:
            options = _sized(facts["architecture"], facts.get("model_args") or {}, image_size)
            network = timm.create_model(
                f"local-dir:{path}", pretrained=True, num_classes=0, **options
            )
            described = resolve_model_data_config(network)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file, or an architecture that this timm does not know
        raise ConfigError(
            f"pretrained: the network in {path} could not be loaded ({error!r:.200})"
        ) from error
    normalize = Normalize(tuple(described["mean"]), tuple(described["std"]))
    size = image_size or _size(described["input_size"][-2:])
    encoder = Encoder(network, normalize, size, whole, None, features, path.name)
    if ours:
        encoder.value_range, encoder.clip = ours.get("value_range"), bool(ours.get("clip"))
    return encoder


def _size(saved: int | Sequence[int]) -> Size:
    """As JSON and timm hold it."""
    return saved if isinstance(saved, int) else square((saved[0], saved[1]))


def _ours(
    content: dict[str, Any],
    saved: dict[str, Any],
    path: Path,
    features: FeatureName,
    image_size: Size | None,
) -> Encoder:
    config, state = resolve_config(saved), content["state_dict"]
    name = path.name if path.is_dir() else path.stem
    if path.parent.name == "checkpoints":
        name = path.parents[1].name
    encoder = _part(state, config, path, features, image_size, name)
    if features == "backbone" and _has_teacher(state):
        encoder.beside = (_part(state, config, path, "teacher", image_size, "teacher"),)
    return encoder


STUDENT, TEACHER = ("backbone.", "projector."), ("teacher.0.", "teacher.1.")
"""What names of a run's backbone and projector begin with, in its state."""


def _has_teacher(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(TEACHER[0]) for name in state)


def _part(
    state: dict[str, Tensor],
    config: Config,
    path: Path,
    features: FeatureName,
    image_size: Size | None,
    name: str,
) -> Encoder:
    """Student or teacher of a run.

    Raises:
        ConfigError: for a teacher where there is none.
    """
    if features == "teacher" and not _has_teacher(state):
        raise ConfigError(
            f"features is teacher, but {config.method} trains none (byol, dino and ijepa do); "
            "choose backbone"
        )
    kwargs = without_weights(config.backbone.kwargs)
    channels = config.data.image_channels
    sizes = (*config.view_sizes, *([image_size] if image_size else []))
    network = build_backbone(config.backbone.name, kwargs, *sizes, channels=channels)
    projector = config.method_kwargs.build_projector(int(network.num_features))  # type: ignore[arg-type]
    for prefix, module in zip(TEACHER if features == "teacher" else STUDENT, (network, projector)):
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        load_weights(module, own, path)
    encoder = Encoder(
        network,
        Normalize(*normalisation(config.data)),
        image_size or config.view_sizes[0],
        dataset_spec(config.data.dataset).whole,
        projector,
        features,
        name,
    )
    encoder.config = config
    encoder.value_range, encoder.clip = config.data.value_range, config.data.clip
    return encoder


def _bare(
    content: dict[str, Any],
    path: Path,
    backbone: Backbone | None,
    features: FeatureName,
    image_size: Size | None,
) -> Encoder:
    """A state dict by itself, as found in the wild."""
    if backbone is None:
        raise ConfigError(
            f"{path} holds weights alone; name the network they are of: ++backbone.name=resnet50, "
            "or any timm model"
        )
    for key in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    for prefix in ("module.", "backbone.", "encoder.", "model."):
        if any(name.startswith(prefix) for name in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    kwargs = without_weights(backbone.kwargs)
    size = image_size or 224
    network = build_backbone(backbone.name, kwargs, size)
    if image_size is None and (own_size := _size_of_positions(state, network)) not in (None, size):
        size = own_size
        network = build_backbone(backbone.name, kwargs, size)
    own, heads = set(network.state_dict()), _heads(network)
    state = {name: value for name, value in state.items() if name in own or not heads.match(name)}
    load_weights(network, state, path)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if backbone.name not in torchvision_resnets():
        facts = resolve_model_data_config(network)
        mean, std = facts["mean"], facts["std"]
    return Encoder(network, Normalize(mean, std), size, False, None, features, path.stem)


def _heads(network: nn.Module) -> re.Pattern[str]:
    """Names of parameters of classifiers: the usual ones, and those that timm knows of it."""
    told = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = {"fc", "head", "head_dist", "classifier"}
    names |= {told} if isinstance(told, str) else set(told)
    return re.compile(rf"^({'|'.join(map(re.escape, sorted(names)))})\.")


def _size_of_positions(state: dict[str, Tensor], network: nn.Module) -> int | None:
    """Of the square images that a ViT's weights have positions for; None where there are none."""
    theirs, ours = state.get("pos_embed"), network.state_dict().get("pos_embed")
    grid, patch = patch_grid(network), patch_pixels(network)
    if theirs is None or ours is None or theirs.ndim != 3 or grid is None or patch is None:
        return None
    places = theirs.shape[1] - (ours.shape[1] - math.prod(grid))  # without CLS and registers
    side = math.isqrt(max(0, places))
    return side * patch[0] if side and side * side == places else None


def _sized(model: str, arguments: dict[str, Any], image_size: Size | None) -> dict[str, Any]:
    """What timm is asked for beside a model's name, where images have another size.

    Raises:
        ConfigError: for a size that the network does not take.
    """
    if image_size is None:
        return {}
    plain = {key: value for key, value in arguments.items() if key != "num_classes"}
    call = library_call(model, plain, image_size)
    asked = {k: v for k, v in call.arguments.items() if k not in plain and k != "num_classes"}
    return asked if call.library == "timm" else {}


def _published(name: str, features: FeatureName, image_size: Size | None) -> Encoder:
    """A timm model with the weights its authors published."""
    plain = name.removeprefix("timm/").split(".")[0]
    if "/" in name.removeprefix("timm/"):
        raise ConfigError(f"pretrained: there is no file or folder {name}")
    if not timm.is_model(plain):
        raise unknown_name(
            "pretrained model (and no such file or folder)", name, timm.list_models()
        )
    options = _sized(plain, {}, image_size)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except Exception as error:  # no weights, no network, a damaged cache: each its own
        raise ConfigError(
            f"pretrained: the published weights of {name} could not be loaded ({first_line(error)})"
        ) from error
    facts = resolve_model_data_config(network)
    size = image_size or _size(facts["input_size"][-2:])
    normalize = Normalize(facts["mean"], facts["std"])
    return Encoder(network, normalize, size, False, None, features, name)
