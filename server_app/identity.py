"""Which lab a node may say it is: a real lab's name belongs to its key."""

import os
from dataclasses import dataclass
from pathlib import Path

from deployment.register import VARIABLE, key_of, register_of
from protocol.describe import About


@dataclass(frozen=True)
class Identities:
    """Hold what nodes say they are against the register.

    Attributes
    ----------
    register
        Folder of the labs' public keys; ``None`` where nobody has made one, as in a simulation.
    run
        Flower's number of the run.
    """

    register: Path | None = None
    run: int = 0

    @classmethod
    def here(cls, run: int) -> "Identities":
        """Take the register that the environment of this process names."""
        return cls(register_of(os.environ), run)

    def against(self, lab: str, about: About) -> str:
        """Say what speaks against a node that says it is a lab; nothing when it proves it.

        Without a register, nodes are taken at their word.
        """
        if self.register is None:
            return ""
        if about.simulated:
            return (
                f"node {about.node} says that it is a simulation with a lab {lab}; the labs of "
                f"this server are real ({VARIABLE} is set)"
            )
        key = key_of(self.register, lab)
        if key is None:
            return (
                f"node {about.node} calls itself {lab}, and no lab of that name is registered: "
                "fedsc deploy register makes its key known"
            )
        if not about.signature:
            return f"node {about.node} calls itself {lab} and has not signed it with {lab}'s key"
        if not self._signed(key, lab, about):
            return (
                f"node {about.node} calls itself {lab}, and its signature is not by {lab}'s key "
                "over this run, node and name"
            )
        return ""

    def _signed(self, key: bytes, lab: str, about: About) -> bool:
        from protocol.identity import is_signed

        try:
            return is_signed(key, about.signature, self.run, about.node, lab)
        except ValueError:  # a register that was damaged lets nobody in
            return False
