"""Certificates that the operator makes for itself: what is stored, when it is renewed. Pure, but
for the keys that `issue` draws.

Each serving certificate has an authority of its own, whose key is thrown away once it has signed:
who reads the Secret can pass for the webhook, and for nothing else. A new pair is stored beside the
one that serves, its authority is handed to the API server, and only then it takes over; the old
authority stays trusted, for the replicas that have not heard yet.
"""

import base64
import binascii
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)  # the end of its life
SETTLE = timedelta(minutes=5)  # every API server has heard of a new authority by then
BACKDATE = timedelta(days=1)  # for clocks that are behind, by a wrong time zone too

CURRENT = ("tls.crt", "tls.key", "ca.crt")
NEXT = ("next.crt", "next.key", "next-ca.crt")
PREVIOUS_AUTHORITY = "previous-ca.crt"


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM: a serving certificate, its key, and the authority that signed it."""

    certificate: bytes
    key: bytes
    authority: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What the Secret holds. `current` serves; `next` takes over once it is trusted."""

    current: Pair | None = None
    next: Pair | None = None
    previous_authority: bytes = b""

    @property
    def bundle(self) -> bytes:
        """Every authority that the API server is to trust."""
        pairs = (pair for pair in (self.current, self.next) if pair is not None)
        found = [*(pair.authority for pair in pairs), self.previous_authority]
        return b"".join(dict.fromkeys(pem for pem in found if pem))


Issue = Callable[[Sequence[str], datetime], Pair]


def read(data: Mapping[str, str]) -> Stored:
    """From the `data` of a Secret; what cannot be read is as if it were not there."""
    values = {name: _decoded(text) for name, text in data.items()}
    return Stored(_pair(values, CURRENT), _pair(values, NEXT), values.get(PREVIOUS_AUTHORITY, b""))


def written(stored: Stored) -> dict[str, str | None]:
    """As a merge patch of the `data`: None takes a key away."""
    values: dict[str, bytes] = {PREVIOUS_AUTHORITY: stored.previous_authority}
    for names, pair in ((CURRENT, stored.current), (NEXT, stored.next)):
        parts = (pair.certificate, pair.key, pair.authority) if pair else (b"", b"", b"")
        values.update(zip(names, parts, strict=True))
    return {
        name: base64.b64encode(value).decode() if value else None for name, value in values.items()
    }


def renewed(
    stored: Stored, next_is_trusted: bool, hosts: Sequence[str], now: datetime, issue: Issue
) -> Stored:
    """What is to be stored now; the same where nothing is to be done.

    `next_is_trusted`: the API server has the authority of `stored.next`.
    """
    current = stored.current if stored.current and usable(stored.current, hosts, now) else None
    coming = stored.next if stored.next and usable(stored.next, hosts, now, early=True) else None
    if current is None:  # at the first start, or after months without an operator
        lost = stored.current.authority if stored.current else stored.previous_authority
        if coming is None or not usable(coming, hosts, now):
            coming = issue(hosts, now)
        return Stored(coming, None, lost)
    if coming is None:
        due = now >= ends(current) - RENEW_BEFORE
        return Stored(current, issue(hosts, now) if due else None, stored.previous_authority)
    if next_is_trusted and now >= _made(coming) + SETTLE:
        return Stored(coming, None, current.authority)
    return stored


def wait(stored: Stored, now: datetime) -> timedelta:
    """Until `renewed` may have something to do without anything having changed."""
    if stored.current is None:
        return timedelta(0)
    due = ends(stored.current)
    due = min(due, _made(stored.next) + SETTLE) if stored.next else due - RENEW_BEFORE
    return max(due - now, timedelta(0))


def usable(pair: Pair, hosts: Sequence[str], now: datetime, *, early: bool = False) -> bool:
    """Whether an API server would accept it now, for every host. `early`: or later, since who made
    it may have a clock that is ahead."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        authority = x509.load_pem_x509_certificate(pair.authority)
        key = serialization.load_pem_private_key(pair.key, password=None)
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound):
        return False
    fits = key.public_key() == certificate.public_key()
    begun = early or certificate.not_valid_before_utc <= now
    in_time = begun and now < certificate.not_valid_after_utc
    return fits and in_time and all(_name(host) in names for host in hosts)


def issue(hosts: Sequence[str], now: datetime) -> Pair:
    """A new authority, and a certificate of it for these host names and IP addresses."""
    serial = x509.random_serial_number()
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    # Names differ between authorities, since verifiers look an issuer up by its name.
    authority_name = _common_name(f"shunter-webhook-ca-{serial % 2**32:08x}")
    authority = _authority(authority_name, authority_key, now)
    certificate = (
        _builder(_common_name("shunter-webhook"), authority_name, key.public_key(), now)
        .serial_number(serial)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        authority.public_bytes(serialization.Encoding.PEM),
    )


def ends(pair: Pair) -> datetime:
    """When its certificate expires. Raises ValueError where it cannot be read."""
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc


def _made(pair: Pair) -> datetime:
    return x509.load_pem_x509_certificate(pair.certificate).not_valid_before_utc + BACKDATE


def _authority(name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(name, name, key.public_key(), now)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LIFE)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _pair(values: Mapping[str, bytes], names: tuple[str, str, str]) -> Pair | None:
    certificate, key, authority = (values.get(name, b"") for name in names)
    return Pair(certificate, key, authority) if certificate and key and authority else None
