"""Key and certificate: numbers by the standard's own examples, forms by what OpenSSL says of them."""

import contextlib
import os
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.healthd import certificate
from tests.boot import interpreters

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# RFC 6979, A.2.5: curve P-256, SHA-256, message "sample".
PRIVATE = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
PUBLIC = (
    0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6,
    0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299,
)
K = 0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60
SIGNATURE = (
    0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
    0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
)
NOW = 1_795_000_000


def test_the_public_point_is_that_of_the_standards_example() -> None:
    assert certificate.multiple(PRIVATE) == PUBLIC


def test_the_signature_is_that_of_the_standards_example() -> None:
    signature = certificate.sign(b"sample", PRIVATE, lambda size: (K - 1).to_bytes(size, "big"))
    assert signature == SIGNATURE
    assert certificate.verified(b"sample", signature, PUBLIC)


@given(private=st.integers(1, certificate.N - 1), message=st.binary(max_size=64))
def test_what_is_signed_verifies_and_nothing_else_does(private: int, message: bytes) -> None:
    public = certificate.multiple(private)
    r, s = certificate.sign(message, private, os.urandom)
    assert certificate.verified(message, (r, s), public)
    assert not certificate.verified(message + b"x", (r, s), public)
    assert not certificate.verified(message, (r, s % (certificate.N - 1) + 1), public)
    assert not certificate.verified(message, (0, s), public)


def test_multiples_stay_on_the_curve_and_the_last_is_the_first_mirrored() -> None:
    for number in (1, 2, 3, certificate.N - 2, certificate.N - 1):
        x, y = certificate.multiple(number)
        assert (y * y - (x**3 - 3 * x + certificate.B)) % certificate.P == 0
    x, y = certificate.multiple(certificate.N - 1)
    assert (x, certificate.P - y) == certificate.G


def written(folder: Path, name: str, now: int) -> tuple[Path, Path]:
    """A fresh pair as files: certificate, key."""
    key, text = certificate.make(name, now, os.urandom)
    paths = (folder / f"{name}.crt", folder / f"{name}.key")
    paths[0].write_text(text)
    paths[1].write_text(key)
    return paths


def test_openssl_finds_key_certificate_and_signature_right(tmp_path: Path) -> None:
    made, key = written(tmp_path, "ic-healthd shop", int(time.time()))
    for command in (
        ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-CAfile", str(made), str(made)],
        ["openssl", "pkey", "-in", str(key), "-check", "-noout"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_sides_of_a_tls_1_3_handshake_take_it(tmp_path: Path) -> None:
    now = int(time.time())
    client_pair, server_pair = written(tmp_path, "client", now), written(tmp_path, "server", now)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(*client_pair)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(client_pair[0])
    server.load_cert_chain(*server_pair)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[1].getpeercert(binary_form=True) == certificate.der_of(client_pair[0].read_text())


def test_a_certificate_says_from_when_until_when_it_is_good() -> None:
    for now in (
        NOW,
        2_600_000_000,
    ):  # the second ends after 2049, where another form of time begins
        _, text = certificate.make("x", now, os.urandom)
        found = certificate.lifetime(certificate.der_of(text))
        assert found == (now - certificate.BACKDATED, now + certificate.LIFETIME)


def test_no_two_certificates_are_equal() -> None:
    made = [certificate.make("x", NOW, os.urandom) for _ in range(8)]
    assert len({key for key, _ in made}) == len({text for _, text in made}) == 8


@given(cut=st.integers(0, 400), junk=st.binary(max_size=8))
def test_a_damaged_certificate_is_none_and_never_another_failure(cut: int, junk: bytes) -> None:
    der = certificate.der_of(certificate.make("x", NOW, lambda size: b"\x07" * size)[1])
    damaged = der[:cut] + junk + der[cut + len(junk) :]
    try:
        certificate.lifetime(damaged)
    except ValueError:
        return
    assert len(damaged) >= 80


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----",
        "x\n-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        certificate.lifetime(certificate.der_of(text))


@pytest.mark.parametrize("label", interpreters.GOOD)
def test_every_interpreter_makes_the_same_of_the_same_randomness(label: str) -> None:
    script = (
        "from ic.healthd import certificate as c;"
        f"print(''.join(c.make('x', {NOW}, lambda size: b'\\x07' * size)))"
    )
    done = subprocess.run(
        [interpreters.GOOD[label], "-c", script],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    expected = "".join(certificate.make("x", NOW, lambda size: b"\x07" * size))
    assert done.stdout.strip() == expected.strip()
