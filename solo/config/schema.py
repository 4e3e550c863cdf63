"""Every key of a run, with its type, default and meaning (the text under a field)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from solo.config.saving import AutoResume, Checkpoint, EarlyStop
from solo.config.section import Section, fault
from solo.config.updates import Optimizer, Scheduler
from solo.config.views import (
    Augmentation,
    Chance,
    ColorJitterConfig,
    Positive,
    RandomResizedCropConfig,
    Size,
)


class Backbone(Section):
    """The network that is trained."""

    name: str = "resnet18"
    """A torchvision ResNet (resnet18, resnet50, …) or any timm model name. Sizes of images that it
    does not take are refused, with the nearest that it does."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the constructor (timm: patch_size, drop_path_rate, pretrained, …)."""
    grad_checkpointing: bool = False
    """Keep the input of each block alone and run the block again in the backward pass: less memory,
    a third more work, the same gradient. For timm's networks without BatchNorm."""


Index = Annotated[int, Field(ge=0)]


class Data(Section):
    """The images that are trained on."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, emnist (balanced), cifar10, cifar100, stl10, celeba,
    imagenet, imagenet100, imagenet10, imagenette, dtd, aircraft, cars, flowers102, food101, pets or
    custom."""
    train_path: str | None = None
    """Folder (or .h5 file) of the training images; for torchvision's sets, their root folder (for
    MNIST's family also one that holds the *-ubyte or *-ubyte.gz files themselves)."""
    val_path: str | None = None
    """The same for validation; without one, custom data is trained without validation."""
    format: Literal["image_folder", "h5", "webdataset", "huggingface", "parquet"] = "image_folder"
    """How images are stored: folders; one file of scripts/utils/images_to_h5.py; tar shards, whose
    names may have {000..127} or * in them, local or any address that fsspec knows; a table of
    Hugging Face's datasets, on disk or by name; or Parquet files (pip install datasets)."""
    image_column: str = "image"
    """Of a table."""
    label_column: str = "label"
    """Of a table: class numbers or names."""
    download: bool = False
    """Let torchvision fetch a missing data set; of several processes one at a time."""
    num_workers: int = Field(4, ge=0)
    """Loader processes of each training process."""
    preload: bool = False
    """Read all files into memory, still encoded, before training; each process has its own copy."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a file that does not decode, or is of another kind than the first: stop, or
    take the next image and count it."""
    augment_on: Literal["auto", "loader", "device"] = "auto"
    """Where views are made: by loader processes or on the training device (auto: on a GPU)."""
    decode_on: Literal["loader", "device"] = "loader"
    """Where JPEG files are decoded (RGB or grey ones; all else by the loader). ``device``: there,
    where views are made there too; a GPU's pixels differ from the loader's by some levels."""
    fraction: float = Field(-1.0, le=1)
    """Part of the training set to use, the same part of every class; -1 is all of it."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Part of every class of the training set to hold out and validate on, in place of the
    validation set: choose hyperparameters there. The same images for every run."""
    channels: Positive | None = None
    """Of the images. Without it as in the first file, but 3 for 8-bit ones of up to 4: grey becomes
    RGB, alpha is dropped."""
    value_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """What is black and what is white in the files. Without it that of the type: 0 to 255, 0 to
    65535, or 0 to 1 for floats."""
    shown_channels: Annotated[list[Index], Field(min_length=3, max_length=3)] | None = None
    """Which channels pictures show as red, green and blue, counted from 0. Without it the first,
    the middle and the last."""
    clip: bool = False
    """Cut values outside of the range; otherwise such a file is an error."""
    mean: list[float] | None = None
    """What is subtracted from each channel of images in [0, 1]. Without it the set's own, for
    folders ImageNet's (scripts/utils/image_statistics.py measures yours)."""
    std: list[float] | None = None
    """What they are then divided by."""
    no_labels: bool = False
    """Take every image under train_path, in linked folders too, and train without probes."""

    @property
    def skips_bad(self) -> bool:
        """Whether images that cannot be read are passed over."""
        return self.on_bad_image == "skip"

    @property
    def image_channels(self) -> int:
        """Of what networks see; known once the images were looked at."""
        return self.channels or 3

    @model_validator(mode="after")
    def _decoding(self) -> Data:
        if self.decode_on == "device" and self.augment_on == "loader":
            raise fault("decode_on is device and augment_on loader; views must be made there too")
        if self.decode_on == "device" and self.skips_bad:
            raise fault(
                "decode_on is device, which cannot take another image for a damaged one "
                "(on_bad_image is skip); set one of the two otherwise"
            )
        return self

    @model_validator(mode="after")
    def _normalisation(self) -> Data:
        if (self.mean is None) != (self.std is None):
            known, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise fault(f"{known} is given without {missing}; give both, or neither")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std):
                raise fault(f"mean has {len(self.mean)} numbers, std {len(self.std)}; give as many")
            if min(self.std, default=0) <= 0:
                raise fault(f"std is {self.std}; give numbers above 0, one a channel")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise fault(f"value_range is {self.value_range}; give [low,high], the lower one first")
        return self

    @model_validator(mode="after")
    def _fraction(self) -> Data:
        if self.fraction != -1 and self.fraction <= 0:
            raise fault(f"fraction is {self.fraction}; give a number in (0, 1], or -1 for all")
        return self


class KNNEval(Section):
    """Online k-nearest-neighbour accuracy of the backbone's features."""

    enabled: bool = False
    """Compute it after each validation."""
    k: Positive = 20
    """Neighbours that vote."""
    distance_func: Literal["cosine", "euclidean"] = "cosine"
    """How near is measured, and votes weighed."""
    bank_size: Positive = 65536
    """How many of the newest training features are compared with."""


class LinearProbe(Section):
    """The online linear probe."""

    features: Literal["backbone", "last_two_cls"] = "backbone"
    """What it sees: the backbone's output, or the CLS tokens of a ViT's last two blocks."""
    norm: Literal["none", "layer"] = "none"
    """LayerNorm before the linear layer."""


class MLPProbe(Section):
    """Online MLP probes on backbone and projector features, beside the linear ones."""

    enabled: bool = False
    """Train them."""
    num_layers: int = Field(3, ge=2)
    """Linear layers in each."""


class WandB(Section):
    """Logging to Weights & Biases."""

    enabled: bool = False
    """Log there too; metrics.csv is written in any case."""
    entity: str | None = None
    """User or team."""
    project: str = "solo"
    """Project of the run."""
    offline: bool = False
    """Write the run to its folder only; `wandb sync` uploads it later."""
    group: str | None = None
    """Name that the runs of one comparison share; an evaluation has that of the run it evaluates,
    else the name of that run's folder."""
    tags: list[str] = Field(default_factory=list)
    """Words to filter by."""
    notes: str | None = None
    """What the run is about."""
    job_type: str | None = None
    """Kind of run within its group."""
    watch: Literal["gradients", "parameters", "all"] | None = None
    """Histograms of them at logging steps."""
    log_model: bool = False
    """Upload the last checkpoint as an artifact when the run ends."""


PRECISIONS = ("auto", "32", "32-true", "16-mixed", "bf16-mixed", "64", "64-true")


class RunConfig(Section):
    """What everything that trains has in common."""

    _notes: list[str] = PrivateAttr(default_factory=list)

    name: str = "run"
    """First part of the run folder's name."""
    seed: int = Field(5, ge=0)
    """Every random draw of the run follows from it."""
    data: Data = Data()
    """The images."""
    augmentations: list[Augmentation] = Field(
        default=[
            Augmentation(
                rrc=RandomResizedCropConfig(crop_min_scale=0.2),
                color_jitter=ColorJitterConfig(
                    prob=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1
                ),
                grayscale=Chance(prob=0.2),
                gaussian_blur=Chance(prob=0.5),
                solarization=Chance(prob=0.1),
                horizontal_flip=Chance(prob=0.5),
            )
        ],
        min_length=1,
    )
    """The views of an image, one entry a kind."""
    optimizer: Optimizer = Optimizer()
    """How weights are updated."""
    scheduler: Scheduler = Scheduler()
    """How rates change."""
    checkpoint: Checkpoint = Checkpoint()
    """What is saved."""
    early_stop: EarlyStop = EarlyStop()
    """Whether a run may end early."""
    auto_resume: AutoResume = AutoResume()
    """Whether an unfinished run goes on."""
    resume_from_checkpoint: str | None = None
    """A checkpoint of the same config to continue from; by another number of processes, where the
    global batch stays (optimizer.global_batch_size)."""
    wandb: WandB = WandB()
    """Dashboard."""
    loggers: list[str | dict[str, Any]] = Field(default_factory=list)
    """Where values go beside metrics.csv: wandb, tensorboard, or the import path of a Lightning
    logger; with arguments, `{path: …, argument: value}`."""
    channels_last: bool = True
    """Memory format of images and convolutions."""

    # Lightning's Trainer arguments.
    max_epochs: Positive = 100
    """Passes over the training set."""
    max_steps: int = Field(-1, ge=-1)
    """Stop after this many optimizer steps; -1 for max_epochs alone."""
    devices: int | list[Annotated[int, Field(ge=0)]] | str = "auto"
    """How many devices, which ones (a list), "auto" or -1 for all."""
    num_nodes: Positive = 1
    """Machines."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """What to compute on."""
    strategy: str = "auto"
    """auto, ddp, ddp_find_unused_parameters_true …, or fsdp: each process keeps a part of every
    weight, gradient and optimizer state, for networks that do not fit (FSDP2; pretraining alone).
    One process needs none."""
    precision: str = "32"
    """32, 16-mixed, bf16-mixed, 64, or auto: bf16-mixed where the device has instructions for it,
    32 elsewhere. Losses compute in float32 (with 64 in float64)."""
    sync_batchnorm: bool = False
    """BatchNorm statistics of the global batch, where there are several processes."""
    accumulate_grad_batches: Positive = 1
    """Batches before each optimizer step; rates are multiplied by it."""
    gradient_clip_val: float | None = Field(None, gt=0)
    """Largest gradient of what the method's loss trains (see the next key); probes are left out."""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """Clip the global norm or each value."""
    check_val_every_n_epoch: Positive = 1
    """Epochs between validations."""
    limit_train_batches: int | float | None = None
    """Batches an epoch (a number), or a part of them (a fraction)."""
    limit_val_batches: int | float | None = None
    """The same for validation."""
    deterministic: bool = False
    """Only deterministic kernels; slower on a GPU."""
    benchmark: bool | None = None
    """Let cuDNN try its convolution kernels."""
    detect_anomaly: bool = False
    """Stop where a gradient becomes NaN; slow."""

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = dict(data)
            if isinstance(data.get("precision"), int):
                data["precision"] = {16: "16-mixed"}.get(data["precision"], str(data["precision"]))
            epochs, scheduler = data.get("max_epochs", 100), data.get("scheduler") or {}
            short = isinstance(epochs, int) and epochs <= 10
            if short and isinstance(scheduler, Mapping) and "warmup_epochs" not in scheduler:
                data["scheduler"] = {**scheduler, "warmup_epochs": epochs / 10}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.precision not in PRECISIONS:
            raise fault(f"precision is {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        if isinstance(self.devices, str) and self.devices not in ("auto", "-1"):
            raise fault(f'devices is {self.devices!r}; give a number, a list or "auto"')
        if isinstance(self.devices, int) and self.devices < 1 and self.devices != -1:
            raise fault(f"devices is {self.devices}; give 1 or more, or -1 for all")
        if isinstance(self.devices, list) and not self.devices:
            raise fault("devices is an empty list; name at least one device")
        warm_up = self.scheduler.name == "warmup_cosine" and self.scheduler.warmup_epochs
        if warm_up and warm_up > self.max_epochs:
            raise fault(
                f"scheduler.warmup_epochs is {warm_up:g} but max_epochs is {self.max_epochs}; "
                "warm-up must fit in the run"
            )
        if self.scheduler.name == "step" and not self.scheduler.lr_decay_steps:
            raise fault("scheduler.name is step, but scheduler.lr_decay_steps lists no epochs")
        if not self.name or re.search(r"[/\\\s]", self.name):
            raise fault(f"name is {self.name!r}; it names a folder: no slash, no space")
        return self

    @property
    def uses_wandb(self) -> bool:
        """Whether values go to Weights & Biases."""
        return self.wandb.enabled or "wandb" in self.loggers

    @property
    def kind(self) -> str:
        """The folder under ``checkpoint.dir`` that runs of this kind go to."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the config was read; printed when the run starts."""
        return self._notes

    def to_dict(self) -> dict[str, Any]:
        """The resolved config as plain values, fit for YAML and for a checkpoint."""
        return self.model_dump(mode="json")


class Config(RunConfig):
    """A whole pretraining run."""

    method: str = "rectified_lpjepa"
    """What is trained: a name from solo/methods."""
    backbone: Backbone = Backbone()
    """The network."""
    init_from: str | None = None
    """Weights to begin with: a run's folder, a checkpoint, a state dict (.pth, .safetensors), an
    exported folder or one in timm's layout, or a timm model name. They fill the backbone, and the
    projector where it fits, and bring the mean and deviation of their images."""
    method_kwargs: Any = Field(default_factory=dict)
    """The method's own options, declared in solo/methods."""
    knn_eval: KNNEval = KNNEval()
    """Online kNN."""
    linear_probe: LinearProbe = LinearProbe()
    """The online linear probe."""
    mlp_probe: MLPProbe = MLPProbe()
    """Online MLP probes."""
    micro_batch: Positive | None = None
    """Images of each process whose activations are held at a time: networks run again for each
    such part in the backward pass, and the loss stays that of the whole batch. (With
    accumulate_grad_batches it is a mean of losses of small batches.) BatchNorm sees each part by
    itself."""
    pictures_every_n_epochs: Positive = 100
    """Epochs from one sending of the report's pictures, and histograms of the embedding, to
    wandb and TensorBoard to the next; the last epoch's are sent in any case."""
    compile: bool = False
    """Compile backbone and projector with torch.compile; the first steps take minutes. On a CPU it
    needs a C++ compiler."""

    @model_validator(mode="after")
    def _digits_have_no_path(self) -> Config:
        if self.data.dataset == "digits" and self.data.train_path is not None:
            raise fault(
                f"data.train_path is {self.data.train_path}, but data.dataset is digits, which is "
                "read from no folder: add data.dataset=custom for your own images"
            )
        return self

    @property
    def kind(self) -> str:
        """The method's name."""
        return self.method

    @property
    def view_sizes(self) -> list[Size]:
        """Sizes of the views, a recipe each: what the backbone has to take."""
        return [recipe.crop_size for recipe in self.augmentations]

    def parts(self, images: int) -> int:
        """In how many parts, of one size or nearly, networks see so many images."""
        return -(-images // self.micro_batch) if self.micro_batch else 1
