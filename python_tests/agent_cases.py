"""A table of every agent in every form: how to make it, what it learns from, and what it acts for.

test_agents.py has the generic tests over these rows. A new agent adds its rows here, conditioned on a goal, a skill or
nothing. A row excepts the claims that do not hold, with a reason that pytest prints. What is particular to an agent is
in its own test file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import agent as protocol
from qmkernels.agents.metra import AsymmetricNorm

OBSERVATION_SIZE, ACTION_SIZE = 4, 3
CLAIMS = ("kernels", "standardise", "distance", "pairs", "range", "pursuit", "cloning")
Batch = dict[str, Tensor]


def line_batch(agent: Any, size: int = 33, seed: int = 1) -> Batch:
    """Steps along a line: an action moves every coordinate by its mean; goals are one or eight steps ahead."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, OBSERVATION_SIZE, generator=generator)
    action = torch.rand(size, ACTION_SIZE, generator=generator) * 2 - 1
    move = action.mean(dim=-1, keepdim=True)
    if agent.discrete:
        action = torch.randint(ACTION_SIZE, (size,), generator=generator)
        move = (action - 1.0).unsqueeze(-1)
    following, reached = state + move, torch.rand(size, generator=generator) < 0.3
    goal = (state + torch.where(reached, 1, 8)[:, None] * move)[:, : agent.goal_size]
    return {
        "observation": state, "action": action, "next_observation": following, "reached": reached,
        "achieved_goal": following[:, : agent.goal_size], "goal": goal, "actor_goal": goal,
        "terminated": torch.rand(size, generator=generator) < 0.1,
        "truncated": torch.rand(size, generator=generator) < 0.1,
    }  # fmt: skip


def any_goal(agent: Any, *leading: int) -> Tensor:
    return torch.randn(*leading, agent.goal_size or OBSERVATION_SIZE)


@dataclass(frozen=True)
class Case:
    """One agent in one form, with small networks."""

    method: str  # its name in the training command
    agent: type[protocol.Agent]
    config: Any
    needed: tuple[str, ...]  # keys that a batch must have
    improves: tuple[str, float]  # a metric, and the least change that updates make to it
    form: str = ""  # tells the forms of one agent apart
    made: dict[str, Any] = field(default_factory=dict)  # arguments of the constructor
    batch: Callable[..., Batch] = line_batch  # (agent, rows, seed) -> batch, which may have more than is needed
    condition: Callable[..., Tensor] = any_goal  # (agent, *leading sizes) -> what it acts for
    learning: dict[str, Any] = field(default_factory=dict)  # configuration changes to improve in 100 updates
    compared: tuple[str, ...] = ()  # other metrics on which backends agree
    pursues: tuple[str, int] = ("", 0)  # a metric that the actor lowers, -1, or raises, 1, with a fixed critic
    pursuit: dict[str, Any] = field(default_factory=dict)  # configuration changes for that
    cloning: dict[str, Any] = field(default_factory=dict)  # configuration changes to imitate the data
    acts_for: str = "goal"  # key of the batch's rows that it acts for
    standardised: tuple[str, ...] = ("observation", "achieved_goal")  # keys of the rows by which it standardises
    fixed: tuple[str, ...] = ("_scale.", ".centre", ".half_range")  # parts of names of what updates do not change
    any_sign: tuple[str, ...] = ()  # configuration fields that may be negative
    excepted: dict[str, str] = field(default_factory=dict)  # claim -> why it does not hold

    def __post_init__(self) -> None:
        assert set(self.excepted) <= set(CLAIMS), self.excepted

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.method, self.form)))

    def make(self, seed: int = 0, changes: dict[str, Any] | None = None, **made: Any) -> Any:
        torch.manual_seed(seed)
        return self.agent(OBSERVATION_SIZE, ACTION_SIZE, replace(self.config, **changes or {}), **{**self.made, **made})

    def rows(self, agent: Any, size: int = 33, seed: int = 1) -> Batch:
        """Returns a batch with only what is needed."""
        batch = self.batch(agent, size, seed)
        return {name: batch[name] for name in self.needed}


def parameters_of(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in module.parameters()])


def every(claim: str = "") -> pytest.MarkDecorator:
    """Parametrises ``case`` over all rows, and skips those that except the claim."""
    assert not claim or claim in CLAIMS, claim

    def parameter(case: Case) -> Any:
        marks = [pytest.mark.skip(case.excepted[claim])] if claim in case.excepted else []
        return pytest.param(case, id=case.name, marks=marks)

    return pytest.mark.parametrize("case", list(map(parameter, CASES)))


# --- The rows.

TRANSITION = ("observation", "action", "next_observation")
DISCRETE = {claim: "discrete actions, and no actor" for claim in ("range", "pursuit", "cloning")}
NO_CRITIC = {"pursuit": "its actor follows no critic"}
NO_PAIRS = {"pairs": "its distances are those of pairs alone"}
NO_DISTANCE = dict.fromkeys(("distance", "pairs"), "it gives none")
NO_CLONING = {"cloning": "it imitates nothing"}


def _in_forms(case: Case, *forms: tuple[str, dict[str, Any]]) -> list[Case]:
    """Returns the case, and one copy per form with the fields that change."""
    return [case, *(replace(case, form=form, **changes) for form, changes in forms)]


def _iqe(size: int) -> torch.nn.Module:
    return qm.nn.IQE(size, 8)


_QRL = Case(
    "qrl", qm.agents.QRL,
    qm.agents.QRLConfig.online(
        encoder_sizes=(33,), latent_size=16, projector_sizes=(33,), embedding_size=48, dim_per_component=8,
        dynamics_sizes=(33,), actor_sizes=(33,), entropy_samples=8,
    ),
    needed=(*TRANSITION, "goal"), improves=("critic_0/loss", -1.0),
    learning=dict(critic_learning_rate=3e-3, initial_multiplier=5.0, multiplier_learning_rate=1e-9),
    compared=("critic_1/dynamics", "actor/distance"),
    pursues=("actor/distance", -1),
    pursuit=dict(adaptive_entropy=False, future_goals=False, actor_learning_rate=1e-2),
    cloning=dict(adaptive_entropy=False, actor_distance_weight=0.0, behaviour_cloning_weight=1.0,
                 actor_learning_rate=1e-2),
)  # fmt: skip
_TMD = Case(
    "tmd", qm.agents.TMD,
    qm.agents.TMDConfig.small(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, num_components=4),
    needed=(*TRANSITION, "goal", "actor_goal"), improves=("critic/loss", -1.0),
    compared=("critic/action_invariance", "actor/distance"),
    pursues=("actor/distance", -1), pursuit=dict(behaviour_cloning_weight=0.0, actor_learning_rate=1e-2),
    cloning=dict(behaviour_cloning_weight=100.0, actor_learning_rate=1e-2),
)  # fmt: skip
_CRL = Case(
    "crl", qm.agents.CRL, qm.agents.CRLConfig.small(critic_sizes=(33,), actor_sizes=(33,), latent_size=32),
    needed=_TMD.needed, improves=("critic/loss", -0.05),
    learning=dict(critic_learning_rate=5e-3), compared=("actor/logit",),
    pursues=("actor/logit", 1), pursuit=_TMD.pursuit, cloning=_TMD.cloning,
    excepted={**NO_PAIRS, "kernels": "an inner product has none"},
)  # fmt: skip
_DDPG_HER = Case(
    "ddpg_her", qm.agents.DDPGHER,
    qm.agents.DDPGHERConfig.small(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, dim_per_component=8),
    needed=(*_TMD.needed, "reached"), improves=("critic/loss", -0.1),
    learning=dict(critic_learning_rate=2e-3), compared=("critic/value", "actor/value"),
    pursues=("actor/value", 1), pursuit=dict(action_weight=0.0, actor_learning_rate=1e-2),
    cloning=dict(_TMD.cloning, action_weight=0.0),
    excepted={**NO_PAIRS, "kernels": "a plain network has none"},
)  # fmt: skip
_GCBC = Case(
    "gcbc", qm.agents.GCBC, qm.agents.GCBCConfig.small(actor_sizes=(33,), actor_learning_rate=1e-2),
    needed=(*TRANSITION, "goal"), improves=("actor/log_prob", 0.15),
    excepted={
        **NO_CRITIC, **NO_DISTANCE, "kernels": "cloning has none",
        "cloning": "that is all it does, and its own test",
    },
)  # fmt: skip
_METRIC_RL = Case(
    "metric_rl", qm.agents.MetricRL,
    qm.agents.MetricRLConfig.published(
        phi_width=32, phi_blocks=1, latent_size=32, actor_sizes=(33,), dynamics_sizes=(33,)
    ),
    needed=(*TRANSITION, "goal"), improves=("critic/loss", -0.2), compared=("critic/length", "actor/log_prob"),
    cloning=dict(cloning_weight=100.0, actor_learning_rate=1e-2), excepted=NO_CRITIC,
)  # fmt: skip


def window_batch(agent: Any, size: int = 33, seed: int = 1) -> Batch:
    """Points that actions move, some windows with an end; rewards are for actions near a half."""
    generator = torch.Generator().manual_seed(seed)
    steps = agent.config.horizon
    action = torch.rand(size, steps, ACTION_SIZE, generator=generator) * 2 - 1
    begin = torch.randn(size, 1, OBSERVATION_SIZE, generator=generator)
    observation = torch.cat([begin, begin + 0.3 * action.mean(dim=-1, keepdim=True).cumsum(dim=1)], dim=1)
    lengths = torch.randint(1, 2 * steps, (size, 1), generator=generator)
    return {
        "observation": observation, "action": action, "mask": torch.arange(steps) < lengths,
        "n_step_return": 1 - (action[:, 0] - 0.5).square().mean(dim=-1), "bootstrap_observation": observation[:, 1],
        "bootstrap_discount": torch.where(lengths[:, 0] == 1, 0.0, 0.99),
    }  # fmt: skip


_IQRL = Case(
    "iqrl", qm.agents.IQRL,
    qm.agents.IQRLConfig.small(
        encoder_sizes=(33,), dynamics_sizes=(33,), critic_sizes=(33, 17), actor_sizes=(33,), num_groups=9, horizon=3,
        actor_interval=1,
    ),
    needed=(
        "observation", "action", "mask", "n_step_return", "bootstrap_observation", "bootstrap_discount",
    ), improves=("encoder/loss", -0.4), batch=window_batch, condition=lambda *_: None, pursues=("actor/value", 1),
    pursuit=dict(actor_learning_rate=1e-2), standardised=(),
    excepted={
        **NO_DISTANCE, **NO_CLONING,
        "standardise": "its inputs go into the networks as they are",
        "range": "normalised layers of random weights do not reach both ends; its own test",
    },
)  # fmt: skip


def travel_batch(agent: Any, size: int = 33, seed: int = 1) -> Batch:
    """Each action value moves its own coordinate; skills correlate with the movement."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, OBSERVATION_SIZE, generator=generator)
    action = torch.rand(size, ACTION_SIZE, generator=generator) * 2 - 1
    aimed = 2 * action + torch.randn(size, ACTION_SIZE, generator=generator)
    return {
        "observation": state, "action": action, "next_observation": state + functional.pad(action, (0, 1)),
        "skill": agent.skill_of(aimed[:, : agent.config.skill_size]),
        "terminated": torch.rand(size, generator=generator) < 0.1,
    }  # fmt: skip


def any_skill(agent: Any, *leading: int) -> Tensor:
    return agent.skill_of(torch.randn(*leading, agent.config.skill_size))


_METRA = Case(
    "metra", qm.agents.METRA,
    qm.agents.METRAConfig.small(phi_sizes=(33,), critic_sizes=(33,), actor_sizes=(33,)),
    needed=(*TRANSITION, "skill", "terminated"), improves=("phi/reward", 0.1), batch=travel_batch, condition=any_skill,
    learning=dict(phi_learning_rate=2e-3, initial_multiplier=0.3),
    compared=("phi/loss", "phi/multiplier", "critic/loss", "actor/value"),
    pursues=("actor/value", 1), pursuit=dict(initial_temperature=1e-6, actor_learning_rate=1e-2),
    acts_for="skill", standardised=("observation",), any_sign=("target_entropy",),
    excepted={**NO_DISTANCE, **NO_CLONING},
)  # fmt: skip
_DISCRETE_SKILLS = replace(_METRA.config, skill_size=3, discrete_skills=True)

SET = {"goal_size": 2}
CASES = [
    *_in_forms(
        _QRL,
        ("set goals", {"made": SET, "needed": (*_QRL.needed, "achieved_goal")}),
        ("discrete", {"made": {"discrete": True}, "needed": TRANSITION, "compared": (), "excepted": DISCRETE}),
        ("discrete, set goals", {"made": {**SET, "discrete": True}, "needed": (*TRANSITION, "achieved_goal"),
                                 "compared": (), "excepted": DISCRETE}),
        ("head of one's own", {"made": {"head": lambda size: qm.nn.LatentMRN(size, 4)}}),
    ),
    *_in_forms(_TMD, ("set goals", {"made": SET}), ("head of one's own", {"made": {"head": _iqe}})),
    *_in_forms(
        _CRL,
        ("set goals", {"made": SET}),
        ("mrn", {"config": replace(_CRL.config, critic="mrn", form="softmax"), "excepted": NO_PAIRS}),
        ("iqe", {"config": replace(_CRL.config, critic="iqe", form="softmax"), "excepted": NO_PAIRS}),
        ("head of one's own", {"config": replace(_CRL.config, form="softmax"), "made": {"head": _iqe},
                               "excepted": NO_PAIRS}),
    ),
    *_in_forms(
        _DDPG_HER,
        ("set goals", {"made": SET}),
        ("mrn", {"config": replace(_DDPG_HER.config, critic="mrn"), "excepted": NO_PAIRS}),
        ("iqe", {"config": replace(_DDPG_HER.config, critic="iqe"), "excepted": NO_PAIRS}),
    ),
    *_in_forms(_GCBC, ("set goals", {"made": SET})),
    *_in_forms(
        _METRIC_RL,
        ("set goals", {"made": SET, "needed": (*_METRIC_RL.needed, "achieved_goal"),
                       "improves": ("critic/repulsion", -0.2)}),
        ("discrete", {"made": {"discrete": True}, "needed": TRANSITION, "compared": (), "excepted": DISCRETE}),
        ("super-state", {"config": replace(_METRIC_RL.config, super_state=True),
                         "needed": (*_METRIC_RL.needed, "terminated", "truncated")}),
        ("iqe", {"made": {"head": _iqe}}),
        ("mrn", {"made": {"head": lambda size: qm.nn.LatentMRN(size, 4)}}),
    ),
    _IQRL,
    # With a slack of 1 the constraint has gradients for a head even while steps are short.
    *_in_forms(
        _METRA,
        ("discrete skills", {"config": _DISCRETE_SKILLS}),
        ("mean norm", {"config": replace(_METRA.config, norm="mean")}),
        ("iqe", {"config": replace(_METRA.config, slack=1.0), "made": {"head": lambda size: qm.nn.IQE(size, 1)}}),
        ("mrn, discrete skills", {"config": replace(_DISCRETE_SKILLS, slack=1.0), "made": {"head": AsymmetricNorm}}),
    ),
]  # fmt: skip
