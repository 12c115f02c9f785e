"""Keys of nodes and certificates of servers, as files in a folder.

A server's folder: ``server.key`` (secret), ``server.pem`` (its certificate, given to silos) and ``nodes/NAME.pub``, the
public keys of the silos that may join. A silo's folder: ``NAME.key`` (secret), ``NAME.pub`` (given to the server) and
``server.pem``. All are Ed25519; the certificate is the server's own signature, so a silo trusts it and no other.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.deployment.seals import Signatures
from fedmm.deployment.silo import SERVER
from fedmm.errors import ConfigError
from fedmm.utils.files import storage_error

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

SERVER_KEY, CERTIFICATE, NODES = "server.key", "server.pem", "nodes"
YEARS = 10
MAKE_SERVER = "Make it with: fedmm federation keys FOLDER --server HOST"


@dataclass(frozen=True, eq=False)
class Identity:
    """What one side needs: how it seals, and its TLS."""

    seal: Signatures
    tls: ssl.SSLContext


def make_server_keys(folder: Path, host: str) -> list[Path]:
    """Writes a server's key and certificate for ``host``, and the empty folder of nodes. Raises ConfigError where
    there is a key already, StorageError where nothing can be written."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    private = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, None)
    )
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(folder / SERVER_KEY, secret, secret=True)
    _write(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM))
    (folder / NODES).mkdir(exist_ok=True)
    return [folder / SERVER_KEY, folder / CERTIFICATE, folder / NODES]


def make_node_keys(folder: Path, node: str) -> list[Path]:
    """Writes a silo's key and the public half. Raises ConfigError and StorageError as ``make_server_keys`` does."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    _write(folder / f"{node}.key", private.private_bytes_raw().hex().encode() + b"\n", secret=True)
    _write(folder / f"{node}.pub", private.public_key().public_bytes_raw().hex().encode() + b"\n")
    return [folder / f"{node}.key", folder / f"{node}.pub"]


def server_identity(folder: Path) -> Identity:
    """The server's side. Raises ConfigError where a file is missing or is something else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key, certificate = folder / SERVER_KEY, folder / CERTIFICATE
    try:
        private = load_pem_private_key(_read(key, MAKE_SERVER), None)
    except ValueError:
        raise ConfigError(f"{key} is no private key.", MAKE_SERVER) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{key} is no Ed25519 key.", MAKE_SERVER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate} does not belong to {key}: {error}.", MAKE_SERVER) from None
    return Identity(Signatures(private.private_bytes_raw(), known_nodes(folder)), context)


def known_nodes(folder: Path) -> Mapping[str, bytes]:
    """Public keys of the silos that may join, by name. Raises ConfigError where a file is no key."""
    return {path.stem: _raw_key(path) for path in sorted((folder / NODES).glob("*.pub"))}


def node_identity(folder: Path, node: str) -> Identity:
    """A silo's side. Raises ConfigError where a file is missing or is something else."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    private = _raw_key(folder / f"{node}.key", f"Make it with: fedmm federation keys {folder} --node {node}")
    path = folder / CERTIFICATE
    try:
        public = x509.load_pem_x509_certificate(_read(path, "Ask whoever leads the federation for it.")).public_key()
    except ValueError:
        raise ConfigError(f"{path} is no certificate.", "Ask whoever leads the federation for it.") from None
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{path} is no Ed25519 certificate.", "Ask whoever leads the federation for it.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(path)
    return Identity(Signatures(private, {SERVER: public.public_bytes_raw()}), context)


def _alternative(host: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _raw_key(path: Path, remedy: str = "Give the .pub file that the silo made.") -> bytes:
    try:
        found = bytes.fromhex(_read(path, remedy).decode().strip())
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ConfigError(f"{path} is no key: 64 hex digits are one.", remedy)
    return found


def _read(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.", remedy) from None


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Writes a new file; a secret one that its owner alone can read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if secret else 0o644)) as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(f"{path} is there already.", "Remove it first if nobody relies on it any more.") from None
    except OSError as error:
        raise storage_error(path, error) from error
