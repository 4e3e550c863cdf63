"""Where one training step of a recipe spends its time.

python -m benchmarks.profile_step [scripts/pretrain/<set>/<recipe>.yaml]
"""

from __future__ import annotations

import sys

from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import device, device_name
from benchmarks.recipes import ROOT, compose
from benchmarks.steps import Run
from solo.data.batches import TrainingViews


def main() -> None:
    """Print the operators that take longest, over ten steps after a warm-up."""
    recipe = sys.argv[1] if len(sys.argv) > 1 else "scripts/pretrain/digits/rectified_lpjepa.yaml"
    run = Run(compose(ROOT / recipe), TrainingViews)
    for _ in range(3):
        run.step()
    cuda = device().type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(10):
            run.step()
    key = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(device_name())
    print(profiler.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40))


if __name__ == "__main__":
    main()
