"""Batches, rows by index, and the preparation of batches."""

from __future__ import annotations

import pytest
import torch

from bfn_toolkit import Batch, DataError

X = torch.arange(24.0).reshape(4, 3, 2)


def test_a_batch_takes_rows_of_everything_that_it_holds():
    mask = {"a": torch.eye(4).bool()[:, :3]}
    batch = Batch({"a": X, "b": X[:, 0].long()}, {"label": torch.arange(4)}, mask, torch.arange(4.0))
    index = torch.tensor([2, 0])
    for rows in (batch.rows(index), batch.part(1, 4).rows(torch.tensor([1])), batch.to(torch.device("cpu"))):
        chosen = rows.condition["label"]
        assert torch.equal(rows.x["a"], X[chosen])
        assert torch.equal(rows.x["b"], X[chosen, 0].long())
        assert torch.equal(rows.mask["a"], mask["a"][chosen])
        assert torch.equal(rows.weight, chosen.float())
        assert len(rows) == len(chosen)
    assert torch.equal(batch.rows(index).condition["label"], index)


@pytest.mark.parametrize(
    ("mask", "weight", "words"),
    [
        (torch.ones(4, 3), None, "float32"),
        (torch.ones(3, 3).bool(), None, r"expected torch.bool of shape \(4, 3, 2\)"),
        (torch.ones(4, 2).bool(), None, r"shape \(4, 2\)"),
        (torch.ones(4, 3, 2, 1).bool(), None, r"\(4, 3, 2, 1\)"),
        (torch.tensor(True), None, "expected"),
        ({"b": torch.ones(4).bool()}, None, "'b'"),
        (None, torch.ones(3), r"expected \(4,\)"),
        (None, torch.ones(4, 1), r"expected \(4,\)"),
    ],
)
def test_a_mask_or_a_weight_that_does_not_fit_is_an_error(mask, weight, words):
    with pytest.raises(DataError, match=words):
        Batch(X, {}, mask, weight)
