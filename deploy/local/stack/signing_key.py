"""An Ed25519 key for signing access tokens, as PKCS #8 in PEM (RFC 8410), made without a crypto library."""

import base64
import os

# The fixed start of a PKCS #8 v1 document with an Ed25519 seed (RFC 8410, section 7); the 32 bytes of the seed follow.
PKCS8_PREFIX = bytes.fromhex("302e020100300506032b657004220420")


def ensure(path):
    """Makes the key once; any 32 random bytes are a private key."""
    if not path.exists():
        body = base64.b64encode(PKCS8_PREFIX + os.urandom(32)).decode()
        fresh = path.with_name("signing-key.new.pem")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
        fresh.rename(path)
