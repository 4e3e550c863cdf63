"""A name to a network that answers ``num_features`` and maps [B, C, H, W] to [B, F]."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import timm
import torch
import torchvision
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from solo.backbones.fitting import fit
from solo.config import ConfigError, Size, first_line, in_pixels, sides, unknown_name

# Images up to this side get the 3x3 stem (ResNets) and small patches (ViTs).
SMALL_IMAGE = 32

VIT_NAMES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
VIT_NAMES["vit_large"] = "vit_large_patch16_224"


def torchvision_resnets() -> list[str]:
    """Names of torchvision's ResNets."""
    return torchvision.models.list_models(
        module=torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"]
    )


def build_backbone(
    name: str, kwargs: dict[str, Any], image_size: Size, *more_sizes: Size, channels: int = 3
) -> nn.Module:
    """Build a backbone without a classification head.

    Torchvision's ResNets go by their names, everything else is timm's. Up to 32 px, a ResNet's
    stem becomes a 3x3 convolution of stride 1 and padding 2 without max-pooling (a deep stem of
    timm's, ``stem_type: deep``, keeps its three convolutions), and the default patch of a ViT is
    4 px. What a constructor needs to take all sizes is found by trying
    (:mod:`solo.backbones.fitting`), and so is ``num_features``.

    Args:
        name: resnet18, vit_small, convnext_tiny, or any timm model name.
        kwargs: for the constructor.
        image_size: of the (global) views: the side in pixels, or height and width.
        more_sizes: of the other views.
        channels: of the images; published weights are spread over other than three as timm does.

    Raises:
        ConfigError: for a name nobody knows, kwargs the constructor refuses, or sizes that the
            network does not take, with the nearest that it does.
    """
    library, model, arguments, features = library_call(
        name, kwargs, image_size, *more_sizes, channels=channels
    )
    with _told(name, kwargs, image_size):
        network = _make(library, model, arguments, image_size)
    network.num_features = features  # type: ignore[assignment]
    return network


@contextlib.contextmanager
def _told(name: str, kwargs: dict[str, Any], image_size: Size) -> Iterator[None]:
    """Faults of building, as a user of a config reads them."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"backbone.name is {name}: {error}") from error
    except Exception as error:  # whatever a constructor can raise
        others = (
            "; '~backbone.kwargs' drops a recipe's arguments for another network, and beside it "
            "backbone.kwargs.<key>=<value> gives one of your own"
        )
        raise ConfigError(
            f"The backbone {name} cannot be built with backbone.kwargs {kwargs} "
            f"for {in_pixels(image_size)} images: {first_line(error)}"
            f"{others if kwargs and isinstance(error, TypeError) else ''}"
        ) from error


def _make(library: str, model: str, arguments: dict[str, Any], image_size: Size) -> nn.Module:
    if library == "torchvision":
        known = {key: value for key, value in arguments.items() if key != "in_chans"}
        network = torchvision.models.get_model(model, **known)
        if "in_chans" in arguments:
            _see(network, arguments["in_chans"])
        network.fc = nn.Identity()
        network.group_matcher = _resnet_layers
    else:
        network = timm.create_model(model, **arguments)
    if max(sides(image_size)) <= SMALL_IMAGE:
        _shrink_stem(network)
    made: nn.Module = network
    return made


def _see(network: nn.Module, channels: int) -> None:
    """Let one of torchvision's ResNets see images of so many channels."""
    old: Any = network.conv1
    new = nn.Conv2d(channels, old.out_channels, 7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        new.weight.copy_(adapt_input_conv(channels, old.weight))
    network.conv1 = new


def _resnet_layers(coarse: bool = False) -> dict[str, Any]:
    """Which parameters are one layer, in timm's notation, for rates that differ by layer."""
    return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


class LibraryCall(NamedTuple):
    """A library's own name and arguments of a network, and the width of its features."""

    library: Literal["timm", "torchvision"]
    model: str
    arguments: dict[str, Any]
    features: int


def library_call(
    name: str, kwargs: dict[str, Any], image_size: Size, *more_sizes: Size, channels: int = 3
) -> LibraryCall:
    """How :func:`build_backbone` asks for a network.

    Raises:
        ConfigError: as there.
    """
    library, model, arguments = _named(name, kwargs, image_size)
    if arguments.get("in_chans", channels) != channels:
        raise ConfigError(
            f"backbone.kwargs.in_chans is {arguments['in_chans']}, and the images have {channels} "
            "channels; leave it out: a network is built for its images (data.channels)"
        )
    if channels != 3:
        arguments["in_chans"] = channels
    bare = without_weights(arguments)
    with _told(name, kwargs, image_size), torch.random.fork_rng(devices=[]):
        found = fit(
            lambda chosen: _make(library, model, chosen, image_size),
            bare,
            (image_size, *more_sizes),
            channels,
        )
    return LibraryCall(library, model, {**found.arguments, **arguments}, found.features)


def _named(
    name: str, kwargs: dict[str, Any], image_size: Size
) -> tuple[Literal["timm", "torchvision"], str, dict[str, Any]]:
    if name in torchvision_resnets():
        return "torchvision", name, dict(kwargs)
    arguments: dict[str, Any] = {"num_classes": 0, **kwargs}
    if name in VIT_NAMES:
        arguments.setdefault("patch_size", 4 if max(sides(image_size)) <= SMALL_IMAGE else 16)
    timm_name = VIT_NAMES.get(name, name)
    if not timm.is_model(timm_name):
        error = unknown_name(
            "backbone", name, [*torchvision_resnets(), *VIT_NAMES, *timm.list_models()]
        )
        if name in torchvision.models.list_models(module=torchvision.models):
            raise ConfigError(f"{error} (of torchvision's networks, ResNets alone are taken)")
        raise error
    family = inspect.getmodule(timm.model_entrypoint(timm_name))
    if family is not None and family.__name__ == "timm.models.vision_transformer":
        arguments.setdefault("img_size", image_size)
        arguments.setdefault("dynamic_img_size", True)
    return "timm", timm_name, arguments


def _shrink_stem(network: nn.Module) -> None:
    """Replace a ResNet's 7x7, stride 2 stem, or take the pooling from a deep one; other networks
    are left as they are."""
    stem, pool = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    if not isinstance(pool, nn.MaxPool2d):
        return
    network.maxpool = nn.Identity()
    if isinstance(stem, nn.Conv2d):
        network.conv1 = nn.Conv2d(
            stem.in_channels, stem.out_channels, kernel_size=3, stride=1, padding=2, bias=False
        )
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")


def has_small_stem(network: nn.Module) -> bool:
    """Whether a ResNet has the stem that :func:`build_backbone` gives it for small images."""
    return isinstance(getattr(network, "maxpool", None), nn.Identity)


def checkpoint_blocks(network: nn.Module, name: str) -> None:
    """Each block of a network is run again in the backward pass, and what it kept is let go.

    Args:
        network: as :func:`build_backbone` makes it.
        name: for messages.

    Raises:
        ConfigError: for a network whose blocks cannot be run twice: timm has no such option for
            it, or BatchNorm would count each batch twice in its running statistics.
    """
    reason = "there is none for it in timm"
    if has_batchnorm(network):
        reason = "its BatchNorm would count every batch twice"
    elif hasattr(network, "set_grad_checkpointing"):
        with contextlib.suppress(Exception):  # timm's networks refuse by whatever comes first
            network.set_grad_checkpointing(True)  # type: ignore[operator]
            return
    raise ConfigError(
        f"backbone.grad_checkpointing is true, but {name} cannot be run so: {reason}. Leave it out"
    )


def last_two_cls(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """A ViT's features and, from the same pass, the CLS tokens of its last two blocks.

    Args:
        network: see :func:`has_blocks`.
        images: [B, 3, H, W].

    Returns:
        Features [B, F] as the network itself gives, and tokens [B, 2F] before the final norm (the
        mean of the patch tokens where there is no CLS token), LeJEPA's input of the linear probe
        (arXiv 2511.08544).
    """
    tokens, blocks = network.forward_intermediates(  # type: ignore[operator]
        images, indices=2, return_prefix_tokens=True, output_fmt="NLC"
    )
    features = network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
    # timm: (patch tokens, prefix tokens) of each block, or patch tokens alone.
    picked = [_cls(network, block) for block in blocks]
    return features, torch.cat(picked, dim=-1)


def has_cls(network: nn.Module) -> bool:
    """Whether the first of a ViT's prefix tokens is a CLS token, and no register."""
    return getattr(network, "cls_token", None) is not None


def _cls(network: nn.Module, block: Any) -> Tensor:
    """A block's CLS token, or the mean of its patches where there is none."""
    if isinstance(block, tuple) and has_cls(network):
        token: Tensor = block[1][:, 0]
        return token
    mean: Tensor = (block[0] if isinstance(block, tuple) else block).mean(1)
    return mean


TOKENS = ("cls", "patches", "cls_patches", "last_two_cls", "last_four_cls")
"""Features of ViTs besides the network's own."""


def token_features(network: nn.Module, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Several kinds of features of the same images, from one pass.

    Args:
        network: for other kinds than ``backbone``, see :func:`has_blocks`.
        images: [B, 3, H, W], normalised.
        kinds: ``backbone``, the network's own; after the final norm, ``cls`` (the CLS token),
            ``patches`` (the mean of the patch tokens) and ``cls_patches`` (both); before it,
            ``last_two_cls`` and ``last_four_cls`` (of so many blocks). Where there is no CLS token,
            the mean of the patch tokens takes its place.

    Returns:
        By kind, [B, F] (``cls_patches`` [B, 2F], and so on).

    Raises:
        ConfigError: for a network without tokens, or with fewer blocks.
    """
    if set(kinds) <= {"backbone"}:
        return {"backbone": network(images)}
    try:
        tokens, blocks = network.forward_intermediates(  # type: ignore[operator]
            images, indices=None, return_prefix_tokens=True, output_fmt="NLC"
        )
        prefix = int(network.num_prefix_tokens)  # type: ignore[arg-type]
    except (AttributeError, TypeError, AssertionError, UnboundLocalError) as error:
        raise ConfigError(
            f"features of tokens ({', '.join(kinds)}) are for ViTs, which this network is not; "
            "choose backbone"
        ) from error
    picked = [_cls(network, block) for block in blocks]
    patches = tokens[:, prefix:].mean(1)
    cls = tokens[:, 0] if has_cls(network) else patches
    made: dict[str, Tensor] = {}
    for kind in kinds:
        if kind == "backbone":
            made[kind] = network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        elif kind == "cls_patches":
            made[kind] = torch.cat((cls, patches), dim=-1)
        elif kind in ("cls", "patches"):
            made[kind] = cls if kind == "cls" else patches
        else:
            count = {"last_two_cls": 2, "last_four_cls": 4}[kind]
            if count > len(picked):
                raise ConfigError(f"{kind} are features of {count} blocks; there are {len(picked)}")
            made[kind] = torch.cat(picked[-count:], dim=-1)
    return made


def freeze_unused(network: nn.Module, call: Callable[[], Tensor]) -> None:
    """Parameters that a call does not need no longer ask for a gradient.

    A projector behind backbone features, say, or a norm behind tokens that are taken before it:
    DistributedDataParallel waits for the gradient of everything that asks for one.

    Args:
        network: whose parameters.
        call: runs the network in the way that matters, on any input.
    """
    was_training = network.training
    network.eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.enable_grad():
        found = torch.autograd.grad(call().sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found):
        parameter.requires_grad_(gradient is not None)
    network.train(was_training)


def has_batchnorm(network: nn.Module) -> bool:
    """Whether what a network makes of an image depends on the others of its batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextlib.contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """BatchNorm layers normalise with the batch, but their running statistics stand still."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


def compile_calls(network: nn.Module, names: Iterable[str], **options: Any) -> None:
    """Compile methods of a network that are called in place of the network itself.

    Args:
        network: ``network.compile()`` reaches calls of the network alone.
        names: of the methods.
        options: of ``torch.compile``.
    """
    for name in names:
        setattr(network, name, torch.compile(getattr(network, name), **options))


def without_weights(kwargs: dict[str, Any]) -> dict[str, Any]:
    """``backbone.kwargs`` that ask no hub for weights: what is built gets its weights elsewhere."""
    sources = ("pretrained", "weights", "checkpoint_path")
    return {name: value for name, value in kwargs.items() if name not in sources}


def has_blocks(network: nn.Module, image_size: Size, channels: int = 3) -> bool:
    """Whether :func:`last_two_cls` works: timm's ViTs and their kin.

    Others too have parts of that name (MobileNetV3's stages are ``blocks``), so it is tried, on
    tensors without data.
    """
    was_training = network.training
    network.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            device = next(network.parameters()).device
            images = torch.empty(2, channels, *sides(image_size), device=device)
            _, tokens = last_two_cls(network, images)
        return tokens.dim() == 2
    except Exception:  # whatever a network without tokens does
        return False
    finally:
        network.train(was_training)
