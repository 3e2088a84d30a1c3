"""Trains agents on real environments with `qmkernels train`: metrics in benchmarks/results/agents/EXPERIMENT/.

    python benchmarks/measure_agents.py --seeds 0 1 2

Needs ``pip install ".[robotics,dm_control,minigrid]"``. Every run is a command that anyone can give; its metrics.json
is kept with that command and the commit, and the first seed's figure beside it. A killed measurement resumes where
it was. benchmarks/tables.py makes the tables of the results. The teleport maze's agents share two datasets, which
benchmarks/make_maze_data.py makes before their first run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from comparison import HERE, commit

from qmkernels.info import cpu_model

# Agents in OGBench's teleport maze learn from the same data, whatever their seed, as in OGBench: only agents differ.
DATA = {kind: Path(f"runs/pointmaze-teleport-{kind}.npz") for kind in ("explore", "navigate")}
TELEPORT = "--env pointmaze-teleport-v0 --agent.fourier-features 32 --agent.actor-learning-rate 1e-3"
# Updates below are what a core does in the same time where nothing else runs on it: six minutes from exploring data,
# with actions held as long as these hold a direction, and 100 seconds from the others.
EXPLORE = (
    f"{TELEPORT} --dataset {DATA['explore']} --action-repeat 10 --evaluation-interval 8000 --evaluation-episodes 20 "
    "--learning-rate-decay cosine"
)
NAVIGATE = (
    f"{TELEPORT} --dataset {DATA['navigate']} --action-repeat 1 --evaluation-interval 20000 --evaluation-episodes 10"
)
# Name of the folder to the method and the command's options.
EXPERIMENTS = {
    "umaze_qrl": "qrl --env PointMaze_UMaze-v3 --steps 1500",
    "umaze_planning": "qrl --env PointMaze_UMaze-v3 --steps 1500 --evaluation-interval 1500 "
    "--evaluate-with actor greedy mppi",
    "umaze_tmd": "tmd --env PointMaze_UMaze-v3",
    "umaze_metric_rl": "metric_rl --env PointMaze_UMaze-v3",
    "umaze_metric_rl_iqe": "metric_rl --env PointMaze_UMaze-v3 --head iqe --steps 3000 --learning-rate-decay cosine",
    "empty_metric_rl": "metric_rl --env MiniGrid-Empty-8x8-v0 --steps 1000",
    "doorkey_metric_rl": "metric_rl --env MiniGrid-DoorKey-5x5-v0",
    "umaze_gcbc": "gcbc --env PointMaze_UMaze-v3 --steps 1500",
    "umaze_crl": "crl --env PointMaze_UMaze-v3",
    "umaze_ddpg_her": "ddpg_her --env PointMaze_UMaze-v3",
    "umaze_ddpg_her_iqe": "ddpg_her --env PointMaze_UMaze-v3 --agent.critic iqe",
    "teleport_tmd": f"tmd {EXPLORE} --steps 16000 --agent.num-critics 1 --agent.critic-sizes 512 "
    "--agent.actor-sizes 512 512 --agent.critic-learning-rate 1e-3 --agent.contrastive-scale 1 --agent.zeta 5 "
    "--agent.discount 0.95 --critic-goals.discount 0.95 --actor-goals.geometric 0 --actor-goals.random 1 "
    "--actor-goals.uniform 0 --agent.behaviour-cloning-weight 0.01",
    "teleport_qrl": f"qrl {EXPLORE} --preset maze --steps 12000 --agent.num-critics 1 --agent.softplus-beta 0.02 "
    "--agent.softplus-offset 250 --agent.critic-learning-rate 1e-3",
    "teleport_gcbc": f"gcbc {EXPLORE} --steps 25000 --batch-size 1024 --actor-goals.geometric 1 "
    "--actor-goals.uniform 0",
    "navigate_tmd": f"tmd {NAVIGATE} --steps 5000 --agent.num-critics 1 --agent.critic-sizes 256 "
    "--agent.latent-size 64 --agent.critic-learning-rate 1e-3 --agent.behaviour-cloning-weight 0.01",
    "navigate_qrl": f"qrl {NAVIGATE} --preset maze --steps 3800 --agent.num-critics 1 --agent.softplus-beta 0.02 "
    "--agent.softplus-offset 250 --agent.critic-learning-rate 1e-3",
    "navigate_gcbc": f"gcbc {NAVIGATE} --steps 8000 --batch-size 1024 --actor-goals.geometric 1 "
    "--actor-goals.uniform 0",
    "arena_metra": "metra --env qmkernels/PointArena-v0",
    "arena_metra_mrn": "metra --env qmkernels/PointArena-v0 --head mrn",
    "arena_metra_iqe": "metra --env qmkernels/PointArena-v0 --head iqe",
    "halfcheetah_metra": "metra --env HalfCheetah-v5 --steps 10000 --action-repeat 4 --episodes-per-cycle 16 "
    "--agent.no-discrete-skills --agent.skill-size 2",
    "ant_metra": "metra --env Ant-v5 --steps 10000 --action-repeat 4 --episodes-per-cycle 16 "
    "--agent.no-discrete-skills --agent.skill-size 2",
    "pendulum_iqrl": "iqrl --env Pendulum-v1",
    "cartpole_swingup_iqrl": "iqrl --env dm_control/cartpole-swingup-v0",
    "fetchreach_qrl": "qrl --env FetchReach-v4 --preset small --steps 2000",
    "fetchreach_not_standardised": "qrl --env FetchReach-v4 --preset small --steps 2000 --no-standardise",
    "medium_qrl": "qrl --env PointMaze_Medium-v3 --agent.softplus-offset 120 --agent.fourier-features 64 "
    "--agent.num-critics 1 --evaluation-interval 4000 --evaluate-with greedy actor",
    "medium_without_features": "qrl --env PointMaze_Medium-v3 --agent.softplus-offset 120 "
    "--agent.num-critics 1 --evaluation-interval 4000 --evaluate-with greedy actor",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="experiments whose name holds this text, such as a method")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs, with checkpoints")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "agents", help="folder of what is kept")
    options = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    names = [name for name in EXPERIMENTS if options.only in name]
    for kind, file in DATA.items():
        if any(str(file) in EXPERIMENTS[name] for name in names) and not file.exists():
            make = [sys.executable, HERE / "make_maze_data.py", "--kind", kind, "--out", file]
            subprocess.run(make, check=True)
    for name in names:
        for seed in options.seeds:
            arguments = ["train", *shlex.split(EXPERIMENTS[name]), "--seed", str(seed)]
            folder = options.runs / f"{name}_{seed}"
            command = [sys.executable, "-m", "qmkernels.cli", *arguments, "--out", str(folder)]
            status = subprocess.run(command, env=environment).returncode
            if status:
                return status
            keep(folder, options.out / name, seed, shlex.join(["qmkernels", *arguments]))
    return 0


def keep(folder: Path, out: Path, seed: int, command: str) -> None:
    """Copies a run's metrics, with command, commit and machine, and the first seed's figure."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["settings"].pop("out")
    kept = {"command": command, "commit": commit(), "machine": cpu_model(), **metrics}
    (out / f"seed_{seed}.json").write_text(json.dumps(kept, indent=1) + "\n")
    if seed == 0:
        shutil.copy(folder / "success.png", out / "seed_0.png")


if __name__ == "__main__":
    sys.exit(main())
