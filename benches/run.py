#!/usr/bin/env python3
"""run.py [scan|view|crowd ...]: the measurements of docs/benchmarks.md, side by side in one run. Root.

Every figure is a median over rounds in which the things compared take turns, so that a machine that gets slower
gets slower for all of them. Images come from tests/images; the registry is Debian's, on loopback.

    ROUNDS=3 IMAGE=golang ONCEFS=target/release/oncefs
"""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ONCEFS = os.environ.get("ONCEFS", os.path.join(TOP, "target/release/oncefs"))
IMAGE = os.environ.get("IMAGE", "golang")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
IMAGES = os.path.join(TOP, "target/images")
CROWD = 20
MIB = 1 << 20


def say(*words):
    print(*words, flush=True)


def run(*command, **options):
    """(seconds of wall, seconds of processor for itself and in the kernel, peak resident bytes); the command must succeed. What
    others before it left to be written is on disk when it starts."""
    os.sync()
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=options.pop("stdout", out), stderr=out, **options)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            out.seek(0)
            sys.exit("%s: exit %d\n%s" % (" ".join(command), child.returncode, out.read()[-2000:].decode("utf-8", "replace")))
    return wall, (usage.ru_utime, usage.ru_stime), usage.ru_maxrss * 1024


def drop_caches():
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def fault_in_memory():
    """Touches as much memory as the page cache will want: the first touch of a virtual machine's page is its host's
    work, not ours, and would be charged to whoever runs first."""
    with tempfile.NamedTemporaryFile(dir=os.path.join(TOP, "target")) as f:
        block = os.urandom(MIB)
        for _ in range(4096):
            f.write(block)


def median(values):
    return statistics.median(values)


class Registry:
    """Debian's docker-registry on a free port, with the image pushed to it, and its access log as witness."""

    def __init__(self, work, images=(IMAGE,)):
        self.work = os.path.join(work, "registry")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        subprocess.run([os.path.join(TOP, "tests/images/registry.sh"), "start", self.work, str(self.port)], check=True,
                       stdout=subprocess.DEVNULL)
        for image in images:
            build = [sys.executable, os.path.join(TOP, "tests/images/build.py"), "--out", IMAGES, "--cache",
                     os.path.join(TOP, "target/images-cache"), "--push", "127.0.0.1:%d" % self.port, image]
            if os.path.exists(os.path.join(IMAGES, image, "index.json")):
                build.insert(2, "--push-only")
            subprocess.run(build, check=True, stderr=subprocess.DEVNULL)
        self.reference = self.named(IMAGE)

    def named(self, image):
        return "127.0.0.1:%d/images/%s:latest" % (self.port, image)

    def forget(self):
        open(os.path.join(self.work, "log"), "w").close()

    def asked(self):
        """(requests for blobs, their bytes, all requests) since `forget`."""
        requests = blobs = size = 0
        with open(os.path.join(self.work, "log"), errors="replace") as f:
            for line in f:
                m = re.search(r'"(GET|HEAD) (/v2/\S*) HTTP/[0-9.]+" (\d+) (\d+)', line)
                if m:
                    requests += 1
                    if m[1] == "GET" and "/blobs/" in m[2] and m[3] in ("200", "206"):
                        blobs, size = blobs + 1, size + int(m[4])
        return blobs, size, requests

    def processor(self):
        """Seconds of processor that it has spent so far (proc(5), fields 14 and 15 of `stat`)."""
        with open(os.path.join(self.work, "pid")) as f, open("/proc/%s/stat" % f.read().strip()) as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        subprocess.run([os.path.join(TOP, "tests/images/registry.sh"), "stop", self.work], check=True)


def layers():
    with open(os.path.join(IMAGES, IMAGE, "index.json")) as f:
        digest = json.load(f)["manifests"][0]["digest"]
    blob = lambda d: os.path.join(IMAGES, IMAGE, "blobs", *d.split(":"))
    with open(blob(digest)) as f:
        manifest = json.load(f)
    return [blob(l["digest"]) for l in manifest["layers"]], manifest


def floor():
    """Seconds of one core for inflate and the hashes, from benches/floor.rs."""
    paths, _ = layers()
    out = subprocess.run(["cargo", "bench", "-q", "--bench", "floor", "--"] + paths, cwd=TOP, check=True, capture_output=True, text=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def written(work, size):
    """Seconds of processor that the kernel needs to take a file of this size into its page cache and onto the disk."""
    path = os.path.join(work, "written")
    program = ("import os, sys; f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT); b = os.urandom(1 << 19)\n"
               "for at in range(0, int(sys.argv[2]), 1 << 19): os.pwrite(f, b, at)\n"
               "os.fsync(f)")
    _, (_, kernel), _ = run(sys.executable, "-c", program, path, str(size))
    os.unlink(path)
    return kernel


def once(store, *arguments):
    return [ONCEFS, "--root", os.path.join(store, "store"), "--run", os.path.join(store, "run"), *arguments]


def bench_scan(work, registry):
    paths, manifest = layers()
    subprocess.run(["cargo", "bench", "-q", "--no-run", "--bench", "floor"], cwd=TOP, check=True)
    floors, pulls, copies, unpacks, peaks, cpus, served, writes = [], [], [], [], [], [], [], []
    run(*once(os.path.join(work, "warm"), "pull", registry.reference))  # binaries and the registry's files into memory
    for _ in range(ROUNDS):
        for leftover in ("a", "layout", "bundle"):
            shutil.rmtree(os.path.join(work, leftover), ignore_errors=True)
        floors.append(floor())
        writes.append(written(work, floors[-1]["bytes_out"]))
        before = registry.processor()
        wall, cpu, peak = run(*once(os.path.join(work, "a"), "pull", "--in-process", registry.reference))
        served.append(registry.processor() - before)
        pulls.append(wall)
        cpus.append(cpu)
        peaks.append(peak)
        copies.append(run("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + registry.reference,
                          "oci:%s:latest" % os.path.join(work, "layout"))[0])
        unpacks.append(run("umoci", "unpack", "--image", os.path.join(work, "layout") + ":latest", os.path.join(work, "bundle"))[0])
    least = [(f["inflate"] + f["sha256_blob"] + f["sha256_tar"] + f["blake3_frames"]) for f in floors]
    peer = [c + u for c, u in zip(copies, unpacks)]
    out, blob = floors[0]["bytes_out"], floors[0]["bytes_in"]
    say("\n## Scan: %s, %d layers, %.0f MB compressed, %.0f MB uncompressed; registry on loopback; medians of %d" % (
        IMAGE, len(paths), blob / 1e6, out / 1e6, ROUNDS))
    say("| what | seconds | against oncefs |\n| --- | --- | --- |")
    mine = median(pulls)
    for what, seconds in (("oncefs pull (fetch, verify, inflate, index, durable)", mine),
                          ("skopeo copy", median(copies)), ("umoci unpack", median(unpacks)), ("skopeo copy + umoci unpack", median(peer)),
                          ("inflate alone, one core", median([f["inflate"] for f in floors])),
                          ("inflate and hashes, one core", median(least)), ("the same spread over two cores", median(least) / 2)):
        say("| %s | %.2f | %.2f |" % (what, seconds, seconds / mine))
    say("oncefs against the sum over two cores: %.2f (reach: at most 1.3); skopeo + umoci against oncefs: %.1f (reach: at least 3)" % (
        mine / (median(least) / 2), median(peer) / mine))
    own, kernel = (median([cpu[of] for cpu in cpus]) for of in (0, 1))
    say("processor seconds of oncefs: %.2f, %.2f of them in the kernel; of the registry meanwhile: %.2f; of the kernel to write and sync "
        "one file of %.0f MB: %.2f" % (own + kernel, kernel, median(served), out / 1e6, median(writes)))
    say("peak memory of the scan: %.0f MiB (reach: at most %d)" % (max(peaks) / MIB, 64 + 16 * min(4, len(paths))))


def calls(*arguments):
    """Microseconds of one call, from benches/calls.rs: no interpreter's cost around it."""
    out = subprocess.run(["cargo", "bench", "-q", "--bench", "calls", "--", *map(str, arguments)], cwd=TOP, check=True,
                         capture_output=True, text=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def bench_view(work, registry):
    place = os.path.join(work, "view")
    mount = os.path.join(work, "mnt")
    os.makedirs(mount, exist_ok=True)
    plain = os.path.join(work, "bundle", "rootfs")
    if not os.path.exists(plain):
        run("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + registry.reference, "oci:%s:latest" % os.path.join(work, "layout"))
        run("umoci", "unpack", "--image", os.path.join(work, "layout") + ":latest", os.path.join(work, "bundle"))
    run(*once(place, "pull", registry.reference))
    trees = {"unpacked (ext4)": plain, "oncefs": mount}
    figures = {}

    def keep(what, name, value):
        figures.setdefault(what, {}).setdefault(name, []).append(value)

    def remount():
        if os.path.ismount(mount):
            run(*once(place, "umount", mount))
        run(*once(place, "mount", "--wait", registry.reference, mount))

    subprocess.run(["cargo", "bench", "-q", "--no-run", "--bench", "calls"], cwd=TOP, check=True)
    devnull = open(os.devnull, "w")
    for turn in range(ROUNDS):
        for name, tree in trees.items():
            remount()
            drop_caches()
            keep("find, all caches dropped", name, run("find", tree, "-newermt", "2100-01-01", stdout=devnull)[0])
            keep("find, warm", name, run("find", tree, "-newermt", "2100-01-01", stdout=devnull)[0])
            remount()
            drop_caches()
            keep("tar c | cat, all caches dropped", name, run("sh", "-c", 'tar c -C "$0" . | cat >/dev/null', tree)[0])
            keep("tar c | cat, warm", name, run("sh", "-c", 'tar c -C "$0" . | cat >/dev/null', tree)[0])
            keep("stat, warm (us each)", name, calls("stat", tree)["stat"])
            keep("random 4 KiB read, warm (us each)", name, calls("read", tree, turn)["read"])
            remount()
            drop_caches()
            keep("random 4 KiB read, all caches dropped (us each)", name, calls("read", tree, turn, 2000)["read"])
        # FUSE cold, the store's files in memory: what a new mount of resident layers sees.
        remount()
        run("sh", "-c", 'cat "$0"/store/layers/sha256/*/* >/dev/null', place)
        remount()
        keep("stat, cold in FUSE, tree in memory (us each)", "oncefs", calls("stat", mount, plain)["stat"])
        remount()
        cold = calls("sequential", mount)
        keep("sequential read, cold in FUSE, data in memory (GB/s)", "oncefs", cold["sequential"])
        for name, tree in trees.items():
            calls("sequential", tree)
            keep("sequential read, warm (GB/s)", name, calls("sequential", tree)["sequential"])
    run(*once(place, "umount", mount))
    say("\n## View: %s against a directory unpacked by umoci on the same disk; medians of %d; seconds unless said" % (IMAGE, ROUNDS))
    say("| what | oncefs | unpacked (ext4) | oncefs / unpacked |\n| --- | --- | --- | --- |")
    for what, by in figures.items():
        mine = median(by["oncefs"])
        if "unpacked (ext4)" in by:
            peer = median(by["unpacked (ext4)"])
            say("| %s | %.3g | %.3g | %.2f |" % (what, mine, peer, mine / peer))
        else:
            say("| %s | %.3g | | |" % (what, mine))


def bench_crowd(work, registry):
    """`CROWD` mounts of one image at once, each read by a process of its own, against one mount and one reader."""
    _, manifest = layers()
    blob_bytes = sum(l["size"] for l in manifest["layers"]) + manifest["config"]["size"]
    walls = {1: [], CROWD: []}
    asked = {}
    once_read = 'cd "$0" && cat bin/sh etc/os-release usr/bin/go >/dev/null 2>&1 || cat etc/os-release >/dev/null'
    for turn in range(ROUNDS):
        for many in (1, CROWD):
            place = os.path.join(work, "crowd-%d-%d" % (many, turn))
            mounts = [os.path.join(place, "mnt%d" % i) for i in range(many)]
            for m in mounts:
                os.makedirs(m)
            registry.forget()
            os.sync()
            start = time.monotonic()
            children = [subprocess.Popen(["sh", "-c", '"$@" && ' + once_read.replace("$0", "$M"), "sh"] +
                                         once(place, "mount", registry.reference, m), env=dict(os.environ, M=m),
                                         stderr=subprocess.PIPE) for m in mounts]
            for child in children:
                _, error = child.communicate()
                if child.returncode:
                    sys.exit("crowd: %s" % error.decode("utf-8", "replace"))
            walls[many].append(time.monotonic() - start)
            time.sleep(0.2)  # the registry writes its log a moment later
            asked.setdefault(many, []).append(registry.asked())
            run(*once(place, "umount", "--all"))
            shutil.rmtree(place)
    say("\n## Crowd: %d mounts of %s at once, each read by a process of its own, against one; medians of %d" % (CROWD, IMAGE, ROUNDS))
    say("| mounts | seconds | requests | blob requests | blob bytes | of the image's |\n| --- | --- | --- | --- | --- | --- |")
    for many in (1, CROWD):
        blobs, size, requests = asked[many][-1]
        say("| %d | %.2f | %d | %d | %d | %.4f |" % (many, median(walls[many]), requests, blobs, size, size / blob_bytes))
    say("%d against one: %.3f (reach: at most 1.05)" % (CROWD, median([b / a for a, b in zip(walls[1], walls[CROWD])])))


def main():
    wanted = sys.argv[1:] or ["scan", "view", "crowd"]
    if os.geteuid() != 0:
        sys.exit("run.py: needs root (mounts, and dropping caches)")
    os.makedirs(os.path.join(TOP, "target/bench"), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.join(TOP, "target/bench")) as work:
        registry = Registry(work)
        try:
            fault_in_memory()
            for what in wanted:
                {"scan": bench_scan, "view": bench_view, "crowd": bench_crowd}[what](work, registry)
        finally:
            subprocess.run(once(os.path.join(work, "view"), "umount", "--all"), stderr=subprocess.DEVNULL)
            registry.stop()


if __name__ == "__main__":
    main()
