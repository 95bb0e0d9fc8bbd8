#!/usr/bin/env python3
"""containerd.py [IMAGE...]: containerd's pull request 6702 measured on this machine, through CRI. Root.

One pull and twenty at once, and the time from the start of a pull to the first PONG or `go version`, each with
containerd's overlayfs, with oncefs (a pull is lazy), the same through its CRI proxy (`[cri] verify = false`: pulls that are alike
reach containerd once), and through the proxy as it is by default (a pull is verified and here). What is
compared takes turns in one run; every figure is a median; every turn begins with an empty containerd, an empty store and
dropped caches. The client is benches/cri.rs, the registry is Debian's, on loopback, and its log the witness.

    ROUNDS=3 ONCEFS=target/release/oncefs
"""
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from run import CROWD, IMAGES, ONCEFS, ROUNDS, TOP, Registry, drop_caches, fault_in_memory, median, say  # noqa: E402

PATIENCE = 60
OVERLAYFS, LAZY, PROXIED, VERIFIED = "overlayfs", "oncefs, lazy", "oncefs, lazy, through the proxy", "oncefs, verified"
FIRST = {"redis": ["redis-server", "--bind", "127.0.0.1", "--port"], "golang": ["go", "version"]}

CONFIG = """version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{at}/c.sock"
[ttrpc]
address = "{at}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{at}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
disable_tcp_service = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{at}/cni/bin"
conf_dir = "{at}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{at}/runc"
[proxy_plugins.oncefs]
type = "snapshot"
address = "{at}/run/snapshotter.sock"
"""


def until(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit("containerd.py: waited in vain until %s" % what)
        time.sleep(0.01)


def listens(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            return True
        except OSError:
            return False


def mounts_below(place):
    with open("/proc/self/mountinfo") as f:
        return [line.split(" ")[4] for line in f if line.split(" ")[4].startswith(place + "/")]


def removed(folder):
    """The kernel lets go of a cgroup a moment after its last process."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


class Node:
    """A containerd, and for oncefs its server, that begin with nothing; all of it is gone at the end."""

    def __init__(self, kind, pause, configuration=""):
        self.at = tempfile.mkdtemp(prefix="b-", dir=os.path.join(TOP, "target/bench"))
        self.kind, self.pause, self.configuration, self.children = kind, pause, configuration, []
        self.cgroup = "oncefs-bench-%d" % os.getpid()
        try:
            self.start()
        except BaseException:
            self.end()
            raise

    def start(self):
        snapshotter = "overlayfs" if self.kind == OVERLAYFS else "oncefs"
        with open(os.path.join(self.at, "containerd.toml"), "w") as f:
            f.write(CONFIG.format(at=self.at, pause=self.pause, snapshotter=snapshotter))
        self.containerd = os.path.join(self.at, "c.sock")
        self.images = os.path.join(self.at, "run/cri.sock") if self.kind in (PROXIED, VERIFIED) else self.containerd
        if self.kind != OVERLAYFS:
            with open(os.path.join(self.at, "oncefs.toml"), "w") as f:
                f.write('[cri]\nenabled = true\ncontainerd = "%s"\nverify = %s\n' % (self.containerd, str(self.kind == VERIFIED).lower()))
                f.write(self.configuration)
            self.spawn("oncefs.log", ONCEFS, "--root", self.at + "/store", "--run", self.at + "/run", "--config",
                       self.at + "/oncefs.toml", "serve")
            until("oncefs listens", lambda: listens(self.at + "/run/snapshotter.sock") and listens(self.at + "/run/cri.sock"))
        self.spawn("containerd.log", "containerd", "--config", self.at + "/containerd.toml")
        until("containerd listens", lambda: listens(self.containerd))
        crictl = lambda: "io.containerd.grpc.v1" in subprocess.run(
            ["ctr", "-a", self.containerd, "plugins", "ls"], capture_output=True, text=True).stdout
        until("containerd has loaded its plugins", crictl)

    def spawn(self, log, *command):
        with open(os.path.join(self.at, log), "w") as f:
            self.children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f))

    def end(self):
        for child in reversed(self.children):
            child.kill()
            child.wait()
        until("all processes are gone", lambda: not self.kill_rest())
        for place in reversed(mounts_below(self.at)):
            subprocess.run(["umount", "--lazy", place], stderr=subprocess.DEVNULL)
        for folder in sorted(glob.glob("/sys/fs/cgroup/**/%s/**/" % self.cgroup, recursive=True), reverse=True):
            until("the cgroup %s is gone" % folder, lambda: removed(folder))
        shutil.rmtree(self.at, ignore_errors=True)

    def kill_rest(self):
        """Shims name our directory; what they run is in our cgroups."""
        rest = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    named = (self.at + "/").encode() in f.read()
                with open("/proc/%s/cgroup" % pid) as f:
                    named = named or "/%s/" % self.cgroup in f.read()
            except OSError:
                continue
            if named and int(pid) != os.getpid():
                rest.append(int(pid))
        for pid in rest:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return rest

    def log(self):
        return "\n".join(open(os.path.join(self.at, name)).read()[-3000:] for name in ("oncefs.log", "containerd.log")
                         if os.path.exists(os.path.join(self.at, name)))


def client(name="cri"):
    """The client's program, built. It waits for others; how fast it is itself is of no account."""
    built = subprocess.run(["cargo", "build", "-q", "--bench", name, "--message-format", "json"], cwd=TOP, check=True,
                           capture_output=True, text=True).stdout
    found = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    return [f["executable"] for f in found if f.get("executable") and f["target"]["name"] == name][-1]


def measure(cri, kind, registry, *arguments):
    """What the client says of one turn on a new node, and what the registry was asked for in it."""
    node = Node(kind, registry.named("pause"))
    try:
        if arguments[0] == "first":
            image, port, command = arguments[1:]
            arguments = ["first", node.images, node.containerd, node.at + "/logs", node.cgroup, image, node.pause, str(port), *command]
            # The pods' own image is on the node before anybody measures.
            subprocess.run([cri, "pull", node.images, node.pause], check=True, capture_output=True)
        else:
            arguments = ["pull", node.images, *arguments[1:]]
        registry.forget()
        drop_caches()
        done = subprocess.run([cri, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit("containerd.py: %s: %s\n%s\n%s" % (kind, " ".join(arguments[:1]), done.stderr[-2000:], node.log()))
        asked = registry.asked()
        if kind in (LAZY, PROXIED):
            asked = settle(registry)
        told = json.loads(done.stdout.splitlines()[-1])
        if arguments[0] == "pull":
            # Once more, of what containerd has: nobody's snapshotter is asked for a layer.
            again = subprocess.run([cri, *arguments], capture_output=True, text=True, check=True)
            told["again"] = json.loads(again.stdout.splitlines()[-1])["seconds"]
        return told, asked
    finally:
        node.end()


def settle(registry):
    """Lazy pulls go on in the background: waits until the registry is asked for nothing more."""
    before = None
    while before != registry.asked():
        before = registry.asked()
        time.sleep(1)
    return before


def blob_bytes(image):
    with open(os.path.join(IMAGES, image, "index.json")) as f:
        digest = json.load(f)["manifests"][0]["digest"]
    with open(os.path.join(IMAGES, image, "blobs", *digest.split(":"))) as f:
        manifest = json.load(f)
    return sum(layer["size"] for layer in manifest["layers"])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def bench(cri, registry, image):
    kinds, counts = (OVERLAYFS, LAZY, PROXIED, VERIFIED), (1, CROWD)
    walls, asked, first, pulled, again = {}, {}, {}, {}, []
    reference = registry.named(image)
    for _ in range(ROUNDS):
        for kind in kinds:
            for many in counts:
                told, blobs = measure(cri, kind, registry, "pull", *[reference] * many)
                walls.setdefault((kind, many), []).append(told["seconds"])
                asked[kind, many] = blobs[1]
                if many == CROWD:
                    again.append(told["again"])
            port = free_port() if image == "redis" else 0
            told, _ = measure(cri, kind, registry, "first", reference, port, FIRST[image] + ([str(port)] if port else []))
            first.setdefault(kind, []).append(told["first"])
            pulled.setdefault(kind, []).append(told["pulled"])
    wall = {key: median(values) for key, values in walls.items()}
    size = blob_bytes(image)
    say("\n## containerd 1.6 through CRI: %s, %.0f MB compressed; registry on loopback; caches dropped; medians of %d" % (image, size / 1e6, ROUNDS))
    say("| snapshotter | 1 pull (s) | %d pulls (s) | %d against 1 | layer bytes sent for %d, of the image's | start of pull to %s (s) | of that, the pull |" % (
        CROWD, CROWD, CROWD, "first PONG" if image == "redis" else "`go version`"))
    say("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in kinds:
        ratio = median([b / a for a, b in zip(walls[kind, 1], walls[kind, CROWD])])
        say("| %s | %.3f | %.3f | %.2f | %.3f | %.3f | %.3f |" % (
            kind, wall[kind, 1], wall[kind, CROWD], ratio, asked[kind, CROWD] / size, median(first[kind]), median(pulled[kind])))
    many_to_one = median([b / a for a, b in zip(walls[VERIFIED, 1], walls[VERIFIED, CROWD])])
    say("%d verified pulls against one: %.2f (reach: at most 1.05)" % (CROWD, many_to_one))
    say("%d pulls of what containerd has already, with any snapshotter: %.3f s, the least that %d pulls can take" % (CROWD, median(again), CROWD))
    for kind in (PROXIED, LAZY):
        say("%d pulls, %s, against one of overlayfs: %.1f times faster%s" % (
            CROWD, kind, wall[OVERLAYFS, 1] / wall[kind, CROWD], " (reach: at least 20)" if kind == PROXIED else ""))
    say("a verified pull against one of overlayfs: %.1f times faster (reach: at least 3)" % (wall[OVERLAYFS, 1] / wall[VERIFIED, 1]))
    for kind in (LAZY, PROXIED, VERIFIED):
        say("pull to first output, %s, against overlayfs: %.1f times faster (reach: at least 3)" % (kind, median(first[OVERLAYFS]) / median(first[kind])))


def main():
    wanted = sys.argv[1:] or ["redis", "golang"]
    if os.geteuid() != 0:
        sys.exit("containerd.py: needs root (containers, and dropping caches)")
    os.makedirs(os.path.join(TOP, "target/bench"), exist_ok=True)
    cri = client()
    with tempfile.TemporaryDirectory(dir=os.path.join(TOP, "target/bench")) as work:
        registry = Registry(work, ["pause", *wanted])
        try:
            fault_in_memory()
            for image in wanted:
                bench(cri, registry, image)
        finally:
            registry.stop()


if __name__ == "__main__":
    main()
