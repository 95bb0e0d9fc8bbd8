#!/usr/bin/env python3
"""load.py: a node with many containers of many images, read on and on, and what its server holds meanwhile. Root.

Each image is a shell and a layer of its own; the cache is bounded to less than all of them have, so frames come and go. Each container
is a real one, of containerd and runc. The curve is a table: memory, descriptors, threads and how long reads took, every ten seconds. Then 10,000
files of one image are opened at once, and a directory of 100,000 names is listed that nobody had looked into.

    LOAD_IMAGES=100 LOAD_CONTAINERS=10 LOAD_READERS=64 LOAD_SECONDS=600 ONCEFS=target/release/oncefs
"""
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tests/images")]
import ocilib  # noqa: E402
from containerd import LAZY, Node, client  # noqa: E402
from run import IMAGES, ONCEFS, TOP, Registry, say  # noqa: E402

COUNTS = {name: int(os.environ.get("LOAD_" + name.upper(), default)) for name, default in
          (("images", 100), ("containers", 10), ("readers", 64), ("seconds", 600))}
FILES, FILE_BYTES = 8, 256 << 10
# So much of what the images have is kept.
KEPT = 0.75
OPENED, LISTED = 10_000, 100_000


class Made:
    """Images for the load, pushed to a registry; what is in them lies in a folder, for readers to compare."""

    def __init__(self, registry, folder):
        self.registry, self.folder, self.layouts = registry, folder, os.path.join(folder, "layouts")
        self.shell = ocilib.Layout(os.path.join(IMAGES, "tiny"))
        names = [self.push("load-%d" % number, self.files(number)) for number in range(COUNTS["images"])]
        with open(os.path.join(folder, "images"), "w") as f:
            f.write("\n".join(names) + "\n")

    def files(self, number):
        dice, below = random.Random(number), os.path.join(self.folder, str(number))
        os.makedirs(below)
        for name in range(FILES):
            content = dice.randbytes(FILE_BYTES)
            with open(os.path.join(below, "file%d" % name), "wb") as f:
                f.write(content)
            yield "opt/file%d" % name, content

    def push(self, name, files):
        layout = ocilib.Layout(os.path.join(self.layouts, name))
        _, manifest, config = self.shell.manifest()
        below = dict(layout.adopt(self.shell, manifest["layers"][0]), _diff_id=config["rootfs"]["diff_ids"][0])
        blob = ocilib.BlobWriter(layout, level=1)
        with tarfile.open(fileobj=blob, mode="w|") as tar:
            for path, content in files:
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        layout.finish([below, blob.close()], config["config"])
        ocilib.Registry("127.0.0.1:%d" % self.registry.port).push(layout, "images/" + name)
        return self.registry.named(name)


def server_of(node):
    return node.children[0].pid


def processor(pid):
    """Seconds of processor that a process has spent (proc(5), fields 14 and 15 of `stat`)."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def curve(program, node, folder):
    tasks = os.path.join(node.at, "state/io.containerd.runtime.v2.task/k8s.io")
    child = subprocess.Popen([program, node.images, node.containerd, node.at + "/logs", node.cgroup, tasks, str(server_of(node)), node.at + "/run/control.sock", folder,
                              *(str(COUNTS[name]) for name in ("containers", "readers", "seconds"))], stdout=subprocess.PIPE, text=True)
    say("\n## Load: {images} images x {containers} containers, {readers} readers, {seconds} s".format(**COUNTS))
    say("| at (s) | resident (MiB) | of it its own (MiB) | descriptors | threads | reads a second | p50 (us) | p99 (us) | longest (ms) | containers made, run, removed | p50 (ms) | Prepare, mean (ms) |")
    say("| --- " * 12 + "|")
    lines = []
    for line in child.stdout:
        lines.append(json.loads(line))
        row(lines)
    if child.wait():
        sys.exit("load.py: the load ended with %d\n%s" % (child.returncode, node.log()))
    steady = [line for line in lines if line["when"] == "load"]
    # The allocator keeps what the busiest moments needed; so the curve rises ever slower, and its end is what tells of a leak.
    quarter = max(1, len(steady) // 4)
    for what in ("own_kib", "descriptors", "threads"):
        mean = lambda part: sum(line["server"][what] for line in part) / len(part)
        say("%s, mean of the last quarter against that of the third: %.3f" % (what, mean(steady[-quarter:]) / mean(steady[-2 * quarter:-quarter] or steady)))


def row(lines):
    line, held = lines[-1], lines[-1]["server"]
    cells = [line.get("at", line["when"]), "%.1f" % (held["resident_kib"] / 1024), "%.1f" % (held["own_kib"] / 1024), held["descriptors"], held["threads"]]
    if line["when"] == "load":
        reads, lives = line["reads"], line["lives"]
        took = line["at"] - (lines[-2].get("at") or 0)
        cells += [reads["count"] // max(1, took), reads["p50"], reads["p99"], "%.0f" % ((reads["max"] or 0) / 1e3), lives["count"], lives["p50"], "%.2f" % prepare(lines[-2], line)]
    say("| " + " | ".join(str(cell) for cell in cells + [""] * (12 - len(cells))) + " |")


def prepare(before, now):
    """Milliseconds that oncefs took for a Prepare between both lines."""
    calls = now["prepare"]["count"] - before["prepare"]["count"]
    return 1000 * (now["prepare"]["seconds"] - before["prepare"]["seconds"]) / calls if calls else 0


def mounted(node, reference, at):
    os.makedirs(at)
    subprocess.run([ONCEFS, "--root", node.at + "/store", "--run", node.at + "/run", "mount", "--wait", reference, at], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def opened(node, made):
    at = os.path.join(node.at, "opened")
    mounted(node, made.push("opened", (("many/%d" % name, b"%d" % name) for name in range(OPENED))), at)
    before, start = descriptors(server_of(node)), time.monotonic()
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPENED + 1000, OPENED + 1000))
    files = [open("%s/many/%d" % (at, name), "rb") for name in range(OPENED)]
    wrong = [name for name, file in enumerate(files) if file.read() != b"%d" % name]
    more = descriptors(server_of(node)) - before
    for file in files:
        file.close()
    say("%d files open at once, read in %.2f s: %d wrong, the server has %d more descriptors" % (OPENED, time.monotonic() - start, len(wrong), more))
    if wrong:
        sys.exit("load.py: wrong bytes in %s" % wrong[:10])


def listed(node, made):
    at = os.path.join(node.at, "listed")
    mounted(node, made.push("listed", (("many/a-file-of-some-length-%d" % name, b"") for name in range(LISTED))), at)
    before, start = processor(server_of(node)), time.monotonic()
    names = os.listdir(at + "/many")
    wall = time.monotonic() - start
    say("%d names listed for the first time in %.2f s, of it %.2f s of our processor (reach: below 2)" % (len(names), wall, processor(server_of(node)) - before))
    if len(set(names)) != LISTED:
        sys.exit("load.py: %d names" % len(set(names)))


def main():
    if os.geteuid() != 0:
        sys.exit("load.py: needs root (containers)")
    os.makedirs(os.path.join(TOP, "target/bench"), exist_ok=True)
    program = client("load")
    with tempfile.TemporaryDirectory(dir=os.path.join(TOP, "target/bench")) as work:
        registry = Registry(work, ["pause", "tiny"])
        try:
            made = Made(registry, os.path.join(work, "files"))
            node = Node(LAZY, registry.named("pause"), "[cache]\nmax_bytes = %d\n" % (KEPT * COUNTS["images"] * FILES * FILE_BYTES))
            try:
                curve(program, node, made.folder)
                opened(node, made)
                listed(node, made)
            finally:
                node.end()
        finally:
            registry.stop()


if __name__ == "__main__":
    main()
