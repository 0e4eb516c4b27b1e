"""Keys behind a password as cosign keeps them: arguments OURS OUR-PUBLIC THEIRS THEIR-PUBLIC, the password in COSIGN_PASSWORD.

Opens the first and checks that it belongs to the second; makes the other two. Written from the form that go-securesystemslib gives such keys; scrypt is
OpenSSL's, the secretbox libsodium's.
"""

import base64
import hashlib
import json
import os
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.secret import SecretBox

LABEL = "ENCRYPTED SIGSTORE PRIVATE KEY"
ours, our_public, theirs, their_public = sys.argv[1:]
password = os.environ["COSIGN_PASSWORD"].encode()


def key_of(salt, cost):
    return hashlib.scrypt(password, salt=salt, n=cost["N"], r=cost["r"], p=cost["p"], maxmem=1 << 30, dklen=32)


def public_of(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


with open(ours, encoding="ascii") as file:
    first, *body, last = file.read().splitlines()
assert (first, last) == (f"-----BEGIN {LABEL}-----", f"-----END {LABEL}-----"), first
sealed = json.loads(base64.b64decode("".join(body), validate=True))
assert sealed["kdf"]["name"] == "scrypt" and sealed["cipher"]["name"] == "nacl/secretbox", sealed
assert sealed["kdf"]["params"] == {"N": 65536, "r": 8, "p": 1}, sealed
part = {name: base64.b64decode(text, validate=True) for name, text in (("salt", sealed["kdf"]["salt"]), ("nonce", sealed["cipher"]["nonce"]), ("text", sealed["ciphertext"]))}
der = SecretBox(key_of(part["salt"], sealed["kdf"]["params"])).decrypt(part["text"], part["nonce"])
key = serialization.load_der_private_key(der, password=None)
with open(our_public, "rb") as file:
    assert public_of(key) == file.read()

# And one as cosign 1 made them: another label, half the cost.
key = ec.generate_private_key(ec.SECP256R1())
der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
salt, nonce, cost = os.urandom(32), os.urandom(24), {"N": 32768, "r": 8, "p": 1}
encode = lambda value: base64.b64encode(value).decode()
sealed = {
    "kdf": {"name": "scrypt", "params": cost, "salt": encode(salt)},
    "cipher": {"name": "nacl/secretbox", "nonce": encode(nonce)},
    "ciphertext": encode(SecretBox(key_of(salt, cost)).encrypt(der, nonce).ciphertext),
}
body = encode(json.dumps(sealed).encode())
lines = [body[start : start + 64] for start in range(0, len(body), 64)]
label = "ENCRYPTED COSIGN PRIVATE KEY"
with open(theirs, "w", encoding="ascii") as file:
    file.write("\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]))
with open(their_public, "wb") as file:
    file.write(public_of(key))
