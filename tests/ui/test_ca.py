"""The certificate authority of the first start."""

import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from mitmproxy.certs import CertStore

from addon.ui import ca


def made(folder: Path) -> x509.Certificate:
    ca.make(folder)
    return x509.load_pem_x509_certificate((folder / ca.FILE).read_bytes())


def test_its_key_is_p256_and_its_own_alone(tmp_path: Path) -> None:
    key = made(tmp_path).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert stat.S_IMODE((tmp_path / ca.FILE).stat().st_mode) == 0o600
    for public in tmp_path.glob("mitmproxy-ca-cert.*"):
        assert b"PRIVATE" not in public.read_bytes()


def test_it_says_what_strict_clients_ask_for(tmp_path: Path) -> None:
    certificate = made(tmp_path)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert constraints.value.ca
    assert usage.critical
    assert usage.value.key_cert_sign
    certificate.verify_directly_issued_by(certificate)


def test_a_name_that_it_vouches_for_passes_the_strictest_check(tmp_path: Path) -> None:
    ca.make(tmp_path)
    store = CertStore.from_store(tmp_path, "mitmproxy", 2048)
    leaf = store.get_cert("registry-1.docker.io", [x509.DNSName("registry-1.docker.io")])
    (tmp_path / "leaf.pem").write_bytes(leaf.cert.to_pem() + (tmp_path / ca.FILE).read_bytes())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "leaf.pem")
    client = ssl.create_default_context(cafile=tmp_path / "mitmproxy-ca-cert.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname="registry-1.docker.io")
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (asking, answering, asking):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert asking.version() == "TLSv1.3"


def test_every_form_holds_the_same(tmp_path: Path) -> None:
    certificate = made(tmp_path)
    for end in ("pem", "cer"):
        assert x509.load_pem_x509_certificate((tmp_path / f"mitmproxy-ca-cert.{end}").read_bytes()) == certificate
    bundle = pkcs12.load_pkcs12((tmp_path / "mitmproxy-ca-cert.p12").read_bytes(), None)
    assert bundle.key is None
    assert bundle.cert is None or bundle.cert.certificate == certificate


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    CertStore.create_store(tmp_path, "mitmproxy", 2048)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ca.make(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_of_several_starts_one_makes_it(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def start() -> None:
        ready.wait()
        ca.make(tmp_path)

    starts = [threading.Thread(target=start) for _ in range(8)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    written = [
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in (ca.FILE, "mitmproxy-ca-cert.pem")
    ]
    assert written[0] == written[1]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_holds_no_certificate_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ca.FILE).write_text("nothing\n")
    with pytest.raises(ValueError, match="PEM"):
        ca.make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ca.FILE]
