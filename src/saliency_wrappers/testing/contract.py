"""`Contract`: laws as `test_*` methods, run by pytest or by `broken_laws`, which reports every law that does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor


class ContractError(AssertionError):
    """One or more laws of a contract do not hold.

    Attributes:
        laws: the message of each broken law by its name, `"test_..."`. Empty for the error of a single law.
    """

    def __init__(self, message: str, laws: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.laws = dict(laws or {})


class Contract:
    """Base class of contracts: each `test_*` method checks one law and raises `ContractError` where it does not hold."""

    error: type[ContractError] = ContractError
    """What a broken law raises."""

    def require(self, holds: bool, what: str) -> None:
        """Raise `error`, `"Expected: {what}."`, unless the law holds."""
        if not holds:
            raise self.error(f"Expected: {what}.")

    def check(self) -> None:
        """Run every law.

        Raises:
            ContractError: the broken laws, all of them; its subclass in `error`.
        """
        broken = broken_laws(self)
        if len(broken) == 1:
            raise self.error(next(iter(broken.values())), broken)
        if broken:
            lines = [f"{len(broken)} of {len(list(laws_of(self)))} laws do not hold:", *(f"- {law}: {why}" for law, why in broken.items())]
            raise self.error("\n".join(lines), broken)


def laws_of(contract: Contract) -> Iterator[str]:
    """Return the names of a contract's laws, inherited ones first, in the order in which they are written."""
    names = [name for kind in reversed(type(contract).__mro__) for name in vars(kind) if name.startswith("test_")]
    return iter(dict.fromkeys(names))


def broken_laws(contract: Contract) -> dict[str, str]:
    """Run every law of a contract and return the message of each one that does not hold, by its name.

    Any exception breaks the law during which it was raised, so that one fault does not hide the others.
    """
    broken: dict[str, str] = {}
    for law in laws_of(contract):
        try:
            getattr(contract, law)()
        except ContractError as error:
            broken[law] = str(error)
        except Exception as error:
            broken[law] = f"Expected: no exception, got {type(error).__name__}: {error}"
    return broken


def equal_tensors(before: Iterable[Tensor], after: Iterable[Tensor]) -> bool:
    """Whether two sequences hold equal tensors."""
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
