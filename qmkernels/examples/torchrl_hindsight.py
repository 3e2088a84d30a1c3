"""QRL in TorchRL: its replay buffer with hindsight relabelling, a policy of its modules, and our loss.

    pip install "qmkernels[torchrl]"
    python -m qmkernels.examples.torchrl_hindsight

A point moves in a square with a wind to the right: a step covers three times as far with the wind as against it. The
episodes are of random actions. Learned distances tell the two ways apart, and the policy reaches goals against it.
"""

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import HERReplayBuffer, LazyTensorStorage
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal

import qmkernels as qm
from qmkernels.integrations.torchrl import QRLLoss

EPISODES, LENGTH, UPDATES = 200, 50, 500
WIND, SPEED, REACHED = torch.tensor([0.5, 0.0]), 0.1, 0.1


class Dynamics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.change = MLP(64 + 2, 64, num_cells=[64])

    def forward(self, latent: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return latent + self.change(latent, action)


def step(place: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return (place + SPEED * (action + WIND)).clamp(-1, 1)


def episodes() -> TensorDict:
    """Random episodes, one after the other, as a TensorDict of transitions."""
    place, steps = torch.rand(EPISODES, 2) * 2 - 1, []
    for time in range(LENGTH):
        action = torch.rand(EPISODES, 2) * 2 - 1
        following = step(place, action)
        next_values = {"observation": following, "reward": torch.zeros(EPISODES, 1)}
        next_values["done"] = torch.full((EPISODES, 1), time == LENGTH - 1)
        values = {"observation": place, "action": action, "achieved_goal": following, "next": next_values}
        # No goal was pursued: hindsight sets one in every row that is sampled.
        steps.append(TensorDict({**values, "desired_goal": torch.zeros(EPISODES, 2)}, [EPISODES]))
        place = following
    return torch.stack(steps, dim=1).reshape(-1)


def reached(policy: nn.Module, goal: torch.Tensor, steps: int = 60) -> float:
    """The share of goals that the policy reaches from random places."""
    place, success = torch.rand_like(goal) * 2 - 1, torch.zeros(len(goal), dtype=torch.bool)
    for _ in range(steps):
        with torch.no_grad():
            rows = policy(TensorDict({"observation": place, "desired_goal": goal}, [len(goal)]))
        place = step(place, rows["action"])
        success |= (place - goal).norm(dim=-1) < REACHED
    return success.float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    buffer = HERReplayBuffer(
        lambda rows: torch.zeros(len(rows), 1),  # QRL needs no reward
        storage=LazyTensorStorage(EPISODES * LENGTH), batch_size=256, her_ratio=1.0,
    )  # fmt: skip
    buffer.extend(episodes())

    encoder, head = MLP(2, 64, num_cells=[64]), qm.nn.IQE(64, dim_per_component=8)
    network = TensorDictSequential(
        TensorDictModule(MLP(4, 4, num_cells=[64, 64]), ["observation", "desired_goal"], ["parameters"]),
        TensorDictModule(NormalParamExtractor(), ["parameters"], ["loc", "scale"]),
    )
    policy = ProbabilisticActor(network, in_keys=["loc", "scale"], distribution_class=TanhNormal)
    loss = QRLLoss(encoder, Dynamics(), head, policy, behaviour_cloning_weight=0.05)
    others = [parameter for name, parameter in loss.named_parameters() if name != "raw_multiplier"]
    optimizer = torch.optim.Adam([{"params": others}, {"params": [loss.raw_multiplier], "lr": 0.03}], lr=1e-3)

    before = reached(policy, torch.rand(200, 2) * 2 - 1)
    for update in range(UPDATES + 1):
        result = loss(buffer.sample())
        if update % 100 == 0:
            local, far = (result[name].item() for name in ("local_distance", "goal_distance"))
            print(f"update {update:4}: a step is {local:.2f} long, to other rows' goals {far:.1f}")
        optimizer.zero_grad()
        (result["loss_critic"] + result["loss_dynamics"] + result["loss_actor"]).backward()
        optimizer.step()

    left, right = encoder(torch.tensor([[-0.6, 0.0], [0.6, 0.0]]))
    with_wind, against = head(left, right).item(), head(right, left).item()
    after = reached(policy, torch.rand(200, 2) * 2 - 1)
    print(f"with the wind {with_wind:.1f} steps, true 8; against it {against:.1f}, true 24")
    print(f"goals reached: {before:.0%} before, {after:.0%} after training")
    assert against > 1.5 * with_wind and after > 0.9, "the wind was not learned"


if __name__ == "__main__":
    main()
