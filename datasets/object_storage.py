"""Object storage as pyarrow reaches it: from a URI to file systems, from an error to what a user can do about it.

Takes an ``s3://`` or ``gs://`` URI with its query options; gives the file systems and the path of the folder in them.
"""

import os
import re
import urllib.parse
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from datasets.errors import BadInput
from datasets.retries import first_line

SCHEMES = ("s3", "gs")
PART_BYTES = 10 * 1024**2
"""The size of the parts in which pyarrow sends a large file."""
ONE_PUT_BYTES = PART_BYTES // 2
"""Up to here a file is sent in one request."""
CONNECT_SECONDS, SILENT_SECONDS, ATTEMPTS = 3.0, 5.0, 3
"""pyarrow's own: how long a connection may take, and a server be silent, and how often each single request is tried."""
GOOGLE_SECONDS = 15
NAMES_OF_FLAGS = {"true": True, "1": True, "false": False, "0": False}
FLAGS = ("anonymous", "allow_bucket_creation", "allow_bucket_deletion", "check_directory_existence_before_creation")
TEXTS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
ONLY_BY_URI = ("tls_ca_dir_path", "tls_verify_certificates", "smart_defaults")
"""Options that pyarrow takes in a URI only; with one of them its own time limits hold."""

_PLACE = re.compile(r"(?:(?P<key>[^\s:@]+):(?P<secret>[^\s:@]+)@)?(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)")
_MAY_PASS = re.compile(
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|SLOW_DOWN|SERVICE_UNAVAILABLE|THROTTLING|REQUEST_TIMEOUT"
    r"|InvalidDigest|BadDigest|ChecksumMismatch"
    r"|HTTP status (?:408|429|500|502|503|504)\b"
    r"|google::cloud::Status\((?:UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|RESOURCE_EXHAUSTED)"
)
_WILL_NOT_PASS = re.compile(r"curlCode: (?:51|58|60|77)\b|wrong version number")
_ADVICE = (
    (re.compile(r"NO_SUCH_BUCKET"), "there is no such bucket: create it, or check the URI"),
    (
        re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|TOKEN|PERMISSION_DENIED|UNAUTHENT"),
        "check the URI and the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or KEY:SECRET@ before the "
        "bucket), and that they may read, write and list there",
    ),
    (re.compile(r"SKEWED|REQUEST_EXPIRED"), "set this machine's clock"),
    (_WILL_NOT_PASS, "check the URI's scheme (http or https) and the certificate (tls_ca_file_path)"),
)


@dataclass(frozen=True, kw_only=True)
class ObjectFolder:
    """A folder on object storage: its path, and the file systems that reach it.

    Attributes:
        filesystem: sends a file in one request when it is closed.
        multipart: for large files: begins the upload at once.  On the other one a beginning that fails would end in an
            empty file: pyarrow closes what was begun, and so writes what it has.
    """

    filesystem: fs.FileSystem
    multipart: fs.FileSystem
    root: str


class WrongContent(OSError):
    """What came back, or what is stored, is not what it should be."""


def open_object_folder(uri: str, shown: str) -> ObjectFolder:
    """Open an ``s3://`` or ``gs://`` URI; nothing is asked of the server, except for the region of a bucket at AWS.

    Args:
        uri: with pyarrow's query options, for S3 also ``anonymous=true``.  Keys that it does not hold come from the
            usual variables and files of AWS or Google, the endpoint from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
        shown: the URI without secrets, for messages.
    """
    try:
        return _s3(uri) if uri.startswith("s3://") else _google(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"cannot open {shown}: {first_line(error).replace(uri, shown)}") from error


def keys_in(uri: str) -> tuple[str, str] | None:
    """Return the key and the secret in an ``s3://`` URI, decoded; None where it holds none, or no valid ones."""
    place = _PLACE.fullmatch(urllib.parse.urlsplit(uri).netloc) if uri.startswith("s3://") else None
    if place is None or not place["key"]:
        return None
    return urllib.parse.unquote(place["key"]), urllib.parse.unquote(place["secret"])


def may_pass(error: Exception) -> bool:
    """Tell whether the same request may well succeed a little later."""
    if isinstance(error, WrongContent):
        return True
    text = str(error)
    return bool(_MAY_PASS.search(text)) and not _WILL_NOT_PASS.search(text)


def advice(error: Exception) -> str:
    """Return what a user should look at after this error."""
    if may_pass(error):
        return "see that the server runs, has room and can be reached, then run the same command again"
    found = (words for pattern, words in _ADVICE if pattern.search(str(error)))
    return next(found, "check the URI and the credentials")


def _s3(uri: str) -> ObjectFolder:
    if not hasattr(fs, "S3FileSystem"):
        raise BadInput("this pyarrow was built without S3; install pyarrow from PyPI or conda-forge")
    parts = urllib.parse.urlsplit(uri)
    place = _PLACE.fullmatch(parts.netloc)
    if place is None or parts.fragment:
        raise ValueError(
            "it must be s3://BUCKET/PATH or s3://KEY:SECRET@BUCKET/PATH, with special characters of the key and the "
            "secret percent-encoded (/ is %2F, + is %2B)"
        )
    root = f"{place['bucket']}{urllib.parse.unquote(parts.path)}".rstrip("/")
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    query.pop("allow_delayed_open", None)
    if set(ONLY_BY_URI) & set(query):
        return _s3_by_uri(uri, root)
    options = _s3_options(query, place["bucket"])
    if place["key"]:
        keys = {"access_key": place["key"], "secret_key": place["secret"]}
        options |= {name: urllib.parse.unquote(key) for name, key in keys.items()}
    one_put = fs.S3FileSystem(**options, allow_delayed_open=True)
    return ObjectFolder(filesystem=one_put, multipart=fs.S3FileSystem(**options), root=root)


def _s3_options(query: dict[str, str], bucket: str) -> dict[str, object]:
    unknown = sorted(set(query) - {*FLAGS, *TEXTS})
    if unknown:
        known = ", ".join(sorted({*FLAGS, *TEXTS, *ONLY_BY_URI}))
        raise ValueError(f"the options of an s3:// URI are {known}, but got {', '.join(unknown)}")
    options: dict[str, object] = {name: query[name] for name in TEXTS if query.get(name)}
    options |= {name: _flag(name, query[name]) for name in FLAGS if name in query}
    scheme, _, endpoint = _endpoint_from_environment().rpartition("://")
    if endpoint and "endpoint_override" not in options:
        options |= {"endpoint_override": endpoint, "scheme": options.get("scheme", scheme or "https")}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if "region" not in options and (region or "endpoint_override" not in options):
        options["region"] = region or fs.resolve_s3_region(bucket)
    return {
        **options,
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": SILENT_SECONDS,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    }


def _s3_by_uri(uri: str, root: str) -> ObjectFolder:
    bare = re.sub(r"[?&]allow_delayed_open=[^&]*", "", uri)
    joined = bare + ("&" if "?" in bare else "?")
    one_put, multipart = (fs.FileSystem.from_uri(f"{joined}allow_delayed_open={flag}")[0] for flag in ("true", "false"))
    return ObjectFolder(filesystem=one_put, multipart=multipart, root=root)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in NAMES_OF_FLAGS:
        raise ValueError(f"{name} must be true or false, but is {value!r}")
    return NAMES_OF_FLAGS[value.lower()]


def _endpoint_from_environment() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _google(uri: str) -> ObjectFolder:
    if not hasattr(fs, "GcsFileSystem"):
        raise BadInput("this pyarrow was built without Google Cloud Storage; use s3:// or install pyarrow from PyPI")
    limit = f"retry_limit_seconds={GOOGLE_SECONDS}"
    bounded = uri if "retry_limit_seconds=" in uri else uri + ("&" if "?" in uri else "?") + limit
    filesystem, root = fs.FileSystem.from_uri(bounded)
    return ObjectFolder(filesystem=filesystem, multipart=filesystem, root=root.rstrip("/"))
