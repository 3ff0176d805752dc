import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from deployment.certificates import (
    Pair,
    certificate_problems,
    issue,
    make_ca,
    make_supernode_key,
    public_of,
)


@pytest.fixture(scope="module")
def ca():
    return make_ca("test")


def _handshake(pair: Pair, authority: bytes, name: str, folder) -> str | None:
    """Shake hands over a socket pair, as strictly as OpenSSL can; raise what the client raises.

    Gives the version of TLS the two agreed on.
    """
    (folder / "crt").write_bytes(pair.certificate)
    (folder / "key").write_bytes(pair.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "crt", folder / "key")
    client = ssl.create_default_context(cadata=authority.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ours, client.wrap_socket(ours, server_hostname=name) as trusted:
            return trusted.version()
    finally:
        thread.join()


@pytest.mark.parametrize("name", ["fed.example.org", "10.0.0.7", "localhost", "127.0.0.1"])
def test_a_server_is_trusted_under_all_its_names(ca, name, tmp_path):
    server = issue(ca, ["fed.example.org", "10.0.0.7"])
    assert _handshake(server, ca.certificate, name, tmp_path) == "TLSv1.3"


def test_a_server_is_not_trusted_under_another_name(ca, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(issue(ca, ["fed.example.org"]), ca.certificate, "evil.example.org", tmp_path)


def test_a_server_of_another_authority_is_not_trusted(ca, tmp_path):
    # Of the same name, so that the signature decides.
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(issue(make_ca("test"), ["a"]), ca.certificate, "a", tmp_path)


def test_a_private_key_is_not_shown(ca):
    assert "PRIVATE KEY" not in repr(ca)


def test_an_issued_certificate_signs_no_other(ca):
    authority = x509.load_pem_x509_certificate(ca.certificate)
    server = x509.load_pem_x509_certificate(issue(ca, ["a"], days=7).certificate)
    constraints = [
        cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        for cert in (authority, server)
    ]
    assert constraints == [True, False]
    left = server.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


def test_flower_reads_the_supernode_s_keys(tmp_path):
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, uses_nist_ec_curve

    private, public = make_supernode_key()
    assert private.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert public.startswith(b"ecdsa-sha2-nistp384 ")
    assert public_of(private) == public
    (tmp_path / "A.pub").write_bytes(public)
    read = bytes_to_public_key(try_load_public_key(tmp_path / "A.pub"))
    assert uses_nist_ec_curve(read)
    assert isinstance(read.curve, ec.SECP384R1)
    assert make_supernode_key()[1] != public


@pytest.mark.parametrize(
    ("days_from_now", "said"),
    [
        (0, []),
        (364, ["days left: 1"]),
        (352, ["days left: 13"]),
        (351, []),
        (366, ["expired on"]),
        (-1, ["not valid before"]),
    ],
)
def test_validity_is_judged_at_a_time(ca, days_from_now, said):
    pair = issue(ca, ["a"], days=365)
    # Half an hour before the full day, so that the count of days left does not hang on seconds.
    now = datetime.now(UTC) + timedelta(days=days_from_now, minutes=-30)
    found = certificate_problems(pair.certificate, ca.certificate, pair.key, now)
    assert len(found) == len(said)
    assert all(phrase in problem for phrase, problem in zip(said, found, strict=True)), found


def test_what_does_not_belong_together_is_told(ca):
    pair, other = issue(ca, ["a"]), issue(ca, ["a"])
    stranger = make_ca("test")
    assert certificate_problems(pair.certificate, ca.certificate, None) == []
    assert certificate_problems(pair.certificate, ca.certificate, other.key) == [
        "does not belong to its private key"
    ]
    assert certificate_problems(pair.certificate, ca.certificate, b"no key") == [
        "does not belong to its private key"
    ]
    assert certificate_problems(pair.certificate, stranger.certificate, pair.key) == [
        "was not signed by the authority in ca.crt"
    ]
    assert certificate_problems(b"garbage", ca.certificate, pair.key) == [
        "is not a PEM certificate, or its authority is not"
    ]
