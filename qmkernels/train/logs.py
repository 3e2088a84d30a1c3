"""Where the measures of a run go while it trains: TensorBoard, and Weights & Biases where asked for."""

from __future__ import annotations

import uuid

from torch.utils.tensorboard import SummaryWriter

from .settings import Settings

ID_NAME = "wandb.txt"


class Log:
    """Numbers by update. A run that resumes from a checkpoint continues the same records."""

    def __init__(self, settings: Settings, method: str, step: int) -> None:
        self._writer = SummaryWriter(settings.out / "tensorboard", purge_step=step)
        self._run = None
        if settings.wandb:
            import wandb

            path = settings.out / ID_NAME
            if step == 0 or not path.exists():
                path.write_text(uuid.uuid4().hex)
            self._run = wandb.init(
                project=settings.wandb, dir=str(settings.out), id=path.read_text(), resume="allow",
                name=f"{method} {settings.env} seed {settings.seed}", config={"method": method, **settings.plain()},
            )  # fmt: skip
            # By a number of our own: what is logged again after a kill would be behind W&B's.
            self._run.define_metric("*", step_metric="step")

    def add(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({**values, "step": step})

    def close(self) -> None:
        self._writer.close()
        if self._run is not None:
            self._run.finish()
