"""What the Programs of an app have in common, of the shim's apps and of genuine ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from emq_compat.run import TaskPolicy

__all__ = ["AppProgram"]


class AppProgram(ABC):
    """The names, policies and settings of an app's tasks (run.Program), read by Celery's names.

    Attributes:
        app: the app.
    """

    app: Any
    _policies: dict[str, TaskPolicy] | None = None

    @property
    def name(self) -> str:
        """The app's name."""
        return self.app.main or "__main__"

    @property
    def default_queue(self) -> str:
        """The setting task_default_queue."""
        return str(self.app.conf.task_default_queue)

    @property
    def default_policy(self) -> TaskPolicy:
        """The settings task_acks_late, task_time_limit …, for what names no registered task."""
        conf = self.app.conf
        return TaskPolicy(
            acks_late=bool(conf.task_acks_late),
            reject_on_worker_lost=bool(conf.task_reject_on_worker_lost),
            limit_s=conf.task_time_limit,
            soft_limit_s=conf.task_soft_time_limit,
        )

    @property
    def policies(self) -> dict[str, TaskPolicy]:
        """Task name → policy of every registered task; imports the app's task modules first."""
        if self._policies is None:
            self.load()
            self._policies = {name: self.policy_of(task) for name, task in self.app.tasks.items()}
        return self._policies

    def limit_time(self, task: str, limit_s: float | None, soft_limit_s: float | None) -> None:
        """Give a registered task other time limits, in seconds (None: none), from its next run on."""
        policies = self.policies
        policies[task] = replace(policies[task], limit_s=limit_s, soft_limit_s=soft_limit_s)

    @abstractmethod
    def policy_of(self, task: Any) -> TaskPolicy:
        """Return the policy of a registered task."""

    @abstractmethod
    def load(self) -> None:
        """Make the app current and import its task modules; raises what importing one of them raises."""
