"""The nearest states of a bank by a quasimetric, to a query and from it, without the matrix of all distances.

    python -m qmkernels.examples.nearest_in_bank

Memory beyond inputs and result does not grow with the bank. Gradients flow through the distances that were found.
"""

import torch

import qmkernels as qm

QUERIES, BANK, SIZE, K = 64, 20_000, 128, 5


def main() -> None:
    torch.manual_seed(0)
    head = qm.nn.IQE(SIZE, dim_per_component=8)
    queries, bank = torch.randn(QUERIES, SIZE), torch.randn(BANK, SIZE)

    leaving = qm.nearest(queries, bank, K, metric=head)  # d(query, row): the first rows to be reached
    arriving = qm.nearest(queries, bank, K, metric=lambda x, y: head(y, x))  # d(row, query): the first to arrive
    print(f"from query 0: rows {leaving.indices[0].tolist()}, distances {leaving.values[0, 0]:.2f} and more")
    print(f"to query 0:   rows {arriving.indices[0].tolist()}, distances {arriving.values[0, 0]:.2f} and more")

    few = bank[:2000]  # small enough for the whole matrix
    found = qm.nearest(queries, few, K, metric=head)
    with torch.no_grad():
        expected = head.pairwise(queries, few).topk(K, largest=False)
    assert torch.equal(found.indices, expected.indices), "not the nearest rows"
    print(f"the same rows as topk of the {QUERIES} x {len(few)} matrix")

    queries.requires_grad_()
    qm.nearest(queries, bank, K, metric=head).values.mean().backward()
    print(f"gradient of the mean distance by the queries: norm {queries.grad.norm():.3f}")
    assert queries.grad.isfinite().all() and queries.grad.norm() > 0


if __name__ == "__main__":
    main()
