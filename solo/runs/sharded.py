"""``strategy: fsdp``: networks in shards, checkpoints whole, as every other strategy's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from solo import distributed
from solo.config import Config, ConfigError, RunConfig
from solo.runs.checkpoint_files import with_tensors


class Sharded(ModelParallelStrategy):
    """Every process holds a part of each network (:mod:`solo.backbones.sharding`).

    What :class:`~solo.runs.checkpoint_files.SafeCheckpointIO` writes is that of DDP, so a run may
    go on with either. Tensors are gathered one at a time, and kept on the first process alone.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Bring up the processes; before there is a module, that alone."""
        if self.lightning_module is None:
            self._setup_distributed()
            return
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()
        if self._layer_sync is not None:
            self._layer_sync.apply(self.lightning_module)

    def on_validation_start(self) -> None:
        """All processes score with the running statistics of the first, which are saved.

        Until then each has its own, where DDP sends them in every step; training reads none.
        """
        assert self.lightning_module is not None
        distributed.broadcast_tensors(self.lightning_module.buffers())

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors, on the first process."""
        assert self.lightning_module is not None
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """By the number of a parameter in the optimizer, as torch's own; on the first process."""
        return self._whole(_plain(optimizer).state_dict())

    def _whole(self, state: Any) -> Any:
        """All join in gathering; what others than the first process get is let go."""
        first = self.is_global_zero

        def whole(value: Tensor) -> Tensor | None:
            value = distributed.whole(value.detach())
            return value.cpu() if first else None

        return with_tensors(state, whole)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Every process reads the whole file, and later keeps its part."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Before, as every strategy's: setup asks for batches, and the data must know which."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning calls :meth:`load_optimizer_state_dict`."""
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Keep one's part of each tensor."""
        module = self.lightning_module
        assert module is not None
        state, own = checkpoint["state_dict"], module.state_dict()
        parts = {
            name: distributed.part_like(own[name], value) if name in own else value
            for name, value in state.items()
        }
        module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep one's part of what is of a parameter's shape."""
        for each, state in zip(self.optimizers, checkpoint["optimizer_states"]):
            optimizer = _plain(each)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {}
            for number, values in state["state"].items():
                own = parameters[number]
                parts[number] = {
                    name: distributed.part_like(own, value)
                    if isinstance(value, Tensor) and value.shape == own.shape
                    else value
                    for name, value in values.items()
                }
            optimizer.load_state_dict({**state, "state": parts})


def check_sharded(config: RunConfig) -> None:
    """What does not go with shards.

    Raises:
        ConfigError: naming all of it.
    """
    if not isinstance(config, Config):
        raise ConfigError("strategy is fsdp, which is for main_pretrain.py; use auto")
    wrong = {
        "precision": config.precision.startswith(("16", "64"))
        and f"{config.precision}; bf16-mixed and 32 do",
        "optimizer.name": config.optimizer.name == "lars" and "lars; adamw, adam and sgd do",
        "compile": config.compile and "true",
        "wandb.watch": config.wandb.watch and f"{config.wandb.watch} (it would see parts alone)",
        "micro_batch": config.micro_batch
        and f"{config.micro_batch}; backbone.grad_checkpointing does",
    }
    if faults := [f"{key} {value}" for key, value in wrong.items() if value]:
        raise ConfigError(
            f"strategy is fsdp, which does not go with {'; nor with '.join(faults)}. Change these, "
            "or use ++strategy=auto"
        )


def _plain(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
