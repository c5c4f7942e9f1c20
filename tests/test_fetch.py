"""Fetching the public files: resumed, checked, unpacked safely, from real servers on loopback, some of them faulty."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faulty_server import FaultyServer, always, every, first

from datasets import downloads, fetch, openneuro
from datasets.downloads import Downloads, Remote, annex_digest, ask, progress
from datasets.errors import BadInput
from datasets.oddball import find_recordings
from datasets.openneuro import check_room, list_bucket, read_record, subject_numbers, unpack
from datasets.retries import Patience

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "/openneuro.org"
PREFIX = "ds000116/"
LEGACY = "/openfmri/tarballs/"
QUICK = Patience(seconds=5, first_wait_s=0.01, longest_wait_s=0.05)
NONE = Patience(seconds=0)
TASK = "task-auditoryoddballwithbuttonresponsetotargetstimuli"


class PublicServer(ThreadingHTTPServer):
    """A server that speaks as much S3 as public buckets are asked for.

    Attributes:
        files: path to content.
        etags: path to an ETag that is not the content's MD5.
        requests: (method, path, Range) as they came.
        slow: from this byte of a large file on, only trickle.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.slow = threading.Event()
        self.ignores_ranges = False
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def etag(self, path: str) -> str:
        return self.etags.get(path) or hashlib.md5(self.files[path]).hexdigest()

    def gets(self, path: str = "") -> list[tuple[str, str, str]]:
        return [each for each in self.requests if each[0] == "GET" and path in each[1] and "list-type" not in each[1]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PublicServer

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range", "")))
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        if parts.path == BUCKET:
            return self._send(200, self._listing(dict(urllib.parse.parse_qsl(parts.query))))
        if path not in self.server.files:
            return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        content, etag = self.server.files[path], f'"{self.server.etag(path)}"'
        start, asked = 0, self.headers.get("Range")
        if asked and not self.server.ignores_ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._send(416, b"")
            return self._send(206, content[start:], etag, f"bytes {start}-{len(content) - 1}/{len(content)}")
        return self._send(200, content, etag)

    do_HEAD = do_GET

    def _listing(self, query: dict[str, str]) -> bytes:
        keys = sorted(path.removeprefix(f"{BUCKET}/") for path in self.server.files if path.startswith(f"{BUCKET}/"))
        keys = [key for key in keys if key.startswith(query["prefix"])]
        start = int(query.get("continuation-token", "0 ").split()[0])
        page, end = keys[start : start + 3], start + 3
        items = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.server.files[f'{BUCKET}/{key}'])}</Size>"
            f"<ETag>&quot;{self.server.etag(f'{BUCKET}/{key}')}&quot;</ETag></Contents>"
            for key in page
        )
        more = end < len(keys)
        token = f"<NextContinuationToken>{end} +/=</NextContinuationToken>" if more else ""
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        ).encode()

    def _send(self, status: int, body: bytes, etag: str = "", content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("ETag", etag), ("Content-Range", content_range)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.slow.is_set() and len(body) > 100_000:
            self.wfile.write(body[:100_000])
            while self.server.slow.is_set():
                time.sleep(0.02)
            body = body[100_000:]
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[PublicServer]:
    public = PublicServer()
    thread = threading.Thread(target=public.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield public
    finally:
        public.slow.clear()
        public.shutdown()
        public.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(downloads, "Patience", lambda: QUICK)
    for name in [name for name in os.environ if name.startswith("EEG2FMRI_")]:
        monkeypatch.delenv(name)


def bytes_of(number: int, size: int = 300_000) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (size // 32)


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def study(server) -> PublicServer:
    """Publish two subjects: BIDS files, archives with the EEG, and what belongs to no subject."""
    bids = {"dataset_description.json": b"{}", "a b+ü.txt": b"odd", "derivatives/empty": b""}
    for number in (1, 2):
        name = f"sub-{number:02d}"
        bids[f"{name}/anat/{name}_T1w.nii.gz"] = bytes_of(number)
        bids[f"{name}/func/{name}_{TASK}_run-01_bold.nii.gz"] = bytes_of(10 + number, 3_000_000)
        packed = {f"sub00{number}/EEG/task001_run001/EEG_rereferenced.mat": bytes_of(20 + number)}
        server.files[f"{LEGACY}ds116_sub00{number}.tgz"] = archive(packed)
    server.files |= {f"{BUCKET}/{PREFIX}{name}": content for name, content in bids.items()}
    server.files[f"{LEGACY}ds116_metadata.tgz"] = archive({"ds116_metadata/supplementary/slice_order.txt": b"1\n"})
    return server


def arguments_for(server: PublicServer, raw: Path, *more: str, endpoint: str = "") -> list[str]:
    base = f"http://{endpoint or server.endpoint}"
    places = ["--source", f"{base}{BUCKET}/{PREFIX}", "--legacy-source", base + LEGACY]
    return ["ds000116", str(raw), *places, "--subjects", "1", "sub-02", *more]


@pytest.fixture
def run(monkeypatch, study, tmp_path, capsys):
    """Return a function that runs the command in this process and returns what it printed."""

    def run_it(*more: str, endpoint: str = "") -> str:
        words = arguments_for(study, tmp_path / "raw", *more, endpoint=endpoint)
        monkeypatch.setattr(sys, "argv", ["fetch", *words])
        fetch.main()
        return capsys.readouterr().out

    return run_it


def content_of(raw: Path) -> dict[str, bytes]:
    files = (path for path in sorted(raw.rglob("*")) if path.is_file() and path.name != fetch.LOCK)
    return {path.relative_to(raw).as_posix(): path.read_bytes() for path in files}


# All goes well


def test_everything_is_fetched_unpacked_and_written_down(run, study, tmp_path):
    printed = run()
    raw = tmp_path / "raw"
    found = content_of(raw)
    record = json.loads(found.pop("fetched.json"))
    public = {
        path.removeprefix(f"{BUCKET}/{PREFIX}"): content for path, content in study.files.items() if BUCKET in path
    }
    packed = {f"ds116_sub00{number}/sub00{number}/EEG/task001_run001/EEG_rereferenced.mat": bytes_of(20 + number)
              for number in (1, 2)}  # fmt: skip
    assert found == {**public, **packed, "ds116_metadata/supplementary/slice_order.txt": b"1\n"}
    assert {each["name"]: each["sha256"] for each in record["files"]} == {
        name: hashlib.sha256(content).hexdigest() for name, content in public.items()
    }
    assert [each["name"] for each in record["archives"]] == [
        "ds116_metadata.tgz", "ds116_sub001.tgz", "ds116_sub002.tgz",
    ]  # fmt: skip
    assert "7 files and 3 archives are whole" in printed


def test_what_was_fetched_is_found_by_preparation(run, tmp_path):
    run()
    recordings = find_recordings(tmp_path / "raw")
    assert [each.name for each in recordings] == ["sub-01_task-auditory_run-1", "sub-02_task-auditory_run-1"]
    assert all(each.eeg is not None and each.t1 is not None for each in recordings)


def test_a_second_run_fetches_and_changes_nothing(run, study, tmp_path):
    run()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")}
    study.requests.clear()
    run()
    assert study.gets() == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*")} == before


def test_what_vanished_or_changed_is_fetched_again_and_nothing_else(run, study, tmp_path):
    run()
    raw = tmp_path / "raw"
    (raw / "dataset_description.json").unlink()
    (raw / "ds116_sub001/sub001/EEG/task001_run001/EEG_rereferenced.mat").unlink()
    (raw / "ds116_sub001/sub001").rename(raw / "elsewhere")
    (raw / "ds116_sub001/sub001").parent.rmdir()
    study.files[f"{BUCKET}/{PREFIX}a b+ü.txt"] = b"new"
    study.requests.clear()
    run()
    assert sorted(Path(urllib.parse.unquote(path)).name for _, path, _ in study.gets()) == [
        "a b+ü.txt", "dataset_description.json", "ds116_sub001.tgz",
    ]  # fmt: skip
    assert (raw / "a b+ü.txt").read_bytes() == b"new"


def test_files_that_somebody_else_put_there_are_checked_not_fetched(run, study, tmp_path):
    anatomy = tmp_path / "raw/sub-01/anat"
    anatomy.mkdir(parents=True)
    (anatomy / "sub-01_T1w.nii.gz").write_bytes(bytes_of(1))
    (tmp_path / "raw/dataset_description.json").write_bytes(b"[]")
    run()
    assert study.gets("T1w.nii.gz")[0][1].endswith("sub-02_T1w.nii.gz")
    assert (tmp_path / "raw/dataset_description.json").read_bytes() == b"{}"


@pytest.mark.parametrize(("parts", "files", "archives"), [("bids", 7, 0), ("eeg", 0, 3)])
def test_one_part_may_be_fetched_alone(run, parts, files, archives):
    assert f"{files} files and {archives} archives" in run("--parts", parts)


def test_a_subject_may_be_fetched_alone(run, tmp_path):
    run("--subjects", "sub-02")
    names = content_of(tmp_path / "raw")
    assert not any("sub-01" in name or "sub001" in name for name in names)
    assert any("sub-02" in name for name in names)


def test_archives_may_be_kept(run, study, tmp_path):
    run("--keep-archives")
    assert (tmp_path / "raw/ds116_sub001.tgz").is_file()
    study.requests.clear()
    run("--keep-archives")
    assert study.gets() == []


def test_a_dry_run_lists_sizes_and_writes_nothing(run, study, tmp_path):
    printed = run("--dry-run")
    assert f"{3_000_000:,}  sub-01/func/sub-01_{TASK}_run-01_bold.nii.gz" in printed
    assert f"{len(study.files[f'{LEGACY}ds116_sub001.tgz']):,}  ds116_sub001.tgz" in printed
    total = sum(map(len, study.files.values()))
    assert f"{total:,}  bytes in 10 files" in printed
    assert not (tmp_path / "raw").exists()
    assert study.gets() == []


def test_a_missing_optional_archive_is_no_fault(run, study):
    del study.files[f"{LEGACY}ds116_metadata.tgz"]
    assert "2 archives" in run()


# Faults


def test_scattered_faults_pass_unseen(run, study, tmp_path):
    with FaultyServer(study.endpoint, every(3, "500", "reset", "drop-answer", "503", "lost-answer")) as proxy:
        run(endpoint=proxy.endpoint)
        assert len(proxy.faults) > 5
    assert len(read_record(tmp_path / "raw").files) == 7
    run()


def test_a_body_that_breaks_off_is_continued_where_it_ended(study, tmp_path):
    remote = next(
        each for each in list_bucket(f"http://{study.endpoint}{BUCKET}/{PREFIX}") if "sub-01_task" in each.name
    )
    with FaultyServer(study.endpoint, first(2, "drop-answer", path="bold")) as proxy:
        through = Remote(**{**vars(remote), "url": remote.url.replace(study.endpoint, proxy.endpoint)})
        local = Downloads(tmp_path, 1, QUICK).fetch(through)
    assert (tmp_path / remote.name).read_bytes() == bytes_of(11, 3_000_000)
    assert local.sha256 == hashlib.sha256(bytes_of(11, 3_000_000)).hexdigest()
    starts = [asked for _, _, asked in study.gets("bold")]
    assert starts[0] == ""
    assert len(starts) == 3
    assert all(asked.startswith("bytes=") for asked in starts[1:])
    assert [each.name for each in (tmp_path / remote.name).parent.iterdir()] == [Path(remote.name).name]


def test_a_server_without_ranges_sends_it_all_again(study, tmp_path):
    study.ignores_ranges = True
    remote = next(
        each for each in list_bucket(f"http://{study.endpoint}{BUCKET}/{PREFIX}") if "sub-01_task" in each.name
    )
    part = downloads.part_of(tmp_path / remote.name)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    part.with_suffix(".etag").write_text(remote.etag)
    Downloads(tmp_path, 1, QUICK).fetch(remote)
    assert (tmp_path / remote.name).read_bytes() == bytes_of(11, 3_000_000)


@pytest.mark.parametrize("etag", ["another file's", None])
def test_a_part_of_another_version_is_not_continued(study, tmp_path, etag):
    remote = next(
        each for each in list_bucket(f"http://{study.endpoint}{BUCKET}/{PREFIX}") if "sub-01_task" in each.name
    )
    part = downloads.part_of(tmp_path / remote.name)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    if etag:
        part.with_suffix(".etag").write_text(etag)
    Downloads(tmp_path, 1, QUICK).fetch(remote)
    assert [asked for _, _, asked in study.gets("bold")] == [""]


def test_a_part_with_wrong_bytes_is_found_out_and_fetched_again(study, tmp_path):
    remote = next(
        each for each in list_bucket(f"http://{study.endpoint}{BUCKET}/{PREFIX}") if "sub-01_task" in each.name
    )
    part = downloads.part_of(tmp_path / remote.name)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    part.with_suffix(".etag").write_text(remote.etag)
    Downloads(tmp_path, 1, QUICK).fetch(remote)
    assert [asked for _, _, asked in study.gets("bold")] == ["bytes=1000-", ""]
    assert (tmp_path / remote.name).read_bytes() == bytes_of(11, 3_000_000)


def test_a_checksum_that_stays_wrong_is_one_line_and_the_rest_is_fetched(run, study, tmp_path):
    study.etags[f"{BUCKET}/{PREFIX}dataset_description.json"] = "0" * 32
    with pytest.raises(BadInput, match="1 of the files are not there yet.*its MD5 is .* the server says 0000"):
        run()
    names = content_of(tmp_path / "raw")
    assert "dataset_description.json" not in names
    assert not [name for name in names if name.endswith((".part", ".etag"))]
    assert len(read_record(tmp_path / "raw").files) == 6
    del study.etags[f"{BUCKET}/{PREFIX}dataset_description.json"]
    run()


def test_an_etag_that_is_no_md5_is_not_taken_for_one(run, study):
    study.etags[f"{BUCKET}/{PREFIX}dataset_description.json"] = "0" * 32 + "-2"
    run()


def test_a_link_of_git_annex_tells_the_checksum(run, study, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    path = raw / "dataset_description.json"
    path.symlink_to(f".git/annex/objects/1/2/k/MD5E-s2--{hashlib.md5(b'{}').hexdigest()}.json")
    run()
    assert path.read_bytes() == b"{}"
    path.unlink()
    path.symlink_to(f".git/annex/objects/1/2/k/SHA256E-s2--{'0' * 64}.json")
    with pytest.raises(BadInput, match="git-annex says 0000"):
        run()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("MD5E-s30575877--57bc58de74d8b714f179e68cd023d336.nii.gz", ("md5", 30575877)),
        (f"SHA256-s5--{'ab' * 32}", ("sha256", 5)),
        ("URL--http&c%%host", None),
        ("sub-01_T1w.nii.gz", None),
    ],
)
def test_keys_of_git_annex_are_understood(key, expected):
    found = annex_digest(key)
    assert (found and (found.kind, found.bytes)) == expected


def test_a_server_that_answers_no_more_is_one_line_and_not_asked_for_every_file(run, study, monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "Patience", lambda: Patience(seconds=0.3, first_wait_s=0.05, longest_wait_s=0.1))

    def plan(request):
        return None if request.method == "HEAD" or "list-type" in request.path else "503"

    with FaultyServer(study.endpoint, plan) as proxy, pytest.raises(BadInput, match="others were not tried") as refusal:
        run("--connections", "1", endpoint=proxy.endpoint)
    assert "run the same command again" in str(refusal.value)
    whole = {each for each in content_of(tmp_path / "raw") if not each.endswith((".part", ".etag"))}
    assert whole <= {"derivatives/empty", "fetched.json"}  # an empty file needs no request
    run()


def test_a_list_that_cannot_be_had_is_one_line(run, study):
    with FaultyServer(study.endpoint, always("403")) as proxy, pytest.raises(BadInput, match="check the address"):
        run(endpoint=proxy.endpoint)


def test_a_missing_archive_is_one_line(run, study):
    del study.files[f"{LEGACY}ds116_sub002.tgz"]
    with pytest.raises(BadInput, match=r"ds116_sub002.tgz: HTTP Error 404.*--legacy-source"):
        run()


@pytest.mark.parametrize("body", [b"<html>hello", b"<html></html>", b"\x00\xff"])
def test_what_is_no_list_is_one_line(server, body):
    server.files["/other"] = body
    with pytest.raises(BadInput, match="no list of files as S3 gives one.*check --source"):
        list_bucket(f"http://{server.endpoint}/other/prefix/")


@pytest.mark.parametrize("source", ["ftp://host/bucket/", "http://host", "bucket/prefix"])
def test_an_address_without_a_bucket_is_refused(source):
    with pytest.raises(BadInput, match="--source must be"):
        list_bucket(source)


@pytest.mark.parametrize("name", ["../evil", "sub-01/../../evil", "a\\b"])
def test_names_that_leave_the_folder_are_refused(server, name):
    server.files[f"{BUCKET}/{PREFIX}{name}"] = b"x"
    with pytest.raises(BadInput, match="outside the folder"):
        list_bucket(f"http://{server.endpoint}{BUCKET}/{PREFIX}")


def test_an_empty_place_is_one_line(server):
    with pytest.raises(BadInput, match="there are no files at"):
        list_bucket(f"http://{server.endpoint}{BUCKET}/{PREFIX}")


def test_a_server_that_nobody_started_is_one_line():
    with pytest.raises(BadInput, match="see that this machine reaches it"):
        ask("http://127.0.0.1:9/x", patience=NONE)


# Subjects, room, words


@pytest.mark.parametrize("given", [["1", "sub-2"], ["sub-01", "sub002"], ["2", "1", "sub-1"]])
def test_subjects_may_be_given_in_any_way(given):
    assert subject_numbers(openneuro.DATA_SETS["ds000116"], given) == [1, 2]


@pytest.mark.parametrize("given", [["sub-18"], ["0"], ["all"], ["sub-01", "x"]])
def test_unknown_subjects_are_refused(given):
    with pytest.raises(BadInput, match="--subjects must be sub-01 to sub-17, but got"):
        subject_numbers(openneuro.DATA_SETS["ds000116"], given)


def test_a_disk_without_room_is_refused_before_anything_comes(run, study, monkeypatch):
    monkeypatch.setattr(openneuro, "_free", lambda folder: 1_000_000)
    with pytest.raises(BadInput, match="needs 0.0 GB, but its disk has 0.0 GB free; free some space"):
        run()
    assert study.gets() == []


def test_room_that_is_enough_is_enough(tmp_path):
    check_room(tmp_path, 10, free=lambda folder: 10)


def test_progress_is_said_with_the_time_left():
    assert progress(500_000_000, 2_000_000_000, 50.0, 3) == "0.50 GB of 2.00 GB, 3 files to go, 10.0 MB/s, 2 min left"
    assert progress(0, 1_000, 1.0, 1).endswith("waiting for the server")
    assert progress(1_000_000, 10**12, 1.0, 1).endswith("277.8 h left")


# Archives


def unpacked(tmp_path: Path, content: bytes, name: str = "ds116_sub001.tgz") -> openneuro.Archive:
    (tmp_path / name).write_bytes(content)
    return unpack(tmp_path, downloads.Local(name=name, bytes=len(content), sha256="", etag=""))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-absolute", "a/../../evil"])
def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path, name):
    folder = tmp_path / "raw"
    folder.mkdir()
    if name.startswith("/"):
        assert list(unpacked(folder, archive({name: b"x"})).files) == ["tmp/evil-absolute"]  # taken as relative
        return
    with pytest.raises(BadInput, match="cannot unpack .*delete it and fetch it again"):
        unpacked(folder, archive({"fine": b"x", name: b"x"}))
    assert [each.name for each in folder.iterdir()] == ["ds116_sub001.tgz"]
    assert [each.name for each in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_an_archive_that_holds_a_link_or_a_pipe_is_refused(tmp_path, kind):
    folder, buffer = tmp_path / "raw", io.BytesIO()
    folder.mkdir()
    with tarfile.open(fileobj=buffer, mode="w:gz") as members:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        members.addfile(member)
    with pytest.raises(BadInput, match="cannot unpack .*'link' is neither a file nor a folder"):
        unpacked(folder, buffer.getvalue())
    assert [each.name for each in folder.iterdir()] == ["ds116_sub001.tgz"]


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", archive({"a": b"x" * 100_000})[:-50], damaged(archive({"a": os.urandom(300_000)}))],
    ids=["empty", "foreign", "short", "damaged"],
)
def test_a_broken_archive_is_one_line_and_leaves_nothing(tmp_path, content):
    with pytest.raises(BadInput, match="cannot unpack .*delete it and fetch it again"):
        unpacked(tmp_path, content)
    assert [each.name for each in tmp_path.iterdir()] == ["ds116_sub001.tgz"]


def test_a_folder_of_the_archives_own_name_is_not_doubled(tmp_path):
    found = unpacked(tmp_path, archive({"ds116_sub001/sub001/EEG/x.mat": b"x"}))
    assert found.files == {"sub001/EEG/x.mat": 1}
    assert (tmp_path / "ds116_sub001/sub001/EEG/x.mat").is_file()


def test_what_lies_where_an_archive_goes_is_kept(tmp_path):
    place = tmp_path / "ds116_sub001"
    place.mkdir()
    (place / "mine").write_bytes(b"x")
    with pytest.raises(BadInput, match="move it away"):
        unpacked(tmp_path, archive({"sub001/x": b"x"}))
    assert [each.name for each in place.iterdir()] == ["mine"]


# Interrupted


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_fetch_ended_in_the_middle_goes_on_where_it_was(run, study, tmp_path, ending):
    study.slow.set()
    words = arguments_for(study, tmp_path / "raw", "--parts", "bids", "--connections", "2")
    process = subprocess.Popen([sys.executable, "-m", "datasets.fetch", *words], cwd=ROOT, stderr=subprocess.PIPE)
    bold = tmp_path / f"raw/sub-01/func/.sub-01_{TASK}_run-01_bold.nii.gz.part"
    deadline = time.monotonic() + 60
    while not (bold.exists() and bold.stat().st_size >= 90_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
        if len(study.gets("T1w")) == 2:
            study.slow.clear()
            time.sleep(0.05)
            study.slow.set()
    process.send_signal(ending)
    if ending != signal.SIGKILL:
        time.sleep(0.2)
        study.slow.clear()
    _, printed = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if ending == signal.SIGKILL else 130), printed
    study.slow.clear()
    study.requests.clear()
    run("--parts", "bids")
    assert all(asked for _, path, asked in study.gets("sub-01_task"))
    assert (tmp_path / f"raw/sub-01/func/sub-01_{TASK}_run-01_bold.nii.gz").read_bytes() == bytes_of(11, 3_000_000)
    assert not [name for name in content_of(tmp_path / "raw") if name.endswith((".part", ".etag"))]


def test_what_a_killed_unpacking_left_is_removed(run, tmp_path):
    left = tmp_path / "raw" / f"{openneuro.UNPACKING}ds116_sub001-0123"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    run()
    assert not left.exists()


def test_two_fetches_into_one_folder_are_refused(run, tmp_path):
    (tmp_path / "raw").mkdir()
    with fetch.FileLock(tmp_path / "raw" / fetch.LOCK), pytest.raises(BadInput, match="another fetch is writing"):
        run()


def test_a_record_that_is_broken_is_one_line(run, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/fetched.json").write_text("{}")
    with pytest.raises(BadInput, match="not as fetch wrote it; delete it"):
        run()
