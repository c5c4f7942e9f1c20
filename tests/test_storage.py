"""Storage: files appear whole or not at all, on a disk and on object storage alike."""

import os
import pickle
import stat
from pathlib import Path

import pytest

from datasets import object_storage
from datasets import storage as storage_module
from datasets.errors import BadInput
from datasets.retries import Patience
from datasets.storage import Storage, StorageUnusable, home_folder, open_storage, without_secrets, write_whole


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "shards")
    return open_storage(request.getfixturevalue("object_store").uri(f"test/{tmp_path.name}"))


def test_what_was_written_is_read(storage):
    storage.write("sub-01/run-1.parquet", b"bytes")
    assert storage.read("sub-01/run-1.parquet") == b"bytes"
    assert storage.exists("sub-01/run-1.parquet")
    assert storage.size("sub-01/run-1.parquet") == 5


@pytest.mark.parametrize("content", [b"", memoryview(b"view"), bytes(range(256)) * 50_000])
def test_empty_small_and_large_contents_survive(storage, content):
    storage.write("file", content)
    assert storage.read("file") == bytes(content)


def test_a_second_write_replaces_the_first(storage):
    storage.write("file", b"a longer first content")
    storage.write("file", b"second")
    assert storage.read("file") == b"second"
    assert storage.names() == ["file"]


def test_names_are_sorted_and_relative_to_the_storage(storage):
    for name in ("b", "a/2", "a/1", "a/c/0"):
        storage.write(name, b"x")
    assert storage.names() == ["a/1", "a/2", "a/c/0", "b"]
    assert storage.names("a") == ["a/1", "a/2", "a/c/0"]


def test_an_empty_storage_has_no_names(storage):
    assert storage.names() == []
    assert storage.names("nowhere") == []


def test_a_missing_file_is_missing(storage):
    assert not storage.exists("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    with pytest.raises(FileNotFoundError, match="no file nothing"):
        storage.size("nothing")


def test_a_folder_is_no_file(storage):
    storage.write("folder/file", b"x")
    assert not storage.exists("folder")


def test_what_is_no_bytes_leaves_nothing(storage):
    with pytest.raises(TypeError):
        storage.write("file", "text")
    assert storage.names() == []


def test_a_storage_travels_to_other_processes(storage):
    storage.write("file", b"x")
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"x"


def test_names_with_odd_characters_survive(storage):
    storage.write("a b/ü+%41 @.json", b"x")
    assert storage.names() == ["a b/ü+%41 @.json"]
    assert storage.read("a b/ü+%41 @.json") == b"x"


# A disk


def test_only_local_storage_is_local(tmp_path, object_store):
    assert open_storage(tmp_path).is_local
    assert open_storage(f"file://{tmp_path}").is_local
    assert not open_storage(object_store.uri()).is_local


def test_a_file_uri_may_quote_its_path(tmp_path):
    assert open_storage(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_storage("shards").uri == str(tmp_path / "shards")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_storage("~/shards").uri == str(tmp_path / "shards")


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_write_that_fails_half_way_changes_nothing(tmp_path, monkeypatch, earlier):
    path = tmp_path / "file"
    if earlier is not None:
        path.write_bytes(earlier)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage_module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new content")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == ([("file", earlier)] if earlier else [])


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage_module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_storage(tmp_path).write("file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_write_left_is_no_file_of_the_storage(tmp_path):
    (tmp_path / ".file.0123abcd").write_bytes(b"half")
    assert open_storage(tmp_path).names() == []


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    earlier = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"x")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_is_no_storage(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BadInput, match="is a file; give a folder"):
        open_storage(tmp_path / "file")


@pytest.mark.parametrize("uri", ["http://host/path", "S3://bucket", "hdfs://host/path"])
def test_an_unknown_scheme_is_refused(uri):
    with pytest.raises(BadInput, match=r"local folder or start with s3://, gs:// or file://, but got"):
        open_storage(uri)


def test_home_is_absolute_wherever_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EEG2FMRI_HOME", "relative")
    assert home_folder() == tmp_path / "relative"
    monkeypatch.setenv("EEG2FMRI_HOME", "")
    assert home_folder().is_absolute()
    assert home_folder().name == "eeg2fmri"


# What a URI may say


class FakeS3:
    """Keeps what it was made with."""

    def __init__(self, **options):
        self.options = options


@pytest.fixture
def fake_s3(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(object_storage.fs, "S3FileSystem", FakeS3)


def options_of(uri: str) -> dict[str, object]:
    return open_storage(uri).filesystem.options


def test_keys_and_path_may_be_percent_encoded(fake_s3):
    storage = open_storage("s3://k%2Fy:s%2Bt@bucket/a%20b/?region=here")
    assert storage.root == "bucket/a b"
    assert storage.filesystem.options["access_key"] == "k/y"
    assert storage.filesystem.options["secret_key"] == "s+t"
    assert storage.filesystem.options["region"] == "here"


def test_every_option_of_a_uri_arrives(fake_s3):
    options = options_of(
        "s3://bucket?scheme=http&endpoint_override=host%3A9000&anonymous=true&allow_bucket_creation=0"
        "&tls_ca_file_path=/ca.pem&allow_delayed_open=true"
    )
    expected = {
        "scheme": "http",
        "endpoint_override": "host:9000",
        "anonymous": True,
        "allow_bucket_creation": False,
        "tls_ca_file_path": "/ca.pem",
        "allow_delayed_open": True,
    }
    assert {key: options[key] for key in expected} == expected
    assert "region" not in options


def test_a_large_file_is_begun_at_once(fake_s3):
    assert "allow_delayed_open" not in open_storage("s3://bucket?region=here").multipart.options


def test_time_limits_are_set(fake_s3):
    options = options_of("s3://bucket?region=here")
    assert 0 < options["connect_timeout"] < 10
    assert 0 < options["request_timeout"] < 10


def test_the_endpoint_may_come_from_the_environment(fake_s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:9000")
    assert options_of("s3://bucket")["endpoint_override"] == "host:9000"
    assert options_of("s3://bucket")["scheme"] == "http"
    assert options_of("s3://bucket?endpoint_override=other")["endpoint_override"] == "other"


def test_the_region_may_come_from_the_environment_else_the_bucket_tells_it(fake_s3, monkeypatch):
    monkeypatch.setattr(object_storage.fs, "resolve_s3_region", lambda bucket: f"that of {bucket}")
    assert options_of("s3://bucket")["region"] == "that of bucket"
    monkeypatch.setenv("AWS_REGION", "mine")
    assert options_of("s3://bucket")["region"] == "mine"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket?endpoint=x", "options of an s3:// URI are .*endpoint_override.*but got endpoint"),
        ("s3://bucket?anonymous=maybe", "anonymous must be true or false, but is 'maybe'"),
        ("s3://bucket?region", "cannot open s3://bucket"),
        ("s3://", "s3://BUCKET/PATH"),
        ("s3:///path", "s3://BUCKET/PATH"),
        ("s3://buc ket/path", "s3://BUCKET/PATH"),
        ("s3://bucket/path#part", "s3://BUCKET/PATH"),
        ("gs://bucket/path?endpoint=x", "cannot open gs://bucket/path"),
    ],
)
def test_a_uri_that_says_what_nobody_understands_is_refused(uri, message):
    with pytest.raises(BadInput, match=message):
        open_storage(uri)


def test_keys_may_come_from_the_environment_and_anonymous_does_without(object_store, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", object_store.secret_key)
    bare = "s3://" + object_store.uri(f"test/{tmp_path.name}").partition("@")[2]
    open_storage(bare).write("file", b"x")
    with pytest.raises(BadInput, match="check the URI and the credentials"):
        open_storage(f"{bare}&anonymous=true").read("file")


def test_options_that_pyarrow_takes_in_a_uri_only_are_taken(object_store, tmp_path):
    storage = open_storage(object_store.uri(f"test/{tmp_path.name}") + "&tls_verify_certificates=true")
    storage.write("file", b"x" * 6_000_000)
    assert storage.read("file") == b"x" * 6_000_000


def test_google_storage_that_nobody_answers_for_is_one_line(monkeypatch):
    monkeypatch.setattr(object_storage, "GOOGLE_SECONDS", 1)
    uri = "gs://anonymous@bucket/path?scheme=http&endpoint_override=127.0.0.1%3A9"
    storage = open_storage(uri, Patience(seconds=0))
    with pytest.raises(StorageUnusable, match="see that the server runs") as refusal:
        storage.read("file")
    assert len(str(refusal.value).splitlines()) == 1
    assert storage.uri.startswith("gs://bucket/path")


@pytest.mark.parametrize(("uri", "name"), [("gs://bucket", "GcsFileSystem"), ("s3://bucket", "S3FileSystem")])
def test_a_pyarrow_without_the_store_is_named(monkeypatch, uri, name):
    monkeypatch.delattr(object_storage.fs, name)
    with pytest.raises(BadInput, match="this pyarrow was built without"):
        open_storage(uri)


# Secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://KEY:SECRET@bucket/path?region=x", "s3://bucket/path?region=x"),
        ("s3://KEY:SEC/RET@bucket/path", "s3://bucket/path"),
        ("s3://KEY:SEC?RE#T@bucket/path", "s3://bucket/path"),
        ("s3://KEY:SECRET@bucket/a@b", "s3://bucket/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("/local/a@b", "/local/a@b"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri, shown):
    assert without_secrets(uri) == shown


def test_a_storage_shows_no_secret(object_store):
    storage = open_storage(object_store.uri("path"))
    assert object_store.secret_key not in storage.uri
    assert object_store.secret_key not in repr(storage)


@pytest.mark.parametrize("uri", ["s3://me:hus/h77@bucket/path", "s3://me:hus h77@bucket", "s3://me:hush77@b/?x=1"])
def test_a_uri_that_cannot_be_opened_is_refused_without_its_secret(uri):
    with pytest.raises(BadInput) as refusal:
        open_storage(uri)
    assert "hus" not in str(refusal.value)
    assert "h77" not in str(refusal.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda storage: storage.read("file"),
        lambda storage: storage.write("file", b"x"),
        lambda storage: storage.exists("file"),
        lambda storage: storage.size("file"),
        lambda storage: storage.names(),
    ],
    ids=["read", "write", "exists", "size", "names"],
)
@pytest.mark.parametrize("wrong", [{"secret_key": "wrongsecret"}, {"access_key": "nobody"}], ids=["secret", "key"])
def test_wrong_keys_are_bad_input_and_stay_secret(object_store, use, wrong):
    storage = open_storage(object_store.uri("path", **wrong))
    with pytest.raises(BadInput, match="check the URI and the credentials") as refusal:
        use(storage)
    assert "wrongsecret" not in str(refusal.value)
    assert object_store.secret_key not in str(refusal.value)


def test_a_missing_bucket_is_bad_input(object_store):
    uri = object_store.uri("path").replace(f"@{object_store.bucket}/", "@elsewhere/")
    with pytest.raises(BadInput, match=r"cannot write to s3://elsewhere/path"):
        open_storage(uri).write("file", b"x")


def test_the_bucket_itself_is_a_storage(object_store):
    storage = open_storage(object_store.uri())
    storage.write("at-the-top", b"x")
    assert "at-the-top" in storage.names()
    assert Path(storage.path("at-the-top")).name == "at-the-top"
