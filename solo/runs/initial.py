"""``init_from``: a run that begins with weights that are there already."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from solo.backbones.fitting import patch_grid
from solo.config import Config, ConfigError, in_pixels
from solo.data import ImageData
from solo.evaluation.encoders import Encoder
from solo.methods.base import SSLMethod
from solo.runs.folder import saved_runs
from solo.runs.networks import differences, load_encoder, load_weights
from solo.runs.saved import SavedRun

PATCHES = "patch_embed.proj.weight"
Grid = tuple[int, int]


def initial_network(config: Config) -> Encoder:
    """What ``init_from`` names.

    Raises:
        ConfigError: for what is not there, is damaged, or is weights of another network.
    """
    source = config.init_from
    assert source is not None
    try:
        if Path(source).expanduser().is_file():  # a bare state dict is most likely of this size
            try:
                size = config.view_sizes[0]
                return load_encoder(source, backbone=config.backbone, image_size=size)
            except ConfigError:
                pass
        return load_encoder(source, backbone=config.backbone)
    except ConfigError as error:
        text = str(error).removeprefix("pretrained: ")
        raise ConfigError(f"init_from: {text}") from error


def take_normalisation(config: Config, source: Encoder | SavedRun, data: ImageData) -> None:
    """Images are normalised as the weights know it, unless the config says how."""
    if config.data.mean is not None:
        return
    if isinstance(source, SavedRun):
        saved = source.config["data"]
        config.data.mean, config.data.std = saved["mean"], saved["std"]
    elif source.channels == data.train.layout.channels:
        normalize = source.normalize
        config.data.mean, config.data.std = list(normalize.mean), list(normalize.std)


def begun_before(config: Config) -> SavedRun | None:
    """The run that this one may go on from, whose weights are its own by now.

    What ``init_from`` names need not be there any more, and is not read: a requeued job must not
    hang on a cache. Such a run's normalisation is that of the weights it began with.
    """
    if config.resume_from_checkpoint:
        found = SavedRun.around(Path(config.resume_from_checkpoint).expanduser())
        runs = [found] if found is not None else []
    elif config.auto_resume.enabled:
        runs = [SavedRun(folder) for folder in saved_runs(config)]
    else:
        return None
    return next((run for run in runs if _began_with(run) == config.init_from), None)


def _began_with(run: SavedRun) -> str | None:
    try:
        source: str | None = run.config.get("init_from")
    except ConfigError:
        return None
    return source


@torch.no_grad()
def begin_with(method: SSLMethod, encoder: Encoder) -> list[str]:
    """Put weights into a method's backbone, and into its projector where they fit.

    Positions are adapted to another image size as timm does it for the family, and a first
    convolution to other channels.

    Args:
        method: not trained yet; a teacher becomes its student's copy again.
        encoder: with the weights.

    Returns:
        What was loaded and what was not, in words.

    Raises:
        ConfigError: for the weights of another network, with the first differences.
    """
    source = Path(str(method.config.init_from))
    network = method.backbone
    said = [f"init_from: the backbone begins with the weights of {encoder.name}"]
    state = dict(encoder.backbone.state_dict())
    channels = method.config.data.image_channels
    if encoder.channels != channels:
        said.append(_spread(state, encoder, channels))
    shapes = {name: x.shape for name, x in network.state_dict().items()}
    other = any(name in shapes and shapes[name] != x.shape for name, x in state.items())
    before, after = patch_grid(encoder.backbone), patch_grid(network)
    if other or before != after:  # 4 x 6 places are as many as 6 x 4
        state = _resized(state, network, before, after)
        sizes = in_pixels(encoder.image_size), in_pixels(method.config.view_sizes[0])
        said.append(f"init_from: positions for {sizes[0]} were adapted to {sizes[1]}")
        patches = encoder.backbone.state_dict().get(PATCHES)
        if patches is not None and shapes.get(PATCHES, patches.shape) != patches.shape:
            said.append(f"init_from: {PATCHES} was resampled to patches of another size")
    load_weights(network, state, source)
    said.append(_begin_projector(method, encoder.projector))
    mean = ", ".join(f"{value:.3g}" for value in method.config.data.mean or ())
    if mean:
        said.append(f"init_from: images are normalised with data.mean=[{mean}]")
    method.weights_changed()
    return said


def _begin_projector(method: SSLMethod, projector: nn.Module | None) -> str:
    """Load it where it fits; what became of it."""
    if not list(method.projector.parameters()):
        return "init_from: there is no projector"
    if projector is None:
        return "init_from: the projector begins untrained: there is none with the weights"
    if faults := differences(method.projector, projector.state_dict()):
        return f"init_from: the projector begins untrained: {faults[0]}"
    method.projector.load_state_dict(projector.state_dict())
    return "init_from: the projector begins with theirs"


def _spread(state: dict[str, Tensor], encoder: Encoder, channels: int) -> str:
    """Give the first convolution other channels, as timm does it.

    Raises:
        ConfigError: where the weights are not of three channels.
    """
    layers = encoder.backbone.named_modules()
    firsts = (name for name, layer in layers if getattr(layer, "in_channels", None) == 3)
    name = f"{next(firsts, None)}.weight"
    if encoder.channels != 3 or name not in state:
        raise ConfigError(
            f"init_from: {encoder.name} is for images of {encoder.channels} channels, and these "
            f"have {channels}; set data.channels={encoder.channels}, or begin untrained"
        )
    state[name] = adapt_input_conv(channels, state[name])
    return f"init_from: {name} was spread over {channels} channels"


def _resized(
    state: dict[str, Tensor], network: nn.Module, before: Grid | None, after: Grid | None
) -> dict[str, Tensor]:
    """What the network's family in timm makes of weights of another size, if it has a way."""
    if "pos_embed" in state and before and after and before[0] != before[1]:
        # timm's own way takes old grids for square.
        count = state["pos_embed"].shape[1] - before[0] * before[1]
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], list(after), list(before), num_prefix_tokens=count
        )
    family = inspect.getmodule(type(network))
    adapt = getattr(family, "checkpoint_filter_fn", None)
    if adapt is None:
        return state
    try:
        adapted: dict[str, Tensor] = adapt(dict(state), network)
    except Exception:  # of weights that are of another network altogether: told by their shapes
        return state
    return adapted
