"""A head as a planning cost for stable-worldmodel (https://github.com/galilai-group/stable-worldmodel)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DistanceCost"]

_STEPS = ("last", "mean")


class DistanceCost(nn.Module):
    r"""The distance from predicted latents to a goal's latent: a ``Costable`` for solvers, and an ``Objective``.

    .. math:: \mathrm{cost}_{bs} = d(\hat z_{bsT}, z^{goal}_b)

    As a cost, ``get_cost`` rolls the candidates out by ``model`` first. As an objective of ``ShootingCostEvaluator``,
    which rolls out itself, it is called with the outcome and needs no model.

    Args:
        head: the quasimetric, a module or function of x and y.
        model: has ``rollout(info, candidates)``, which returns an info with ``predicted_key``. Only for ``get_cost``.
        encode_goal: ``encode_goal(model, info)`` gives the goal's latents where info has none under ``goal_key``.
        steps: whether the "last" predicted step counts, or the "mean" over all steps, context frames included.
        predicted_key: predicted latents in info, ``(B, S, T, D)``: environments, candidates, steps.
        goal_key: the goal's latents in info, ``(B, T_goal, D)``, of which the last step counts.

    Returns costs ``(B, S)`` in the head's unit, differentiable in the candidates where the model is. NaN and infinities
    give what the head gives.

    Raises:
        ValueError: an unknown ``steps``, latents of other shapes, ``get_cost`` without model, or a head with a
            discount, whose values fall with distance.
        KeyError: an info without latents.

    Source: stable_worldmodel/protocols.py and planning/objective.py, August 2026. Nothing of it is imported.

    Example:
        >>> from qmkernels.integrations.stable_worldmodel import DistanceCost
        >>> cost = DistanceCost(qm.nn.IQE(16, dim_per_component=8))
        >>> cost({"predicted_emb": torch.randn(2, 300, 5, 16), "goal_emb": torch.randn(2, 1, 16)}).shape
        torch.Size([2, 300])
    """

    def __init__(
        self,
        head: Callable[[Tensor, Tensor], Tensor],
        model: Any = None,
        *,
        encode_goal: Callable[[Any, dict], Tensor] | None = None,
        steps: str = "last",
        predicted_key: str = "predicted_emb",
        goal_key: str = "goal_emb",
    ) -> None:
        super().__init__()
        if steps not in _STEPS:
            raise ValueError(f"DistanceCost: steps must be one of {_STEPS}, got {steps!r}.")
        if getattr(head, "discount", None) is not None:
            raise ValueError(
                f"DistanceCost: head must return distances, got one with discount={head.discount}; make it without."
            )
        self.head, self.model, self.encode_goal, self.steps = head, model, encode_goal, steps
        self.predicted_key, self.goal_key = predicted_key, goal_key

    def forward(self, info_dict: dict) -> Tensor:
        """Returns the costs (B, S) of what was rolled out."""
        predicted, goal = info_dict[self.predicted_key], info_dict[self.goal_key]
        fits = predicted.dim() == 4 and goal.dim() == 3
        if not fits or (len(goal), goal.shape[-1]) != (len(predicted), predicted.shape[-1]):
            raise ValueError(
                f"DistanceCost: {self.predicted_key} must be (B, S, T, D) and {self.goal_key} (B, T_goal, D), got "
                f"{tuple(predicted.shape)} and {tuple(goal.shape)}."
            )
        goal = goal[:, None, -1]
        if self.steps == "last":
            return self.head(predicted[:, :, -1], goal)
        return self.head(predicted, goal[:, :, None]).mean(dim=-1)

    def criterion(self, info_dict: dict, action_candidates: Tensor | None = None) -> Tensor:
        """Returns the costs (B, S) of what was rolled out; it does not depend on the actions beyond that."""
        return self(info_dict)

    def get_cost(self, info_dict: dict, action_candidates: Tensor) -> Tensor:
        """Rolls candidates (B, S, T, action_size) out by the model, and returns their costs (B, S)."""
        if self.model is None:
            raise ValueError("DistanceCost: get_cost needs a model to roll the candidates out; give model.")
        if self.goal_key not in info_dict and self.encode_goal is not None:
            with torch.no_grad():
                info_dict[self.goal_key] = self.encode_goal(self.model, info_dict)
        return self(self.model.rollout(info_dict, action_candidates))
