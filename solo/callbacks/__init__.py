"""What watches a run and never changes its mathematics."""

from solo.callbacks.checkpoint import Checkpoints
from solo.callbacks.dashboard import close_dashboard, open_dashboard
from solo.callbacks.folder import RunFolder, check_writable, choose_folder
from solo.callbacks.health import HealthMonitor
from solo.callbacks.knn import KNNMonitor
from solo.callbacks.metrics_csv import MetricsCSV
from solo.callbacks.progress import RunProgress
from solo.callbacks.sparsity import SparsityMonitor

__all__ = [
    "Checkpoints",
    "HealthMonitor",
    "KNNMonitor",
    "MetricsCSV",
    "RunFolder",
    "RunProgress",
    "SparsityMonitor",
    "check_writable",
    "choose_folder",
    "close_dashboard",
    "open_dashboard",
]
