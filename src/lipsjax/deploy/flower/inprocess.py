"""Flower rounds in one process: a grid whose nodes are calls of a ClientApp. No Ray, no network.

This file stands by itself: it needs Flower alone. Every node gets a copy of its message, as over a
network; a client that raises ends the run with its own error, where a network would send the error
as a reply.
"""

import copy
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class InProcess(Grid):
    """Nodes 0..K-1 in this process, each with a context of its own.

    Args:
      app: the client.
      node_configs: of each node; Flower's simulation gives partition-id and num-partitions.
      run_config: of all.
    """

    def __init__(
        self, app: ClientApp, node_configs: Sequence[dict], run_config: dict[str, Any]
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.app = app
        self.contexts = {
            node: Context(1, node, dict(config), RecordDict(), dict(run_config))
            for node, config in enumerate(node_configs, start=2)
        }
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self.contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let each node answer in turn."""
        del timeout  # nobody is waited for
        return list(self.pull_messages(self.push_messages(messages)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each node answer in turn, and keep the answers."""
        names = []
        for message in messages:
            names.append(str(uuid4()))
            context = self.contexts[message.metadata.dst_node_id]
            self._replies[names[-1]] = self.app(copy.deepcopy(message), context)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers to messages."""
        return [self._replies.pop(name) for name in message_ids]

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None) -> Message:
        """Create a message, as Flower's older workflows do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """Return the number of the run, which is all that Flower's older workflows ask for."""
        return SimpleNamespace(run_id=1)
