"""Whose name it is: a real lab signs its description with its key, the server holds it against it.

Flower proves which key a node has, not which lab it speaks for. The signature covers run, node and
name, so it is worth nothing in another run, from another node or for another name.
"""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_HASH = ec.ECDSA(hashes.SHA384())


def sign(private: bytes, run: int, node: int, lab: str) -> bytes:
    """Sign that this node is this lab in this run.

    Parameters
    ----------
    private
        The lab's private key, OpenSSH format: its SuperNode's.
    run, node
        Flower's numbers.
    lab
        Name of the lab.

    Raises
    ------
    ValueError
        If it is no EC key in that format.
    """
    key = serialization.load_ssh_private_key(private, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("should be an EC key")
    return key.sign(_claim(run, node, lab), _HASH)


def is_signed(public: bytes, signature: bytes, run: int, node: int, lab: str) -> bool:
    """Say whether the owner of a public key, OpenSSH format, has signed exactly this.

    Raises
    ------
    ValueError
        If it is no EC key in that format.
    """
    try:
        key = serialization.load_ssh_public_key(public)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("should be an EC key")
    try:
        key.verify(signature, _claim(run, node, lab), _HASH)
    except InvalidSignature:
        return False
    return True


def _claim(run: int, node: int, lab: str) -> bytes:
    # The first line keeps it apart from all else that is signed with the key (Flower's requests).
    return f"FedSC: a node is a lab in a run\n{run}\n{node}\n{lab}".encode()
