"""Certificates for TLS, and the keys with which labs' SuperNodes prove who they are.

All keys are EC P-384, as Flower asks of SuperNodes. A deployment has a certificate authority of
its own: labs trust it alone, not the ones their system trusts.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
"""Validity of the authority, and of certificates used inside one lab's machine."""
SERVER_DAYS = 365
"""Validity of the server's certificate."""

_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_ca(name: str, days: int = CA_DAYS) -> Pair:
    """Make a certificate authority that may sign servers, nothing else."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(_pem(builder.sign(key, hashes.SHA384())), _pkcs8(key))


def issue(ca: Pair, names: Iterable[str], days: int = SERVER_DAYS) -> Pair:
    """Issue a server certificate for host names and IP addresses; ``localhost`` is added.

    Parameters
    ----------
    ca
        The authority.
    names
        Host names or IP addresses; the first also becomes the subject.
    days
        Validity, from an hour ago (clocks differ) for so many days.
    """
    authority = x509.load_pem_x509_certificate(ca.certificate)
    signer = serialization.load_pem_private_key(ca.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key should be an EC key")
    key = ec.generate_private_key(ec.SECP384R1())
    every = list(dict.fromkeys([*names, "localhost", "127.0.0.1"]))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, every[0][:64])])
    builder = (
        _builder(subject, authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in every]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return Pair(_pem(builder.sign(signer, hashes.SHA384())), _pkcs8(key))


def make_supernode_key() -> tuple[bytes, bytes]:
    """Make a lab's key pair in the OpenSSH format Flower reads.

    Returns
    -------
    private, public
        The private key never leaves the lab; the public one is registered at the server.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return private, public_of(private)


def public_of(private: bytes) -> bytes:
    """Give the public key, OpenSSH format, of a private one.

    Raises
    ------
    ValueError
        If it is no key in that format.
    """
    key = serialization.load_ssh_private_key(private, password=None)
    return key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


def certificate_problems(
    certificate: bytes, ca: bytes, key: bytes | None, now: datetime | None = None
) -> list[str]:
    """Say what is wrong with a certificate, one phrase each.

    Parameters
    ----------
    certificate, ca
        PEM.
    key
        Its private key, PEM; ``None`` when it should not be here.
    now
        Time to judge it at, with time zone; default: the clock.
    """
    now = now or datetime.now(UTC)
    try:
        cert, authority = map(x509.load_pem_x509_certificate, (certificate, ca))
    except ValueError:
        return ["is not a PEM certificate, or its authority is not"]
    problems = []
    if now < cert.not_valid_before_utc:
        problems.append(
            f"is not valid before {cert.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: is this "
            "machine's clock right?"
        )
    if now > cert.not_valid_after_utc:
        problems.append(f"expired on {cert.not_valid_after_utc:%Y-%m-%d}")
    elif (left := (cert.not_valid_after_utc - now).days) < _WARN_DAYS:
        problems.append(f"expires on {cert.not_valid_after_utc:%Y-%m-%d} (days left: {left})")
    try:
        cert.verify_directly_issued_by(authority)
    except Exception:
        problems.append("was not signed by the authority in ca.crt")
    if key is not None and not _fits(cert, key):
        problems.append("does not belong to its private key")
    return problems


_WARN_DAYS = 14


def _fits(certificate: x509.Certificate, key: bytes) -> bool:
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        return False
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
