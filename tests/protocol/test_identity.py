import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from deployment.certificates import make_supernode_key
from protocol.identity import is_signed, sign

PRIVATE, PUBLIC = make_supernode_key()
_, OTHER = make_supernode_key()


def test_a_signature_holds_for_this_key_run_node_and_name_alone():
    signature = sign(PRIVATE, 7, 2**63 + 1, "charite")
    assert is_signed(PUBLIC, signature, 7, 2**63 + 1, "charite")
    assert len(signature) <= 128
    for key, run, node, lab in [
        (OTHER, 7, 2**63 + 1, "charite"),
        (PUBLIC, 8, 2**63 + 1, "charite"),
        (PUBLIC, 7, 2**63, "charite"),
        (PUBLIC, 7, 2**63 + 1, "ukb"),
    ]:
        assert not is_signed(key, signature, run, node, lab)


def test_digits_do_not_move_from_one_number_to_the_next():
    assert not is_signed(PUBLIC, sign(PRIVATE, 1, 23, "A"), 12, 3, "A")


@pytest.mark.parametrize("signature", [b"", b"x" * 100, sign(PRIVATE, 7, 1, "A")[:-1]])
def test_what_is_no_signature_proves_nothing(signature):
    assert not is_signed(PUBLIC, signature, 7, 1, "A")


def test_other_keys_are_refused():
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    for text in (private, b"rubbish", b""):
        with pytest.raises(ValueError, match=r"."):
            sign(text, 1, 1, "A")
    for text in (public, b"rubbish", b"", b"ssh-dss AAAA"):
        with pytest.raises(ValueError, match=r"."):
            is_signed(text, b"x", 1, 1, "A")
