"""``python deploy/kubernetes/make_secrets.py``: draw the secrets that the manifests refer to, each made once.

Takes the cluster that kubectl talks to; gives Secrets in its namespace.  One that is there stays as it is, so the same
command may be run again.  Nothing secret is written to a disk, printed, or stands in a command line.

Keys of an S3 of your own come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment; with --own-storage
keys for the namespace's own SeaweedFS are drawn.
"""

import argparse
import base64
import datetime
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping

BUCKET = "eeg2fmri"
SERVER_KEYS = "SEAWEEDFS_IDENTITIES"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
VALID_DAYS = 365
EXIT_BAD_INPUT = 2


def main() -> int:
    """Make every Secret that is missing; print the names."""
    arguments = parse_arguments()
    if not arguments.own_storage and not all(os.environ.get(name) for name in KEYS):
        print(f"error: set {' and '.join(KEYS)}, or give --own-storage for keys of a new store", file=sys.stderr)
        return EXIT_BAD_INPUT
    there = names_there(arguments.namespace)
    wanted = {
        **new_secrets(),
        "object-storage": new_storage() if arguments.own_storage else {name: os.environ[name] for name in KEYS},
        **({"tls": self_signed(arguments.self_signed)} if arguments.self_signed else {}),
    }
    for name, content in wanted.items():
        if name in there:
            print(f"secret {name} is there and stays")
            continue
        create(manifest(name, arguments.namespace, content))
        print(f"secret {name} made")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--namespace", default="eeg2fmri", help="where they go; made where it is missing")
    parser.add_argument("--own-storage", action="store_true", help="draw keys for the overlay kind's object storage")
    parser.add_argument(
        "--self-signed",
        nargs="+",
        metavar="HOST",
        default=[],
        help="also a certificate for these hosts that signs itself",
    )
    return parser.parse_args()


def new_secrets() -> dict[str, dict[str, str]]:
    """Draw what nobody but the services needs to know."""
    return {
        "ray-token": {"auth_token": secrets.token_hex(32)},
        "postgresql": {name: secrets.token_hex(24) for name in ("postgres", "studies", "mlflow")},
        "mlflow": {"password": secrets.token_hex(24), "session_key": secrets.token_hex(32)},
    }


def new_storage() -> dict[str, str]:
    """Draw keys for a bucket of one's own: what clients get and, in the same Secret, what the server is told."""
    key, secret = "eeg2fmri", secrets.token_hex(24)
    identity = {
        "name": key,
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": [f"{action}:{BUCKET}" for action in ("Read", "Write", "List", "Tagging")],
    }
    return dict(zip((*KEYS, SERVER_KEYS), (key, secret, json.dumps({"identities": [identity]})), strict=True))


def self_signed(hosts: list[str]) -> dict[str, str]:
    """Return a certificate that signs itself, and its key, as an Ingress wants them."""
    # Only here: without --self-signed any Python runs this script.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"tls.crt": certificate.public_bytes(serialization.Encoding.PEM).decode(), "tls.key": private.decode()}


def manifest(name: str, namespace: str, content: Mapping[str, str]) -> dict[str, object]:
    """Return a Secret as Kubernetes takes it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "eeg2fmri"}},
        "type": "kubernetes.io/tls" if "tls.key" in content else "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in content.items()},
    }


def names_there(namespace: str) -> set[str]:
    """Return the names of the Secrets of a namespace, which is made first where it is missing."""
    made = kubectl("create", "namespace", namespace, check=False)
    if made.returncode and "AlreadyExists" not in made.stderr:
        raise SystemExit(f"error: {made.stderr.strip()}")
    return set(
        kubectl(
            "get", "secrets", f"--namespace={namespace}", "--output=jsonpath={.items[*].metadata.name}"
        ).stdout.split()
    )


def create(secret: Mapping[str, object]) -> None:
    """Hand a Secret to the cluster, through a pipe."""
    kubectl("create", "--filename=-", stdin=json.dumps(secret))


def kubectl(*words: str, stdin: str | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run kubectl; where it fails, end with its own message."""
    done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"error: kubectl {words[0]}: {done.stderr.strip()}")
    return done


if __name__ == "__main__":
    raise SystemExit(main())
