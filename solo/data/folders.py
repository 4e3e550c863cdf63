"""Finding images: in class folders, in one unlabelled tree, or in an HDF5 file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import h5py
import torch

from solo.config import ConfigError
from solo.data.listing import list_images
from solo.data.sources import IMAGE_SUFFIXES, EncodedSource, FolderSource, H5Source


def imagenet100_classes() -> list[str]:
    """WordNet ids of the usual ImageNet-100 subset."""
    return resources.files("solo.data").joinpath("imagenet100_classes.txt").read_text().split()


def class_folders(path: str | None, key: str, only: list[str] | None = None) -> FolderSource:
    """Images in ``path/<class>/…``, classes in alphabetical order.

    Args:
        path: the folder.
        key: the config key that named it, for errors.
        only: of a larger tree, the classes to take; a tree with no more classes than that is
            taken as it is.

    Raises:
        ConfigError: for a missing folder, one without class folders, or an empty class.
    """
    root = existing(path, key, "folder")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if only is not None and len(classes) > len(only):
        missing = sorted(set(only) - set(classes))
        if missing:
            raise ConfigError(
                f"{key}: {root} has {len(classes)} class folders, but {len(missing)} of the "
                f"{len(only)} wanted are not among them ({', '.join(missing[:3])}, …)"
            )
        classes = sorted(only)
    if not classes:
        raise ConfigError(
            f"{key}: {root} holds no class folders; labelled images lie in {root}/<class>/. "
            "For images without labels add ++data.no_labels=true"
        )
    names, counts = list_images(root, classes)
    if 0 in counts:
        empty = root / classes[counts.index(0)]
        raise ConfigError(f"{key}: the class folder {empty} holds no images")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return FolderSource(root, names, labels, classes)


def unlabelled_tree(path: str | None, key: str) -> FolderSource:
    """Every image below ``path``, however deep, all with label -1.

    Raises:
        ConfigError: for a missing folder or one without images.
    """
    root = existing(path, key, "folder")
    names, _ = list_images(root, [""])
    if not len(names):
        raise ConfigError(
            f"{key}: there are no images below {root} ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return FolderSource(root, names, torch.full((len(names),), -1), [])


def h5_file(path: str | None, key: str, no_labels: bool = False) -> EncodedSource:
    """An HDF5 file with one group a class and one uint8 array of encoded bytes an image.

    Raises:
        ConfigError: for a missing file or another layout.
    """
    file = existing(path, key, "file")
    names: list[str] = []
    labels: list[int] = []
    try:
        with h5py.File(file, "r") as content:
            classes = sorted(content)
            for label, name in enumerate(classes):
                members = sorted(content[name])
                names += [f"{name}/{member}" for member in members]
                labels += [label] * len(members)
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"{key}: {file} is not an HDF5 file of one group a class ({error}); "
            "make one with scripts/utils/images_to_h5.py"
        ) from error
    if not names:
        raise ConfigError(f"{key}: {file} holds no images")
    if no_labels:
        return H5Source(file, names, torch.full((len(names),), -1), [])
    return H5Source(file, names, torch.tensor(labels), classes)


def existing(path: str | None, key: str, kind: str) -> Path:
    """The path, if it is there and of that kind.

    Raises:
        ConfigError: where it is not, with the nearest folder that is.
    """
    if path is None:
        raise ConfigError(f"{key} is not set; add ++{key}=<{kind}>")
    found = Path(path).expanduser()
    if kind == "folder" and found.is_file() and found.suffix in (".h5", ".hdf5"):
        raise ConfigError(f"{key}: {found} is a file; to read it add ++data.format=h5")
    if not (found.is_dir() if kind == "folder" else found.is_file()):
        parent = next(p for p in [*found.absolute().parents] if p.exists())
        raise ConfigError(
            f"{key}: there is no {kind} {found} ({parent} exists); change it with ++{key}=<{kind}>"
        )
    return found
