"""Contracts that users run on their own adapters. Imports agents, hooks and saliency."""

from saliency_wrappers.testing.adapter_contract import AdapterContractError, check_adapter
from saliency_wrappers.testing.agent_snapshot import AgentSnapshot

__all__ = ["AdapterContractError", "AgentSnapshot", "check_adapter"]
