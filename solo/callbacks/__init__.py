"""What watches a run and never changes its mathematics."""

from solo.callbacks.checkpoint import Checkpoints
from solo.callbacks.health import HealthMonitor
from solo.callbacks.knn import KNNMonitor
from solo.callbacks.progress import RunProgress
from solo.callbacks.sparsity import SparsityMonitor

__all__ = ["Checkpoints", "HealthMonitor", "KNNMonitor", "RunProgress", "SparsityMonitor"]
