"""A health daemon for tests of how one is set up: it uses its token, or does not, as it is told to.

Runs inside a sidecar as `python3 /ic.pyz healthd`, with the standard library alone. MANNER is replaced by
`source`: `good`, `deaf` (never looks for a token), `refused`, `ended` (exit 3 at once), `late` (ends after a
second), or the states that one with an identity comes to: `watching`, `unreachable`,
`untrusted`, `dies` (exit 5). CERTIFICATE is a PEM file with key and certificate, made by who runs the test.
"""

import base64
import hashlib
import json
import os
import socket
import ssl
import sys
import time

MANNER: str = "good"
CERTIFICATE: str = ""
HOME = "/run/secrets/ic-healthd"
TOKEN = "/dev/shm/ic-token/token"


def source(manner: str, certificate: str) -> bytes:
    """This very file, told how to behave."""
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    text = text.replace('MANNER: str = "good"', f"MANNER: str = {manner!r}", 1)
    return text.replace('CERTIFICATE: str = ""', f"CERTIFICATE: str = {certificate!r}", 1).encode()


def tell(word: str, **more: object) -> None:
    body = {"state": word, "since": int(time.time() * 1000), **more}
    with open(HOME + "/new", "w", encoding="utf-8") as file:
        json.dump(body, file)
    os.replace(HOME + "/new", HOME + "/state.json")


def log(word: str) -> None:
    when = time.time()
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1000):03d}Z"
    with open(HOME + "/daemon.log", "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": text, "event": word}) + "\n")


def registered(token: bytes) -> int:
    """The status of the server's answer to the exchange."""
    with open("/dev/shm/pem", "w", encoding="utf-8") as file:
        file.write(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain("/dev/shm/pem")
    plain = socket.socket(socket.AF_UNIX)
    plain.connect("/dev/shm/ic-api.sock")
    body = json.dumps({"type": "client", "trust_token": token.decode().strip()}).encode()
    head = f"POST /1.0/certificates HTTP/1.0\r\nHost: incus\r\nContent-Length: {len(body)}\r\n\r\n"
    with context.wrap_socket(plain) as secured:
        peer = hashlib.sha256(secured.getpeercert(True) or b"").hexdigest()
        assert peer == json.loads(base64.b64decode(token))["fingerprint"]
        secured.sendall(head.encode() + body)
        return int(secured.recv(4096).split()[1])


def main() -> None:
    sys.stdout.write(f"stand-in: {MANNER}\n")
    sys.stdout.flush()
    if MANNER == "ended":
        sys.exit(3)
    log(f"begun-{MANNER}")
    if MANNER in ("watching", "unreachable", "untrusted", "dies"):
        tell("starting")
        time.sleep(0.5)
        if MANNER == "dies":
            sys.exit(5)
        tell(MANNER, detail="so it is")
        while True:
            time.sleep(60)
    tell("waiting-for-token", detail="no token lies there")
    if MANNER == "late":
        time.sleep(1)
        sys.exit(4)
    while MANNER == "deaf" or not os.path.exists(TOKEN):
        time.sleep(0.05)
    with open(TOKEN, "rb") as file:
        token = file.read()
    status = registered(token) if MANNER == "good" else 403
    os.remove(TOKEN)
    if status == 201:
        der = ssl.PEM_cert_to_DER_cert(CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :])
        tell("watching", certificate=hashlib.sha256(der).hexdigest())
    else:
        tell("token-refused", detail=f"the server answered {status}")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
