"""Every key of an evaluation (main_linear.py), with its type, default and meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from solo.config.schema import Backbone, RunConfig
from solo.config.section import Section
from solo.config.updates import Optimizer, Scheduler
from solo.config.views import Augmentation, Chance, Pixels, Positive, RandomResizedCropConfig


class FewShot(Section):
    """Accuracy from a few labelled images of each class."""

    shots: list[Positive | Literal["all"]] = Field([1, 10, "all"], min_length=1)
    """Images of each class; `all` takes the whole training set."""
    draws: Positive = 10
    """How often the shots are drawn; the table has the mean and the standard deviation."""
    datasets: list[str] = Field(default_factory=list)
    """More data sets than data.dataset, all under data.train_path."""
    baselines: bool = True
    """Also raw pixels and the untrained network."""


class KNNGrid(Section):
    """Exact k nearest neighbours, every combination in one pass."""

    k: list[Positive] = Field([1, 5, 10, 20, 50, 100, 200], min_length=1)
    """Neighbours that vote."""
    temperature: list[Annotated[float, Field(gt=0)]] = Field([0.03, 0.07, 0.2], min_length=1)
    """Cosine votes weigh exp(cosine / temperature)."""
    distance: list[Literal["cosine", "euclidean"]] = Field(["cosine", "euclidean"], min_length=1)
    """How near is measured."""


class MLP(Section):
    """The probe of mode `mlp`."""

    num_layers: int = Field(3, ge=2)
    """Linear layers."""
    hidden_dim: Positive = 2048
    """Width of the hidden ones."""


class LinearOptimizer(Optimizer):
    """How the head (and, in finetune, the network) is updated."""

    name: Literal["lars", "sgd", "adam", "adamw"] = "sgd"
    """The update rule."""
    lr: float = Field(0.1, gt=0)
    """Base rate; the rate used is lr * batch_size * processes / 256 (* accumulated batches)."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""


class LinearScheduler(Scheduler):
    """How rates of an evaluation change."""

    warmup_epochs: float = Field(0, ge=0)
    """Epochs of linear warm-up."""


class ProbeGrid(Section):
    """Mode linear: probes of many settings, trained side by side in one pass over the images. The
    best on a held-out part of the training set is reported on the validation set."""

    lr: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    """Rates per 256 images; optimizer.lr alone where the list is empty."""
    weight_decay: list[Annotated[float, Field(ge=0)]] = Field(default_factory=list)
    """Weight decays; optimizer.weight_decay alone where the list is empty."""
    features: list[
        Literal["backbone", "cls", "patches", "cls_patches", "last_two_cls", "last_four_cls"]
    ] = Field(default_factory=list)
    """What probes see; all but backbone are a ViT's. The network's own where the list is empty."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """The part of every class of the training set that chooses."""

    @property
    def enabled(self) -> bool:
        """Whether there is more than one probe."""
        return bool(self.lr or self.weight_decay or self.features)


class Segmentation(Section):
    """Mode segmentation: the class of each pixel, by frozen features of places."""

    kind: Literal["folder", "voc", "ade20k"] = "folder"
    """folder: <path>/images and <path>/masks, of the training and the validation images each; voc:
    Pascal VOC 2012, VOCdevkit below train_path; ade20k: images and annotations below train_path."""
    train_path: str | None = None
    """Where the images are."""
    val_path: str | None = None
    """Of folders, where the validation images are."""
    method: list[Literal["linear", "knn"]] = Field(["linear", "knn"], min_length=1)
    """How places are classified: a linear layer fitted to the optimum (with l2), or the nearest
    training patches."""
    patches: Positive = 200_000
    """Training patches at most, alike many of each image."""
    k: Positive = 30
    """Neighbours that vote."""
    temperature: float = Field(0.07, gt=0)
    """Of their votes."""


class LinearConfig(RunConfig):
    """A whole evaluation of a trained network."""

    name: str = "linear"
    """First part of the folder's name."""
    mode: str = "few_shot"
    """few_shot, fast (logistic regression), knn, sparsity and segmentation work on features that
    are computed once; linear, mlp and finetune train on augmented images."""
    pretrained: str | None = None
    """A run's folder, a checkpoint of ours, a state dict of torchvision or timm (with
    backbone.name), a folder in timm's layout (as scripts/utils/export_backbone.py writes), or a
    timm model name for its published weights. Without it: the newest run under checkpoint.dir."""
    backbone: Backbone | None = None
    """The network of a bare state dict; a run's own otherwise."""
    features: Literal["backbone", "projector", "last_two_cls", "teacher"] = "backbone"
    """What is evaluated: the backbone's output, the embedding, the CLS tokens of a ViT's last two
    blocks, or the output of the teacher's backbone (byol, dino, ijepa)."""
    norm: Literal["none", "layer"] = "none"
    """LayerNorm of the features before the linear layer (modes linear and finetune)."""
    image_size: Pixels | None = None
    """Side of the images that the network sees, or height and width; a run's own (or timm's)
    without it."""
    l2: Annotated[float, Field(ge=0)] | Literal["auto"] = 1.0
    """Weight of ||W||^2 / 2 beside the summed cross-entropy of few_shot and fast, on standardised
    features; auto: of 0.01, 0.1, … 1000 the one by which a part of the labelled images predicts the
    others best (1 with a single image of a class)."""
    few_shot: FewShot = FewShot()
    """Options of that mode."""
    knn: KNNGrid = KNNGrid()
    """Options of that mode."""
    mlp: MLP = MLP()
    """Options of that mode."""
    grid: ProbeGrid = ProbeGrid()
    """Options of mode linear."""
    segmentation: Segmentation = Segmentation()
    """Options of that mode."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """finetune: factor on the rate from each layer to the one below it."""
    mixup: float = Field(0.0, ge=0)
    """finetune: alpha of mixup, 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """finetune: alpha of CutMix, 0 for none; with both, each batch takes one of them."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Of the training labels."""
    logging_interval: int = Field(50, ge=1)
    """Steps between logged values."""
    augmentations: list[Augmentation] = Field(
        default=[
            Augmentation(
                rrc=RandomResizedCropConfig(), horizontal_flip=Chance(prob=0.5), num_crops=1
            )
        ],
        min_length=1,
        max_length=1,
    )
    """The training images of linear, mlp and finetune. Without it: as the network's own run
    crops and flips, without change of colour."""
    optimizer: LinearOptimizer = LinearOptimizer()
    """Of linear, mlp and finetune."""
    scheduler: LinearScheduler = LinearScheduler()
    """Of linear, mlp and finetune."""
    max_epochs: Positive = 100
    """Of linear, mlp and finetune."""

    @property
    def kind(self) -> str:
        """The folder that all evaluations share, ``linear``."""
        return "linear"
