"""Downloads, against a server on this machine that breaks off, lies about lengths and serves web pages."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import multiprocessing
import os
import re
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrcnn import weights
from mrcnn.weights import downloads


def h5_bytes(size=200_000, seed=0) -> bytes:
    """A weight file of about `size` bytes."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0"]
        group["conv1/kernel:0"] = np.random.default_rng(seed).normal(size=size // 4).astype("float32")
    return content.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every address. The attributes say how badly."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = h5_bytes()
        self.etag = '"v1"'
        self.ranges = True  # whether it supports range requests
        self.breaks_after = []  # bytes after which the next answers break off
        self.announced = None  # a Content-Length that is not true; False: none
        self.pause = None  # seconds between 100 bytes
        self.status = []  # of the next answers, instead of 200
        self.type = "application/octet-stream"
        self.requests = []  # the Range of each request
        self.url = f"http://127.0.0.1:{self.server_port}/mask_rcnn_coco.h5"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        if server.status:
            self.send_error(server.status.pop(0))
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(server.content):
                self.send_error(416)
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.type)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.announced is not False:
            self.send_header("Content-Length", str(server.announced or len(body)))
        self.end_headers()
        if server.pause:
            with contextlib.suppress(OSError):  # the other side goes away
                for i in range(0, len(body), 100):
                    self.wfile.write(body[i : i + 100])
                    time.sleep(server.pause)
            return
        self.wfile.write(body[: server.breaks_after.pop(0)] if server.breaks_after else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "mask_rcnn_coco.h5"


def beside(path):
    return sorted(os.listdir(path.parent))


# ---- As it should be ---------------------------------------------------------------------------------------------
def test_a_file_is_downloaded_once_with_its_checksum(server, path):
    assert weights.download(server.url, path, progress=False) == str(path)
    assert path.read_bytes() == server.content
    digest = hashlib.sha256(server.content).hexdigest()
    assert (path.parent / "mask_rcnn_coco.h5.sha256").read_text() == f"{digest}  mask_rcnn_coco.h5\n"
    assert beside(path) == ["mask_rcnn_coco.h5", "mask_rcnn_coco.h5.sha256"]
    weights.download(server.url, path, progress=False)
    assert server.requests == [None]  # the second call asked nobody
    assert list(weights.read_weights(path)) == ["conv1"]


def test_the_bar_shows_the_name_and_can_be_turned_off(server, path, capsys):
    weights.download(server.url, path)
    assert "mask_rcnn_coco.h5: 100%" in capsys.readouterr().err
    path.unlink()
    weights.download(server.url, path, progress=False)
    assert capsys.readouterr().err == ""


def test_pretrained_keeps_files_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.PRETRAINED, "coco", server.url)
    assert weights.pretrained("coco", tmp_path) == str(tmp_path / "mask_rcnn_coco.h5")
    monkeypatch.setenv("MRCNN_CACHE", str(tmp_path / "elsewhere"))
    assert weights.pretrained("coco") == str(tmp_path / "elsewhere" / "mask_rcnn_coco.h5")
    assert len(server.requests) == 2


def test_pretrained_uses_a_file_in_the_weights_folder(server, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.PRETRAINED, "coco", server.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mask_rcnn_coco.h5").write_bytes(server.content)
    assert weights.pretrained("coco") == os.path.join("weights", "mask_rcnn_coco.h5")
    assert server.requests == []


def test_pretrained_names_and_their_releases():
    assert list(weights.PRETRAINED) == ["coco", "balloon", "imagenet"]
    assert weights.PRETRAINED["coco"].endswith("/v2.0/mask_rcnn_coco.h5")
    assert weights.PRETRAINED["balloon"].endswith("/v2.1/mask_rcnn_balloon.h5")
    assert weights.PRETRAINED["imagenet"].endswith("notop.h5")
    with pytest.raises(ValueError, match="no pretrained weights 'cocoa'; expected one of coco, balloon, imagenet"):
        weights.pretrained("cocoa")


@pytest.mark.parametrize("name", ["shapes", "balloon-small"])
def test_shipped_weights_are_checked(monkeypatch, tmp_path, name):
    path = weights.pretrained(name)
    shipped = Path(__file__).parents[1] / "mrcnn" / "weights" / f"{name}.h5"
    assert path == weights.find_pretrained(name) == str(shipped)
    monkeypatch.setattr(downloads, "SHIPPED_FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="Install mrcnn again"):
        weights.pretrained(name)
    (tmp_path / f"{name}.h5").write_bytes(Path(path).read_bytes()[:-1])
    with pytest.raises(ValueError, match="can't be read as weights|another version, changed or damaged"):
        weights.pretrained(name)


def test_a_model_starts_from_a_pretrained_name(tmp_path):
    from mrcnn.model import MaskRCNN
    from samples.shapes import ShapesConfig

    model = MaskRCNN("inference", ShapesConfig(), str(tmp_path), weights="shapes")
    expected = weights.read_weights(weights.pretrained("shapes"))["mrcnn_class_logits"]
    for got, want in zip(model.get_layer("mrcnn_class_logits").get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_unknown_name_lists_the_known_ones(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="'cocos'.*one of coco, balloon, imagenet, shapes"):
        weights.find_pretrained("cocos")


def test_an_existing_file_takes_precedence_over_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").touch()
    assert weights.find_pretrained("coco") == "coco"
    assert weights.find_pretrained(tmp_path / "x.h5") == str(tmp_path / "x.h5")


# ---- Breaking off ------------------------------------------------------------------------------------------------
def test_an_interrupted_download_continues(server, path):
    server.breaks_after = [50_000, 30_000]
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content
    assert server.requests == [None, "bytes=50000-", "bytes=80000-"]


def test_the_next_run_continues_an_interrupted_download(server, path):
    server.breaks_after = [10_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError, match="broke off after 10,000 of 20.,... bytes, 5 times in a row. Run again"):
        weights.download(server.url, path, progress=False)
    assert not path.exists() and "mask_rcnn_coco.h5.part" in beside(path)
    weights.download(server.url, path, progress=False)
    assert server.requests[-1] == "bytes=10000-" and path.read_bytes() == server.content
    assert beside(path) == ["mask_rcnn_coco.h5", "mask_rcnn_coco.h5.sha256"]


def test_a_server_without_ranges_restarts_the_download(server, path):
    server.ranges, server.breaks_after = False, [50_000]
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content and server.requests == [None, "bytes=50000-"]


def test_parts_of_two_versions_are_not_joined(server, path):
    server.breaks_after = [50_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError):
        weights.download(server.url, path, progress=False)
    server.content, server.etag = h5_bytes(seed=1), '"v2"'
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_an_etag_a_download_restarts(server, path, etag):
    server.etag, server.breaks_after = etag, [50_000]
    weights.download(server.url, path, progress=False)
    assert server.requests == [None, None] and path.read_bytes() == server.content


def test_a_part_longer_than_the_file_is_discarded(server, path):
    path.parent.mkdir()
    (path.parent / "mask_rcnn_coco.h5.part").write_bytes(bytes(999_999))
    (path.parent / "mask_rcnn_coco.h5.etag.part").write_text('"v1"')
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content and server.requests == ["bytes=999999-", None]


def test_a_busy_server_is_retried_and_a_missing_file_is_not(server, path):
    server.status = [503, 429]
    weights.download(server.url, path, progress=False)
    assert len(server.requests) == 3
    path.unlink()
    server.status = [404]
    with pytest.raises(ConnectionError, match=r"404 Not Found\. Or fetch http://.* and put it at /.*coco\.h5"):
        weights.download(server.url, path, progress=False)
    assert len(server.requests) == 4


def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(server, path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError) as error:
        weights.download(server.url, path, progress=False)
    text = str(error.value)
    assert f"fetch {server.url} on another machine" in text and f"put it at {path}" in text
    assert "Check the network connection" in text
    path.write_bytes(server.content)  # as the message says
    assert weights.download(server.url, path, progress=False) == str(path)


# ---- Lies --------------------------------------------------------------------------------------------------------
def test_a_length_header_that_is_too_large_is_detected(server, path):
    server.announced = 10_000_000
    server.etag = None
    with pytest.raises(ConnectionError, match="broke off after 20.,... of 10,000,000 bytes"):
        weights.download(server.url, path, progress=False)
    assert not path.exists()


def test_a_length_larger_than_the_disk_is_refused_at_once(server, path, monkeypatch):
    server.announced = 10**18
    monkeypatch.setattr(downloads, "LARGEST", 10**19)
    with pytest.raises(OSError, match="needs 1,000,000,000,000,000,000 more bytes"):
        weights.download(server.url, path, progress=False)


def test_a_length_larger_than_any_weights_is_refused(server, path, monkeypatch):
    server.announced = 10**18
    with pytest.raises(ValueError, match="larger than 4,294,967,296 bytes"):
        weights.download(server.url, path, progress=False)
    server.announced = None
    monkeypatch.setattr(downloads, "LARGEST", len(server.content) - 1)  # a server that sends no length, and no end
    with pytest.raises(ValueError, match="Refused"):
        weights.download(server.url, path, progress=False)
    assert not path.exists()


@pytest.mark.parametrize("name", [".part", ".lock.part", ".etag.part"])
def test_symlinks_in_shared_folders_are_not_followed(server, path, tmp_path, name):
    """Somebody else's file behind a link of the name that a download writes to was overwritten."""
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    path.parent.mkdir(exist_ok=True)
    Path(f"{path}{name}").symlink_to(secret)
    weights.download(server.url, path, progress=False)
    assert secret.read_text() == "mine"
    assert path.read_bytes() == server.content and beside(path) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"garbage", b"<html>404</html>", b"123  mask_rcnn_coco.h5"])
def test_a_garbage_checksum_file_is_named(server, path, content):
    weights.download(server.url, path, progress=False)
    record = Path(f"{path}.sha256")
    record.write_bytes(content)
    if content:
        with pytest.raises(ValueError, match=r"mask_rcnn_coco\.h5\.sha256 holds .*64 digits"):
            weights.download(server.url, path, progress=False)
        record.unlink()
    weights.download(server.url, path, progress=False)
    assert len(record.read_text().split()[0]) == 64


def test_a_failed_download_removes_its_lock_and_version(server, path):
    server.status = [404]
    with pytest.raises(ConnectionError):
        weights.download(server.url, path, progress=False)
    assert beside(path) == []


def test_a_very_slow_server_counts_as_interrupted(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "LEAST_BYTES_PER_SECOND", 10**9)
    server.pause = 0.15
    with pytest.raises(ConnectionError, match=r"TimeoutError after .* bytes, 5 times in a row"):
        weights.download(server.url, path, progress=False)


def test_the_first_digits_of_a_checksum_are_compared(server, path):
    digest = hashlib.sha256(server.content).hexdigest()
    weights.download(server.url, path, digest[:8], progress=False)
    weights.download(server.url, path, "md5:" + hashlib.md5(server.content).hexdigest()[:6], progress=False)
    with pytest.raises(ValueError, match="the one asked for is 00000000"):
        weights.download(server.url, path, "00000000", progress=False)


def test_a_length_header_that_is_too_small_is_detected(server, path):
    server.announced = 5000
    with pytest.raises(ValueError, match="something other than the file.*stops after 5,000 of"):
        weights.download(server.url, path, progress=False)
    assert not path.exists() and "mask_rcnn_coco.h5.part" not in beside(path)
    server.announced = None
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content


def test_a_missing_length_is_accepted_for_complete_downloads(server, path):
    server.announced = False
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content
    path.unlink()
    server.breaks_after = [6000]
    with pytest.raises(ValueError, match="stops after 6,000 of"):
        weights.download(server.url, path, progress=False)


def test_a_web_page_is_not_taken_for_a_weight_file(server, path):
    server.breaks_after = [10_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError):
        weights.download(server.url, path, progress=False)
    whole, server.content, server.type = server.content, b"<!DOCTYPE html><title>Log in</title>", "text/html"
    server.etag = '"page"'
    with pytest.raises(ValueError, match="web page and not the file.*<!DOCTYPE html>"):
        weights.download(server.url, path, progress=False)
    server.type = "application/octet-stream"  # a page that pretends; it costs the part that had come before
    with pytest.raises(ValueError, match="something other than the file.*web page saved under this name"):
        weights.download(server.url, path, progress=False)
    assert not path.exists() and not (path.parent / "mask_rcnn_coco.h5.sha256").exists()
    server.content = whole
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == whole


def test_a_web_page_does_not_destroy_a_partial_download(server, path):
    server.breaks_after = [10_000, 0, 0, 0, 0]
    with pytest.raises(ConnectionError):
        weights.download(server.url, path, progress=False)
    server.type = "text/html"
    with pytest.raises(ValueError, match="web page"):
        weights.download(server.url, path, progress=False)
    assert (path.parent / "mask_rcnn_coco.h5.part").stat().st_size == 10_000


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/a.h5", "mask_rcnn_coco.h5"])
def test_only_http_is_fetched(path, url):
    with pytest.raises(ValueError, match="expected an address that begins with http"):
        weights.download(url, path)


# ---- Checksums ---------------------------------------------------------------------------------------------------
def test_a_given_checksum_must_be_met(server, path):
    with pytest.raises(ValueError, match=r"has the checksum .*, and the one asked for is 0000"):
        weights.download(server.url, path, sha256="0" * 64, progress=False)
    assert not path.exists()
    digest = hashlib.sha256(server.content).hexdigest()
    weights.download(server.url, path, sha256=digest.upper(), progress=False)
    assert path.exists()


def test_the_pinned_md5_of_imagenet_must_be_met(server, tmp_path, monkeypatch):
    monkeypatch.setitem(weights.PRETRAINED, "imagenet", server.url)
    with pytest.raises(ValueError, match=r"the one asked for is md5:a268eb85"):
        weights.pretrained("imagenet", tmp_path)
    assert not list(tmp_path.glob("*.h5"))
    digest = hashlib.md5(server.content).hexdigest()
    monkeypatch.setitem(downloads.PINNED, "imagenet", f"md5:{digest}")
    assert os.path.isfile(weights.pretrained("imagenet", tmp_path))


def test_a_file_that_changed_since_its_first_use_is_refused(server, path):
    weights.download(server.url, path, progress=False)
    path.write_bytes(h5_bytes(seed=5))
    with pytest.raises(ValueError, match=r"recorded on first use.*Delete it to download it again.*sha256 as well"):
        weights.download(server.url, path, progress=False)
    path.unlink()
    server.content = h5_bytes(seed=6)  # and so is another file under the old address
    with pytest.raises(ValueError, match="recorded on first use"):
        weights.download(server.url, path, progress=False)
    (path.parent / "mask_rcnn_coco.h5.sha256").unlink()
    weights.download(server.url, path, progress=False)
    assert path.read_bytes() == server.content


def test_a_file_added_by_hand_is_checked_before_its_checksum_is_recorded(server, path):
    path.parent.mkdir()
    path.write_bytes(b"<html>Not found</html>")
    with pytest.raises(ValueError, match="web page"):
        weights.download(server.url, path, progress=False)
    assert beside(path) == ["mask_rcnn_coco.h5"]
    path.write_bytes(server.content)
    weights.download(server.url, path, progress=False)
    assert beside(path) == ["mask_rcnn_coco.h5", "mask_rcnn_coco.h5.sha256"] and server.requests == []


# ---- Several at once ---------------------------------------------------------------------------------------------
def test_concurrent_threads_download_a_file_once(server, path):
    threads = [threading.Thread(target=weights.download, args=(server.url, path, None, False)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == server.content and server.requests == [None]
    assert beside(path) == ["mask_rcnn_coco.h5", "mask_rcnn_coco.h5.sha256"]


def test_concurrent_processes_download_a_file_once(server, path):
    server.content = h5_bytes(20_000_000)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=weights.download, args=(server.url, path, None, False)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() == server.content and server.requests == [None]
