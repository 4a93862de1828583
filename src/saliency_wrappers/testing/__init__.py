"""Contracts that users run on their own adapters, methods and scorers, and a tiny agent and environment for examples."""

from saliency_wrappers.testing.adapter_contract import AdapterContract, AdapterContractError, check_adapter
from saliency_wrappers.testing.agent_snapshot import AgentSnapshot
from saliency_wrappers.testing.contract import ContractError
from saliency_wrappers.testing.counting_env import CountingEnv
from saliency_wrappers.testing.method_contract import MethodContractError, SaliencyMethodContract, check_method
from saliency_wrappers.testing.scorer_contract import ScorerContract, ScorerContractError, check_scorer
from saliency_wrappers.testing.tiny_agent import TinyAgent

__all__ = [
    "AdapterContract",
    "AdapterContractError",
    "AgentSnapshot",
    "ContractError",
    "CountingEnv",
    "MethodContractError",
    "SaliencyMethodContract",
    "ScorerContract",
    "ScorerContractError",
    "TinyAgent",
    "check_adapter",
    "check_method",
    "check_scorer",
]
