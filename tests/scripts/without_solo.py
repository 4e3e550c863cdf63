"""Features of an exported backbone in float64, where this package cannot be imported.

python without_solo.py <exported folder> <images.pt> <features.pt>
"""

import sys
from pathlib import Path

sys.modules["solo"] = None  # type: ignore[assignment]
sys.path.insert(0, sys.argv[1])

import timm  # noqa: E402
import torch  # noqa: E402

folder = sys.argv[1]
if (Path(folder) / "load_backbone.py").is_file():
    from load_backbone import load

    network = load(folder)
else:
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
images = torch.load(sys.argv[2]).double()
facts = network.pretrained_cfg
assert facts["input_size"][-1] == images.shape[-1]
mean, std = (images.new_tensor(facts[key])[:, None, None] for key in ("mean", "std"))
with torch.no_grad():
    torch.save(network.double()((images / 255 - mean) / std), sys.argv[3])
