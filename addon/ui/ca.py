"""The certificate authority, made by the first start.

mitmproxy makes one with an RSA key where there is none, and signs each host's certificate with that same key. A P-256
key does the same with a fraction of the arithmetic, in every handshake with a client that opens a connection per
request.
The files have the names, and the form, that mitmproxy gives them, so that all its own means work on them.
"""

import contextlib
import datetime
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

NAME = "mitmproxy-ca"
FILE = f"{NAME}.pem"
"""The key and the certificate."""
_YEARS = 10


def make(folder: Path) -> None:
    """Make the authority, unless there is one.

    Raises:
        OSError: the folder cannot be written.
        ValueError: the file that is there holds no certificate.
    """
    authority = folder / FILE
    if not authority.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        _write_secret(authority, secret + _certificate(key).public_bytes(serialization.Encoding.PEM))
    if not (folder / f"{NAME}-cert.pem").exists():
        # Out of the file that is there, which may be another start's.
        certificate = x509.load_pem_x509_certificate(authority.read_bytes())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        bundle = pkcs12.serialize_key_and_certificates(
            NAME.encode(), None, certificate, None, serialization.NoEncryption()
        )
        for end, content in (("p12", bundle), ("cer", pem), ("pem", pem)):
            (folder / f"{NAME}-cert.{end}").write_bytes(content)


def _write_secret(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(fresh)
    fresh.unlink()


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "Pulltap"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Pulltap, the registry proxy of this machine"),
        ]
    )
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
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of clients differ.
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
