"""Features of an exported backbone, where this package cannot be imported.

python without_solo.py <exported folder> <images.pt> <features.pt>
"""

import sys

sys.modules["solo"] = None  # type: ignore[assignment]
sys.path.insert(0, sys.argv[1])

import torch  # noqa: E402
from load_backbone import load  # noqa: E402

network = load(sys.argv[1])
images = torch.load(sys.argv[2])
mean, std = (torch.tensor(v)[:, None, None] for v in (network.mean, network.std))
with torch.no_grad():
    torch.save(network((images / 255 - mean) / std), sys.argv[3])
