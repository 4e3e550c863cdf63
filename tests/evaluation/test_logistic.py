"""Logistic regression against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from solo.evaluation.logistic import FEW, FOLDS, PENALTIES, accuracy, choose_l2, fit_logistic


@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
def test_the_optimum_is_scikit_learns(l2: float) -> None:
    content = load_digits()
    x, y = content.data[:400], content.target[:400]  # some pixels are the same everywhere
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(scaler.transform(x), y)
    ours = fit_logistic(torch.from_numpy(x), torch.from_numpy(y), 10, l2)
    found = ours.scores(torch.from_numpy(content.data)).softmax(-1).numpy()
    np.testing.assert_allclose(
        found, theirs.predict_proba(scaler.transform(content.data)), atol=5e-3
    )
    labels = torch.from_numpy(content.target)
    expected = 100 * theirs.score(scaler.transform(content.data), content.target)
    assert accuracy(torch.from_numpy(found), labels) == pytest.approx(expected, abs=0.1)


def test_attributes_are_one_regression_each() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 5))
    y = (x @ random.normal(size=(5, 3)) + random.normal(size=(300, 3)) > 0).astype(int)
    scaler = StandardScaler().fit(x)
    ours = fit_logistic(torch.from_numpy(x), torch.from_numpy(y), 3, 2.0)
    found = ours.scores(torch.from_numpy(x)).sigmoid().numpy()
    for column in range(3):
        theirs = LogisticRegression(C=0.5, tol=1e-8).fit(scaler.transform(x), y[:, column])
        expected = theirs.predict_proba(scaler.transform(x))[:, 1]
        np.testing.assert_allclose(found[:, column], expected, atol=2e-3)
    assert accuracy(torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 1]])) == 50.0


def test_the_penalty_is_chosen_by_what_is_left_out() -> None:
    """Against cross-validation of scikit-learn over the same grid."""
    content = load_digits()
    order = np.random.default_rng(0).permutation(len(content.data))
    for count, noise in ((150, 0.0), (150, 12.0), (600, 30.0)):
        picked = order[:count]
        random = np.random.default_rng(1).normal(size=(count, 64)) * noise
        x, y = content.data[picked] + random, content.target[picked]
        place = np.array([(y[:i] == y[i]).sum() for i in range(count)])
        folds = [place % FOLDS == k for k in range(FOLDS if count <= FEW else 1)]
        losses = []
        for l2 in PENALTIES:
            total = 0.0
            for held in folds:
                kept = x[~held]
                spread = kept.std(0)
                scale = np.where(spread > 1e-6 * spread.max(), 1 / np.maximum(spread, 1e-30), 0)
                fitted = LogisticRegression(C=1 / l2, max_iter=2000).fit(
                    (kept - kept.mean(0)) * scale, y[~held]
                )
                likely = fitted.predict_log_proba((x[held] - kept.mean(0)) * scale)
                total -= likely[np.arange(held.sum()), y[held]].sum()
            losses.append(total)
        expected = PENALTIES[int(np.argmin(losses))]
        found = choose_l2(torch.from_numpy(x), torch.from_numpy(y), 10)
        assert found == expected
        assert noise == 0.0 or found > 1
    # A class with one image is learnt from, and never left out.
    x, y = (
        torch.from_numpy(content.data[order[:150]]),
        torch.from_numpy(content.target[order[:150]]),
    )
    lonely = torch.cat((y, torch.tensor([10])))
    assert choose_l2(torch.cat((x, x[:1] + 40)), lonely, 11) > 0.01
    ones = torch.from_numpy(content.data[:10])
    assert choose_l2(ones, torch.arange(10), 10) == 1.0
    # Copies of an image that are on both sides would make any penalty look too small.
    copies, groups = x.repeat(3, 1), torch.arange(len(x)).repeat(3)
    mixed = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))].repeat(3)
    assert choose_l2(copies, mixed, 10) < choose_l2(copies, mixed, 10, groups)
    assert choose_l2(x, y, 10, torch.zeros_like(y)) == 1.0
    attributes = torch.from_numpy((content.data[:300, 20:23] > 8).astype(np.int64))
    assert choose_l2(torch.from_numpy(content.data[:300]), attributes, 3) in PENALTIES
