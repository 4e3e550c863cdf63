"""Search in features stored as CSR against dense search."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from solo.evaluation.retrieval import compare_retrieval, csr_bytes, nearest_csr, to_csr


def test_csr_search_is_dense_search() -> None:
    bank, queries = (torch.randn(n, 64).sub(0.7).relu() for n in (500, 90))
    theirs = NearestNeighbors(n_neighbors=7, metric="cosine").fit(bank.double().numpy())
    expected = theirs.kneighbors(queries.double().numpy(), return_distance=False)
    found = nearest_csr(to_csr(bank), to_csr(queries), 7, block=32)
    assert (found == expected).mean() > 0.999  # ties to rounding
    labels = torch.arange(500) % 3
    result = compare_retrieval(bank, labels, queries, torch.zeros(90, dtype=torch.long), k=7)
    assert result.recall > 0.999
    assert result.precision == np.mean(expected % 3 == 0)
    assert result.dense_bytes == 500 * 64 * 4
    # A value and a column index for each non-zero, a row end for each row.
    assert result.csr_bytes == csr_bytes(to_csr(bank)) == 8 * int((bank != 0).sum()) + 4 * 501


def test_rows_of_zeros() -> None:
    bank = torch.eye(4).index_fill(0, torch.tensor([2]), 0.0)
    assert nearest_csr(to_csr(bank), to_csr(torch.eye(4)), 1)[[0, 1, 3], 0].tolist() == [0, 1, 3]
