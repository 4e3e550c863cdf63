"""Sparse features stored as such: how small they are, and what search in them finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from solo.evaluation.knn import nearest


class Retrieval(NamedTuple):
    """Bytes of a bank of features both ways, and what search in the sparse one finds.

    ``recall``: the part of the dense search's k nearest that are among the sparse search's;
    ``precision``: the part of the sparse search's k nearest of the query's class.
    """

    dense_bytes: int
    csr_bytes: int
    recall: float
    precision: float


def to_csr(z: Tensor) -> sp.csr_matrix:
    """[N, D] -> SciPy's compressed sparse rows, float32."""
    return sp.csr_matrix(z.float().cpu().numpy())


def csr_bytes(matrix: sp.csr_matrix) -> int:
    """Bytes of a CSR matrix: values, column indices and row ends."""
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def nearest_csr(
    bank: sp.csr_matrix, queries: sp.csr_matrix, k: int, block: int = 1024
) -> np.ndarray:
    """The k rows of the bank of largest cosine with each query, [N, k], nearest first."""
    bank, queries = (_unit_rows(matrix) for matrix in (bank, queries))
    turned = bank.T.tocsc()
    found = []
    for start in range(0, queries.shape[0], block):
        near = (queries[start : start + block] @ turned).toarray()
        best = np.argpartition(-near, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(-near, best, 1).argsort(1, kind="stable")
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def compare_retrieval(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int = 10
) -> Retrieval:
    """Dense and sparse search of the same features, [M, D] and [N, D]."""
    k = min(k, len(bank))
    stored = to_csr(bank)
    sparse = nearest_csr(stored, to_csr(queries), k)
    dense = torch.cat([which for _, which in nearest(bank, queries, k)]).cpu().numpy()
    shared = np.mean([len(set(a) & set(b)) / k for a, b in zip(sparse, dense)])
    same = bank_labels.cpu().numpy()[sparse] == query_labels.cpu().numpy()[:, None]
    return Retrieval(bank.numel() * 4, csr_bytes(stored), float(shared), float(same.mean()))


def _unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    norms = np.sqrt(matrix.multiply(matrix).sum(1)).A1
    return sp.diags(1 / np.maximum(norms, 1e-12)).astype(np.float32) @ matrix
