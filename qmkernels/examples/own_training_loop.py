"""A head in your own training loop: distances on a slope, where the way up costs more than the way down.

    python -m qmkernels.examples.own_training_loop

The encoder and the loss are yours. The head takes embeddings and gives distances; its parameters, here the weight of
the largest component, train with the encoder's.
"""

import torch

import qmkernels as qm

PLACES, STEPS = 24, 400


def main() -> None:
    torch.manual_seed(0)
    height = torch.arange(PLACES, dtype=torch.float32)
    climb = height - height[:, None]  # from row to column
    true = 3 * climb.relu() + (-climb).relu()  # three a step up, one a step down: no symmetric metric

    encoder = torch.nn.Embedding(PLACES, 128)
    head = qm.nn.IQE(128, dim_per_component=8)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.1)

    for step in range(STEPS + 1):
        embedding = encoder.weight
        distance = head.pairwise(embedding, embedding)  # (24, 24): from every row to every column
        loss = (distance - true).square().mean()
        if step % 100 == 0:
            print(f"step {step:3}: root mean square error {loss.sqrt().item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for start, end in ((4, 14), (14, 4)):
        print(f"from {start} to {end}: {distance[start, end].item():.1f}, true {true[start, end]:.0f}")
    assert loss.sqrt() < 1, "the slope was not learned"


if __name__ == "__main__":
    main()
